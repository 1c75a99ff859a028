//! The matrix product behind the host twins of `matmul` and `conv2d`.

/// A row-major matrix in a larger storage: first element and elements from one row to the next.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
}

/// `out[m, n] = Σ_k x[m, k] · weight[n, k]`, row-major, on the calling thread; `out` has a row stride of its own.
pub(super) fn multiply(
    m: usize,
    n: usize,
    k: usize,
    x: Rows<'_>,
    weight: Rows<'_>,
    out: &mut [f32],
    out_stride: usize,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(k > 0 && x.values.len() >= (m - 1) * x.stride + k && weight.values.len() >= (n - 1) * weight.stride + k);
    assert!(out.len() >= (m - 1) * out_stride + n && out_stride >= n);
    // SAFETY: the assertions above keep every element that the strides reach inside the three slices; `out` is
    // borrowed mutably, so it overlaps neither input; with read_dst false its old contents are not read.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            false,
            x.values.as_ptr(),
            1,
            x.stride as isize,
            weight.values.as_ptr(),
            weight.stride as isize,
            1,
            0.0f32,
            1.0f32,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// `out[m, n] += Σ_k x[m, k] · y[k, n]`, row-major, on the calling thread; `out` has a row stride of its own.
pub(super) fn multiply_add(m: usize, n: usize, k: usize, x: Rows<'_>, y: Rows<'_>, out: &mut [f32], out_stride: usize) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    assert!(x.values.len() >= (m - 1) * x.stride + k && y.values.len() >= (k - 1) * y.stride + n);
    assert!(out.len() >= (m - 1) * out_stride + n && out_stride >= n);
    // SAFETY: the assertions above keep every element that the strides reach inside the three slices; `out` is
    // borrowed mutably, so it overlaps neither input.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            true,
            x.values.as_ptr(),
            1,
            x.stride as isize,
            y.values.as_ptr(),
            1,
            y.stride as isize,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
