//! Tensor handles: shape, storage type, and which part of a storage they name.

/// How elements are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// Weights alone: bytes with a scale for 32 of them ([`quantize`](super::quantize)).
    Q8_0,
    /// Weights alone: half-bytes with a scale for 32 of them ([`quantize`](super::quantize)).
    Q4_0,
}

impl DType {
    /// Bytes of `len` elements.
    pub const fn bytes(self, len: usize) -> usize {
        match self {
            DType::F32 => 4 * len,
            DType::F16 => 2 * len,
            DType::Q8_0 | DType::Q4_0 => super::quant::byte_len(self, len),
        }
    }

    /// Whether elements share scales.
    pub const fn is_quantized(self) -> bool {
        matches!(self, DType::Q8_0 | DType::Q4_0)
    }

    /// "f32", "f16", "q8_0" or "q4_0".
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Q8_0 => "q8_0",
            DType::Q4_0 => "q4_0",
        }
    }
}

/// The extent of an activation, channels last: `[n, h, w, c]`. A sequence `[B, T, C]` is `[B, 1, T, C]`, a vector per
/// image `[B, 1, 1, C]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Images (rows of the batch).
    pub n: usize,
    /// Height in pixels or latents; 1 for sequences.
    pub h: usize,
    /// Width, or tokens of a sequence.
    pub w: usize,
    /// Channels.
    pub c: usize,
}

impl Shape {
    /// An image batch, channels last.
    pub const fn image(n: usize, h: usize, w: usize, c: usize) -> Self {
        Shape { n, h, w, c }
    }

    /// A batch of token sequences `[batch, tokens, channels]`.
    pub const fn tokens(batch: usize, tokens: usize, channels: usize) -> Self {
        Shape { n: batch, h: 1, w: tokens, c: channels }
    }

    /// Rows of the matrix `[n*h*w, c]` that the storage is.
    pub const fn rows(self) -> usize {
        self.n * self.h * self.w
    }

    /// Elements.
    pub const fn len(self) -> usize {
        self.rows() * self.c
    }

    /// Whether any extent is zero.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}, {}, {}, {}]", self.n, self.h, self.w, self.c)
    }
}

/// A handle to (a range of channels of) a tensor of one [`Recording`](super::Recording).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tensor {
    /// Index of the storage in the recording.
    pub(crate) storage: u32,
    /// Extent of the part that this handle names.
    pub shape: Shape,
    /// Channels of the storage: elements from one row to the next.
    pub row_stride: usize,
    /// First channel of the part.
    pub channel_offset: usize,
}

impl Tensor {
    /// The same storage seen with other `n`, `h`, `w`; the number of rows and the channels stay.
    pub fn reshape(self, n: usize, h: usize, w: usize) -> Tensor {
        assert_eq!(n * h * w, self.shape.rows(), "a reshape keeps the number of rows");
        Tensor { shape: Shape { n, h, w, c: self.shape.c }, ..self }
    }

    /// Channels `offset..offset + len`, as a view.
    pub fn channels(self, offset: usize, len: usize) -> Tensor {
        assert!(offset + len <= self.shape.c, "a channel range lies inside its tensor");
        Tensor { shape: Shape { c: len, ..self.shape }, channel_offset: self.channel_offset + offset, ..self }
    }

    /// Index of the storage in its recording, and in a plan's placements.
    pub fn storage(self) -> usize {
        self.storage as usize
    }

    /// Whether the handle names its whole storage, without gaps between rows.
    pub fn is_contiguous(&self) -> bool {
        self.row_stride == self.shape.c && self.channel_offset == 0
    }
}
