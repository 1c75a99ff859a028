//! Reads from a kernel's text what Rust needs to bind it: the names, numbers and kinds of its bindings.

use wgpu::naga;

use super::one_line;
use crate::{Error, Result};

/// How a kernel declares one binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindingKind {
    /// `var<uniform>`
    Uniform,
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    ReadWrite,
}

/// One binding of group 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The variable's name.
    pub name: String,
    /// Number within the group.
    pub number: u32,
    /// Uniform or storage, and its access.
    pub kind: BindingKind,
    /// Bytes of the type; of a runtime-sized array, those of one element.
    pub min_bytes: u32,
}

/// What a kernel asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Bindings in the order of their numbers.
    pub bindings: Vec<Binding>,
    /// The one compute entry point.
    pub entry_point: String,
}

impl Interface {
    /// Reads the interface of `wgsl`, the expanded text of the kernel `stem`.
    ///
    /// # Errors
    /// When the text does not parse, has not exactly one entry point, or uses a group other than 0.
    pub fn of(stem: &str, wgsl: &str) -> Result<Self> {
        let fault = |what: String| Error::Device(format!("kernel {stem}: {what}"));
        let module = naga::front::wgsl::parse_str(wgsl)
            .map_err(|e| fault(one_line(&e.emit_to_string_with_path(wgsl, &format!("{stem}.wgsl")))))?;
        let [entry_point] = module.entry_points.as_slice() else {
            return Err(fault(format!("expected one entry point, found {}", module.entry_points.len())));
        };
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).map_err(|e| fault(e.to_string()))?;
        let mut bindings = Vec::new();
        for (_, variable) in module.global_variables.iter() {
            let Some(place) = variable.binding else {
                continue;
            };
            let name = variable.name.clone().unwrap_or_default();
            if place.group != 0 {
                return Err(fault(format!("{name}: expected group 0, found {}", place.group)));
            }
            let kind = match variable.space {
                naga::AddressSpace::Uniform => BindingKind::Uniform,
                naga::AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE) => {
                    BindingKind::ReadWrite
                }
                naga::AddressSpace::Storage { .. } => BindingKind::Read,
                space => return Err(fault(format!("{name}: expected a uniform or a storage buffer, found {space:?}"))),
            };
            bindings.push(Binding { name, number: place.binding, kind, min_bytes: layouter[variable.ty].size });
        }
        bindings.sort_by_key(|b| b.number);
        Ok(Interface { bindings, entry_point: entry_point.name.clone() })
    }

    /// Checks that the recorded names and the declared ones are the same, `params` and `out` included.
    ///
    /// # Errors
    /// When a recorded name has no binding, or a binding has no tensor.
    pub fn check(&self, label: &str, reads: &[&str]) -> Result<()> {
        let expected = |name: &str| match name {
            "params" => Some(BindingKind::Uniform),
            "out" => Some(BindingKind::ReadWrite),
            _ => reads.contains(&name).then_some(BindingKind::Read),
        };
        for binding in &self.bindings {
            match expected(&binding.name) {
                Some(kind) if kind == binding.kind => {}
                Some(kind) => {
                    let (name, found) = (&binding.name, binding.kind);
                    return Err(Error::Device(format!("{label}: {name}: expected {kind:?}, WGSL declares {found:?}")));
                }
                None => {
                    return Err(Error::Device(format!("{label}: nothing was recorded for binding {}", binding.name)));
                }
            }
        }
        for name in reads.iter().chain(&["params", "out"]) {
            if !self.bindings.iter().any(|b| b.name == *name) {
                return Err(Error::Device(format!("{label}: WGSL has no binding {name}")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: &str = "
        override SCALE: u32 = 1;
        struct Params { len: u32, pad_0: u32, pad_1: u32, pad_2: u32 }
        @group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
        @group(0) @binding(0) var<uniform> params: Params;
        @group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
        @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
            if (id.x < params.len) { out[id.x] = x[id.x] * f32(SCALE); }
        }";

    #[test]
    fn bindings_are_read_by_name() {
        let interface = Interface::of("test", KERNEL).unwrap();
        let found: Vec<_> =
            interface.bindings.iter().map(|b| (b.name.as_str(), b.number, b.kind, b.min_bytes)).collect();
        let expected = [
            ("params", 0, BindingKind::Uniform, 16),
            ("x", 1, BindingKind::Read, 16),
            ("out", 2, BindingKind::ReadWrite, 16),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_name_without_its_partner_is_an_error() {
        let interface = Interface::of("test", KERNEL).unwrap();
        interface.check("l", &["x"]).unwrap();
        let error = |reads: &[&str]| interface.check("l", reads).unwrap_err().to_string();
        assert_eq!(error(&[]), "l: nothing was recorded for binding x");
        assert_eq!(error(&["x", "y"]), "l: WGSL has no binding y");
    }

    #[test]
    fn text_that_does_not_parse_names_its_kernel() {
        let error = Interface::of("broken", "fn main( {").unwrap_err().to_string();
        assert!(error.starts_with("kernel broken: ") && !error.contains('\n'), "{error}");
    }
}
