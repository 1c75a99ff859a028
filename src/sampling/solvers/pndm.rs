//! PNDM (Liu et al., arXiv 2202.09778): eq. 9 for a step, eq. 12 for the multistep noise, eq. 13 and algorithm 2 for the Runge-Kutta start.
//!
//! Stable Diffusion leaves the Runge-Kutta steps out and starts with a predictor and a corrector on the first interval instead (PLMS, as
//! CompVis' latent-diffusion and diffusers' `skip_prk_steps` have it): the second timestep is visited twice.
//!
//! | variable | symbol |
//! | --- | --- |
//! | `alpha_bar`, `alpha_bar_next` | ᾱ_t, ᾱ_{t-δ} |
//! | `past` | e_t, e_{t+δ}, …: the network's outputs, the newest last |
//! | `sum` | e_t^{(1)}/6 + e_t^{(2)}/3 + e_t^{(3)}/3 of a Runge-Kutta step |

use super::super::SchedulerConfig;
use super::super::prediction::{Level, Prediction};
use super::variance_preserving::Visited;
use super::{Frame, Noise, Plan, Rule, latents};
use crate::{Error, Result};

/// Multistep weights by the number of outputs known, the newest last.
const MULTISTEP: [&[f64]; 4] = [
    &[1.0],
    &[-1.0 / 2.0, 3.0 / 2.0],
    &[5.0 / 12.0, -16.0 / 12.0, 23.0 / 12.0],
    &[-9.0 / 24.0, 37.0 / 24.0, -59.0 / 24.0, 55.0 / 24.0],
];

pub(super) struct Pndm {
    config: SchedulerConfig,
    prediction: Prediction,
    visited: Visited,
    /// Runge-Kutta steps at the start: 12 or none.
    runge_kutta: usize,
    past: Vec<Vec<f32>>,
    sum: Vec<f64>,
    /// The latents at the start of an interval that takes several steps.
    start: Vec<f32>,
}

impl Pndm {
    pub(super) fn new(plan: &Plan<'_>) -> Result<Self> {
        let config = plan.config;
        let spaced = Visited::spaced(plan);
        let visited = &spaced.timesteps;
        let multistep_only = config.skip_prk_steps.unwrap_or(true);
        let (timesteps, runge_kutta) = if multistep_only {
            let second = visited.get(1).copied();
            (visited.iter().take(1).copied().chain(second).chain(visited.iter().skip(1).copied()).collect(), 0)
        } else {
            if visited.len() < 4 {
                return Err(Error::request(
                    "steps",
                    format!("pndm with its Runge-Kutta start needs 4 or more, got {}", visited.len()),
                ));
            }
            // Each of the first three intervals: its start, its middle twice, its end.
            let starts = visited[..3].iter().zip(&visited[1..4]);
            let middle = |t: f64, next: f64| next + spaced.half(t, next);
            let start: Vec<f64> = starts.flat_map(|(&t, &next)| [t, middle(t, next), middle(t, next), next]).collect();
            (start.into_iter().chain(visited[3..].iter().copied()).collect(), 12)
        };
        Ok(Pndm {
            config: config.clone(),
            prediction: Prediction::free(config),
            visited: spaced.with(timesteps),
            runge_kutta,
            past: Vec::new(),
            sum: Vec::new(),
            start: Vec::new(),
        })
    }

    /// Eq. 9: from timestep `t` to `next` with the output `e`. The network's output is combined first and then read as ε.
    fn transfer(&self, x: &[f32], e: &[f32], t: i64, next: i64) -> Vec<f32> {
        let alpha_bar = self.visited.alpha_bar_or_final(&self.config, t, false);
        let alpha_bar_next = self.visited.alpha_bar_or_final(&self.config, next, false);
        let (_, eps) = self.prediction.split(e, x, Level::vp(alpha_bar));
        let of_x = (alpha_bar_next / alpha_bar).sqrt();
        let divisor =
            alpha_bar * (1.0 - alpha_bar_next).sqrt() + (alpha_bar * (1.0 - alpha_bar) * alpha_bar_next).sqrt();
        latents(x.len(), |i| of_x * f64::from(x[i]) - (alpha_bar_next - alpha_bar) * eps[i] / divisor)
    }

    fn runge_kutta_step(&mut self, i: usize, e: &[f32], x: &[f32]) -> Vec<f32> {
        let t = self.visited.timesteps[i / 4 * 4] as i64;
        let weight = if i.is_multiple_of(4) || i % 4 == 3 { 1.0 / 6.0 } else { 1.0 / 3.0 };
        if i.is_multiple_of(4) {
            self.past.push(e.to_vec());
            self.start = x.to_vec();
            self.sum = vec![0.0; e.len()];
        }
        self.sum.iter_mut().zip(e).for_each(|(sum, &e)| *sum += weight * f64::from(e));
        // The first two evaluations lead to the middle of the interval, the others to its end.
        let next = match i.is_multiple_of(2) {
            true if self.visited.is_uneven() => self.visited.timesteps[i + 1] as i64,
            true => self.visited.timesteps[i] as i64 - self.visited.half(0.0, 0.0) as i64,
            false => self.visited.timesteps[i] as i64,
        };
        let e = if i % 4 == 3 { latents(e.len(), |i| self.sum[i]) } else { e.to_vec() };
        self.transfer(&self.start, &e, t, next)
    }
}

impl Rule for Pndm {
    fn frame(&self) -> &dyn Frame {
        &self.visited
    }

    fn step(&mut self, i: usize, e: &[f32], x: &[f32], _noise: Noise<'_>) -> Vec<f32> {
        if i < self.runge_kutta {
            return self.runge_kutta_step(i, e, x);
        }
        let t = self.visited.timesteps[i] as i64;
        if self.runge_kutta == 0 && i == 1 {
            // The first interval again, with the mean of the outputs at its ends.
            let first = &self.past[0];
            let mean = latents(e.len(), |i| (f64::from(first[i]) + f64::from(e[i])) / 2.0);
            return self.transfer(&self.start, &mean, self.visited.begin(i), t);
        }
        self.past.push(e.to_vec());
        if self.past.len() > MULTISTEP.len() {
            self.past.remove(0);
        }
        if i == 0 {
            self.start = x.to_vec();
        }
        let weights = MULTISTEP[self.past.len() - 1];
        let e = latents(e.len(), |i| weights.iter().zip(&self.past).map(|(w, e)| w * f64::from(e[i])).sum());
        self.transfer(x, &e, t, self.visited.end(i))
    }
}
