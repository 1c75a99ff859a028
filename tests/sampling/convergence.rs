//! Solvers on a model that is known: data from N(m, s²), whose best denoiser and whose trajectories have closed forms.
//!
//! D(x; σ) = (s²·x + σ²·m)/(s² + σ²), and x(σ) = m + c·√(s² + σ²) solves the probability-flow ODE for every c (Karras et al.,
//! arXiv 2206.00364, section 3 and appendix B.6).

use chiaro::sampling::{SchedulerConfig, SigmaSchedule, Solver, SolverKind, SolverOptions, TimestepSpacing, TorchRng};

const M: f64 = 0.4;
const S: f64 = 0.8;

fn config(kind: SolverKind) -> SchedulerConfig {
    let sigmas = kind.takes_sigmas().then_some(SigmaSchedule::Karras);
    let spacing = if kind.takes_sigmas() { TimestepSpacing::Linspace } else { TimestepSpacing::Leading };
    SchedulerConfig {
        sigmas,
        timestep_spacing: Some(spacing),
        clip_sample: Some(false),
        set_alpha_to_one: Some(true),
        steps_offset: 1,
        original_inference_steps: 1000,
        ..SchedulerConfig::default()
    }
}

/// The sigma-scaled value of a solver's latents at step `i`.
fn unscaled(solver: &Solver, i: usize) -> Vec<f64> {
    let scale = (solver.sigma(i).powi(2) + 1.0).sqrt();
    solver.model_input(i).iter().map(|x| f64::from(*x) * scale).collect()
}

/// Does `steps` of the solver's steps on the model.
fn run(solver: &mut Solver, steps: usize, rng: &mut TorchRng) {
    for i in 0..steps {
        let sigma = solver.sigma(i);
        let eps: Vec<f32> = unscaled(solver, i)
            .iter()
            .map(|x| {
                let denoised = (S * S * x + sigma * sigma * M) / (S * S + sigma * sigma);
                ((x - denoised) / sigma) as f32
            })
            .collect();
        solver.step(i, &eps, &mut |n| rng.randn(n)).expect("lengths agree");
    }
}

/// The error at the last noise level after starting on the trajectory c = 1, with `steps` steps and no added noise.
fn error(kind: SolverKind, steps: usize) -> f64 {
    let eta = kind.eta().map(|_| 0.0);
    let mut solver =
        Solver::new(kind, &config(kind), steps, &SolverOptions { eta, ..SolverOptions::default() }).expect("in range");
    let on_it = |sigma: f64| M + (S * S + sigma * sigma).sqrt();
    let first = solver.sigma(0);
    // `start` takes VP latents times the solver's own scale; the solver's frame decides what that scale is.
    solver.start_from(&[on_it(first) as f32], &[0.0]);
    let scale = on_it(first) / unscaled(&solver, 0)[0];
    solver.start_from(&[(on_it(first) * scale) as f32], &[0.0]);
    let last = solver.timesteps().len() - 1;
    run(&mut solver, last, &mut TorchRng::new(0));
    (unscaled(&solver, last)[0] - on_it(solver.sigma(last))).abs()
}

#[test]
fn orders_of_convergence() {
    // Multistep solvers begin with a step of first order, which limits them to the second; where that step is small, more is seen.
    let orders = [
        (SolverKind::Ddim, 1, 40),
        (SolverKind::Tcd, 1, 40),
        (SolverKind::Euler, 1, 40),
        (SolverKind::EulerAncestral, 1, 40),
        (SolverKind::Pndm, 2, 200),
        (SolverKind::Heun, 2, 20),
        (SolverKind::Dpm2, 2, 20),
        (SolverKind::Dpm2Ancestral, 2, 20),
        (SolverKind::Lms, 3, 20),
        (SolverKind::Ipndm, 2, 20),
        (SolverKind::DpmPp2m, 2, 40),
        (SolverKind::DpmPp2sAncestral, 2, 20),
        (SolverKind::DpmPpSde, 2, 20),
        (SolverKind::DpmPp3mSde, 2, 80),
        (SolverKind::UniPc, 2, 20),
        (SolverKind::Deis, 2, 40),
    ];
    let mut wrong = Vec::new();
    for (kind, order, steps) in orders {
        let (coarse, fine) = (error(kind, steps), error(kind, 2 * steps));
        let measured = (coarse / fine).log2();
        if std::env::var_os("CHIARO_TEST_VERBOSE").is_some() {
            eprintln!("{kind}: {coarse:.3e} -> {fine:.3e}, order {measured:.2}");
        }
        let least = f64::from(order) - 0.25;
        let most = if order == 1 { 1.25 } else { 4.5 };
        if !(least..most).contains(&measured) {
            wrong.push(format!("{kind}: order {measured:.2}, expected {order}; errors {coarse:.2e}, {fine:.2e}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // The check would see a solver of the wrong order.
    assert!((error(SolverKind::Euler, 20) / error(SolverKind::Euler, 40)).log2() < 1.75);
}

/// Without noise all solvers end where DDIM does when steps are many.
#[test]
fn many_steps_agree_with_ddim() {
    let end = |kind: SolverKind| {
        let eta = kind.eta().map(|_| 0.0);
        let mut solver = Solver::new(kind, &config(kind), 500, &SolverOptions { eta, ..SolverOptions::default() })
            .unwrap_or_else(|e| panic!("{kind}: {e}"));
        solver.start(&[1.3, -0.7]);
        let steps = solver.timesteps().len();
        run(&mut solver, steps, &mut TorchRng::new(0));
        solver.latents()
    };
    let ddim = end(SolverKind::Ddim);
    let random = [SolverKind::Ddpm, SolverKind::DpmPp2mSde, SolverKind::DpmPp2mSdeHeun, SolverKind::Lcm];
    for (kind, ..) in SolverKind::all().filter(|(kind, ..)| !random.contains(kind)) {
        for (got, want) in end(kind).iter().zip(&ddim) {
            assert!((got - want).abs() < 0.01, "{kind}: {got}, DDIM {want}");
        }
    }
}

/// Solvers that add noise end with the data's mean and deviation.
#[test]
fn noise_keeps_the_distribution() {
    const N: usize = 20_000;
    for (kind, steps) in [
        (SolverKind::Ddpm, 200),
        (SolverKind::EulerAncestral, 100),
        (SolverKind::Dpm2Ancestral, 60),
        (SolverKind::DpmPpSde, 40),
        (SolverKind::DpmPp2sAncestral, 60),
        (SolverKind::DpmPp2mSde, 60),
        (SolverKind::DpmPp2mSdeHeun, 60),
        (SolverKind::DpmPp3mSde, 60),
    ] {
        let mut solver = Solver::new(kind, &config(kind), steps, &SolverOptions::default()).expect("in range");
        let mut rng = TorchRng::new(7);
        let noise = rng.randn(N);
        solver.start(&noise);
        let all = solver.timesteps().len();
        run(&mut solver, all, &mut rng);
        let x: Vec<f64> = solver.latents().iter().map(|x| f64::from(*x)).collect();
        let mean = x.iter().sum::<f64>() / N as f64;
        let deviation = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / N as f64).sqrt();
        assert!(
            (mean - M).abs() < 0.03 && (deviation - S).abs() < 0.03,
            "{kind}: mean {mean:.3}, deviation {deviation:.3}"
        );
    }
}
