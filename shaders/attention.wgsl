// Attention with an online softmax: the scores of a query are never all in memory.
//
//   out[image, i, head] = sum_j w[i, j] * v[image, j, head] / sum_j w[i, j],
//   w[i, j] = exp(scale * dot(q[image, i, head], k[image, j, head]) - max_j(...))
//
// One workgroup owns QUERIES = 4 * DOWN queries of a head (x: block of queries, y: head, z: image) and visits the keys
// KEYS = 4 * ACROSS at a time. Of each such block, invocation (across, down) owns the scores of four queries (down,
// DOWN + down, ...) and four neighbouring keys; of the result, the same queries and every ACROSS-th vector of the head. So a
// query's running maximum and sum stay in registers of the ACROSS invocations that share it, and all inner products read
// workgroup memory a vector at a time, eight reads per 64 products.
// Queries and keys pass through workgroup memory DEPTH vectors of the head at a time, values VALUE_KEYS rows at a time,
// through the same tile as the keys. With QUERIES_STAY, DEPTH is the whole head and the queries are loaded once. With
// OPERANDS_STAY, they pass in their own type, which is one. STEP vectors are loaded at once: two of f16 are 16 bytes. PACKED:
// they are f16, and products with values, two at once in a lane, are f16 in sums of four. Scores have sums of f32: what
// they are off by is an exponent's. WORDS: they are f16 and no more than copied as such, two a word, where a register that holds
// 16 bits is no smaller than one of 32. APART: a parameter ends loops too, where they end anyway, so that a compiler that writes
// their turns out does not load for several of them at once.
// Preconditions: strides, offsets and head_dim = 4 * HEAD_QUADS are multiples of 4; STEP divides HEAD_QUADS and DEPTH; VALUE_KEYS
// is a multiple of 4 * STEP that divides KEYS; keys is not 0.

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
//#if WORDS
@group(0) @binding(1) var<storage, read> q: array<tile4>;             // [images, queries, q_stride / 4]
@group(0) @binding(2) var<storage, read> k: array<tile4>;             // [images, keys, k_stride / 4]
@group(0) @binding(3) var<storage, read> v: array<tile4>;             // [images, keys, v_stride / 4]
//#else
@group(0) @binding(1) var<storage, read> q: array<q4>;                // [images, queries, q_stride / 4]
@group(0) @binding(2) var<storage, read> k: array<k4>;                // [images, keys, k_stride / 4]
@group(0) @binding(3) var<storage, read> v: array<v4>;                // [images, keys, v_stride / 4]
//#endif
@group(0) @binding(4) var<storage, read_write> out: array<out4>;      // [images, queries, heads, HEAD_QUADS]

const INVOCATIONS: u32 = ACROSS * DOWN;
const QUERIES: u32 = 4u * DOWN;
const KEYS: u32 = 4u * ACROSS;
// Odd pitches, in loads, keep neighbouring rows in different banks.
const PITCH: u32 = ((DEPTH / STEP) | 1u) * STEP;
const WEIGHT_PITCH: u32 = ((ACROSS / STEP) | 1u) * STEP;
// Vectors of the result per query and invocation; a row of values is padded to a whole number of them.
const COLUMNS: u32 = (HEAD_QUADS + ACROSS - 1u) / ACROSS;
const VALUE_PITCH: u32 = COLUMNS * ACROSS;
// The score of a pair that does not count, and the maximum of none.
const LOWEST: f32 = -1e30;

//#if OPERANDS_STAY
// The operands have one type and stay what they are: half the bytes where that is f16, which is what bounds the speed, and no
// rounding, since the scores are scaled instead of q. Weights, from 0 to 1, are rounded to it.
//#if WORDS
alias tile4 = vec2<u32>;
//#else
alias tile4 = k4;
//#endif
//#else
alias tile4 = vec4<f32>;
//#endif
//#if PACKED
alias factor4 = vec4<f16>;
//#else
alias factor4 = vec4<f32>;
//#endif

fn widen(stored: tile4) -> vec4<f32> {
//#if WORDS
    return vec4<f32>(unpack2x16float(stored.x), unpack2x16float(stored.y));
//#else
    return vec4<f32>(stored);
//#endif
}

fn narrow(value: vec4<f32>) -> tile4 {
//#if WORDS
    return tile4(pack2x16float(value.xy), pack2x16float(value.zw));
//#else
    return tile4(value);
//#endif
}

// As it is multiplied with values.
fn factor(stored: tile4) -> factor4 {
//#if PACKED
    return stored;
//#else
    return widen(stored);
//#endif
}

var<workgroup> query_tile: array<tile4, QUERIES * PITCH>;
// Keys, then values. Key 4 a + b of the block stands in row b * ACROSS + a; values of STEP neighbouring keys stand side by side.
var<workgroup> shared_tile: array<tile4, SHARED_QUADS>;
// The weights of a query, four keys per vector.
var<workgroup> weight_tile: array<tile4, QUERIES * WEIGHT_PITCH>;
// One value per query of each invocation, to be reduced over ACROSS.
var<workgroup> exchange: array<vec4<f32>, INVOCATIONS>;

