//! The OMS step: formulas and refusals.

use chiaro::sampling::{OmsForm, guide, oms};

use crate::support::golden::{Golden, assert_close};

#[test]
fn every_step_of_the_reference() {
    let golden = Golden::open("oms");
    let (x, z, v) = (golden.f32s("step/x"), golden.f32s("step/z"), golden.f32s("step/v"));
    let rows: Vec<&[f32]> = v.chunks(x.len()).collect();
    let mut checked = 0;
    for name in golden.names() {
        let Some(case) = name.strip_prefix("step/") else { continue };
        let form = if case.starts_with("official") {
            OmsForm::Official
        } else if case.starts_with("paper_sde") {
            OmsForm::PaperSde
        } else if case.starts_with("paper_ddim") {
            OmsForm::default()
        } else {
            continue;
        };
        let weight: f64 = case.rsplit('w').next().and_then(|w| w.parse().ok()).expect("a weight");
        let meaning = golden.json["tensors"][&name]["meaning"].as_str().unwrap_or_default().to_owned();
        let timestep: usize =
            case.split("_t").nth(1).and_then(|t| t.split('_').next()).and_then(|t| t.parse().ok()).expect("a timestep");
        let schedule =
            chiaro::sampling::NoiseSchedule::new(&chiaro::sampling::SchedulerConfig::default()).expect("SD's");
        let got = oms::x_t(form, &guide(&rows, weight).expect("two rows"), &x, Some(&z), schedule.alpha_bar(timestep))
            .expect("in range");
        let want = golden.f32s(&name);
        let largest = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        assert_close(&format!("{name} ({meaning})"), &got, &want, 1e-6 * f64::from(largest));
        checked += 1;
    }
    assert!(checked >= 12, "{checked} steps");
}

#[test]
fn eta_moves_from_kept_noise_to_fresh_noise() {
    let (v, x, z) = ([0.5f32], [1.0f32], [-1.0f32]);
    let a: f64 = 0.25;
    let full = OmsForm::Paper { eta: 1.0 };
    let sde = oms::x_t(OmsForm::PaperSde, &v, &x, Some(&z), a).expect("in range");
    assert_close("η = 1 is the SDE form", &oms::x_t(full, &v, &x, Some(&z), a).expect("in range"), &sde, 1e-7);
    // Whatever η, the noise's variance is 1 - ᾱ.
    let zero = [0.0f32];
    let half = OmsForm::Paper { eta: 0.6 };
    let of = |x: f32, z: f32| f64::from(oms::x_t(half, &zero, &[x], Some(&[z]), a).expect("in range")[0]);
    assert!((of(1.0, 0.0).powi(2) + of(0.0, 1.0).powi(2) - (1.0 - a)).abs() < 1e-6);
    assert!((of(0.0, 1.0) / of(1.0, 0.0) - 0.75).abs() < 1e-6);
    let kept = oms::x_t(OmsForm::default(), &v, &x, None, a).expect("needs no noise");
    assert_close("η = 0", &kept, &[(-0.25 + 0.75f64.sqrt()) as f32], 1e-7);
}

#[test]
fn what_has_no_meaning_is_refused() {
    let one = [1.0f32];
    for alpha_bar in [0.0, -0.1, 1.0, f64::NAN] {
        let message = oms::x_t(OmsForm::default(), &one, &one, None, alpha_bar).expect_err("refused").to_string();
        assert!(message.contains("oms"), "{message}");
    }
    assert!(oms::x_t(OmsForm::Paper { eta: 1.1 }, &one, &one, Some(&one), 0.5).is_err());
    assert!(oms::x_t(OmsForm::PaperSde, &one, &one, None, 0.5).is_err());
    assert!(oms::x_t(OmsForm::default(), &one, &[1.0, 2.0], None, 0.5).is_err());
}
