//! Masks, what lies under them, and drawing only what is masked (stable-diffusion-webui, `modules/processing.py` and `modules/masking.py`).

use chiaro::image::Rgb8Image;

use crate::fields::Fields;
use crate::pictures::{Mask, decoded, from_value};
use crate::refusal::{Answer, Refusal};

/// How a picture is repainted.
#[derive(Default)]
pub(super) struct Inpaint {
    mask: Option<Mask>,
    /// What is put under the mask: 0 its surroundings, 1 what is there.
    fill: i64,
    /// Whether only what is masked is drawn, with so many pixels around it.
    only_masked: Option<usize>,
}

/// What is drawn, and where it belongs.
pub(super) struct Prepared {
    pub(super) image: Rgb8Image,
    pub(super) mask: Option<Mask>,
    pub(super) region: Option<Region>,
}

/// Where a drawn part belongs in a picture.
#[derive(Debug)]
pub(super) struct Region {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
    original: Rgb8Image,
    /// Of the original's size: how much of the drawn part is seen.
    mask: Vec<u8>,
}

impl Inpaint {
    pub(super) fn read(fields: &mut Fields, warnings: &mut Vec<String>) -> Answer<Self> {
        let both = fields.number("mask_blur")?;
        let across = fields.number("mask_blur_x")?.or(both).unwrap_or(4.0);
        let down = fields.number("mask_blur_y")?.or(both).unwrap_or(4.0);
        for (name, blur) in [("mask_blur_x", across), ("mask_blur_y", down)] {
            if !(0.0..=256.0).contains(&blur) {
                return Err(fields.refuse(name, format!("expected 0 to 256, got {blur}")));
            }
        }
        fields.pass_over(&["mask_round"]);
        let invert = fields.whole("inpainting_mask_invert")?.unwrap_or(0);
        let fill = fields.whole("inpainting_fill")?.unwrap_or(0);
        let only_masked = fields.flag("inpaint_full_res")?.unwrap_or(true);
        let padding = fields.whole("inpaint_full_res_padding")?.unwrap_or(0);
        let padding = usize::try_from(padding).ok().filter(|padding| *padding <= 4096);
        let padding = padding.ok_or_else(|| fields.refuse("inpaint_full_res_padding", "expected 0 to 4096"))?;
        let Some(mask) = fields.take("mask") else { return Ok(Inpaint::default()) };
        let mut mask = Mask::of(&decoded("mask", &from_value("mask", &mask)?)?);
        if invert == 1 {
            mask.invert();
        }
        mask.blur(across, down);
        if !(0..=3).contains(&fill) {
            return Err(fields.refuse("inpainting_fill", format!("expected 0 to 3, got {fill}")));
        }
        if fill > 1 {
            warnings.push("inpainting_fill: what is there is kept under the mask, in place of noise or nothing".into());
        }
        Ok(Inpaint { mask: Some(mask), fill, only_masked: only_masked.then_some(padding) })
    }

    /// What is drawn at a size. `mode`: 0 stretches the picture to it, 1 crops.
    pub(super) fn prepare(mut self, image: Rgb8Image, size: (usize, usize), mode: i64) -> Answer<Prepared> {
        let Some(mut mask) = self.mask.take() else {
            return Ok(Prepared { image: fitted(&image, size, mode)?, mask: None, region: None });
        };
        if (mask.width, mask.height) != (image.width, image.height) {
            let scaled = mask.image().resized(image.width, image.height)?;
            mask = Mask {
                width: image.width,
                height: image.height,
                values: scaled.data.chunks_exact(3).map(|pixel| pixel[0]).collect(),
            };
        }
        let Some(padding) = self.only_masked else {
            let scaled = fitted(&mask.image(), size, mode)?;
            let (width, height) = size;
            let mask = Mask { width, height, values: scaled.data.chunks_exact(3).map(|pixel| pixel[0]).collect() };
            let image = self.filled(fitted(&image, size, mode)?, &mask);
            return Ok(Prepared { image, mask: Some(mask), region: None });
        };
        let Some((left, top, width, height)) = bounds(&mask, padding, size) else {
            return Err(Refusal::field("mask", "expected white where the picture is repainted, got none"));
        };
        let cut = |picture: &Rgb8Image| {
            let row = |y: usize| &picture.data[(y * picture.width + left) * 3..][..width * 3];
            let data = (top..top + height).flat_map(|y| row(y).to_vec()).collect();
            Rgb8Image { width, height, data }.resized(size.0, size.1)
        };
        let part = cut(&image)?;
        let scaled = cut(&mask.image())?;
        let part_mask =
            Mask { width: size.0, height: size.1, values: scaled.data.chunks_exact(3).map(|pixel| pixel[0]).collect() };
        let part = self.filled(part, &part_mask);
        let region = Region { left, top, width, height, original: image, mask: mask.values };
        Ok(Prepared { image: part, mask: Some(part_mask), region: Some(region) })
    }

