// activate(): the function that the constant ACTIVATION names; the codes are those of ops::Activation.

//#include "shared/gelu.wgsl"

fn sigmoid(x: vec4<f32>) -> vec4<f32> {
    return 1.0 / (1.0 + exp(-x));
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
