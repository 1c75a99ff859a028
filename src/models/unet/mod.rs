//! The conditional UNet of Stable Diffusion 1.x, 2.x and XL, of latent consistency models and of inpainting models; the same network
//! without time, which is the OMS module; and ControlNets, which are copies of its way down.

mod blocks;
mod config;
mod control;
mod shortcuts;
mod trunk;

pub use config::{DownBlockType, MidBlockType, UnetConfig, UpBlockType};
pub use control::{ControlNet, ControlNetConfig};
pub use shortcuts::{Shortcuts, TokenMerging};

use blocks::{Skips, UpBlock};
use trunk::{Inputs, Trunk};

use super::{names, new_recording};
use crate::nn::{Conv2d, GroupNorm};
use crate::ops::Epilogue;
use crate::record::{Caps, Recording};
use crate::weights::Weights;
use crate::{Error, Result};

/// `UNet2DConditionModel` of diffusers, and `UNet2DConditionWoCTModel` of the OMS authors.
pub struct Unet {
    config: UnetConfig,
    trunk: Trunk,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Unet {
    /// Loads the network from the root of its file.
    ///
    /// # Errors
    /// When a tensor is missing, has another shape, or was never asked for; when heads do not divide channels.
    pub fn load(config: UnetConfig, w: &Weights) -> Result<Self> {
        let levels = config.levels()?;
        let finest = levels[0];
        let (trunk, up_blocks) = Trunk::load(&config, w, |loader| {
            (0..levels.len()).map(|i| UpBlock::load(&w.at("up_blocks").at(i), loader, i, &levels)).collect()
        })?;
        let unet = Unet {
            trunk,
            up_blocks,
            conv_norm_out: GroupNorm::load(
                &w.at("conv_norm_out"),
                finest.channels,
                config.norm_num_groups,
                config.norm_eps,
            )?,
            conv_out: Conv2d::load(&w.at("conv_out"), finest.channels, config.out_channels)?,
            config,
        };
        w.finish(&[])?;
        Ok(unet)
    }

    /// What the checkpoint's config says.
    pub fn config(&self) -> &UnetConfig {
        &self.config
    }

    /// Records one call: latents `[n, h, w]` and `tokens` text states per image.
    ///
    /// Inputs: [`names::SAMPLE`], [`names::ENCODER_HIDDEN_STATES`], and where the config has them [`names::TIME_PROJ`],
    /// [`names::TIMESTEP_COND`], [`names::ADD_EMBEDS`]. Output: [`names::OUT`], `[n, h, w, out_channels]`. With `taps`,
    /// every module's result too, under the checkpoint's name; `a + b` names a sum and `silu(a)` an activation where
    /// only those exist in memory.
    ///
    /// # Errors
    /// When an extent is zero, or an operation refuses a shape.
    pub fn record(&self, caps: &Caps, n: usize, h: usize, w: usize, tokens: usize, taps: bool) -> Result<Recording> {
        self.record_controlled(caps, [n, h, w], tokens, &[], taps)
    }

    /// [`record`](Self::record) with ControlNets: each sees the same latents, text and time, and adds to the states that the way down
    /// leaves for the way up, and to the middle's (`StableDiffusionControlNetPipeline` of diffusers).
    ///
    /// Further inputs for net `i`: [`names::control_image`] and [`names::control_scales`]; and [`names::CONTROL_SAMPLE`] where the UNet takes
    /// more channels than the nets.
    ///
    /// # Errors
    /// As [`record`](Self::record); when a net is of another family ([`ControlNet::check`]).
    pub fn record_controlled(
        &self,
        caps: &Caps,
        [n, h, w]: [usize; 3],
        tokens: usize,
        controls: &[&ControlNet],
        taps: bool,
    ) -> Result<Recording> {
        self.record_shortened(caps, [n, h, w], tokens, controls, Shortcuts::default(), taps)
    }

    /// The largest [`depth`](Shortcuts::depth): all states that the way down leaves but the last.
    pub fn most_depth(&self) -> usize {
        self.up_blocks.iter().map(UpBlock::takes).sum::<usize>().saturating_sub(1)
    }

    /// [`record_controlled`](Self::record_controlled) for less work.
    ///
    /// # Errors
    /// As [`record_controlled`](Self::record_controlled); when the depth is not from 1 to [`most_depth`](Self::most_depth) or there are
    /// ControlNets besides, which add to what is kept; as [`TokenMerging::check`].
    pub fn record_shortened(
        &self,
        caps: &Caps,
        [n, h, w]: [usize; 3],
        tokens: usize,
        controls: &[&ControlNet],
        shortcuts: Shortcuts,
        taps: bool,
    ) -> Result<Recording> {
        let Shortcuts { depth, merging } = shortcuts;
        if let Some(depth) = depth {
            let most = self.most_depth();
            if !(1..=most).contains(&depth) {
                return Err(Error::request("deep-cache", format!("expected a depth from 1 to {most}, got {depth}")));
            }
            if !controls.is_empty() {
                return Err(Error::request("deep-cache", "does not go with ControlNets"));
            }
        }
        let mut recording = new_recording(caps, taps);
        let rec = &mut recording;
        let inputs = Inputs::record(rec, &self.config, [n, h, w], tokens)?;
        let mut condition = self.trunk.condition(rec, &inputs)?;
        condition.merging = merging.map(|merging| merging.of(&self.config, [h, w])).transpose()?;
        let mut skips = Skips::new(depth);
        // The way down and the middle stay in f32.
        let mut hidden = rec.in_f32(|rec| {
            let mut hidden = self.trunk.enter(rec, inputs.sample)?;
            skips.push(rec, hidden);
            for i in 0..self.trunk.down_blocks.len() {
                hidden = self.trunk.down(rec, i, hidden, &condition, &mut skips)?;
            }
            hidden = self.trunk.mid(rec, hidden, &condition)?;
            if !controls.is_empty() {
                let seen = inputs.of_controls(rec, &self.config);
                for (i, net) in controls.iter().enumerate() {
                    net.check(&self.config)?;
                    rec.scoped(format!("control.{i}"), |rec| net.add(rec, i, &seen, &mut skips.states, &mut hidden))?;
                }
            }
            Result::Ok(hidden)
        })?;
        for (i, block) in self.up_blocks.iter().enumerate() {
            hidden = rec.scoped(format!("up_blocks.{i}"), |rec| block.forward(rec, hidden, &condition, &mut skips))?;
        }
        hidden = rec.scoped("conv_norm_out", |rec| self.conv_norm_out.forward_silu(rec, hidden))?;
        rec.tap_as("silu(conv_norm_out)", hidden);
        let out = rec.scoped("conv_out", |rec| {
            let out = rec.in_f32(|rec| self.conv_out.forward(rec, hidden, Epilogue::default()))?;
            Result::Ok(rec.tap(self.conv_out.unpadded(out)))
        })?;
        rec.output(names::OUT, out);
        Ok(recording)
    }
}
