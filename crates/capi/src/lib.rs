//! The C library: `include/chiaro.h` says what each function does.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `status` | statuses, errors, and the border itself: nothing that unwinds crosses it |
//! | `handle` | counted objects behind opaque pointers |
//! | `structs` | the header's structs, of any version |
//! | `text` | texts in and out |
//! | `device`, `engine`, `vulkan`, `native`, `model`, `job`, `image` | the functions, by object |

#[cfg(not(panic = "unwind"))]
compile_error!("faults must be caught at the border: build with panic = \"unwind\"");

mod device;
mod engine;
mod handle;
mod image;
mod job;
mod model;
mod native;
mod status;
mod structs;
mod text;
mod version;
#[cfg(not(target_vendor = "apple"))]
mod vulkan;
#[cfg(target_vendor = "apple")]
#[path = "no_vulkan.rs"]
mod vulkan;

#[cfg(test)]
mod header_tests;
#[cfg(test)]
mod tests;
