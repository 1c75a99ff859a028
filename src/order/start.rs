//! Pictures that a run starts from, at the size that is drawn.

use std::path::Path;

use crate::image::{Photo, Rgb8Image};
use crate::order::job::Job;
use crate::pipeline::{InitImage, Recipe, Request};
use crate::{Error, Result};

/// Pixels that sides are a multiple of.
const GRAIN: usize = 8;

/// The shortest side.
const LEAST: usize = 64;

/// How many times the pixels that a model was made for it still draws well: its own pictures in 3:2.
const MOST: f64 = 1.5;

impl Job {
    /// Puts the picture to start from, and the size, into the request. `own` is the size that the model was made for.
    pub(super) fn start_from(
        &self,
        own: impl Fn() -> Result<(usize, usize)>,
        recipe: Option<&Recipe>,
        request: &mut Request,
        notes: &mut Vec<String>,
    ) -> Result<()> {
        if let Some((image, mask)) = self.pictures(recipe, notes)? {
            let asked = self.image.as_ref();
            let name = asked.map_or(Path::new(""), |asked| asked.file.name());
            let size = Sizes { field: "image.file", name, picture: (image.width, image.height) };
            let (width, height) = size.choose(request, own, notes)?;
            let fit = |picture: &Rgb8Image| picture.cropped_to(width, height).resized(width, height);
            let told = recipe.and_then(|recipe| recipe.image.as_ref()).map(|told| told.strength);
            let strength = asked.and_then(|asked| asked.strength).or(told).unwrap_or(InitImage::STRENGTH);
            request.image =
                Some(InitImage::new(&fit(&image)?, mask.as_ref().map(fit).transpose()?.as_ref(), strength)?);
            (request.width, request.height) = (Some(width), Some(height));
            return Ok(());
        }
        // Without another size, a picture is as large as what its first ControlNet sees, as in diffusers.
        let first = request.controls.first().and_then(|control| control.image.clone());
        let file = self.controls.iter().flatten().find_map(|control| control.image.as_ref());
        if let (Some(image), Some(file)) = (first, file) {
            let size = Sizes { field: "controls[].image", name: file.name(), picture: (image.width, image.height) };
            let (width, height) = size.choose(request, own, notes)?;
            (request.width, request.height) = (Some(width), Some(height));
        }
        Ok(())
    }

    /// The picture to start from and its mask as they are, of one size.
    fn pictures(
        &self,
        recipe: Option<&Recipe>,
        notes: &mut Vec<String>,
    ) -> Result<Option<(Rgb8Image, Option<Rgb8Image>)>> {
        let told = recipe.and_then(|recipe| recipe.image.as_ref());
        let Some(asked) = &self.image else {
            return match told {
                Some(_) => {
                    Err(Error::request("like", "the picture started from another one, name that with `image.file`"))
                }
                None => Ok(None),
            };
        };
        if told.is_some_and(|told| told.mask) && asked.mask.is_none() {
            return Err(Error::request("like", "the picture was repainted with a mask, name that with `image.mask`"));
        }
        let image = colours("image.file", asked.file.photo()?, notes);
        let mask = asked.mask.as_ref().map(|file| Ok::<_, Error>(mask(file.photo()?, notes))).transpose()?;
        if let Some(mask) = &mask
            && (mask.width, mask.height) != (image.width, image.height)
        {
            return Err(Error::request(
                "image.mask",
                format!(
                    "expected the size of `image.file`, {}x{}, got {}x{}",
                    image.width, image.height, mask.width, mask.height
                ),
            ));
        }
        Ok(Some((image, mask)))
    }
}

/// A picture's colours; that parts of it are not seen elsewhere is told.
pub(super) fn colours(field: &str, photo: Photo, notes: &mut Vec<String>) -> Rgb8Image {
    if photo.alpha.is_some() {
        let mask = if field == "image.file" { "; transparency is no mask here, `image.mask` takes one" } else { "" };
        notes.push(format!("`{field}`: its transparent parts have the colours that are stored under them{mask}"));
    }
    photo.image
}

