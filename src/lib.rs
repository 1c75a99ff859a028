//! Chiaro: Stable Diffusion with One More Step on Vulkan, Metal and DX12, and on the processor.
//!
//! ```no_run
//! use chiaro::{Device, Event, OmsSource, Pipeline, Precision, Request, Source};
//!
//! # fn main() -> chiaro::Result<()> {
//! let oms = OmsSource::demo();
//! let device = Device::choose("auto", Precision::Auto)?;
//! let pipeline = Pipeline::load(&Source::DemoModel, Some(&oms), device)?;
//! let request = Request { prompt: "a solid black image".into(), oms: Some(oms.request()), ..Request::default() };
//! for event in pipeline.generate(request)? {
//!     if let Event::Picture(picture) = event? {
//!         // Near 0; without `oms` it is grey.
//!         println!("mean {}", picture.image.mean());
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Other models: [`Source::at`] a folder or a file, [`OmsSource::folder`], and [`Places::find`](lookup::Places::find) for names.
//! [`Generation`] is an iterator of steps: draw a progress bar from it, or drop it to cancel. `docs/LIBRARY.md` in the repository goes on
//! from here.
//!
//! # Features
//!
//! | feature | what it brings |
//! | --- | --- |
//! | `demo` (default) | the demo model inside the program, 15 MB |
//! | `study` (default) | `study`: many pictures looked at together, charts |
//! | `unstable` | the modules below the pipeline, and the pipeline's own; any release may change them |
//!
//! # Layers
//!
//! Imports point down only; `tests/record/layers.rs` fails on any other edge.
//!
//! | layer | what it does |
//! | --- | --- |
//! | `crates/cli` | the command: parse, print, exit code |
//! | `study` | many pictures: statistics, charts, a report |
//! | `doctor` | what a driver gets right |
//! | [`order`] | what options mean: a job → what to load, and the request |
//! | `pipeline` | request → pictures; loading; memory |
//! | `models`, `sampling`, `text`, `image` | siblings: none imports another |
//! | `nn`, `weights` | layers under checkpoint names; named tensors from files |
//! | `ops` | one file per kernel family: shape rule, variant choice, host twin |
//! | `gpu` | the only folder that names wgpu |
//! | `record` | recordings, memory plan, chains of bands, host executor |
//! | `error` | one error type; [`Tier`]: what kernels use of a device; `files`: opening what others made |
//!
//! # How a network runs
//!
//! A model's `record` appends plain `Dispatch`es to a `Recording`. `record::plan` places its tensors by lifetime, so peak memory is
//! known before anything runs. A `Backend` compiles the recording once into a `Program`, which is replayed at every step with new
//! inputs. The wgpu backend and the host backend run the same recordings, so every kernel has a twin to be compared with.

#![cfg_attr(
    not(feature = "unstable"),
    allow(
        dead_code,
        unreachable_pub,
        unused_imports,
        rustdoc::private_intra_doc_links,
        reason = "the build with the runtime in sight tells what is of no use, and there the links lead somewhere"
    )
)]

#[macro_use]
mod named;

/// The programs in these pages compile.
#[cfg(all(doctest, feature = "demo"))]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/LIBRARY.md")]
    struct Library;
}

#[cfg(feature = "unstable")]
pub mod doctor;
pub mod engine;
mod error;
#[cfg(not(feature = "unstable"))]
mod files;
#[cfg(feature = "unstable")]
#[doc(hidden)]
pub mod files;
#[cfg(not(feature = "unstable"))]
mod gpu;
#[cfg(feature = "unstable")]
pub mod gpu;
pub mod image;
#[cfg(not(feature = "unstable"))]
mod models;
#[cfg(feature = "unstable")]
pub mod models;
#[cfg(not(feature = "unstable"))]
mod nn;
#[cfg(feature = "unstable")]
pub mod nn;
#[cfg(not(feature = "unstable"))]
mod ops;
#[cfg(feature = "unstable")]
pub mod ops;
pub mod order;
#[cfg(not(feature = "unstable"))]
mod pipeline;
#[cfg(feature = "unstable")]
#[doc(hidden)]
pub mod pipeline;
#[cfg(not(feature = "unstable"))]
mod record;
#[cfg(feature = "unstable")]
pub mod record;
#[cfg(not(feature = "unstable"))]
mod sampling;
#[cfg(feature = "unstable")]
pub mod sampling;
#[cfg(feature = "study")]
pub mod study;
#[cfg(not(feature = "unstable"))]
mod text;
#[cfg(feature = "unstable")]
pub mod text;
mod tier;
#[cfg(not(feature = "unstable"))]
mod weights;
#[cfg(feature = "unstable")]
pub mod weights;

pub use error::{Error, ErrorCode, Place, Remedy, Result};
pub use pipeline::{
    Device, Event, Generation, OmsRequest, OmsSource, Overrides, Picture, Pipeline, Precision, Request, Source,
};
pub use tier::Tier;
#[cfg(feature = "unstable")]
#[doc(hidden)]
pub use tier::Tiers;
#[cfg(not(feature = "unstable"))]
use tier::Tiers;

pub mod options {
    //! What the fields of [`Request`](crate::Request) and [`Overrides`](crate::Overrides), and the choices of a
    //! [`Device`](crate::Device), are made of.

    pub use crate::models::TokenMerging;
    pub use crate::pipeline::{
        Adapter, ControlRequest, DeepCache, Embedding, Hires, InitImage, Part, Streaming, Upscale, VaeTiling,
        WeightTypes,
    };
    pub use crate::sampling::{
        BetaSchedule, OmsForm, PredictionType, RngKind, SigmaSchedule, SolverKind, TimestepSpacing, Variation,
    };
    pub use crate::text::PromptSyntax;
    pub use crate::weights::WeightType;
}

pub mod lookup {
    //! Where models are, and what lies at a path.

    pub use crate::pipeline::{
        ComponentReport, EmbeddingShape, Inspection, Listed, LoraReport, MemoryReport, OmsModule, OmsPart, OmsReport,
        Places, SingleFile, inspect, oms_parts, successor,
    };
    pub use crate::weights::ReadAt;
}

pub mod shared {
    //! A device that a program lends, and pictures that stay on it.

    pub use crate::gpu::{HostDevice, device_descriptor, native_texture, required_features, required_limits, texture};
    pub use crate::record::DevicePicture;
    /// The version that devices have to be of.
    pub use wgpu;
}

pub mod recipe {
    //! A picture, of this program or another, read as the request that made it.

    pub use crate::pipeline::{
        Program, Recipe, RecipeAdapter, RecipeControl, RecipeEmbedding, RecipeImage, read_recipe, recipe_in,
    };
}

pub mod reports {
    //! What a pipeline tells of a request before it runs, and of what it has loaded.

    pub use crate::models::Network;
    pub use crate::pipeline::{
        AdapterReport, Bands, ChunkReport, EmbeddingReport, Remedy, StagePlan, StageTime, TextReport, TokenEntry,
        TokenReport, TooLarge, token_reports,
    };
}
