//! Random numbers that equal other programs', so that a seed gives the noise that its user knows.
//!
//! | kind | draw 0 of picture i (x_T^S) | later draws (OMS's z, ancestral and SDE solvers) |
//! | --- | --- | --- |
//! | [`Torch`](RngKind::Torch) | diffusers with `torch.Generator("cpu").manual_seed(seed + i)` in float32, one generator a picture. AUTOMATIC1111 with *Random number generator source: CPU* | both: the picture's own generator goes on |
//! | [`A1111Gpu`](RngKind::A1111Gpu) | AUTOMATIC1111 with source *GPU* on an NVIDIA card, or source *NV* on any; `torch.randn(…, device="cuda")` up to the card's number of resident threads (1024 to 2048 for each multiprocessor: a 512×512 picture's 16 384 latents need 8 to 16 of them). Seed `seed + i` | AUTOMATIC1111: the picture's own generator goes on; with `eta_noise_seed_delta` (ENSD) it is seeded anew with `seed + i +` that |
//! | [`Comfy`](RngKind::Comfy) | ComfyUI (always CPU): slice i of *one* draw `[count, 4, h, w]` from the seed. Its latent-from-batch node too where a picture's length is a multiple of 16 | ComfyUI with `--cpu`: slices of whole-batch draws from a second generator, seeded `seed + 1` |
//!
//! Picture 0 of a batch of one is the same under `Torch` and `Comfy`. Matched are *draws*. A picture also depends on the solver, the
//! prompt's weighting and the arithmetic of the device.
//!
//! Not matched: ComfyUI's ancestral solvers on a GPU (they draw on the card); the Brownian tree of `*_sde` solvers in k-diffusion,
//! AUTOMATIC1111 and ComfyUI (torchsde's, a function of time rather than a stream); pipelines that draw in float16, which use
//! another stream ([`TorchRng::randn_as`] has it); `diffusers` on a `cuda` generator for successive draws or more elements than
//! resident threads.
//!
//! Sources: AUTOMATIC1111 `modules/rng.py`, `modules/rng_philox.py`, `modules/processing.py` (seeds of a batch); ComfyUI
//! `comfy/sample.py` (`prepare_noise`), `comfy/k_diffusion/sampling.py` (`default_noise_sampler`).

mod philox;
mod picture;
mod torch;
mod variation;

use std::fmt;
use std::str::FromStr;

pub use philox::{PhiloxRng, philox4x32_10};
pub use picture::{PictureNoise, Variation};
pub use torch::{Draw, TorchRng};
pub use variation::slerp;

use crate::{Error, Result};

/// Whose random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum RngKind {
    /// PyTorch's CPU generator, one a picture: diffusers.
    #[default]
    Torch,
    /// Philox as AUTOMATIC1111 draws on an NVIDIA card, one generator a picture.
    A1111Gpu,
    /// PyTorch's CPU generator, one for the whole batch: ComfyUI.
    Comfy,
}

impl RngKind {
    /// Every kind with its name, its other names, and what it matches.
    pub const ALL: &'static [(RngKind, &'static str, &'static [&'static str], &'static str)] = &[
        (RngKind::Torch, "torch", &["diffusers", "cpu"], "diffusers; AUTOMATIC1111 with source CPU"),
        (RngKind::A1111Gpu, "a1111", &["philox", "gpu", "nv"], "AUTOMATIC1111 with source GPU (NVIDIA) or NV"),
        (RngKind::Comfy, "comfy", &["comfyui"], "ComfyUI"),
    ];
}

impl FromStr for RngKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let plain = name.trim().to_lowercase();
        let found = RngKind::ALL.iter().find(|(_, first, others, _)| *first == plain || others.contains(&&*plain));
        found.map(|(kind, ..)| *kind).ok_or_else(|| {
            let known: Vec<String> =
                RngKind::ALL.iter().map(|(_, first, others, _)| format!("{first} ({})", others.join(", "))).collect();
            Error::request("rng", format!("expected {}, got {name:?}", known.join(", ")))
        })
    }
}

impl fmt::Display for RngKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = RngKind::ALL.iter().find(|(kind, ..)| kind == self).map_or("", |(_, name, ..)| name);
        f.write_str(name)
    }
}

serde_by_name!(RngKind);
