//! Classifier-free guidance (Ho and Salimans, arXiv 2207.12598); eq. 21 of the OMS paper has the same form.

use crate::{Error, Result};

/// `uncond + weight · (cond - uncond)` of two rows `[unconditional, conditional]`; a single row is returned as it is.
///
/// # Errors
/// When there is another number of rows, or they differ in length.
pub fn guide(rows: &[&[f32]], weight: f64) -> Result<Vec<f32>> {
    match rows {
        [uncond, cond] if uncond.len() == cond.len() => Ok(uncond
            .iter()
            .zip(*cond)
            .map(|(&u, &c)| (f64::from(u) + weight * (f64::from(c) - f64::from(u))) as f32)
            .collect()),
        [one] => Ok(one.to_vec()),
        _ => {
            let lengths: Vec<usize> = rows.iter().map(|row| row.len()).collect();
            Err(Error::shape("guide", format!("expected one row, or two of one length, got {lengths:?}")))
        }
    }
}

/// Guidance by a picture and a text of three rows `[neither, picture, both]` (InstructPix2Pix, Brooks et al., arXiv 2211.09800, eq. 3):
/// `neither + picture_weight · (picture - neither) + text_weight · (both - picture)`.
pub fn guide_by_picture(rows: [&[f32]; 3], picture_weight: f64, text_weight: f64) -> Vec<f32> {
    let [neither, picture, both] = rows;
    let one = |((&neither, &picture), &both): ((&f32, &f32), &f32)| {
        let (neither, picture, both) = (f64::from(neither), f64::from(picture), f64::from(both));
        (neither + picture_weight * (picture - neither) + text_weight * (both - picture)) as f32
    };
    neither.iter().zip(picture).zip(both).map(one).collect()
}

/// Guidance rescale (Lin et al., arXiv 2305.08891, eq. 15 and 16): the guided output at the standard deviation of the conditional one,
/// mixed with the guided output by `rescale` from 0 (no change) to 1.
pub fn rescale_guidance(guided: &mut [f32], conditional: &[f32], rescale: f64) {
    let (wanted, got) = (deviation(conditional), deviation(guided));
    if rescale == 0.0 || got == 0.0 {
        return;
    }
    let factor = rescale * wanted / got + (1.0 - rescale);
    guided.iter_mut().for_each(|v| *v = (f64::from(*v) * factor) as f32);
}

/// The sample standard deviation (n - 1).
fn deviation(values: &[f32]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    (values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt()
}
