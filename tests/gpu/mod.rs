//! The wgpu executor against the host's.

mod adapter;
mod borrowed;
mod executor;
mod faults;
mod injected;
