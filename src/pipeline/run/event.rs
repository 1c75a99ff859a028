//! What a request that is under way tells.

use crate::pipeline::png::parameters::Picture;

/// One unit of finished work.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// All prompts went through the text encoders, and the picture to start from through its own.
    Encoded,
    /// Picture `image` (from 0) has its starting latents x̃_T.
    OneMoreStep {
        /// Which picture.
        image: usize,
    },
    /// A step of the solver is done for a batch of pictures.
    Step {
        /// The last picture of the batch, from 0.
        image: usize,
        /// Which step, from 1.
        step: usize,
        /// Steps in all.
        of: usize,
    },
    /// Hires: picture `image` of the first pass is ready to be drawn again at its final size.
    Enlarged {
        /// Which picture, from 0.
        image: usize,
    },
    /// A picture is ready.
    Picture(Box<Picture>),
}
