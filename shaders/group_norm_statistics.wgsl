// The first half of group norm: mean and sum of squared deviations (M2) of each group over each chunk of pixels.
//
//   out[image, chunk, group, segment] = (mean, M2) of x[image, p, c],
//   over the pixels p = chunk * chunk_pixels .. min((chunk + 1) * chunk_pixels, pixels) - 1 and the group's channels c in
//   a block of channels
//
// One workgroup owns 4 * ACROSS channels of a chunk (x: block of channels, y: chunk, z: image), one invocation four of
// them at every DOWN-th pixel, by Welford's recurrence. The invocations of a channel are joined in pairs (Chan, Golub and
// LeVeque 1979), then the channels of a group, which all have as many values.
// Preconditions: channels is a multiple of 4 and of groups; DOWN is a power of two; every chunk has a pixel.

//#include "shared/group_norm_params.wgsl"

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<x4>;                    // [images, pixels, x_stride / 4]
@group(0) @binding(2) var<storage, read_write> out: array<vec2<f32>>;     // [images, chunks, groups, segments]: mean, M2

var<workgroup> means: array<vec4<f32>, INVOCATIONS>;
var<workgroup> squares: array<vec4<f32>, INVOCATIONS>;
var<workgroup> counts: array<f32, INVOCATIONS>;

// The values of a quad's channels low .. high - 1, and zeros.
fn within(value: vec4<f32>, quad: u32, low: u32, high: u32) -> vec4<f32> {
    let channel = vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
    return select(select(vec4<f32>(), value, channel < vec4<u32>(high)), vec4<f32>(), channel < vec4<u32>(low));
}

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let quads = params.channels / 4u;
    let first_quad = workgroup.x * ACROSS;
    let quad = first_quad + local % ACROSS;
    let chunk = workgroup.y;
    let image = workgroup.z;
    let first_pixel = chunk * params.chunk_pixels;
    let end = min(first_pixel + params.chunk_pixels, params.pixels);

    var count = 0.0;
    var mean = vec4<f32>();
    var m2 = vec4<f32>();
    if (quad < quads) {
        for (var pixel = first_pixel + local / ACROSS; pixel < end; pixel += DOWN) {
            let row = ((image * params.pixels + pixel) * params.x_stride + params.x_offset) / 4u;
            let value = vec4<f32>(x[row + quad]);
            count += 1.0;
            let delta = value - mean;
            mean += delta / count;
            m2 += delta * (value - mean);
        }
    }
    means[local] = mean;
    squares[local] = m2;
    counts[local] = count;

    for (var reach = DOWN / 2u; reach > 0u; reach /= 2u) {
        workgroupBarrier();
        if (local < reach * ACROSS) {
            let other = local + reach * ACROSS;
            let total = counts[local] + counts[other];
            // The pixels go to the rows in order, so a row without any meets only others without.
            if (counts[other] > 0.0) {
                let delta = means[other] - means[local];
                let share = counts[other] / total;
                means[local] += delta * share;
                squares[local] += squares[other] + delta * delta * (counts[local] * share);
                counts[local] = total;
            }
        }
    }
    workgroupBarrier();

    let group_channels = params.channels / params.groups;
    let first_channel = 4u * first_quad;
    let end_channel = min(first_channel + params.block, params.channels);
    let end_group = (end_channel - 1u) / group_channels + 1u;
    let pixels = f32(end - first_pixel);
    for (var group = first_channel / group_channels + local; group < end_group; group += INVOCATIONS) {
        let low = max(group * group_channels, first_channel);
        let high = min((group + 1u) * group_channels, end_channel);
        let end_quad = (high + 3u) / 4u;
        // Deviations from one of the means, so that no digits are lost where they are far from zero.
        let origin = means[low / 4u - first_quad][low % 4u];
        var sum = 0.0;
        for (var i = low / 4u; i < end_quad; i++) {
            sum += dot(within(means[i - first_quad] - origin, i, low, high), vec4<f32>(1.0));
        }
        let group_mean = origin + sum / f32(high - low);
        var group_m2 = 0.0;
        for (var i = low / 4u; i < end_quad; i++) {
            let delta = within(means[i - first_quad] - group_mean, i, low, high);
            group_m2 += dot(within(squares[i - first_quad], i, low, high), vec4<f32>(1.0)) + pixels * dot(delta, delta);
        }
        out[moments_place(image, chunk, group, workgroup.x)] = vec2<f32>(group_mean, group_m2);
    }
}
