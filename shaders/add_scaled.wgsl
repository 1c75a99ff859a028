// Adds a tensor times a number of each image.
//
//   out[n, i] = x[n, i] + scale[n] * y[n mod images of y, i]        scale 1 without SCALED
//
// One invocation owns four neighbouring values; a workgroup 256 invocations.
// Preconditions: x and y have no gaps; y has as many images as x, or one.

//#include "shared/flat.wgsl"

struct Params {
    quads: u32,
    image_quads: u32,
    y_images: u32,
    // Of the vectors of scales: values from one image's to the next's, and which of them.
    scale_stride: u32,
    scale_at: u32,
    pad_0: u32,
    pad_1: u32,
    pad_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<x4>;                // [n, image_quads]
@group(0) @binding(2) var<storage, read> y: array<y4>;                // [y_images, image_quads]
//#if SCALED
@group(0) @binding(3) var<storage, read> scale: array<scale4>;        // [n, scale_stride / 4]
@group(0) @binding(4) var<storage, read_write> out: array<out4>;      // [n, image_quads], quads in all
//#else
@group(0) @binding(3) var<storage, read_write> out: array<out4>;      // [n, image_quads], quads in all
//#endif

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
    let image = i / params.image_quads;
    let added = vec4<f32>(y[image % params.y_images * params.image_quads + i % params.image_quads]);
//#if SCALED
    let at = image * params.scale_stride + params.scale_at;
    out[i] = out4(vec4<f32>(x[i]) + f32(scale[at / 4u][at % 4u]) * added);
//#else
    out[i] = out4(vec4<f32>(x[i]) + added);
//#endif
}
