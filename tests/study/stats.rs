//! Statistics against closed forms.

use chiaro::sampling::TorchRng;
use chiaro::study::{histogram, mean_and_deviation, wasserstein_1};

fn distance(a: &[f64], b: &[f64]) -> f64 {
    wasserstein_1(a, b).expect("finite samples")
}

#[test]
fn distances_of_few_points_are_those_by_hand() {
    // One point each; a point against two; the same distribution at two sizes; a half moved by 2.
    assert_eq!(distance(&[1.0], &[4.0]), 3.0);
    assert_eq!(distance(&[0.0], &[0.0, 1.0]), 0.5);
    assert_eq!(distance(&[0.0, 1.0], &[1.0, 0.0, 0.0, 1.0]), 0.0);
    assert_eq!(distance(&[0.0, 10.0], &[2.0, 10.0]), 1.0);
    // Thirds against halves: F differs by 1/6 on [0, 1] and by 1/6 on [1, 2].
    assert!((distance(&[0.0, 1.0, 2.0], &[0.0, 2.0]) - 1.0 / 3.0).abs() < 1e-15);
    // Mass goes the short way: pairing in sorted order, not in the order given.
    assert_eq!(distance(&[0.0, 5.0], &[6.0, 1.0]), 1.0);
}

#[test]
fn distance_is_a_distance() {
    let mut rng = TorchRng::new(3);
    let mut sample = |n| -> Vec<f64> { rng.randn(n).into_iter().map(f64::from).collect() };
    let (a, b, c) = (sample(50), sample(31), sample(7));
    assert_eq!(distance(&a, &a), 0.0);
    assert!((distance(&a, &b) - distance(&b, &a)).abs() < 1e-12);
    assert!(distance(&a, &c) <= distance(&a, &b) + distance(&b, &c) + 1e-12);
    let moved: Vec<f64> = a.iter().map(|x| x + 2.5).collect();
    assert!((distance(&a, &moved) - 2.5).abs() < 1e-12);
    let stretched: Vec<f64> = a.iter().map(|x| x * 3.0).collect();
    // Sorted pairs are x and 3x: the mean of |2x|.
    let want = a.iter().map(|x| (2.0 * x).abs()).sum::<f64>() / a.len() as f64;
    assert!((distance(&a, &stretched) - want).abs() < 1e-12);
}

/// W1 of N(0, 1) and N(0, σ²) is |σ-1|·√(2/π).
#[test]
fn distance_of_two_gaussians() {
    let normal = |seed, sigma: f64| -> Vec<f64> {
        TorchRng::new(seed).randn(40_000).into_iter().map(|x| f64::from(x) * sigma).collect()
    };
    let want = (2.0 / std::f64::consts::PI).sqrt();
    let got = distance(&normal(1, 1.0), &normal(2, 2.0)[..30_000]);
    assert!((got - want).abs() < 0.02, "{got} for {want}");
}

#[test]
fn samples_that_have_no_distance_are_errors() {
    assert!(wasserstein_1(&[], &[1.0]).is_err());
    assert!(wasserstein_1(&[1.0], &[]).is_err());
    assert!(wasserstein_1(&[f64::NAN], &[1.0]).is_err());
}

#[test]
fn mean_and_deviation_by_hand() {
    assert_eq!(mean_and_deviation(&[]), None);
    assert_eq!(mean_and_deviation(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]), Some((5.0, 2.0)));
}

#[test]
fn histogram_counts_every_value_once() {
    assert_eq!(histogram(&[0.0, 7.999, 8.0, 255.0, 256.0], 0.0, 256.0, 32).expect("inside").iter().sum::<usize>(), 5);
    assert_eq!(histogram(&[0.0, 0.9, 1.0, 2.0, 4.0], 0.0, 4.0, 4).expect("inside"), [2, 1, 1, 1]);
    assert!(histogram(&[4.1], 0.0, 4.0, 4).is_err());
    assert!(histogram(&[f64::NAN], 0.0, 4.0, 4).is_err());
    assert!(histogram(&[1.0], 0.0, 4.0, 0).is_err());
}
