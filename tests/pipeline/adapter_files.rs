//! Adapter files made here, and the networks that they should make, merged in f64 straight from the published formulas.
//!
//! LoRA: arXiv 2106.09685 eq. 3. LoCon's and LoHa's cores, LoKr: LyCORIS, `docs/Algo-Details.md` and `lycoris/functional`. LoHa: arXiv
//! 2108.06098 proposition 1. DoRA: arXiv 2402.09353 eq. 5.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

/// Tensors by name: shape and values.
pub(super) type Tensors = BTreeMap<String, (Vec<usize>, Vec<f64>)>;

pub(super) fn read(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = SafeTensors::deserialize(&bytes).expect("a sound file");
    let values = |view: &TensorView<'_>| -> Option<Vec<f64>> {
        let data = view.data();
        match view.dtype() {
            Dtype::F32 => {
                Some(data.chunks(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect())
            }
            Dtype::F16 => Some(data.chunks(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f64()).collect()),
            _ => None,
        }
    };
    let tensors = file.tensors().into_iter();
    tensors.filter_map(|(name, view)| Some((name, (view.shape().to_vec(), values(&view)?)))).collect()
}

pub(super) fn bytes(tensors: &Tensors) -> Vec<u8> {
    let data: BTreeMap<&String, Vec<u8>> = tensors
        .iter()
        .map(|(name, (_, values))| (name, values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect()))
        .collect();
    let views = tensors.iter().map(|(name, (shape, _))| {
        (
            name.clone(),
            TensorView::new(Dtype::F32, shape.clone(), &data[name]).expect("as many values as the shape says"),
        )
    });
    safetensors::serialize(views, None).expect("tensors serialize")
}

pub(super) fn write(path: &Path, tensors: &Tensors) {
    std::fs::write(path, bytes(tensors)).expect("the file is written");
}

/// Numbers that look like noise, of this deviation or so; the same for the same seed.
pub(super) struct Noise(pub(super) u64);

impl Noise {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// Values that f32 holds.
    fn values(&mut self, count: usize, size: f64) -> Vec<f64> {
        let one =
            |noise: &mut Noise| f64::from(((noise.next() as f64 / (1u64 << 30) as f64 - 1.0) * 1.7 * size) as f32);
        (0..count).map(|_| one(self)).collect()
    }
}

/// The formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Lora,
    LoraWithoutAlpha,
    /// With `lora_mid` for convolutions.
    LoCon,
    LoHa,
    LoHaCore,
    /// Both sides whole.
    LoKrWhole,
    /// Both sides products.
    LoKrFactors,
    /// The second side with a core for convolutions.
    LoKrCore,
    /// DoRA on LoRA, magnitudes per output.
    DoraOut,
    /// DoRA on LoRA, magnitudes per input channel.
    DoraIn,
    Full,
}

impl Format {
    pub(super) const ALL: [Format; 11] = [
        Format::Lora,
        Format::LoraWithoutAlpha,
        Format::LoCon,
        Format::LoHa,
        Format::LoHaCore,
        Format::LoKrWhole,
        Format::LoKrFactors,
        Format::LoKrCore,
        Format::DoraOut,
        Format::DoraIn,
        Format::Full,
    ];
}

/// An adapter: each layer's parts under kohya's names for them, and W' of each tensor that it changes at weight 1.
pub(super) struct Made {
    /// (layer, part, shape, values).
    pub(super) parts: Vec<(String, &'static str, Vec<usize>, Vec<f64>)>,
    pub(super) merged: Tensors,
}

/// Makes a change of each of `layers`.
pub(super) fn make(format: Format, base: &Tensors, layers: &[String], seed: u64) -> Made {
    let mut made = Made { parts: Vec::new(), merged: Tensors::new() };
    let mut noise = Noise(seed);
    for layer in layers {
        let (shape, weight) = &base[&format!("{layer}.weight")];
        let mut maker = Maker { layer, shape, noise: &mut noise, parts: &mut made.parts };
        let merged = maker.merged(format, weight);
        made.merged.insert(format!("{layer}.weight"), (shape.clone(), merged));
        if format == Format::Full
            && let Some((shape, bias)) = base.get(&format!("{layer}.bias"))
        {
            let mut maker = Maker { layer, shape, noise: &mut noise, parts: &mut made.parts };
            let diff = maker.part("diff_b", shape, 0.1);
            made.merged.insert(format!("{layer}.bias"), (shape.clone(), sum(bias, &diff, 1.0)));
        }
    }
    made
}

fn sum(a: &[f64], b: &[f64], factor: f64) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + factor * b).collect()
}

