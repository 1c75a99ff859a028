// The parameters of the three kernels of group norm: group_norm_statistics, group_norm_fold, group_norm.

struct Params {
    pixels: u32,
    channels: u32,
    chunks: u32,
    chunk_pixels: u32,
    groups: u32,
    quads: u32,
    eps: f32,
    pad_0: u32,
}
