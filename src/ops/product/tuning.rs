//! What there is to measure: the products of a recording in classes, and the tiles that each could have.

use crate::Result;
use crate::ops::product::Product;
use crate::ops::product::class::{Extents, ProductClass};
use crate::ops::{Conv2d, Epilogue, conv2d, matmul};
use crate::record::{Caps, Constant, DType, Recording, Shape, Tensor, Tuning};

/// A product as it occurs in a network, for measuring the tiles that it could have.
#[derive(Debug, Clone)]
pub struct Trial {
    class: ProductClass,
    /// Of the first product of the class: its input, kernel, stride and doubling.
    x: Shape,
    kernel: usize,
    stride: usize,
    upsample_to: Option<(usize, usize)>,
    /// Floating-point operations of all products of the class in the recording.
    pub flops: u64,
}

impl Trial {
    /// The classes of the products in a recording, those with the most work first.
    pub fn of(recording: &Recording) -> Vec<Trial> {
        let mut found: Vec<Trial> = Vec::new();
        for dispatch in &recording.dispatches {
            let read =
                |wanted: &str| dispatch.reads.iter().find(|(name, _)| *name == wanted).map(|&(_, tensor)| tensor);
            let (kernel, Some(x), Some(weight)) = (dispatch.kernel.stem, read("x"), read("weight")) else { continue };
            if !["matmul", "conv2d"].contains(&kernel) {
                continue;
            }
            let trial = Self::like(recording, kernel, x, weight, dispatch.write.shape, dispatch.flops);
            match found.iter_mut().find(|known| known.key() == trial.key()) {
                Some(known) => known.flops += trial.flops,
                None => found.push(trial),
            }
        }
        found.sort_by_key(|trial| std::cmp::Reverse(trial.flops));
        found
    }

    fn like(rec: &Recording, kernel: &'static str, x: Tensor, weight: Tensor, out: Shape, flops: u64) -> Self {
        let (columns, side) = match kernel {
            "matmul" => (weight.shape.rows(), 1),
            _ => (out.c, (weight.shape.len() / (out.c * x.shape.c)).isqrt()),
        };
        let (stride, upsample_to) = match kernel {
            "conv2d" if out.h > x.shape.h => (1, Some((out.h, out.w))),
            "conv2d" if 2 * out.h <= x.shape.h + 1 && x.shape.h > 1 => (2, None),
            _ => (1, None),
        };
        let extents = Extents::of(Shape { c: columns, ..out }, side * side, x.shape.c);
        let class = ProductClass { kernel, x: rec.dtype(x), weight: rec.dtype(weight), extents };
        Trial { class, x: x.shape, kernel: side, stride, upsample_to, flops }
    }

    /// What a [`Tuning`] calls the class.
    pub fn key(&self) -> String {
        self.class.key()
    }

    /// Names of the tiles that a device has for it, the reasoned one first.
    pub fn tiles(&self, caps: &Caps) -> Vec<String> {
        Product::candidates(caps, &self.class).iter().map(Product::to_string).collect()
    }

    /// Values of its input.
    pub fn input_len(&self) -> usize {
        self.x.len()
    }

    /// The product `times` times over the input `x`, each with `tile`; the last result is `out`. `weight` is what [`weight`](Self::weight) made.
    ///
    /// # Errors
    /// When the product does not fit the device.
    pub fn record(
        &self,
        caps: &Caps,
        tile: &str,
        weight: &std::sync::Arc<Constant>,
        times: usize,
    ) -> Result<Recording> {
        let mut tuning = Tuning::default();
        tuning.set(self.key(), tile);
        let mut rec = Recording::new(&Caps { tuning: tuning.into(), ..caps.clone() });
        let in_f32 = self.class.x == DType::F32;
        let x = if in_f32 { rec.in_f32(|rec| rec.input("x", self.x)) } else { rec.input("x", self.x) };
        let weight = rec.constant(weight);
        let mut out = x;
        for _ in 0..times {
            out = match self.class.kernel {
                "matmul" => matmul(&mut rec, x, weight, Epilogue::default())?,
                _ => {
                    let pad = self.kernel / 2;
                    let (stride, upsample_to) = (self.stride, self.upsample_to);
                    let geometry = Conv2d { kernel: self.kernel, stride, pad_before: pad, pad_after: pad, upsample_to };
                    conv2d(&mut rec, x, weight, geometry, Epilogue::default())?
                }
            };
        }
        rec.output("out", out);
        Ok(rec)
    }

