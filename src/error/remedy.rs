//! What can be done about an error, in no program's words.

use crate::Tier;

/// Something that the user could do about an error, in no program's words: a command shows its flags, a page its fields.
///
/// An error carries them in a field of its variant or beside any other ([`Error::advise`](crate::Error::advise)); [`Error::remedies`](crate::Error::remedies) gives both. [`Display`] names
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

    pub(super) fn words(self) -> &'static str {
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
