//! One pass from noise (or a picture) to pictures, in the order of the page that the design draws:
//!
//! text encoders → picture encoder → schedule and noise → One More Step → denoising loop → decoder.
//!
//! Only one stage is in device memory at a time (the UNet with the ControlNets that act is one), open only in its own state.

mod starts;

use std::ops::Range;
use std::sync::Arc;

use super::control::{Call, ControlInputs};
use super::generate::Event;
use super::kind::Shown;
use super::parameters::{Picture, alone, infotext, parameters};
use super::stage::{OpenStage, Stage};
use super::text::{Encoded, TextPlan};
use super::{DeepCache, Pipeline, Request, UnetRun};
use crate::image::Rgb8Image;
use crate::models::layout::{to_channels_first, to_channels_last};
use crate::models::names;
use crate::record::Shape;
use crate::sampling::{OmsForm, PictureNoise, Solver, guide, guide_by_picture, oms, rescale_guidance};
use crate::{Error, Result};

/// What the pictures of a pass begin with.
pub(super) enum Start {
    /// The seed's noise, or the request's picture.
    Request,
    /// Pixels in -1…1 of each picture, `[height, width, 3]`.
    Pixels(Vec<Vec<f32>>),
    /// Latents x̃_0 of each picture, `[c, h, w]`.
    Latents(Vec<Vec<f32>>),
    /// Pictures as a pass of another network on the same schedule left them.
    Taken(Vec<Image>),
}

/// How a pass ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Pictures,
    Latents,
}

/// One pass of a request, for some of its pictures.
pub(super) struct Part {
    pub(super) request: Request,
    /// Which of the request's pictures.
    pub(super) pictures: Range<usize>,
    /// What this pass made for the pictures before.
    pub(super) kept: Kept,
    pub(super) start: Start,
    /// Steps left out at the start.
    pub(super) skip: usize,
    pub(super) end: End,
    /// Calls of a network on the same schedule that another pass has done.
    pub(super) done: usize,
    /// Calls after which this pass ends, where another goes on.
    pub(super) until: Option<usize>,
}

/// What a pass need not make again for further pictures of its request.
#[derive(Default)]
pub(super) struct Kept {
    encoded: Option<Arc<Encoded>>,
    /// Of the request's picture, and of what of it is shown.
    moments: Option<Vec<Vec<f32>>>,
}

/// A pass under way.
pub(super) struct Pass<'p> {
    /// Whose networks run.
    pipeline: &'p Pipeline,
    /// What the picture says that it was drawn with.
    owner: &'p Pipeline,
    request: Request,
    /// What the caller asked for, of which this pass is a part.
    asked: Request,
    size: (usize, usize),
    skip: usize,
    end: End,
    done: usize,
    until: Option<usize>,
    text: TextPlan<'p>,
    start: Start,
    state: State<'p>,
    kept: Kept,
    /// Number of the first picture among the request's.
    first: usize,
    images: Vec<Image>,
    controls: ControlInputs,
    /// 1 where repainted, `[h, w]`.
    mask: Option<Vec<f32>>,
    notes: Vec<String>,
}

/// What is known of one picture so far.
pub(super) struct Image {
    noise: PictureNoise,
    /// Variance-preserving latents `[c, h, w]`: x_T^S, then x̃_T, then x̃_0.
    latents: Vec<f32>,
    /// The picture's own latents x_0 that the run starts from or keeps parts of.
    origin: Option<Origin>,
    /// Latents that the UNet is shown beside these: of the picture without what is repainted, or of the picture to change.
    shown: Option<Vec<f32>>,
}

struct Origin {
    x0: Vec<f32>,
    noise: Vec<f32>,
}

/// The UNet as it is at some calls.
struct OpenUnet<'p> {
    stage: OpenStage<'p>,
    call: Call,
    /// Calls since the last whole one of these pictures; `None` before the first.
    age: Option<usize>,
}

