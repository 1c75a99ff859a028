//! The one error type. A message reads *where: what was expected, what came, what to do*, on one line.

use std::path::Path;

use crate::Tier;

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, sorted by who can do something about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A request that cannot be carried out as asked: an option out of range, an impossible pair.
    #[error("{0}")]
    Request(String),
    /// A model file or folder that is missing, damaged, foreign or not supported.
    #[error("{0}")]
    Model(String),
    /// A file or folder that is sound, but not what it was given as.
    #[error("{path}: expected {expected}, got {found}{}", .belongs.map_or("", Place::words))]
    Misplaced {
        /// The file or folder.
        path: String,
        /// What would have been right there.
        expected: &'static str,
        /// What it is.
        found: String,
        /// Where it would be right.
        belongs: Option<Place>,
    },
    /// Reading or writing a file failed.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder concerned.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A graphics device that is unknown, lost, out of memory, too small or that refused a command.
    #[error("{0}")]
    Device(String),
    /// A kernel that does not compile on the device.
    #[error("{message}")]
    Kernel {
        /// What of the device the kernel uses. Where it is not [`Tier::Single`], the device may work without it.
        tier: Tier,
        /// Device, kernel, and what the compiler said.
        message: String,
    },
    /// An operation was recorded with shapes or types that it cannot take: a fault in the calling code.
    #[error("{op}: {message}")]
    Shape {
        /// The operation that refused.
        op: &'static str,
        /// Expected and actual shapes.
        message: String,
    },
    /// A stage produced a value that is not finite.
    #[error("{stage}: produced {count} values that are not finite{hint}")]
    NonFinite {
        /// Which stage of the pipeline.
        stage: String,
        /// How many values were NaN or infinite.
        count: usize,
        /// What to do about it, starting with "; ", or empty.
        hint: String,
    },
    /// A fault of this program: something in it panicked. What it was doing is given up; what was there before is as it was.
    #[error("{place}: a fault of this program: {}", one_line(message))]
    #[non_exhaustive]
    Internal {
        /// What was being done.
        place: String,
        /// What it said.
        message: String,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// Where a file has its place in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// The model.
    Model,
    /// The UNet in place of the model's.
    Unet,
    /// The autoencoder in place of the model's.
    Vae,
    /// The text encoder in place of the model's.
    TextEncoder,
    /// A LoRA or its relative, applied to a model.
    Adapter,
    /// A ControlNet beside a model.
    Control,
    /// A textual inversion embedding beside a model.
    Embedding,
    /// An OMS module beside a model.
    Oms,
}

impl Place {
    /// What has its place there.
    pub fn expected(self) -> &'static str {
        match self {
            Place::Model => "a model",
            Place::Unet => "a UNet",
            Place::Vae => "an autoencoder",
            Place::TextEncoder => "a text encoder",
            Place::Adapter => "a LoRA",
            Place::Control => "a ControlNet",
            Place::Embedding => "an embedding",
            Place::Oms => "an OMS module",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Place::Model => "; load it as the model",
            Place::Unet => "; load it as the UNet of a model",
            Place::Vae => "; load it as the autoencoder of a model",
            Place::TextEncoder => "; load it as the text encoder of a model",
            Place::Adapter => "; load it beside a model, as a LoRA",
            Place::Control => "; load it beside a model, as a ControlNet",
            Place::Embedding => "; load it beside a model, as an embedding",
            Place::Oms => "; load it beside a model, as its OMS module",
        }
    }
}

impl Error {
    /// An I/O failure at `path`.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io { path: path.as_ref().display().to_string(), source }
    }

    /// A shape fault in `op`.
    pub fn shape(op: &'static str, message: impl Into<String>) -> Self {
        Error::Shape { op, message: message.into() }
    }
}

/// Messages have one line, also where what they quote has several.
fn one_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}
