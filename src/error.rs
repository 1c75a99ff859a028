//! The one error type. A message reads *where: what was expected, what came*, on one line. Programs act on its [`code`](Error::code); what the
//! user could do is told apart from the message, as [`Remedy`]s, since only who takes the request knows what its options are called.

use std::borrow::Cow;
use std::path::Path;

use crate::Tier;

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, sorted by who can do something about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A request that cannot be carried out as asked: a field out of range, an impossible pair.
    #[error("{}{message}", before(field.as_deref()))]
    #[non_exhaustive]
    Request {
        /// Which field of the request, where it is one.
        field: Option<Cow<'static, str>>,
        /// What was expected, and what came.
        message: String,
    },
    /// A model file or folder that is missing, damaged, foreign or not supported.
    #[error("{0}")]
    Model(String),
    /// A name of a model, a part or a net that leads nowhere.
    #[error("{name}: no such file or folder{searched}{near}")]
    #[non_exhaustive]
    NotFound {
        /// The name, or the path.
        name: String,
        /// Where it was looked for, beginning with ", nor in ", or empty.
        searched: String,
        /// Names like it, beginning with "; near names: ", or empty.
        near: String,
    },
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
    /// A graphics device that did not open, refused a command or gave no result: whatever has no variant of its own.
    #[error("{0}")]
    Device(String),
    /// Memory, of a device or of the host, that is not there.
    #[error("{device}: {what}: out of device memory{}", mebibytes(*wanted, *available))]
    #[non_exhaustive]
    OutOfMemory {
        /// Whose memory it is.
        device: String,
        /// What it was for.
        what: String,
        /// Bytes that were asked for, where that is known.
        wanted: Option<u64>,
        /// Bytes that there are, where that is known.
        available: Option<u64>,
        /// What to do about it.
        remedies: Vec<Remedy>,
    },
    /// A device that is gone, or failed so that nothing more can be asked of it. All that was on it is lost; opened again, it may work.
    #[error("{device}: {message}")]
    #[non_exhaustive]
    DeviceLost {
        /// Which.
        device: String,
        /// What its driver said.
        message: String,
    },
    /// Something that a device has not, or not as large.
    #[error("{device}: {what}{}", limit(*wanted, *available))]
    #[non_exhaustive]
    Unsupported {
        /// Which device.
        device: String,
        /// What was expected of it.
        what: String,
        /// Bytes of what is larger than it allows.
        wanted: Option<u64>,
        /// Bytes that it allows.
        available: Option<u64>,
        /// What to do about it.
        remedies: Vec<Remedy>,
    },
    /// A kernel that does not compile on the device.
    #[error("{message}")]
    #[non_exhaustive]
    Kernel {
        /// What of the device the kernel uses. Where it is not [`Tier::Single`], the device may work without it.
        tier: Tier,
        /// Which kernel.
        kernel: String,
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
    #[error("{stage}: produced {count} values that are not finite{detail}")]
    #[non_exhaustive]
    NonFinite {
        /// Which stage of the pipeline.
        stage: String,
        /// How many values were NaN or infinite.
        count: usize,
        /// In which type, and what that says, starting with " in ", or empty.
        detail: String,
        /// What to do about it.
        remedies: Vec<Remedy>,
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
    /// One of the others, with what to do about it ([`Error::advise`]).
    #[error("{error}")]
    #[non_exhaustive]
    Advised {
        /// What went wrong.
        error: Box<Error>,
        /// What to do about it, best first.
        remedies: Vec<Remedy>,
    },
}

/// What kind of error it is, for programs: what they do next depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The request cannot be carried out as asked: ask for something else.
    Request,
    /// A model's file is not what it should be.
    Model,
    /// A file could not be read or written.
    Io,
    /// Memory is not there: ask for less, or when others have ended.
    OutOfMemory,
    /// The device refused something.
    Device,
    /// The device is gone: open it again.
    DeviceLost,
    /// A kernel does not compile on the device: leave its tier out, or take another device.
    Kernel,
    /// The device has not, or not so large, what the request needs.
    Unsupported,
    /// Somebody asked to stop.
    Cancelled,
    /// A network overflowed.
    NonFinite,
    /// A fault of this program, or of the code that calls it.
    Internal,
}

