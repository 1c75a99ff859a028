//! Recordings that between them use every form of every kernel.

use chiaro::gpu::picture_recording;
use chiaro::ops::{
    Activation, Attention, Conv2d, Epilogue, GroupNorm, Scales, add_scaled, attention, concat, conv2d, elementwise,
    group_norm, group_norm_by, layer_norm, match_tokens, matmul, merge_tokens, unmerge_tokens,
};
use chiaro::record::{AdapterKind, Caps, Constant, DType, MatrixShape, Recording, Shape, Tensor, Vendor};

const ACTIVATIONS: [Activation; 6] = [
    Activation::None,
    Activation::Silu,
    Activation::Gelu,
    Activation::QuickGelu,
    Activation::Relu,
    Activation::ScaledTanh,
];

/// Capabilities that choices depend on: the least there is, a laptop's, a workstation's, a software driver's, and each storage type.
pub(super) fn all_caps() -> Vec<Caps> {
    let webgpu = Caps::webgpu();
    let native_f16 = Caps { name: "shader_f16".into(), shader_f16: true, ..webgpu.clone() };
    let f16_storage = Caps { name: "f16 storage".into(), storage: DType::F16, ..native_f16.clone() };
    let large = Caps {
        name: "large limits".into(),
        subgroups: true,
        subgroup_size: (32, 32),
        max_binding_bytes: (2 << 30) - 1,
        max_buffer_bytes: u64::MAX,
        max_workgroup_bytes: 64 << 10,
        max_invocations: 1024,
        max_workgroups: u32::MAX,
        max_storage_buffers: 32,
        binding_alignment: 16,
        ..f16_storage.clone()
    };
    let large_f32 = Caps { name: "large limits, f32".into(), storage: DType::F32, ..large.clone() };
    let software = |caps: &Caps, size: u32| Caps {
        name: format!("{} in software", caps.name),
        kind: AdapterKind::Software,
        subgroup_size: (size, size),
        ..caps.clone()
    };
    let matrices = |size: u32, lanes: u32| Caps {
        name: format!("matrices of {size}, subgroups of {lanes}"),
        subgroup_size: (lanes, lanes),
        matrices: vec![MatrixShape::square(size)],
        matrix_quads: (size, lanes) != (8, 32),
        ..large.clone()
    };
    // A Mac, Mesa's software driver seen as a GPU, Radeons, GeForces.
    let coop = [(8, 32), (8, 8), (16, 64), (16, 32)].map(|(size, lanes)| matrices(size, lanes));
    let (eight, four) = (software(&large, 8), software(&large_f32, 4));
    // What is left where a driver gets a tier wrong.
    let sums_in_f32 = Caps { name: "large limits, sums in f32".into(), packed_f16: false, ..large.clone() };
    // Arc, and what a host's device leaves of it.
    let intel = Caps { name: "Intel".into(), vendor: Vendor::Intel, subgroup_size: (8, 32), ..large.clone() };
    let intel_f32 = Caps { name: "Intel, f32".into(), storage: DType::F32, ..intel.clone() };
    let intel_small = Caps {
        name: "Intel, small limits".into(),
        max_workgroup_bytes: 16 << 10,
        max_invocations: 256,
        ..intel.clone()
    };
    let without_subgroups = Caps {
        name: "in software, without subgroups".into(),
        subgroups: false,
        subgroup_size: (0, 0),
        ..eight.clone()
    };
    let mut all = vec![webgpu, native_f16, f16_storage, large, large_f32, eight, four, sums_in_f32, without_subgroups];
    all.extend([intel, intel_f32, intel_small]);
    all.extend(coop);
    all
}

/// Which tensors of an operation are f32 although the storage type may be f16.
#[derive(Clone, Copy, Default)]
struct Mixture {
    /// The first operand.
    x: bool,
    /// The other activations that it reads.
    others: bool,
    /// The result.
    out: bool,
}

impl Mixture {
    fn all() -> impl Iterator<Item = Self> {
        (0..8).map(|set| Mixture { x: set & 1 != 0, others: set & 2 != 0, out: set & 4 != 0 })
    }

    fn x(self, rec: &mut Recording, shape: Shape) -> Tensor {
        made(rec, self.x, |rec| rec.tensor(shape))
    }

