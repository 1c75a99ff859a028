// Attention in cooperative matrices, with an online softmax: what attention.wgsl computes, from operands in f16.
//
// One workgroup owns STRIPS strips of ROWS = FRAGMENTS * SIZE queries of a head (x: strips, y: head, z: image); a subgroup owns a
// strip, or one after the other where there are fewer subgroups than strips. The workgroup visits the keys KEYS at a time, keys and values side by side in workgroup
// memory. Scores leave their matrices through workgroup memory, SIZE queries of each strip at a time, PARTS lanes a query; the
// weights come back as f16. Queries and results stay in matrices.
//
// The factors of a row cannot be applied to a matrix, so what weights are relative to is not the maximum: it follows the
// maximum only where that has grown by more than SLACK (in powers of two), and the results so far pass through workgroup
// memory to be scaled then. Weights reach 2^SLACK, far within f16; sums are f32.
//
// With SPLIT (an operand is f32) what f16 cuts off of operands and weights is a second matrix each, and of their four products
// the three larger ones are made: as good as f32 to about 2^-21. Values past 65504 are infinite then; who reads the results
// sees it, and computes the stage again in f32.
// Preconditions: strides, offsets and head_dim = 4 * HEAD_QUADS are multiples of 4; PADDED is HEAD_QUADS * 4 or more and, as is KEYS, a
// multiple of SIZE; a strip of queries fits into the tile; keys is not 0.

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

//#if MATRIX_16
const SIZE: u32 = 16u;
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;
//#else
const SIZE: u32 = 8u;
alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;
//#endif
// As in shared/coop.wgsl: UNIT values are an element of workgroup memory.
//#if MATRIX_QUADS
const UNIT: u32 = 4u;
alias Element = vec4<f16>;
//#else
const UNIT: u32 = 1u;
alias Element = f16;
//#endif

const ROWS: u32 = FRAGMENTS * SIZE;
const QUERIES: u32 = STRIPS * ROWS;
const ACROSS: u32 = PADDED / SIZE;
const DEEP: u32 = KEYS / SIZE;
const PADDED_QUADS: u32 = PADDED / 4u;
// 16 bytes more than a row keep the rows of a matrix in different banks.
const PITCH: u32 = (PADDED + 8u) / UNIT;
const WEIGHT_PITCH: u32 = (KEYS + 8u) / UNIT;
const SCORE_PITCH: u32 = KEYS + 4u;
// Values lie transposed, a row for each channel: as the right side of a product is read fastest.
const VALUE_PITCH: u32 = (KEYS + 8u) / UNIT;
const VALUES: u32 = KEYS * PITCH;
const TILE: u32 = VALUES + PADDED * VALUE_PITCH;
// Strips of queries that fit where keys and values will lie.
const STRIPS_LOADED: u32 = min(STRIPS, TILE / (ROWS * PITCH));
// What the workgroup loads at a time: quads of queries and of keys, and four keys' quads of values.
const QUERY_ITEMS: u32 = STRIPS_LOADED * ROWS * PADDED_QUADS;
const KEY_ITEMS: u32 = KEYS * PADDED_QUADS;
const VALUE_ITEMS: u32 = KEY_ITEMS / 4u;
// Quads of weights of a lane.
const LANE_QUADS: u32 = KEYS / 4u / PARTS;
// The score of a pair that does not count, and the reference of none.
const LOWEST: f32 = -1e30;
const SLACK: f32 = 8.0;

// Keys, then values, a row each key and each channel; at first queries.
var<workgroup> tile: array<Element, TILE>;
var<workgroup> weight_tile: array<Element, QUERIES * WEIGHT_PITCH>;
//#if SPLIT
var<workgroup> tile_rest: array<Element, TILE>;
var<workgroup> weight_rest: array<Element, QUERIES * WEIGHT_PITCH>;
//#endif
// Of SIZE queries of each strip.
var<workgroup> scores: array<f32, STRIPS * SIZE * SCORE_PITCH>;
// Of a query: what its weights are relative to (in powers of two), their sum, and the factor for the results so far.
var<workgroup> reference: array<f32, QUERIES>;
var<workgroup> weight_sum: array<f32, QUERIES>;
var<workgroup> factor: array<f32, QUERIES>;
// Whether a factor is not 1.
var<workgroup> has_grown: u32;

//#if SPLIT
alias Staged = vec4<f32>;
struct Halves {
    upper: vec4<f16>,
    rest: vec4<f16>,
}
fn halves(value: vec4<f32>) -> Halves {
    // Cut off by bits: a compiler may take a value for what is left of it in f16 and back.
    let upper = bitcast<vec4<f32>>(bitcast<vec4<u32>>(value) & vec4<u32>(0xffffe000u));
    return Halves(vec4<f16>(upper), vec4<f16>(value - upper));
}
//#else
alias Staged = vec4<f16>;
//#endif

