//! The runtime's middle: what models record, how memory is planned, and the executor that needs no GPU.
//!
//! A model's forward pass appends plain [`Dispatch`]es to a [`Recording`]. [`plan`] places its tensors, so peak memory
//! is known before anything runs. A [`Backend`] compiles the recording once into a [`Program`], which is replayed at
//! every step with new inputs. There are two backends: [`HostBackend`] here, and the wgpu one in `gpu`.

mod backend;
mod cancel;
mod caps;
mod chain;
mod chain_plan;
mod constant;
mod counters;
mod host;
mod host_call;
mod host_constants;
mod host_weight;
mod kept;
mod kernel;
mod lines;
mod map;
#[cfg(target_arch = "aarch64")]
mod neon;
mod panels;
mod picture;
mod plan;
mod products;
mod profile;
mod quant;
mod recording;
mod reordered;
mod resident;
mod stream;
mod tensor;
mod traffic;
mod transpose;
mod tuning;
mod window;
mod workers;

pub use backend::{Backend, Outputs, Program, Run};
pub use cancel::Cancel;
pub use caps::{AdapterKind, Caps, MatrixShape, Vendor};
pub use chain::{Band, Chain, ChainProgram, Part, Residual, Span};
pub use chain_plan::{ChainPlan, PartPlan};
pub(crate) use constant::decoded;
pub use constant::{Constant, ConstantData, PieceSink};
pub use counters::Counters;
pub(crate) use counters::{Counts, Held, Ledger};
pub use host::{HostBackend, HostProgram};
pub(crate) use host::{gather, match_inputs};
pub use host_call::HostCall;
pub(crate) use host_constants::BF16;
pub use host_weight::{HostWeight, PanelValues};
pub(crate) use kept::Kept;
pub use kernel::{Kernel, Variant};
pub(crate) use lines::Lines;
pub use map::FeatureMap;
pub use panels::Layout;
pub use picture::{DevicePicture, PixelRange};
pub use plan::{MemoryPlan, Placement, plan};
pub(crate) use plan::{PARAMS_STRIDE, kept_bytes};
pub use products::Products;
pub(crate) use products::{Bf16, narrow, widen};
pub use profile::DispatchTime;
pub(crate) use quant::from_ggml;
pub use quant::{BLOCK, quantize};
pub(crate) use quant::{quant_bytes, quantize_from};
pub use recording::{Dispatch, Output, Recording, Role, TensorInfo};
pub(crate) use resident::Resident;
pub use stream::{Chunk, Load, StreamPlan};
pub(crate) use stream::{STAGE, STAGES};
pub use tensor::{DType, Shape, Tensor};
pub use traffic::Traffic;
pub(crate) use transpose::transpose;
pub use tuning::Tuning;
pub use window::{Reach, Window};
pub use workers::Workers;
pub(crate) use workers::caught;
