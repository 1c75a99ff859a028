// The product in cooperative matrices that matmul and conv2d share. The including file declares what shared/tile.wgsl asks for.
//
// A workgroup owns TILE_M rows x TILE_N columns, cut into BLOCKS_M x BLOCKS_N blocks of FRAGMENTS_M x FRAGMENTS_N matrices of
// SIZE x SIZE (MATRIX_16: 16, else 8); a subgroup owns a block, or one after the other where there are fewer subgroups than
// blocks. A step stages TILE_K values of k as f16: it asks for the next step's while it multiplies, and writes them to the other
// half of workgroup memory, so that one barrier a step is enough. The pitch of 16 bytes more than TILE_K keeps the rows of a
// matrix in different banks. Sums are f32 and leave through workgroup memory, a row of matrices at a time.
//
// With SPLIT (x of f32) what f16 cuts off of x is a second operand, and the product as good as one of f32 values: to 2^-21 of a value, or
// 2^-25. Values past 65504 are infinite then; who reads the results sees it, and computes the stage again in f32.

//#include "shared/epilogue.wgsl"
//#include "shared/run.wgsl"

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

const TILE_K_QUADS: u32 = TILE_K / 4u;
const BLOCKS: u32 = BLOCKS_M * BLOCKS_N;
const BLOCK_M: u32 = FRAGMENTS_M * SIZE;
const BLOCK_N: u32 = FRAGMENTS_N * SIZE;
const TILE_M: u32 = BLOCKS_M * BLOCK_M;
const TILE_N: u32 = BLOCKS_N * BLOCK_N;
// Tiles in workgroup memory are arrays of quads (MATRIX_QUADS: Vulkan, where a matrix is loaded from elements of any width) or of
// single values (Metal); UNIT values are an element.
//#if MATRIX_QUADS
const UNIT: u32 = 4u;
alias Element = vec4<f16>;
//#else
const UNIT: u32 = 1u;
alias Element = f16;
//#endif
const PITCH: u32 = (TILE_K + 8u) / UNIT;
// An invocation loads two neighbouring quads (16 bytes of f16) of every ROW_STEP-th row.
const PAIRS: u32 = TILE_K / 8u;
const ROW_STEP: u32 = INVOCATIONS / PAIRS;
const ROWS_LOADED: u32 = TILE_M / ROW_STEP;
const COLUMNS_LOADED: u32 = TILE_N / ROW_STEP;
const X_STAGE: u32 = TILE_M * PITCH;
const WEIGHT_STAGE: u32 = TILE_N * PITCH;
// A row of matrices of each block.
const STRIP_ROWS: u32 = BLOCKS_M * SIZE;
const STRIP_PITCH: u32 = TILE_N + 4u;
const STRIP_QUADS: u32 = TILE_N / 4u;

var<workgroup> x_tile: array<Element, 2u * X_STAGE>;
//#if SPLIT
var<workgroup> x_rest: array<Element, 2u * X_STAGE>;
//#endif
var<workgroup> weight_tile: array<Element, 2u * WEIGHT_STAGE>;
var<workgroup> strip: array<f32, STRIP_ROWS * STRIP_PITCH>;

//#if SPLIT
alias Staged = vec4<f32>;
//#else
alias Staged = vec4<f16>;
//#endif

// `place` counts elements of the tile.
fn store_x(place: u32, staged: Staged) {
//#if SPLIT
    // Cut off by bits: a compiler may take a value for what is left of it in f16 and back.
    let upper = bitcast<vec4<f32>>(bitcast<vec4<u32>>(staged) & vec4<u32>(0xffffe000u));
    let value = vec4<f16>(upper);
    let rest = vec4<f16>(staged - upper);
//#else
    let value = staged;
//#endif
//#if MATRIX_QUADS
    x_tile[place] = value;
//#if SPLIT
    x_rest[place] = rest;
//#endif
//#else
    for (var c = 0u; c < 4u; c++) {
        x_tile[place + c] = value[c];
//#if SPLIT
        x_rest[place + c] = rest[c];
//#endif
    }
//#endif
}

