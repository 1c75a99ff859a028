//! Whether a request can be had of a model, and what its user should know.

use crate::pipeline::files::source::Source;
use crate::pipeline::model::kind::Shown;
use crate::pipeline::model::overrides::Overrides;
use crate::pipeline::model::pipeline::Pipeline;
use crate::pipeline::png::parameters::embeddings_of;
use crate::pipeline::request::Request;
use crate::pipeline::request::control::acting;
use crate::pipeline::request::deep_cache::DeepCache;
use crate::pipeline::request::init::InitImage;
use crate::sampling::oms;
use crate::{Error, Place, Remedy, Result};

impl Pipeline {
    /// Checks what the schedule alone decides, before anything else of a model is read: sampler, steps, strength.
    ///
    /// # Errors
    /// When the pair is impossible, or the model's `scheduler_config.json` is missing or not supported.
    pub fn check_schedule(model: &Source, overrides: &Overrides, request: &Request) -> Result<()> {
        request.validate()?;
        let skip = request.skip();
        let solver = request.solver(&overrides.scheduler_of(model)?, false, skip)?;
        if request.oms.is_some() && skip == 0 {
            oms::check_alpha_bar(solver.alpha_bar_first())?;
        }
        Ok(())
    }

    /// Checks a request against the model.
    pub(crate) fn check(&self, request: &Request, (width, height): (usize, usize)) -> Result<()> {
        let skip = self.skip(request);
        let solver = self.solver(request, skip)?;
        let latents = self.latent_shape((width, height)).len();
        if let Some(given) = &request.latents
            && given.len() != latents
        {
            return Err(Error::request("latents", format!("expected {latents} values, got {}", given.len())));
        }
        self.check_shown(request)?;
        if let Some(control) = request.controls.iter().find(|control| control.net >= self.controls.len()) {
            return Err(Error::request(
                "control",
                format!("expected the number of one of {} ControlNets, got {}", self.controls.len(), control.net),
            ));
        }
        self.check_shortcuts(request)?;
        self.refiner.as_ref().map_or(Ok(()), |refiner| refiner.check_shortcuts(request)).map_err(|e| match e {
            Error::Request { field, message } => Error::Request { field, message: format!("refiner: {message}") },
            other => other,
        })?;
        self.check_text(request)?;
        match (&request.oms, &self.oms) {
            (Some(_), None) => Err(Error::request("oms", "no module is loaded").advise([Remedy::Name(Place::Oms)])),
            (Some(_), Some(_)) if skip == 0 => oms::check_alpha_bar(solver.alpha_bar_first()),
            _ => Ok(()),
        }
    }

    /// What is left out of the UNet's work, against this UNet.
    fn check_shortcuts(&self, request: &Request) -> Result<()> {
        let most = self.unet.most_depth();
        if let Some(DeepCache { depth, .. }) = request.deep_cache.filter(|cache| cache.depth > most) {
            return Err(Error::request(
                "deep-cache",
                format!("expected a depth from 1 to {most} for this model, got {depth}"),
            ));
        }
        request.token_merging.map_or(Ok(()), |merging| merging.check(self.unet.config()))
    }

    pub(crate) fn check_text(&self, request: &Request) -> Result<()> {
        let is_xl = self.kind.is_xl();
        // SDXL counts from the last layer but one.
        let layers = self.text_encoders.iter().map(|e| e.model.config().num_hidden_layers).min().unwrap_or(0);
        let most = layers - usize::from(is_xl);
        if request.clip_skip >= most {
            return Err(Error::request(
                "clip skip",
                format!(
                    "this model's text encoder can do without its last {} layers, not without {}",
                    most - 1,
                    request.clip_skip
                ),
            ));
        }
        let only_xl = [
            ("prompt-2", request.prompt_2.is_some()),
            ("negative-2", request.negative_prompt_2.is_some()),
            ("original-size", request.original_size.is_some()),
            ("crop", request.crops_coords_top_left != (0, 0)),
            ("target-size", request.target_size.is_some()),
        ];
        match only_xl.iter().find(|(_, given)| *given && !is_xl) {
            Some((option, _)) => {
                Err(Error::request(*option, format!("only SDXL models have it; {} is none", self.label)))
            }
            None => Ok(()),
        }
    }

