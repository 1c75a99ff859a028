// How weights are stored, by flags: WEIGHT_F16, WEIGHT_F16_PACKED (no 16-bit type needed), WEIGHT_BLOCKS (q8_0, or with
// WEIGHT_Q4_0 q4_0); f32 without any. The including file binds weight as array<weight4>; load_weight(i, b) is quad i, which
// lies in block b: their places in the layout of the weight (src/record/panels.rs). It is fetch_weight, which only loads, and
// unpack_weight, for kernels that do something else meanwhile.
//
// Blocks (src/record/quant.rs): first all quants, then one f16 scale for each 32 values, two a word. A row is a whole
// number of blocks, so eight quads share a scale. Params have columns, and inner_quads() is the length of a row.

fn load_weight(quad: u32, block: u32) -> vec4<f32> {
    return unpack_weight(fetch_weight(quad, block));
}

//#if WEIGHT_BLOCKS
alias weight4 = u32;
// Four quants in the low bits of the first, the scale in the half of the second that the third tells.
struct StoredWeight {
    quants: u32,
    scales: u32,
    upper: bool,
}

fn fetch_weight(quad: u32, block: u32) -> StoredWeight {
    let quads = params.columns * inner_quads();
//#if WEIGHT_Q4_0
    let quants = weight[quad / 2u] >> (quad % 2u * 16u);
    let scales = weight[quads / 2u + block / 2u];
//#else
    let quants = weight[quad];
    let scales = weight[quads + block / 2u];
//#endif
    return StoredWeight(quants, scales, block % 2u == 1u);
}

fn unpack_weight(stored: StoredWeight) -> vec4<f32> {
    let scales = unpack2x16float(stored.scales);
    let scale = select(scales.x, scales.y, stored.upper);
//#if WEIGHT_Q4_0
    let quants = (vec4<u32>(stored.quants) >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u);
    return scale * (vec4<f32>(quants) - 8.0);
//#else
    return scale * vec4<f32>(unpack4xI8(stored.quants));
//#endif
}
//#else
//#if WEIGHT_F16_PACKED
alias weight4 = vec2<u32>;
//#else
//#if WEIGHT_F16
alias weight4 = vec4<f16>;
//#else
alias weight4 = vec4<f32>;
//#endif
//#endif
alias StoredWeight = weight4;

fn fetch_weight(quad: u32, block: u32) -> StoredWeight {
    return weight[quad];
}

fn unpack_weight(stored: StoredWeight) -> vec4<f32> {
//#if WEIGHT_F16_PACKED
    return vec4<f32>(unpack2x16float(stored.x), unpack2x16float(stored.y));
//#else
    return vec4<f32>(stored);
//#endif
}
//#endif
