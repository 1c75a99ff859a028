//! PyTorch's CPU generator, so that a seed gives the noise that it gives in diffusers.
//!
//! Facts from PyTorch 2.7 (`aten/src/ATen/core/MT19937RNGEngine.h`, `native/cpu/DistributionTemplates.h`): mt19937 seeded with the low 32
//! bits; fewer than 16 normals are drawn one by one in f64, 16 or more by turning blocks of 16 uniforms.

use std::f64::consts::TAU;

const N: usize = 624;
const M: usize = 397;

/// The element type that PyTorch would draw: it decides how many bits of each draw are used, so the stream differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    /// float32: 24 bits.
    F32,
    /// float64: 53 bits of two draws.
    F64,
    /// float16: 11 bits.
    F16,
    /// bfloat16: 8 bits.
    Bf16,
}

impl Draw {
    fn round(self, x: f64) -> f64 {
        match self {
            Draw::F32 | Draw::F64 => x,
            Draw::F16 => half::f16::from_f64(x).to_f64(),
            Draw::Bf16 => half::bf16::from_f64(x).to_f64(),
        }
    }
}

/// `torch.Generator` on the CPU.
#[derive(Debug, Clone)]
pub struct TorchRng {
    state: [u32; N],
    next: usize,
    /// The second value of the last pair that was drawn one by one.
    cached: Option<f64>,
}

impl TorchRng {
    /// `torch.Generator().manual_seed(seed)`; only the low 32 bits count.
    pub fn new(seed: u64) -> Self {
        let mut state = [0u32; N];
        state[0] = seed as u32;
        for i in 1..N {
            let previous = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(previous ^ (previous >> 30)).wrapping_add(i as u32);
        }
        TorchRng { state, next: N, cached: None }
    }

    /// One raw 32-bit output of mt19937.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == N {
            for i in 0..N {
                let mixed = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
                let twist = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + M) % N] ^ (mixed >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// One raw 64-bit output: the first draw is the high word.
    pub fn next_u64(&mut self) -> u64 {
        let high = u64::from(self.next_u32());
        high << 32 | u64::from(self.next_u32())
    }

    /// `torch.rand(n)` in float32: uniform on [0, 1).
    pub fn rand(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.uniform(Draw::F32) as f32).collect()
    }

    /// `torch.randn(n)` in float32. PyTorch's vector log and sin are not correctly rounded; these values are, so they differ by up to
    /// 1.2e-6.
    pub fn randn(&mut self, n: usize) -> Vec<f32> {
        self.randn_as(n, Draw::F32).into_iter().map(|x| x as f32).collect()
    }

    /// Passes over the raw draws of `n` float32 normals, `n` a multiple of 16.
    pub(super) fn skip(&mut self, n: usize) {
        debug_assert!(n.is_multiple_of(16));
        for _ in 0..n {
            self.next_u32();
        }
    }

    /// `torch.randn(n, dtype=…)`. The half types are rounded after every operation, as PyTorch computes them; float32 is not rounded.
    pub fn randn_as(&mut self, n: usize, draw: Draw) -> Vec<f64> {
        if n < 16 {
            return (0..n).map(|_| draw.round(self.scalar_normal())).collect();
        }
        let mut x: Vec<f64> = (0..n).map(|_| self.uniform(draw)).collect();
        for block in x.chunks_exact_mut(16) {
            turn(block, draw);
        }
        if !n.is_multiple_of(16) {
            let tail = &mut x[n - 16..];
            tail.fill_with(|| self.uniform(draw));
            turn(tail, draw);
        }
        x
    }

    fn uniform(&mut self, draw: Draw) -> f64 {
        let bits = match draw {
            Draw::F64 => {
                return (self.next_u64() & ((1 << 53) - 1)) as f64 * (1.0 / (1u64 << 53) as f64);
            }
            Draw::F32 => 24,
            Draw::F16 => 11,
            Draw::Bf16 => 8,
        };
        f64::from(self.next_u32() & ((1 << bits) - 1)) / f64::from(1u32 << bits)
    }

    /// Box-Muller on two 53-bit uniforms: the cosine value now, the sine value at the next call.
    fn scalar_normal(&mut self) -> f64 {
        if let Some(cached) = self.cached.take() {
            return cached;
        }
        let (u1, u2) = (self.uniform(Draw::F64), self.uniform(Draw::F64));
        let (radius, angle) = ((-2.0 * (-u2).ln_1p()).sqrt(), TAU * u1);
        self.cached = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

/// Box-Muller in place on 16 uniforms: value j with value j + 8.
fn turn(block: &mut [f64], draw: Draw) {
    for j in 0..8 {
        let radius = draw.round((-2.0 * draw.round(draw.round(1.0 - block[j]).ln())).sqrt());
        let (sin, cos) = draw.round(TAU * block[j + 8]).sin_cos();
        block[j] = draw.round(radius * draw.round(cos));
        block[j + 8] = draw.round(radius * draw.round(sin));
    }
}
