// How weights are stored, by flags: WEIGHT_F16, WEIGHT_F16_PACKED (no 16-bit type needed), WEIGHT_BLOCKS (q8_0, or with
// WEIGHT_Q4_0 q4_0); f32 without any. The including file binds weight as array<weight4>; load_weight(i, b) is quad i, which
// lies in block b: their places in the layout of the weight (src/record/panels.rs). Kernels that do something else between loading and
// unpacking have fetch_pair and unpack_pair, for a quad at an even place and the next of the same row.
//
// Blocks (src/record/quant.rs): first all quants, then one f16 scale for each 32 values, two a word. A row is a whole
// number of blocks, so eight quads share a scale. Params have columns, and inner_quads() is the length of a row.

//#if WEIGHT_BLOCKS
alias weight4 = u32;

// The words of both quads (WEIGHT_Q4_0: one, halves of it), and the scale in one half of the second member.
struct StoredPair {
//#if WEIGHT_Q4_0
    quants: u32,
//#else
    quants: vec2<u32>,
//#endif
    scales: u32,
    upper: bool,
}

fn scales_at(block: u32) -> u32 {
    let quads = params.columns * inner_quads();
//#if WEIGHT_Q4_0
    return weight[quads / 2u + block / 2u];
//#else
    return weight[quads + block / 2u];
//#endif
}

fn scaled(quants: vec4<f32>, scales: u32, upper: bool) -> vec4<f32> {
    let both = unpack2x16float(scales);
    let scale = select(both.x, both.y, upper);
//#if WEIGHT_Q4_0
    return fma(quants, vec4<f32>(scale), vec4<f32>(-8.0 * scale));
//#else
    return fma(quants, vec4<f32>(scale), vec4<f32>(-128.0 * scale));
//#endif
}

// Quants as bytes above 0, which GPUs turn into f32 in one instruction each.
//#if WEIGHT_Q4_0
fn unpack_quants(word: u32, upper: bool) -> vec4<f32> {
    let even = vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu));
    let odd = vec4<f32>(unpack4xU8((word >> 4u) & 0x0f0f0f0fu));
    return select(vec4<f32>(even.xy, odd.xy), vec4<f32>(even.zw, odd.zw), upper).xzyw;
}
//#else
fn unpack_quants(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(word ^ 0x80808080u));
}
//#endif

fn load_weight(quad: u32, block: u32) -> vec4<f32> {
//#if WEIGHT_Q4_0
    return scaled(unpack_quants(weight[quad / 2u], quad % 2u == 1u), scales_at(block), block % 2u == 1u);
//#else
    return scaled(unpack_quants(weight[quad]), scales_at(block), block % 2u == 1u);
//#endif
}

// Rows are whole blocks, so both quads lie in the same and `next` follows.
fn fetch_pair(quad: u32, next: u32) -> StoredPair {
    let block = quad / 8u;
//#if WEIGHT_Q4_0
    return StoredPair(weight[quad / 2u], scales_at(block), block % 2u == 1u);
//#else
    return StoredPair(vec2<u32>(weight[quad], weight[quad + 1u]), scales_at(block), block % 2u == 1u);
//#endif
}

fn unpack_pair(stored: StoredPair, side: u32) -> vec4<f32> {
//#if WEIGHT_Q4_0
    return scaled(unpack_quants(stored.quants, side == 1u), stored.scales, stored.upper);
//#else
    return scaled(unpack_quants(stored.quants[side]), stored.scales, stored.upper);
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
alias StoredPair = array<weight4, 2>;

fn unpack_weight(stored: weight4) -> vec4<f32> {
//#if WEIGHT_F16_PACKED
    return vec4<f32>(unpack2x16float(stored.x), unpack2x16float(stored.y));
//#else
    return vec4<f32>(stored);
//#endif
}

fn load_weight(quad: u32, block: u32) -> vec4<f32> {
    return unpack_weight(weight[quad]);
}

fn fetch_pair(quad: u32, next: u32) -> StoredPair {
    return StoredPair(weight[quad], weight[next]);
}

fn unpack_pair(stored: StoredPair, side: u32) -> vec4<f32> {
    return unpack_weight(stored[side]);
}
//#endif
