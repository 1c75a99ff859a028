//! Table 1 of the paper: against its printed values, an independent recomputation in NumPy, and sampled norms.

use chiaro::sampling::analysis::{PaperSchedule, Terminal, log10_snr, table_1};
use chiaro::sampling::{BetaSchedule, NoiseSchedule, SchedulerConfig, TorchRng};

fn near(what: &str, got: f64, want: f64, bound: f64) {
    assert!((got / want - 1.0).abs() < bound, "{what}: {got} for {want}");
}

/// NumPy, f64: `np.cumprod(1 - betas)[-1]`.
#[test]
fn alpha_bars_are_numpys() {
    for (schedule, want) in PaperSchedule::ALL.into_iter().zip([2.428_77e-9, 4.035_83e-5, 4.660_099e-3]) {
        let alpha_bars = schedule.alpha_bars();
        assert_eq!(alpha_bars.len(), 1000);
        near(schedule.name(), alpha_bars[999], want, 2e-6);
    }
}

/// The schedule that pipelines use is the same but for rounding to f32.
#[test]
fn the_pipelines_schedules_are_these() {
    for (schedule, beta_schedule, ends) in [
        (PaperSchedule::Cosine, BetaSchedule::SquaredcosCapV2, (0.0, 0.0)),
        (PaperSchedule::Linear, BetaSchedule::Linear, (1e-4, 0.02)),
        (PaperSchedule::Ldm, BetaSchedule::ScaledLinear, (0.00085, 0.012)),
    ] {
        let config =
            SchedulerConfig { beta_schedule, beta_start: ends.0, beta_end: ends.1, ..SchedulerConfig::default() };
        let used = NoiseSchedule::new(&config).expect("a schedule");
        for (t, exact) in schedule.alpha_bars().into_iter().enumerate() {
            near(&format!("{} at {t}", schedule.name()), used.alpha_bar(t), exact, 1e-4);
        }
    }
}

#[test]
fn what_the_paper_prints_is_met_where_it_can_be() {
    let rows = table_1();
    assert_eq!(rows.len(), 4);
    for row in &rows {
        let (t, printed) = (&row.terminal, &row.printed);
        // Four digits; the cosine's is cut, not rounded.
        near("SNR", t.snr(), printed.snr, 4e-4);
        if let Some((signal, noise)) = printed.signal_and_noise {
            assert!((t.signal() - signal).abs() < 5e-7 && (t.noise() - noise).abs() < 5e-7);
        }
        // Sampled means, 20 000 norms with standard deviation √½: within four standard errors, of which there are 0.005.
        assert!((t.sampling_radius() - printed.sampling_radius).abs() < 0.02, "{}", t.sampling_radius());
        assert!((printed.sampling_radius - printed.training_radius - printed.gap).abs() < 1e-5);
        assert!((t.sampling_radius() - t.training_radius() - t.gap()).abs() < 1e-10);
    }
    // Pixels under the linear and LDM schedules: one per cent, the variance near 1/3.
    for row in &rows[1..3] {
        near("Δr", row.terminal.gap(), row.printed.gap, 0.01);
        near("variance", row.printed.implied_variance(row.terminal.alpha_bar), 1.0 / 3.0, 0.02);
    }
    near("Δr linear", rows[1].terminal.gap(), 5.965_1e-3, 1e-4);
    near("Δr LDM", rows[2].terminal.gap(), 6.893_1e-1, 1e-4);
    // Cosine: the printed difference is one step of f32 at that radius, a hundred times the true one.
    assert_eq!(f64::from(f32::from_bits(443.4f32.to_bits() + 1) - 443.4), 2f64.powi(-15));
    near("2^-15", rows[0].printed.gap, 2f64.powi(-15), 1e-4);
    near("Δr cosine", rows[0].terminal.gap(), 3.59e-7, 1e-3);
    // Latents: nothing is missing at unit variance.
    assert_eq!(rows[3].terminal.gap(), 0.0);
    near("variance", rows[3].printed.implied_variance(rows[3].terminal.alpha_bar), 0.8845, 1e-3);
}

/// The formulas against the thing itself: norms of √ᾱ·x_0 + √(1-ᾱ)·ε.
#[test]
fn radii_are_those_of_sampled_vectors() {
    let terminal = Terminal { alpha_bar: 0.3, dimension: 512, data_variance: 1.0 / 3.0 };
    let mut rng = TorchRng::new(1);
    let count = 400;
    let mut square = 0.0;
    for _ in 0..count {
        let z = rng.randn(terminal.dimension);
        let x = rng.rand(terminal.dimension);
        square += z.iter().zip(&x).fold(0.0, |sum, (z, u)| {
            sum + (terminal.signal() * f64::from(u * 2.0 - 1.0) + terminal.noise() * f64::from(*z)).powi(2)
        });
    }
    near("r^T", (square / f64::from(count)).sqrt(), terminal.training_radius(), 4e-3);
}

#[test]
fn log_snr_falls_and_ends_where_nothing_is_left() {
    let logs = log10_snr(&PaperSchedule::Ldm.alpha_bars());
    assert!(logs.windows(2).all(|pair| pair[1] < pair[0]));
    near("log SNR(T)", logs[999].expect("finite"), 4.681_917e-3f64.log10(), 1e-6);
    assert_eq!(log10_snr(&[0.5, 0.0]), [Some(0.0), None]);
}
