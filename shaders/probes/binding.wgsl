// Whether a large storage binding holds what is written at its start, in its middle and at its end.
//
//   out[i * step] = i, where out is as long as a binding may be, then 16 of them read back (READS)
//
// One workgroup of 16 invocations.

struct Params {
    step: u32,
    pad_0: u32,
    pad_1: u32,
    pad_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<x4>;            // [1], or what was written (READS)
@group(0) @binding(2) var<storage, read_write> out: array<out4>;  // [15 * step + 1], or [16] (READS)

@compute @workgroup_size(16)
fn main(@builtin(local_invocation_index) local: u32) {
//#if READS
    out[local] = out4(x[local * params.step]);
//#else
    out[local * params.step] = out4(vec4<f32>(f32(local) + x[0].x));
//#endif
}
