//! The legs of a UNet: One More Step's, and the denoising loop.

use std::ops::Range;

use crate::Result;
use crate::models::layout::{to_channels_first, to_channels_last};
use crate::models::names;
use crate::pipeline::model::kind::Shown;
use crate::pipeline::request::deep_cache::DeepCache;
use crate::pipeline::run::control_inputs::ControlInputs;
use crate::pipeline::run::event::Event;
use crate::pipeline::run::generate::{Generation, not_begun};
use crate::pipeline::run::itinerary::{Begins, Leg, Pass};
use crate::pipeline::run::stage::Stage;
use crate::pipeline::run::starts::Image;
use crate::pipeline::run::text::Encoded;
use crate::pipeline::run::unet::{Call, UnetRun};
use crate::record::Shape;
use crate::sampling::{OmsForm, Solver, guide, guide_by_picture, oms, rescale_guidance};

/// Pictures that one forward draws, between the first call and the last.
pub(crate) struct Batch {
    pass: usize,
    pub(crate) pictures: Range<usize>,
    solvers: Vec<Solver>,
    /// 1 where repainted, `[h, w]`.
    mask: Option<Vec<f32>>,
    /// What the UNet was at the last call, and calls since the last whole one; `None` before the first.
    last: Option<(Call, usize)>,
}

impl Batch {
    /// The solver of one of its pictures.
    pub(crate) fn solver(&self, picture: usize) -> &Solver {
        &self.solvers[picture - self.pictures.start]
    }
}

impl Generation {
    /// ψ(x_T^S, C_ψ) → v → x̃_T, eq. 20 and 21 of the paper.
    pub(crate) fn one_more_step(&mut self, leg: &Leg, at: usize) -> Result<Event> {
        let stage = self.itinerary.passes[leg.pass].oms_stage().ok_or_else(|| not_begun("oms"))?;
        let mut module = self.open_as(stage)?;
        let (pass, first) = (&self.itinerary.passes[leg.pass], self.first());
        let request = pass.request.oms.as_ref().ok_or_else(|| not_begun("oms"))?;
        let encoded = self.made[leg.pass].encoded.as_ref().ok_or_else(|| not_begun("oms"))?;
        let solver = pass.pipeline.solver(&pass.request, 0)?;
        let one = &mut self.images[at - first];
        // The authors' code scales the module's input by the solver's initial sigma; the paper feeds it unit noise.
        let seen: Vec<f32> = match request.form {
            OmsForm::Official => one.latents.iter().map(|x| x * solver.init_noise_sigma() as f32).collect(),
            _ => one.latents.clone(),
        };
        let shape = pass.pipeline.latent_shape(pass.size);
        let rows = if request.guided() { 2 } else { 1 };
        let inputs = network_input(&seen, shape).repeat(rows);
        let inputs: [(&str, &[f32]); 2] = [(names::SAMPLE, &inputs), (names::ENCODER_HIDDEN_STATES, encoded.oms())];
        let outputs = module.run(&inputs, &mut self.notes)?;
        self.open = Some(module);
        let rows = latent_rows(&outputs[names::OUT], shape);
        let v = guide(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>(), request.guidance_scale)?;
        let z = request.form.draws_noise().then(|| one.noise.randn(v.len()));
        one.latents = oms::x_t(request.form, &v, &one.latents, z.as_deref(), solver.alpha_bar_first())?;
        // The picture's trace is the module's, not the start picture's.
        if pass.request.image.as_ref().is_none_or(|image| image.mask.is_none()) {
            one.origin = None;
        }
        Ok(Event::OneMoreStep { image: at })
    }

    /// UNet θ(x_t, t, C_θ) → guidance → solver step, for all pictures of a batch in one forward.
    pub(crate) fn denoise(&mut self, leg: &Leg, at: usize, call: &Call) -> Result<Event> {
        let mut batch = self.batch_of(leg)?;
        let mut unet = self.open_as(self.itinerary.passes[leg.pass].unet_stage(leg.pictures.len(), call)?)?;
        let inputs = self.call_inputs(&batch, leg, at, call)?;
        let inputs: Vec<(&str, &[f32])> =
            inputs.iter().map(|(name, values)| (name.as_str(), values.as_slice())).collect();
        // A network that is exchanged keeps nothing.
        let kept = batch.last.as_ref().filter(|(last, _)| last == call).map(|(_, age)| *age);
        let age = DeepCache::age(self.itinerary.passes[leg.pass].request.deep_cache, kept);
        let outputs = unet.run_as(&inputs, age > 0, &mut self.notes)?;
        self.open = Some(unet);
        batch.last = Some((call.clone(), age));
        self.take_step(batch, leg, at, &outputs[names::OUT])
    }

