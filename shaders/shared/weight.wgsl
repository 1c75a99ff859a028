// The element type of weights, by the flags WEIGHT_F16 and WEIGHT_F16_PACKED (no 16-bit type needed).

//#if WEIGHT_F16
alias weight4 = vec4<f16>;
fn unpack_weight(packed: weight4) -> vec4<f32> {
    return vec4<f32>(packed);
}
//#else
//#if WEIGHT_F16_PACKED
alias weight4 = vec2<u32>;
fn unpack_weight(packed: weight4) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(packed.x), unpack2x16float(packed.y));
}
//#else
alias weight4 = vec4<f32>;
fn unpack_weight(packed: weight4) -> vec4<f32> {
    return packed;
}
//#endif
//#endif