/// Something that the user could do about an error, in no program's words: a command shows its flags, a page its fields.
///
/// An error carries them in a field of its variant or beside any other ([`Error::advise`]); [`Error::remedies`] gives both. [`Display`] names
/// them as in `choose a smaller size`.
///
/// [`Display`]: std::fmt::Display
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Remedy {
    /// Smaller or fewer pictures at a time.
    SmallerSize,
    /// Activations in f16.
    HalfPrecision,
    /// Activations in f32.
    SinglePrecision,
    /// Activations in what the device is best with, and in f32 where that overflows.
    AutomaticPrecision,
    /// Decode and encode pictures in bands.
    Bands,
    /// Decode and encode pictures whole.
    Whole,
    /// Another device.
    OtherDevice,
    /// The processor, which computes everything.
    Processor,
    /// The device, without what it gets wrong.
    WithoutTier(Tier),
    /// A GPU in place of the processor.
    Gpu,
    /// One of the devices that are listed.
    Devices,
    /// A larger limit of memory.
    LargerLimit,
    /// No limit of memory.
    NoLimit,
    /// Weights that stay on the device.
    NoStreaming,
    /// The request without One More Step.
    WithoutOms,
    /// What has this place, from a file or folder of its own.
    Name(Place),
    /// Files of a repository of Hugging Face's hub.
    Fetch {
        /// Owner and name.
        repository: String,
        /// Folders in it that are enough; empty where all of it is wanted.
        parts: Vec<&'static str>,
    },
    /// One of the samplers that are listed.
    Samplers,
    /// Another name for a file.
    OtherName,
    /// That a file is replaced.
    Overwrite,
    /// A folder for what is kept of devices.
    CacheFolder,
    /// What was found of the device, found again.
    Examine,
    /// The device's tiles, measured again.
    Tune,
}

impl std::fmt::Display for Remedy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Remedy::SmallerSize => f.write_str("a smaller size or batch"),
            Remedy::HalfPrecision => f.write_str("half precision"),
            Remedy::SinglePrecision => f.write_str("single precision"),
            Remedy::Bands => f.write_str("bands"),
            Remedy::Whole => f.write_str("no bands"),
            Remedy::OtherDevice => f.write_str("another device"),
            Remedy::Processor => f.write_str("the processor"),
            Remedy::WithoutTier(tier) => write!(f, "the device without {tier}"),
            Remedy::AutomaticPrecision => f.write_str("automatic precision"),
            Remedy::Gpu => f.write_str("a GPU"),
            Remedy::Devices => f.write_str("one of the devices that are listed"),
            Remedy::LargerLimit => f.write_str("a larger limit of memory"),
            Remedy::NoLimit => f.write_str("no limit of memory"),
            Remedy::NoStreaming => f.write_str("weights that stay on the device"),
            Remedy::WithoutOms => f.write_str("no One More Step"),
            Remedy::Name(place) => write!(f, "{} of another file or folder", place.expected()),
            Remedy::Fetch { repository, parts } if parts.is_empty() => write!(f, "a download of {repository}"),
            Remedy::Fetch { repository, parts } => {
                write!(f, "a download of {} of {repository}", parts.join(" and "))
            }
            Remedy::Samplers => f.write_str("one of the samplers that are listed"),
            Remedy::OtherName => f.write_str("another name"),
            Remedy::Overwrite => f.write_str("that it is replaced"),
            Remedy::CacheFolder => f.write_str("a folder for what is kept of devices"),
            Remedy::Examine => f.write_str("another examination of the device"),
            Remedy::Tune => f.write_str("another measurement of its tiles"),
        }
    }
}

/// Where a file has its place in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// The text encoder that an OMS module was trained with, where its own files have none.
    OmsTextEncoder,
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
            Place::OmsTextEncoder => "an OMS module's text encoder",
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
            Place::OmsTextEncoder => "; load it as the text encoder of an OMS module",
        }
    }
}

impl Error {
    /// A field of the request with a value that it cannot have: `expected 1 to 1000, got 0`.
    pub fn request(field: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Error::Request { field: Some(field.into()), message: message.into() }
    }

    /// A request that cannot be carried out, for no field of its own.
    pub fn refused(message: impl Into<String>) -> Self {
        Error::Request { field: None, message: message.into() }
    }

