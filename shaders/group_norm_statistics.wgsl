// The first third of group norm: mean and sum of squared deviations (M2) of each channel over each chunk of pixels.
//
//   out[image, chunk, 0, c] = mean of x[image, p, c],   out[image, chunk, 1, c] = sum of (x[image, p, c] - mean)^2,
//   over the pixels p = chunk * chunk_pixels .. min((chunk + 1) * chunk_pixels, pixels) - 1
//
// One workgroup owns 4 * ACROSS channels of a chunk (x: block of channels, y: chunk, z: image), one invocation four of
// them at every DOWN-th pixel, by Welford's recurrence. The invocations of a channel are joined in pairs (Chan, Golub and
// LeVeque 1979).
// Preconditions: channels is a multiple of 4; DOWN is a power of two; every chunk has a pixel; x has no gaps.

//#include "shared/group_norm_params.wgsl"

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<x4>;                    // [images, pixels, channels / 4]
@group(0) @binding(2) var<storage, read_write> out: array<out4>;          // [images, chunks, 2, channels / 4]

const INVOCATIONS: u32 = ACROSS * DOWN;

var<workgroup> means: array<vec4<f32>, INVOCATIONS>;
var<workgroup> squares: array<vec4<f32>, INVOCATIONS>;
var<workgroup> counts: array<f32, INVOCATIONS>;

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let quads = params.channels / 4u;
    let quad = workgroup.x * ACROSS + local % ACROSS;
    let chunk = workgroup.y;
    let image = workgroup.z;
    let end = min((chunk + 1u) * params.chunk_pixels, params.pixels);

    var count = 0.0;
    var mean = vec4<f32>();
    var m2 = vec4<f32>();
    if (quad < quads) {
        for (var pixel = chunk * params.chunk_pixels + local / ACROSS; pixel < end; pixel += DOWN) {
            let value = vec4<f32>(x[(image * params.pixels + pixel) * quads + quad]);
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
    if (local < ACROSS && quad < quads) {
        let place = (image * params.chunks + chunk) * 2u * quads + quad;
        out[place] = means[local];
        out[place + quads] = squares[local];
    }
}
