// The parameters of the two kernels of group norm: group_norm_statistics, group_norm. Both divide channels into blocks of
// 4 * ACROSS, block channels; a group lies in one block or reaches over some: of each it has a segment.

struct Params {
    pixels: u32,
    channels: u32,
    chunks: u32,
    chunk_pixels: u32,
    groups: u32,
    // Most segments of a group.
    segments: u32,
    block: u32,
    // Pixels of a workgroup of group_norm.
    span: u32,
    x_stride: u32,
    x_offset: u32,
    eps: f32,
    pad_0: u32,
}

const INVOCATIONS: u32 = ACROSS * DOWN;

// Where the moments of a group's segment in a block stand.
fn moments_place(image: u32, chunk: u32, group: u32, block: u32) -> u32 {
    let first_block = group * (params.channels / params.groups) / params.block;
    return ((image * params.chunks + chunk) * params.groups + group) * params.segments + block - first_block;
}
