// A two-dimensional convolution as an implicit matrix product: no unfolded copy of the input is made.
//
//   out[n, y, x, o] = activate(sum_{i, j, c} x[n, s y + i - p, s x + j - p, c] * weight[o, i, j, c] + bias[o] + ...)
//
// A row of the product is an output pixel, k runs over (i, j, c) with c fastest. One workgroup owns TILE_M pixels x TILE_N
// channels, one invocation THREAD_M x THREAD_N of them (shared/tile.wgsl).
// Preconditions: channels and columns are multiples of 4; x has no gaps.

//#include "shared/weight.wgsl"

struct Params {
    rows: u32,
    columns: u32,
    rows_per_image: u32,
    kernel: u32,
    height: u32,
    width: u32,
    channels: u32,
    stride: u32,
    seen_height: u32,
    seen_width: u32,
    out_width: u32,
    pad_before: u32,
    image_add_stride: u32,
    image_add_offset: u32,
    pad_0: u32,
    pad_1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
//#if WORDS
@group(0) @binding(1) var<storage, read> x: array<vec2<u32>>;         // [images, height, width, channels / 4]
//#else
@group(0) @binding(1) var<storage, read> x: array<x4>;                // [images, height, width, channels / 4]
//#endif
@group(0) @binding(2) var<storage, read> weight: array<weight4>;      // [columns, kernel, kernel, channels / 4]
//#if BIAS
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;      // [columns / 4]
//#endif
//#if IMAGE_ADD
@group(0) @binding(4) var<storage, read> image_add: array<image_add4>; // [images, image_add_stride / 4]
//#endif
//#if RESIDUAL
@group(0) @binding(5) var<storage, read> residual: array<residual4>;  // [rows, columns / 4]
//#endif
@group(0) @binding(6) var<storage, read_write> out: array<out4>;      // [rows, columns / 4]

fn inner_quads() -> u32 {
    return params.kernel * params.kernel * params.channels / 4u;
}

// The corner of the patch that makes an output pixel; it may lie in the padding.
struct RowPlace {
    image: u32,
    y: i32,
    column: i32,
}

fn locate_row(row: u32) -> RowPlace {
    let pixel = row % params.rows_per_image;
    let y = i32(pixel / params.out_width * params.stride) - i32(params.pad_before);
    let column = i32(pixel % params.out_width * params.stride) - i32(params.pad_before);
    return RowPlace(row / params.rows_per_image, y, column);
}

// The pixel under tap (i, j) of the kernel: its first quad; nothing where it is padding.
struct Pixel {
    first: u32,
    inside: bool,
}

fn locate_pixel(corner: RowPlace, i: i32, j: i32) -> Pixel {
    let y = corner.y + i;
    let column = corner.column + j;
    let inside = y >= 0 && column >= 0 && u32(y) < params.seen_height && u32(column) < params.seen_width;
//#if UPSAMPLE
    let source_y = u32(y) * params.height / params.seen_height;
    let source_column = u32(column) * params.width / params.seen_width;
//#else
    let source_y = u32(y);
    let source_column = u32(column);
//#endif
    let source = (corner.image * params.height + source_y) * params.width + source_column;
    return Pixel(select(0u, source * (params.channels / 4u), inside), inside);
}

// A run is a tap.
fn runs() -> u32 {
    return params.kernel * params.kernel;
}

fn run_quads() -> u32 {
    return params.channels / 4u;
}

fn locate_run(corner: RowPlace, run: u32) -> Run {
    let place = locate_pixel(corner, i32(run / params.kernel), i32(run % params.kernel));
    return Run(place.first, place.inside);
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
