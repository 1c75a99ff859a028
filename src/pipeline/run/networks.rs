//! The networks of a model at the shapes of a request.

use std::sync::Arc;

use crate::Result;
use crate::models::{Autoencoder, Shortcuts};
use crate::pipeline::device::residency::Numbered;
use crate::pipeline::device::weight_types::Part;
use crate::pipeline::model::pipeline::Pipeline;
use crate::pipeline::request::Request;
use crate::pipeline::run::stage::{Identity, Stage};
use crate::pipeline::run::unet::{Call, UnetRun};

impl Pipeline {
    /// The OMS module, if asked for, for rows of `tokens` text states.
    pub(crate) fn oms_stage(&self, request: &Request, size: (usize, usize), tokens: usize) -> Option<Stage> {
        let (asked, oms) = (request.oms.as_ref()?, self.oms.as_ref()?);
        let (latents, unet) = (self.latent_shape(size), Arc::clone(&oms.module.unet));
        let rows = if asked.guided() { 2 } else { 1 };
        let form = format!("unet {rows}x{}x{} {tokens}", latents.h, latents.w);
        let identity = Identity { networks: vec![unet.number()], form };
        Some(Stage::new(("OMS module", Part::Oms), identity, request.count, move |caps| {
            unet.record(caps, rows, latents.h, latents.w, tokens, false)
        }))
    }

    /// The UNet and the ControlNets that act with it as one network.
    pub(crate) fn unet_stage(&self, request: &Request, run: UnetRun, call: &Call) -> Result<Stage> {
        let latents = self.latent_shape(run.size);
        let (rows, tokens, unet) = (call.rows * run.batch, run.tokens, Arc::clone(&self.unet));
        let nets: Vec<_> = call.acting.iter().map(|&i| Arc::clone(&self.controls[request.controls[i].net])).collect();
        let name = if nets.is_empty() { "UNet" } else { "UNet with ControlNet" };
        let shortcuts = Shortcuts {
            depth: request.deep_cache.filter(|cache| cache.interval > 1).map(|cache| cache.depth),
            merging: request.token_merging,
        };
        let networks = [unet.number()].into_iter().chain(nets.iter().map(|net| net.number())).collect();
        let form = format!("unet {rows}x{}x{} {tokens} {shortcuts:?}", latents.h, latents.w);
        let stage = Stage::new((name, Part::Unet), Identity { networks, form }, 1, move |caps| {
            let nets: Vec<_> = nets.iter().map(|net| &net.net).collect();
            unet.record_shortened(caps, [rows, latents.h, latents.w], tokens, &nets, shortcuts, false)
        });
        Ok(stage.beside(self.preview_bytes(request, run.size)?).keeping_features(shortcuts.depth.is_some()))
    }

    /// The encoder of pictures to start from, which runs so often.
    pub(crate) fn encoder_stage(&self, runs: usize, (width, height): (usize, usize)) -> Stage {
        let vae = Arc::clone(&self.vae);
        let identity = Identity { networks: vec![vae.number()], form: format!("encode {width}x{height}") };
        let whole = Stage::new(("VAE encoder", Part::Vae), identity, runs, move |caps| {
            vae.record_encode(caps, 1, height, width)
        });
        match &**self.vae {
            Autoencoder::Kl(vae) => {
                let vae = Arc::clone(vae);
                whole.or_in_bands(vae.levels(), move |levels| vae.encode_chain(height, width, levels))
            }
            Autoencoder::Tiny(_) => whole,
        }
    }

    /// The decoder of the final latents.
    pub(crate) fn decoder_stage(&self, runs: usize, size: (usize, usize)) -> Stage {
        self.decoder_of(&self.vae, "VAE decoder", runs, size)
    }

    /// The decoder of this or of another autoencoder of the same latents.
    pub(crate) fn decoder_of(
        &self,
        vae: &Arc<Numbered<Autoencoder>>,
        name: &'static str,
        runs: usize,
        size: (usize, usize),
    ) -> Stage {
        let (latents, whole) = (self.latent_shape(size), Arc::clone(vae));
        let form = format!("decode {}x{}", latents.w, latents.h);
        let identity = Identity { networks: vec![vae.number()], form };
        let whole = Stage::new((name, Part::Vae), identity, runs, move |caps| {
            whole.record_decode(caps, 1, latents.h, latents.w)
        });
        match &***vae {
            Autoencoder::Kl(vae) => {
                let vae = Arc::clone(vae);
                whole.or_in_bands(vae.levels(), move |levels| vae.decode_chain(latents.h, latents.w, levels))
            }
            Autoencoder::Tiny(_) => whole,
        }
    }
}
