// Every token gets what its slot has.
//
//   out[image, t] = x[image, t] + y[image, slot[image, t].x]
//
// One invocation owns four neighbouring channels of a token; a workgroup 256 invocations.
// Preconditions: x and y have no gaps.

//#include "shared/flat.wgsl"

struct Params {
    // Of all images.
    all_quads: u32,
    tokens: u32,
    slots: u32,
    quads: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<x4>;                // [images, tokens, quads]
@group(0) @binding(2) var<storage, read> y: array<y4>;                // [images, slots, quads]
@group(0) @binding(3) var<storage, read> slot: array<slot4>;          // [images, tokens]
@group(0) @binding(4) var<storage, read_write> out: array<out4>;      // [images, tokens, quads]

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local);
    if (i >= params.all_quads) {
        return;
    }
    let token = i / params.quads;
    let place = token / params.tokens * params.slots + u32(slot[token].x);
    out[i] = out4(vec4<f32>(x[i]) + vec4<f32>(y[place * params.quads + i % params.quads]));
}
