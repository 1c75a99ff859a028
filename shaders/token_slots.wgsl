// Where each token of an image goes when the MERGED most similar ones are merged into their best destinations.
//
//   out[image, t].x = c                               t is the destination of cell c, or is merged into it
//                     cells + rank(t) - merged        otherwise; rank counts the tokens that are more similar, or as similar and before t
//
// One invocation owns a token (x: tokens, y: image); a workgroup brings the similarities to workgroup memory, 256 at a time.

struct Params {
    tokens: u32,
    cells: u32,
    merged: u32,
    pad_0: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<x4>;                // [images, tokens]: similarity, cell (token_match.wgsl)
@group(0) @binding(2) var<storage, read_write> out: array<out4>;      // [images, tokens]

// Destinations' similarities lie above, cosines below.
const LIMIT: f32 = 2.0;
const BLOCK: u32 = 256u;

var<workgroup> similarities: array<f32, BLOCK>;

@compute @workgroup_size(BLOCK)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let first = workgroup.y * params.tokens;
    let token = workgroup.x * BLOCK + local;
    let own = vec4<f32>(x[first + min(token, params.tokens - 1u)]);
    var rank = 0u;
    for (var block = 0u; block < params.tokens; block += BLOCK) {
        let count = min(BLOCK, params.tokens - block);
        workgroupBarrier();
        if (local < count) {
            similarities[local] = f32(x[first + block + local].x);
        }
        workgroupBarrier();
        for (var i = 0u; i < count; i++) {
            let other = similarities[i];
            let precedes = other > own.x || (other == own.x && block + i < token);
            rank += select(0u, 1u, other < LIMIT && precedes);
        }
    }
    if (token >= params.tokens) {
        return;
    }
    var slot = own.y;
    if (own.x < LIMIT && rank >= params.merged) {
        slot = f32(params.cells + rank - params.merged);
    }
    out[first + token] = out4(vec4<f32>(slot, 0.0, 0.0, 0.0));
}