const RANK: usize = 3;

struct Maker<'m> {
    layer: &'m str,
    shape: &'m [usize],
    noise: &'m mut Noise,
    parts: &'m mut Vec<(String, &'static str, Vec<usize>, Vec<f64>)>,
}

impl Maker<'_> {
    fn part(&mut self, name: &'static str, shape: &[usize], size: f64) -> Vec<f64> {
        let values = self.noise.values(shape.iter().product(), size);
        self.parts.push((self.layer.into(), name, shape.to_vec(), values.clone()));
        values
    }

    fn alpha(&mut self, alpha: f64) -> f64 {
        self.parts.push((self.layer.into(), "alpha", vec![], vec![alpha]));
        alpha
    }

    /// out, in, kernel height, kernel width.
    fn extents(&self) -> [usize; 4] {
        let at = |i: usize| self.shape.get(i).copied().unwrap_or(1);
        [at(0), at(1), at(2), at(3)]
    }

    /// `[a, b]` as a matrix, or as a 1×1 convolution where the layer is a convolution.
    fn pair(&self, a: usize, b: usize) -> Vec<usize> {
        if self.shape.len() == 4 { vec![a, b, 1, 1] } else { vec![a, b] }
    }

    fn merged(&mut self, format: Format, weight: &[f64]) -> Vec<f64> {
        let [out, inner, h, w] = self.extents();
        let is_spatial = h * w > 1;
        match format {
            Format::Lora | Format::LoraWithoutAlpha => {
                let delta = self.lora(format == Format::Lora);
                sum(weight, &delta, 1.0)
            }
            Format::LoCon if is_spatial => {
                let (up, mid) = (
                    self.part("lora_up.weight", &[out, RANK, 1, 1], 0.4),
                    self.part("lora_mid.weight", &[RANK, RANK, h, w], 0.4),
                );
                let down = self.part("lora_down.weight", &[RANK, inner, 1, 1], 0.4);
                let scale = self.alpha(2.0) / RANK as f64;
                sum(weight, &core(&up, &mid, &down, [out, inner, h * w], false), scale)
            }
            Format::LoHaCore if is_spatial => {
                let mut side = |t: &'static str, a: &'static str, b: &'static str| {
                    let core_values = self.part(t, &[RANK, RANK, h, w], 0.6);
                    let (a, b) = (self.part(a, &[RANK, out], 0.6), self.part(b, &[RANK, inner], 0.6));
                    core(&a, &core_values, &b, [out, inner, h * w], true)
                };
                let (left, right) =
                    (side("hada_t1", "hada_w1_a", "hada_w1_b"), side("hada_t2", "hada_w2_a", "hada_w2_b"));
                let scale = self.alpha(1.5) / RANK as f64;
                sum(weight, &left.iter().zip(&right).map(|(l, r)| l * r).collect::<Vec<_>>(), scale)
            }
            Format::LoHa | Format::LoHaCore => {
                let columns = inner * h * w;
                let mut side = |a: &'static str, b: &'static str| {
                    let (a, b) = (self.part(a, &[out, RANK], 0.5), self.part(b, &[RANK, columns], 0.5));
                    product(&a, &b, RANK)
                };
                let (left, right) = (side("hada_w1_a", "hada_w1_b"), side("hada_w2_a", "hada_w2_b"));
                let scale = self.alpha(1.5) / RANK as f64;
                sum(weight, &left.iter().zip(&right).map(|(l, r)| l * r).collect::<Vec<_>>(), scale)
            }
            Format::LoKrWhole | Format::LoKrFactors | Format::LoKrCore => self.lokr(format, weight),
            Format::DoraOut | Format::DoraIn => self.dora(format, weight),
            Format::Full => {
                let shape = self.shape.to_vec();
                let diff = self.part("diff", &shape, 0.1);
                sum(weight, &diff, 1.0)
            }
            Format::LoCon => {
                let delta = self.lora(true);
                sum(weight, &delta, 1.0)
            }
        }
    }

    fn lora(&mut self, with_alpha: bool) -> Vec<f64> {
        let [out, inner, h, w] = self.extents();
        let up_shape = self.pair(out, RANK);
        let down_shape = if self.shape.len() == 4 { vec![RANK, inner, h, w] } else { vec![RANK, inner] };
        let (up, down) = (self.part("lora_up.weight", &up_shape, 0.2), self.part("lora_down.weight", &down_shape, 0.2));
        let scale = if with_alpha { self.alpha(2.0) / RANK as f64 } else { 1.0 };
        product(&up, &down, RANK).iter().map(|v| v * scale).collect()
    }

    fn lokr(&mut self, format: Format, weight: &[f64]) -> Vec<f64> {
        let [out, inner, h, w] = self.extents();
        let split = |n: usize| if n.is_multiple_of(4) { (4, n / 4) } else { (1, n) };
        let ((a, c), (b, d)) = (split(out), split(inner));
        let taps = h * w;
        let factored = format != Format::LoKrWhole;
        let left = if factored && a > 1 {
            let (first, second) = (self.part("lokr_w1_a", &[a, RANK], 0.6), self.part("lokr_w1_b", &[RANK, b], 0.6));
            product(&first, &second, RANK)
        } else {
            self.part("lokr_w1", &[a, b], 0.6)
        };
        let right = match format {
            Format::LoKrCore if taps > 1 => {
                let mid = self.part("lokr_t2", &[RANK, RANK, h, w], 0.6);
                let (first, second) =
                    (self.part("lokr_w2_a", &[RANK, c], 0.6), self.part("lokr_w2_b", &[RANK, d], 0.6));
                core(&first, &mid, &second, [c, d, taps], true)
            }
            Format::LoKrWhole => {
                let shape = if self.shape.len() == 4 { vec![c, d, h, w] } else { vec![c, d] };
                self.part("lokr_w2", &shape, 0.6)
            }
            _ => {
                let (first, second) =
                    (self.part("lokr_w2_a", &[c, RANK], 0.6), self.part("lokr_w2_b", &[RANK, d * taps], 0.6));
                product(&first, &second, RANK)
            }
        };
        let alpha = self.alpha(1.5);
        let scale = if factored { alpha / RANK as f64 } else { 1.0 };
        let mut merged = weight.to_vec();
        for (i, value) in merged.iter_mut().enumerate() {
            let (o, rest) = (i / (inner * taps), i % (inner * taps));
            let (channel, tap) = (rest / taps, rest % taps);
            *value += scale * left[o / c * b + channel / d] * right[(o % c * d + channel % d) * taps + tap];
        }
        merged
    }

    fn dora(&mut self, format: Format, weight: &[f64]) -> Vec<f64> {
        let [out, inner, h, w] = self.extents();
        let delta = self.lora(true);
        let direction = sum(weight, &delta, 1.0);
        let per_output = format == Format::DoraOut;
        let of = |i: usize| if per_output { i / (inner * h * w) } else { i / (h * w) % inner };
        let count = if per_output { out } else { inner };
        let mut norms = vec![0.0; count];
        direction.iter().enumerate().for_each(|(i, v)| norms[of(i)] += v * v);
        let ones = vec![1; self.shape.len() - 2];
        let shape = if per_output { [vec![out, 1], ones].concat() } else { [vec![1, inner], ones].concat() };
        let magnitudes = self.noise.values(count, 0.1).into_iter().map(|v| f64::from((v + 0.8) as f32));
        let magnitudes: Vec<f64> = magnitudes.collect();
        self.parts.push((self.layer.into(), "dora_scale", shape, magnitudes.clone()));
        direction.iter().enumerate().map(|(i, v)| magnitudes[of(i)] * v / norms[of(i)].sqrt()).collect()
    }
}

/// `a [m, k] · b [k, n]`, one element at a time.
fn product(a: &[f64], b: &[f64], k: usize) -> Vec<f64> {
    let (m, n) = (a.len() / k, b.len() / k);
    let at = |i: usize| (0..k).map(|j| a[i / n * k + j] * b[j * n + i % n]).sum();
    (0..m * n).map(at).collect()
}

/// Σ_pq a_op core_pqt b_qi; `a` is `[out, p]`, or `[p, out]` if `a_rank_first`.
fn core(a: &[f64], core: &[f64], b: &[f64], [out, inner, taps]: [usize; 3], a_rank_first: bool) -> Vec<f64> {
    let at = |index: usize| {
        let (o, rest) = (index / (inner * taps), index % (inner * taps));
        let (i, t) = (rest / taps, rest % taps);
        let mut value = 0.0;
        for p in 0..RANK {
            let a = if a_rank_first { a[p * out + o] } else { a[o * RANK + p] };
            for q in 0..RANK {
                value += a * core[(p * RANK + q) * taps + t] * b[q * inner + i];
            }
        }
        value
    };
    (0..out * inner * taps).map(at).collect()
}
