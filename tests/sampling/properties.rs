//! Laws that hold whatever the numbers are.

use chiaro::sampling::{
    FinalSigma, NoiseSchedule, PredictionType, Sampler, SchedulerConfig, SigmaSchedule, Solver, SolverKind,
    SolverOptions, TimestepSpacing, TorchRng,
};

fn sd() -> SchedulerConfig {
    SchedulerConfig {
        clip_sample: Some(false),
        set_alpha_to_one: Some(true),
        steps_offset: 1,
        ..SchedulerConfig::default()
    }
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
                let solver = Solver::new(kind, &config, steps, &SolverOptions::default()).expect("in range");
                let timesteps = solver.timesteps();
                assert_eq!(timesteps.len(), steps, "{kind} {spacing:?} {steps}");
                assert!(timesteps.windows(2).all(|pair| pair[1] < pair[0]), "{kind} {spacing:?} {steps}");
                assert!(timesteps.iter().all(|t| (0.0..1000.0).contains(t)), "{kind} {spacing:?} {steps}");
            }
        }
    }
    for steps in [0, 1001] {
        assert!(Solver::new(SolverKind::Ddim, &sd(), steps, &SolverOptions::default()).is_err());
    }
    assert!(Solver::new(SolverKind::Lcm, &sd(), 51, &SolverOptions::default()).is_err());
}

