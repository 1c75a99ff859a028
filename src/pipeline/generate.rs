//! Request → pictures, in the order of the page that the design draws:
//!
//! text encoders → schedule and noise → One More Step → denoising loop → decoder.
//!
//! [`Generation`] is an iterator: each `next` does one unit of work and says what it was, so that a caller draws a progress bar,
//! streams, or stops between two steps by dropping it. Only one network is in device memory at a time.

use super::parameters::{Picture, parameters};
use super::stage::OpenStage;
use super::text::{Encoded, TextPlan};
use super::{Pipeline, Request};
use crate::image::Rgb8Image;
use crate::models::layout::{to_channels_first, to_channels_last};
use crate::models::names;
use crate::record::Shape;
use crate::sampling::{OmsForm, Solver, TorchRng, guide, oms};
use crate::{Error, Result};

/// One unit of finished work.
#[derive(Debug)]
pub enum Event {
    /// All prompts went through the text encoders.
    Encoded,
    /// Picture `image` (from 0) has its starting latents x̃_T.
    OneMoreStep {
        /// Which picture.
        image: usize,
    },
    /// A step of the solver is done.
    Step {
        /// Which picture, from 0.
        image: usize,
        /// Which step, from 1.
        step: usize,
        /// Steps in all.
        of: usize,
    },
    /// A picture is ready.
    Picture(Box<Picture>),
}

/// A request under way.
pub struct Generation<'p> {
    pipeline: &'p Pipeline,
    request: Request,
    size: (usize, usize),
    text: TextPlan<'p>,
    state: State<'p>,
    images: Vec<Image>,
    notes: Vec<String>,
}

/// What is known of one picture so far.
struct Image {
    seed: u64,
    rng: TorchRng,
    /// Variance-preserving latents `[4, h, w]`: x_T^S, then x̃_T, then x̃_0.
    latents: Vec<f32>,
}

/// Where a generation stands; each stage's network is open only in its own state.
enum State<'p> {
    Encode,
    OneMoreStep { encoded: Encoded, module: OpenStage<'p>, image: usize },
    Denoise { encoded: Encoded, unet: OpenStage<'p>, image: usize, solver: Box<Solver>, step: usize },
    Decode { decoder: OpenStage<'p>, image: usize },
    Done,
}

impl Pipeline {
    /// Starts a request. Nothing has run when this returns.
    ///
    /// # Errors
    /// When the request is out of range, asks for OMS without a module, or does not fit the model or the device.
    pub fn generate(&self, request: Request) -> Result<Generation<'_>> {
        let size = self.size(&request)?;
        // A decoder that exceeds the device should not be found out after the last step.
        self.plan(&request)?;
        let text = TextPlan::new(self, &request, size)?;
        let images = (0..request.count)
            .map(|i| {
                let seed = request.seed.wrapping_add(i as u64);
                Image { seed, rng: TorchRng::new(seed), latents: Vec::new() }
            })
            .collect();
        Ok(Generation { pipeline: self, request, size, text, state: State::Encode, images, notes: Vec::new() })
    }

    /// Events that a request will give, for a progress bar's length.
    pub fn units(&self, request: &Request) -> u64 {
        let steps = self.solver(request).map_or(request.num_inference_steps, |s| s.timesteps().len());
        1 + (request.count * (steps + 1 + usize::from(request.oms.is_some()))) as u64
    }
}

impl Generation<'_> {
    /// Where a picture's latents stand, `[4, height/8, width/8]`: variance-preserving before the first and after the last step, as its
    /// solver keeps them between. For previews and comparisons.
    pub fn latents(&self, image: usize) -> Option<&[f32]> {
        match &self.state {
            State::Denoise { solver, image: current, .. } if *current == image => Some(solver.scaled_latents()),
            _ => self.images.get(image).map(|i| i.latents.as_slice()),
        }
    }

    /// What the caller should tell the user: words that did not fit, options that have no effect.
    pub fn warnings(&self) -> &[String] {
        self.text.warnings()
    }
}

impl<'p> Iterator for Generation<'p> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        let done = match std::mem::replace(&mut self.state, State::Done) {
            State::Encode => self.encode(),
            State::OneMoreStep { encoded, module, image } => self.one_more_step(encoded, module, image),
            State::Denoise { encoded, unet, image, solver, step } => self.denoise(encoded, unet, image, solver, step),
            State::Decode { decoder, image } => self.decode(decoder, image),
            State::Done => return None,
        };
        Some(done)
    }
}

impl<'p> Generation<'p> {
    /// Text: every distinct prompt once; then the noise x_T^S of each picture.
    fn encode(&mut self) -> Result<Event> {
        let encoded = self.text.encode(self.pipeline.device(), &mut self.notes)?;
        let len = self.latent_shape().len();
        for image in &mut self.images {
            // Draw 0 of the picture's generator, whether or not it is used: later draws then match diffusers'.
            let noise = image.rng.randn(len);
            image.latents = self.request.latents.clone().unwrap_or(noise);
        }
        self.state = match self.pipeline.oms_stage(&self.request, self.size, self.text.oms_tokens())? {
            Some(stage) => State::OneMoreStep { encoded, module: stage.open(self.pipeline.device())?, image: 0 },
            None => self.begin_denoising(encoded, None, 0)?,
        };
        Ok(Event::Encoded)
    }

