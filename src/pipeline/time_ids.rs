//! What SDXL's UNet is told beside the time: the pooled text, and the sizes that its training pictures had.

use super::Request;
use crate::models::UnetConfig;
use crate::models::layout::pad_rows;
use crate::sampling::embedding::timestep_embedding;

/// Sizes in a row: original height and width, top and left of the crop, target height and width.
pub(super) const COUNT: usize = 6;

/// The six sizes of a request for a picture of (width, height), in the order of diffusers' `_get_add_time_ids`.
pub(super) fn time_ids(request: &Request, (width, height): (usize, usize)) -> [usize; COUNT] {
    let original = request.original_size.unwrap_or((height, width));
    let crop = request.crops_coords_top_left;
    let target = request.target_size.unwrap_or((height, width));
    [original.0, original.1, crop.0, crop.1, target.0, target.1]
}

/// One row of [`names::ADD_EMBEDS`](crate::models::names::ADD_EMBEDS): the pooled text, then a sinusoid per size, padded.
pub(super) fn add_embeds(config: &UnetConfig, pooled: &[f32], ids: [usize; COUNT]) -> Vec<f32> {
    let dim = config.addition_time_embed_dim.unwrap_or(0);
    let sizes = ids.iter().flat_map(|&id| timestep_embedding(id as f64, dim, true, 0.0));
    let row: Vec<f32> = pooled.iter().copied().chain(sizes).collect();
    pad_rows(&row, row.len())
}
