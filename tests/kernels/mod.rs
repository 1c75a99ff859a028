//! Every kernel in every form that the operations record, without a GPU: text, bindings, limits, translations.

mod cases;
mod dump;
mod form;
mod targets;
mod text;
