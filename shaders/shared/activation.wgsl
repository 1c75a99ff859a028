// activate(): the function that the constant ACTIVATION names; the codes are those of ops::Activation.

fn sigmoid(x: vec4<f32>) -> vec4<f32> {
    return 1.0 / (1.0 + exp(-x));
}

// erf to about 1.2e-7: Numerical Recipes, section 6.2, erfcc. exp(-x^2 + p) is split so that no large terms cancel.
fn erf(x: vec4<f32>) -> vec4<f32> {
    let t = 1.0 / (1.0 + 0.5 * abs(x));
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
    return sign(x) * (1.0 - t * exp(-x * x) * exp(p));
}

fn gelu(x: vec4<f32>) -> vec4<f32> {
    return 0.5 * x * (1.0 + erf(x * 0.70710678));
}

fn activate(x: vec4<f32>) -> vec4<f32> {
    switch (ACTIVATION) {
        case 1u: {
            return x * sigmoid(x);
        }
        case 2u: {
            return gelu(x);
        }
        case 3u: {
            return x * sigmoid(1.702 * x);
        }
        case 4u: {
            return max(x, vec4<f32>());
        }
        case 5u: {
            // exp overflows to infinity or 0 far out, where this still gives +-3.
            return 3.0 - 6.0 / (1.0 + exp(x * 0.66666667));
        }
        default: {
            return x;
        }
    }
}
