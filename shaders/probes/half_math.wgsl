// What 16-bit arithmetic gives: functions of x, one after the other, as f32.
//
//   out = exp(x), exp2(x), sqrt(|x|), x * x + x, tanh(x)
//
// One invocation owns a vector of x. Preconditions: x is f16; the grid covers it.

struct Params {
    len: u32,
    pad_0: u32,
    pad_1: u32,
    pad_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<x4>;            // [len]
@group(0) @binding(2) var<storage, read_write> out: array<out4>;  // [5, len]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= params.len) {
        return;
    }
    let value = x[id.x];
    out[id.x] = out4(exp(value));
    out[params.len + id.x] = out4(exp2(value));
    out[2u * params.len + id.x] = out4(sqrt(abs(value)));
    out[3u * params.len + id.x] = out4(fma(value, value, value));
    out[4u * params.len + id.x] = out4(tanh(value));
}
