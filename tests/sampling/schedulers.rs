//! Tables and trajectories of the reference's solvers.

use chiaro::sampling::{NoiseSchedule, SchedulerConfig, Solver, SolverKind, SolverOptions};
use serde_json::{Value, json};

use crate::support::golden::{Golden, committed, compare};

fn config(value: &Value) -> SchedulerConfig {
    serde_json::from_value(value.clone()).expect("a scheduler's configuration")
}

fn kind(class: &str) -> Option<SolverKind> {
    SchedulerConfig { class_name: class.into(), ..SchedulerConfig::default() }.solver()
}

fn largest(values: &[f32]) -> f64 {
    values.iter().fold(0.0, |m, v| m.max(f64::from(v.abs())))
}

#[test]
fn betas_and_alpha_bars() {
    let golden = Golden::open("schedulers");
    let curves = [
        ("scaled_linear", json!({"beta_schedule": "scaled_linear"})),
        ("linear", json!({"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02})),
        ("cosine", json!({"beta_schedule": "squaredcos_cap_v2"})),
        ("scaled_linear_zero_snr", json!({"rescale_betas_zero_snr": true})),
    ];
    for (name, value) in curves {
        let schedule = NoiseSchedule::new(&config(&value)).expect("a schedule");
        for (what, got) in [("betas", &schedule.betas), ("alphas_cumprod", &schedule.alphas_cumprod)] {
            let name = format!("{what}/{name}");
            for (i, (got, want)) in got.iter().zip(golden.f64s(&name)).enumerate() {
                // Towards ᾱ = 0 the rescaled β are 1 less a ratio of vanishing f32 numbers: recomputing them from the reference's own ᾱ
                // gives 2.9e-6 of difference.
                let allowed = if name.ends_with("zero_snr") { 5e-6 } else { 1e-6 * want.abs().max(1e-7) };
                let near = (f64::from(*got) - want).abs() <= allowed;
                assert!(near, "{name}[{i}]: {got} for {want}");
            }
        }
    }
}

/// Table 1 of the paper: SNR(T) and √ᾱ_T.
#[test]
fn table_1() {
    let last = |value: Value| {
        let schedule = NoiseSchedule::new(&config(&value)).expect("a schedule");
        (schedule.alpha_bar(999), schedule.snr(999))
    };
    let near = |got: f64, want: f64| assert!((got / want - 1.0).abs() < 2e-4, "{got} for {want}");
    near(last(json!({"beta_schedule": "squaredcos_cap_v2"})).0, 2.42877e-9);
    near(last(json!({"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02})).0, 4.03583e-5);
    let (alpha_bar, snr) = last(json!({}));
    near(alpha_bar, 4.660099e-3);
    near(snr, 4.681917e-3);
    near(alpha_bar.sqrt(), 0.068265);
}

/// `timesteps/CLASS/SPACING OFFSET/N` for the classes that are here.
#[test]
fn timesteps() {
    let golden = Golden::open("schedulers");
    let (mut checked, mut sigma_tables) = (0, 0);
    for name in golden.names() {
        let parts: Vec<&str> = name.split('/').collect();
        let (class, spacing, karras, count) = match parts[..] {
            ["timesteps", class, spacing, count] => (class, spacing, false, count),
            ["timesteps", class, spacing, "karras", count] => (class, spacing, true, count),
            _ => continue,
        };
        let kind = kind(class).unwrap_or_else(|| panic!("{name}: the class is not known"));
        let split = spacing.len() - 1;
        let offset: usize = spacing[split..].parse().expect("an offset");
        let config = config(&json!({
            "timestep_spacing": &spacing[..split], "steps_offset": offset, "use_karras_sigmas": karras,
        }));
        let solver = Solver::new(kind, &config, count.parse().expect("a number"), &SolverOptions::default())
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let want = golden.f64s(&name);
        assert_eq!(solver.timesteps().len(), want.len(), "{name}");
        for (got, want) in solver.timesteps().iter().zip(&want) {
            assert!((got - want).abs() <= 1e-6 * want.abs(), "{name}: {got} for {want}");
        }
        let sigmas = name.replacen("timesteps", "sigmas", 1);
        if golden.has(&sigmas) && kind.takes_sigmas() {
            // A solver of two steps an interval lists its inner levels twice, as here.
            let want = golden.f64s(&sigmas);
            assert_eq!(solver.timesteps().len() + 1, want.len(), "{sigmas}");
            for (i, want) in want.iter().enumerate() {
                let got = solver.sigma(i);
                assert!((got - want).abs() <= 1e-6 * want.abs(), "{sigmas}[{i}]: {got} for {want}");
            }
            sigma_tables += 1;
        }
        let meaning = golden.json["tensors"][&sigmas]["meaning"].as_str().unwrap_or_default();
        if let Some(initial) = meaning.split("init_noise_sigma ").nth(1).and_then(|v| v.parse::<f64>().ok()) {
            assert!(
                (solver.init_noise_sigma() / initial - 1.0).abs() <= 1e-6,
                "{sigmas}: {}",
                solver.init_noise_sigma()
            );
        }
        checked += 1;
    }
    assert!(checked > 400 && sigma_tables > 300, "{checked} tables of timesteps, {sigma_tables} of sigmas");
}

/// `traj/*`: whole runs under the closed-form model that `golden.json` states.
#[test]
fn trajectories() {
    let checked = check_trajectories(&Golden::open("schedulers"));
    assert!(checked >= 80, "{checked} runs");
}

/// The same with keys that other programs and older versions leave out.
#[test]
fn keys_of_configurations() {
    let checked = check_trajectories(&Golden::open_in(&committed(), "scheduler_keys"));
    assert!(checked >= 60, "{checked} runs");
}

fn check_trajectories(golden: &Golden) -> usize {
    let (x0, ramp, noises) = (golden.f32s("traj/x0"), golden.f32s("traj/ramp"), golden.f32s("traj/noises"));
    let (mut checked, mut wrong) = (Vec::new(), Vec::new());
    for (name, run) in golden.runs() {
        let mut value = run["config"].clone();
        value["_class_name"] = run["cls"].clone();
        let config = config(&value);
        let kind = config.solver().unwrap_or_else(|| panic!("{name}: {} is not known", run["cls"]));
        let eta = name.contains("eta0.7").then_some(0.7);
        let steps = run["steps"].as_u64().expect("a number") as usize;
        let options = SolverOptions { eta, ..SolverOptions::default() };
        let mut solver = Solver::new(kind, &config, steps, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        solver.start(&x0);
        let mut draws = noises.chunks(x0.len());
        let want = golden.f32s(&name);
        // The reference's weights of order 3 are differences of large numbers that it has in f32.
        let allowed =
            if run["cls"] == "DEISMultistepScheduler" && run["config"]["solver_order"] == 3 { 4e-5 } else { 1e-5 };
        for (i, want) in want.chunks(x0.len()).enumerate() {
            let t = solver.timesteps()[i];
            let output: Vec<f32> = solver
                .model_input(i)
                .iter()
                .zip(&ramp)
                .map(|(&x, &r)| {
                    let x = f64::from(x);
                    (0.8 * x / (1.0 + 0.3 * x.abs()) + 0.4 * (0.01 * t + 3.0 * f64::from(r)).cos()) as f32
                })
                .collect();
            solver.step(i, &output, &mut |_| draws.next().expect("enough noise").to_vec()).expect("lengths agree");
            let what = format!("{name} step {i}");
            if let Err(message) = compare(&what, solver.scaled_latents(), want, allowed * largest(want)) {
                wrong.push(message);
                break;
            }
        }
        let drawn = noises.len() / x0.len() - draws.len();
        assert_eq!(Some(drawn as u64), run["noises"].as_u64(), "{name}: draws of noise");
        checked.push(name);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    checked.len()
}