    /// The batch of a leg: the one that is under way, or a new one.
    pub(crate) fn batch_of(&mut self, leg: &Leg) -> Result<Batch> {
        match self.batch.take() {
            Some(batch) if batch.pass == leg.pass && batch.pictures == leg.pictures => Ok(batch),
            _ => self.begin(leg),
        }
    }

    /// What the UNet takes of a batch at call `at`, as [`Pass::unet_inputs`] has it.
    pub(crate) fn call_inputs(
        &self,
        batch: &Batch,
        leg: &Leg,
        at: usize,
        call: &Call,
    ) -> Result<Vec<(String, Vec<f32>)>> {
        let (pass, made, first) = (&self.itinerary.passes[leg.pass], &self.made[leg.pass], self.first());
        let encoded = made.encoded.as_ref().ok_or_else(|| not_begun("denoise"))?;
        let images = &self.images[leg.pictures.start - first..leg.pictures.end - first];
        Ok(pass.unet_inputs((batch, &made.controls), images, encoded, (at - pass.calls.start, at), call))
    }

    /// What a batch makes of the UNet's output of call `at`.
    pub(crate) fn take_step(&mut self, mut batch: Batch, leg: &Leg, at: usize, output: &[f32]) -> Result<Event> {
        let (pass, first) = (&self.itinerary.passes[leg.pass], self.first());
        let images = &mut self.images[leg.pictures.start - first..leg.pictures.end - first];
        pass.step(&mut batch, images, at - pass.calls.start, output)?;
        if at + 1 < pass.calls.end {
            self.batch = Some(batch);
        } else {
            for (image, solver) in images.iter_mut().zip(&batch.solvers) {
                image.latents = solver.latents();
            }
        }
        Ok(Event::Step { image: leg.pictures.end - 1, step: at + 1, of: pass.of })
    }

    /// Solvers, masks and control pictures of a batch before its first call.
    fn begin(&self, leg: &Leg) -> Result<Batch> {
        let (pass, first) = (&self.itinerary.passes[leg.pass], self.first());
        let shape = pass.pipeline.latent_shape(pass.size);
        let mask = pass.request.image.as_ref().and_then(|init| init.latent_mask(shape));
        let mut solvers = Vec::new();
        for image in &self.images[leg.pictures.start - first..leg.pictures.end - first] {
            let mut solver = pass.pipeline.solver(&pass.request, pass.skip)?;
            match &image.origin {
                _ if pass.begins == Begins::HandedOver => solver.resume(&image.latents),
                Some(origin) if pass.skip > 0 || mask.is_none() => solver.start_from(&origin.x0, &origin.noise),
                _ => solver.start(&image.latents),
            }
            solvers.push(solver);
        }
        Ok(Batch { pass: leg.pass, pictures: leg.pictures.clone(), solvers, mask, last: None })
    }
}

impl Pass {
    /// The UNet at a call, for so many pictures.
    pub(crate) fn unet_stage(&self, pictures: usize, call: &Call) -> Result<Stage> {
        let run = UnetRun { size: self.size, batch: pictures, tokens: self.text.unet_tokens() };
        self.pipeline.unet_stage(&self.request, run, call)
    }

