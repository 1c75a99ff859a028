//! Single products and convolutions of Stable Diffusion 1.5 in burn's wgpu back end, each checked before it is timed.
//!
//! `cargo run --release -- SHAPES`, where a line of SHAPES is `matmul ROWS INNER COLUMNS` or `conv IMAGES SIDE IN OUT KERNEL STRIDE`.
//! Prints each line again with the median seconds of five runs, the device's memory read back after each.

use std::time::Instant;

use burn::tensor::module::{conv2d, linear};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, DeviceKind, Tensor, TensorData};

/// Uniform values from -1 to 1 of a linear congruential generator.
fn noise(len: usize, mut state: u64) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn tensor<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> (Vec<f32>, Tensor<D>) {
    let values = noise(shape.iter().product(), seed);
    (values.clone(), Tensor::from_data(TensorData::new(values, shape), device))
}

/// Median seconds, and the result.
fn time<const D: usize>(call: impl Fn() -> Tensor<D>) -> (f64, Vec<f32>) {
    let read = || call().into_data().try_to_vec::<f32>().expect("f32");
    // The first runs compile and tune.
    let result = read();
    read();
    let mut seconds: Vec<f64> = (0..5)
        .map(|_| {
            let start = Instant::now();
            read();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    (seconds[2], result)
}

fn near(what: &str, got: f32, want: f64, scale: f64) {
    assert!((f64::from(got) - want).abs() <= 1e-3 * scale, "{what}: {got}, expected {want}");
}

fn main() {
    let path = std::env::args().nth(1).expect("a file of shapes");
    let device = Device::wgpu(DeviceKind::DefaultDevice);
    for line in std::fs::read_to_string(path).expect("readable").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let n: Vec<usize> = words[1..].iter().map(|w| w.parse().expect("a number")).collect();
        let seconds = match words[0] {
            "matmul" => {
                let [rows, inner, columns] = n[..] else { panic!("{line}") };
                let ((a, x), (b, w)) = (tensor([1, rows, inner], 1, &device), tensor([inner, columns], 2, &device));
                let (seconds, out) = time(|| linear(x.clone(), w.clone(), None));
                for at in [0, rows * columns / 2 + 1, rows * columns - 1] {
                    let (r, c) = (at / columns, at % columns);
                    let want = (0..inner).map(|k| f64::from(a[r * inner + k]) * f64::from(b[k * columns + c])).sum();
                    near(line, out[at], want, (inner as f64).sqrt());
                }
                seconds
            }
            _ => {
                let [images, side, inner, columns, kernel, stride] = n[..] else { panic!("{line}") };
                let (a, x) = tensor([images, inner, side, side], 1, &device);
                let (b, w) = tensor([columns, inner, kernel, kernel], 2, &device);
                let pad = kernel / 2;
                let options = ConvOptions::new([stride, stride], [pad, pad], [1, 1], 1);
                let (seconds, out) = time(|| conv2d(x.clone(), w.clone(), None, options.clone()));
                let across = (side + 2 * pad - kernel) / stride + 1;
                for at in [0, out.len() / 2 + 3, out.len() - 1] {
                    let (ox, oy) = (at % across, at / across % across);
                    let (o, image) = (at / (across * across) % columns, at / (across * across * columns));
                    let mut want = 0.0;
                    for c in 0..inner {
                        for i in 0..kernel {
                            for j in 0..kernel {
                                let (y, x) = (oy * stride + i, ox * stride + j);
                                if y >= pad && x >= pad && y - pad < side && x - pad < side {
                                    let v = a[((image * inner + c) * side + y - pad) * side + x - pad];
                                    want += f64::from(v) * f64::from(b[((o * inner + c) * kernel + i) * kernel + j]);
                                }
                            }
                        }
                    }
                    near(line, out[at], want, ((inner * kernel * kernel) as f64).sqrt());
                }
                seconds
            }
        };
        println!("{line} {seconds}");
    }
}