// The turns of a loop, which are no more than a head has channels.
fn turns(count: u32) -> u32 {
//#if APART
    return min(count, params.head_dim);
//#else
    return count;
//#endif
}

fn load_queries(image: u32, head: u32, first_query: u32, first_quad: u32, local: u32) {
    for (var i = local * STEP; i < QUERIES * DEPTH; i += INVOCATIONS * STEP) {
        let query = first_query + i / DEPTH;
        let quad = first_quad + i % DEPTH;
        var values: array<tile4, STEP>;
        if (query < params.queries && quad < HEAD_QUADS) {
            let row = (image * params.queries + query) * params.q_stride + params.q_offset;
            for (var s = 0u; s < STEP; s++) {
                values[s] = tile4(q[row / 4u + head * HEAD_QUADS + quad + s]);
            }
        }
        for (var s = 0u; s < STEP; s++) {
            query_tile[i / DEPTH * PITCH + i % DEPTH + s] = values[s];
        }
    }
}

fn load_keys(image: u32, head: u32, first_key: u32, first_quad: u32, local: u32) {
    for (var i = local * STEP; i < KEYS * DEPTH; i += INVOCATIONS * STEP) {
        let in_block = i / DEPTH;
        let key = first_key + in_block;
        let quad = first_quad + i % DEPTH;
        var values: array<tile4, STEP>;
        if (key < params.keys && quad < HEAD_QUADS) {
            let row = (image * params.keys + key) * params.k_stride + params.k_offset;
            for (var s = 0u; s < STEP; s++) {
                values[s] = tile4(k[row / 4u + head * HEAD_QUADS + quad + s]);
            }
        }
        for (var s = 0u; s < STEP; s++) {
            shared_tile[(in_block % 4u * ACROSS + in_block / 4u) * PITCH + i % DEPTH + s] = values[s];
        }
    }
}

fn load_values(image: u32, head: u32, first_key: u32, local: u32) {
    for (var i = local * STEP; i < VALUE_KEYS * VALUE_PITCH; i += INVOCATIONS * STEP) {
        let in_block = i / VALUE_PITCH;
        let key = first_key + in_block;
        let quad = i % VALUE_PITCH;
        var values: array<tile4, STEP>;
        if (key < params.keys && quad < HEAD_QUADS) {
            let row = (image * params.keys + key) * params.v_stride + params.v_offset;
            for (var s = 0u; s < STEP; s++) {
                values[s] = tile4(v[row / 4u + head * HEAD_QUADS + quad + s]);
            }
        }
        for (var s = 0u; s < STEP; s++) {
            shared_tile[value_place(in_block / 4u, in_block % 4u, quad + s)] = values[s];
        }
    }
}

// Where the vector of key 4 * four + one stands.
fn value_place(four: u32, one: u32, quad: u32) -> u32 {
    return 4u * four * VALUE_PITCH + quad * STEP + one / STEP * STEP * VALUE_PITCH + one % STEP;
}

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let across = local % ACROSS;
    let down = local / ACROSS;
    let first_query = workgroup.x * QUERIES;
    let head = workgroup.y;
    let image = workgroup.z;

    // Component r belongs to query r * DOWN + down.
    var maximum = vec4<f32>(LOWEST);
    var weight_sum = vec4<f32>();
    var sums: array<vec4<f32>, 4u * COLUMNS>;

    var end = params.keys;
//#if CAUSAL
    end = min(end, first_query + QUERIES);
//#endif
//#if QUERIES_STAY
    load_queries(image, head, first_query, 0u, local);