    fn other(self, rec: &mut Recording, shape: Shape) -> Tensor {
        made(rec, self.others, |rec| rec.tensor(shape))
    }

    fn record(self, rec: &mut Recording, op: impl FnOnce(&mut Recording) -> chiaro::Result<Tensor>) {
        made(rec, self.out, op).unwrap();
    }
}

fn made<T>(rec: &mut Recording, in_f32: bool, body: impl FnOnce(&mut Recording) -> T) -> T {
    if in_f32 { rec.in_f32(body) } else { body(rec) }
}

/// For each of `caps`, every operation, what makes a texture of a picture, and the probes of drivers.
pub(super) fn recordings(caps: &[Caps]) -> Vec<Recording> {
    let of = |caps: &Caps| {
        let made_here = [record_all(caps), picture_recording(caps)];
        made_here.into_iter().chain(chiaro::doctor::probes(caps))
    };
    caps.iter().flat_map(of).collect()
}

/// One recording with every operation in every form that `caps` leads to. Tiles do not depend on element types, so
/// mixtures of types are recorded at one shape each.
pub(super) fn record_all(caps: &Caps) -> Recording {
    let mut rec = Recording::new(caps);
    for mixture in Mixture::all().take(if caps.storage == DType::F32 { 1 } else { 8 }) {
        let shapes = if mixture.x || mixture.others || mixture.out { 1 } else { usize::MAX };
        for dtype in [DType::F32, DType::F16, DType::Q8_0, DType::Q4_0] {
            products(&mut rec, dtype, mixture, shapes);
        }
        norms(&mut rec, mixture, shapes);
        attentions(&mut rec, mixture, shapes);
        token_merging(&mut rec, mixture);
    }
    rec
}

fn token_merging(rec: &mut Recording, mixture: Mixture) {
    let tokens = mixture.x(rec, Shape::image(2, 9, 6, 40));
    let by = match_tokens(rec, tokens, 20, 1).unwrap().expect("tokens to merge");
    mixture.record(rec, |rec| merge_tokens(rec, tokens, &by));
    let of_slots = mixture.other(rec, Shape::tokens(2, by.count(), 40));
    mixture.record(rec, |rec| unmerge_tokens(rec, tokens, of_slots, &by));
}

fn constant(rec: &mut Recording, shape: &[usize], dtype: DType) -> Tensor {
    let values = vec![0.0; shape.iter().product()];
    let constant = match dtype {
        DType::F32 => Constant::from_f32("constant", shape, &values),
        DType::F16 => Constant::from_f32_as_f16("constant", shape, &values),
        blocks => Constant::from_f32_quantized("constant", shape, &values, blocks).unwrap(),
    };
    rec.constant(&constant)
}

/// All sums with one function, and all functions with one sum.
fn epilogues(rec: &mut Recording, mixture: Mixture, out: Shape) -> Vec<Epilogue> {
    let bias = constant(rec, &[out.c], DType::F32);
    let image_add = mixture.other(rec, Shape::image(out.n, 1, 1, out.c));
    let residual = mixture.other(rec, out);
    let sums = (0..8).map(|set| Epilogue {
        bias: (set & 1 != 0).then_some(bias),
        image_add: (set & 2 != 0).then_some(image_add),
        residual: (set & 4 != 0).then_some(residual),
        ..Epilogue::default()
    });
    let functions = ACTIVATIONS.map(|activation| Epilogue { activation, ..Epilogue::bias(Some(bias)) });
    sums.chain(functions).collect()
}

