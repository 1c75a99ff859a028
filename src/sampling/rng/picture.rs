//! The draws of one picture in a batch.

use serde::{Deserialize, Serialize};

use super::variation::{check_strength, slerp};
use super::{PhiloxRng, RngKind, TorchRng};
use crate::{Error, Result};

/// A variation of a picture's first noise: towards another seed's.
///
/// As in AUTOMATIC1111 (`modules/processing.py`), with a strength above 0 all pictures of a batch share `seed`, and picture i
/// varies towards `seed + i` of this struct.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Variation {
    /// The other seed, of picture 0.
    pub seed: u64,
    /// How far: 0 not at all, 1 the other seed's noise.
    pub strength: f64,
}

/// What draws.
#[derive(Debug, Clone)]
enum Stream {
    Torch(TorchRng),
    Philox(PhiloxRng),
    /// One generator for the batch; a picture sees its slice of every draw.
    Batch {
        rng: TorchRng,
        index: usize,
        count: usize,
    },
}

impl Stream {
    fn randn(&mut self, len: usize) -> Vec<f32> {
        match self {
            Stream::Torch(rng) => rng.randn(len),
            Stream::Philox(rng) => rng.randn(len),
            Stream::Batch { rng, index, count } => {
                // PyTorch fills blocks of 16; where pictures end between blocks only the whole draw gives their values.
                if len.is_multiple_of(16) {
                    rng.skip(*index * len);
                    let own = rng.randn(len);
                    rng.skip((*count - 1 - *index) * len);
                    own
                } else {
                    rng.randn(len * *count)[*index * len..][..len].to_vec()
                }
            }
        }
    }
}

/// Successive draws for picture `index` of a batch under one program's rule (the table of [`super`]): the initial noise first, then each
/// solver's fresh noise.
#[derive(Debug, Clone)]
pub struct PictureNoise {
    kind: RngKind,
    seed: u64,
    stream: Stream,
    variation: Option<Variation>,
    /// What is added to the seed behind the first draw; 0 lets the generator go on.
    seed_delta: u64,
    draws: usize,
}

impl PictureNoise {
    /// The draws of picture `index` (from 0) of `count`, in a request with this `seed`.
    ///
    /// # Errors
    /// When the index is not below the count, or the variation's strength is outside 0 to 1.
    pub fn new(kind: RngKind, seed: u64, index: usize, count: usize, variation: Option<Variation>) -> Result<Self> {
        if index >= count {
            return Err(Error::shape("noise", format!("picture {index} of a batch of {count}")));
        }
        if let Some(variation) = variation {
            check_strength(variation.strength)?;
        }
        let variation = variation.filter(|v| v.strength > 0.0).map(|v| Variation { seed: nth(v.seed, index), ..v });
        let seed = picture_seed(kind, seed, index, variation.as_ref());
        let stream = stream(kind, seed, index, count);
        Ok(PictureNoise { kind, seed, stream, variation, seed_delta: 0, draws: 0 })
    }

    /// The same with draws behind the first one from a generator seeded anew, `delta` further on: AUTOMATIC1111's `eta_noise_seed_delta`
    /// (`modules/rng.py`, `ImageRNG.first`). 0 changes nothing.
    pub fn with_seed_delta(self, delta: u64) -> Self {
        PictureNoise { seed_delta: delta, ..self }
    }

    /// The seed that a user would type to meet this picture's stream again: `seed + i` where each picture has its own generator, the
    /// request's where the batch has one or all vary from one.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The seed that this picture varies towards, if it does.
    pub fn variation(&self) -> Option<Variation> {
        self.variation
    }

    /// Draw 0: x_T^S as `[channels, height, width]`, varied if asked.
    ///
    /// # Errors
    /// When it is not the first draw.
    pub fn initial(&mut self, shape: [usize; 3]) -> Result<Vec<f32>> {
        if self.draws > 0 {
            return Err(Error::shape("noise", format!("the initial noise is draw 0, {} were made", self.draws)));
        }
        let len = shape.iter().product();
        let own = self.randn(len);
        match self.variation {
            None => Ok(own),
            // The other noise is a generator's first draw too. ComfyUI has no variations of its own; a batch of one is taken.
            Some(Variation { seed, strength }) => {
                slerp(strength, &own, &stream(self.kind, seed, 0, 1).randn(len), shape)
            }
        }
    }

    /// The next `len` normals of this picture.
    pub fn randn(&mut self, len: usize) -> Vec<f32> {
        if self.draws == 1 {
            let anew = self.seed.wrapping_add(self.seed_delta);
            match &mut self.stream {
                // ComfyUI's default_noise_sampler on the CPU.
                Stream::Batch { rng, .. } => *rng = TorchRng::new(anew.wrapping_add(1)),
                _ if self.seed_delta == 0 => {}
                Stream::Torch(rng) => *rng = TorchRng::new(anew),
                Stream::Philox(rng) => *rng = PhiloxRng::new(anew),
            }
        }
        self.draws += 1;
        self.stream.randn(len)
    }
}

fn nth(seed: u64, index: usize) -> u64 {
    seed.wrapping_add(index as u64)
}

fn picture_seed(kind: RngKind, seed: u64, index: usize, variation: Option<&Variation>) -> u64 {
    if kind == RngKind::Comfy || variation.is_some() { seed } else { nth(seed, index) }
}

fn stream(kind: RngKind, seed: u64, index: usize, count: usize) -> Stream {
    match kind {
        RngKind::Torch => Stream::Torch(TorchRng::new(seed)),
        RngKind::A1111Gpu => Stream::Philox(PhiloxRng::new(seed)),
        RngKind::Comfy => Stream::Batch { rng: TorchRng::new(seed), index, count },
    }
}
