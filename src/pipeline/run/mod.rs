//! Request → pictures: which networks run, in which order, with which memory.

pub(crate) mod budget;
pub(crate) mod checks;
pub(crate) mod control_inputs;
pub(crate) mod denoise;
pub(crate) mod event;
pub(crate) mod generate;
pub(crate) mod host_memory;
pub(crate) mod itinerary;
pub(crate) mod networks;
pub(crate) mod open_stage;
pub(crate) mod plan;
pub(crate) mod preview;
pub(crate) mod prompts;
pub(crate) mod refiner;
pub(crate) mod resize;
pub(crate) mod stage;
pub(crate) mod starts;
pub(crate) mod text;
pub(crate) mod tiling;
pub(crate) mod time_ids;
pub(crate) mod together;
pub(crate) mod unet;
pub(crate) mod watch;
