//! UniPC (Zhao et al., arXiv 2302.04867), the data-prediction form: predictor UniP (eq. 3, algorithm 1) and corrector UniC on the same
//! evaluation, with B(h) = e^h - 1 ("bh2") or h ("bh1"). As diffusers' `UniPCMultistepScheduler`.
//!
//! | variable | symbol |
//! | --- | --- |
//! | `h` | λ_t - λ_s, λ = ln(α/σ); the data-prediction form takes -h |
//! | `r` | r_i = (λ_{s_i} - λ_s)/h of earlier points, then 1 |
//! | `differences` | D_i/r_i: (x̃_0(s_i) - x̃_0(s))/r_i |
//! | `weights` | ρ: the solution of R(r)·ρ = b |

use std::collections::VecDeque;

use super::super::SchedulerConfig;
use super::super::prediction::Prediction;
use super::super::sigmas::Placing;
use super::variance_preserving::Intervals;
use super::{Frame, Noise, Plan, Rule, latents};
use crate::Result;

pub(super) struct UniPc {
    config: SchedulerConfig,
    prediction: Prediction,
    intervals: Intervals,
    skip: usize,
    /// B(h) = h.
    bh1: bool,
    /// x̃_0 of the last steps, the newest first.
    x0s: VecDeque<Vec<f64>>,
    /// The latents before the last predictor, and its order.
    last: Option<(Vec<f32>, usize)>,
}

/// What both rules share for a step from σ index `from` to the next with given earlier points.
struct Expansion {
    /// e^{-h} - 1.
    h_phi_1: f64,
    b_h: f64,
    r: Vec<f64>,
    b: Vec<f64>,
}

impl UniPc {
    pub(super) fn new(plan: &Plan<'_>) -> Result<Self> {
        Ok(UniPc {
            prediction: Prediction::thresholded(plan.config),
            config: plan.config.clone(),
            intervals: Intervals::new(plan, Placing::UniPc)?,
            skip: plan.skip,
            bh1: plan.config.solver_type.as_deref() == Some("bh1"),
            x0s: VecDeque::new(),
            last: None,
        })
    }

    /// The order of step `i`: what is known, and falling to 1 at the end.
    fn order(&self, i: usize) -> usize {
        let left = self.intervals.0.steps - self.skip - i;
        let most =
            if self.config.lower_order_final { self.config.solver_order.min(left) } else { self.config.solver_order };
        // σ = 0 is infinitely far in λ: only the first order has a limit there.
        let most = if self.intervals.0.sigmas[i + 1] == 0.0 { 1 } else { most };
        most.min(i + 1)
    }

    /// Whether the step before step `i` is corrected.
    fn corrects(&self, i: usize) -> bool {
        // Steps of the whole run are counted.
        !self.config.disable_corrector.contains(&(self.skip + i - 1))
    }

    fn expansion(&self, from: usize, order: usize) -> Expansion {
        let lambda = |i: usize| self.intervals.lambda(i);
        let h = lambda(from + 1) - lambda(from);
        let hh = -h;
        let h_phi_1 = hh.exp_m1();
        let b_h = if self.bh1 { hh } else { h_phi_1 };
        let mut r: Vec<f64> = (1..order).map(|k| (lambda(from - k) - lambda(from)) / h).collect();
        r.push(1.0);
        let (mut phi, mut factorial, mut b) = (h_phi_1 / hh - 1.0, 1.0, Vec::new());
        for k in 1..=order {
            b.push(phi * factorial / b_h);
            factorial *= (k + 1) as f64;
            phi = phi / hh - 1.0 / factorial;
        }
        Expansion { h_phi_1, b_h, r, b }
    }

    /// Both rules without their sum: `σ_t/σ_s·x - α_t(e^{-h} - 1)·x̃_0(s)`, less `α_t·B(h)` times the weighted differences.
    fn advance(&self, from: usize, e: &Expansion, x: &[f32], m0: &[f64], weighted: impl Fn(usize) -> f64) -> Vec<f32> {
        let (s, t) = (self.intervals.level(from), self.intervals.level(from + 1));
        let (of_x, of_m0, of_sum) = (t.noise / s.noise, t.signal * e.h_phi_1, t.signal * e.b_h);
        latents(x.len(), |i| of_x * f64::from(x[i]) - of_m0 * m0[i] - of_sum * weighted(i))
    }

    /// UniC: the last step again, now that x̃_0 at its end is known.
    fn correct(&self, i: usize, x0: &[f64], last: &[f32], order: usize) -> Vec<f32> {
        let e = self.expansion(i - 1, order);
        let weights = if order == 1 { vec![0.5] } else { solve(&e.r, &e.b) };
        let m0 = &self.x0s[0];
        self.advance(i - 1, &e, last, m0, |j| {
            let earlier: f64 = (1..order).map(|k| weights[k - 1] * (self.x0s[k][j] - m0[j]) / e.r[k - 1]).sum();
            earlier + weights[order - 1] * (x0[j] - m0[j])
        })
    }

    /// UniP.
    fn predict(&self, i: usize, x: &[f32], order: usize) -> Vec<f32> {
        let e = self.expansion(i, order);
        let weights = match order {
            1 => vec![],
            2 => vec![0.5],
            _ => solve(&e.r[..order - 1], &e.b[..order - 1]),
        };
        let m0 = &self.x0s[0];
        if order == 1 {
            // No sum follows, which B(h) may be infinite for.
            return self.advance(i, &Expansion { b_h: 0.0, ..e }, x, m0, |_| 0.0);
        }
        self.advance(i, &e, x, m0, |j| (1..order).map(|k| weights[k - 1] * (self.x0s[k][j] - m0[j]) / e.r[k - 1]).sum())
    }
}

impl Rule for UniPc {
    fn frame(&self) -> &dyn Frame {
        &self.intervals
    }

    fn step(&mut self, i: usize, model_output: &[f32], x: &[f32], _noise: Noise<'_>) -> Vec<f32> {
        let x0 = self.prediction.x0(model_output, x, self.intervals.level(i));
        let corrected = match self.last.take() {
            Some((last, order)) if self.corrects(i) => self.correct(i, &x0, &last, order),
            _ => x.to_vec(),
        };
        self.x0s.push_front(x0);
        self.x0s.truncate(self.config.solver_order + 1);
        if self.intervals.is_still(i) {
            return corrected;
        }
        let order = self.order(i);
        let next = self.predict(i, &corrected, order);
        self.last = Some((corrected, order));
        next
    }
}

/// ρ of Σ_k r_k^{i} ρ_k = b_i, i = 0 …: Vandermonde's system by elimination with pivoting, at most 3 by 3.
fn solve(r: &[f64], b: &[f64]) -> Vec<f64> {
    let n = r.len();
    let mut rows: Vec<Vec<f64>> = (0..n).map(|i| r.iter().map(|r| r.powi(i as i32)).chain([b[i]]).collect()).collect();
    for column in 0..n {
        let largest = |a: &usize, b: &usize| rows[*a][column].abs().total_cmp(&rows[*b][column].abs());
        let pivot = (column..n).max_by(largest).unwrap_or(column);
        rows.swap(column, pivot);
        for row in 0..n {
            if row != column {
                let factor = rows[row][column] / rows[column][column];
                let source = rows[column].clone();
                rows[row].iter_mut().zip(&source).for_each(|(v, s)| *v -= factor * s);
            }
        }
    }
    (0..n).map(|i| rows[i][n] / rows[i][i]).collect()
}
