//! What was typed → a job.

use std::io::Read;
use std::path::Path;

use chiaro::order::{AdapterJob, Asked, ImageJob, Job, Order};
use chiaro::pipeline::{Places, Streaming, VaeTiling, hash_file};
use chiaro::{Error, Result, files};

use super::generate_args::{GenerateArgs, NoiseArgs, Pair, SamplingArgs, StartArgs};
use super::{ModelArgs, PrecisionArg, SeedArg, ShortcutArgs};

/// A job with its pictures inside; beyond that it is something else.
const MAX_BYTES: u64 = 1 << 30;

impl GenerateArgs {
    /// The job that was typed: that of --job, if there is one, with the other options in its place.
    pub(super) fn job(&self) -> Result<Job> {
        let mut job = self.job.as_deref().map_or_else(|| Ok(Job::default()), read)?;
        if let Some(like) = &self.like {
            job.like = Some(like.clone().into());
        }
        job.preset = self.sampling.preset.map(Into::into).or(job.preset);
        self.model.put(&mut job)?;
        let request = &mut job.request;
        request.set_some("prompt", self.prompt.as_ref())?;
        request.set_some("negative_prompt", self.negative.as_ref())?;
        request.set_some("prompt_2", self.prompt_2.as_ref())?;
        request.set_some("negative_prompt_2", self.negative_2.as_ref())?;
        request.set_some("original_size", self.original_size.map(Pair::down_across))?;
        request.set_some("crops_coords_top_left", self.crop.map(Pair::down_across))?;
        request.set_some("target_size", self.target_size.map(Pair::down_across))?;
        request.set_some("aesthetic_score", self.aesthetic_score)?;
        request.set_some("negative_aesthetic_score", self.negative_aesthetic_score)?;
        request.set_some("refiner_start", self.refiner_start)?;
        request.set_some("prompt_syntax", self.reading.prompt_syntax)?;
        request.set_some("comma_backtrack", self.reading.comma_backtrack)?;
        request.set_some("clip_skip", self.clip_skip.map(|layers| layers - 1))?;
        request.set_some("oms.prompt", self.oms_prompt.as_ref())?;
        request.set_some("oms.negative_prompt", self.oms_negative.as_ref())?;
        request.set_some("oms.form.paper.eta", self.oms_eta)?;
        request.set_some("oms.form", self.oms_compat.then_some("official"))?;
        self.shortcuts.put(request)?;
        self.sampling.put(request)?;
        self.noise.put(request)?;
        self.start.put(&mut job)?;
        self.control.put(&mut job)?;
        Ok(job)
    }

    /// What the job means here.
    pub(super) fn order(&self, job: Job) -> Result<Order> {
        let mut order = job.order(&Places::from_env())?;
        if self.compare && order.load.oms.is_none() {
            return Err(Error::refused("--compare: needs a module, add --oms DIR (or --oms demo with the demo model)"));
        }
        order.load.hash_file = hash_file();
        order.request.previews = self.model.preview.is_some();
        Ok(order)
    }
}

/// A job in a file, or on standard input.
fn read(path: &Path) -> Result<Job> {
    let text = if path.as_os_str() == "-" {
        let mut text = String::new();
        let read = std::io::stdin().lock().take(MAX_BYTES).read_to_string(&mut text);
        read.map_err(|e| Error::io("standard input", e))?;
        text
    } else {
        files::read_text(path, MAX_BYTES, "a job")?
    };
    let at = |error: Error| match error {
        error @ Error::Request { .. } => Error::refused(format!("--job {}: {error}", path.display())),
        other => other,
    };
    Job::from_json(&text).map_err(at)
}

impl ModelArgs {
    /// Puts what was typed of the model, the device and the size into a job.
    pub(super) fn put(&self, job: &mut Job) -> Result<()> {
        let own = &mut job.model;
        for (typed, place) in [
            (&self.model, &mut own.name),
            (&self.unet, &mut own.unet),
            (&self.vae, &mut own.vae),
            (&self.text_encoder, &mut own.text_encoder),
            (&self.preview_vae, &mut own.preview_vae),
            (&self.refiner, &mut own.refiner),
            (&self.oms, &mut own.oms),
            (&self.oms_text_encoder, &mut own.oms_text_encoder),
        ] {
            if typed.is_some() {
                place.clone_from(typed);
            }
        }
        own.prediction = self.prediction.map(Into::into).or(own.prediction);
        let adapters = self.lora.iter().map(|lora| AdapterJob {
            file: lora.path.clone(),
            weight: lora.weight,
            text_encoder_weight: None,
        });
        job.adapters.extend(adapters);
        job.adapter_folder = self.lora_dir.clone().or(job.adapter_folder.take());
        job.embeddings.extend(self.embedding.iter().cloned());
        self.put_device(job);
        let request = &mut job.request;
        request.set_some("width", self.width)?;
        request.set_some("height", self.height)?;
        request.set_some("num_inference_steps", self.steps)?;
        request.set_some("guidance_scale", self.guidance)?;
        request.set_some("oms.guidance_scale", self.oms_guidance)?;
        if let Some(sampler) = self.sampler {
            request.unset("sigmas");
            request.set("sampler", sampler.kind)?;
            request.set_some("sigmas", sampler.sigmas)?;
        }
        Ok(())
    }

