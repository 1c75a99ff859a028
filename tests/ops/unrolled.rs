//! The texts that FXC is given (`gpu/unroll.rs`), computed by the driver that is here.

use chiaro::Result;
use chiaro::gpu::{GpuBackend, expand, unroll};
use chiaro::record::{AdapterKind, Backend, Caps, DType, Kernel, Program, Recording, Variant};

use super::cases::{Case, Wide};
use super::run_table_with;
use crate::support::adapter;

/// Compiles each kernel from its unrolled text.
struct Unrolled(GpuBackend);

impl Backend for Unrolled {
    fn caps(&self) -> &Caps {
        self.0.caps()
    }

    fn compile(&self, mut recording: Recording) -> Result<Box<dyn Program>> {
        let mut loops = 0;
        for dispatch in recording.dispatches.iter_mut().filter(|d| !d.kernel.source.is_empty()) {
            let text = expand(dispatch.kernel, &dispatch.variant)?;
            let unrolled = unroll(&text);
            loops += text.matches("for (").count().saturating_sub(unrolled.matches("for (").count());
            // Pipelines are known by stem and variant. What the text has already must not come again; all else tells forms apart.
            let form: &str = format!("{:?}", dispatch.variant).leak();
            let overrides = dispatch.variant.overrides.clone();
            dispatch.variant = Variant { flags: vec![form], overrides, ..Variant::default() };
            let kernel = Kernel { stem: dispatch.kernel.stem, source: unrolled.leak(), host: dispatch.kernel.host };
            dispatch.kernel = Box::leak(Box::new(kernel));
        }
        println!("{loops} loops fewer");
        self.0.compile(recording)
    }
}

/// As a GPU, and as WARP, Windows' software adapter. Small cases: a driver that compiles on the processor takes seconds for some of the texts.
#[test]
fn loops_that_are_written_out_compute_the_same() {
    let backend = Unrolled(adapter::open_with(DType::F32, adapter::test_options()));
    for (kind, most, every) in [(AdapterKind::Integrated, 12_000, 2), (AdapterKind::Software, 4_000, 3)] {
        let caps = Caps {
            kind,
            shader_f16: false,
            subgroups: false,
            subgroup_size: (0, 0),
            matrices: Vec::new(),
            max_workgroup_bytes: 32 << 10,
            ..backend.caps().clone()
        };
        let is_small = |case: &Case| case.operands().0.iter().all(|(_, values)| values.len() <= most);
        run_table_with(&backend, &caps, Wide::default(), every, is_small);
    }
}
