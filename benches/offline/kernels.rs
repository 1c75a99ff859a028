//! Every hot kernel in the variants that a GPU chooses for Stable Diffusion's layers.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use chiaro::gpu::expand;
use chiaro::ops::{
    Activation, Attention, Conv2d, Epilogue, GroupNorm, add_scaled, attention, concat, conv2d, elementwise, group_norm,
    layer_norm, match_tokens, matmul, merge_tokens, unmerge_tokens,
};
use chiaro::record::{AdapterKind, Caps, Constant, DType, Dispatch, Recording, Shape, Tensor};

use crate::Result;
use crate::form::Form;

/// A kernel in one variant, for one sort of device.
pub(crate) struct Hot {
    pub(crate) label: String,
    /// Final WGSL in place of the kernel's own.
    text: Option<String>,
    dispatch: Dispatch,
    caps: Caps,
}

impl Hot {
    pub(crate) fn form(&self) -> Result<Form> {
        let form = match &self.text {
            Some(text) => Form::of_text(text.clone(), &self.dispatch, &self.caps)?,
            None => Form::of(&self.dispatch, &self.caps)?,
        };
        if std::env::var_os("CHIARO_OFFLINE_WGSL").is_some() {
            println!("{}", form.wgsl);
        }
        Ok(form)
    }

    /// Whether most of its time goes into multiply-adds.
    pub(crate) fn is_product(&self) -> bool {
        self.text.is_some() || ["matmul", "conv2d", "attention"].iter().any(|name| self.label.starts_with(name))
    }

    /// Whether its activations are f16 and its products f32.
    pub(crate) fn widens(&self) -> bool {
        let variant = &self.dispatch.variant;
        !variant.has("PACKED") && variant.types.iter().any(|(name, dtype)| *name != "out" && *dtype == DType::F16)
    }

    /// One that no GPU has the registers for: more values live through a loop than there are. What does not find it at fault finds nothing.
    pub(crate) fn spilling(&self) -> Result<Form> {
        const VALUES: usize = 700;
        let all = |line: &dyn Fn(usize) -> String| (0..VALUES).map(line).collect::<String>();
        let wgsl = format!(
            "@group(0) @binding(0) var<storage, read> x: array<f32>;\n@group(0) @binding(1) var<storage, read_write> out: array<f32>;\n\
             @compute @workgroup_size(64) fn main(@builtin(local_invocation_index) local: u32) {{\n{}\
             for (var k = 0u; k < arrayLength(&x); k++) {{ let v = x[k + local];\n{}}}\n{}}}\n",
            all(&|i| format!("var s{i} = x[local + {i}u];\n")),
            all(&|i| format!("s{i} = fma(v, s{}, s{i});\n", (i + 1) % VALUES)),
            all(&|i| format!("out[{i}u * 64u + local] = s{i};\n")),
        );
        Ok(Form::of_text(wgsl, &self.dispatch, &self.caps)?)
    }
}

/// A GPU of the usual limits, as Mesa's drivers describe it.
pub(crate) fn caps(name: &str, storage: DType) -> Caps {
    Caps {
        name: name.into(),
        kind: AdapterKind::Discrete,
        storage,
        shader_f16: true,
        subgroups: true,
        subgroup_size: (32, 64),
        max_binding_bytes: (2 << 30) - 1,
        max_buffer_bytes: 4 << 30,
        max_workgroup_bytes: 64 << 10,
        max_invocations: 1024,
        max_storage_buffers: 32,
        ..Caps::webgpu()
    }
}

/// Weights: rows, columns, kernel. Each is made once.
fn weight(rec: &mut Recording, shape: &[usize], dtype: DType) -> Result<Tensor> {
    type Made = (Vec<usize>, DType, Arc<Constant>);
    static MADE: Mutex<Vec<Made>> = Mutex::new(Vec::new());
    let mut made = MADE.lock().map_err(|e| e.to_string())?;
    let known = made.iter().find(|known| (known.0.as_slice(), known.1) == (shape, dtype));
    let constant = match known {
        Some((.., constant)) => Arc::clone(constant),
        None => {
            let values = vec![0.0; shape.iter().product()];
            let constant = match dtype {
                DType::F32 => Constant::from_f32("weight", shape, &values),
                DType::F16 => Constant::from_f32_as_f16("weight", shape, &values),
                _ => Constant::from_f32_quantized("weight", shape, &values, dtype)?,
            };
            made.push((shape.to_vec(), dtype, Arc::clone(&constant)));
            constant
        }
    };
    Ok(rec.constant(&constant))
}

