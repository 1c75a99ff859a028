//! What goes into a PNG, and a PNG (of this program or another) → the request that made it.

pub(crate) mod parameters;
pub(crate) mod repeat;
#[cfg(all(test, feature = "demo"))]
mod round_trip_tests;

/// The form of this program's own record in a picture, written as `record`. Without one it is of before there was a number, which reads as 1. A field of
/// [`Request`](crate::pipeline::Request) that changes its name or its meaning makes it the next, with a way from the one before.
pub(crate) const RECORD: u64 = 1;

/// What AUTOMATIC1111 calls η of DDIM; that of other samplers has its row's name.
pub(crate) const ETA_OF_DDIM: &str = "Eta DDIM";
