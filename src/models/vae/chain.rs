//! The autoencoder as a chain: its finest levels, which are nearly all of its memory, in bands.
//!
//! A part ends before the next norm, whose moments need the whole map: `conv_in`; `norm1` and `conv1`; `norm2`, `conv2` and the
//! shortcut; what enlarges or halves; `conv_norm_out` and `conv_out`. The coarse levels and the middle, with its attention over
//! all pixels, are one recording, as they are in [`record_decode`](AutoencoderKl::record_decode) and
//! [`record_encode`](AutoencoderKl::record_encode); element types are the same throughout.

use super::AutoencoderKl;
use crate::Result;
use crate::models::names;
use crate::nn::ResnetBlock2D;
use crate::record::{Band, Chain, Part, Reach, Recording, Residual, Shape, Span, Tensor};

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
    pub fn decode_chain(&self, h: usize, w: usize, levels: usize) -> Chain<'_> {
        assert!((1..=self.levels()).contains(&levels), "from one level to all");
        let decoder = &self.decoder;
        let coarse = self.levels() - levels;
        let mut parts = vec![Part {
            label: "decoder, coarse".into(),
            span: Span::Whole,
            residual: Residual::Unused,
            moments: None,
            record: Box::new(move |rec, band| self.decode_to(rec, band.map, coarse)),
        }];
        if coarse > 0 {
            parts.push(self.enlarge_part(coarse - 1));
        }
        for (i, (resnets, upsampler)) in decoder.up_blocks.iter().enumerate().skip(coarse) {
            resnet_parts(&mut parts, &format!("decoder.up_blocks.{i}"), resnets, false);
            if upsampler.is_some() {
                parts.push(self.enlarge_part(i));
            }
        }
        parts.push(Part {
            label: "decoder.conv_out".into(),
            span: Span::Rows(Reach::Same),
            residual: Residual::Unused,
            moments: Some(Box::new(|map| decoder.conv_norm_out.moments(map))),
            record: Box::new(|rec, band| rec.scoped("decoder", |rec| decoder.leave(rec, band.map, band.moments))),
        });
        let shape = Shape::image(1, h, w, self.config.latent_channels.next_multiple_of(4));
        Chain { input: names::LATENTS, shape, parts, output: names::OUT }
    }

    /// The encoder for one picture of `h` × `w` pixels, with its finest `levels` levels, and what halves the coarsest of them,
    /// in bands. Input and output are [`record_encode`](Self::record_encode)'s.
    ///
    /// # Panics
    /// As [`decode_chain`](Self::decode_chain).
    pub fn encode_chain(&self, h: usize, w: usize, levels: usize) -> Chain<'_> {
        assert!((1..=self.levels()).contains(&levels), "from one level to all");
        let encoder = &self.encoder;
        let mut parts = vec![Part {
            label: "encoder.conv_in".into(),
            span: Span::Rows(Reach::Same),
            residual: Residual::Unused,
            moments: None,
            record: Box::new(|rec, band| rec.in_f32(|rec| rec.scoped("encoder", |rec| encoder.enter(rec, band.map)))),
        }];
        for (i, (resnets, downsampler)) in encoder.down_blocks.iter().enumerate().take(levels) {
            let label = format!("encoder.down_blocks.{i}");
            resnet_parts(&mut parts, &label, resnets, true);
            if let Some(downsampler) = downsampler {
                let label = format!("{label}.downsamplers.0");
                let scope = label.clone();
                parts.push(Part {
                    label,
                    span: Span::Rows(Reach::Halved),
                    residual: Residual::Unused,
                    moments: None,
                    record: Box::new(move |rec, band| {
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
            record: Box::new(move |rec, band| rec.in_f32(|rec| self.encode_from(rec, band.map, levels))),
        });
        let shape = Shape::image(1, h, w, self.config.in_channels.next_multiple_of(4));
        Chain { input: names::IMAGE, shape, parts, output: names::OUT }
    }

    /// What enlarges the result of a block on the way up.
    fn enlarge_part(&self, block: usize) -> Part<'_> {
        let scope = format!("decoder.up_blocks.{block}");
        Part {
            label: format!("{scope}.upsamplers.0"),
            span: Span::Rows(Reach::Doubled),
            residual: Residual::Unused,
            moments: None,
            record: Box::new(move |rec, band| rec.scoped(&*scope, |rec| self.decoder.enlarge(rec, block, band.map))),
        }
    }
}

/// Two parts of each block; `wide` keeps all of it in f32.
fn resnet_parts<'m>(parts: &mut Vec<Part<'m>>, scope: &str, resnets: &'m [ResnetBlock2D], wide: bool) {
    type Half<'m> = Box<dyn Fn(&mut Recording, Band, Tensor) -> Result<Tensor> + Send + 'm>;
    for (i, resnet) in resnets.iter().enumerate() {
        let scope = format!("{scope}.resnets.{i}");
        let mut half = |name: &str, residual, moments, record: Half<'m>| {
            let scope = scope.clone();
            parts.push(Part {
                label: format!("{scope}.{name}"),
                span: Span::Rows(Reach::Same),
                residual,
                moments: Some(moments),
                record: Box::new(move |rec, band| {
                    let moments = band.moments.expect("a part with moments is given them");
                    let body = |rec: &mut Recording| rec.scoped(&*scope, |rec| record(rec, band, moments));
                    if wide { rec.in_f32(body) } else { body(rec) }
                }),
            });
        };
        half(
            "conv1",
            Residual::Keep,
            Box::new(|x| resnet.moments1(x)),
            Box::new(|rec, band, moments| resnet.forward_first(rec, band.map, moments)),
        );
        half(
            "conv2",
            Residual::Add,
            Box::new(|hidden| resnet.moments2(hidden)),
            Box::new(|rec, band, moments| {
                let x = band.residual.expect("a part that adds is given what was kept");
                resnet.forward_second(rec, band.map, x, moments)
            }),
        );
    }
}