// `place` counts elements.
fn store_tile(place: u32, staged: Staged) {
//#if SPLIT
    let both = halves(staged);
    let value = both.upper;
//#else
    let value = staged;
//#endif
//#if MATRIX_QUADS
    tile[place] = value;
//#if SPLIT
    tile_rest[place] = both.rest;
//#endif
//#else
    for (var c = 0u; c < 4u; c++) {
        tile[place + c] = value[c];
//#if SPLIT
        tile_rest[place + c] = both.rest[c];
//#endif
    }
//#endif
}

// Returns what was stored.
fn store_weights(place: u32, weights: vec4<f32>) -> vec4<f32> {
//#if SPLIT
    let both = halves(weights);
    let value = both.upper;
    let stored = weights;
//#else
    let value = vec4<f16>(weights);
    let stored = vec4<f32>(value);
//#endif
//#if MATRIX_QUADS
    weight_tile[place] = value;
//#if SPLIT
    weight_rest[place] = both.rest;
//#endif
//#else
    for (var c = 0u; c < 4u; c++) {
        weight_tile[place + c] = value[c];
//#if SPLIT
        weight_rest[place + c] = both.rest[c];
//#endif
    }
//#endif
    return stored;
}

fn load_queries(image: u32, head: u32, first_query: u32, local: u32) {
    for (var step = 0u; step < QUERY_ITEMS; step += INVOCATIONS) {
        let i = step + local;
        if (i >= QUERY_ITEMS) {
            break;
        }
        let query = first_query + i / PADDED_QUADS;
        let quad = i % PADDED_QUADS;
        var value = Staged();
        if (query < params.queries && quad < HEAD_QUADS) {
            let row = (image * params.queries + query) * params.q_stride + params.q_offset;
            value = Staged(q[row / 4u + head * HEAD_QUADS + quad]);
        }
        store_tile(i / PADDED_QUADS * PITCH + quad * 4u / UNIT, value);
    }
}

fn load_keys(image: u32, head: u32, first_key: u32, local: u32) {
    for (var step = 0u; step < KEY_ITEMS; step += INVOCATIONS) {
        let i = step + local;
        if (i >= KEY_ITEMS) {
            break;
        }
        let key = first_key + i / PADDED_QUADS;
        let quad = i % PADDED_QUADS;
        var value = Staged();
        if (key < params.keys && quad < HEAD_QUADS) {
            let row = (image * params.keys + key) * params.k_stride + params.k_offset;
            value = Staged(k[row / 4u + head * HEAD_QUADS + quad]);
        }
        store_tile(i / PADDED_QUADS * PITCH + quad * 4u / UNIT, value);
    }
}

fn load_values(image: u32, head: u32, first_key: u32, local: u32) {
    for (var step = 0u; step < VALUE_ITEMS; step += INVOCATIONS) {
        let i = step + local;
        if (i >= VALUE_ITEMS) {
            break;
        }
        let in_block = i / PADDED_QUADS * 4u;
        let quad = i % PADDED_QUADS;
        var rows: array<Staged, 4>;
        for (var j = 0u; j < 4u; j++) {
            let key = first_key + in_block + j;
            rows[j] = Staged();
            if (key < params.keys && quad < HEAD_QUADS) {
                let row = (image * params.keys + key) * params.v_stride + params.v_offset;
                rows[j] = Staged(v[row / 4u + head * HEAD_QUADS + quad]);
            }
        }
        let place = VALUES + quad * 4u * VALUE_PITCH + in_block / UNIT;
        store_tile(place, Staged(rows[0].x, rows[1].x, rows[2].x, rows[3].x));
        store_tile(place + VALUE_PITCH, Staged(rows[0].y, rows[1].y, rows[2].y, rows[3].y));
        store_tile(place + 2u * VALUE_PITCH, Staged(rows[0].z, rows[1].z, rows[2].z, rows[3].z));
        store_tile(place + 3u * VALUE_PITCH, Staged(rows[0].w, rows[1].w, rows[2].w, rows[3].w));
    }
}

