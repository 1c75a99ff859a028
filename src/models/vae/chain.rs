//! The autoencoder as a chain: its finest levels, which are nearly all of its memory, in bands.
//!
//! A part ends before the next norm, whose moments need the whole map: `conv_in`; `norm1` and `conv1`; `norm2`, `conv2` and the
//! shortcut; what enlarges or halves; `conv_norm_out` and `conv_out`. The coarse levels and the middle, with its attention over
//! all pixels, are one recording, as they are in [`record_decode`](AutoencoderKl::record_decode) and
//! [`record_encode`](AutoencoderKl::record_encode); element types are the same throughout.

use std::sync::Arc;

use super::AutoencoderKl;
use crate::Result;
use crate::models::names;
use crate::nn::ResnetBlock2D;
use crate::record::{Band, Chain, FeatureMap, Part, Reach, Recording, Residual, Shape, Span, Tensor};

/// Records a part, and owns what it needs for that.
type RecordPart = Box<dyn Fn(&mut Recording, Band) -> Result<Tensor> + Send>;

impl AutoencoderKl {
    /// Levels that [`decode_chain`](Self::decode_chain) and [`encode_chain`](Self::encode_chain) can have in bands: all.
    pub fn levels(&self) -> usize {
        self.config.block_out_channels.len()
    }

