//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), used as PyTorch uses it on NVIDIA cards.
//!
//! Nothing is carried from one value to the next: value `n` of draw `k` is a function of (seed, k, n). The key is the seed, low word
//! first; the counter is `[k, 0, n, 0]`: its low half cuRAND's offset, its high half the thread. Of the four outputs PyTorch turns the
//! first two into two normals (Box-Muller) and gives a tensor's element the first of them.
//!
//! Source of the use: AUTOMATIC1111 `modules/rng_philox.py`. It computes in f64 and rounds at the end, as here; a card computes in f32,
//! so its last digits differ (1e-6 of the value and less).

/// Philox's multipliers and the steps of its key.
const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
const KEY_STEPS: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
const ROUNDS: usize = 10;

/// The ten-round bijection of a counter under a key.
pub fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let [low_0, high_0] = wide_product(MULTIPLIERS[0], counter[0]);
        let [low_1, high_1] = wide_product(MULTIPLIERS[1], counter[2]);
        counter = [high_1 ^ counter[1] ^ key[0], low_1, high_0 ^ counter[3] ^ key[1], low_0];
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
    }
    counter
}

/// The product of two words, low word first.
fn wide_product(a: u32, b: u32) -> [u32; 2] {
    let product = u64::from(a) * u64::from(b);
    [product as u32, (product >> 32) as u32]
}

/// `torch.Generator` on an NVIDIA card, as far as `randn` of a latent goes.
#[derive(Debug, Clone)]
pub struct PhiloxRng {
    key: [u32; 2],
    /// Draws so far.
    offset: u32,
}

impl PhiloxRng {
    /// A generator with `seed`, all 64 bits of which count.
    pub fn new(seed: u64) -> Self {
        PhiloxRng { key: [seed as u32, (seed >> 32) as u32], offset: 0 }
    }

    /// The next `torch.randn(n)`, n below 2³². A draw of 10 is the beginning of a draw of 20.
    pub fn randn(&mut self, n: usize) -> Vec<f32> {
        let offset = self.offset;
        self.offset = self.offset.wrapping_add(1);
        (0..n)
            .map(|i| {
                let [a, b, _, _] = philox4x32_10([offset, 0, i as u32, 0], self.key);
                box_muller(a, b)
            })
            .collect()
    }
}

/// The sine value of Box-Muller on two words, each moved to the middle of its 2⁻³² wide cell. The constants are cuRAND's, which are f32.
fn box_muller(a: u32, b: u32) -> f32 {
    const CELL: f64 = 2.328_306_4e-10_f32 as f64;
    const CELL_OF_TURN: f64 = (2.328_306_4e-10 * 6.283_185_5) as f32 as f64;
    let u = f64::from(a) * CELL + CELL / 2.0;
    let v = f64::from(b) * CELL_OF_TURN + CELL_OF_TURN / 2.0;
    ((-2.0 * u.ln()).sqrt() * v.sin()) as f32
}
