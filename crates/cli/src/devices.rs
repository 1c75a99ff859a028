//! `chiaro devices`.

use chiaro::Result;
use chiaro::gpu::{self, AdapterInfo};
use chiaro::pipeline::{load_findings, load_tuning};
use serde_json::json;

use super::remedies::told;
use super::{DevicesArgs, config, print_json, print_line};

pub(super) fn run(args: &DevicesArgs) -> Result<()> {
    let adapters = gpu::adapters();
    if args.json {
        let list: Vec<_> = adapters
            .iter()
            .map(|a| {
                json!({
                    "index": a.index, "gpu": a.gpu, "name": a.name, "kind": format!("{:?}", a.kind).to_lowercase(), "backend": a.backend,
                    "driver": a.driver, "shader_f16": a.caps.shader_f16, "subgroups": a.caps.subgroups,
                    "subgroup_size": [a.caps.subgroup_size.0, a.caps.subgroup_size.1],
                    "matrix_size": a.caps.matrix_size(),
                    "max_buffer_bytes": a.caps.max_buffer_bytes, "max_binding_bytes": a.caps.max_binding_bytes,
                    "max_workgroup_bytes": a.caps.max_workgroup_bytes, "max_invocations": a.caps.max_invocations,
                    "timestamps": a.timestamps,
                    "findings": load_findings(a).map_or_else(|e| json!({ "error": told(&e) }), |found| json!(found)),
                    "tuned": load_tuning(a).map_or_else(|e| json!({ "error": told(&e) }), |t| json!(t.len())),
                })
            })
            .collect();
        let defaults = match (config::path(), config::read()) {
            (path, Ok(config)) => json!({ "file": path.map(|(path, _)| path.display().to_string()), "values": config }),
            (path, Err(error)) => {
                json!({ "file": path.map(|(path, _)| path.display().to_string()), "error": error.to_string() })
            }
        };
        return print_json(&json!({
            "adapters": list, "host": { "threads": rayon::current_num_threads() }, "defaults": defaults,
        }));
    }
    if adapters.is_empty() {
        print_line(
            "No graphics adapter found: no driver for Vulkan, Metal or DX12. Pictures are made on the processor.",
        )?;
    }
    for (at, a) in adapters.iter().enumerate() {
        let again = at.checked_sub(1).is_some_and(|before| adapters[before].gpu == a.gpu);
        let same = if again { ", another way to the same GPU" } else { "" };
        print_line(&format!("{}: {} ({:?}, {}, {}{same})", a.index, a.name, a.kind, a.backend, a.driver))?;
        let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
        print_line(&format!(
            "   buffer {}, binding {}, workgroup {} KiB of {} invocations, {}{}{}",
            mib(a.caps.max_buffer_bytes),
            mib(a.caps.max_binding_bytes),
            a.caps.max_workgroup_bytes >> 10,
            a.caps.max_invocations,
            if a.caps.shader_f16 { "f16" } else { "no f16" },
            match a.caps.subgroup_size {
                _ if !a.caps.subgroups => String::new(),
                (low, high) if low == high => format!(", subgroups of {low}"),
                (low, high) => format!(", subgroups of {low} to {high}"),
            },
            a.caps.matrix_size().map_or(String::new(), |size| format!(", matrices of {size}×{size}"))
        ))?;
        for line in known(a) {
            print_line(&format!("   {line}"))?;
        }
        match load_tuning(a) {
            Ok(tuning) if tuning.is_empty() => {}
            Ok(tuning) => print_line(&format!("   tiles measured for {} classes of products", tuning.len()))?,
            Err(error) => print_line(&format!("   measured tiles are not used: {}", told(&error)))?,
        }
    }
    print_line(&format!("cpu: the processor, {} threads", rayon::current_num_threads()))?;
    print_line(&defaults())
}

/// What the user's file says.
fn defaults() -> String {
    match (config::path(), config::read()) {
        (_, Err(error)) => format!("defaults: {error}"),
        (Some((path, _)), Ok(config)) if path.is_file() => {
            format!("defaults of {}: {}", path.display(), config.describe())
        }
        (Some((path, _)), Ok(_)) => {
            format!("defaults: none; {} may hold device, model, oms and folder", path.display())
        }
        (None, Ok(_)) => "defaults: none; CHIARO_CONFIG names a file with them".into(),
    }
}

/// What `chiaro doctor` found of an adapter.
fn known(adapter: &AdapterInfo) -> Vec<String> {
    match load_findings(adapter) {
        Ok(None) => Vec::new(),
        Ok(Some(findings)) if findings.refusal().is_some() => {
            vec![format!("found wrong, and passed over by auto: {}", findings.refusal().unwrap_or_default())]
        }
        Ok(Some(findings)) if findings.wrong.is_empty() => {
            let right: Vec<String> = findings.right.iter().map(ToString::to_string).collect();
            vec![format!("found right: {}", right.join(", "))]
        }
        Ok(Some(findings)) => findings.wrong.iter().map(|(tier, why)| format!("used without {tier}: {why}")).collect(),
        Err(error) => vec![format!("what was found is not used: {}", told(&error))],
    }
}