fn products(rec: &mut Recording, dtype: DType, mixture: Mixture, shapes: usize) {
    // Few results, many results, few rows of many columns: each leads to tiles of its own.
    for (tokens, inner, columns) in
        [(8, 32, 32), (4096, 32, 320), (77, 768, 3072), (1, 320, 1280)].into_iter().take(shapes)
    {
        let x = mixture.x(rec, Shape::tokens(2, tokens, inner));
        let weight = constant(rec, &[columns, inner], dtype);
        for bias in [None, Some(constant(rec, &[columns], DType::F32))] {
            let gated = Epilogue { gated: true, ..Epilogue::bias(bias) };
            mixture.record(rec, |rec| matmul(rec, x, weight, gated));
        }
        for epilogue in epilogues(rec, mixture, Shape::tokens(2, tokens, columns)) {
            mixture.record(rec, |rec| matmul(rec, x, weight, epilogue));
        }
        let wide = mixture.x(rec, Shape::tokens(2, tokens, 2 * inner));
        mixture.record(rec, |rec| matmul(rec, wide.channels(inner, inner), weight, Epilogue::default()));
    }
    for (side, c_in, c_out) in [(4, 32, 16), (64, 32, 320)].into_iter().take(shapes) {
        let x = mixture.x(rec, Shape::image(2, side, side, c_in));
        let weight = constant(rec, &[c_out, 3, 3, c_in], dtype);
        for epilogue in epilogues(rec, mixture, Shape::image(2, side, side, c_out)) {
            mixture.record(rec, |rec| conv2d(rec, x, weight, Conv2d::SAME, epilogue));
        }
        let enlarged = Conv2d { upsample_to: Some((2 * side, 2 * side)), ..Conv2d::SAME };
        mixture.record(rec, |rec| conv2d(rec, x, weight, enlarged, Epilogue::default()));
        let halved = Conv2d { stride: 2, ..Conv2d::SAME };
        mixture.record(rec, |rec| conv2d(rec, x, weight, halved, Epilogue::default()));
        let pointwise = constant(rec, &[c_out, 1, 1, c_in], dtype);
        let geometry = Conv2d { kernel: 1, pad_before: 0, pad_after: 0, ..Conv2d::SAME };
        mixture.record(rec, |rec| conv2d(rec, x, pointwise, geometry, Epilogue::default()));
    }
}

fn norms(rec: &mut Recording, mixture: Mixture, shapes: usize) {
    let extents = [(1, 4, 1), (8, 320, 32), (16, 640, 32), (64, 128, 32), (5, 12, 3)];
    for (side, channels, groups) in extents.into_iter().take(shapes) {
        let x = mixture.x(rec, Shape::image(2, side, side, channels));
        let gamma = constant(rec, &[channels], DType::F32);
        let beta = constant(rec, &[channels], DType::F32);
        for silu in [false, true] {
            mixture.record(rec, |rec| group_norm(rec, x, gamma, beta, GroupNorm { groups, eps: 1e-5, silu }));
        }
        let moments = rec.in_type(DType::F32, |rec| rec.input("moments", Shape::image(2, 1, 2, channels)));
        mixture.record(rec, |rec| group_norm_by(rec, x, moments, beta, true));
        mixture.record(rec, |rec| layer_norm(rec, x, gamma, beta, 1e-5));
        for activation in ACTIVATIONS {
            mixture.record(rec, |rec| elementwise(rec, x, activation));
        }
        let skip = mixture.other(rec, Shape { c: 8, ..x.shape });
        mixture.record(rec, |rec| concat(rec, x, skip));
        let (same, vectors) = (mixture.other(rec, x.shape), mixture.other(rec, Shape::image(2, 1, 1, 16)));
        for scales in [None, Some(Scales { vectors, at: 13 })] {
            mixture.record(rec, |rec| add_scaled(rec, x, same, scales));
        }
    }
}

fn attentions(rec: &mut Recording, mixture: Mixture, shapes: usize) {
    for head in [8, 32, 40, 64, 80, 128, 160, 512].into_iter().take(shapes) {
        for (heads, queries, keys) in [(1, 77, 77), (2, 16, 16), (2, 256, 77), (1, 4096, 4096)] {
            let q = mixture.x(rec, Shape::tokens(2, queries, heads * head));
            let [k, v] = [(); 2].map(|()| mixture.other(rec, Shape::tokens(2, keys, heads * head)));
            for causal in [false, true] {
                if !causal || queries == keys {
                    mixture.record(rec, |rec| attention(rec, q, k, v, Attention { heads, causal }));
                }
            }
        }
        let qkv = mixture.x(rec, Shape::tokens(1, 64, 3 * head));
        let [q, k, v] = [0, 1, 2].map(|part| qkv.channels(part * head, head));
        mixture.record(rec, |rec| attention(rec, q, k, v, Attention { heads: 1, causal: false }));
    }
}