/// A mask: transparency where there is any, as in AUTOMATIC1111 (`create_binary_mask`), else brightness.
fn mask(photo: Photo, notes: &mut Vec<String>) -> Rgb8Image {
    match photo.alpha {
        None => photo.image,
        Some(alpha) => {
            notes.push("`image.mask`: its alpha channel is the mask: what is opaque is repainted".into());
            Rgb8Image { data: alpha.into_iter().flat_map(|value| [value; 3]).collect(), ..photo.image }
        }
    }
}

/// What a picture's size follows from.
struct Sizes<'a> {
    field: &'a str,
    name: &'a Path,
    /// (width, height) of the given picture.
    picture: (usize, usize),
}

impl Sizes<'_> {
    /// (width, height) to draw: what is asked for, one side after the other's as in the given picture; else the picture's own, or where it
    /// has far more pixels than the model was made for, about those.
    fn choose(
        &self,
        request: &Request,
        own: impl FnOnce() -> Result<(usize, usize)>,
        notes: &mut Vec<String>,
    ) -> Result<(usize, usize)> {
        let (across, down) = self.picture;
        let beside = |side: usize, own: usize, other: usize| grained(side as f64 * own as f64 / other as f64);
        match (request.width, request.height) {
            (Some(width), Some(height)) => return Ok((width, height)),
            (Some(width), None) => return Ok((width, beside(width, down, across))),
            (None, Some(height)) => return Ok((beside(height, across, down), height)),
            (None, None) => {}
        }
        for (which, side) in [("wide", across), ("high", down)] {
            if side < LEAST {
                return Err(Error::request(
                    self.field.to_owned(),
                    format!(
                        "{} is {side} pixels {which}; ask for a size with `width` and `height`",
                        self.name.display()
                    ),
                ));
            }
        }
        let (own_across, own_down) = own()?;
        let (has, made_for) = (across as f64 * down as f64, own_across as f64 * own_down as f64);
        if has <= MOST * made_for {
            return Ok((across / GRAIN * GRAIN, down / GRAIN * GRAIN));
        }
        let scale = (made_for / has).sqrt();
        let (width, height) = (grained(across as f64 * scale), grained(down as f64 * scale));
        notes.push(format!(
            "`{}`: {across}x{down} is drawn at {width}x{height}, about the {own_across}x{own_down} pixels that the model was made for; \
             `width` and `height` ask for another size",
            self.field
        ));
        Ok((width, height))
    }
}

/// The nearest side that can be drawn.
fn grained(side: f64) -> usize {
    ((side / GRAIN as f64).round() as usize * GRAIN).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn photos_are_fitted_to_what_the_model_was_made_for() {
        let choose = |picture, width, height| {
            let request = Request { width, height, ..Request::default() };
            let size = Sizes { field: "image.file", name: Path::new("a.jpg"), picture };
            let mut notes = Vec::new();
            let chosen = size.choose(&request, || Ok((512, 512)), &mut notes);
            (chosen.map_err(|e| e.to_string()), notes.len())
        };
        // 512·√(4/3) and 512·√(3/4) are 591.2 and 443.4.
        assert_eq!(choose((4000, 3000), None, None), (Ok((592, 440)), 1));
        assert_eq!(choose((3000, 4000), None, None), (Ok((440, 592)), 1));
        // What it draws well stays, cut to whole latents.
        assert_eq!(choose((768, 512), None, None), (Ok((768, 512)), 0));
        assert_eq!(choose((515, 301), None, None), (Ok((512, 296)), 0));
        assert_eq!(choose((4000, 3000), Some(640), None), (Ok((640, 480)), 0));
        assert_eq!(choose((4000, 3000), None, Some(768)), (Ok((1024, 768)), 0));
        assert_eq!(choose((4000, 3000), Some(64), Some(64)), (Ok((64, 64)), 0));
        // A strip keeps a side that can be drawn.
        assert_eq!(choose((20_000, 100), None, None), (Ok((7240, 64)), 1));
        assert!(choose((500, 63), None, None).0.is_err_and(|e| e.contains("a.jpg") && e.contains("63")));
    }
}
