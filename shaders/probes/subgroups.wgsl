// What an invocation sees of its subgroup.
//
//   out = size of the subgroup, place in it, the first lane's invocation, the neighbour's invocation (lanes 0 and 1, 2 and 3, ..)
//
// One workgroup of INVOCATIONS. x is not used: a recording has an input.

struct Params {
    len: u32,
    pad_0: u32,
    pad_1: u32,
    pad_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<x4>;            // [1]
@group(0) @binding(2) var<storage, read_write> out: array<out4>;  // [INVOCATIONS]

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let own = f32(local) + x[0].x * f32(params.pad_0);
    let first = subgroupShuffle(own, 0u);
    let neighbour = subgroupShuffleXor(own, 1u);
    out[local] = out4(vec4<f32>(f32(size), f32(lane), first, neighbour));
}