    /// The picture with the colours around it under the mask, blurred ever wider where it is deeper (`modules/masking.py`, `fill`).
    fn filled(&self, image: Rgb8Image, mask: &Mask) -> Rgb8Image {
        if self.fill != 0 {
            return image;
        }
        let (width, height) = (image.width, image.height);
        // Colours of what is kept, each with its weight, at ever coarser scales: a pixel under the mask takes the finest that has any.
        let mut levels = vec![Level::of(&image, mask)];
        while let Some(last) = levels.last().filter(|last| last.width > 1 || last.height > 1) {
            let next = last.halved();
            levels.push(next);
        }
        let mut data = image.data.clone();
        for (at, hidden) in mask.values.iter().enumerate().filter(|(_, hidden)| **hidden > 0) {
            let (x, y) = (at % width, at / width);
            let Some(colour) =
                levels.iter().enumerate().find_map(|(scale, level)| level.colour(x >> scale, y >> scale))
            else {
                continue;
            };
            let share = f64::from(*hidden) / 255.0;
            for (value, around) in data[at * 3..][..3].iter_mut().zip(colour) {
                *value = (f64::from(*value) * (1.0 - share) + around * share).round() as u8;
            }
        }
        Rgb8Image { width, height, data }
    }
}

/// Sums of colours that are kept, and of their weights.
struct Level {
    width: usize,
    height: usize,
    sums: Vec<[f64; 4]>,
}

impl Level {
    fn of(image: &Rgb8Image, mask: &Mask) -> Self {
        let kept = |(pixel, hidden): (&[u8], &u8)| {
            let weight = f64::from(u8::MAX - hidden) / 255.0;
            [f64::from(pixel[0]) * weight, f64::from(pixel[1]) * weight, f64::from(pixel[2]) * weight, weight]
        };
        let sums = image.data.chunks_exact(3).zip(&mask.values).map(kept).collect();
        Level { width: image.width, height: image.height, sums }
    }

    fn halved(&self) -> Self {
        let (width, height) = (self.width.div_ceil(2), self.height.div_ceil(2));
        let mut sums = vec![[0.0; 4]; width * height];
        for (at, own) in self.sums.iter().enumerate() {
            let (x, y) = (at % self.width / 2, at / self.width / 2);
            for (sum, value) in sums[y * width + x].iter_mut().zip(own) {
                *sum += value;
            }
        }
        Level { width, height, sums }
    }

    fn colour(&self, x: usize, y: usize) -> Option<[f64; 3]> {
        let [r, g, b, weight] = self.sums[y * self.width + x];
        (weight > 0.25).then(|| [r / weight, g / weight, b / weight])
    }
}

fn fitted(image: &Rgb8Image, (width, height): (usize, usize), mode: i64) -> Answer<Rgb8Image> {
    match mode {
        0 => Ok(image.resized(width, height)?),
        1 => Ok(image.cropped_to(width, height).resized(width, height)?),
        other => Err(Refusal::field("resize_mode", format!("expected 0 (stretch) or 1 (crop), got {other}"))),
    }
}

/// The rectangle around what is masked, widened by `padding` and to the proportions of what is drawn, within the picture: left, top, width, height.
fn bounds(mask: &Mask, padding: usize, (across, down): (usize, usize)) -> Option<(usize, usize, usize, usize)> {
    let hit = |at: &usize| mask.values[*at] > 0;
    let all = || (0..mask.values.len()).filter(hit);
    let (x, y) = (|at: usize| at % mask.width, |at: usize| at / mask.width);
    let left = all().map(x).min()?.saturating_sub(padding);
    let right = (all().map(x).max()? + 1 + padding).min(mask.width);
    let top = all().map(y).min()?.saturating_sub(padding);
    let bottom = (all().map(y).max()? + 1 + padding).min(mask.height);
    let (width, height) = (right - left, bottom - top);
    let wanted = across as f64 / down as f64;
    let (mut wide, mut high) = (width, height);
    if (width as f64 / height as f64) < wanted {
        wide = ((height as f64 * wanted).round() as usize).clamp(width, mask.width);
    } else {
        high = ((width as f64 / wanted).round() as usize).clamp(height, mask.height);
    }
    let centred = |from: usize, old: usize, new: usize, end: usize| from.saturating_sub((new - old) / 2).min(end - new);
    Some((centred(left, width, wide, mask.width), centred(top, height, high, mask.height), wide, high))
}

