// Attention as shaders/attention.wgsl computes it, for adapters that compute on the host's cores.
//
//   out[image, i, head] = sum_j w[i, j] * v[image, j, head] / sum_j w[i, j],
//   w[i, j] = exp(scale * dot(q[image, i, head], k[image, j, head]) - max_j(...))
//
// One workgroup, a subgroup, owns OWN * LANES queries of a head (x: block of queries, y: head, z: image), an invocation every
// LANES-th of them, and visits the keys LANES * BLOCKS at a time. An invocation loads every LANES-th key and value and hands
// them to the others, so that a load, which costs such an adapter as much as dozens of multiply-adds, serves OWN * LANES
// products. Loops over the head's channels stay loops: unrolled, they take seconds to compile and leave the first cache. So
// the sums lie in workgroup memory, where each invocation sees only its own: there are no barriers.
// Preconditions: strides, offsets and head_dim = 4 * HEAD_QUADS are multiples of 4; LANES is the size of every subgroup; keys
// is not 0.

struct Params {
    queries: u32,
    keys: u32,
    heads: u32,
    scale: f32,
    q_stride: u32,
    q_offset: u32,
    k_stride: u32,
    k_offset: u32,
    v_stride: u32,
    v_offset: u32,
    head_dim: u32,
    pad_0: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<q4>;                // [images, queries, q_stride / 4]
@group(0) @binding(2) var<storage, read> k: array<k4>;                // [images, keys, k_stride / 4]
@group(0) @binding(3) var<storage, read> v: array<v4>;                // [images, keys, v_stride / 4]
@group(0) @binding(4) var<storage, read_write> out: array<out4>;      // [images, queries, heads, HEAD_QUADS]

// The score of a pair that does not count, and the maximum of none.
const LOWEST: f32 = -1e30;

// [HEAD_QUADS, OWN, LANES]
var<workgroup> sums: array<vec4<f32>, HEAD_QUADS * OWN * LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first_query = workgroup.x * OWN * LANES;
    let head_quad = workgroup.y * HEAD_QUADS;
    let image = workgroup.z;

    var q_places: array<u32, OWN>;
    var maximum: array<f32, OWN>;
    var weight_sum: array<f32, OWN>;
    for (var r = 0u; r < OWN; r++) {
        // Queries past the end are computed from the last one and not stored.
        let query = min(first_query + r * LANES + lane, params.queries - 1u);
        q_places[r] = ((image * params.queries + query) * params.q_stride + params.q_offset) / 4u + head_quad;
        maximum[r] = LOWEST;
    }

    var end = params.keys;
//#if CAUSAL
    end = min(end, first_query + OWN * LANES);
//#endif
    for (var first_key = 0u; first_key < end; first_key += LANES * BLOCKS) {
        var k_places: array<u32, BLOCKS>;
        var v_places: array<u32, BLOCKS>;
        for (var b = 0u; b < BLOCKS; b++) {
            let row = image * params.keys + min(first_key + b * LANES + lane, params.keys - 1u);
            k_places[b] = (row * params.k_stride + params.k_offset) / 4u + head_quad;
            v_places[b] = (row * params.v_stride + params.v_offset) / 4u + head_quad;
        }

        // Scores, then weights.
        var weights: array<array<array<f32, OWN>, LANES>, BLOCKS>;
        for (var c = 0u; c < HEAD_QUADS; c++) {
            var queries: array<vec4<f32>, OWN>;
            for (var r = 0u; r < OWN; r++) {
                queries[r] = vec4<f32>(q[q_places[r] + c]);
            }
            for (var b = 0u; b < BLOCKS; b++) {
                let own_key = vec4<f32>(k[k_places[b] + c]);
                for (var j = 0u; j < LANES; j++) {
                    let key = subgroupShuffle(own_key, j);
                    for (var r = 0u; r < OWN; r++) {
                        weights[b][j][r] = fma(queries[r].x, key.x, weights[b][j][r]);
                        weights[b][j][r] = fma(queries[r].y, key.y, weights[b][j][r]);
                        weights[b][j][r] = fma(queries[r].z, key.z, weights[b][j][r]);
                        weights[b][j][r] = fma(queries[r].w, key.w, weights[b][j][r]);
                    }
                }
            }
        }

        var decay: array<f32, OWN>;
        for (var r = 0u; r < OWN; r++) {
            // Key 0 counts for every query, so the maximum is that of real scores from the first block on, and the weight of
            // a pair that does not count underflows to 0.
            var new_maximum = maximum[r];
            for (var b = 0u; b < BLOCKS; b++) {
                for (var j = 0u; j < LANES; j++) {
                    let key = first_key + b * LANES + j;
                    var counts = key < params.keys;
//#if CAUSAL
                    counts = counts && key <= first_query + r * LANES + lane;
//#endif
                    // exp2 is the faster exponential: the factor turns its base into e.
                    let score = select(LOWEST, weights[b][j][r] * (params.scale * 1.44269504), counts);
                    weights[b][j][r] = score;
                    new_maximum = max(new_maximum, score);
                }
            }
            decay[r] = exp2(maximum[r] - new_maximum);
            maximum[r] = new_maximum;
            var sum = 0.0;
            for (var b = 0u; b < BLOCKS; b++) {
                for (var j = 0u; j < LANES; j++) {
                    weights[b][j][r] = exp2(weights[b][j][r] - new_maximum);
                    sum += weights[b][j][r];
                }
            }
            weight_sum[r] = fma(weight_sum[r], decay[r], sum);
        }

        for (var c = 0u; c < HEAD_QUADS; c++) {
            var sum: array<vec4<f32>, OWN>;
            for (var r = 0u; r < OWN; r++) {
                // Nobody cleared the memory.
                let before = sums[(c * OWN + r) * LANES + lane] * decay[r];
                sum[r] = select(before, vec4<f32>(), first_key == 0u);
            }
            for (var b = 0u; b < BLOCKS; b++) {
                let own_value = vec4<f32>(v[v_places[b] + c]);
                for (var j = 0u; j < LANES; j++) {
                    let value = subgroupShuffle(own_value, j);
                    for (var r = 0u; r < OWN; r++) {
                        sum[r] = fma(vec4<f32>(weights[b][j][r]), value, sum[r]);
                    }
                }
            }
            for (var r = 0u; r < OWN; r++) {
                sums[(c * OWN + r) * LANES + lane] = sum[r];
            }
        }
    }

    for (var r = 0u; r < OWN; r++) {
        let query = first_query + r * LANES + lane;
        if (query < params.queries) {
            let row = (image * params.queries + query) * params.heads * HEAD_QUADS + head_quad;
            for (var c = 0u; c < HEAD_QUADS; c++) {
                out[row + c] = out4(sums[(c * OWN + r) * LANES + lane] / weight_sum[r]);
            }
        }
    }
}
