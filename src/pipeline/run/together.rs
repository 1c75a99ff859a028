//! Steps of several generations in one forward of the UNet: rows of one network that have prompts, seeds, guidance and timesteps of their own.
//!
//! Kernels and tiles are chosen from the shape of one picture, so that a row's bits are the same in any company (docs/PERFORMANCE.md, "The same
//! picture in any company"): who shares a forward, and who joins or leaves between two steps, is seen in no picture.

use crate::models::names;
use crate::pipeline::run::denoise::Batch;
use crate::pipeline::run::event::Event;
use crate::pipeline::run::generate::{Generation, not_begun};
use crate::pipeline::run::itinerary::Leg;
use crate::pipeline::run::open_stage::OpenStage;
use crate::pipeline::run::stage::{Identity, Stage};
use crate::pipeline::run::unet::Call;
use crate::pipeline::run::watch::Watch;
use crate::record::{Cancel, caught};
use crate::{Error, Result};

/// What several generations share: the network of their steps, as long as that is the same one.
#[derive(Default)]
pub struct Together {
    open: Option<OpenStage>,
    watch: Watch,
}

/// A generation's share of a forward.
struct Part {
    batch: Batch,
    leg: Leg,
    at: usize,
    /// Rows for each of its pictures, as many as all have.
    rows: usize,
    inputs: Vec<(String, Vec<f32>)>,
}

impl Part {
    fn pictures(&self) -> usize {
        self.leg.pictures.len()
    }
}

impl Together {
    /// Nothing shared yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the next units of two generations are steps that one forward can do: of the same UNet at the same size, with as many rows for a picture
    /// and text states for a row. Steps with ControlNets, or on kept features, are done alone.
    pub fn can(one: &Generation, other: &Generation) -> bool {
        let kin = |generation| kin(generation).map(|(identity, _)| identity);
        kin(one).is_some_and(|one| kin(other).is_some_and(|other| one == other))
    }

    /// Whether the next unit of a generation is a step that others can share.
    pub fn could(one: &Generation) -> bool {
        kin(one).is_some()
    }

    /// Bytes that a step of all of them takes on their device at the highest, with weights.
    ///
    /// # Errors
    /// Where they cannot share one, or it cannot be planned.
    pub fn peak_bytes(generations: &[&Generation]) -> Result<u64> {
        let first = generations.first().ok_or_else(|| not_begun("together"))?;
        Ok(shared_stage(generations)?.plan(first.pipeline.device())?.peak_bytes())
    }

    /// Stops a [`step`](Self::step) from any thread, once.
    pub fn cancel_token(&mut self) -> Cancel {
        if self.watch.cancel.is_cancelled() {
            // What is open ends with the token that it was opened with.
            *self = Self::default();
        }
        self.watch.cancel.clone()
    }

    /// The next step of all of them in one forward; what each made of it, in their order. One whose own share fails has ended.
    ///
    /// # Errors
    /// When they [cannot](Self::can) share one, when the forward fails, or [`Error::Cancelled`]: then no step was done, and each can go on by itself.
    pub fn step(&mut self, generations: &mut [&mut Generation]) -> Result<Vec<Result<Event>>> {
        let first = generations.first().ok_or_else(|| not_begun("together"))?;
        let device = first.pipeline.device().clone();
        let _turn = device.programs().turn(&self.watch.cancel)?;
        device.backend().install(|| caught("together", || self.forward(generations)))
    }

