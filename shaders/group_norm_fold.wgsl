// The second third of group norm: joins the statistics of a group's channels over all chunks, and gives each channel the
// mean and the scale that normalise it.
//
//   out[image, 0, c] = mean,   out[image, 1, c] = gamma[c] / sqrt(variance + eps)
//
// One workgroup owns a group of an image (x: group, y: image), one invocation every 128th of its (chunk, channel) pairs;
// two sets of (count, mean, M2) are joined as Chan, Golub and LeVeque (1979) do.
// Preconditions: channels is a multiple of groups; every chunk has a pixel.

//#include "shared/group_norm_params.wgsl"

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> moments_of_chunks: array<f32>;         // [images, chunks, 2, channels]: mean, M2
@group(0) @binding(2) var<storage, read> gamma: array<f32>;           // [channels]
@group(0) @binding(3) var<storage, read_write> out: array<f32>;       // [images, 2, channels]

const INVOCATIONS: u32 = 128u;

// Count, mean and sum of squared deviations of a set of values.
var<workgroup> moments: array<vec3<f32>, INVOCATIONS>;

fn join(a: vec3<f32>, b: vec3<f32>) -> vec3<f32> {
    let total = a.x + b.x;
    let delta = b.y - a.y;
    let share = b.x / max(total, 1.0);
    return vec3<f32>(total, a.y + delta * share, a.z + b.z + delta * delta * (a.x * share));
}

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group_channels = params.channels / params.groups;
    let first_channel = workgroup.x * group_channels;
    let image = workgroup.y;

    var sum = vec3<f32>();
    for (var i = local; i < params.chunks * group_channels; i += INVOCATIONS) {
        let chunk = i / group_channels;
        let channel = first_channel + i % group_channels;
        let place = (image * params.chunks + chunk) * 2u * params.channels + channel;
        let count = min(params.chunk_pixels, params.pixels - chunk * params.chunk_pixels);
        sum = join(sum, vec3<f32>(f32(count), moments_of_chunks[place], moments_of_chunks[place + params.channels]));
    }
    moments[local] = sum;
    for (var reach = INVOCATIONS / 2u; reach > 0u; reach /= 2u) {
        workgroupBarrier();
        if (local < reach) {
            moments[local] = join(moments[local], moments[local + reach]);
        }
    }
    workgroupBarrier();

    let all = moments[0];
    let inverse_deviation = inverseSqrt(all.z / all.x + params.eps);
    for (var i = local; i < group_channels; i += INVOCATIONS) {
        let channel = first_channel + i;
        out[image * 2u * params.channels + channel] = all.y;
        out[(image * 2u + 1u) * params.channels + channel] = gamma[channel] * inverse_deviation;
    }
}