    /// Checks what the UNet wants to be shown.
    pub(crate) fn check_shown(&self, request: &Request) -> Result<()> {
        let image = request.image.as_ref();
        let needs = match self.kind.shown {
            Shown::Masked if image.is_none_or(|image| image.mask.is_none()) => {
                "it is an inpainting model, give it a picture and a mask (`image.file`, `image.mask`)"
            }
            Shown::Instructed { .. } if image.is_none() => {
                "it changes a picture as the prompt instructs, give it one (`image.file`)"
            }
            Shown::Instructed { .. } if image.is_some_and(|image| image.mask.is_some()) => {
                "it changes a whole picture as the prompt instructs, leave the mask out"
            }
            Shown::Instructed { .. } if request.hires.is_some() => {
                "it changes a picture as the prompt instructs, which a second pass (hires) cannot"
            }
            _ => return Ok(()),
        };
        Err(Error::refused(format!("{}: {needs}", self.label)))
    }

    /// That a mask repaints nothing, or everything.
    fn mask_notice(&self, request: &Request) -> Option<String> {
        let image = request.image.as_ref()?;
        let (pixels, size) = (image.mask.as_ref()?, self.size(request).ok()?);
        let cells = image.latent_mask(self.latent_shape(size))?;
        let marked = |values: &[f32]| values.iter().filter(|value| **value >= 0.5).count();
        Some(match (marked(&cells), marked(pixels)) {
            (0, 0) => "the mask is black all over: nothing is repainted".into(),
            (0, _) => format!(
                "what the mask marks is too little: nothing is repainted, for that is decided by squares of {} pixels",
                self.vae.pixels_per_latent()
            ),
            (_, all) if all == pixels.len() => "the mask is white all over: the whole picture is repainted".into(),
            _ => return None,
        })
    }

    /// What was assumed of the model, and what has no effect in a request.
    pub(crate) fn notices(&self, request: &Request) -> Vec<String> {
        let mut notices = self.assumptions.clone();
        notices.extend(self.controls.iter().filter_map(|control| control.notice()));
        if request.oms.is_some() && self.skip(request) == 0 {
            notices.extend(self.oms.as_ref().and_then(|oms| oms.module.notice()));
        }
        if request.oms.is_some() && self.skip(request) > 0 {
            notices.push("One More Step is left out: below strength 1 the picture itself sets the brightness".into());
        }
        let is_instructed = matches!(self.kind.shown, Shown::Instructed { .. });
        if is_instructed && request.image.as_ref().is_some_and(|image| image.strength != InitImage::STRENGTH) {
            notices.push(
                "strength has no effect: this model draws the whole picture anew, as the prompt instructs".into(),
            );
        }
        if request.image_guidance_scale != Request::default().image_guidance_scale && !is_instructed {
            notices.push(
                "image-guidance has no effect: only models that a prompt instructs (InstructPix2Pix) have it".into(),
            );
        }
        let scores = |request: &Request| (request.aesthetic_score, request.negative_aesthetic_score);
        let has_score = self.kind.aesthetic || self.refiner.as_ref().is_some_and(|refiner| refiner.kind.aesthetic);
        if scores(request) != scores(&Request::default()) && !has_score {
            notices.push("aesthetic scores have no effect: only SDXL's refiner is told of them".into());
        }
        notices.extend(self.mask_notice(request));
        let used: Vec<_> = embeddings_of(self, request).map(|embedding| &embedding.name).collect();
        for embedding in self.embeddings.iter().filter(|embedding| !used.contains(&&embedding.name)) {
            notices.push(format!("embedding {}: its name is in no prompt, so it has no effect", embedding.name));
        }
        if request.sampler.is_none() && self.scheduler.solver().is_none() && !self.scheduler.class_name.is_empty() {
            notices.push(format!("the model's own {} is not here, ddim takes its place", self.scheduler.class_name));
        }
        let calls = self.solver(request, request.skip()).map_or(0, |solver| solver.timesteps().len());
        let acts = |i: &usize| (0..calls).any(|call| acting(&request.controls, call, calls).contains(i));
        for idle in (0..request.controls.len()).filter(|i| !acts(i)) {
            notices.push(format!("control {}: it acts at none of the {calls} steps", idle + 1));
        }
        notices
    }
}
