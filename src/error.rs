//! The one error type. A message reads *where: what was expected, what came*, on one line. Programs act on its [`code`](Error::code); what the
//! user could do is told apart from the message, as [`Remedy`]s, since only who takes the request knows what its options are called.

use std::borrow::Cow;
use std::path::Path;

use crate::Tier;

mod remedy;

pub use remedy::{Place, Remedy};

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
    #[error("{message}")]
    #[non_exhaustive]
    Model {
        /// Which file or folder, where that is known; the message names it too.
        file: Option<String>,
        /// Which tensor, under the name that it is asked for, where it is about one.
        tensor: Option<String>,
        /// Where, what was expected, and what came.
        message: String,
    },
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

impl Error {
    /// A field of the request with a value that it cannot have: `expected 1 to 1000, got 0`.
    pub fn request(field: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Error::Request { field: Some(field.into()), message: message.into() }
    }

    /// A request that cannot be carried out, for no field of its own.
    pub fn refused(message: impl Into<String>) -> Self {
        Error::Request { field: None, message: message.into() }
    }

    /// A model's file that is not what it should be.
    pub fn model(message: impl Into<String>) -> Self {
        Error::Model { file: None, tensor: None, message: message.into() }
    }

    /// The same error of a model, with its file or folder for programs.
    #[must_use]
    pub(crate) fn in_file(mut self, label: impl std::fmt::Display) -> Self {
        if let Error::Model { file, .. } = &mut self {
            *file = Some(label.to_string());
        }
        self
    }

    /// The same error of a model, with its tensor for programs.
    #[must_use]
    pub(crate) fn of_tensor(mut self, name: impl Into<String>) -> Self {
        if let Error::Model { tensor, .. } = &mut self {
            *tensor = Some(name.into());
        }
        self
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

    /// The file or folder that is at fault, where that is known.
    pub fn file(&self) -> Option<&str> {
        match self.cause() {
            Error::Model { file, .. } => file.as_deref(),
            Error::Io { path, .. } | Error::Misplaced { path, .. } => Some(path),
            _ => None,
        }
    }

    /// The tensor that is at fault, where it is one.
    pub fn tensor(&self) -> Option<&str> {
        match self.cause() {
            Error::Model { tensor, .. } => tensor.as_deref(),
            _ => None,
        }
    }

    /// What kind of error it is.
    pub fn code(&self) -> ErrorCode {
        match self {
            Error::Request { .. } => ErrorCode::Request,
            Error::Model { .. } | Error::NotFound { .. } | Error::Misplaced { .. } => ErrorCode::Model,
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