    /// The decoder for one picture's latents of `h` × `w` pixels, with its finest `levels` levels, and what enlarges to the
    /// coarsest of them, in bands. Input and output are [`record_decode`](Self::record_decode)'s.
    ///
    /// # Panics
    /// When `levels` is not from 1 to [`levels`](Self::levels).
    pub fn decode_chain(self: &Arc<Self>, h: usize, w: usize, levels: usize) -> Chain<'static> {
        assert!((1..=self.levels()).contains(&levels), "from one level to all");
        let coarse = self.levels() - levels;
        let mut parts = vec![Part {
            label: "decoder, coarse".into(),
            span: Span::Whole,
            residual: Residual::Unused,
            moments: None,
            record: self.part(move |vae, rec, band| vae.decode_to(rec, band.map, coarse)),
        }];
        if coarse > 0 {
            parts.push(self.enlarge_part(coarse - 1));
        }
        for (i, (resnets, upsampler)) in self.decoder.up_blocks.iter().enumerate().skip(coarse) {
            let scopes = (0..resnets.len()).map(|at| format!("decoder.up_blocks.{i}.resnets.{at}"));
            for (at, scope) in scopes.enumerate() {
                self.resnet_parts(&mut parts, scope, move |vae| &vae.decoder.up_blocks[i].0[at], false);
            }
            if upsampler.is_some() {
                parts.push(self.enlarge_part(i));
            }
        }
        parts.push(Part {
            label: "decoder.conv_out".into(),
            span: Span::Rows(Reach::Same),
            residual: Residual::Unused,
            moments: Some({
                let vae = Arc::clone(self);
                Box::new(move |map| vae.decoder.conv_norm_out.moments(map))
            }),
            record: self
                .part(|vae, rec, band| rec.scoped("decoder", |rec| vae.decoder.leave(rec, band.map, band.moments))),
        });
        let shape = Shape::image(1, h, w, self.config.latent_channels.next_multiple_of(4));
        Chain { input: names::LATENTS, shape, parts, output: names::OUT }
    }

    /// The encoder for one picture of `h` × `w` pixels, with its finest `levels` levels, and what halves the coarsest of them,
    /// in bands. Input and output are [`record_encode`](Self::record_encode)'s.
    ///
    /// # Panics
    /// As [`decode_chain`](Self::decode_chain).
    pub fn encode_chain(self: &Arc<Self>, h: usize, w: usize, levels: usize) -> Chain<'static> {
        assert!((1..=self.levels()).contains(&levels), "from one level to all");
        let mut parts = vec![Part {
            label: "encoder.conv_in".into(),
            span: Span::Rows(Reach::Same),
            residual: Residual::Unused,
            moments: None,
            record: self
                .part(|vae, rec, band| rec.in_f32(|rec| rec.scoped("encoder", |rec| vae.encoder.enter(rec, band.map)))),
        }];
        for (i, (resnets, downsampler)) in self.encoder.down_blocks.iter().enumerate().take(levels) {
            let label = format!("encoder.down_blocks.{i}");
            for at in 0..resnets.len() {
                let scope = format!("{label}.resnets.{at}");
                self.resnet_parts(&mut parts, scope, move |vae| &vae.encoder.down_blocks[i].0[at], true);
            }
            if downsampler.is_some() {
                let label = format!("{label}.downsamplers.0");
                let scope = label.clone();
                parts.push(Part {
                    label,
                    span: Span::Rows(Reach::Halved),
                    residual: Residual::Unused,
                    moments: None,
                    record: self.part(move |vae, rec, band| {
                        let downsampler = vae.encoder.down_blocks[i].1.as_ref().expect("the block has one");
                        rec.in_f32(|rec| rec.scoped(&*scope, |rec| downsampler.forward(rec, band.map)))
                    }),
                });
            }
        }
        parts.push(Part {
            label: "encoder, coarse".into(),
            span: Span::Whole,
            residual: Residual::Unused,
            moments: None,
            record: self.part(move |vae, rec, band| rec.in_f32(|rec| vae.encode_from(rec, band.map, levels))),
        });
        let shape = Shape::image(1, h, w, self.config.in_channels.next_multiple_of(4));
        Chain { input: names::IMAGE, shape, parts, output: names::OUT }
    }

    /// What enlarges the result of a block on the way up.
    fn enlarge_part(self: &Arc<Self>, block: usize) -> Part<'static> {
        let scope = format!("decoder.up_blocks.{block}");
        Part {
            label: format!("{scope}.upsamplers.0"),
            span: Span::Rows(Reach::Doubled),
            residual: Residual::Unused,
            moments: None,
            record: self
                .part(move |vae, rec, band| rec.scoped(&*scope, |rec| vae.decoder.enlarge(rec, block, band.map))),
        }
    }

    /// The dispatches of a part that owns the network it is of.
    fn part(
        self: &Arc<Self>,
        record: impl Fn(&Self, &mut Recording, Band) -> Result<Tensor> + Send + 'static,
    ) -> RecordPart {
        let vae = Arc::clone(self);
        Box::new(move |rec, band| record(&vae, rec, band))
    }

    /// Two parts of a residual block; `wide` keeps all of it in f32.
    fn resnet_parts(
        self: &Arc<Self>,
        parts: &mut Vec<Part<'static>>,
        scope: String,
        block: impl Fn(&Self) -> &ResnetBlock2D + Clone + Send + Sync + 'static,
        wide: bool,
    ) {
        type Half = fn(&ResnetBlock2D, &mut Recording, Band, Tensor) -> Result<Tensor>;
        type Moments = fn(&ResnetBlock2D, &FeatureMap) -> Result<Vec<f32>>;
        let mut half = |name: &str, residual, moments: Moments, record: Half| {
            let (inner, of, vae) = (scope.clone(), block.clone(), Arc::clone(self));
            parts.push(Part {
                label: format!("{scope}.{name}"),
                span: Span::Rows(Reach::Same),
                residual,
                moments: Some(Box::new(move |x| moments(of(&vae), x))),
                record: {
                    let block = block.clone();
                    self.part(move |vae, rec, band| {
                        let moments = band.moments.expect("a part with moments is given them");
                        let body =
                            |rec: &mut Recording| rec.scoped(&*inner, |rec| record(block(vae), rec, band, moments));
                        if wide { rec.in_f32(body) } else { body(rec) }
                    })
                },
            });
        };
        half("conv1", Residual::Keep, ResnetBlock2D::moments1, |resnet, rec, band, moments| {
            resnet.forward_first(rec, band.map, moments)
        });
        half("conv2", Residual::Add, ResnetBlock2D::moments2, |resnet, rec, band, moments| {
            let x = band.residual.expect("a part that adds is given what was kept");
            resnet.forward_second(rec, band.map, x, moments)
        });
    }
}
