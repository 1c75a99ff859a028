// Whether workgroup memory holds what is written, or (ZEROED) is zero at first where that was asked for.
//
//   out[i] = what the invocation across wrote to i less what it should be, or what stands there before anything is written: 0
//
// One workgroup of INVOCATIONS and QUADS vectors of memory. x is not used: a recording has an input. ZEROED is for little memory: FXC
// does not come to an end with zeroes for much.

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
//#if ZEROED
    for (var i = local; i < QUADS; i += INVOCATIONS) {
        out[i] = out4(abs(memory[i]) + abs(x[0] * f32(params.pad_0)));
    }
//#else
    for (var i = local; i < QUADS; i += INVOCATIONS) {
        memory[i] = vec4<f32>(f32(i), f32(i + params.len), f32(local), 1.0);
    }
    workgroupBarrier();
    for (var i = INVOCATIONS - 1u - local; i < QUADS; i += INVOCATIONS) {
        let expected = vec4<f32>(f32(i), f32(i + params.len), f32(INVOCATIONS - 1u - local), 1.0) + x[0] * f32(params.pad_0);
        out[i] = out4(abs(memory[i] - expected));
    }
//#endif
}
