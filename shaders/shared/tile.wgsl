// The tiled product that matmul and conv2d share. The including file declares params (rows, columns, rows_per_image),
// weight, the epilogue's bindings and out, and defines inner_quads(), the extent of k in quads, and how x is read:
// load_x(locate_row(row), locate_inner(quad)) are its values at k = 4 quad .. 4 quad + 3. What an invocation has to divide
// to find a row it divides once, since it loads the same rows in every step.
//
// A step loads TILE_K values of k for the workgroup's rows and columns; each invocation then multiplies its THREAD rows
// with its THREAD columns four k at a time, so that workgroup memory is read 16 bytes at a time and nothing is transposed.
// The pitch of 5 quads and the order of the columns keep the invocations of a row in different banks.

//#include "shared/epilogue.wgsl"

const TILE_K_QUADS: u32 = 4u;
const PITCH: u32 = TILE_K_QUADS + 1u;
const ACROSS: u32 = TILE_N / THREAD;
const DOWN: u32 = TILE_M / THREAD;
const INVOCATIONS: u32 = ACROSS * DOWN;
const THREAD_QUADS: u32 = THREAD / 4u;
// An invocation loads one quad of every ROW_STEP-th row.
const ROW_STEP: u32 = INVOCATIONS / TILE_K_QUADS;
const ROWS_LOADED: u32 = TILE_M / ROW_STEP;
const COLUMNS_LOADED: u32 = TILE_N / ROW_STEP;

var<workgroup> x_tile: array<vec4<f32>, TILE_M * PITCH>;
var<workgroup> weight_tile: array<vec4<f32>, TILE_N * PITCH>;

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let first_column = workgroup.x * TILE_N;
    let first_row = (workgroup.z * workgroups.y + workgroup.y) * TILE_M;
    let across = local % ACROSS;
    let down = local / ACROSS;
    let quads = inner_quads();
    let loaded_quad = local % TILE_K_QUADS;
    let loaded_row = local / TILE_K_QUADS;
    var places: array<RowPlace, ROWS_LOADED>;
    for (var i = 0u; i < ROWS_LOADED; i++) {
        places[i] = locate_row(first_row + loaded_row + i * ROW_STEP);
    }
    var sums: array<vec4<f32>, THREAD * THREAD_QUADS>;

    for (var first_quad = 0u; first_quad < quads; first_quad += TILE_K_QUADS) {
        let quad = first_quad + loaded_quad;
        let inner = locate_inner(quad);
        for (var i = 0u; i < ROWS_LOADED; i++) {
            let row = loaded_row + i * ROW_STEP;
            var value = vec4<f32>();
            if (first_row + row < params.rows && quad < quads) {
                value = load_x(places[i], inner);
            }
            x_tile[row * PITCH + loaded_quad] = value;
        }
        for (var i = 0u; i < COLUMNS_LOADED; i++) {
            let column = loaded_row + i * ROW_STEP;
            var value = vec4<f32>();
            if (first_column + column < params.columns && quad < quads) {
                let place = (first_column + column) * quads + quad;
                value = load_weight(place, place / 8u);
            }
            let place = column % 4u * (TILE_N / 4u) + column / 4u;
            weight_tile[place * PITCH + loaded_quad] = value;
        }
        workgroupBarrier();
        for (var k = 0u; k < TILE_K_QUADS; k++) {
            var w: array<vec4<f32>, THREAD>;
            for (var j = 0u; j < THREAD; j++) {
                let place = j % 4u * (TILE_N / 4u) + j / 4u * ACROSS + across;
                w[j] = weight_tile[place * PITCH + k];
            }
            for (var i = 0u; i < THREAD; i++) {
                let v = x_tile[(i * DOWN + down) * PITCH + k];
                for (var j = 0u; j < THREAD_QUADS; j++) {
                    let products = vec4<f32>(
                        dot(v, w[4u * j]),
                        dot(v, w[4u * j + 1u]),
                        dot(v, w[4u * j + 2u]),
                        dot(v, w[4u * j + 3u]),
                    );
                    sums[i * THREAD_QUADS + j] += products;
                }
            }
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < THREAD; i++) {
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
