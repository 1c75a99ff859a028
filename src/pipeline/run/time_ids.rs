//! What SDXL's UNet is told beside the time: the pooled text, and the sizes that its training pictures had.

use crate::models::UnetConfig;
use crate::models::layout::pad_rows;
use crate::pipeline::model::kind::Kind;
use crate::pipeline::request::Request;
use crate::sampling::embedding::timestep_embedding;

/// Which row of the batch is told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Prompt,
    Negative,
}

/// The numbers of a request for a picture of (width, height), in the order of diffusers' `_get_add_time_ids`.
pub(crate) fn time_ids(kind: Kind, request: &Request, (width, height): (usize, usize), side: Side) -> Vec<f64> {
    let original = request.original_size.unwrap_or((height, width));
    let crop = request.crops_coords_top_left;
    let sizes = [original.0, original.1, crop.0, crop.1].map(|size| size as f64);
    let target = request.target_size.unwrap_or((height, width));
    let last = match (kind.aesthetic, side) {
        (false, _) => vec![target.0 as f64, target.1 as f64],
        (true, Side::Prompt) => vec![request.aesthetic_score],
        (true, Side::Negative) => vec![request.negative_aesthetic_score],
    };
    sizes.into_iter().chain(last).collect()
}

/// One row of [`names::ADD_EMBEDS`](crate::models::names::ADD_EMBEDS): the pooled text, then a sinusoid per number, padded.
pub(crate) fn add_embeds(config: &UnetConfig, pooled: &[f32], ids: &[f64]) -> Vec<f32> {
    let dim = config.addition_time_embed_dim.unwrap_or(0);
    let sizes = ids.iter().flat_map(|&id| timestep_embedding(id, dim, true, 0.0));
    let row: Vec<f32> = pooled.iter().copied().chain(sizes).collect();
    pad_rows(&row, row.len())
}
