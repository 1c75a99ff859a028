use std::collections::{BTreeSet, HashSet};

use chiaro::gpu::{Interface, needs_matrices};
use chiaro::ops::KERNELS;
use chiaro::record::{Caps, DType, Dispatch};
use naga::back::hlsl::ShaderModel;
use naga::{AddressSpace, Module, ScalarKind, TypeInner};
use rayon::prelude::*;

use super::cases::{all_caps, record_all, recordings};
use super::form::Form;
use super::targets;
use crate::support::part;

/// Everything that can be wrong with a kernel's text before a device sees it.
fn check(dispatch: &Dispatch, caps: &Caps) -> Result<(), String> {
    let form = Form::of(dispatch, caps)?;
    let names: Vec<&str> = dispatch.reads.iter().map(|(name, _)| *name).collect();
    form.interface.check("bindings", &names).map_err(|e| e.to_string())?;
    check_order(&form.interface)?;
    let module = &form.module;
    check_params(module, dispatch.params.len())?;
    check_types(module, dispatch)?;
    check_limits(&form, dispatch, caps)?;
    translate(&form)
}

/// `params` first, `out` last.
fn check_order(interface: &Interface) -> Result<(), String> {
    let names: Vec<&str> = interface.bindings.iter().map(|b| b.name.as_str()).collect();
    match (names.as_slice(), interface.bindings[0].number) {
        (["params", .., "out"], 0) => Ok(()),
        _ => Err(format!("expected params at 0 and out last, found {names:?}")),
    }
}

/// The WGSL struct has the size of the Rust one, and no gaps that Rust would not have.
fn check_params(module: &Module, recorded: usize) -> Result<(), String> {
    let (_, params) = module
        .global_variables
        .iter()
        .find(|(_, v)| v.name.as_deref() == Some("params"))
        .ok_or("params was optimised away")?;
    let TypeInner::Struct { members, span } = &module.types[params.ty].inner else {
        return Err("params is no struct".into());
    };
    let mut end = 0;
    for member in members {
        if member.offset != end {
            return Err(format!("Params.{:?} is at {}, Rust has it at {end}", member.name, member.offset));
        }
        end += module.types[member.ty].inner.size(module.to_ctx());
    }
    if end != *span || recorded != *span as usize {
        return Err(format!("Params is {span} bytes with {end} of members, {recorded} were recorded"));
    }
    Ok(())
}

/// Each activation is declared with the element type of the tensor that is bound there.
fn check_types(module: &Module, dispatch: &Dispatch) -> Result<(), String> {
    for &(name, dtype) in &dispatch.variant.types {
        let (_, variable) =
            module.global_variables.iter().find(|(_, v)| v.name.as_deref() == Some(name)).ok_or("a binding is gone")?;
        let TypeInner::Array { base, .. } = module.types[variable.ty].inner else {
            return Err(format!("{name} is no array"));
        };
        let scalar = module.types[base].inner.scalar().ok_or(format!("{name} has no numbers"))?;
        // Of words that hold two values each.
        let words = ["q", "k", "v", "x"].contains(&name) && dispatch.variant.has("WORDS") && dtype == DType::F16;
        let expected = if words { (ScalarKind::Uint, 4) } else { (ScalarKind::Float, dtype.bytes(1)) };
        if (scalar.kind, usize::from(scalar.width)) != expected {
            return Err(format!("{name} is declared as {scalar:?}, the tensor is {dtype:?}"));
        }
    }
    Ok(())
}

fn check_limits(form: &Form, dispatch: &Dispatch, caps: &Caps) -> Result<(), String> {
    let module = &form.module;
    let storage = module.global_variables.iter().filter(|(_, v)| matches!(v.space, AddressSpace::Storage { .. }));
    let size = module.entry_points[0].workgroup_size;
    let invocations: u32 = size.iter().product();
    for (what, used, allowed) in [
        ("bytes of workgroup memory", form.workgroup_bytes()?, caps.max_workgroup_bytes),
        ("invocations per workgroup", invocations, caps.max_invocations),
        ("invocations along z", size[2], 64),
        ("storage buffers", storage.count() as u32, caps.max_storage_buffers),
        ("workgroups along x", dispatch.grid[0], caps.max_workgroups),
        ("workgroups along y", dispatch.grid[1], caps.max_workgroups),
        ("workgroups along z", dispatch.grid[2], caps.max_workgroups),
    ] {
        if used > allowed || used == 0 && what.starts_with("invocations") {
            return Err(format!("{used} {what}, {allowed} are allowed"));
        }
    }
    Ok(())
}

/// As wgpu does for Vulkan, Metal and, where there are no matrices, DX12.
fn translate(form: &Form) -> Result<(), String> {
    targets::spirv(form, (1, 3), true)?;
    targets::msl(form, (2, 4), true)?;
    if !form.matrices {
        targets::hlsl(form, if form.f16 { ShaderModel::V6_2 } else { ShaderModel::V5_1 }, true)?;
    }
    Ok(())
}