/// The variants that `devices` choose, each once, those with `part` in their label; or the final WGSL in the file of that name.
pub(crate) fn all(devices: impl IntoIterator<Item = Caps>, part: &str) -> Result<Vec<Hot>> {
    let file = part.ends_with(".wgsl");
    let (mut seen, mut found) = (HashSet::new(), Vec::new());
    for caps in devices {
        let mut rec = Recording::new(&caps);
        products(&mut rec)?;
        attentions(&mut rec)?;
        others(&mut rec)?;
        for dispatch in &rec.dispatches {
            let variant = &dispatch.variant;
            if seen.insert(expand(dispatch.kernel, variant)?) {
                let constants = variant.constants.iter().map(|(name, value)| format!("{name} {value}"));
                // Operands of another type than is stored.
                let others = variant.types.iter().filter(|(_, dtype)| *dtype != caps.storage);
                let others = others.map(|(name, dtype)| format!("{name} {}", dtype.name()));
                let words = variant.flags.iter().map(|flag| (*flag).to_owned()).chain(others).chain(constants);
                let words: Vec<String> = words.collect();
                let label = format!("{} {}, {}", dispatch.kernel.stem, caps.storage.name(), words.join(" "));
                let text = if file { Some(std::fs::read_to_string(part)?) } else { None };
                let label = if file { part.to_owned() } else { label };
                if label.contains(part) {
                    found.push(Hot { label, text, dispatch: dispatch.clone(), caps: caps.clone() });
                }
                if file {
                    return Ok(found);
                }
            }
        }
    }
    Ok(found)
}

fn products(rec: &mut Recording) -> Result<()> {
    for dtype in [DType::F16, DType::F32, DType::Q8_0, DType::Q4_0] {
        if rec.caps.storage == DType::F16 {
            let x = rec.in_f32(|rec| rec.tensor(Shape::tokens(2, 1024, 640)));
            let w = weight(rec, &[640, 640], dtype)?;
            matmul(rec, x, w, Epilogue::default())?;
        }
        for tokens in [1024, 64] {
            let x = rec.tensor(Shape::tokens(2, tokens, 640));
            let w = weight(rec, &[640, 640], dtype)?;
            let bias = rec.constant(&Constant::from_f32("bias", &[640], &[0.0; 640]));
            let residual = rec.tensor(Shape::tokens(2, tokens, 640));
            matmul(rec, x, w, Epilogue { bias: Some(bias), residual: Some(residual), ..Epilogue::default() })?;
        }
        for side in [64, 32, 8] {
            let x = rec.tensor(Shape::image(2, side, side, 320));
            let w = weight(rec, &[320, 3, 3, 320], dtype)?;
            conv2d(rec, x, w, Conv2d::SAME, Epilogue { activation: Activation::Silu, ..Epilogue::default() })?;
        }
    }
    let (wide, tokens) = (weight(rec, &[2560, 320], DType::F16)?, rec.tensor(Shape::tokens(2, 1024, 320)));
    matmul(rec, tokens, wide, Epilogue { gated: true, ..Epilogue::default() })?;
    Ok(())
}

fn attentions(rec: &mut Recording) -> Result<()> {
    for (heads, width, tokens, texts) in
        [(8, 40, 1024, 1024), (8, 80, 256, 256), (8, 160, 64, 64), (10, 64, 1024, 77), (1, 512, 1024, 1024)]
    {
        let q = rec.tensor(Shape::tokens(2, tokens, heads * width));
        let k = rec.tensor(Shape::tokens(2, texts, heads * width));
        let v = rec.tensor(Shape::tokens(2, texts, heads * width));
        attention(rec, q, k, v, Attention { heads, causal: false })?;
    }
    if rec.caps.storage == DType::F16 {
        for (heads, width) in [(8, 40), (10, 64), (8, 80)] {
            let q = rec.in_f32(|rec| rec.tensor(Shape::tokens(2, 1024, heads * width)));
            rec.in_f32(|rec| attention(rec, q, q, q, Attention { heads, causal: false }))?;
        }
    }
    Ok(())
}

/// What moves values and does little with them.
fn others(rec: &mut Recording) -> Result<()> {
    let x = rec.tensor(Shape::image(2, 32, 32, 320));
    let gamma = rec.constant(&Constant::from_f32("gamma", &[320], &[1.0; 320]));
    group_norm(rec, x, gamma, gamma, GroupNorm { groups: 32, eps: 1e-5, silu: true })?;
    let tokens = rec.tensor(Shape::tokens(2, 1024, 320));
    layer_norm(rec, tokens, gamma, gamma, 1e-5)?;
    elementwise(rec, x, Activation::Silu)?;
    add_scaled(rec, x, x, None)?;
    concat(rec, x, x)?;
    if let Some(by) = match_tokens(rec, x, 512, 1)? {
        let merged = merge_tokens(rec, x, &by)?;
        unmerge_tokens(rec, x, merged, &by)?;
    }
    Ok(())
}