impl Region {
    /// The picture with a drawn part in its place.
    pub(super) fn paste(&self, part: &Rgb8Image) -> Answer<Rgb8Image> {
        let part = part.resized(self.width, self.height)?;
        let mut whole = self.original.clone();
        for y in 0..self.height {
            for x in 0..self.width {
                let at = (self.top + y) * whole.width + self.left + x;
                let share = f64::from(self.mask[at]) / 255.0;
                for c in 0..3 {
                    let (old, new) =
                        (f64::from(whole.data[at * 3 + c]), f64::from(part.data[(y * self.width + x) * 3 + c]));
                    whole.data[at * 3 + c] = (old + (new - old) * share).round() as u8;
                }
            }
        }
        Ok(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask_of(width: usize, height: usize, white: impl Fn(usize, usize) -> bool) -> Mask {
        let value = |at: usize| if white(at % width, at / width) { 255 } else { 0 };
        Mask { width, height, values: (0..width * height).map(value).collect() }
    }

    #[test]
    fn only_what_is_masked_changes() {
        let image = Rgb8Image { width: 128, height: 96, data: (0..128 * 96 * 3).map(|i| (i % 251) as u8).collect() };
        let mask = mask_of(128, 96, |x, y| (40..60).contains(&x) && (20..30).contains(&y));
        let inpaint = Inpaint { mask: Some(mask), fill: 1, only_masked: Some(8) };
        let prepared = inpaint.prepare(image.clone(), (64, 64), 0).expect("right");
        assert_eq!((prepared.image.width, prepared.image.height), (64, 64));
        let region = prepared.region.expect("a part");
        assert_eq!((region.left, region.top, region.width, region.height), (32, 7, 36, 36));
        let black = Rgb8Image { width: 64, height: 64, data: vec![0; 64 * 64 * 3] };
        let whole = region.paste(&black).expect("right");
        for (at, (old, new)) in image.data.chunks_exact(3).zip(whole.data.chunks_exact(3)).enumerate() {
            let inside = (40..60).contains(&(at % 128)) && (20..30).contains(&(at / 128));
            assert_eq!(new, if inside { &[0; 3] } else { old }, "{at}");
        }
    }

    #[test]
    fn parts_have_the_proportions_that_are_drawn_and_lie_inside() {
        for (white, size) in [
            ((0, 0, 3, 3), (64, 128)),
            ((90, 70, 6, 10), (128, 64)),
            ((0, 0, 96, 80), (64, 64)),
            ((50, 0, 1, 80), (64, 64)),
        ] {
            let (left, top, width, height) = white;
            let mask = mask_of(96, 80, |x, y| (left..left + width).contains(&x) && (top..top + height).contains(&y));
            let (l, t, w, h) = bounds(&mask, 2, size).expect("white");
            assert!(l <= left && t <= top && l + w >= left + width && t + h >= top + height, "{white:?}");
            assert!(l + w <= 96 && t + h <= 80, "{white:?}");
        }
        assert!(bounds(&mask_of(8, 8, |_, _| false), 0, (64, 64)).is_none());
    }

    #[test]
    fn surroundings_fill_what_is_masked() {
        let image = Rgb8Image { width: 64, height: 64, data: [200, 100, 50].repeat(64 * 64) };
        let mut holed = image.clone();
        let mask = mask_of(64, 64, |x, y| (8..56).contains(&x) && (8..56).contains(&y));
        for (pixel, _) in holed.data.chunks_exact_mut(3).zip(&mask.values).filter(|(_, hidden)| **hidden > 0) {
            pixel.fill(0);
        }
        let filled = Inpaint::default().filled(holed, &mask);
        assert_eq!(filled, image);
    }
}
