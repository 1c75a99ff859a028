// Layer norm in two passes over registers: the mean, then the variance, so that no large squares cancel.
//
//   out[row, c] = (x[row, c] - mean(x[row])) / sqrt(variance(x[row]) + eps) * gamma[c] + beta[c]
//
// One workgroup owns ROWS rows, LANES invocations each; an invocation keeps LANE_QUADS vectors of its row, LANES apart.
// Preconditions: columns is a multiple of 4 and at most 4 * LANES * LANE_QUADS; LANES is a power of two; x has no gaps.

struct Params {
    rows: u32,
    columns: u32,
    eps: f32,
    pad_0: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<x4>;                // [rows, columns / 4]
@group(0) @binding(2) var<storage, read> gamma: array<vec4<f32>>;     // [columns / 4]
@group(0) @binding(3) var<storage, read> beta: array<vec4<f32>>;      // [columns / 4]
@group(0) @binding(4) var<storage, read_write> out: array<out4>;      // [rows, columns / 4]

const INVOCATIONS: u32 = ROWS * LANES;

var<workgroup> sums_of_lanes: array<f32, INVOCATIONS>;

// The sum of value over the invocations of a row.
fn row_sum(value: f32, local: u32) -> f32 {
    workgroupBarrier();
    sums_of_lanes[local] = value;
    for (var reach = LANES / 2u; reach > 0u; reach /= 2u) {
        workgroupBarrier();
        if (local % LANES < reach) {
            sums_of_lanes[local] += sums_of_lanes[local + reach];
        }
    }
    workgroupBarrier();
    return sums_of_lanes[local / LANES * LANES];
}

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = (workgroup.y * workgroups.x + workgroup.x) * ROWS + local / LANES;
    let lane = local % LANES;
    let quads = params.columns / 4u;
    let columns = f32(params.columns);
    var values: array<vec4<f32>, LANE_QUADS>;

    var sum = vec4<f32>();
    for (var i = 0u; i < LANE_QUADS; i++) {
        let quad = i * LANES + lane;
        if (row < params.rows && quad < quads) {
            values[i] = vec4<f32>(x[row * quads + quad]);
            sum += values[i];
        }
    }
    let mean = row_sum(sum.x + sum.y + sum.z + sum.w, local) / columns;

    var squares = vec4<f32>();
    for (var i = 0u; i < LANE_QUADS; i++) {
        if (i * LANES + lane < quads) {
            let deviation = values[i] - mean;
            squares += deviation * deviation;
        }
    }
    let variance = row_sum(squares.x + squares.y + squares.z + squares.w, local) / columns;

    let scale = inverseSqrt(variance + params.eps);
    for (var i = 0u; i < LANE_QUADS; i++) {
        let quad = i * LANES + lane;
        if (row < params.rows && quad < quads) {
            out[row * quads + quad] = out4((values[i] - mean) * scale * gamma[quad] + beta[quad]);
        }
    }
}
