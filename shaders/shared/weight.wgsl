// How weights are stored, by flags: WEIGHT_F16, WEIGHT_F16_PACKED (no 16-bit type needed), WEIGHT_BLOCKS (q8_0, or with
// WEIGHT_Q4_0 q4_0); f32 without any. The including file binds weight as array<weight4>; load_weight(i, b) is quad i, which
// lies in block b: their places in the layout of the weight (src/record/panels.rs).
//
// Blocks (src/record/quant.rs): first all quants, then one f16 scale for each 32 values, two a word. A row is a whole
// number of blocks, so eight quads share a scale. Params have columns, and inner_quads() is the length of a row.

//#if WEIGHT_BLOCKS
alias weight4 = u32;
fn load_weight(quad: u32, block: u32) -> vec4<f32> {
    let quads = params.columns * inner_quads();
//#if WEIGHT_Q4_0
    let bits = weight[quad / 2u] >> (quad % 2u * 16u);
    let quants = (vec4<u32>(bits) >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u);
    return load_scale(quads / 2u, block) * (vec4<f32>(quants) - 8.0);
//#else
    return load_scale(quads, block) * vec4<f32>(unpack4xI8(weight[quad]));
//#endif
}

// The scale of a block, from the words that begin at first.
fn load_scale(first: u32, block: u32) -> f32 {
    let scales = unpack2x16float(weight[first + block / 2u]);
    return select(scales.x, scales.y, block % 2u == 1u);
}
//#else
//#if WEIGHT_F16
alias weight4 = vec4<f16>;
fn load_weight(quad: u32, block: u32) -> vec4<f32> {
    return vec4<f32>(weight[quad]);
}
//#else
//#if WEIGHT_F16_PACKED
alias weight4 = vec2<u32>;
fn load_weight(quad: u32, block: u32) -> vec4<f32> {
    let packed = weight[quad];
    return vec4<f32>(unpack2x16float(packed.x), unpack2x16float(packed.y));
}
//#else
alias weight4 = vec4<f32>;
fn load_weight(quad: u32, block: u32) -> vec4<f32> {
    return weight[quad];
}
//#endif
//#endif
//#endif
