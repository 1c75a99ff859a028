//! Request → pictures: where files are, what fits, and the order of the stages.
//!
//! Rooms, from the bottom up; `tests/record/layers.rs` fails on an import that leads back up.
//!
//! | room | what is in it |
//! | --- | --- |
//! | `files` | a model's files: a folder, inside the binary, or seen in a single file; names → places; what a file is |
//! | `device` | where to compute, with which storage; how weights are kept; what is known of an adapter: tiles, faults |
//! | `request` | what a caller asks for, and whether it can be had; a row for each field: names, range, default |
//! | `model` | files → networks; parts from elsewhere; what LoRA and its relatives change; One More Step's module, ControlNets, embeddings |
//! | `png` | what goes into the PNG; a picture, of this program or another → the request that made it |
//! | `run` | prompts → states; one network at fixed shapes; the stages of a request in their order; noise → pictures, step by step; what fits |
//! | `reports` | what lies at a path, what a tokenizer makes of a prompt, where time goes, which tiles are fastest |

pub(crate) mod device;
pub(crate) mod files;
pub(crate) mod model;
pub(crate) mod png;
pub(crate) mod reports;
pub(crate) mod request;
pub(crate) mod run;

pub use crate::models::TokenMerging;
pub use crate::text::{Network, PromptSyntax, split_networks};
pub use device::findings::{Findings, check_findings_place, findings_path, load_findings, save_findings};
pub use device::kept::hash_file;
pub use device::residency::{Residency, Statistics};
pub use device::tuning_file::{check_tuning_place, load_tuning, save_tuning, tuning_path};
pub use device::vae_tiling::VaeTiling;
pub use device::weight_types::{Part, Streaming, WeightTypes};
pub use device::{Device, Precision};
pub(crate) use files::lookup::{ADAPTER_ENDINGS, ADAPTERS};
pub use files::lookup::{Listed, Places, successor};
pub use files::lora::LoraReport;
pub use files::single_file::SingleFile;
pub use files::source::Source;
pub use model::adapters::{Adapter, AdapterReport};
pub use model::embeddings::{Embedding, EmbeddingReport};
pub use model::load::Loading;
pub use model::oms_module::{OmsModule, OmsPart, OmsSource, oms_parts};
pub use model::overrides::Overrides;
pub use model::pipeline::Pipeline;
pub use png::parameters::Picture;
pub use png::repeat::{
    Program, Recipe, RecipeAdapter, RecipeControl, RecipeEmbedding, RecipeImage, read_recipe, recipe_in,
};
pub use reports::inspect::{ComponentReport, EmbeddingShape, Inspection, MemoryReport, OmsReport, inspect};
pub use reports::profile::{DispatchProfile, Peaks, StageProfile};
pub use reports::tokens::{ChunkReport, TextReport, TokenEntry, TokenReport, token_reports};
pub use reports::tune::{TuneReport, TunedClass};
pub use request::control::ControlRequest;
pub use request::deep_cache::DeepCache;
pub use request::field_kinds::{Kind, Range};
pub use request::fields::{CONTROL_WEIGHT, Field, REQUEST, SHARE, STRENGTH};
pub use request::init::InitImage;
pub use request::{Hires, OmsRequest, Request, Upscale};
pub use run::budget::{Remedy, TooLarge};
pub use run::event::Event;
pub use run::generate::Generation;
pub use run::stage::StagePlan;
pub use run::tiling::Bands;
pub use run::together::Together;
pub use run::watch::StageTime;
