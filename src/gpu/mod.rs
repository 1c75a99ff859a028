//! Executes recordings with wgpu, on Vulkan, Metal and DX12. The only folder that names wgpu.
//!
//! | file | what it does |
//! | --- | --- |
//! | `adapter` | lists devices, finds the one that is meant, tells its [`Caps`](crate::record::Caps) |
//! | `device` | opens a device; turns everything that wgpu reports into an [`Error`](crate::Error) |
//! | `template`, `aliases`, `pieces`, `reflect` | a kernel's text → WGSL of one variant → with types written out → its bindings by name |
//! | `unroll` | what FXC, DX12's old compiler, needs besides |
//! | `borrowed` | a device that a host made |
//! | `wait` | commands to the queue, and waiting for them |
//! | `pipeline` | compiles variants, once per device |
//! | `memory`, `upload` | buffers, and constants that programs share; bytes to them |
//! | `pace` | how much work one submission holds |
//! | `program` | a compiled recording: its memory, its bindings |
//! | `execute`, `results`, `profile` | dispatches to the queue; results from it; how long each dispatch takes |
//! | `picture` | a result as a texture |
//! | `fault` | faults that a driver can be made to have, for tests |
//! | `stream` | constants that pass through the device because not all of them fit |
//! | `backend` | the [`Backend`](crate::record::Backend) that ties them together |

mod adapter;
mod aliases;
mod backend;
mod borrowed;
mod device;
mod execute;
mod fault;
mod identity;
mod memory;
mod native;
mod pace;
mod picture;
mod pieces;
mod pipeline;
mod profile;
mod program;
mod reflect;
mod results;
mod stream;
#[cfg(test)]
mod stream_tests;
mod template;
mod unroll;
mod upload;
mod wait;

pub use adapter::{AdapterInfo, adapters, choose_adapter, dxc, find_adapter};
pub use backend::GpuBackend;
pub use borrowed::{HostDevice, device_descriptor, required_features, required_limits};
pub use device::GpuOptions;
pub use fault::DriverFault;
pub use identity::Identity;
pub use native::native_texture;
pub use picture::{picture_recording, texture};
pub use program::GpuProgram;
pub use reflect::{Binding, BindingKind, Interface};
pub use template::{expand, needs_f16, needs_matrices, needs_subgroups, tier_of};
pub use unroll::unroll;

/// wgpu's and naga's messages draw over several lines; ours have one.
fn one_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}
