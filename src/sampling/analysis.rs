//! What a schedule leaves of the picture in its last training step: Table 1 of "One More Step" (Hu et al., CVPR 2024, arXiv 2311.15744).
//!
//! Training ends at `x_T^T = √ᾱ_T·x_0 + √(1-ᾱ_T)·ε`, sampling begins at `x_T^S = ε`. In d dimensions with E|x_0|² = d·v (v = variance of a
//! component of centred data) both lie close to spheres of radius
//!
//! - r^T = √(d·(1 - ᾱ_T·(1 - v))) and r^S = √d, Δr = r^S - r^T.
//!
//! The paper prints means of sampled norms; here is the mathematics, in f64 throughout.

use std::f64::consts::FRAC_PI_2;

/// Training steps T of the paper's schedules.
const STEPS: usize = 1000;

/// A schedule that the paper compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PaperSchedule {
    /// ᾱ(t) a squared cosine, β at most 0.999 (Nichol and Dhariwal, arXiv 2102.09672, eq. 17).
    Cosine,
    /// β from 1e-4 to 0.02 (Ho et al., arXiv 2006.11239).
    Linear,
    /// √β from √0.00085 to √0.012, Stable Diffusion's (eq. 11 of the paper).
    Ldm,
}

impl PaperSchedule {
    /// All, in the order of the table.
    pub const ALL: [PaperSchedule; 3] = [PaperSchedule::Cosine, PaperSchedule::Linear, PaperSchedule::Ldm];

    /// As the table names it.
    pub fn name(self) -> &'static str {
        match self {
            PaperSchedule::Cosine => "cosine",
            PaperSchedule::Linear => "linear",
            PaperSchedule::Ldm => "LDM",
        }
    }

    /// β_1 … β_T.
    pub fn betas(self) -> Vec<f64> {
        let between = |from: f64, to: f64, i: usize| from + (to - from) * i as f64 / (STEPS - 1) as f64;
        let cosine = |t: usize| ((t as f64 / STEPS as f64 + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
        (0..STEPS)
            .map(|i| match self {
                PaperSchedule::Cosine => (1.0 - cosine(i + 1) / cosine(i)).min(0.999),
                PaperSchedule::Linear => between(1e-4, 0.02, i),
                PaperSchedule::Ldm => between(0.00085f64.sqrt(), 0.012f64.sqrt(), i).powi(2),
            })
            .collect()
    }

    /// ᾱ_1 … ᾱ_T.
    pub fn alpha_bars(self) -> Vec<f64> {
        self.betas()
            .into_iter()
            .scan(1.0, |product, beta| {
                *product *= 1.0 - beta;
                Some(*product)
            })
            .collect()
    }
}

/// SNR = ᾱ/(1-ᾱ) of each ᾱ as log10; a step at zero SNR has none.
pub fn log10_snr(alpha_bars: &[f64]) -> Vec<Option<f64>> {
    let log = |a: &f64| (*a > 0.0 && *a < 1.0).then(|| (a / (1.0 - a)).log10());
    alpha_bars.iter().map(log).collect()
}

/// The last training step of a schedule, for data of one kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terminal {
    /// ᾱ_T.
    pub alpha_bar: f64,
    /// d: numbers in a picture or its latents.
    pub dimension: usize,
    /// v: variance of one of them over the data.
    pub data_variance: f64,
}

impl Terminal {
    /// SNR(T) = ᾱ_T/(1-ᾱ_T).
    pub fn snr(&self) -> f64 {
        self.alpha_bar / (1.0 - self.alpha_bar)
    }

    /// √ᾱ_T: how much of the picture is left.
    pub fn signal(&self) -> f64 {
        self.alpha_bar.sqrt()
    }

    /// √(1-ᾱ_T).
    pub fn noise(&self) -> f64 {
        (1.0 - self.alpha_bar).sqrt()
    }

    /// r^S = √d: where sampling begins.
    pub fn sampling_radius(&self) -> f64 {
        (self.dimension as f64).sqrt()
    }

