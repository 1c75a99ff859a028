//! How long each dispatch takes.

/// How long one dispatch took.
#[derive(Debug, Clone, PartialEq)]
pub struct DispatchTime {
    /// Where in the network.
    pub label: String,
    /// Stem of the kernel.
    pub kernel: &'static str,
    /// Seconds.
    pub seconds: f64,
    /// Floating-point operations.
    pub flops: u64,
}
