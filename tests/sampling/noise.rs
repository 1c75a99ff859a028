//! Other programs' random numbers: published vectors, and the rules by which a batch's noise is shared out.

use chiaro::sampling::rng::{PhiloxRng, philox4x32_10, slerp};
use chiaro::sampling::{PictureNoise, RngKind, TorchRng, Variation};

/// `kat_vectors` of the Random123 distribution, the lines "philox4x32 10": counter, key, result.
#[test]
fn philox_gives_the_published_answers() {
    let pi = ([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
    let vectors = [
        (([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        (([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]),
    ];
    for ((counter, key), want) in vectors {
        assert_eq!(philox4x32_10(counter, key), want, "{counter:08x?} under {key:08x?}");
    }
}

/// What AUTOMATIC1111's `modules/rng_philox.py` prints for `Generator(seed=0).randn((3, 4))`, as a card gives it.
const CUDA_SEED_0: [f32; 12] = [
    -0.924_662_6,
    -0.425_344_15,
    -2.643_845_7,
    0.145_183_88,
    -0.120_866_47,
    -0.579_725_6,
    -0.622_851_2,
    -0.328_387_1,
    -1.074_542_3,
    -0.363_144_07,
    -1.671_050_7,
    2.265_505,
];

#[test]
fn philox_normals_are_those_of_a_card() {
    let got = PhiloxRng::new(0).randn(12);
    for (i, (got, want)) in got.iter().zip(CUDA_SEED_0).enumerate() {
        assert!((got - want).abs() <= 3e-7 * want.abs().max(1.0), "value {i}: {got} for {want}");
    }
    // The next draw is another one, and both words of the seed count.
    let mut rng = PhiloxRng::new(0);
    assert_eq!(rng.randn(5), got[..5]);
    assert_ne!(rng.randn(5), got[..5]);
    assert_ne!(PhiloxRng::new(1 << 32).randn(5), got[..5]);
}

/// The first output for the default seed, and the ten-thousandth, which the C++ standard (`[rand.predef]`) fixes for mt19937.
#[test]
fn mersenne_twister_gives_the_published_outputs() {
    let mut rng = TorchRng::new(5489);
    let outputs: Vec<u32> = (0..10_000).map(|_| rng.next_u32()).collect();
    assert_eq!(outputs[..3], [3_499_211_612, 581_869_302, 3_890_346_734]);
    assert_eq!(outputs[9_999], 4_123_659_995);
}

/// Mean 0, variance 1, and a share of values within one deviation of erf(1/√2): a swapped sine or a wrong constant moves one of them.
#[test]
fn philox_normals_are_normal() {
    let x = PhiloxRng::new(7).randn(1 << 16);
    let n = x.len() as f64;
    let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let variance = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
    let within = x.iter().filter(|v| v.abs() < 1.0).count() as f64 / n;
    assert!(mean.abs() < 4.0 / n.sqrt(), "mean {mean}");
    assert!((variance - 1.0).abs() < 4.0 * (2.0 / n).sqrt(), "variance {variance}");
    assert!((within - 0.682_689_5).abs() < 0.008, "within one deviation {within}");
}

fn noise(kind: RngKind, seed: u64, index: usize, count: usize) -> PictureNoise {
    PictureNoise::new(kind, seed, index, count, None).expect("a picture of the batch")
}

#[test]
fn each_picture_has_its_own_generator_in_diffusers_and_automatic1111() {
    for index in 0..3 {
        let seed = 40 + index as u64;
        let mut picture = noise(RngKind::Torch, 40, index, 3);
        let mut generator = TorchRng::new(seed);
        assert_eq!(picture.seed(), seed);
        assert_eq!(picture.initial([4, 5, 3]).expect("draw 0"), generator.randn(60));
        assert_eq!(picture.randn(60), generator.randn(60));
        let mut picture = noise(RngKind::A1111Gpu, 40, index, 3);
        let mut generator = PhiloxRng::new(seed);
        assert_eq!(picture.initial([4, 5, 3]).expect("draw 0"), generator.randn(60));
        assert_eq!(picture.randn(60), generator.randn(60));
        assert!(picture.initial([4, 5, 3]).is_err(), "the initial noise is the first draw");
    }
}

/// One draw for the batch, whether or not pictures end where PyTorch's blocks of 16 do.
#[test]
fn comfyui_draws_a_batch_from_one_generator() {
    for (shape, count) in [([4, 4, 4], 3), ([4, 5, 3], 3), ([4, 5, 3], 1)] {
        let len = shape.iter().product::<usize>();
        let first = TorchRng::new(9).randn(len * count);
        let mut later = TorchRng::new(10);
        let later: Vec<Vec<f32>> = (0..2).map(|_| later.randn(len * count)).collect();
        for index in 0..count {
            let mut picture = noise(RngKind::Comfy, 9, index, count);
            let slice = |draw: &[f32]| draw[index * len..(index + 1) * len].to_vec();
            assert_eq!(picture.seed(), 9);
            assert_eq!(picture.initial(shape).expect("draw 0"), slice(&first), "{shape:?} picture {index}");
            assert_eq!(picture.randn(len), slice(&later[0]), "{shape:?} picture {index}, draw 1");
            assert_eq!(picture.randn(len), slice(&later[1]), "{shape:?} picture {index}, draw 2");
        }
    }
    assert!(PictureNoise::new(RngKind::Comfy, 9, 3, 3, None).is_err());
}

/// A column of unit length turns by the strength's share of the angle; a quarter turn has cosine and sine as weights.
#[test]
fn slerp_turns_columns() {
    // Two columns of height 2: (1, 0) to (0, 1), and (1, 0) to (-1/2, √3/2), a third of a turn.
    let half_root_3 = 0.75f32.sqrt();
    let (low, high) = ([1.0, 1.0, 0.0, 0.0], [0.0, -0.5, 1.0, half_root_3]);
    for strength in [0.0, 0.25, 0.5, 0.8, 1.0] {
        let got = slerp(strength, &low, &high, [1, 2, 2]).expect("two columns");
        for (column, angle) in [(0, 90.0f64), (1, 120.0)] {
            let turned = (strength * angle).to_radians();
            let want = [turned.cos(), turned.sin()];
            for row in 0..2 {
                let got = f64::from(got[row * 2 + column]);
                assert!(
                    (got - want[row]).abs() < 1e-6,
                    "strength {strength}, column {column}: {got} for {}",
                    want[row]
                );
            }
        }
    }
    assert!(slerp(1.5, &low, &high, [1, 2, 2]).is_err() && slerp(f64::NAN, &low, &high, [1, 2, 2]).is_err());
    assert!(slerp(0.5, &low, &high[..3], [1, 2, 2]).is_err());
}

#[test]
fn parallel_noises_are_mixed_linearly_with_the_weights_reversed() {
    let low = [1.0, 1.0, 0.0, 0.0];
    let high = [2.0, 2.0, 0.0, 0.0];
    let got = slerp(0.25, &low, &high, [1, 2, 2]).expect("two columns");
    assert_eq!(got, [1.75, 1.75, 0.0, 0.0]);
    // Just below the threshold the turn is used: 0.25 of the way from low.
    let tilted = [2.0, 2.0, 0.08, 0.08];
    let got = slerp(0.25, &low, &tilted, [1, 2, 2]).expect("two columns");
    assert!((1.2..1.3).contains(&got[0]), "{}", got[0]);
}

#[test]
fn a_variation_goes_from_one_seeds_noise_to_anothers() {
    let shape = [4, 8, 8];
    let plain = |kind, seed| noise(kind, seed, 0, 1).initial(shape).expect("draw 0");
    for kind in [RngKind::Torch, RngKind::A1111Gpu, RngKind::Comfy] {
        let varied = |strength, index| {
            let variation = Some(Variation { seed: 100, strength });
            let mut picture = PictureNoise::new(kind, 3, index, 2, variation).expect("a variation");
            (picture.seed(), picture.initial(shape).expect("draw 0"))
        };
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        if kind != RngKind::Comfy {
            // All pictures share the seed and differ by the seed they vary towards.
            assert_eq!((varied(0.5, 0).0, varied(0.5, 1).0), (3, 3));
            assert!(close(&varied(1.0, 0).1, &plain(kind, 100)) && close(&varied(1.0, 1).1, &plain(kind, 101)));
            assert!(close(&varied(1e-9, 0).1, &plain(kind, 3)) && close(&varied(1e-9, 1).1, &plain(kind, 3)));
            // Strength 0 is no variation: picture 1 has its own seed again.
            assert_eq!(varied(0.0, 1).1, plain(kind, 4));
        }
        // Half way, the noise still has variance 1: the reason to turn rather than to mix.
        let half = varied(0.5, 0).1;
        let variance = half.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / half.len() as f64;
        assert!((variance - 1.0).abs() < 0.3, "{kind}: variance {variance}");
    }
    let outside = Some(Variation { seed: 1, strength: 1.1 });
    assert!(PictureNoise::new(RngKind::Torch, 0, 0, 1, outside).is_err());
}

#[test]
fn names_are_those_that_users_of_the_programs_type() {
    for (name, kind) in [
        ("torch", RngKind::Torch),
        ("diffusers", RngKind::Torch),
        ("A1111", RngKind::A1111Gpu),
        ("philox", RngKind::A1111Gpu),
        ("gpu", RngKind::A1111Gpu),
        ("comfy", RngKind::Comfy),
    ] {
        assert_eq!(name.parse::<RngKind>().expect("a name"), kind);
    }
    for (kind, name, ..) in RngKind::ALL {
        assert_eq!(kind.to_string(), *name);
    }
    let message = "mersenne".parse::<RngKind>().expect_err("no such").to_string();
    assert!(message.contains("torch") && message.contains("a1111") && message.contains("comfy"), "{message}");
}