    fn forward(&mut self, generations: &mut [&mut Generation]) -> Result<Vec<Result<Event>>> {
        let seen: Vec<&Generation> = generations.iter().map(|generation| &**generation).collect();
        let stage = shared_stage(&seen)?;
        let device = seen[0].pipeline.device().clone();
        let mut parts = Vec::new();
        let run = || {
            for generation in generations.iter_mut() {
                let (leg, at, call) = generation.next_step().ok_or_else(|| not_begun("together"))?;
                // Its own network would lie beside the shared one.
                generation.open = None;
                let batch = generation.batch_of(&leg)?;
                let inputs = generation.call_inputs(&batch, &leg, at, &call);
                parts.push(Part { batch, leg, at, rows: call.rows, inputs: Vec::new() });
                if let Some(part) = parts.last_mut() {
                    part.inputs = inputs?;
                }
            }
            let mut unet = match self.open.take() {
                Some(open) if open.identity() == stage.identity() => open,
                Some(open) => open.exchange(stage)?,
                None => stage.open(&device, &self.watch)?,
            };
            let inputs = joined(&parts)?;
            let inputs: Vec<(&str, &[f32])> =
                inputs.iter().map(|(name, values)| (name.as_str(), values.as_slice())).collect();
            let mut notes = Vec::new();
            let mut outputs = unet.run(&inputs, &mut notes)?;
            self.open = Some(unet);
            Ok((outputs.remove(names::OUT).unwrap_or_default(), notes))
        };
        let (output, notes) = match run() {
            Ok(done) => done,
            Err(error) => {
                for (generation, part) in generations.iter_mut().zip(parts) {
                    generation.batch = Some(part.batch);
                }
                return Err(error);
            }
        };
        let shares = parted(&output, &parts);
        let step = |((generation, part), share): ((&mut &mut Generation, Part), Vec<f32>)| {
            generation.notes.extend(notes.iter().cloned());
            generation.done_together(part.batch, &part.leg, part.at, &share)
        };
        Ok(generations.iter_mut().zip(parts).zip(shares).map(step).collect())
    }
}

/// What the network of a generation's next step is for one picture, and the step's form; `None` where it is done alone.
fn kin(generation: &Generation) -> Option<(Identity, Call)> {
    let (leg, _, call) = generation.next_step()?;
    let pass = &generation.itinerary.passes[leg.pass];
    let keeps = pass.request.deep_cache.is_some_and(|cache| cache.interval > 1);
    let stage = pass.unet_stage(1, &call).ok().filter(|_| call.acting.is_empty() && !keeps)?;
    Some((stage.identity().clone(), call))
}

/// The network of a step of all.
fn shared_stage(generations: &[&Generation]) -> Result<Stage> {
    let not_kin = || Error::request("together", "expected steps of one network at one size");
    let (identity, call) = generations.first().and_then(|first| kin(first)).ok_or_else(not_kin)?;
    let mut pictures = 0;
    for generation in generations {
        if kin(generation).is_none_or(|(other, _)| other != identity) {
            return Err(not_kin());
        }
        pictures += generation.next_step().map_or(0, |(leg, ..)| leg.pictures.len());
    }
    let first = generations[0];
    let (leg, ..) = first.next_step().ok_or_else(not_kin)?;
    first.itinerary.passes[leg.pass].unet_stage(pictures, &call)
}

/// Inputs of all: rows are `[unconditional, conditional]` × pictures, each generation's pictures side by side.
fn joined(parts: &[Part]) -> Result<Vec<(String, Vec<f32>)>> {
    let first = parts.first().ok_or_else(|| not_begun("together"))?;
    let rows = first.rows;
    let join = |(at, (name, _)): (usize, &(String, Vec<f32>))| {
        let mut all = Vec::new();
        for row in 0..rows {
            for part in parts {
                let own = part.inputs.get(at).filter(|(other, _)| other == name).map(|(_, values)| values);
                let own = own.ok_or_else(|| not_begun("together"))?;
                let length = own.len() / rows;
                all.extend(&own[row * length..(row + 1) * length]);
            }
        }
        Ok((name.clone(), all))
    };
    first.inputs.iter().enumerate().map(join).collect()
}

/// Each generation's share of the output.
fn parted(output: &[f32], parts: &[Part]) -> Vec<Vec<f32>> {
    let rows = parts.first().map_or(1, |part| part.rows);
    let pictures: usize = parts.iter().map(Part::pictures).sum();
    let one = output.len() / (rows * pictures).max(1);
    let mut before = 0;
    let mut shares = Vec::new();
    for part in parts {
        let own = part.pictures();
        let of_row = |row: usize| &output[(row * pictures + before) * one..][..own * one];
        shares.push((0..rows).flat_map(|row| of_row(row).to_vec()).collect());
        before += own;
    }
    shares
}
