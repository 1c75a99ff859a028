// A picture in the middle of the window, or rings that move until there is one.

struct Frame {
    // Pixels of the window.
    size: vec2f,
    seconds: f32,
    // 1 when there is a picture.
    has_picture: f32,
}

@group(0) @binding(0) var<uniform> frame: Frame;
@group(0) @binding(1) var picture: texture_2d<f32>;
@group(0) @binding(2) var smooth_edges: sampler;

// One triangle that covers the window.
@vertex
fn corner(@builtin(vertex_index) index: u32) -> @builtin(position) vec4f {
    let at = vec2f(f32(index & 1u), f32(index >> 1u));
    return vec4f(4.0 * at - 1.0, 0.0, 1.0);
}

@fragment
fn color(@builtin(position) pixel: vec4f) -> @location(0) vec4f {
    let from_middle = (pixel.xy - 0.5 * frame.size) / min(frame.size.x, frame.size.y);
    let ring = 0.5 + 0.5 * sin(40.0 * length(from_middle) - 4.0 * frame.seconds);
    let seen = textureSampleLevel(picture, smooth_edges, from_middle / 0.8 + 0.5, 0.0);
    let is_inside = all(abs(from_middle) < vec2f(0.4));
    return select(vec4f(0.1, 0.1, 0.15 + 0.1 * ring, 1.0), seen, is_inside && frame.has_picture > 0.0);
}
