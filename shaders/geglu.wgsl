// The gated unit of a feed-forward layer: the first half of the channels times the GELU of the second.
//
//   out[row, i] = x[row, i] * gelu(x[row, columns + i])
//
// One invocation owns four neighbouring channels of a row; a workgroup 256 invocations.
// Preconditions: columns is a multiple of 4; x has no gaps.

//#include "shared/gelu.wgsl"
//#include "shared/flat.wgsl"

struct Params {
    quads: u32,
    columns: u32,
    pad_0: u32,
    pad_1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<x4>;                // [rows, 2 * columns / 4]
@group(0) @binding(2) var<storage, read_write> out: array<out4>;      // [rows, columns / 4], quads in all

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local);
    if (i < params.quads) {
        let row_quads = params.columns / 4u;
        let value = i + i / row_quads * row_quads;
        out[i] = out4(vec4<f32>(x[value]) * gelu(vec4<f32>(x[value + row_quads])));
    }
}
