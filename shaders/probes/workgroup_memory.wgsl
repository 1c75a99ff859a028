// Whether workgroup memory holds what is written, all of it, and whether it is zero at first where that was asked for.
//
//   out[i] = what stood at i before (0), what the invocation across wrote there less what it should be (0)
//
// One workgroup of INVOCATIONS and QUADS vectors of memory, which is zeroed (ZEROED). x is not used: a recording has an input.

struct Params {
    len: u32,
    pad_0: u32,
    pad_1: u32,
    pad_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<x4>;            // [1]
@group(0) @binding(2) var<storage, read_write> out: array<out4>;  // [QUADS]

var<workgroup> memory: array<vec4<f32>, QUADS>;

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(local_invocation_index) local: u32) {
    for (var i = local; i < QUADS; i += INVOCATIONS) {
        let before = abs(memory[i]);
        out[i] = out4(vec4<f32>(max(max(before.x, before.y), max(before.z, before.w)), 0.0, 0.0, 0.0));
    }
    workgroupBarrier();
    for (var i = local; i < QUADS; i += INVOCATIONS) {
        memory[i] = vec4<f32>(f32(i), f32(i + params.len), f32(local), 1.0);
    }
    workgroupBarrier();
    for (var i = INVOCATIONS - 1u - local; i < QUADS; i += INVOCATIONS) {
        let expected = vec4<f32>(f32(i), f32(i + params.len), f32(INVOCATIONS - 1u - local), 1.0) + x[0] * f32(params.pad_0);
        let off = abs(memory[i] - expected);
        out[i] = out4(vec4<f32>(f32(out[i].x), max(max(off.x, off.y), max(off.z, off.w)), 0.0, 0.0));
    }
}
