//! What options mean: a job → what to load, and the request.
//!
//! The command, a server, a list of jobs and a C interface read the same [`Job`]; what a caller is shown, and where names are looked up
//! ([`Places`](crate::pipeline::Places)), are theirs. Nothing here reads the environment.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `job` | the job, as it is written down |
//! | `strict` | JSON → job: what is unknown is an error that names the nearest |
//! | `fields` | a row for each field of a job, in front of those of a request |
//! | `asked` | the fields of a request that a job says |
//! | `file`, `base64` | a file: its path, or its bytes |
//! | `compose` | the way from a job to an order |
//! | `preset`, `adapters`, `controls`, `start`, `repeat` | distilled models' settings; names and tags → files; nets and what they see; start pictures; a picture that is drawn again |
//! | `load` | what to load, and whether two orders can share it |
//!
//! Messages name fields by their keys in backticks (`` `model.vae` ``); [`with_options`] puts the command's options in their place.

mod adapters;
mod asked;
mod base64;
mod compose;
mod controls;
mod fields;
mod file;
mod job;
mod load;
mod preset;
mod repeat;
mod start;
mod strict;

pub use asked::Asked;
pub use compose::Order;
pub use fields::{JOB, default_of, field_of, option_of, with_options};
pub use file::File;
pub use job::{AdapterJob, ControlJob, DeviceJob, ImageJob, Job, ModelJob};
pub use load::{Load, LoadKey, embeddings, source};
pub use preset::Preset;

pub use crate::pipeline::{CONTROL_WEIGHT, Field, Kind, REQUEST, Range, SHARE, STRENGTH};