/// With the true ε the trajectory x_t = √ᾱ·x_0 + √(1-ᾱ)·ε is followed exactly, whatever the step.
#[test]
fn a_step_with_the_true_noise_is_exact() {
    let (x0, eps) = (vec![0.7f32, -1.3, 0.2, 2.0], vec![-0.4f32, 1.1, 0.9, -2.2]);
    for kind in [SolverKind::Ddim, SolverKind::Euler] {
        for prediction_type in [PredictionType::Epsilon, PredictionType::VPrediction, PredictionType::Sample] {
            let config = SchedulerConfig { prediction_type, timestep_spacing: Some(TimestepSpacing::Leading), ..sd() };
            let schedule = NoiseSchedule::new(&config).expect("SD's schedule");
            let mut solver = Solver::new(kind, &config, 6, &SolverOptions::default()).expect("in range");
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
fn names_as_other_programs_write_them() {
    for (kind, name, _) in SolverKind::all() {
        let sampler: Sampler = name.parse().expect("a known name");
        assert_eq!((sampler.kind, sampler.sigmas), (kind, None));
        assert_eq!(kind.to_string(), name);
    }
    let cases = [
        ("DPM++ 2M Karras", SolverKind::DpmPp2m, Some(SigmaSchedule::Karras)),
        ("DPM++ 2M SDE Heun Exponential", SolverKind::DpmPp2mSdeHeun, Some(SigmaSchedule::Exponential)),
        ("dpmpp_2m_sde_gpu", SolverKind::DpmPp2mSde, None),
        ("dpmpp_3m_sde", SolverKind::DpmPp3mSde, None),
        ("DPM++ 2S a", SolverKind::DpmPp2sAncestral, None),
        ("DPM++ SDE Karras", SolverKind::DpmPpSde, Some(SigmaSchedule::Karras)),
        ("DPM2 a Karras", SolverKind::Dpm2Ancestral, Some(SigmaSchedule::Karras)),
        ("Euler a", SolverKind::EulerAncestral, None),
        ("EulerAncestralDiscreteScheduler", SolverKind::EulerAncestral, None),
        ("DPMSolverMultistepScheduler", SolverKind::DpmPp2m, None),
        ("uni_pc_bh2", SolverKind::UniPc, None),
        ("PLMS", SolverKind::Pndm, None),
        ("LMS Karras", SolverKind::Lms, Some(SigmaSchedule::Karras)),
        ("euler sgm_uniform", SolverKind::Euler, Some(SigmaSchedule::SgmUniform)),
        ("Heun AYS", SolverKind::Heun, Some(SigmaSchedule::AlignYourSteps)),
    ];
    for (name, kind, sigmas) in cases {
        let sampler: Sampler = name.parse().unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((sampler.kind, sampler.sigmas), (kind, sigmas), "{name}");
    }
    for (name, near) in [("dpmpp_2n", "dpmpp_2m"), ("eular", "euler"), ("unipcc", "uni_pc"), ("karas", "did you mean")]
    {
        let message = name.parse::<Sampler>().expect_err("unknown").to_string();
        assert!(message.contains(name) && message.contains(near), "{message}");
    }
    for (name, schedule, _) in SigmaSchedule::ALL {
        assert_eq!(name.parse::<SigmaSchedule>().expect("a known name"), *schedule);
        assert_eq!(schedule.to_string(), *name);
    }
    let message = "karas".parse::<SigmaSchedule>().expect_err("unknown").to_string();
    assert!(message.contains("karras"), "{message}");
}

#[test]
fn unsupported_fields_are_named() {
    for (field, text) in [
        ("use_lu_lambdas", r#"{"use_lu_lambdas": true}"#),
        ("interpolation_type", r#"{"interpolation_type": "log_linear"}"#),
        ("solver_order", r#"{"solver_order": 4}"#),
        ("dynamic_thresholding_ratio", r#"{"dynamic_thresholding_ratio": 0}"#),
        ("original_inference_steps", r#"{"original_inference_steps": 0}"#),
    ] {
        let config: SchedulerConfig = serde_json::from_str(text).expect("JSON");
        let message = config.check().expect_err("refused").to_string();
        assert!(message.contains(field), "{message}");
    }
}

#[test]
fn impossible_pairs_are_refused() {
    let refused = |kind: SolverKind, config: &SchedulerConfig, options: SolverOptions, says: &str| {
        let Err(error) = Solver::new(kind, config, 10, &options) else { panic!("{kind}: taken; expected {says}") };
        assert!(error.to_string().contains(says), "{error}");
    };
    let zero_snr = SchedulerConfig {
        rescale_betas_zero_snr: true,
        timestep_spacing: Some(TimestepSpacing::Trailing),
        ..SchedulerConfig::default()
    };
    for (kind, ..) in SolverKind::all() {
        refused(kind, &zero_snr, SolverOptions::default(), "zero SNR");
        refused(kind, &sd(), SolverOptions { skip: 10, ..SolverOptions::default() }, "strength");
    }
    let v = SchedulerConfig { prediction_type: PredictionType::VPrediction, ..zero_snr };
    for (kind, ..) in SolverKind::all() {
        let solver = Solver::new(kind, &v, 10, &SolverOptions::default()).unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert_eq!(solver.alpha_bar_first(), 0.0, "{kind}");
    }
    refused(SolverKind::Heun, &sd(), SolverOptions { eta: Some(0.5), ..SolverOptions::default() }, "eta");
    refused(SolverKind::Ddim, &sd(), SolverOptions { eta: Some(1.5), ..SolverOptions::default() }, "eta");
    let karras = SchedulerConfig { sigmas: Some(SigmaSchedule::Karras), ..sd() };
    refused(SolverKind::Ddim, &karras, SolverOptions::default(), "sigma schedules");
    let dpm = SchedulerConfig { algorithm_type: Some("dpmsolver".into()), ..sd() };
    refused(SolverKind::DpmPp2m, &dpm, SolverOptions::default(), "algorithm_type");
}

/// σ falls strictly from the table's end to 0, whatever the schedule and the count.
#[test]
fn sigma_schedules_fall() {
    for (name, schedule, _) in SigmaSchedule::ALL {
        for kind in [SolverKind::Euler, SolverKind::DpmPp2m] {
            for steps in [1, 2, 7, 10, 28, 30] {
                let config = SchedulerConfig { sigmas: Some(*schedule), ..SchedulerConfig::default() };
                let solver = Solver::new(kind, &config, steps, &SolverOptions::default()).expect("in range");
                let sigmas: Vec<f64> = (0..=steps).map(|i| solver.sigma(i)).collect();
                assert!(sigmas.windows(2).all(|pair| pair[1] < pair[0]), "{name} {kind} {steps}: {sigmas:?}");
                assert_eq!(sigmas[steps], 0.0);
                // One linspace point is t = 0: the reference's Euler has it so.
                let first = if steps == 1 && kind == SolverKind::Euler { 0.0 } else { 14.6 };
                assert!((first..14.7).contains(&sigmas[0]), "{name} {kind} {steps}: {}", sigmas[0]);
            }
        }
    }
    // The published table for 10 steps, as it is.
    let config = SchedulerConfig { sigmas: Some(SigmaSchedule::AlignYourSteps), ..SchedulerConfig::default() };
    let solver = Solver::new(SolverKind::Euler, &config, 10, &SolverOptions::default()).expect("in range");
    for (i, want) in [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152].iter().enumerate() {
        assert!((solver.sigma(i) - want).abs() < 1e-5, "{i}");
    }
}

/// Of a network that always knows x_0, every step of every solver shows x_0, whatever the network predicts.
#[test]
fn what_the_network_saw_is_shown() {
    let x0 = [0.8f32, -1.7, 0.1];
    for (kind, ..) in SolverKind::all() {
        for prediction_type in [PredictionType::Epsilon, PredictionType::VPrediction, PredictionType::Sample] {
            let config = SchedulerConfig { prediction_type, ..SchedulerConfig::default() };
            let mut solver =
                Solver::new(kind, &config, 6, &SolverOptions::default()).unwrap_or_else(|e| panic!("{kind}: {e}"));
            let mut rng = TorchRng::new(3);
            solver.start(&rng.randn(3));
            assert!(solver.denoised().is_empty());
            for step in 0..solver.timesteps().len() {
                let sigma = solver.sigma(step);
                let scale = sigma.hypot(1.0);
                let seen = solver.model_input(step);
                let output: Vec<f32> = seen
                    .iter()
                    .zip(x0)
                    .map(|(&x, x0)| {
                        let (x, x0) = (f64::from(x), f64::from(x0));
                        let noise = (x * scale - x0) / sigma;
                        let value = match prediction_type {
                            PredictionType::Epsilon => noise,
                            PredictionType::VPrediction => (noise - sigma * x0) / scale,
                            PredictionType::Sample => x0,
                        };
                        value as f32
                    })
                    .collect();
                solver.step(step, &output, &mut |len| rng.randn(len)).expect("it steps");
                for (got, want) in solver.denoised().iter().zip(x0) {
                    let message = || format!("{kind}, {prediction_type:?}, step {step}: {got}, expected {want}");
                    assert!((got - want).abs() < 2e-5 * scale as f32, "{}", message());
                }
            }
        }
    }
}

/// With the true ε a step is exact, so latents stand at the level of the timestep that is visited next: also where timesteps are not a whole
/// number of ⌊T/N⌋ apart.
#[test]
fn uneven_timesteps_are_met() {
    let prk = |skip: bool| SchedulerConfig { skip_prk_steps: Some(skip), ..SchedulerConfig::default() };
    for (kind, base) in [(SolverKind::Ddim, prk(true)), (SolverKind::Pndm, prk(true)), (SolverKind::Pndm, prk(false))] {
        for steps in [4, 7, 16, 30] {
            let config = SchedulerConfig {
                timestep_spacing: Some(TimestepSpacing::Linspace),
                clip_sample: Some(false),
                set_alpha_to_one: Some(true),
                ..base.clone()
            };
            let schedule = NoiseSchedule::new(&config).expect("a schedule");
            let mut solver = Solver::new(kind, &config, steps, &SolverOptions::default()).expect("in range");
            let times = solver.timesteps().to_vec();
            let (x0, eps) = (0.7f64, -1.3f64);
            solver.start_from(&[x0 as f32], &[eps as f32]);
            for i in 0..times.len() {
                solver.step(i, &[eps as f32], &mut |n| vec![0.0; n]).expect("lengths agree");
                let alpha_bar = times.get(i + 1).map_or(1.0, |&t| schedule.alpha_bar(t as usize));
                // In the steps of Runge and Kutta and in the repeated first one the next evaluation is where this one ended.
                let want = alpha_bar.sqrt() * x0 + (1.0 - alpha_bar).sqrt() * eps;
                let got = f64::from(solver.scaled_latents()[0]);
                assert!((got - want).abs() < 2e-5, "{kind}, {steps} steps, step {i}: {got} for {want}");
            }
        }
    }
}

/// Under keys of configurations nothing becomes infinite, at any number of steps.
#[test]
fn nothing_is_infinite() {
    let keys = [
        ("bh1", SolverKind::UniPc, SchedulerConfig { solver_type: Some("bh1".into()), ..SchedulerConfig::default() }),
        ("bh2", SolverKind::UniPc, SchedulerConfig { lower_order_final: false, ..SchedulerConfig::default() }),
        (
            "karras to sigma_min",
            SolverKind::UniPc,
            SchedulerConfig {
                lower_order_final: false,
                solver_order: 3,
                use_karras_sigmas: Some(true),
                final_sigmas_type: FinalSigma::SigmaMin,
                ..SchedulerConfig::default()
            },
        ),
        (
            "heun to sigma_min",
            SolverKind::DpmPp2mSde,
            SchedulerConfig {
                solver_type: Some("heun".into()),
                use_karras_sigmas: Some(true),
                final_sigmas_type: FinalSigma::SigmaMin,
                ..SchedulerConfig::default()
            },
        ),
        ("deis", SolverKind::Deis, SchedulerConfig { solver_order: 3, ..SchedulerConfig::default() }),
    ];
    for (name, kind, config) in keys {
        for steps in [1, 2, 3, 5, 14, 15, 16, 40] {
            let mut solver = Solver::new(kind, &config, steps, &SolverOptions::default())
                .unwrap_or_else(|e| panic!("{name}, {steps}: {e}"));
            solver.start(&[0.3, -1.1]);
            for i in 0..solver.timesteps().len() {
                let output: Vec<f32> = solver.model_input(i).iter().map(|x| 0.5 * x).collect();
                solver.step(i, &output, &mut |n| vec![0.5; n]).expect("lengths agree");
                assert!(solver.scaled_latents().iter().all(|x| x.is_finite()), "{name}, {steps} steps, step {i}");
            }
        }
    }
}

/// Schedulers that are no way through Stable Diffusion's noise, and keys that are not done, are refused by name.
#[test]
fn what_is_not_done_is_refused_by_name() {
    let base = r#""beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear""#;
    for (fields, words) in [
        (r#""_class_name": "EDMEulerScheduler", "sigma_data": 0.5"#, ["_class_name", "EDMEulerScheduler"]),
        (r#""_class_name": "EDMDPMSolverMultistepScheduler""#, ["_class_name", "EDMDPMSolver"]),
        (r#""_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0"#, ["_class_name", "flow matching"]),
        (r#""_class_name": "CosineDPMSolverMultistepScheduler""#, ["_class_name", "EDM"]),
        (r#""use_karras_sigmas": true, "use_beta_sigmas": true"#, ["use_karras_sigmas", "use_beta_sigmas"]),
        (r#""solver_p": {"_class_name": "DDIMScheduler"}"#, ["solver_p", "predictor"]),
        (r#""sigma_min": 3.0, "sigma_max": 1.0"#, ["sigma_max", "sigma_min = 3"]),
        (r#""sigma_min": -3.0"#, ["sigma_min", "more than 0"]),
        (r#""steps_offset": 18446744073709551615"#, ["steps_offset", "less than num_train_timesteps"]),
        (r#""beta_end": 7"#, ["beta_end", "from 0 to 1"]),
        (r#""num_train_timesteps": 4000000000"#, ["num_train_timesteps", "100000"]),
        (r#""lambda_min_clipped": 9"#, ["lambda_min_clipped", "below 0"]),
    ] {
        let text = format!("{{{base}, {fields}}}");
        // The last of two fields of one name is a fault of the test's, not of a file's.
        let text = if fields.contains("beta_end") { text.replacen(r#""beta_end": 0.012, "#, "", 1) } else { text };
        let error = SchedulerConfig::from_json(&text, "folder/scheduler_config.json").expect_err(fields).to_string();
        assert!(error.starts_with("folder/scheduler_config.json: "), "{error}");
        for word in words {
            assert!(error.contains(word), "{fields}: {error}");
        }
    }
    let learned = r#"{"_class_name": "DPMSolverMultistepScheduler", "variance_type": "learned_range"}"#;
    let config = SchedulerConfig::from_json(learned, "s.json").expect("read");
    let error = Solver::new(SolverKind::DpmPp2m, &config, 5, &SolverOptions::default()).err().expect("refused");
    assert!(error.to_string().contains("variance_type"), "{error}");
}
