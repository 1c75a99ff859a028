//! The `chiaro` command.

fn main() {}
