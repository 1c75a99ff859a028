// gelu(): x times the normal distribution function, the exact form with erf.

// Half of erfc(-x / sqrt 2), to about 3e-7: Numerical Recipes, section 6.2, erfcc. The exponent is split so that no large
// terms cancel, and erfc itself is used below 0, where 1 + erf would cancel.
fn normal_cdf(x: vec4<f32>) -> vec4<f32> {
    let z = abs(x) * 0.70710678;
    let t = 1.0 / (1.0 + 0.5 * z);
    var p = vec4<f32>(0.17087277);
    p = fma(p, t, vec4<f32>(-0.82215223));
    p = fma(p, t, vec4<f32>(1.48851587));
    p = fma(p, t, vec4<f32>(-1.13520398));
    p = fma(p, t, vec4<f32>(0.27886807));
    p = fma(p, t, vec4<f32>(-0.18628806));
    p = fma(p, t, vec4<f32>(0.09678418));
    p = fma(p, t, vec4<f32>(0.37409196));
    p = fma(p, t, vec4<f32>(1.00002368));
    p = fma(p, t, vec4<f32>(-1.26551223));
    let tail = 0.5 * t * exp(-z * z) * exp(p);
    return select(tail, 1.0 - tail, x >= vec4<f32>());
}

fn gelu(x: vec4<f32>) -> vec4<f32> {
    return x * normal_cdf(x);
}
