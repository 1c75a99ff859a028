//! THROWAWAY: parse, validate, translate.
use chiaro::record::{Caps, DType, Recording, Variant, Kernel};
use std::collections::HashSet;

fn expand(stem: &str, source: &str, v: &Variant, included: &mut HashSet<String>) -> String {
    let mut out = String::new();
    let mut stack: Vec<bool> = vec![];
    for line in source.lines() {
        let t = line.trim();
        if let Some(n) = t.strip_prefix("//#if ") { stack.push(v.has(n)); continue; }
        if t == "//#else" { let l = stack.last_mut().unwrap(); *l = !*l; continue; }
        if t == "//#endif" { stack.pop().unwrap(); continue; }
        if stack.iter().any(|x| !x) { continue; }
        if let Some(n) = t.strip_prefix("//#include ") {
            let n = n.trim_matches('"');
            if included.insert(n.to_string()) {
                let text = std::fs::read_to_string(format!("shaders/{n}")).unwrap();
                out += &expand(n, &text, v, included);
            }
            continue;
        }
        out += line; out.push('\n');
    }
    assert!(stack.is_empty(), "{stem}");
    out
}
fn text(k: &Kernel, v: &Variant) -> String {
    let mut s = String::new();
    if v.has("STORAGE_F16") || v.has("WEIGHT_F16") { s += "enable f16;\n"; }
    for (n, x) in &v.constants { s += &format!("const {n}: u32 = {x}u;\n"); }
    s + &expand(k.stem, k.source, v, &mut HashSet::new())
}
#[test]
fn validate() {
    let mut seen = HashSet::new();
    for (storage, f16, bytes) in [(DType::F32, false, 16 << 10), (DType::F16, true, 32 << 10)] {
        let caps = Caps { storage, shader_f16: f16, max_workgroup_bytes: bytes, ..Caps::webgpu() };
        for case in super::table() {
            let rec: Recording = case.record(&caps, &case.operands()).unwrap();
            for d in &rec.dispatches {
                assert!(d.grid.iter().all(|g| *g > 0 && *g <= 65535));
                let key = format!("{} {:?}", d.kernel.stem, d.variant);
                if !seen.insert(key.clone()) { continue; }
                let t = text(d.kernel, &d.variant);
                let module = naga::front::wgsl::parse_str(&t).unwrap_or_else(|e| panic!("{key}\n{}", e.emit_to_string(&t)));
                let c = if f16 { naga::valid::Capabilities::SHADER_FLOAT16 } else { naga::valid::Capabilities::empty() };
                let info = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), c).validate(&module).unwrap_or_else(|e| panic!("{key}\n{}", e.emit_to_string(&t)));
                naga::back::spv::write_vec(&module, &info, &naga::back::spv::Options::default(), None).unwrap();
                naga::back::msl::write_string(&module, &info, &naga::back::msl::Options { fake_missing_bindings: true, lang_version: (3, 0), ..Default::default() }, &Default::default()).unwrap_or_else(|e| panic!("{key} {e}"));
                let mut s = String::new();
                let o = naga::back::hlsl::Options { fake_missing_bindings: true, shader_model: naga::back::hlsl::ShaderModel::V6_2, ..Default::default() };
                let p = Default::default();
                naga::back::hlsl::Writer::new(&mut s, &o, &p).write(&module, &info, None).unwrap_or_else(|e| panic!("{key} {e}"));
            }
        }
    }
    println!("{} variants", seen.len());
}