    /// A weight of the class's shape and type, with values like a network's.
    ///
    /// # Errors
    /// When blocks do not divide its rows.
    pub fn weight(&self) -> Result<std::sync::Arc<Constant>> {
        let Extents { columns, .. } = self.class.extents;
        let shape = match self.class.kernel {
            "matmul" => vec![columns, self.x.c],
            _ => vec![columns, self.kernel, self.kernel, self.x.c],
        };
        let scale = (self.class.extents.terms() as f32).sqrt().recip();
        let values: Vec<f32> = values(shape.iter().product(), 7).map(|v| v * scale).collect();
        match self.class.weight {
            DType::F32 => Ok(Constant::from_f32("weight", &shape, &values)),
            DType::F16 => Ok(Constant::from_f32_as_f16("weight", &shape, &values)),
            blocks => Constant::from_f32_quantized("weight", &shape, &values, blocks),
        }
    }

    /// Values for its input.
    pub fn input(&self) -> Vec<f32> {
        values(self.input_len(), 1).collect()
    }
}

/// From -1 to 1, of a linear congruential generator (Knuth's MMIX multiplier).
fn values(len: usize, seed: u64) -> impl Iterator<Item = f32> {
    let step = |state: &mut u64| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some((*state >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
    };
    (0..len).scan(seed, move |state, _| step(state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::AdapterKind;

    /// Products of each kind, recorded for `caps`.
    fn network(caps: &Caps) -> Recording {
        let mut rec = Recording::new(caps);
        let weight = |rec: &mut Recording, shape: &[usize]| {
            let values = vec![0.5; shape.iter().product()];
            rec.constant(&Constant::from_f32_as_f16("weight", shape, &values))
        };
        let x = rec.input("x", Shape::image(2, 16, 16, 64));
        let (same, down, wide) =
            (weight(&mut rec, &[96, 3, 3, 64]), weight(&mut rec, &[64, 3, 3, 96]), weight(&mut rec, &[256, 64]));
        let up = weight(&mut rec, &[96, 3, 3, 128]);
        let x = conv2d(&mut rec, x, same, Conv2d::SAME, Epilogue::default()).expect("it fits");
        let half = Conv2d { stride: 2, ..Conv2d::SAME };
        let x = conv2d(&mut rec, x, down, half, Epilogue::default()).expect("it fits");
        let x = matmul(&mut rec, x, wide, Epilogue { gated: true, ..Epilogue::default() }).expect("it fits");
        let doubled = Conv2d { upsample_to: Some((16, 16)), ..Conv2d::SAME };
        let x = conv2d(&mut rec, x, up, doubled, Epilogue::default()).expect("it fits");
        rec.output("out", x);
        rec
    }

    #[test]
    fn what_is_measured_is_what_networks_then_choose() {
        let gpu = Caps {
            kind: AdapterKind::Discrete,
            max_invocations: 1024,
            max_workgroup_bytes: 48 << 10,
            ..Caps::webgpu()
        };
        for caps in [gpu, Caps { kind: AdapterKind::Software, ..Caps::webgpu() }] {
            let plain = network(&caps);
            let trials = Trial::of(&plain);
            assert_eq!(trials.len(), 4);
            let mut tuning = Tuning::default();
            for trial in &trials {
                let tiles = trial.tiles(&caps);
                assert!(tiles.len() > 3, "{tiles:?}");
                tuning.set(trial.key(), tiles.last().expect("there are some").as_str());
            }
            let tuned = network(&Caps { tuning: tuning.into(), ..caps.clone() });
            for (before, after) in plain.dispatches.iter().zip(&tuned.dispatches) {
                assert_ne!(before.variant, after.variant, "{}", before.kernel.stem);
            }
            for (trial, dispatch) in trials.iter().zip(by_work(&tuned)) {
                let tile = trial.tiles(&caps).pop().expect("there are some");
                let weight = trial.weight().expect("it has a type");
                let alone = trial.record(&caps, &tile, &weight, 1).expect("it fits");
                assert_eq!(alone.dispatches[0].variant.constants, dispatch.variant.constants);
                // A product with gates is measured without them.
                if !dispatch.variant.has("GATED") {
                    assert_eq!(alone.dispatches[0].flops, dispatch.flops);
                    assert_eq!(alone.dispatches[0].grid, dispatch.grid);
                }
            }
        }
    }

    fn by_work(recording: &Recording) -> Vec<&crate::record::Dispatch> {
        let mut all: Vec<_> = recording.dispatches.iter().collect();
        all.sort_by_key(|dispatch| std::cmp::Reverse(dispatch.flops));
        all
    }

    #[test]
    fn unknown_tiles_mean_nothing() {
        let caps = Caps { kind: AdapterKind::Discrete, ..Caps::webgpu() };
        let plain = network(&caps);
        let mut tuning = Tuning::default();
        for trial in Trial::of(&plain) {
            tuning.set(trial.key(), "tiled 4096x4096 by 1x1, slices 3");
        }
        let tuned = network(&Caps { tuning: tuning.into(), ..caps });
        for (before, after) in plain.dispatches.iter().zip(&tuned.dispatches) {
            assert_eq!(before.variant, after.variant);
        }
    }
}
