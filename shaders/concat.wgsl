// Joins two tensors on channels.
//
//   out[row] = (a[row], b[row])
//
// One invocation owns four neighbouring channels of a row; a workgroup 256 invocations.
// Preconditions: columns, strides and offsets are multiples of 4.

//#include "shared/flat.wgsl"

struct Params {
    quads: u32,
    columns_a: u32,
    columns: u32,
    a_stride: u32,
    a_offset: u32,
    b_stride: u32,
    b_offset: u32,
    pad_0: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<a4>;                // [rows, a_stride / 4]
@group(0) @binding(2) var<storage, read> b: array<b4>;                // [rows, b_stride / 4]
@group(0) @binding(3) var<storage, read_write> out: array<out4>;      // [rows, columns / 4], quads in all

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local);
    if (i >= params.quads) {
        return;
    }
    let row = i / (params.columns / 4u);
    let column = i % (params.columns / 4u) * 4u;
    if (column < params.columns_a) {
        out[i] = out4(a[(row * params.a_stride + params.a_offset + column) / 4u]);
    } else {
        out[i] = out4(b[(row * params.b_stride + params.b_offset + column - params.columns_a) / 4u]);
    }
}