//#endif
    for (var first_key = 0u; first_key < end; first_key += KEYS) {
        var scores: array<vec4<f32>, 4>;
        for (var first_quad = 0u; first_quad < turns(HEAD_QUADS); first_quad += DEPTH) {
            workgroupBarrier();
//#if QUERIES_STAY
//#else
            load_queries(image, head, first_query, first_quad, local);
//#endif
            load_keys(image, head, first_key, first_quad, local);
            workgroupBarrier();
            for (var first = 0u; first < turns(DEPTH); first += STEP) {
                for (var s = 0u; s < turns(STEP); s++) {
                    let i = first + s;
                    let key_0 = widen(shared_tile[across * PITCH + i]);
                    let key_1 = widen(shared_tile[(ACROSS + across) * PITCH + i]);
                    let key_2 = widen(shared_tile[(2u * ACROSS + across) * PITCH + i]);
                    let key_3 = widen(shared_tile[(3u * ACROSS + across) * PITCH + i]);
                    let x = vec4<f32>(key_0.x, key_1.x, key_2.x, key_3.x);
                    let y = vec4<f32>(key_0.y, key_1.y, key_2.y, key_3.y);
                    let z = vec4<f32>(key_0.z, key_1.z, key_2.z, key_3.z);
                    let w = vec4<f32>(key_0.w, key_1.w, key_2.w, key_3.w);
                    for (var r = 0u; r < 4u; r++) {
                        let query = widen(query_tile[(r * DOWN + down) * PITCH + i]);
                        scores[r] += query.x * x;
                        scores[r] += query.y * y;
                        scores[r] += query.z * z;
                        scores[r] += query.w * w;
                    }
                }
            }
        }

        let keys = first_key + 4u * across + vec4<u32>(0u, 1u, 2u, 3u);
        var largest: vec4<f32>;
        for (var r = 0u; r < 4u; r++) {
            var counts = keys < vec4<u32>(params.keys);
//#if CAUSAL
            counts = counts & (keys <= vec4<u32>(first_query + r * DOWN + down));
//#endif
            // exp2 is the faster exponential: the factor turns its base into e.
            scores[r] = select(vec4<f32>(LOWEST), scores[r] * (params.scale * 1.44269504), counts);
            largest[r] = max(max(scores[r].x, scores[r].y), max(scores[r].z, scores[r].w));
        }
        exchange[local] = largest;
        workgroupBarrier();
        // Key 0 counts for every query, so the maximum is that of real scores from the first block on, and the weight of a
        // pair that does not count underflows to 0.
        var new_maximum = maximum;
        for (var i = 0u; i < ACROSS; i++) {
            new_maximum = max(new_maximum, exchange[down * ACROSS + i]);
        }
        let decay = exp2(maximum - new_maximum);
        maximum = new_maximum;
        weight_sum *= decay;
        for (var r = 0u; r < 4u; r++) {
            let stored = narrow(exp2(scores[r] - maximum[r]));
            // What is added up is what multiplies the values: weights that were rounded still sum to 1.
            let weights = widen(stored);
            weight_sum[r] += weights.x + weights.y + weights.z + weights.w;
            weight_tile[(r * DOWN + down) * WEIGHT_PITCH + across] = stored;
            for (var c = 0u; c < COLUMNS; c++) {
                sums[r * COLUMNS + c] *= decay[r];
            }
        }

        // The barrier above also freed the tile of the keys.
        for (var part = 0u; part < 4u * turns(ACROSS); part += VALUE_KEYS) {
            if (part > 0u) {
                workgroupBarrier();
            }
            load_values(image, head, first_key + part, local);
            workgroupBarrier();
            for (var first = 0u; first < turns(VALUE_KEYS / 4u); first += STEP) {
                for (var s = 0u; s < turns(STEP); s++) {
                    let i = first + s;
                    var weights: array<factor4, 4>;
                    for (var r = 0u; r < 4u; r++) {
                        weights[r] = factor(weight_tile[(r * DOWN + down) * WEIGHT_PITCH + part / 4u + i]);
                    }
                    for (var c = 0u; c < COLUMNS; c++) {
                        let quad = c * ACROSS + across;
                        let value_0 = factor(shared_tile[value_place(i, 0u, quad)]);
                        let value_1 = factor(shared_tile[value_place(i, 1u, quad)]);
                        let value_2 = factor(shared_tile[value_place(i, 2u, quad)]);
                        let value_3 = factor(shared_tile[value_place(i, 3u, quad)]);
                        for (var r = 0u; r < 4u; r++) {
//#if PACKED
                            var short = weights[r].x * value_0;
                            short = fma(vec4(weights[r].y), value_1, short);
                            short = fma(vec4(weights[r].z), value_2, short);
                            sums[r * COLUMNS + c] += vec4<f32>(fma(vec4(weights[r].w), value_3, short));
//#else
                            var sum = sums[r * COLUMNS + c];
                            sum += weights[r].x * value_0;
                            sum += weights[r].y * value_1;
                            sum += weights[r].z * value_2;
                            sums[r * COLUMNS + c] = sum + weights[r].w * value_3;
//#endif
                        }
                    }
                }
            }
        }
    }

    // The last block's barriers are past: exchange is free, and nobody else wrote to it since.
    exchange[local] = weight_sum;
    workgroupBarrier();
    var total = vec4<f32>();
    for (var i = 0u; i < ACROSS; i++) {
        total += exchange[down * ACROSS + i];
    }
    for (var r = 0u; r < 4u; r++) {
        let query = first_query + r * DOWN + down;
        for (var c = 0u; c < COLUMNS; c++) {
            let quad = c * ACROSS + across;
            if (query < params.queries && quad < HEAD_QUADS) {
                let row = (image * params.queries + query) * params.heads + head;
                out[row * HEAD_QUADS + quad] = out4(sums[r * COLUMNS + c] / total[r]);
            }
        }
    }
}
