//! The text of every hot kernel in the variants that a GPU chooses for Stable Diffusion's layers.

use std::collections::HashSet;

use chiaro::gpu::expand;
use chiaro::ops::{
    Activation, Attention, Conv2d, Epilogue, GroupNorm, attention, conv2d, group_norm, layer_norm, matmul,
};
use chiaro::record::{AdapterKind, Caps, Constant, DType, MatrixShape, Recording, Shape};

/// A GPU as RADV describes it.
fn caps(storage: DType) -> Caps {
    Caps {
        name: "RADV".into(),
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

/// Weights: rows, columns, kernel.
fn weight(rec: &mut Recording, shape: &[usize], dtype: DType) -> chiaro::Result<chiaro::record::Tensor> {
    let values = vec![0.0; shape.iter().product()];
    let constant = match dtype {
        DType::F32 => Constant::from_f32("weight", shape, &values),
        DType::F16 => Constant::from_f32_as_f16("weight", shape, &values),
        _ => Constant::from_f32_quantized("weight", shape, &values, dtype)?,
    };
    Ok(rec.constant(&constant))
}

/// Labels and WGSL, each variant once; `matrices` where the GPU has cooperative ones.
pub(crate) fn all(matrices: bool) -> chiaro::Result<Vec<(String, String)>> {
    let (mut seen, mut found) = (HashSet::new(), Vec::new());
    let with_matrices = Caps { matrices: vec![MatrixShape::square(16)], matrix_quads: true, ..caps(DType::F16) };
    let devices = [caps(DType::F16), caps(DType::F32)].into_iter().chain(matrices.then_some(with_matrices));
    for caps in devices {
        let storage = caps.storage;
        let mut rec = Recording::new(&caps);
        for dtype in [DType::F16, DType::F32, DType::Q8_0, DType::Q4_0] {
            if storage == DType::F16 {
                let x = rec.in_f32(|rec| rec.tensor(Shape::tokens(2, 1024, 640)));
                let w = weight(&mut rec, &[640, 640], dtype)?;
                matmul(&mut rec, x, w, Epilogue::default())?;
            }
            for tokens in [1024, 64] {
                let x = rec.tensor(Shape::tokens(2, tokens, 640));
                let w = weight(&mut rec, &[640, 640], dtype)?;
                let bias = rec.constant(&Constant::from_f32("bias", &[640], &[0.0; 640]));
                let residual = rec.tensor(Shape::tokens(2, tokens, 640));
                matmul(&mut rec, x, w, Epilogue { bias: Some(bias), residual: Some(residual), ..Epilogue::default() })?;
            }
            for side in [32, 8] {
                let x = rec.tensor(Shape::image(2, side, side, 320));
                let w = weight(&mut rec, &[320, 3, 3, 320], dtype)?;
                conv2d(&mut rec, x, w, Conv2d::SAME, Epilogue { activation: Activation::Silu, ..Epilogue::default() })?;
            }
        }
        for (heads, width, tokens, texts) in
            [(8, 40, 1024, 1024), (8, 80, 256, 256), (8, 160, 64, 64), (10, 64, 1024, 77), (1, 512, 1024, 1024)]
        {
            let q = rec.tensor(Shape::tokens(2, tokens, heads * width));
            let k = rec.tensor(Shape::tokens(2, texts, heads * width));
            let v = rec.tensor(Shape::tokens(2, texts, heads * width));
            attention(&mut rec, q, k, v, Attention { heads, causal: false })?;
        }
        if storage == DType::F16 {
            for (heads, width) in [(8, 40), (10, 64), (8, 80)] {
                let q = rec.in_f32(|rec| rec.tensor(Shape::tokens(2, 1024, heads * width)));
                rec.in_f32(|rec| attention(rec, q, q, q, Attention { heads, causal: false }))?;
            }
        }
        let x = rec.tensor(Shape::image(2, 32, 32, 320));
        let gamma = rec.constant(&Constant::from_f32("gamma", &[320], &[1.0; 320]));
        group_norm(&mut rec, x, gamma, gamma, GroupNorm { groups: 32, eps: 1e-5, silu: true })?;
        let tokens = rec.tensor(Shape::tokens(2, 1024, 320));
        layer_norm(&mut rec, tokens, gamma, gamma, 1e-5)?;
        let (wide, tokens) = (weight(&mut rec, &[2560, 320], DType::F16)?, rec.tensor(Shape::tokens(2, 1024, 320)));
        matmul(&mut rec, tokens, wide, Epilogue { gated: true, ..Epilogue::default() })?;
        for dispatch in &rec.dispatches {
            let text = expand(dispatch.kernel, &dispatch.variant)?;
            if seen.insert(text.clone()) {
                let (flags, constants) = (dispatch.variant.flags.join(" "), &dispatch.variant.constants);
                let constants: Vec<String> = constants.iter().map(|(name, value)| format!("{name} {value}")).collect();
                let label = format!("{} {}, {flags} {}", dispatch.kernel.stem, storage.name(), constants.join(" "));
                found.push((label.trim_end().to_owned(), text));
            }
        }
    }
    Ok(found)
}