    /// An I/O failure at `path`.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io { path: path.as_ref().display().to_string(), source }
    }

    /// A shape fault in `op`.
    pub fn shape(op: &'static str, message: impl Into<String>) -> Self {
        Error::Shape { op, message: message.into() }
    }

    /// Memory of `device` that is not there for `what`: bytes that were asked for, and bytes that there are.
    pub fn out_of_memory(
        device: impl Into<String>,
        what: impl Into<String>,
        wanted: Option<u64>,
        available: Option<u64>,
    ) -> Self {
        let remedies = vec![Remedy::SmallerSize, Remedy::HalfPrecision, Remedy::Processor];
        Error::OutOfMemory { device: device.into(), what: what.into(), wanted, available, remedies }
    }

    /// Something that `device` has not.
    pub fn unsupported(device: impl Into<String>, what: impl Into<String>) -> Self {
        let (device, what) = (device.into(), what.into());
        Error::Unsupported { device, what, wanted: None, available: None, remedies: Vec::new() }
    }

    /// Something of so many bytes that `device` allows only as many `available` for.
    pub fn too_large(device: impl Into<String>, what: impl Into<String>, wanted: u64, available: u64) -> Self {
        let (device, what) = (device.into(), what.into());
        let remedies = vec![Remedy::SmallerSize, Remedy::HalfPrecision, Remedy::Processor];
        Error::Unsupported { device, what, wanted: Some(wanted), available: Some(available), remedies }
    }

    /// A device that is gone.
    pub fn device_lost(device: impl Into<String>, message: impl Into<String>) -> Self {
        Error::DeviceLost { device: device.into(), message: message.into() }
    }

    /// The same error with more that can be done about it.
    #[must_use]
    pub fn advise(mut self, more: impl IntoIterator<Item = Remedy>) -> Self {
        match &mut self {
            Error::OutOfMemory { remedies, .. }
            | Error::Unsupported { remedies, .. }
            | Error::NonFinite { remedies, .. }
            | Error::Advised { remedies, .. } => {
                remedies.extend(more);
                self
            }
            _ => Error::Advised { error: Box::new(self), remedies: more.into_iter().collect() },
        }
    }

    /// What can be done about it, best first; empty where nothing is known.
    pub fn remedies(&self) -> Vec<Remedy> {
        match self {
            Error::OutOfMemory { remedies, .. }
            | Error::Unsupported { remedies, .. }
            | Error::NonFinite { remedies, .. } => remedies.clone(),
            Error::Kernel { tier: Tier::Single, .. } => vec![Remedy::OtherDevice, Remedy::Processor],
            Error::Kernel { tier, .. } => vec![Remedy::WithoutTier(*tier), Remedy::OtherDevice, Remedy::Processor],
            Error::Advised { error, remedies } => error.remedies().into_iter().chain(remedies.clone()).collect(),
            _ => Vec::new(),
        }
    }

    /// The error itself, without what [`advise`](Self::advise) put around it.
    pub fn cause(&self) -> &Error {
        match self {
            Error::Advised { error, .. } => error.cause(),
            error => error,
        }
    }

    /// The field of the request that is at fault, as messages name it; `None` where it is none, or not one alone.
    pub fn field(&self) -> Option<&str> {
        match self.cause() {
            Error::Request { field, .. } => field.as_deref(),
            _ => None,
        }
    }

    /// What kind of error it is.
    pub fn code(&self) -> ErrorCode {
        match self {
            Error::Request { .. } => ErrorCode::Request,
            Error::Model(_) | Error::NotFound { .. } | Error::Misplaced { .. } => ErrorCode::Model,
            Error::Io { .. } => ErrorCode::Io,
            Error::OutOfMemory { .. } => ErrorCode::OutOfMemory,
            Error::Device(_) => ErrorCode::Device,
            Error::DeviceLost { .. } => ErrorCode::DeviceLost,
            Error::Kernel { .. } => ErrorCode::Kernel,
            Error::Unsupported { .. } => ErrorCode::Unsupported,
            Error::Cancelled => ErrorCode::Cancelled,
            Error::NonFinite { .. } => ErrorCode::NonFinite,
            Error::Shape { .. } | Error::Internal { .. } => ErrorCode::Internal,
            Error::Advised { error, .. } => error.code(),
        }
    }

    /// Whether less at a time, as bands are, could have been carried out: memory that is not there, or a tensor that is too large for the device.
    pub fn is_too_large(&self) -> bool {
        matches!(self.cause(), Error::OutOfMemory { .. } | Error::Unsupported { wanted: Some(_), .. })
    }
}

/// `steps: `
fn before(field: Option<&str>) -> String {
    field.map_or(String::new(), |field| format!("{field}: "))
}

/// `, 12 MiB wanted, 8 MiB there`
fn mebibytes(wanted: Option<u64>, available: Option<u64>) -> String {
    let part = |bytes: Option<u64>, what: &str| bytes.map_or(String::new(), |b| format!(", {} MiB {what}", up(b)));
    part(wanted, "wanted") + &part(available, "there")
}

/// ` needs 12 MiB in one binding, the device allows 8 MiB`
fn limit(wanted: Option<u64>, available: Option<u64>) -> String {
    let (Some(wanted), Some(available)) = (wanted, available) else { return String::new() };
    format!(" needs {} MiB in one binding, the device allows {} MiB", up(wanted), available >> 20)
}

fn up(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// Messages have one line, also where what they quote has several.
fn one_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_changes_neither_message_nor_code() {
        let error = || Error::request("size", "expected less");
        let advised = error().advise([Remedy::SmallerSize]).advise([Remedy::Processor]);
        assert_eq!((advised.to_string(), advised.code()), (error().to_string(), ErrorCode::Request));
        assert_eq!(advised.remedies(), [Remedy::SmallerSize, Remedy::Processor]);
        assert!(matches!(advised.cause(), Error::Request { .. }) && error().remedies().is_empty());
        let memory = Error::out_of_memory("gpu", "weights", Some(3 << 20), None).advise([Remedy::Bands]);
        assert!(memory.is_too_large() && memory.remedies().ends_with(&[Remedy::Bands]));
        assert_eq!(memory.to_string(), "gpu: weights: out of device memory, 3 MiB wanted");
    }

    #[test]
    fn a_limit_is_told_in_whole_mebibytes() {
        let error = Error::too_large("gpu", "input x", (5 << 20) + 1, 4 << 20);
        assert_eq!(error.to_string(), "gpu: input x needs 6 MiB in one binding, the device allows 4 MiB");
        assert!(error.is_too_large() && !Error::unsupported("gpu", "no timestamps").is_too_large());
    }
}
