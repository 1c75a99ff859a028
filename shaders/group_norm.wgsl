// The last third of group norm: each channel by its mean and scale, and SiLU where ACTIVATION names it.
//
//   out[image, p, c] = activate((x[image, p, c] - moments[image, 0, c]) * moments[image, 1, c] + beta[c])
//
// One invocation owns four neighbouring channels of a pixel; a workgroup 256 invocations.
// Preconditions: channels is a multiple of 4; x has no gaps.

//#include "shared/activation.wgsl"
//#include "shared/flat.wgsl"
//#include "shared/group_norm_params.wgsl"

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<x4>;                // [images, pixels, channels / 4], quads in all
@group(0) @binding(2) var<storage, read> moments: array<moments4>;    // [images, 2, channels / 4]: mean, scale
@group(0) @binding(3) var<storage, read> beta: array<vec4<f32>>;      // [channels / 4]
@group(0) @binding(4) var<storage, read_write> out: array<out4>;      // as x

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = flat_index(workgroup, workgroups, local);
    if (i < params.quads) {
        let pixel_quads = params.channels / 4u;
        let image = i / (params.pixels * pixel_quads);
        let channel = i % pixel_quads;
        let mean = image * 2u * pixel_quads + channel;
        let value = (vec4<f32>(x[i]) - moments[mean]) * moments[mean + pixel_quads] + beta[channel];
        out[i] = out4(activate(value));
    }
}