    /// What the UNet takes at call `at`, the pass' step `step`, by the names of its inputs. Rows are `[unconditional, conditional]` × pictures.
    fn unet_inputs(
        &self,
        (batch, controls): (&Batch, &ControlInputs),
        images: &[Image],
        encoded: &Encoded,
        (step, at): (usize, usize),
        call: &Call,
    ) -> Vec<(String, Vec<f32>)> {
        let (rows, pictures) = (call.rows, images.len());
        let paired = || images.iter().zip(&batch.solvers);
        // Of three rows, only the first is not shown a picture that guides.
        let sample: Vec<f32> = (0..rows)
            .flat_map(|row| paired().map(move |pair| (pair, rows == 3 && row == 0)))
            .flat_map(|((image, solver), blind)| self.unet_input(image, batch, solver, step, blind))
            .collect();
        let text = encoded.unet(at, self.of).last(rows, self.pipeline.guidance_rows(&self.request));
        let time = self.pipeline.time_inputs(batch.solvers[0].timesteps()[step], rows * pictures, &self.request);
        let mut inputs = vec![
            (names::SAMPLE.to_owned(), sample),
            (names::ENCODER_HIDDEN_STATES.to_owned(), repeat_rows(&text.states, rows, pictures)),
            (names::TIME_PROJ.to_owned(), time.projection),
        ];
        let added = repeat_rows(&text.added, rows, pictures);
        inputs.extend((!added.is_empty()).then(|| (names::ADD_EMBEDS.to_owned(), added)));
        inputs.extend(time.guidance.map(|guidance| (names::TIMESTEP_COND.to_owned(), guidance)));
        let seen = (rows == 2, rows * pictures);
        let control = controls.of(&call.acting, &self.request.controls, &self.pipeline.controls, seen);
        let sees_latents = !control.is_empty() && self.pipeline.kind.shown != Shown::Nothing;
        inputs.extend(control.into_iter().map(|(name, values)| (name, values.into_owned())));
        if sees_latents {
            // Nets see the latents alone, of what the UNet is shown.
            let shape = self.latent_shape();
            let row: Vec<f32> =
                batch.solvers.iter().flat_map(|solver| network_input(&solver.model_input(step), shape)).collect();
            inputs.push((names::CONTROL_SAMPLE.to_owned(), row.repeat(rows)));
        }
        inputs
    }

    /// What the UNet sees of one picture: its latents, and behind them what it is shown, or zeros in their place.
    fn unet_input(&self, image: &Image, batch: &Batch, solver: &Solver, step: usize, blind: bool) -> Vec<f32> {
        let shape = self.latent_shape();
        let mut planes = solver.model_input(step);
        match (self.pipeline.kind.shown, &batch.mask, &image.shown) {
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

    /// Guidance and the solver's step of each picture.
    fn step(&self, batch: &mut Batch, images: &mut [Image], step: usize, output: &[f32]) -> Result<()> {
        let (shape, request) = (self.latent_shape(), &self.request);
        let outputs = latent_rows(output, shape);
        let pictures = images.len();
        for (at, (image, solver)) in images.iter_mut().zip(&mut batch.solvers).enumerate() {
            let own: Vec<&[f32]> = outputs.iter().skip(at).step_by(pictures).map(Vec::as_slice).collect();
            let mut model_output = match own[..] {
                [neither, picture, both] => {
                    let weights = (request.image_guidance_scale, request.guidance_scale);
                    guide_by_picture([neither, picture, both], weights.0, weights.1)
                }
                _ => guide(&own, request.guidance_scale)?,
            };
            if let [_, .., conditional] = own[..] {
                rescale_guidance(&mut model_output, conditional, request.guidance_rescale);
            }
            solver.step(step, &model_output, &mut |len| image.noise.randn(len))?;
            let inpaints = self.pipeline.kind.shown == Shown::Masked;
            if let (Some(mask), Some(origin), false) = (&batch.mask, &image.origin, inpaints) {
                solver.keep(step, &mask.repeat(shape.c), &origin.x0, &origin.noise);
            }
        }
        Ok(())
    }

    fn latent_shape(&self) -> Shape {
        self.pipeline.latent_shape(self.size)
    }
}

/// Latents `[c, h, w]` as one row of a network's input.
pub(crate) fn network_input(latents: &[f32], shape: Shape) -> Vec<f32> {
    to_channels_last(latents, 1, shape.c, shape.h * shape.w)
}

/// A network's output, each row as `[c, h, w]`.
pub(crate) fn latent_rows(output: &[f32], shape: Shape) -> Vec<Vec<f32>> {
    output.chunks(shape.len()).map(|row| to_channels_first(row, 1, shape.c, shape.h * shape.w)).collect()
}

/// Each of `rows` rows `times` times, one behind the other.
fn repeat_rows(values: &[f32], rows: usize, times: usize) -> Vec<f32> {
    values.chunks((values.len() / rows).max(1)).flat_map(|row| row.repeat(times)).collect()
}
