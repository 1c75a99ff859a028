//! Convolutions, and the two layers that change the size of an image.

use std::sync::Arc;

use crate::Result;
use crate::ops::{self, Epilogue};
use crate::record::{Constant, Recording, Tensor};
use crate::weights::Weights;

/// A 3×3 convolution, stride 1, padding 1 unless the caller's geometry says otherwise.
pub struct Conv2d {
    weight: Arc<Constant>,
    bias: Option<Arc<Constant>>,
    out_channels: usize,
}

impl Conv2d {
    /// `weight [out, in, 3, 3]` and `bias [out]`.
    ///
    /// # Errors
    /// As [`Weights::conv`].
    pub fn load(w: &Weights, inner: usize, out: usize) -> Result<Self> {
        Ok(Conv2d { weight: w.conv("weight", [out, inner], 3)?, bias: Some(w.vector("bias", out)?), out_channels: out })
    }

    /// `weight [out, in, 3, 3]` alone.
    ///
    /// # Errors
    /// As [`Weights::conv`].
    pub fn load_without_bias(w: &Weights, inner: usize, out: usize) -> Result<Self> {
        Ok(Conv2d { weight: w.conv("weight", [out, inner], 3)?, bias: None, out_channels: out })
    }

    /// The channels of a result that the checkpoint knows, without those that fill up a multiple of 4.
    pub fn unpadded(&self, out: Tensor) -> Tensor {
        out.channels(0, self.out_channels)
    }

    /// `x` is `[n, h, w, in]`; the result has the same height and width.
    ///
    /// # Errors
    /// As [`ops::conv2d`].
    pub fn forward(&self, rec: &mut Recording, x: Tensor, epilogue: Epilogue) -> Result<Tensor> {
        self.forward_as(rec, x, ops::Conv2d::SAME, epilogue)
    }

    /// As [`forward`](Self::forward), with another stride, padding or size.
    ///
    /// # Errors
    /// As [`ops::conv2d`].
    pub fn forward_as(
        &self,
        rec: &mut Recording,
        x: Tensor,
        geometry: ops::Conv2d,
        epilogue: Epilogue,
    ) -> Result<Tensor> {
        let weight = rec.constant(&self.weight);
        let bias = self.bias.as_ref().map(|bias| rec.constant(bias));
        rec.layer(|rec| ops::conv2d(rec, x, weight, geometry, Epilogue { bias, ..epilogue }))
    }
}

/// Halves height and width by a convolution of stride 2.
pub struct Downsample2D {
    conv: Conv2d,
    pad_before: usize,
}

impl Downsample2D {
    /// The UNet's: padded by one on all sides; the result is `⌈h/2⌉ × ⌈w/2⌉`.
    ///
    /// # Errors
    /// As [`Weights::conv`].
    pub fn load(w: &Weights, channels: usize) -> Result<Self> {
        Ok(Downsample2D { conv: Conv2d::load(&w.at("conv"), channels, channels)?, pad_before: 1 })
    }

    /// The autoencoder's: padded below and right only; the result is `⌊h/2⌋ × ⌊w/2⌋`.
    ///
    /// # Errors
    /// As [`Weights::conv`].
    pub fn load_asymmetric(w: &Weights, channels: usize) -> Result<Self> {
        Ok(Downsample2D { conv: Conv2d::load(&w.at("conv"), channels, channels)?, pad_before: 0 })
    }

    /// `x` is `[n, h, w, channels]`.
    ///
    /// # Errors
    /// As [`ops::conv2d`].
    pub fn forward(&self, rec: &mut Recording, x: Tensor) -> Result<Tensor> {
        let geometry = ops::Conv2d { stride: 2, pad_before: self.pad_before, ..ops::Conv2d::SAME };
        let out = self.conv.forward_as(rec, x, geometry, Epilogue::default())?;
        Ok(rec.tap(out))
    }
}

/// Enlarges by repeating pixels, then convolves.
pub struct Upsample2D {
    conv: Conv2d,
}

impl Upsample2D {
    /// `conv.weight`, `conv.bias`.
    ///
    /// # Errors
    /// As [`Weights::conv`].
    pub fn load(w: &Weights, channels: usize) -> Result<Self> {
        Ok(Upsample2D { conv: Conv2d::load(&w.at("conv"), channels, channels)? })
    }

    /// `x` is `[n, h, w, channels]`; the result has the height and width of `size`.
    ///
    /// # Errors
    /// As [`ops::conv2d`].
    pub fn forward(&self, rec: &mut Recording, x: Tensor, size: (usize, usize)) -> Result<Tensor> {
        let geometry = ops::Conv2d { upsample_to: Some(size), ..ops::Conv2d::SAME };
        let out = self.conv.forward_as(rec, x, geometry, Epilogue::default())?;
        Ok(rec.tap(out))
    }
}
