//! The matrix product of the factors.

/// `out[m, n] += factor · Σ_k x[m, k] · y[k, n]`, row-major, on the calling thread.
pub(super) fn multiply_add([m, n, k]: [usize; 3], factor: f32, x: &[f32], y: &[f32], out: &mut [f32]) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    assert!(x.len() >= m * k && y.len() >= k * n && out.len() >= m * n, "the factors are as long as their shapes say");
    // SAFETY: the assertion above keeps every element that the strides reach inside the three slices; `out` is borrowed
    // mutably, so it overlaps neither input.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            true,
            x.as_ptr(),
            1,
            k as isize,
            y.as_ptr(),
            1,
            n as isize,
            1.0f32,
            factor,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// `x[m, k] · y[k, n]`.
pub(super) fn product(size: [usize; 3], x: &[f32], y: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; size[0] * size[1]];
    multiply_add(size, 1.0, x, y, &mut out);
    out
}

/// `x[m, n]` with its axes exchanged.
pub(super) fn transposed(x: &[f32], n: usize) -> Vec<f32> {
    let m = x.len() / n.max(1);
    (0..n).flat_map(|j| (0..m).map(move |i| x[i * n + j])).collect()
}
