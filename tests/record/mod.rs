//! The memory plan, and the layering of the source tree.

mod layers;
mod plan;
mod prologue;
mod stream;
mod traffic;
