//! The networks of a request in the order of their runs: planned, measured, opened.

use crate::Result;
use crate::models::Autoencoder;
use crate::pipeline::model::pipeline::Pipeline;
use crate::pipeline::request::{Request, Upscale};
use crate::pipeline::run::refiner::Split;
use crate::pipeline::run::stage::{Stage, StagePlan};
use crate::pipeline::run::text;
use crate::pipeline::run::unet::{Calls, UnetRun};

impl Pipeline {
    /// Work and memory of each stage of a request, without running anything.
    ///
    /// # Errors
    /// When the request is out of range or a stage exceeds the device's limits.
    pub fn plan(&self, request: &Request) -> Result<Vec<StagePlan>> {
        let plan = |stage: &Stage<'_>| stage.plan(&self.device);
        self.stages(request)?.iter().chain(&self.previews(request)?).map(plan).collect()
    }

    /// Compiles the kernels of every stage of a request, so that one which the device does not take shows before anything is drawn. A run finds them
    /// compiled.
    ///
    /// # Errors
    /// When the request is out of range; [`Error::Kernel`](crate::Error::Kernel) when a kernel does not compile.
    pub fn prepare(&self, request: &Request) -> Result<()> {
        if self.device.backend().caps().is_host() {
            return Ok(());
        }
        let previews = self.previews(request)?;
        self.stages(request)?.iter().chain(&previews).try_for_each(|stage| stage.prepare(&self.device))
    }

    /// Opens each stage of a request in turn, without running it: its plan, and the bytes that the executor really allocated.
    ///
    /// # Errors
    /// As [`plan`](Self::plan), and when the device is out of memory.
    pub fn measure(&self, request: &Request) -> Result<Vec<(StagePlan, u64)>> {
        let open = |stage: Stage<'_>| Ok((stage.plan(&self.device)?, stage.allocate(&self.device)?));
        self.stages(request)?.into_iter().map(open).collect()
    }

    /// The networks of a request in the order of their runs.
    pub(crate) fn stages(&self, request: &Request) -> Result<Vec<Stage<'_>>> {
        let size = self.size(request)?;
        self.check(request, size)?;
        let skip = self.skip(request);
        let text = text::TextPlan::new(self, request, size)?;
        let mut stages = text.stages();
        if request.image.is_some() {
            stages.push(self.encoder_stage(request, size));
        }
        if skip == 0 {
            stages.extend(self.oms_stage(request, size, text.oms_tokens())?);
        }
        let batch = request.batch.min(request.count);
        let tokens = text.unet_tokens();
        stages.extend(self.pass_stages(request, UnetRun { size, batch, tokens }, skip)?);
        let Some(hires) = &request.hires else {
            stages.push(self.decoder_stage(request, size));
            return Ok(stages);
        };
        let second = self.second_pass(request, hires)?;
        let larger = self.size(&second)?;
        if hires.upscale == Upscale::Image {
            stages.push(self.decoder_stage(request, size));
            stages.push(self.encoder_stage(&second, larger));
        }
        let skip = hires.skip(second.num_inference_steps);
        stages.extend(self.pass_stages(&second, UnetRun { size: larger, batch, tokens }, skip)?);
        stages.push(self.decoder_stage(&second, larger));
        Ok(stages)
    }

    /// The networks of a pass that leaves out `skip` steps: the UNet's, then the refiner's.
    fn pass_stages(&self, request: &Request, run: UnetRun, skip: usize) -> Result<Vec<Stage<'_>>> {
        let of = self.solver(request, skip)?.timesteps().len();
        let Some(refiner) = self.refiner.as_deref() else {
            return self.unet_stages(request, run, Calls { made: 0..of, of });
        };
        let at = self.split(refiner, request, skip)?.map_or(0, Split::calls);
        let mut stages = self.unet_stages(request, run, Calls { made: 0..at, of })?;
        stages.extend(refiner.refining_stages(request, run, Calls { made: at..of, of })?);
        Ok(stages)
    }

    /// The OMS module, if asked for, for rows of `tokens` text states.
    pub(crate) fn oms_stage(
        &self,
        request: &Request,
        size: (usize, usize),
        tokens: usize,
    ) -> Result<Option<Stage<'_>>> {
        let (Some(asked), Some(oms)) = (&request.oms, &self.oms) else {
            return Ok(None);
        };
        let latents = self.latent_shape(size);
        let rows = if asked.guided() { 2 } else { 1 };
        Ok(Some(Stage::new("OMS module", request.count, move |caps| {
            oms.module.unet.record(caps, rows, latents.h, latents.w, tokens, false)
        })))
    }

    pub(crate) fn encoder_stage(&self, request: &Request, (width, height): (usize, usize)) -> Stage<'_> {
        let pictures = match &request.image {
            Some(image) => 1 + usize::from(image.mask.is_some()),
            None => request.count,
        };
        let whole = Stage::new("VAE encoder", pictures, move |caps| self.vae.record_encode(caps, 1, height, width));
        match &self.vae {
            Autoencoder::Kl(vae) => {
                whole.or_in_bands(vae.levels(), move |levels| vae.encode_chain(height, width, levels))
            }
            Autoencoder::Tiny(_) => whole,
        }
    }

    pub(crate) fn decoder_stage(&self, request: &Request, size: (usize, usize)) -> Stage<'_> {
        self.decoder_of(&self.vae, "VAE decoder", request.count, size)
    }

    /// The decoder of this or of another autoencoder of the same latents.
    pub(crate) fn decoder_of<'p>(
        &self,
        vae: &'p Autoencoder,
        name: &'static str,
        runs: usize,
        size: (usize, usize),
    ) -> Stage<'p> {
        let latents = self.latent_shape(size);
        let whole = Stage::new(name, runs, move |caps| vae.record_decode(caps, 1, latents.h, latents.w));
        match vae {
            Autoencoder::Kl(vae) => {
                whole.or_in_bands(vae.levels(), move |levels| vae.decode_chain(latents.h, latents.w, levels))
            }
            Autoencoder::Tiny(_) => whole,
        }
    }
}
