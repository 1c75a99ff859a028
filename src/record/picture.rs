//! A picture that stays on the device that made it.

use std::any::Any;

/// Which values of a decoder's output are black and white.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PixelRange {
    /// -1 and 1.
    #[default]
    Signed,
    /// 0 and 1.
    FromZero,
}

/// An output as a picture on the device, of 8-bit RGB as `image::Rgb8Image` rounds it. What it is there, the backend knows:
/// `gpu::texture` makes a texture of a GPU's.
pub struct DevicePicture {
    size: (usize, usize),
    non_finite: usize,
    handle: Box<dyn Any + Send + Sync>,
}

impl DevicePicture {
    /// A picture of `(width, height)` pixels, of whose values so many are NaN or infinite; `handle` is what the backend knows it by.
    pub fn new(size: (usize, usize), non_finite: usize, handle: Box<dyn Any + Send + Sync>) -> Self {
        DevicePicture { size, non_finite, handle }
    }

    /// Pixels across and down.
    pub fn size(&self) -> (usize, usize) {
        self.size
    }

    /// How many of its values are NaN or infinite: a picture with any is of no use.
    pub fn non_finite(&self) -> usize {
        self.non_finite
    }

    /// What the backend knows it by.
    pub fn handle(&self) -> &(dyn Any + Send + Sync) {
        &*self.handle
    }
}

impl std::fmt::Debug for DevicePicture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (width, height) = self.size;
        write!(f, "DevicePicture({width}x{height})")
    }
}
