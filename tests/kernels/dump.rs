//! Every form as the texts that each compiler is given, for `tests/compilers/run`.
//!
//! With `CHIARO_DUMP_KERNELS=FOLDER` the test writes a form as `.wgsl`, `.hlsl`, `.metal` and `.spv` for the targets that can have it, under a
//! name of number, kernel, flags and types; `index.jsonl` has a line of JSON a form. `CHIARO_DUMP_FORMS=quick`: one form of each kernel, set of flags, use of 16-bit types and target;
//! else all, those among which `chiaro tune` chooses too. `CHIARO_DUMP_CHECKS=1`: as `GpuOptions::checks` has them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::{env, fs};

use chiaro::ops::Trial;
use chiaro::record::{AdapterKind, Caps, DType, Dispatch, MatrixShape, Recording, Variant};
use naga::back::hlsl::ShaderModel;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::cases::{all_caps, recordings};
use super::form::Form;
use super::targets;

/// Who can have a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Target {
    /// WGSL as browsers take it.
    Web,
    /// HLSL of shader model 5.1, for a Windows PC without `dxcompiler.dll`.
    Fxc,
    /// HLSL of shader model 6.
    Dxc,
    Metal,
    Vulkan,
}

impl Target {
    const ALL: [Target; 5] = [Target::Web, Target::Fxc, Target::Dxc, Target::Metal, Target::Vulkan];

    fn name(self) -> &'static str {
        match self {
            Target::Web => "web",
            Target::Fxc => "fxc",
            Target::Dxc => "dxc",
            Target::Metal => "metal",
            Target::Vulkan => "vulkan",
        }
    }

    /// Whether a device of this sort can have the capabilities that lead to a form.
    fn can_be(self, caps: &Caps) -> bool {
        let matrices = caps.matrices.first();
        match self {
            Target::Vulkan => matrices.is_none() || caps.matrix_quads,
            // Metal's matrices are 8x8, loaded from single values.
            Target::Metal => matrices.is_none_or(|shape| *shape == MatrixShape::square(8) && !caps.matrix_quads),
            Target::Web | Target::Dxc => matrices.is_none(),
            // wgpu-hal's dx12/adapter.rs: SHADER_F16 from shader model 6.2 on, SUBGROUP from 6.0 on.
            Target::Fxc => matrices.is_none() && !caps.shader_f16 && !caps.subgroups,
        }
    }
}

/// What DX12 offers where there is no `dxcompiler.dll`: a GPU, and WARP, Windows' software adapter.
fn without_dxcompiler() -> [Caps; 2] {
    let gpu = Caps {
        name: "shader model 5.1".into(),
        kind: AdapterKind::Discrete,
        max_binding_bytes: (2 << 30) - 1,
        max_buffer_bytes: (2 << 30) - 1,
        max_workgroup_bytes: 32 << 10,
        max_invocations: 1024,
        max_storage_buffers: 32,
        ..Caps::webgpu()
    };
    let software = Caps { name: "shader model 5.1 in software".into(), kind: AdapterKind::Software, ..gpu.clone() };
    [gpu, software]
}

type Key<'a> = (&'static str, &'a Variant);

/// One form, with all capabilities that lead to it.
struct Found<'a> {
    dispatch: &'a Dispatch,
    caps: &'a Caps,
    names: BTreeSet<&'a str>,
    targets: BTreeSet<Target>,
}

/// Each form once, in the order of recording.
fn forms(recordings: &[Recording]) -> Vec<Found<'_>> {
    let mut found: Vec<Found<'_>> = Vec::new();
    let mut known: HashMap<Key<'_>, usize> = HashMap::new();
    for recording in recordings {
        let caps = &recording.caps;
        for dispatch in recording.dispatches.iter().filter(|d| !d.kernel.source.is_empty()) {
            let at = *known.entry((dispatch.kernel.stem, &dispatch.variant)).or_insert_with(|| {
                found.push(Found { dispatch, caps, names: BTreeSet::new(), targets: BTreeSet::new() });
                found.len() - 1
            });
            found[at].names.insert(&caps.name);
            found[at].targets.extend(Target::ALL.into_iter().filter(|target| target.can_be(caps)));
        }
    }
    found
}

/// The first form of each kernel and set of flags that a target has.
fn few(found: Vec<Found<'_>>) -> Vec<Found<'_>> {
    let mut seen = HashSet::new();
    let of_flags = |form: &Found<'_>, target: Target| {
        let variant = &form.dispatch.variant;
        let f16 = chiaro::gpu::needs_f16(variant);
        (form.dispatch.kernel.stem, variant.flags.iter().copied().collect::<BTreeSet<_>>(), f16, target)
    };
    found
        .into_iter()
        .filter_map(|mut form| {
            let wanted = form.targets.iter().copied().filter(|&target| seen.insert(of_flags(&form, target)));
            form.targets = wanted.collect();
            (!form.targets.is_empty()).then_some(form)
        })
        .collect()
}

