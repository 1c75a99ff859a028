// The second half of group norm: each channel by its group's mean and deviation, and SiLU where ACTIVATION names it.
//
//   out[image, p, c] = activate((x[image, p, c] - mean) * scale + beta[c]),   scale = gamma[c] / sqrt(variance + eps)
//
// One workgroup owns 4 * ACROSS channels of span pixels (x: block of channels, y: span, z: image), one invocation four of
// them at every DOWN-th pixel. First it joins the statistics of the block's groups over all chunks, LANES invocations for
// a group: two sets of (count, mean, M2) as Chan, Golub and LeVeque (1979) do, always in the same order. With GIVEN, mean
// and scale of each channel are an input.
// Preconditions: channels is a multiple of 4 and of groups; LANES is a power of two, at least one group's worth of which
// falls to each group of a block; every chunk has a pixel.

//#include "shared/activation.wgsl"
//#include "shared/group_norm_params.wgsl"

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<x4>;                          // [images, pixels, x_stride / 4]
//#if GIVEN
@group(0) @binding(2) var<storage, read> moments: array<moments4>;              // [images, 2, channels / 4]: mean, scale
//#else
@group(0) @binding(2) var<storage, read> moments_of_chunks: array<vec2<f32>>;   // [images, chunks, groups, segments]: mean, M2
@group(0) @binding(3) var<storage, read> gamma: array<f32>;                     // [channels]
//#endif
@group(0) @binding(4) var<storage, read> beta: array<vec4<f32>>;                // [channels / 4]
@group(0) @binding(5) var<storage, read_write> out: array<out4>;                // [images, pixels, channels / 4]

//#if GIVEN
//#else
// Count, mean and sum of squared deviations of a set of values.
var<workgroup> sums: array<vec3<f32>, INVOCATIONS>;

fn join(a: vec3<f32>, b: vec3<f32>) -> vec3<f32> {
    let total = a.x + b.x;
    let delta = b.y - a.y;
    let share = b.x / max(total, 1.0);
    return vec3<f32>(total, a.y + delta * share, a.z + b.z + delta * delta * (a.x * share));
}

// Every LANES-th of a group's segments over all chunks, from the first on.
fn join_segments(image: u32, group: u32, first: u32) -> vec3<f32> {
    let group_channels = params.channels / params.groups;
    let low = group * group_channels;
    let high = low + group_channels;
    let first_block = low / params.block;
    let segments = (high - 1u) / params.block + 1u - first_block;
    var sum = vec3<f32>();
    for (var i = first; i < params.chunks * segments; i += LANES) {
        let chunk = i / segments;
        let block = first_block + i % segments;
        let channels = min(high, (block + 1u) * params.block) - max(low, block * params.block);
        let pixels = min(params.chunk_pixels, params.pixels - chunk * params.chunk_pixels);
        let moments = moments_of_chunks[moments_place(image, chunk, group, block)];
        sum = join(sum, vec3<f32>(f32(channels * pixels), moments));
    }
    return sum;
}
//#endif

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let quads = params.channels / 4u;
    let quad = workgroup.x * ACROSS + local % ACROSS;
    let image = workgroup.z;
//#if GIVEN
    if (quad >= quads) {
        return;
    }
    let mean = moments[image * 2u * quads + quad];
    let scale = moments[(image * 2u + 1u) * quads + quad];
//#else
    let group_channels = params.channels / params.groups;
    let first_group = workgroup.x * params.block / group_channels;
    let own_group = first_group + local / LANES;
    var sum = vec3<f32>();
    if (own_group < params.groups) {
        sum = join_segments(image, own_group, local % LANES);
    }
    sums[local] = sum;
    for (var reach = LANES / 2u; reach > 0u; reach /= 2u) {
        workgroupBarrier();
        if (local % LANES < reach) {
            sums[local] = join(sums[local], sums[local + reach]);
        }
    }
    workgroupBarrier();
    if (quad >= quads) {
        return;
    }
    var mean: vec4<f32>;
    var scale: vec4<f32>;
    for (var i = 0u; i < 4u; i++) {
        let channel = 4u * quad + i;
        let all = sums[(channel / group_channels - first_group) * LANES];
        mean[i] = all.y;
        scale[i] = gamma[channel] * inverseSqrt(all.z / all.x + params.eps);
    }
//#endif
    let shift = beta[quad];
    let end = min((workgroup.y + 1u) * params.span, params.pixels);
    for (var pixel = workgroup.y * params.span + local / ACROSS; pixel < end; pixel += DOWN) {
        let row = image * params.pixels + pixel;
        let value = (vec4<f32>(x[(row * params.x_stride + params.x_offset) / 4u + quad]) - mean) * scale + shift;
        out[row * quads + quad] = out4(activate(value));
    }
}
