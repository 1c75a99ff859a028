// A function of each value.
//
//   out[i] = activate(x[i])
//
// One invocation owns four neighbouring values; a workgroup 256 invocations.
// Preconditions: x has no gaps.

//#include "shared/activation.wgsl"
//#include "shared/flat.wgsl"

struct Params {
    quads: u32,
    pad_0: u32,
    pad_1: u32,
    pad_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<x4>;                // [quads]
@group(0) @binding(2) var<storage, read_write> out: array<out4>;      // [quads]

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local);
    if (i < params.quads) {
        out[i] = out4(activate(vec4<f32>(x[i])));
    }
}