/// What `chiaro tune` measures: every tile of the products that were recorded, without sums and functions beside them.
fn tuned(recordings: &[Recording]) -> Vec<Recording> {
    let trials = |recording: &Recording| {
        let caps = recording.caps.clone();
        let mut made = Vec::new();
        for trial in Trial::of(recording) {
            let weight = trial.weight().expect("a recorded product's weight");
            let tiles = trial.tiles(&caps);
            made.extend(tiles.iter().map(|tile| trial.record(&caps, tile, &weight, 1).expect("a candidate")));
        }
        made
    };
    recordings.par_iter().flat_map_iter(trials).collect()
}

/// `00012-matmul-BIAS-WHOLE-x.f16-out.f32`.
fn name(number: usize, dispatch: &Dispatch) -> String {
    let variant = &dispatch.variant;
    let types = variant.types.iter().map(|(name, dtype)| format!("{name}.{}", dtype.name()));
    let words: Vec<String> = variant.flags.iter().map(ToString::to_string).chain(types).collect();
    let mut name = format!("{number:05}-{}-{}", dispatch.kernel.stem.replace('/', "-"), words.join("-"));
    // File systems end names at 255 bytes.
    name.truncate(200);
    name
}

fn write(folder: &Path, number: usize, found: &Found<'_>, checks: bool) -> Result<Value, String> {
    let form = Form::of(found.dispatch, found.caps)?;
    let file = name(number, found.dispatch);
    let write = |ending: &str, bytes: &[u8]| {
        let path = folder.join(format!("{file}.{ending}"));
        fs::write(&path, bytes).map_err(|e| format!("{}: {e}", path.display()))
    };
    let has = |target| found.targets.contains(&target);
    // On the first line, so that numbers of lines are the kernel's.
    let enable = if form.subgroups { "enable subgroups; " } else { "" };
    write("wgsl", format!("{enable}{}", form.wgsl).as_bytes())?;
    let mut entry = String::new();
    if has(Target::Dxc) {
        let (text, name) = targets::hlsl(&form, ShaderModel::V6_2, checks)?;
        for other in [ShaderModel::V6_0, ShaderModel::V6_9] {
            if targets::hlsl(&form, other, checks)?.0 != text {
                return Err(format!("HLSL for {other:?} differs from that for 6.2: write both"));
            }
        }
        write("6.hlsl", text.as_bytes())?;
        entry = name;
    }
    if has(Target::Fxc) {
        let unrolled = Form::unrolled(found.dispatch, found.caps)?;
        let (text, name) = targets::hlsl(&unrolled, ShaderModel::V5_1, checks)?;
        write("5.1.hlsl", text.as_bytes())?;
        entry = name;
    }
    if has(Target::Metal) {
        let text = targets::msl(&form, (4, 0), checks)?;
        let oldest = targets::msl(&form, (2, 4), checks)?;
        if oldest.replace("metal2.4", "metal4.0") != text {
            return Err("MSL for 2.4 differs from that for 4.0: write both".into());
        }
        write("metal", text.as_bytes())?;
    }
    if has(Target::Vulkan) {
        for (version, ending) in [((1, 3), "vulkan1.1.spv"), ((1, 6), "vulkan1.3.spv")] {
            let words = targets::spirv(&form, version, checks)?;
            write(ending, &words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>())?;
        }
    }
    let variant = &found.dispatch.variant;
    let registers = targets::registers(&form);
    let bindings = form.interface.bindings.iter().zip(registers).map(|(binding, register)| {
        json!({ "name": binding.name, "number": binding.number, "kind": format!("{:?}", binding.kind), "register": register })
    });
    let pairs = |values: &[(&'static str, u32)]| values.iter().map(|&(k, v)| (k, v)).collect::<HashMap<_, _>>();
    let types: HashMap<_, _> = variant.types.iter().map(|&(name, dtype)| (name, dtype.name())).collect();
    Ok(json!({
        "file": file,
        "kernel": found.dispatch.kernel.stem,
        "flags": variant.flags,
        "types": types,
        "constants": pairs(&variant.constants),
        "overrides": pairs(&variant.overrides),
        "entry": form.interface.entry_point,
        "hlsl_entry": entry,
        "bindings": bindings.collect::<Vec<_>>(),
        "workgroup_size": form.module.entry_points[0].workgroup_size,
        "workgroup_bytes": form.workgroup_bytes()?,
        "f16": form.f16,
        "subgroups": form.subgroups,
        "matrices": form.matrices,
        "targets": found.targets.iter().map(|target| target.name()).collect::<Vec<_>>(),
        "caps": found.names,
    }))
}

/// HLSL of the first attention with one type under a second name: what naga makes of it no compiler takes.
fn write_with_alias(folder: &Path, found: &[Found<'_>]) {
    let is_first = |form: &&Found<'_>| {
        let both = [Target::Fxc, Target::Dxc].iter().all(|target| form.targets.contains(target));
        form.dispatch.kernel.stem == "attention" && both
    };
    let first = found.iter().find(is_first).expect("attention in f32");
    for (ending, model) in [("6.hlsl", ShaderModel::V6_2), ("5.1.hlsl", ShaderModel::V5_1)] {
        let form = match model {
            ShaderModel::V5_1 => Form::unrolled(first.dispatch, first.caps),
            _ => Form::of(first.dispatch, first.caps),
        };
        let text = form.unwrap().wgsl.replacen("vec4<f32>();", "second();", 1) + "alias second = vec4<f32>;\n";
        let form = Form::of_text(text, first.dispatch, first.caps).unwrap();
        fs::write(folder.join(format!("broken-alias.{ending}")), targets::hlsl(&form, model, false).unwrap().0)
            .unwrap();
    }
}

#[test]
fn forms_are_written_for_other_compilers() {
    let Some(folder) = env::var_os("CHIARO_DUMP_KERNELS").map(PathBuf::from) else {
        return;
    };
    let quick = env::var("CHIARO_DUMP_FORMS").is_ok_and(|value| value == "quick");
    let checks = env::var("CHIARO_DUMP_CHECKS").is_ok_and(|value| value == "1");
    let caps: Vec<Caps> = all_caps().into_iter().chain(without_dxcompiler()).collect();
    let mut recordings = recordings(&caps);
    if !quick {
        let more = tuned(&recordings);
        recordings.extend(more);
    }
    let found = forms(&recordings);
    let found = if quick { few(found) } else { found };
    fs::create_dir_all(&folder).unwrap();
    let written: Vec<_> = found
        .par_iter()
        .enumerate()
        .map(|(number, form)| (number, form, write(&folder, number, form, checks)))
        .collect();
    let mut index = String::new();
    let mut faults = Vec::new();
    for (number, form, outcome) in written {
        match outcome {
            Ok(line) => index.push_str(&format!("{line}\n")),
            Err(fault) => {
                let dispatch = form.dispatch;
                faults.push(format!("{number} {} {:?}: {fault}", dispatch.kernel.stem, dispatch.variant));
            }
        }
    }
    assert!(faults.is_empty(), "{} of {} forms:\n{}", faults.len(), found.len(), faults.join("\n"));
    write_with_alias(&folder, &found);
    fs::write(folder.join("index.jsonl"), index).unwrap();
}

#[test]
fn each_target_has_the_forms_of_its_devices_alone() {
    let caps: Vec<Caps> = all_caps().into_iter().chain(without_dxcompiler()).collect();
    let recordings = recordings(&caps);
    let found = forms(&recordings);
    for form in &found {
        let variant = &form.dispatch.variant;
        let stem = form.dispatch.kernel.stem;
        let (f16, matrices) = (chiaro::gpu::needs_f16(variant), chiaro::gpu::needs_matrices(variant));
        let has = |target| form.targets.contains(&target);
        assert!(!form.targets.is_empty(), "{stem} {variant:?} is for nobody");
        assert!(
            !has(Target::Fxc) || !f16 && !matrices && stem != "attention_direct" && stem != "probes/subgroups",
            "{stem} {variant:?}"
        );
        assert!(!matrices || !has(Target::Web) && !has(Target::Dxc), "{stem} {variant:?}");
        assert!(!matrices || has(Target::Metal) != variant.has("MATRIX_QUADS"), "{stem} {variant:?}");
    }
    let quick = few(forms(&recordings));
    let of = |forms: &[Found<'_>], target| forms.iter().filter(|form| form.targets.contains(&target)).count();
    for target in Target::ALL {
        let stems = |forms: &[Found<'_>]| -> BTreeSet<&str> {
            let having = forms.iter().filter(|form| form.targets.contains(&target));
            having.map(|form| form.dispatch.kernel.stem).collect()
        };
        assert_eq!(stems(&quick), stems(&found), "{target:?}");
        assert!(of(&quick, target) < of(&found, target), "{target:?}");
    }
    assert!(found.iter().any(|form| form.dispatch.variant.types.contains(&("x", DType::F16))));
}
