// The tiled product that matmul and conv2d share. The including file declares params (rows, columns, rows_per_image), weight, the epilogue's
// bindings and out, and defines inner_quads(), the extent of k in quads, locate_row, and the runs of shared/run.wgsl.
//
// A step brings UNITS units of k of the workgroup's rows and columns to workgroup memory; each invocation multiplies its THREAD_M rows with
// its THREAD_N columns a unit at a time (four k), so that workgroup memory is read 16 bytes at a time and nothing is transposed. The next step's values
// are asked for before a step is multiplied. The pitch of 5 units and the order of the columns keep the invocations of a row in different
// banks. SLICES groups of invocations, each with tiles of its own, take a part of k each and are added up at the end: what keeps a GPU busy
// with few results. Rows and columns past the end are computed from the last one and not stored; past the end of a run x is zero. WHOLE:
// every run is whole steps. PACKED: x and weights lie in workgroup memory as f16, eight in a unit of 16 bytes, and are multiplied as f16, in sums of four.
// WORDS: x is f16 and waits for its step as it is stored, two values a word. APART: a parameter ends the units of a step too, where they end anyway, so
// that a compiler that writes them out does not load for several of them at once.

//#include "shared/epilogue.wgsl"
//#include "shared/run.wgsl"

//#if PACKED
struct Unit {
    first: vec4<f16>,
    second: vec4<f16>,
}
const UNIT_QUADS: u32 = 2u;
//#else
alias Unit = vec4<f32>;
const UNIT_QUADS: u32 = 1u;
//#endif
// Of a row in a step.
const UNITS: u32 = 4u;
const TILE_K_QUADS: u32 = UNITS * UNIT_QUADS;
const PITCH: u32 = UNITS + 1u;
const ACROSS: u32 = TILE_N / THREAD_N;
const DOWN: u32 = TILE_M / THREAD_M;
const INVOCATIONS: u32 = ACROSS * DOWN;
const THREAD_QUADS: u32 = THREAD_N / 4u;
const SUMS: u32 = THREAD_M * THREAD_QUADS;
// An invocation loads two neighbouring quads (16 bytes of f16) of every ROW_STEP-th row.
const PAIRS: u32 = TILE_K_QUADS / 2u;
const ROW_STEP: u32 = INVOCATIONS / PAIRS;
const ROWS_LOADED: u32 = TILE_M / ROW_STEP;
const COLUMNS_LOADED: u32 = TILE_N / ROW_STEP;

var<workgroup> x_tile: array<Unit, SLICES * TILE_M * PITCH>;
var<workgroup> weight_tile: array<Unit, SLICES * TILE_N * PITCH>;

// The sums of half of the slices at the end, TOGETHER of each invocation at a time.
//#if PACKED
const TOGETHER: u32 = 1u;
var<workgroup> slice_sums: array<vec4<f32>, max(SLICES / 2u, 1u) * INVOCATIONS>;
fn write_sum(place: u32, sum: vec4<f32>) {
    slice_sums[place] = sum;
}
fn read_sum(place: u32) -> vec4<f32> {
    return slice_sums[place];
}
//#else
const TOGETHER: u32 = SUMS;
fn write_sum(place: u32, sum: vec4<f32>) {
    weight_tile[place] = sum;
}
fn read_sum(place: u32) -> vec4<f32> {
    return weight_tile[place];
}
//#endif

//#if PACKED
// A sum of f16 takes four products, two such sums side by side; longer chains would round more.
fn dot_unit(v: Unit, w: Unit) -> f32 {
    var pair = v.first.xy * w.first.xy;
    pair = fma(v.first.zw, w.first.zw, pair);
    pair = fma(v.second.xy, w.second.xy, pair);
    pair = fma(v.second.zw, w.second.zw, pair);
    return f32(pair.x) + f32(pair.y);
}
//#endif

//#if WORDS
alias stored4 = vec2<u32>;
fn unpack_x(stored: stored4) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(stored.x), unpack2x16float(stored.y));
}
//#else
alias stored4 = x4;
fn unpack_x(stored: stored4) -> vec4<f32> {
    return vec4<f32>(stored);
}
//#endif

// What an invocation brings to workgroup memory, as it is stored.
struct Fetched {
    x: array<stored4, 2u * ROWS_LOADED>,
    inside: array<bool, ROWS_LOADED>,
    weight: array<StoredPair, COLUMNS_LOADED>,
}