    /// ψ(x_T^S, C_ψ) → v → x̃_T, eq. 20 and 21 of the paper.
    fn one_more_step(&mut self, encoded: Encoded, mut module: OpenStage<'p>, image: usize) -> Result<Event> {
        let Some(request) = &self.request.oms else {
            return Err(Error::Request("oms: the request has none".into()));
        };
        let solver = self.pipeline.solver(&self.request)?;
        let alpha_bar = solver.alpha_bar_first();
        let one = &mut self.images[image];
        // The authors' code scales the module's input by the solver's initial sigma; the paper feeds it unit noise.
        let seen: Vec<f32> = match request.form {
            OmsForm::Official => one.latents.iter().map(|x| x * solver.init_noise_sigma() as f32).collect(),
            _ => one.latents.clone(),
        };
        let shape = self.pipeline.latent_shape(self.size);
        let rows = if request.guided() { 2 } else { 1 };
        let inputs = network_rows(&seen, shape, rows);
        let outputs =
            module.run(&[(names::SAMPLE, &inputs), (names::ENCODER_HIDDEN_STATES, encoded.oms())], &mut self.notes)?;
        let rows = latent_rows(&outputs[names::OUT], shape);
        let v = guide(&rows, request.guidance_scale);
        let z = request.form.draws_noise().then(|| one.rng.randn(v.len()));
        one.latents = oms::x_t(request.form, &v, &one.latents, z.as_deref(), alpha_bar)?;
        self.state = if image + 1 < self.images.len() {
            State::OneMoreStep { encoded, module, image: image + 1 }
        } else {
            drop(module);
            self.begin_denoising(encoded, None, 0)?
        };
        Ok(Event::OneMoreStep { image })
    }

    fn begin_denoising(&self, encoded: Encoded, open: Option<OpenStage<'p>>, image: usize) -> Result<State<'p>> {
        let unet = match open {
            Some(unet) => unet,
            None => {
                let stage = self.pipeline.unet_stage(&self.request, self.size, self.text.unet_tokens())?;
                stage.open(self.pipeline.device())?
            }
        };
        let mut solver = Box::new(self.pipeline.solver(&self.request)?);
        solver.start(&self.images[image].latents);
        Ok(State::Denoise { encoded, unet, image, solver, step: 0 })
    }

    /// UNet θ(x_t, t, C_θ) → guidance → solver step.
    fn denoise(
        &mut self,
        encoded: Encoded,
        mut unet: OpenStage<'p>,
        image: usize,
        mut solver: Box<Solver>,
        step: usize,
    ) -> Result<Event> {
        let of = solver.timesteps().len();
        let shape = self.latent_shape();
        let rows = self.pipeline.guidance_rows(&self.request);
        let sample = network_rows(&solver.model_input(step), shape, rows);
        let time = self.pipeline.time_inputs(solver.timesteps()[step], rows, &self.request);
        let text = encoded.unet(step, of);
        let mut inputs: Vec<(&str, &[f32])> = vec![
            (names::SAMPLE, &sample),
            (names::ENCODER_HIDDEN_STATES, &text.states),
            (names::TIME_PROJ, &time.projection),
        ];
        if !text.added.is_empty() {
            inputs.push((names::ADD_EMBEDS, &text.added));
        }
        if let Some(guidance) = &time.guidance {
            inputs.push((names::TIMESTEP_COND, guidance));
        }
        let outputs = unet.run(&inputs, &mut self.notes)?;
        let model_output = guide(&latent_rows(&outputs[names::OUT], shape), self.request.guidance_scale);
        let one = &mut self.images[image];
        solver.step(step, &model_output, &mut |len| one.rng.randn(len))?;
        self.state = if step + 1 < of {
            State::Denoise { encoded, unet, image, solver, step: step + 1 }
        } else {
            one.latents = solver.latents();
            if image + 1 < self.images.len() {
                self.begin_denoising(encoded, Some(unet), image + 1)?
            } else {
                drop(unet);
                let stage = self.pipeline.decoder_stage(&self.request, self.size);
                State::Decode { decoder: stage.open(self.pipeline.device())?, image: 0 }
            }
        };
        Ok(Event::Step { image, step: step + 1, of })
    }

    /// x̃_0 / scaling_factor → RGB.
    fn decode(&mut self, mut decoder: OpenStage<'p>, image: usize) -> Result<Event> {
        let shape = self.latent_shape();
        let one = &self.images[image];
        let mut unscaled = one.latents.clone();
        self.pipeline.vae.config().unscale_latents(&mut unscaled);
        let input = network_rows(&unscaled, shape, 1);
        let outputs = decoder.run(&[(names::LATENTS, &input)], &mut self.notes)?;
        let (width, height) = self.size;
        let picture = Picture {
            image: Rgb8Image::from_unit_range(&outputs[names::OUT], width, height)?,
            seed: one.seed,
            latents: one.latents.clone(),
            parameters: parameters(self.pipeline, &self.request, one.seed, self.size),
            notes: std::mem::take(&mut self.notes),
        };
        if image + 1 < self.images.len() {
            self.state = State::Decode { decoder, image: image + 1 };
        }
        Ok(Event::Picture(Box::new(picture)))
    }

    fn latent_shape(&self) -> Shape {
        self.pipeline.latent_shape(self.size)
    }
}

/// VP latents `[c, h, w]` as `rows` equal rows of a network's input.
fn network_rows(latents: &[f32], shape: Shape, rows: usize) -> Vec<f32> {
    to_channels_last(latents, 1, shape.c, shape.h * shape.w).repeat(rows)
}

/// A network's output, each row as `[c, h, w]`.
fn latent_rows(output: &[f32], shape: Shape) -> Vec<Vec<f32>> {
    output.chunks(shape.len()).map(|row| to_channels_first(row, 1, shape.c, shape.h * shape.w)).collect()
}
