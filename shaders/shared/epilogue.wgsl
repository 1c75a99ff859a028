// What becomes of a sum before it is stored. The including file binds bias, image_add and residual by the flags BIAS, IMAGE_ADD and
// RESIDUAL, and out; Params have columns, rows_per_image,
// image_add_stride and image_add_offset. With GATED, columns are two values, their two gates, and so on, and the result has half
// as many: value * gelu(gate) (Shazeer 2020, GEGLU); out is bound as array<out2>.

//#include "shared/activation.wgsl"

// Four neighbouring columns of a row.
fn finish(row: u32, column: u32, sum: vec4<f32>) {
    var value = sum;
//#if BIAS
    value += bias[column / 4u];
//#endif
//#if IMAGE_ADD
    let image = row / params.rows_per_image;
    value += vec4<f32>(image_add[(image * params.image_add_stride + params.image_add_offset + column) / 4u]);
//#endif
//#if RESIDUAL
    value += vec4<f32>(residual[(row * params.columns + column) / 4u]);
//#endif
//#if GATED
    // Two values, then their gates.
    out[(row * params.columns + column) / 4u] = out2(value.xy * gelu(value.zwzw).xy);
//#else
    out[(row * params.columns + column) / 4u] = out4(activate(value));
//#endif
}