#[test]
fn every_form_of_every_kernel_is_valid() {
    let recordings = recordings(&all_caps());
    let mut seen = HashSet::new();
    let mut forms = Vec::new();
    for recording in &recordings {
        for dispatch in recording.dispatches.iter().filter(|d| !d.kernel.source.is_empty()) {
            if seen.insert((dispatch.kernel.stem, &dispatch.variant, &recording.caps.name)) {
                forms.push((dispatch, &recording.caps));
            }
        }
    }
    let some: Vec<_> = part::of(3, forms.iter()).collect();
    let faults: Vec<String> = some
        .par_iter()
        .filter_map(|(dispatch, caps)| {
            let fault = check(dispatch, caps).err()?;
            Some(format!("{} {:?} on {}: {fault}", dispatch.kernel.stem, dispatch.variant, caps.name))
        })
        .collect();
    assert!(faults.is_empty(), "{} of {} forms:\n{}", faults.len(), some.len(), faults.join("\n"));
    let (others, forms): (Vec<_>, Vec<_>) = forms.into_iter().partition(|(d, _)| d.kernel.stem.contains('/'));
    for folder in ["probes", "device"] {
        let in_folder = others.iter().filter_map(|(d, _)| d.kernel.stem.strip_prefix(folder)?.strip_prefix('/'));
        let recorded: BTreeSet<String> = in_folder.map(str::to_owned).collect();
        assert_eq!(recorded, texts(&format!("shaders/{folder}")), "{folder}: recorded here, and existing");
    }
    let bound_as = |wanted: DType| -> BTreeSet<(&str, &str)> {
        let types = forms.iter().flat_map(|(d, _)| d.variant.types.iter().map(|t| (d.kernel.stem, *t)));
        types.filter(|(_, (_, dtype))| *dtype == wanted).map(|(stem, (name, _))| (stem, name)).collect()
    };
    // Statistics of norms, and numbers of tokens.
    let exact = BTreeSet::from([
        ("group_norm", "moments"),
        ("group_norm", "moments_of_chunks"),
        ("group_norm_statistics", "out"),
        ("token_match", "out"),
        ("token_merge", "slot"),
        ("token_slots", "out"),
        ("token_slots", "x"),
        ("token_unmerge", "slot"),
    ]);
    assert_eq!(&bound_as(DType::F32) - &bound_as(DType::F16), exact, "never bound as f16");
    assert_eq!(&bound_as(DType::F16) - &bound_as(DType::F32), BTreeSet::new(), "never bound as f32");
    let covered: BTreeSet<&str> = forms.iter().map(|(d, _)| d.kernel.stem).collect();
    let written: BTreeSet<&str> = KERNELS.iter().filter(|k| !k.source.is_empty()).map(|k| k.stem).collect();
    assert_eq!(covered, written, "recorded here, and existing");
}

#[test]
fn every_dispatch_fits_the_grid() {
    for caps in all_caps() {
        for dispatch in record_all(&caps).dispatches {
            let grid = dispatch.grid;
            assert!(grid.iter().all(|&g| g >= 1 && g <= caps.max_workgroups), "{}: {grid:?}", dispatch.label);
        }
    }
}

/// Stems of the texts in a folder.
fn texts(folder: &str) -> BTreeSet<String> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let texts = paths.filter(|path| path.extension().is_some_and(|ending| ending == "wgsl"));
    texts.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn every_text_has_an_owner_and_every_owner_a_text() {
    let files = texts("shaders");
    let owners: BTreeSet<String> = KERNELS.iter().map(|k| k.stem.to_owned()).collect();
    assert_eq!(files, owners, "shaders/*.wgsl, and ops::KERNELS");
    assert_eq!(owners.len(), KERNELS.len(), "two kernels have one stem");
}

#[test]
fn the_check_finds_each_kind_of_fault() {
    let caps = Caps::webgpu();
    let dispatch = record_all(&caps).dispatches.swap_remove(0);
    let fault = |change: &dyn Fn(&mut Dispatch, &mut Caps)| {
        let mut dispatch = dispatch.clone();
        let mut caps = caps.clone();
        change(&mut dispatch, &mut caps);
        check(&dispatch, &caps).expect_err("a fault")
    };
    check(&dispatch, &caps).unwrap();
    assert!(fault(&|d, _| d.params.extend([0; 16])).contains("were recorded"));
    assert!(fault(&|d, _| d.reads.truncate(1)).contains("nothing was recorded for binding weight"));
    assert!(fault(&|d, _| d.reads.push(("bias", d.write))).contains("no binding bias"));
    assert!(fault(&|d, _| d.variant.types[0].1 = DType::F16).contains("16-bit"));
    let half = Caps { shader_f16: true, storage: DType::F16, ..caps.clone() };
    let joins = |d: &Dispatch| d.reads.iter().any(|(name, _)| *name == "moments_of_chunks");
    let mut norm = record_all(&half).dispatches.into_iter().find(joins).unwrap();
    check(&norm, &half).unwrap();
    norm.variant.types[1].1 = DType::F16;
    assert!(check(&norm, &half).expect_err("statistics are f32").contains("the tensor is F16"));
    let matrices = all_caps().pop().expect("the last has matrices");
    let mut products = record_all(&matrices).dispatches.into_iter();
    let product = products.find(|d| needs_matrices(&d.variant)).expect("a product in matrices");
    check(&product, &matrices).unwrap();
    let without = Caps { matrices: Vec::new(), ..matrices };
    assert!(check(&product, &without).expect_err("matrices").contains("cooperative matrices"));
    assert!(fault(&|d, _| d.variant.overrides.push(("SIZE", 1))).contains("SIZE"));
    assert!(fault(&|d, _| d.grid[1] = 70_000).contains("workgroups along y"));
    assert!(fault(&|_, c| c.max_workgroup_bytes = 1024).contains("workgroup memory"));
    assert!(fault(&|_, c| c.max_invocations = 32).contains("invocations per workgroup"));
    assert!(fault(&|_, c| c.max_storage_buffers = 2).contains("storage buffers"));
}