    /// What options have without being typed leaves a job's own.
    fn put_device(&self, job: &mut Job) {
        let own = &mut job.device;
        if !self.device.eq_ignore_ascii_case("auto") {
            own.name.clone_from(&self.device);
        }
        if self.precision != PrecisionArg::Auto {
            own.precision = self.precision.into();
        }
        own.weights = self.weights.or(own.weights);
        own.vram = self.vram.map(|size| size.0).or(own.vram);
        if self.vae_tiling != VaeTiling::Auto {
            own.vae_tiling = self.vae_tiling;
        }
        let streaming: Streaming = self.stream_weights.into();
        if streaming != Streaming::Auto {
            own.stream_weights = streaming;
        }
    }

    /// What was typed as an order, for commands that draw no picture of it; `more` puts their other options into the job.
    pub(super) fn order(&self, more: impl FnOnce(&mut Job) -> Result<()>) -> Result<Order> {
        let mut job = Job::default();
        self.put(&mut job)?;
        more(&mut job)?;
        let mut order = job.order(&Places::from_env())?;
        order.load.hash_file = hash_file();
        order.request.previews = self.preview.is_some();
        Ok(order)
    }
}

impl ShortcutArgs {
    /// Puts what was typed into a request.
    pub(super) fn put(&self, request: &mut Asked) -> Result<()> {
        request.set_some("guidance_interval", self.guidance_interval.map(|shares| (shares.0, shares.1)))?;
        request.set_some("deep_cache.interval", self.deep_cache.map(|cache| cache.interval))?;
        request.set_some("deep_cache.depth", self.deep_cache.map(|cache| cache.depth))?;
        request.set_some("token_merging.ratio", self.token_merging.map(|merging| merging.ratio))?;
        request.set_some("token_merging.levels", self.token_merging.map(|merging| merging.levels))
    }
}

impl SamplingArgs {
    fn put(&self, request: &mut Asked) -> Result<()> {
        request.set_some("sigmas", self.sigmas)?;
        request.set_some("timestep_spacing", self.spacing)?;
        request.set_some("beta_schedule", self.betas.map(chiaro::sampling::BetaSchedule::from))?;
        request.set_some("zero_terminal_snr", self.zero_snr.then_some(true))?;
        request.set_some("guidance_rescale", self.guidance_rescale)?;
        request.set_some("dynamic_thresholding", self.dynamic_thresholding)?;
        request.set_some("eta", self.eta)
    }
}

impl NoiseArgs {
    fn put(&self, request: &mut Asked) -> Result<()> {
        request.set_some("seed", self.seed.map(SeedArg::number))?;
        request.set_some("rng", self.rng)?;
        request.set_some("noise_seed_delta", self.noise_seed_delta)?;
        request.set_some("variation.seed", self.variation_seed.map(SeedArg::number))?;
        request.set_some("variation.strength", self.variation_strength)?;
        request.set_some("offset_noise", self.offset_noise)?;
        request.set_some("count", self.count)?;
        request.set_some("batch", self.batch)
    }
}

impl StartArgs {
    fn put(&self, job: &mut Job) -> Result<()> {
        if let Some(image) = &self.image {
            let mask = self.mask.clone().map(Into::into);
            job.image = Some(ImageJob { file: image.clone().into(), mask, strength: self.strength });
        }
        let request = &mut job.request;
        request.set_some("paste_back", self.paste_back)?;
        request.set_some("image_guidance_scale", self.image_guidance)?;
        request.set_some("hires.scale", self.hires)?;
        request.set_some("hires.strength", self.hires_strength)?;
        request.set_some("hires.steps", self.hires_steps)?;
        request.set_some("hires.upscale", self.hires_upscale.map(chiaro::pipeline::Upscale::from))
    }
}
