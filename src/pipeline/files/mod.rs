//! A model's files: where they are, what they are.

pub(crate) mod demo;
pub(crate) mod lookup;
pub(crate) mod lora;
pub(crate) mod recognise;
pub(crate) mod single_file;
pub(crate) mod source;
