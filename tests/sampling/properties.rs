//! Laws that hold whatever the numbers are.

use chiaro::sampling::{NoiseSchedule, PredictionType, SchedulerConfig, Solver, SolverKind, TimestepSpacing};

fn sd() -> SchedulerConfig {
    SchedulerConfig { clip_sample: Some(false), set_alpha_to_one: true, steps_offset: 1, ..SchedulerConfig::default() }
}

#[test]
fn alpha_bar_falls_strictly() {
    let schedule = NoiseSchedule::new(&sd()).expect("SD's schedule");
    assert!(schedule.alphas_cumprod.windows(2).all(|pair| pair[1] < pair[0]));
    assert!(schedule.sigmas().windows(2).all(|pair| pair[1] > pair[0]));
}

#[test]
fn lengths_for_counts_that_do_not_divide_the_range() {
    for spacing in [TimestepSpacing::Leading, TimestepSpacing::Linspace, TimestepSpacing::Trailing] {
        for steps in [1, 7, 28, 30, 33, 500, 999] {
            let config = SchedulerConfig { timestep_spacing: Some(spacing), ..sd() };
            for kind in [SolverKind::Ddim, SolverKind::Euler] {
                let solver = Solver::new(kind, &config, steps, 0.0).expect("in range");
                let timesteps = solver.timesteps();
                assert_eq!(timesteps.len(), steps, "{kind} {spacing:?} {steps}");
                assert!(timesteps.windows(2).all(|pair| pair[1] < pair[0]), "{kind} {spacing:?} {steps}");
                assert!(timesteps.iter().all(|t| (0.0..1000.0).contains(t)), "{kind} {spacing:?} {steps}");
            }
        }
    }
    for steps in [0, 1001] {
        assert!(Solver::new(SolverKind::Ddim, &sd(), steps, 0.0).is_err());
    }
    assert!(Solver::new(SolverKind::Lcm, &sd(), 51, 0.0).is_err());
}

/// With the true ε the trajectory x_t = √ᾱ·x_0 + √(1-ᾱ)·ε is followed exactly, whatever the step.
#[test]
fn a_step_with_the_true_noise_is_exact() {
    let (x0, eps) = (vec![0.7f32, -1.3, 0.2, 2.0], vec![-0.4f32, 1.1, 0.9, -2.2]);
    for kind in [SolverKind::Ddim, SolverKind::Euler] {
        for prediction_type in [PredictionType::Epsilon, PredictionType::VPrediction, PredictionType::Sample] {
            let config = SchedulerConfig { prediction_type, timestep_spacing: Some(TimestepSpacing::Leading), ..sd() };
            let schedule = NoiseSchedule::new(&config).expect("SD's schedule");
            let mut solver = Solver::new(kind, &config, 6, 0.0).expect("in range");
            let a = solver.alpha_bar_first();
            let start: Vec<f32> = x0
                .iter()
                .zip(&eps)
                .map(|(&x, &e)| (a.sqrt() * f64::from(x) + (1.0 - a).sqrt() * f64::from(e)) as f32)
                .collect();
            solver.start(&start);
            for i in 0..6 {
                let a = schedule.alpha_bar(solver.timesteps()[i] as usize);
                let output: Vec<f32> = x0
                    .iter()
                    .zip(&eps)
                    .map(|(&x, &e)| match prediction_type {
                        PredictionType::Epsilon => e,
                        PredictionType::VPrediction => {
                            (a.sqrt() * f64::from(e) - (1.0 - a).sqrt() * f64::from(x)) as f32
                        }
                        PredictionType::Sample => x,
                    })
                    .collect();
                solver.step(i, &output, &mut |n| vec![0.0; n]).expect("lengths agree");
            }
            for (got, want) in solver.latents().iter().zip(&x0) {
                assert!((got - want).abs() < 2e-5, "{kind} {prediction_type:?}: {got} for {want}");
            }
        }
    }
}

#[test]
fn names_are_known_or_answered_with_those_that_are() {
    for (name, kind) in SolverKind::ALL {
        assert_eq!(name.parse::<SolverKind>().expect("a known name"), *kind);
        assert_eq!(kind.to_string(), *name);
    }
    let message = "plms".parse::<SolverKind>().expect_err("unknown").to_string();
    assert!(message.contains("plms") && message.contains("ddim, euler, lcm"), "{message}");
}

#[test]
fn unsupported_fields_are_named() {
    for (field, text) in
        [("thresholding", r#"{"thresholding": true}"#), ("use_karras_sigmas", r#"{"use_karras_sigmas": true}"#)]
    {
        let config: SchedulerConfig = serde_json::from_str(text).expect("JSON");
        let message = config.check().expect_err("refused").to_string();
        assert!(message.contains(field), "{message}");
    }
}
