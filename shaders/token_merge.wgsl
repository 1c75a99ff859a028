// Tokens in their slots; of a slot that several have, their mean.
//
//   out[image, s] = sum_t x[image, t] / number of t        over all t with slot[image, t].x = s
//
// One workgroup owns 64 neighbouring quads of a slot, an invocation one of them (x: slots and images, y: rest of them and quads). The workgroup looks for
// its slot's tokens 2048 at a time, an invocation 32 of them, and adds them in their order.
// Preconditions: x has no gaps; every slot has a token.

struct Params {
    tokens: u32,
    slots: u32,
    quads: u32,
    blocks: u32,
    all: u32,
    pad_0: u32,
    pad_1: u32,
    pad_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<x4>;                // [images, tokens, quads]
@group(0) @binding(2) var<storage, read> slot: array<slot4>;          // [images, tokens]
@group(0) @binding(3) var<storage, read_write> out: array<out4>;      // [images, slots, quads]

const INVOCATIONS: u32 = 64u;

// Which of 32 tokens are the slot's.
var<workgroup> members: array<u32, INVOCATIONS>;

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    // Workgroups past the end do what the last one does.
    let index = min(workgroup.y * workgroups.x + workgroup.x, params.all - 1u);
    let quad = index % params.blocks * INVOCATIONS + local;
    let own = index / params.blocks % params.slots;
    let image = index / params.blocks / params.slots;
    var sum = vec4<f32>();
    var count = 0u;
    for (var block = 0u; block < params.tokens; block += 32u * INVOCATIONS) {
        let first = block + local * 32u;
        var found = 0u;
        for (var i = 0u; i < 32u; i++) {
            if (first + i < params.tokens && u32(slot[image * params.tokens + first + i].x) == own) {
                found |= 1u << i;
            }
        }
        workgroupBarrier();
        members[local] = found;
        workgroupBarrier();
        for (var word = 0u; word < INVOCATIONS; word++) {
            var left = members[word];
            while (left != 0u) {
                let token = block + word * 32u + firstTrailingBit(left);
                left &= left - 1u;
                count++;
                if (quad < params.quads) {
                    sum += vec4<f32>(x[(image * params.tokens + token) * params.quads + quad]);
                }
            }
        }
    }
    if (quad < params.quads) {
        out[(image * params.slots + own) * params.quads + quad] = out4(sum / f32(count));
    }
}
