//! Layers under checkpoint names.
