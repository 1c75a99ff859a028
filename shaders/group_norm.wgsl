// The last third of group norm: the scale and shift of each channel, and SiLU where ACTIVATION names it.
//
//   out[image, p, c] = activate(x[image, p, c] * affine[image, 0, c] + affine[image, 1, c])
//
// One invocation owns four neighbouring channels of a pixel; a workgroup 256 invocations.
// Preconditions: channels is a multiple of 4; x has no gaps.

//#include "shared/storage.wgsl"
//#include "shared/activation.wgsl"
//#include "shared/flat.wgsl"
//#include "shared/group_norm_params.wgsl"

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<act4>;              // [images, pixels, channels / 4], quads in all
@group(0) @binding(2) var<storage, read> affine: array<vec4<f32>>;    // [images, 2, channels / 4]: scale, shift
@group(0) @binding(3) var<storage, read_write> out: array<act4>;      // as x

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
        let scale = image * 2u * pixel_quads + i % pixel_quads;
        out[i] = act4(activate(fma(vec4<f32>(x[i]), affine[scale], affine[scale + pixel_quads])));
    }
}