    /// r^T: where training ends.
    pub fn training_radius(&self) -> f64 {
        self.sampling_radius() * (1.0 - self.shortfall()).sqrt()
    }

    /// Δr = r^S - r^T, without the cancellation of that difference.
    pub fn gap(&self) -> f64 {
        let shortfall = self.shortfall();
        self.sampling_radius() * shortfall / (1.0 + (1.0 - shortfall).sqrt())
    }

    fn shortfall(&self) -> f64 {
        self.alpha_bar * (1.0 - self.data_variance)
    }
}

/// What the paper prints of a row. SNR with four digits, the radii as means of 20 000 sampled norms (standard error 0.005).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Printed {
    /// SNR(T).
    pub snr: f64,
    /// √ᾱ_T and √(1-ᾱ_T), in the text for the LDM schedule.
    pub signal_and_noise: Option<(f64, f64)>,
    /// r^T.
    pub training_radius: f64,
    /// r^S.
    pub sampling_radius: f64,
    /// Δr.
    pub gap: f64,
}

impl Printed {
    /// The variance v of the data that the printed Δr belongs to: `1 - (1 - ((r^S-Δr)/r^S)²)/ᾱ_T`. Both radii were sampled with the same ε,
    /// so their difference is far more exact than they are.
    pub fn implied_variance(&self, alpha_bar: f64) -> f64 {
        let ratio = (self.sampling_radius - self.gap) / self.sampling_radius;
        1.0 - (1.0 - ratio * ratio) / alpha_bar
    }
}

/// A row of Table 1: recomputed and printed.
#[derive(Debug, Clone, PartialEq)]
pub struct TableRow {
    /// Which schedule.
    pub schedule: PaperSchedule,
    /// What x_0 is.
    pub data: &'static str,
    /// Recomputed.
    pub terminal: Terminal,
    /// Printed.
    pub printed: Printed,
    /// Why Δr differs where it does.
    pub gap_remark: &'static str,
}

/// Table 1. Pixels are uniform on [-1, 1], which is what the printed differences imply; latents have the unit variance that the paper names.
pub fn table_1() -> Vec<TableRow> {
    const PIXELS: usize = 3 * 256 * 256;
    const LATENTS: usize = 4 * 64 * 64;
    let pixels = "3×256×256 pixels, uniform on [-1, 1]";
    let latents = "4×64×64 latents of unit variance";
    let ldm = Some((0.068265, 0.997667));
    let row = |schedule: PaperSchedule, data, dimension, data_variance, printed, gap_remark| {
        let alpha_bar = schedule.alpha_bars()[STEPS - 1];
        TableRow { schedule, data, terminal: Terminal { alpha_bar, dimension, data_variance }, printed, gap_remark }
    };
    let printed = |snr, signal_and_noise, training_radius, sampling_radius, gap| Printed {
        snr,
        signal_and_noise,
        training_radius,
        sampling_radius,
        gap,
    };
    vec![
        row(
            PaperSchedule::Cosine,
            pixels,
            PIXELS,
            1.0 / 3.0,
            printed(2.428e-9, None, 443.404205, 443.404235, 3.0518e-5),
            "rounding: 2^-15, one step of f32 at 443",
        ),
        row(
            PaperSchedule::Linear,
            pixels,
            PIXELS,
            1.0 / 3.0,
            printed(4.036e-5, None, 443.393676, 443.399688, 6.0119e-3),
            "agrees within the sampling error",
        ),
        row(
            PaperSchedule::Ldm,
            pixels,
            PIXELS,
            1.0 / 3.0,
            printed(4.682e-3, ldm, 442.713593, 443.402527, 6.8893e-1),
            "agrees within the sampling error",
        ),
        row(
            PaperSchedule::Ldm,
            latents,
            LATENTS,
            1.0,
            printed(4.682e-3, ldm, 127.962364, 127.996811, 3.4447e-2),
            "unit variance gives 0; the printed value belongs to latents of variance 0.88",
        ),
    ]
}
