//! Tiny networks against goldens made by the reference implementation. Every module's result is compared in the order
//! in which it is computed, so the first wrong one is named.
//!
//! The tests read what the golden folder holds and write down no width, size or seed, so that they run on any set of
//! goldens made by the same program.

mod autoencoders;
mod bench;
mod clip;
mod configs;
mod control;
mod lora_names;
mod original;
mod quantised;
mod unet;
