// A decoder's output as 8-bit pixels, rounded as image::Rgb8Image does.
//
//   out = round(255 clamp(v / 2 + 1/2)),  v = x, or 2 x - 1 where x is 0…1
//
// One invocation owns a pixel; a workgroup 256 invocations. Rows of `out` begin at multiples of 256 bytes, as copies to textures ask. Behind
// the last row stands how many values are not finite.
// Preconditions: x is one image of three or four channels, of which three are colours.

//#include "shared/flat.wgsl"

struct Params {
    width: u32,
    height: u32,
    // Elements from one pixel to the next, and before the first.
    stride: u32,
    offset: u32,
    // Words of a row of `out`.
    row: u32,
    // Not 0 where x is 0…1.
    from_zero: u32,
    pad_0: u32,
    pad_1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<x4>;                   // [height · width · stride / 4]
@group(0) @binding(2) var<storage, read_write> out: array<atomic<u32>>;  // [height · row + 1]

fn value(i: u32) -> f32 {
    let quad = vec4<f32>(x[i / 4u]);
    return quad[i % 4u];
}

// NaN is black, as it is for the processor.
fn level(i: u32) -> u32 {
    let given = value(i);
    let bits = bitcast<u32>(given) & 0x7fffffffu;
    if (bits >= 0x7f800000u) {
        atomicAdd(&out[params.height * params.row], 1u);
    }
    let signed = select(given, given * 2.0 - 1.0, params.from_zero != 0u);
    let shown = select(signed, -1.0, bits > 0x7f800000u);
    return u32(round(clamp(shown * 0.5 + 0.5, 0.0, 1.0) * 255.0));
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let pixel = flat_index(workgroup, workgroups, local);
    if (pixel >= params.width * params.height) {
        return;
    }
    let first = pixel * params.stride + params.offset;
    let place = pixel / params.width * params.row + pixel % params.width;
    let colours = level(first) | (level(first + 1u) << 8u) | (level(first + 2u) << 16u);
    atomicStore(&out[place], colours | 0xff000000u);
}
