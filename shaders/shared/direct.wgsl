// The product without workgroup memory that matmul and conv2d share. The including file declares what shared/tile.wgsl asks for.
//
// A workgroup, one subgroup, is ACROSS x DOWN invocations, each of which owns ROWS rows and 4 QUADS columns: what it loads of a weight it
// multiplies with ROWS values. Either all lie across, and a value of x is the same for the whole subgroup, or, where columns are few, all lie
// down, and a weight is. Weights lie in panels of PANEL columns. Rows and columns past the end are computed from others and not stored.

//#include "shared/epilogue.wgsl"
//#include "shared/run.wgsl"

const PANEL: u32 = ACROSS * QUADS * 4u;
const OWN_COLUMNS: u32 = QUADS * 4u;

@compute @workgroup_size(ACROSS * DOWN)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let rows_start = (workgroup.z * workgroups.x + workgroup.x) * ROWS * DOWN;
    if (rows_start >= params.rows) {
        return;
    }
//#if DOWNWARDS
    let first_row = rows_start + lane;
    let across = 0u;
//#else
    let first_row = rows_start;
    let across = lane;
//#endif
    let first_column = workgroup.y * PANEL;
    let width = min(PANEL, params.columns - first_column);
    var columns: array<u32, OWN_COLUMNS>;
    for (var c = 0u; c < OWN_COLUMNS; c++) {
        columns[c] = min((c / 4u * ACROSS + across) * 4u + c % 4u, width - 1u);
    }
    var places: array<RowPlace, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        places[r] = locate_row(min(first_row + r * DOWN, params.rows - 1u));
    }
    var sums: array<vec4<f32>, ROWS * QUADS>;

    let first_weight = first_column * inner_quads();
    let first_block = first_weight / 8u;
    var quad = 0u;
    for (var run = 0u; run < runs(); run++) {
        var firsts: array<Run, ROWS>;
        for (var r = 0u; r < ROWS; r++) {
            firsts[r] = locate_run(places[r], run);
        }
        for (var q = 0u; q < run_quads(); q++) {
            var w: array<vec4<f32>, OWN_COLUMNS>;
            for (var c = 0u; c < OWN_COLUMNS; c++) {
                w[c] = load_weight(first_weight + quad * width + columns[c], first_block + quad / 8u * width + columns[c]);
            }
            for (var r = 0u; r < ROWS; r++) {
                let v = select(vec4<f32>(), vec4<f32>(x[firsts[r].first + q]), firsts[r].inside);
                for (var j = 0u; j < QUADS; j++) {
                    var sum = sums[r * QUADS + j];
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
                    sums[r * QUADS + j] = sum;
                }
            }
            quad += 1u;
        }
    }

    for (var j = 0u; j < QUADS; j++) {
        let column = (j * ACROSS + across) * 4u;
        if (column < width) {
            for (var r = 0u; r < ROWS; r++) {
                if (first_row + r * DOWN < params.rows) {
                    finish(first_row + r * DOWN, first_column + column, sums[r * QUADS + j]);
                }
            }
        }
    }
}
