//! A form of a kernel: one variant's text, and what naga makes of it before a back end's writer sees it.

use chiaro::gpu::{Interface, expand, needs_f16, needs_matrices, needs_subgroups, unroll};
use chiaro::record::{Caps, Dispatch};
use naga::back::pipeline_constants::process_overrides;
use naga::valid::{Capabilities, ModuleInfo, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ShaderStage};

pub(super) struct Form {
    pub(super) wgsl: String,
    pub(super) interface: Interface,
    /// Overrides have their values.
    pub(super) module: Module,
    pub(super) info: ModuleInfo,
    pub(super) f16: bool,
    pub(super) subgroups: bool,
    pub(super) matrices: bool,
    /// Whether workgroup memory is to be zero at first; a probe alone asks for that.
    pub(super) zeroed: bool,
}

impl Form {
    /// Parses and validates the kernel of `dispatch` with what `caps` offers and no more.
    pub(super) fn of(dispatch: &Dispatch, caps: &Caps) -> Result<Self, String> {
        let wgsl = expand(dispatch.kernel, &dispatch.variant).map_err(|e| e.to_string())?;
        Self::of_text(wgsl, dispatch, caps)
    }

    /// The same from the text that FXC is given.
    pub(super) fn unrolled(dispatch: &Dispatch, caps: &Caps) -> Result<Self, String> {
        let wgsl = expand(dispatch.kernel, &dispatch.variant).map_err(|e| e.to_string())?;
        Self::of_text(unroll(&wgsl), dispatch, caps)
    }

    pub(super) fn of_text(wgsl: String, dispatch: &Dispatch, caps: &Caps) -> Result<Self, String> {
        let variant = &dispatch.variant;
        let interface = Interface::of(dispatch.kernel.stem, &wgsl).map_err(|e| e.to_string())?;
        let module = naga::front::wgsl::parse_str(&wgsl).map_err(|e| e.emit_to_string(&wgsl))?;
        let (f16, matrices) = (needs_f16(variant), needs_matrices(variant));
        // f16 values packed in a u32 are part of WebGPU.
        let mut allowed = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        allowed.set(Capabilities::SHADER_FLOAT16, f16);
        allowed.set(Capabilities::SUBGROUP, caps.subgroups);
        allowed.set(Capabilities::COOPERATIVE_MATRIX, matrices);
        let mut validator = Validator::new(ValidationFlags::all(), allowed);
        if caps.subgroups {
            let stages = naga::valid::ShaderStages::COMPUTE;
            validator.subgroup_stages(stages).subgroup_operations(SubgroupOperationSet::all());
        }
        let info = validator.validate(&module).map_err(|e| e.emit_to_string(&wgsl))?;
        if f16 && !caps.shader_f16 {
            return Err("needs 16-bit types, which were not offered".into());
        }
        if matrices && caps.matrix_size().is_none() {
            return Err("needs cooperative matrices, which were not offered".into());
        }
        let values = variant.overrides.iter().map(|&(name, v)| (name.to_owned(), f64::from(v))).collect();
        let entry = (ShaderStage::Compute, interface.entry_point.as_str());
        let (module, info) = process_overrides(&module, &info, Some(entry), &values).map_err(|e| e.to_string())?;
        let (module, info) = (module.into_owned(), info.into_owned());
        let subgroups = needs_subgroups(&wgsl);
        let zeroed = variant.has("ZEROED");
        Ok(Form { wgsl, interface, module, info, f16, subgroups, matrices, zeroed })
    }
    /// Workgroup memory that the kernel declares.
    pub(super) fn workgroup_bytes(&self) -> Result<u32, String> {
        let module = &self.module;
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).map_err(|e| e.to_string())?;
        let variables = module.global_variables.iter().filter(|(_, v)| v.space == AddressSpace::WorkGroup);
        Ok(variables.map(|(_, v)| layouter[v.ty].to_stride()).sum())
    }
}
