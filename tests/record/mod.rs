//! The memory plan, runs and what backends count, and the layering of the source tree.

mod cancel;
mod counts;
mod layers;
mod plan;
mod prologue;
mod stream;
mod threads;
mod traffic;
