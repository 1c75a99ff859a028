//! Charts as pixels: a drawing surface for `plotters` that needs no font file.

use std::convert::Infallible;

use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{BackendColor, BackendCoord, BackendTextStyle, DrawingBackend, DrawingErrorKind};

use crate::image::{Rgb8Image, text_pixels, text_size};

type Drawn = Result<(), DrawingErrorKind<Infallible>>;

/// Draws on a picture. Lines come from plotters' own rasteriser, texts from the 5×7 letters of [`crate::image`].
pub(super) struct Raster<'a>(pub(super) &'a mut Rgb8Image);

/// Dots of a letter, in pixels, for a font size.
fn scale(style: &impl BackendTextStyle) -> usize {
    ((style.size() / 9.0).round() as usize).max(1)
}

impl DrawingBackend for Raster<'_> {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        (self.0.width as u32, self.0.height as u32)
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): BackendCoord, color: BackendColor) -> Drawn {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { return Ok(()) };
        if x < self.0.width && y < self.0.height {
            let pixel = &mut self.0.data[(y * self.0.width + x) * 3..][..3];
            for (value, ink) in pixel.iter_mut().zip([color.rgb.0, color.rgb.1, color.rgb.2]) {
                let mixed = f64::from(*value) * (1.0 - color.alpha) + f64::from(ink) * color.alpha;
                *value = mixed.round() as u8;
            }
        }
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(&mut self, text: &str, style: &S, at: BackendCoord) -> Drawn {
        let scale = scale(style);
        let (width, height) = text_size(text, scale);
        let (width, height) = (width as i32, height as i32);
        let left = match style.anchor().h_pos {
            HPos::Left => 0,
            HPos::Center => -width / 2,
            HPos::Right => -width,
        };
        let top = match style.anchor().v_pos {
            VPos::Top => 0,
            VPos::Center => -height / 2,
            VPos::Bottom => -height,
        };
        for (x, y) in text_pixels(text, scale) {
            let (x, y) = style.transform().transform(left + x as i32, top + y as i32);
            self.draw_pixel((at.0 + x, at.1 + y), style.color())?;
        }
        Ok(())
    }

    fn estimate_text_size<S: BackendTextStyle>(
        &self,
        text: &str,
        style: &S,
    ) -> Result<(u32, u32), DrawingErrorKind<Infallible>> {
        let (width, height) = text_size(text, scale(style));
        Ok((width as u32, height as u32))
    }
}