fn store_weight(place: u32, value: vec4<f16>) {
//#if MATRIX_QUADS
    weight_tile[place] = value;
//#else
    for (var c = 0u; c < 4u; c++) {
        weight_tile[place + c] = value[c];
    }
//#endif
}

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
) {
    let first_column = workgroup.x * TILE_N;
    let first_row = (workgroup.z * workgroups.y + workgroup.y) * TILE_M;
    let quads = run_quads();
    let run_steps = (quads + TILE_K_QUADS - 1u) / TILE_K_QUADS;
    let steps = run_steps * runs();
    let loaded_quad = local % PAIRS * 2u;
    let loaded_row = local / PAIRS;
    var places: array<RowPlace, ROWS_LOADED>;
    for (var i = 0u; i < ROWS_LOADED; i++) {
        places[i] = locate_row(first_row + loaded_row + i * ROW_STEP);
    }

    for (var first_block = 0u; first_block < BLOCKS; first_block += subgroups) {
        let block = min(first_block + subgroup, BLOCKS - 1u);
        let block_row = block / BLOCKS_N;
        let block_column = block % BLOCKS_N;
        var sums: array<Sum, FRAGMENTS_M * FRAGMENTS_N>;
        var x_next: array<Staged, 2u * ROWS_LOADED>;
        var weight_next: array<vec4<f16>, 2u * COLUMNS_LOADED>;
        var run = 0u;
        var first_quad = 0u;
        var firsts: array<Run, ROWS_LOADED>;

        for (var step = 0u; step <= steps; step++) {
            if (step < steps) {
                if (first_quad == 0u) {
                    for (var i = 0u; i < ROWS_LOADED; i++) {
                        firsts[i] = locate_run(places[i], run);
                    }
                }
                let quad = first_quad + loaded_quad;
                for (var i = 0u; i < ROWS_LOADED; i++) {
                    let inside = firsts[i].inside && first_row + loaded_row + i * ROW_STEP < params.rows;
                    x_next[2u * i] = Staged();
                    x_next[2u * i + 1u] = Staged();
                    if (inside && quad < quads) {
                        x_next[2u * i] = Staged(x[firsts[i].first + quad]);
                    }
                    if (inside && quad + 1u < quads) {
                        x_next[2u * i + 1u] = Staged(x[firsts[i].first + quad + 1u]);
                    }
                }
                for (var i = 0u; i < COLUMNS_LOADED; i++) {
                    let column = first_column + loaded_row + i * ROW_STEP;
                    let place = column * inner_quads() + run * quads + quad;
                    weight_next[2u * i] = vec4<f16>();
                    weight_next[2u * i + 1u] = vec4<f16>();
                    if (column < params.columns && quad < quads) {
                        weight_next[2u * i] = vec4<f16>(load_weight(place, place / 8u));
                    }
                    if (column < params.columns && quad + 1u < quads) {
                        weight_next[2u * i + 1u] = vec4<f16>(load_weight(place + 1u, (place + 1u) / 8u));
                    }
                }
                first_quad += TILE_K_QUADS;
                if (first_quad >= quads) {
                    first_quad = 0u;
                    run++;
                }
            }
            if (step > 0u) {
                let stage = (step + 1u) % 2u;
                let first_x = stage * X_STAGE + block_row * BLOCK_M * PITCH;
                let first_weight = stage * WEIGHT_STAGE + block_column * BLOCK_N * PITCH;
                for (var k = 0u; k < TILE_K; k += SIZE) {
                    var rights: array<Right, FRAGMENTS_N>;
                    for (var j = 0u; j < FRAGMENTS_N; j++) {
                        rights[j] = coopLoad<Right>(&weight_tile[first_weight + j * SIZE * PITCH + k / UNIT], PITCH);
                    }
                    for (var i = 0u; i < FRAGMENTS_M; i++) {
                        let left = coopLoadT<Left>(&x_tile[first_x + i * SIZE * PITCH + k / UNIT], PITCH);
                        for (var j = 0u; j < FRAGMENTS_N; j++) {
                            let sum = sums[i * FRAGMENTS_N + j];
                            sums[i * FRAGMENTS_N + j] = coopMultiplyAdd(left, rights[j], sum);
                        }
//#if SPLIT
                        let rest = coopLoadT<Left>(&x_rest[first_x + i * SIZE * PITCH + k / UNIT], PITCH);
                        for (var j = 0u; j < FRAGMENTS_N; j++) {
                            let sum = sums[i * FRAGMENTS_N + j];
                            sums[i * FRAGMENTS_N + j] = coopMultiplyAdd(rest, rights[j], sum);
                        }
//#endif
                    }
                }
            }
            if (step < steps) {
                let first = loaded_row * PITCH + loaded_quad * 4u / UNIT;
                for (var i = 0u; i < ROWS_LOADED; i++) {
                    let place = step % 2u * X_STAGE + i * ROW_STEP * PITCH + first;
                    store_x(place, x_next[2u * i]);
                    store_x(place + 4u / UNIT, x_next[2u * i + 1u]);
                }
                for (var i = 0u; i < COLUMNS_LOADED; i++) {
                    let place = step % 2u * WEIGHT_STAGE + i * ROW_STEP * PITCH + first;
                    store_weight(place, weight_next[2u * i]);
                    store_weight(place + 4u / UNIT, weight_next[2u * i + 1u]);
                }
            }
            workgroupBarrier();
        }

        for (var i = 0u; i < FRAGMENTS_M; i++) {
            if (first_block + subgroup < BLOCKS) {
                let first = block_row * SIZE * STRIP_PITCH + block_column * BLOCK_N;
                for (var j = 0u; j < FRAGMENTS_N; j++) {
                    coopStoreT(sums[i * FRAGMENTS_N + j], &strip[first + j * SIZE], STRIP_PITCH);
                }
            }
            workgroupBarrier();
            for (var index = local; index < STRIP_ROWS * STRIP_QUADS; index += INVOCATIONS) {
                let strip_row = index / STRIP_QUADS;
                let strip_column = index % STRIP_QUADS * 4u;
                let owner = strip_row / SIZE * BLOCKS_N + strip_column / BLOCK_N;
                let row = first_row + strip_row / SIZE * BLOCK_M + i * SIZE + strip_row % SIZE;
                let column = first_column + strip_column;
                let written = owner >= first_block && owner - first_block < subgroups;
                if (written && row < params.rows && column < params.columns) {
                    let place = strip_row * STRIP_PITCH + strip_column;
                    let sum = vec4<f32>(strip[place], strip[place + 1u], strip[place + 2u], strip[place + 3u]);
                    finish(row, column, sum);
                }
            }
            workgroupBarrier();
        }
    }
}
