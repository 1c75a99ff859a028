// Element types. The flags come from the recording: STORAGE_F16 for activations, WEIGHT_F16 or WEIGHT_F16_PACKED (no
// 16-bit type needed) for weights. Arithmetic is f32 throughout.

//#if STORAGE_F16
alias act4 = vec4<f16>;
//#else
alias act4 = vec4<f32>;
//#endif

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
