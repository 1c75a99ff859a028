// One product of cooperative matrices.
//
//   out[i, j] = sum_k x[0, i, k] * x[1, k, j], of SIZE x SIZE values each
//
// One workgroup, a subgroup. Operands pass through workgroup memory, as in shared/coop.wgsl. Precondition: INVOCATIONS is the subgroup's size.

struct Params {
    len: u32,
    pad_0: u32,
    pad_1: u32,
    pad_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<x4>;            // [2, SIZE, SIZE / 4]
@group(0) @binding(2) var<storage, read_write> out: array<out4>;  // [SIZE, SIZE / 4]

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

// As in shared/coop.wgsl: quads on Vulkan, single values on Metal.
//#if MATRIX_QUADS
const UNIT: u32 = 4u;
alias Element = vec4<f16>;
//#else
const UNIT: u32 = 1u;
alias Element = f16;
//#endif

var<workgroup> left_tile: array<Element, SIZE * SIZE / UNIT>;
var<workgroup> right_tile: array<Element, SIZE * SIZE / UNIT>;
var<workgroup> sum_tile: array<f32, SIZE * SIZE>;

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(local_invocation_index) local: u32) {
    for (var i = local; i < SIZE * SIZE / 4u; i += INVOCATIONS) {
        let left = vec4<f16>(x[i]);
        let right = vec4<f16>(x[SIZE * SIZE / 4u + i]);
//#if MATRIX_QUADS
        left_tile[i] = left;
        right_tile[i] = right;
//#else
        for (var c = 0u; c < 4u; c++) {
            left_tile[4u * i + c] = left[c];
            right_tile[4u * i + c] = right[c];
        }
//#endif
    }
    workgroupBarrier();
    let left = coopLoadT<Left>(&left_tile[0], SIZE / UNIT);
    let right = coopLoadT<Right>(&right_tile[0], SIZE / UNIT);
    var sum = Sum();
    sum = coopMultiplyAdd(left, right, sum);
    coopStoreT(sum, &sum_tile[0], SIZE);
    workgroupBarrier();
    for (var i = local; i < params.len; i += INVOCATIONS) {
        out[i] = out4(vec4<f32>(sum_tile[4u * i], sum_tile[4u * i + 1u], sum_tile[4u * i + 2u], sum_tile[4u * i + 3u]));
    }
}
