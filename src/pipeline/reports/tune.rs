//! Measuring the tiles of products on a device.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ops::Trial;
use crate::pipeline::device::Device;
use crate::pipeline::model::pipeline::Pipeline;
use crate::pipeline::request::Request;
use crate::record::{Constant, Program, Tuning};
use crate::{Error, Remedy, Result};

/// What was found of one class of products.
#[derive(Debug, Clone)]
pub struct TunedClass {
    /// The class, as [`Tuning`] names it.
    pub class: String,
    /// Floating-point operations of its products in a run of every network of the request.
    pub flops: u64,
    /// The tile that is taken without measuring, and seconds of one product with it.
    pub reasoned: (String, f64),
    /// The fastest, and its seconds.
    pub fastest: (String, f64),
    /// Tiles that were measured.
    pub tried: usize,
    /// Tiles that did not compile, ran out of memory or computed something else, with what was wrong.
    pub refused: Vec<(String, String)>,
}

/// What [`Pipeline::tune`] found.
#[derive(Debug, Clone, Default)]
pub struct TuneReport {
    /// Each class that was measured, those with the most work first.
    pub classes: Vec<TunedClass>,
    /// Classes for which no time was left.
    pub left: usize,
}

/// How often each tile is timed; the least counts, since what disturbs only adds.
const ROUNDS: usize = 3;
/// A tile is fast by what several products in one run take more than one.
const TIMED: Duration = Duration::from_millis(20);
/// Products in a run at most.
const MOST: usize = 256;
/// What a tile must gain to be preferred to the reasoned one: less is within the scatter of the measurement.
const GAIN: f64 = 0.97;
/// How far a tile's result may lie from the reasoned one's: mean squared difference over mean square.
const NMSE: f64 = 1e-5;

impl Pipeline {
    /// Measures the tiles that this pipeline's device has for the products of a request's networks, those with the most work first, until `budget`
    /// is spent (a class that was begun is finished). `told` sees each class when it is done. The result holds `known` too.
    ///
    /// # Errors
    /// When the device is the host executor, which has no tiles to choose, when the request cannot be had of the model, or a product of the
    /// network does not run as it is.
    #[cfg_attr(not(feature = "unstable"), doc(hidden))]
    pub fn tune(
        &self,
        request: &Request,
        known: &Tuning,
        budget: Duration,
        mut told: impl FnMut(&TunedClass),
    ) -> Result<(Tuning, TuneReport)> {
        let device = self.device();
        if device.backend().caps().is_host() {
            return Err(
                Error::refused("tune: expected a GPU; the processor has no tiles to choose").advise([Remedy::Devices])
            );
        }
        let mut trials: Vec<Trial> = Vec::new();
        for stage in self.stages(request)? {
            for mut trial in Trial::of(&stage.recording(device)?) {
                trial.flops *= stage.runs() as u64;
                match trials.iter_mut().find(|known| known.key() == trial.key()) {
                    Some(known) => known.flops += trial.flops,
                    None => trials.push(trial),
                }
            }
        }
        trials.sort_by_key(|trial| std::cmp::Reverse(trial.flops));
        let (mut tuning, mut report, start) = (known.clone(), TuneReport::default(), Instant::now());
        for trial in &trials {
            if start.elapsed() >= budget {
                report.left += 1;
                continue;
            }
            let class = measure(device, trial)?;
            tuning.set(class.class.clone(), class.fastest.0.clone());
            told(&class);
            report.classes.push(class);
        }
        Ok((tuning, report))
    }
}

/// Tiles of one product in turns, so that what disturbs for a while disturbs all.
fn measure(device: &Device, trial: &Trial) -> Result<TunedClass> {
    let caps = device.caps();
    let (weight, x) = (trial.weight()?, trial.input());
    let bench = Bench { device, trial, weight, inputs: [("x", &x)] };
    let (mut alone, mut refused, mut want) = (Vec::new(), Vec::new(), Vec::new());
    for (index, tile) in trial.tiles(&caps).into_iter().enumerate() {
        match bench.checked(&tile, &mut want) {
            Ok(one) => alone.push((tile, one)),
            Err(error) if index == 0 => return Err(error),
            Err(error) => refused.push((tile, error.to_string())),
        }
    }
    let (tile, one) = &mut alone[0];
    let times = bench.enough(tile, &mut **one)?;
    let mut runs = Vec::new();
    for (tile, one) in alone {
        let several = bench.compile(&tile, times)?;
        runs.push((tile, Run { one, several }, [f64::INFINITY; 2]));
    }
    for _ in 0..ROUNDS {
        for (_, run, least) in &mut runs {
            *least = [least[0].min(bench.time(&mut *run.one)?), least[1].min(bench.time(&mut *run.several)?)];
        }
    }
    let seconds = |[one, several]: [f64; 2]| (several - one).max(0.0) / (times - 1) as f64;
    let runs: Vec<_> = runs.into_iter().map(|(tile, _, least)| (tile, seconds(least))).collect();
    let reasoned = runs[0].clone();
    let fastest = runs.iter().min_by(|a, b| a.1.total_cmp(&b.1)).filter(|fastest| fastest.1 < GAIN * reasoned.1);
    let fastest = fastest.unwrap_or(&reasoned).clone();
    Ok(TunedClass { class: trial.key(), flops: trial.flops, reasoned, fastest, tried: runs.len(), refused })
}

struct Bench<'a> {
    device: &'a Device,
    trial: &'a Trial,
    weight: Arc<Constant>,
    inputs: [(&'a str, &'a [f32]); 1],
}

/// The product once, and several times, in a run: what the second takes longer is the products'.
struct Run {
    one: Box<dyn Program>,
    several: Box<dyn Program>,
}

impl Bench<'_> {
    /// The product with a tile, whose result is that of the first one that was asked for.
    fn checked(&self, tile: &str, want: &mut Vec<f32>) -> Result<Box<dyn Program>> {
        let mut one = self.compile(tile, 1)?;
        let got = one.run(&self.inputs)?.remove("out").unwrap_or_default();
        if want.is_empty() {
            *want = got;
        } else {
            let (error, square) = got.iter().zip(&*want).fold((0.0, 0.0), |(error, square), (&got, &want)| {
                let (got, want) = (f64::from(got), f64::from(want));
                (error + (got - want).powi(2), square + want.powi(2))
            });
            let nmse = error / f64::max(square, f64::MIN_POSITIVE);
            if nmse.is_nan() || nmse > NMSE {
                return Err(Error::Device(format!(
                    "expected the result of the reasoned tile, got another (NMSE {nmse:.1e})"
                )));
            }
        }
        Ok(one)
    }

    /// How many products take long enough to be told from one.
    fn enough(&self, tile: &str, one: &mut dyn Program) -> Result<usize> {
        let mut times = 2;
        while times < MOST {
            let mut several = self.compile(tile, times)?;
            several.run(&self.inputs)?;
            if self.time(&mut *several)? - self.time(one)? >= TIMED.as_secs_f64() {
                break;
            }
            times *= 2;
        }
        Ok(times)
    }

    fn time(&self, program: &mut dyn Program) -> Result<f64> {
        let start = Instant::now();
        program.run(&self.inputs)?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn compile(&self, tile: &str, times: usize) -> Result<Box<dyn Program>> {
        let recording = self.trial.record(&self.device.caps(), tile, &self.weight, times)?;
        self.device.backend().compile(recording)
    }
}
