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
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
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