// Quads first_quad + loaded_quad and the next of the run that x_places tell, and of that at weight_places + weight_run.
fn fetch(
    x_places: array<Run, ROWS_LOADED>,
    weight_places: array<u32, COLUMNS_LOADED>,
    weight_run: u32,
    first_quad: u32,
    loaded_quad: u32,
) -> Fetched {
    let quad = first_quad + loaded_quad;
    var fetched: Fetched;
//#if WHOLE
    let here = quad;
    let next = quad + 1u;
//#else
    let quads = run_quads();
    let here = min(quad, quads - 1u);
    let next = min(quad + 1u, quads - 1u);
//#endif
    for (var i = 0u; i < ROWS_LOADED; i++) {
        let run = x_places[i];
        fetched.inside[i] = run.inside;
        fetched.x[2u * i] = x[run.first + here];
        fetched.x[2u * i + 1u] = x[run.first + next];
    }
    for (var i = 0u; i < COLUMNS_LOADED; i++) {
        let first = weight_places[i] + weight_run;
        fetched.weight[i] = fetch_pair(first + here, first + next);
    }
    return fetched;
}

@compute @workgroup_size(INVOCATIONS * SLICES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let slice = invocation / INVOCATIONS;
    let local = invocation % INVOCATIONS;
    let first_column = workgroup.x * TILE_N;
    let first_row = (workgroup.z * workgroups.y + workgroup.y) * TILE_M;
    let x_first = slice * TILE_M;
    let weight_first = slice * TILE_N;
    let across = local % ACROSS;
    let down = local / ACROSS;
    let loaded_quad = local % PAIRS * 2u;
    let loaded_row = local / PAIRS;
    var places: array<RowPlace, ROWS_LOADED>;
    for (var i = 0u; i < ROWS_LOADED; i++) {
        places[i] = locate_row(min(first_row + loaded_row + i * ROW_STEP, params.rows - 1u));
    }
    var columns: array<u32, COLUMNS_LOADED>;
    for (var i = 0u; i < COLUMNS_LOADED; i++) {
        columns[i] = min(first_column + loaded_row + i * ROW_STEP, params.columns - 1u) * inner_quads();
    }
    var sums: array<vec4<f32>, SUMS>;

    let quads = run_quads();
    let run_steps = (quads + TILE_K_QUADS - 1u) / TILE_K_QUADS;
    let all_steps = run_steps * runs();
    // As many for each slice, so that all meet at the barriers; a step past the end adds nothing.
    let steps = (all_steps + SLICES - 1u) / SLICES;
    let first_step = slice * steps;
    var run = min(first_step / run_steps, runs() - 1u);
    var quad = first_step % run_steps * TILE_K_QUADS;
    var firsts: array<Run, ROWS_LOADED>;
    for (var i = 0u; i < ROWS_LOADED; i++) {
        firsts[i] = locate_run(places[i], run);
    }
    var fetched = fetch(firsts, columns, run * quads, quad, loaded_quad);
    for (var step = 0u; step < steps; step++) {
        // Of the two quads that were loaded, those before the end.
//#if WHOLE
        let loaded = 2u;
//#else
        let loaded = quads - min(quad + loaded_quad, quads);
//#endif
        let valid = select(0u, loaded, first_step + step < all_steps);
        for (var i = 0u; i < ROWS_LOADED; i++) {
            let place = (x_first + loaded_row + i * ROW_STEP) * PITCH + loaded_quad / UNIT_QUADS;
            var values: array<stored4, 2>;
            for (var side = 0u; side < 2u; side++) {
                values[side] = select(stored4(), fetched.x[2u * i + side], fetched.inside[i] && side < valid);
            }
//#if PACKED
            x_tile[place] = Unit(values[0], values[1]);
//#else
            x_tile[place] = unpack_x(values[0]);
            x_tile[place + 1u] = unpack_x(values[1]);
//#endif
        }
        for (var i = 0u; i < COLUMNS_LOADED; i++) {
            let column = loaded_row + i * ROW_STEP;
            let row = weight_first + column % 4u * (TILE_N / 4u) + column / 4u;
            let place = row * PITCH + loaded_quad / UNIT_QUADS;
            let values = array(unpack_pair(fetched.weight[i], 0u), unpack_pair(fetched.weight[i], 1u));
//#if PACKED
            weight_tile[place] = Unit(vec4<f16>(values[0]), vec4<f16>(values[1]));
//#else
            weight_tile[place] = values[0];
            weight_tile[place + 1u] = values[1];
//#endif
        }
        workgroupBarrier();
        quad += TILE_K_QUADS;
        if (quad >= quads) {
            quad = 0u;
            run = min(run + 1u, runs() - 1u);
            for (var i = 0u; i < ROWS_LOADED; i++) {
                firsts[i] = locate_run(places[i], run);
            }
        }
        fetched = fetch(firsts, columns, run * quads, quad, loaded_quad);
//#if APART
        // Columns are at least 4.
        for (var k = 0u; k < min(UNITS, params.columns); k++) {
//#else
        for (var k = 0u; k < UNITS; k++) {
//#endif
            var w: array<Unit, THREAD_N>;
            for (var j = 0u; j < THREAD_N; j++) {
                w[j] = weight_tile[(weight_first + across + j % 4u * (TILE_N / 4u) + j / 4u * ACROSS) * PITCH + k];
            }
            for (var i = 0u; i < THREAD_M; i++) {
                let v = x_tile[(x_first + down + i * DOWN) * PITCH + k];
                for (var j = 0u; j < THREAD_QUADS; j++) {
//#if PACKED
                    sums[i * THREAD_QUADS + j] += vec4<f32>(
                        dot_unit(v, w[4u * j]),
                        dot_unit(v, w[4u * j + 1u]),
                        dot_unit(v, w[4u * j + 2u]),
                        dot_unit(v, w[4u * j + 3u]),
                    );
//#else
                    var sum = sums[i * THREAD_QUADS + j];
                    sum.x = fma(v.x, w[4u * j].x, sum.x);
                    sum.y = fma(v.x, w[4u * j + 1u].x, sum.y);
                    sum.z = fma(v.x, w[4u * j + 2u].x, sum.z);
                    sum.w = fma(v.x, w[4u * j + 3u].x, sum.w);
                    sum.x = fma(v.y, w[4u * j].y, sum.x);
                    sum.y = fma(v.y, w[4u * j + 1u].y, sum.y);
                    sum.z = fma(v.y, w[4u * j + 2u].y, sum.z);
                    sum.w = fma(v.y, w[4u * j + 3u].y, sum.w);
                    sum.x = fma(v.z, w[4u * j].z, sum.x);
                    sum.y = fma(v.z, w[4u * j + 1u].z, sum.y);
                    sum.z = fma(v.z, w[4u * j + 2u].z, sum.z);
                    sum.w = fma(v.z, w[4u * j + 3u].z, sum.w);
                    sum.x = fma(v.w, w[4u * j].w, sum.x);
                    sum.y = fma(v.w, w[4u * j + 1u].w, sum.y);
                    sum.z = fma(v.w, w[4u * j + 2u].w, sum.z);
                    sum.w = fma(v.w, w[4u * j + 3u].w, sum.w);
                    sums[i * THREAD_QUADS + j] = sum;
//#endif
                }
            }
        }
        workgroupBarrier();
    }

    for (var half = SLICES / 2u; half > 0u; half /= 2u) {
        let place = slice % half * TOGETHER * INVOCATIONS + local;
        for (var first = 0u; first < SUMS; first += TOGETHER) {
            if (slice >= half && slice < 2u * half) {
                for (var i = 0u; i < TOGETHER; i++) {
                    write_sum(place + i * INVOCATIONS, sums[first + i]);
                }
            }
            workgroupBarrier();
            if (slice < half) {
                for (var i = 0u; i < TOGETHER; i++) {
                    sums[first + i] += read_sum(place + i * INVOCATIONS);
                }
            }
            workgroupBarrier();
        }
    }
    if (slice > 0u) {
        return;
    }
    for (var i = 0u; i < THREAD_M; i++) {
        let row = first_row + i * DOWN + down;
        if (row >= params.rows) {
            continue;
        }
        for (var j = 0u; j < THREAD_QUADS; j++) {
            let column = first_column + (j * ACROSS + across) * 4u;
            if (column >= params.columns) {
                continue;
            }
            finish(row, column, sums[i * THREAD_QUADS + j]);
        }
    }
}
