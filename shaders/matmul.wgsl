// A matrix product with a fused epilogue.
//
//   out[row, column] = activate(sum_k x[row, k] * weight[column, k] + bias[column] + image_add[image, column] + residual[row, column])
//
// One workgroup owns TILE_M x TILE_N results, one invocation THREAD_M x THREAD_N of them (shared/tile.wgsl).
// Preconditions: inner, columns, x_stride and x_offset are multiples of 4.

//#include "shared/weight.wgsl"

struct Params {
    rows: u32,
    inner: u32,
    columns: u32,
    rows_per_image: u32,
    x_stride: u32,
    x_offset: u32,
    image_add_stride: u32,
    image_add_offset: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
//#if WORDS
@group(0) @binding(1) var<storage, read> x: array<vec2<u32>>;         // [rows, x_stride / 4]
//#else
@group(0) @binding(1) var<storage, read> x: array<x4>;                // [rows, x_stride / 4]
//#endif
@group(0) @binding(2) var<storage, read> weight: array<weight4>;      // [columns, inner / 4]
//#if BIAS
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;      // [columns / 4]
//#endif
//#if IMAGE_ADD
@group(0) @binding(4) var<storage, read> image_add: array<image_add4>; // [images, image_add_stride / 4]
//#endif
//#if RESIDUAL
@group(0) @binding(5) var<storage, read> residual: array<residual4>;  // [rows, columns / 4]
//#endif
//#if GATED
@group(0) @binding(6) var<storage, read_write> out: array<out2>;      // [rows, columns / 2 / 2]
//#else
@group(0) @binding(6) var<storage, read_write> out: array<out4>;      // [rows, columns / 4]
//#endif

fn inner_quads() -> u32 {
    return params.inner / 4u;
}

// The first quad of a row of x.
alias RowPlace = u32;
fn locate_row(row: u32) -> RowPlace {
    return (row * params.x_stride + params.x_offset) / 4u;
}

// One run.
fn runs() -> u32 {
    return 1u;
}

fn run_quads() -> u32 {
    return inner_quads();
}

fn locate_run(row: RowPlace, run: u32) -> Run {
    return Run(row, true);
}

//#if DIRECT
//#include "shared/direct.wgsl"
//#else
//#if COOP
//#include "shared/coop.wgsl"
//#else
//#include "shared/tile.wgsl"
//#endif
//#endif
