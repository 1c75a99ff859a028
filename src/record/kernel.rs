//! A kernel: WGSL source and its host twin under one name, and the variant of it that a dispatch asks for.

use super::{DType, HostCall};

/// One owner file in `src/ops` and one file in `shaders`, of the same stem.
pub struct Kernel {
    /// Stem of the WGSL file.
    pub stem: &'static str,
    /// Text of the WGSL file, before includes and conditions are resolved.
    pub source: &'static str,
    /// The same computation on the host: same bindings, same parameters, f32 storage.
    pub host: fn(&mut HostCall<'_>),
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.stem)
    }
}

/// What is substituted into a kernel's text (`shaders/README.md` has the rules) and which pipeline overrides are set.
///
/// Two dispatches with equal kernel and variant share a pipeline.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Names that are true in `//#if NAME`; the others are false.
    pub flags: Vec<&'static str>,
    /// `alias NAME4 = vec4<…>;` lines put before the text: the element type of each binding that is no constant. A
    /// [`Recording`](super::Recording) fills them in from its tensors.
    pub types: Vec<(&'static str, DType)>,
    /// `const NAME: u32 = VALUE;` lines put before the text: sizes of function-local arrays and the like.
    pub constants: Vec<(&'static str, u32)>,
    /// Values of `override` declarations, by name.
    pub overrides: Vec<(&'static str, u32)>,
}

impl Variant {
    /// Whether a flag is set.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.contains(&flag)
    }
}