enum State<'p> {
    Encode,
    OneMoreStep { encoded: Arc<Encoded>, module: OpenStage<'p>, image: usize },
    Denoise { encoded: Arc<Encoded>, unet: OpenUnet<'p>, group: Range<usize>, solvers: Vec<Solver>, step: usize },
    Decode { decoder: OpenStage<'p>, image: usize },
    Done,
}

impl<'p> Pass<'p> {
    pub(super) fn new(pipeline: &'p Pipeline, owner: &'p Pipeline, asked: &Request, plan: Part) -> Result<Self> {
        let Part { request, pictures, kept, start, skip, end, done, until } = plan;
        let first = pictures.start;
        let size = pipeline.size(&request)?;
        let text = TextPlan::new(pipeline, &request, size)?;
        let image = |i: usize| {
            let (index, of) = request.place.unwrap_or((i, request.count));
            let noise = PictureNoise::new(request.rng, request.seed, index, of, request.variation)?
                .with_seed_delta(request.noise_seed_delta);
            Ok(Image { noise, latents: Vec::new(), origin: None, shown: None })
        };
        let (images, start) = match start {
            Start::Taken(images) => (images, Start::Taken(Vec::new())),
            start => (pictures.map(image).collect::<Result<_>>()?, start),
        };
        let mask = request.image.as_ref().and_then(|init| init.latent_mask(pipeline.latent_shape(size)));
        let controls = ControlInputs::new(&request.controls, &pipeline.controls, pipeline.latent_shape(size))?;
        let (state, notes) = (State::Encode, Vec::new());
        let asked = asked.clone();
        Ok(Pass {
            pipeline,
            owner,
            request,
            asked,
            size,
            skip,
            end,
            done,
            until,
            text,
            start,
            state,
            kept,
            first,
            images,
            controls,
            mask,
            notes,
        })
    }

    pub(super) fn warnings(&self) -> &[String] {
        self.text.warnings()
    }

    /// Where a picture's latents stand: variance-preserving before the first and after the last step, as its solver keeps them between.
    pub(super) fn latents(&self, image: usize) -> Option<&[f32]> {
        let image = image.checked_sub(self.first)?;
        match &self.state {
            State::Denoise { solvers, group, .. } if group.contains(&image) => {
                Some(solvers[image - group.start].scaled_latents())
            }
            _ => self.images.get(image).map(|i| i.latents.as_slice()),
        }
    }

    /// (width, height) in pixels.
    pub(super) fn size(&self) -> (usize, usize) {
        self.size
    }

    /// x̃_0 of a picture as its network saw it last, `[c, h, w]`, between the first step and the last.
    pub(super) fn denoised(&self, image: usize) -> Option<Vec<f32>> {
        let State::Denoise { solvers, group, .. } = &self.state else { return None };
        let image = image.checked_sub(self.first)?;
        let seen = group.contains(&image).then(|| solvers[image - group.start].denoised())?;
        (!seen.is_empty()).then(|| seen.to_vec())
    }

    /// Whether none of its networks is open.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, State::Encode | State::Done)
    }

    /// What the same pass for further pictures can take over.
    pub(super) fn take_kept(&mut self) -> Kept {
        std::mem::take(&mut self.kept)
    }

    /// The final latents of every picture, once the pass has ended.
    pub(super) fn into_latents(self) -> Vec<Vec<f32>> {
        self.images.into_iter().map(|image| image.latents).collect()
    }

    /// The pictures as they stand, for another network to go on with.
    pub(super) fn into_images(self) -> Vec<Image> {
        self.images
    }

    pub(super) fn next(&mut self) -> Option<Result<Event>> {
        Some(match std::mem::replace(&mut self.state, State::Done) {
            State::Encode => self.encode(),
            State::OneMoreStep { encoded, module, image } => self.one_more_step(encoded, module, image),
            State::Denoise { encoded, unet, group, solvers, step } => self.denoise(encoded, unet, group, solvers, step),
            State::Decode { decoder, image } => self.decode(decoder, image),
            State::Done => return None,
        })
    }

    /// Text: every distinct prompt once. Then the picture to start from, if there is one, and the noise x_T^S of each picture.
    fn encode(&mut self) -> Result<Event> {
        let encoded = match &self.kept.encoded {
            Some(encoded) => Arc::clone(encoded),
            None => Arc::new(self.text.encode(self.pipeline.device(), &mut self.notes)?),
        };
        self.kept.encoded = Some(Arc::clone(&encoded));
        if !matches!(self.start, Start::Taken(_)) {
            self.draw_starts()?;
        }
        let stage = self.pipeline.oms_stage(&self.request, self.size, self.text.oms_tokens())?;
        self.state = match stage.filter(|_| self.skip == 0) {
            Some(stage) => State::OneMoreStep { encoded, module: stage.open(self.pipeline.device())?, image: 0 },
            None => self.begin_denoising(encoded, None, 0)?,
        };
        Ok(Event::Encoded)
    }

    /// ψ(x_T^S, C_ψ) → v → x̃_T, eq. 20 and 21 of the paper.
    fn one_more_step(&mut self, encoded: Arc<Encoded>, mut module: OpenStage<'p>, image: usize) -> Result<Event> {
        let Some(request) = &self.request.oms else {
            return Err(Error::Request("oms: the request has none".into()));
        };
        let solver = self.pipeline.solver(&self.request, 0)?;
        let alpha_bar = solver.alpha_bar_first();
        let one = &mut self.images[image];
        // The authors' code scales the module's input by the solver's initial sigma; the paper feeds it unit noise.
        let seen: Vec<f32> = match request.form {
            OmsForm::Official => one.latents.iter().map(|x| x * solver.init_noise_sigma() as f32).collect(),
            _ => one.latents.clone(),
        };
        let shape = self.pipeline.latent_shape(self.size);
        let rows = if request.guided() { 2 } else { 1 };
        let inputs = network_input(&seen, shape).repeat(rows);
        let outputs =
            module.run(&[(names::SAMPLE, &inputs), (names::ENCODER_HIDDEN_STATES, encoded.oms())], &mut self.notes)?;
        let rows = latent_rows(&outputs[names::OUT], shape);
        let v = guide(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>(), request.guidance_scale)?;
        let z = request.form.draws_noise().then(|| one.noise.randn(v.len()));
        one.latents = oms::x_t(request.form, &v, &one.latents, z.as_deref(), alpha_bar)?;
        // The picture's trace is the module's, not the start picture's.
        if self.mask.is_none() {
            one.origin = None;
        }
        self.state = if image + 1 < self.images.len() {
            State::OneMoreStep { encoded, module, image: image + 1 }
        } else {
            drop(module);
            self.begin_denoising(encoded, None, 0)?
        };
        Ok(Event::OneMoreStep { image: self.first + image })
    }

    /// Opens the network for the group of pictures from `first` on, or goes on with it where the group is as large.
    fn begin_denoising(&self, encoded: Arc<Encoded>, open: Option<OpenUnet<'p>>, first: usize) -> Result<State<'p>> {
        let group = first..(first + self.request.batch).min(self.images.len());
        let fits = first == 0 || group.len() == self.request.batch;
        let unet = match open.filter(|_| fits) {
            Some(unet) => OpenUnet { age: None, ..unet },
            None => {
                let calls = self.pipeline.solver(&self.request, self.skip)?.timesteps().len();
                let call = self.pipeline.call(&self.request, self.done, self.done + calls);
                OpenUnet { stage: self.unet(group.len(), &call)?.open(self.pipeline.device())?, call, age: None }
            }
        };
        let mut solvers = Vec::new();
        for image in &self.images[group.clone()] {
            let mut solver = self.pipeline.solver(&self.request, self.skip)?;
            match &image.origin {
                _ if matches!(self.start, Start::Taken(_)) => solver.resume(&image.latents),
                Some(origin) if self.skip > 0 || self.mask.is_none() => solver.start_from(&origin.x0, &origin.noise),
                _ => solver.start(&image.latents),
            }
            solvers.push(solver);
        }
        Ok(State::Denoise { encoded, unet, group, solvers, step: 0 })
    }

    /// The UNet for so many pictures.
    fn unet(&self, batch: usize, call: &Call) -> Result<Stage<'p>> {
        let run = UnetRun { size: self.size, batch, tokens: self.text.unet_tokens() };
        self.pipeline.unet_stage(&self.request, run, call)
    }

    /// UNet θ(x_t, t, C_θ) → guidance → solver step, for all pictures of the group in one forward.
    fn denoise(
        &mut self,
        encoded: Arc<Encoded>,
        mut unet: OpenUnet<'p>,
        group: Range<usize>,
        mut solvers: Vec<Solver>,
        step: usize,
    ) -> Result<Event> {
        let shape = self.latent_shape();
        let timesteps = solvers[0].timesteps();
        let (t, of) = (timesteps[step], self.until.unwrap_or(timesteps.len()));
        let (at, of_all) = (self.done + step, self.done + timesteps.len());
        let call = self.pipeline.call(&self.request, at, of_all);
        let (rows, batch) = (call.rows, group.len());
        if call != unet.call {
            unet = OpenUnet { stage: unet.stage.exchange(self.unet(batch, &call)?)?, call, age: None };
        }
        // Of the rows, only the first is not shown a picture that guides.
        let sample: Vec<f32> = (0..rows)
            .flat_map(|row| group.clone().map(move |i| (i, rows == 3 && row == 0)))
            .flat_map(|(i, blind)| self.unet_input(i, &solvers[i - group.start], step, blind))
            .collect();
        let text = encoded.unet(at, of_all).last(rows, self.pipeline.guidance_rows(&self.request));
        let states = repeat_rows(&text.states, rows, batch);
        let added = repeat_rows(&text.added, rows, batch);
        let time = self.pipeline.time_inputs(t, rows * batch, &self.request);
        let mut inputs: Vec<(&str, &[f32])> = vec![
            (names::SAMPLE, &sample),
            (names::ENCODER_HIDDEN_STATES, &states),
            (names::TIME_PROJ, &time.projection),
        ];
        if !added.is_empty() {
            inputs.push((names::ADD_EMBEDS, &added));
        }
        if let Some(guidance) = &time.guidance {
            inputs.push((names::TIMESTEP_COND, guidance));
        }
        let seen = (rows == 2, rows * batch);
        let control = self.controls.of(&unet.call.acting, &self.request.controls, &self.pipeline.controls, seen);
        inputs.extend(control.iter().map(|(name, values)| (name.as_str(), &**values)));
        let latents: Vec<f32> = match self.pipeline.kind.shown {
            Shown::Masked | Shown::Instructed { .. } if !control.is_empty() => {
                let one_row: Vec<f32> =
                    group.clone().flat_map(|i| self.latents_input(&solvers[i - group.start], step)).collect();
                one_row.repeat(rows)
            }
            _ => Vec::new(),
        };
        if !latents.is_empty() {
            inputs.push((names::CONTROL_SAMPLE, &latents));
        }
        // Of every `interval` calls, the first is whole; so is the first of a network that was exchanged.
        let age = DeepCache::age(self.request.deep_cache, unet.age);
        let outputs = unet.stage.run_as(&inputs, age > 0, &mut self.notes)?;
        unet.age = Some(age);
        let outputs = latent_rows(&outputs[names::OUT], shape);
        for (at, i) in group.clone().enumerate() {
            let own: Vec<&[f32]> = outputs.iter().skip(at).step_by(batch).map(Vec::as_slice).collect();
            let mut model_output = match own[..] {
                [neither, picture, both] => {
                    let (picture_weight, text_weight) =
                        (self.request.image_guidance_scale, self.request.guidance_scale);
                    guide_by_picture([neither, picture, both], picture_weight, text_weight)
                }
                _ => guide(&own, self.request.guidance_scale)?,
            };
            if let [_, .., conditional] = own[..] {
                rescale_guidance(&mut model_output, conditional, self.request.guidance_rescale);
            }
            let image = &mut self.images[i];
            solvers[at].step(step, &model_output, &mut |len| image.noise.randn(len))?;
            let inpaints = self.pipeline.kind.shown == Shown::Masked;
            if let (Some(mask), Some(origin), false) = (&self.mask, &image.origin, inpaints) {
                let planes = mask.repeat(shape.c);
                solvers[at].keep(step, &planes, &origin.x0, &origin.noise);
            }
        }
        let last = self.first + group.end - 1;
        self.state = if step + 1 < of {
            State::Denoise { encoded, unet, group, solvers, step: step + 1 }
        } else {
            self.end_group(encoded, unet, group, &solvers)?
        };
        Ok(Event::Step { image: last, step: at + 1, of: of_all })
    }

    fn end_group(
        &mut self,
        encoded: Arc<Encoded>,
        unet: OpenUnet<'p>,
        group: Range<usize>,
        solvers: &[Solver],
    ) -> Result<State<'p>> {
        for (image, solver) in self.images[group.clone()].iter_mut().zip(solvers) {
            image.latents = solver.latents();
        }
        if group.end < self.images.len() {
            return self.begin_denoising(encoded, Some(unet), group.end);
        }
        drop(unet);
        if self.end == End::Latents {
            return Ok(State::Done);
        }
        let stage = self.pipeline.decoder_stage(&self.request, self.size);
        Ok(State::Decode { decoder: stage.open(self.pipeline.device())?, image: 0 })
    }

    /// What ControlNets see of one picture's latents.
    fn latents_input(&self, solver: &Solver, step: usize) -> Vec<f32> {
        network_input(&solver.model_input(step), self.latent_shape())
    }

    /// What the UNet sees of one picture: its latents, and behind them what it is shown, or zeros in that's place.
    fn unet_input(&self, image: usize, solver: &Solver, step: usize, blind: bool) -> Vec<f32> {
        let shape = self.latent_shape();
        let mut planes = solver.model_input(step);
        match (self.pipeline.kind.shown, &self.mask, &self.images[image].shown) {
            (Shown::Masked, Some(mask), Some(masked)) => {
                planes.extend(mask);
                planes.extend(masked);
            }
            (Shown::Instructed { .. }, _, Some(picture)) if blind => planes.extend(vec![0.0; picture.len()]),
            (Shown::Instructed { .. }, _, Some(picture)) => planes.extend(picture),
            _ => {}
        }
        network_input(&planes, Shape { c: planes.len() / (shape.h * shape.w), ..shape })
    }

    /// x̃_0 / scaling_factor → RGB.
    fn decode(&mut self, mut decoder: OpenStage<'p>, image: usize) -> Result<Event> {
        let shape = self.latent_shape();
        let one = &self.images[image];
        let mut unscaled = one.latents.clone();
        self.pipeline.vae.unscale_latents(&mut unscaled);
        let mut outputs = decoder.run(&[(names::LATENTS, &network_input(&unscaled, shape))], &mut self.notes)?;
        let mut pixels = outputs.remove(names::OUT).unwrap_or_default();
        self.pipeline.vae.image_output(&mut pixels);
        let (width, height) = self.size;
        let again = alone(&self.asked, self.first + image, &one.noise);
        let mut drawn = Rgb8Image::from_unit_range(&pixels, width, height)?;
        if let Some(init) = &self.asked.image
            && self.asked.paste_back.unwrap_or(self.owner.kind.shown == Shown::Nothing)
        {
            init.paste_into(&mut drawn);
        }
        let picture = Picture {
            image: drawn,
            seed: again.seed,
            latents: one.latents.clone(),
            parameters: parameters(self.owner, &again, self.size)?,
            // AUTOMATIC1111 states the size of the first pass.
            infotext: infotext(self.owner, &again, self.owner.size(&again)?)?,
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

/// Latents `[c, h, w]` as one row of a network's input.
fn network_input(latents: &[f32], shape: Shape) -> Vec<f32> {
    to_channels_last(latents, 1, shape.c, shape.h * shape.w)
}

/// A network's output, each row as `[c, h, w]`.
fn latent_rows(output: &[f32], shape: Shape) -> Vec<Vec<f32>> {
    output.chunks(shape.len()).map(|row| to_channels_first(row, 1, shape.c, shape.h * shape.w)).collect()
}

/// Each of `rows` rows `times` times, one behind the other.
fn repeat_rows(values: &[f32], rows: usize, times: usize) -> Vec<f32> {
    values.chunks((values.len() / rows).max(1)).flat_map(|row| row.repeat(times)).collect()
}
