//! The wgpu executor against the host's.

mod adapter;
mod executor;
mod faults;
mod injected;
