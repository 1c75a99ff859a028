//! Chiaro: Stable Diffusion with One More Step on Vulkan, Metal and DX12, and on the processor.
//!
//! ```no_run
//! use chiaro::pipeline::{Device, Event, OmsSource, Pipeline, Precision, Request, Source};
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
//! Other models: [`Source::at`](pipeline::Source::at) a folder or a file, [`OmsSource::folder`](pipeline::OmsSource::folder), and
//! [`Places::find`](pipeline::Places::find) for names. [`Generation`](pipeline::Generation) is an iterator of steps: draw a progress bar from it, or drop
//! it to cancel. `docs/LIBRARY.md` in the repository goes on from here.
//!
//! # Layers
//!
//! Imports point down only; `tests/record/layers.rs` fails on any other edge.
//!
//! | layer | what it does |
//! | --- | --- |
//! | [`cli`] | parse, print, exit code |
//! | [`study`] | many pictures: statistics, charts, a report |
//! | [`doctor`] | what a driver gets right |
//! | [`pipeline`] | request → pictures; loading; memory |
//! | [`models`], [`sampling`], [`text`], [`image`] | siblings: none imports another |
//! | [`nn`], [`weights`] | layers under checkpoint names; named tensors from files |
//! | [`ops`] | one file per kernel family: shape rule, variant choice, host twin |
//! | [`gpu`] | the only folder that names wgpu |
//! | [`record`] | recordings, memory plan, chains of bands, host executor |
//! | [`error`] | one error type; [`Tier`]: what kernels use of a device; `files`: opening what others made |
//!
//! # How a network runs
//!
//! A model's `record` appends plain [`Dispatch`](record::Dispatch)es to a [`Recording`](record::Recording). [`record::plan`] places its
//! tensors by lifetime, so peak memory is known before anything runs. A [`Backend`](record::Backend) compiles the recording once into a
//! [`Program`](record::Program), which is replayed at every step with new inputs. The wgpu backend and the host backend run the same
//! recordings, so every kernel has a twin to be compared with.

#[macro_use]
mod named;

pub mod cli;
pub mod doctor;
pub mod error;
mod files;
pub mod gpu;
pub mod image;
pub mod models;
pub mod nn;
pub mod ops;
pub mod pipeline;
pub mod record;
pub mod sampling;
pub mod study;
pub mod text;
mod tier;
pub mod weights;

pub use error::{Error, ErrorCode, Place, Remedy, Result};
pub use tier::{Tier, Tiers};
/// The version that shared devices have to be of ([`gpu::GpuBackend::on`]).
pub use wgpu;
