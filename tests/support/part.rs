//! How much is tested. Software drivers take seconds to compile a kernel, and many tests ask the same of many that differ little: without
//! `CHIARO_TEST_ALL`, which `tests/run --all` sets, a part of those is enough.

/// Whether everything is to be tested.
pub(crate) fn everything() -> bool {
    std::env::var_os("CHIARO_TEST_ALL").is_some()
}

/// Each `n`-th of what differs little, or all of it.
pub(crate) fn of<T>(n: usize, all: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
    all.step_by(step(n))
}

/// How many of what differs little one that is tested stands for.
pub(crate) fn step(n: usize) -> usize {
    if everything() { 1 } else { n }
}