// Turns the scores of a strip's fragment into weights. `first` is its first query in the workgroup.
fn weigh(strip: u32, first: u32, first_query: u32, first_key: u32, lane: u32, lanes: u32) {
    for (var item = lane; item < SIZE * PARTS; item += lanes) {
        let row = item / PARTS;
        let part = item % PARTS;
        let query = first + row;
        var own: array<vec4<f32>, LANE_QUADS>;
        var largest = LOWEST;
        for (var i = 0u; i < LANE_QUADS; i++) {
            let place = (strip * SIZE + row) * SCORE_PITCH + 4u * (i * PARTS + part);
            let score = vec4<f32>(scores[place], scores[place + 1u], scores[place + 2u], scores[place + 3u]);
            let keys = first_key + 4u * (i * PARTS + part) + vec4<u32>(0u, 1u, 2u, 3u);
            var counts = keys < vec4<u32>(params.keys);
//#if CAUSAL
            counts = counts & (keys <= vec4<u32>(first_query + query));
//#endif
            // exp2 is the faster exponential: the factor turns its base into e.
            own[i] = select(vec4<f32>(LOWEST), score * (params.scale * 1.44269504), counts);
            largest = max(largest, max(max(own[i].x, own[i].y), max(own[i].z, own[i].w)));
        }
        for (var distance = 1u; distance < PARTS; distance *= 2u) {
            largest = max(largest, subgroupShuffleXor(largest, distance));
        }
        // The first lane of a row alone writes what the others read here.
        let before = subgroupShuffle(reference[query], lane - part);
        // Key 0 counts for every query, so that the reference is a real score from the first block on.
        let after = select(before, largest, first_key == 0u || largest > before + SLACK);
        var sum = 0.0;
        for (var i = 0u; i < LANE_QUADS; i++) {
            let place = query * WEIGHT_PITCH + 4u * (i * PARTS + part) / UNIT;
            let stored = store_weights(place, exp2(own[i] - after));
            // What is added up is what multiplies the values: weights that were rounded still sum to 1.
            sum += stored.x + stored.y + stored.z + stored.w;
        }
        for (var distance = 1u; distance < PARTS; distance *= 2u) {
            sum += subgroupShuffleXor(sum, distance);
        }
        if (part == 0u) {
            let decay = select(exp2(before - after), 0.0, first_key == 0u);
            let sum_before = select(weight_sum[query], 0.0, first_key == 0u);
            reference[query] = after;
            weight_sum[query] = fma(sum_before, decay, sum);
            factor[query] = decay;
            if (first_key > 0u && after > before) {
                has_grown = 1u;
            }
        }
    }
}

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_size) lanes: u32,
) {
    let first_query = workgroup.x * QUERIES;
    let head = workgroup.y;
    let image = workgroup.z;
    var end = params.keys;
//#if CAUSAL
    end = min(end, first_query + QUERIES);
//#endif

    for (var first_strip = 0u; first_strip < STRIPS; first_strip += subgroups) {
        let owns = first_strip + subgroup < STRIPS;
        let strip = min(first_strip + subgroup, STRIPS - 1u);
        var queries: array<Left, FRAGMENTS * ACROSS>;
//#if SPLIT
        var queries_rest: array<Left, FRAGMENTS * ACROSS>;
//#endif
        for (var loaded = 0u; loaded < STRIPS; loaded += STRIPS_LOADED) {
            workgroupBarrier();
            load_queries(image, head, first_query + loaded * ROWS, local);
            workgroupBarrier();
            if (strip >= loaded && strip < loaded + STRIPS_LOADED) {
                for (var f = 0u; f < FRAGMENTS; f++) {
                    let first = ((strip - loaded) * ROWS + f * SIZE) * PITCH;
                    for (var c = 0u; c < ACROSS; c++) {
                        queries[f * ACROSS + c] = coopLoadT<Left>(&tile[first + c * SIZE / UNIT], PITCH);
//#if SPLIT
                        queries_rest[f * ACROSS + c] = coopLoadT<Left>(&tile_rest[first + c * SIZE / UNIT], PITCH);
//#endif
                    }
                }
            }
        }

        var sums: array<Sum, FRAGMENTS * ACROSS>;
        for (var first_key = 0u; first_key < end; first_key += KEYS) {
            workgroupBarrier();
            if (local == 0u) {
                has_grown = 0u;
            }
            load_keys(image, head, first_key, local);
            load_values(image, head, first_key, local);
            workgroupBarrier();

            var products: array<Sum, FRAGMENTS * DEEP>;
            for (var n = 0u; n < DEEP; n++) {
                for (var c = 0u; c < ACROSS; c++) {
                    let place = n * SIZE * PITCH + c * SIZE / UNIT;
                    let key = coopLoad<Right>(&tile[place], PITCH);
//#if SPLIT
                    let key_rest = coopLoad<Right>(&tile_rest[place], PITCH);
//#endif
                    for (var f = 0u; f < FRAGMENTS; f++) {
                        let sum = products[f * DEEP + n];
//#if SPLIT
                        let fine = coopMultiplyAdd(queries_rest[f * ACROSS + c], key, sum);
                        let finer = coopMultiplyAdd(queries[f * ACROSS + c], key_rest, fine);
                        products[f * DEEP + n] = coopMultiplyAdd(queries[f * ACROSS + c], key, finer);
//#else
                        products[f * DEEP + n] = coopMultiplyAdd(queries[f * ACROSS + c], key, sum);
//#endif
                    }
                }
            }
            for (var f = 0u; f < FRAGMENTS; f++) {
                if (f > 0u) {
                    workgroupBarrier();
                }
                if (owns) {
                    for (var n = 0u; n < DEEP; n++) {
                        let place = strip * SIZE * SCORE_PITCH + n * SIZE;
                        coopStoreT(products[f * DEEP + n], &scores[place], SCORE_PITCH);
                    }
                }
                workgroupBarrier();
                if (owns) {
                    weigh(strip, strip * ROWS + f * SIZE, first_query, first_key, lane, lanes);
                }
            }

            if (workgroupUniformLoad(&has_grown) != 0u) {
                for (var i = 0u; i < FRAGMENTS * ACROSS; i++) {
                    let first = strip * SIZE * SCORE_PITCH;
                    if (owns) {
                        coopStoreT(sums[i], &scores[first], SCORE_PITCH);
                    }
                    workgroupBarrier();
                    if (owns) {
                        for (var item = lane; item < SIZE * SIZE; item += lanes) {
                            let row = item / SIZE;
                            scores[first + row * SCORE_PITCH + item % SIZE] *= factor[strip * ROWS + i / ACROSS * SIZE + row];
                        }
                    }
                    workgroupBarrier();
                    sums[i] = coopLoadT<Sum>(&scores[first], SCORE_PITCH);
                    workgroupBarrier();
                }
            }

            for (var n = 0u; n < DEEP; n++) {
                var weights: array<Left, FRAGMENTS>;
//#if SPLIT
                var weights_rest: array<Left, FRAGMENTS>;
//#endif
                for (var f = 0u; f < FRAGMENTS; f++) {
                    let place = (strip * ROWS + f * SIZE) * WEIGHT_PITCH + n * SIZE / UNIT;
                    weights[f] = coopLoadT<Left>(&weight_tile[place], WEIGHT_PITCH);
//#if SPLIT
                    weights_rest[f] = coopLoadT<Left>(&weight_rest[place], WEIGHT_PITCH);
//#endif
                }
                for (var c = 0u; c < ACROSS; c++) {
                    let place = VALUES + c * SIZE * VALUE_PITCH + n * SIZE / UNIT;
                    let value = coopLoad<Right>(&tile[place], VALUE_PITCH);
//#if SPLIT
                    let value_rest = coopLoad<Right>(&tile_rest[place], VALUE_PITCH);
//#endif
                    for (var f = 0u; f < FRAGMENTS; f++) {
                        let sum = sums[f * ACROSS + c];
//#if SPLIT
                        let fine = coopMultiplyAdd(weights_rest[f], value, sum);
                        let finer = coopMultiplyAdd(weights[f], value_rest, fine);
                        sums[f * ACROSS + c] = coopMultiplyAdd(weights[f], value, finer);
//#else
                        sums[f * ACROSS + c] = coopMultiplyAdd(weights[f], value, sum);
//#endif
                    }
                }
            }
        }

        for (var i = 0u; i < FRAGMENTS * ACROSS; i++) {
            let first = strip * SIZE * SCORE_PITCH;
            workgroupBarrier();
            if (owns) {
                coopStoreT(sums[i], &scores[first], SCORE_PITCH);
            }
            workgroupBarrier();
            if (owns) {
                for (var item = lane; item < SIZE * SIZE / 4u; item += lanes) {
                    let row = item / (SIZE / 4u);
                    let in_workgroup = strip * ROWS + i / ACROSS * SIZE + row;
                    let query = first_query + in_workgroup;
                    let quad = (i % ACROSS * SIZE + item % (SIZE / 4u) * 4u) / 4u;
                    if (query < params.queries && quad < HEAD_QUADS) {
                        let place = first + row * SCORE_PITCH + item % (SIZE / 4u) * 4u;
                        let sum = vec4<f32>(scores[place], scores[place + 1u], scores[place + 2u], scores[place + 3u]);
                        let row_out = (image * params.queries + query) * params.heads + head;
                        out[row_out * HEAD_QUADS + quad] = out4(sum / weight_sum[in_workgroup]);
                    }
                }
            }
        }
    }
}
