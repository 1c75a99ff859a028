//! Writes GGUF files (ggml's `docs/gguf.md`), with blocks as `ggml-quants.c` makes them.

use half::f16;

use super::single_file::Entry;

/// A tensor to be written: ggml's number of its type, extents slowest first.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) kind: u32,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Tensor {
    pub(crate) fn new(name: &str, kind: u32, shape: &[usize], bytes: Vec<u8>) -> Self {
        Tensor { name: name.into(), kind, shape: shape.to_vec(), bytes }
    }

    /// As it is stored in another file.
    pub(crate) fn of(entry: &Entry) -> Self {
        let kind = match entry.dtype {
            "F32" => 0,
            "F16" => 1,
            "I64" => 27,
            other => panic!("{}: {other}", entry.name),
        };
        Tensor::new(&entry.name, kind, &entry.shape, entry.bytes.clone().expect("no hole"))
    }
}

const ALIGNMENT: usize = 32;

/// A file of version 3. `shapes` are kept as ComfyUI-GGUF keeps extents that ggml cannot have.
pub(crate) fn gguf(tensors: &[Tensor], shapes: &[(&str, Vec<usize>)]) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((shapes.len() as u64).to_le_bytes());
    let string = |file: &mut Vec<u8>, text: &str| {
        file.extend((text.len() as u64).to_le_bytes());
        file.extend(text.as_bytes());
    };
    for (name, shape) in shapes {
        string(&mut file, &format!("comfy.gguf.orig_shape.{name}"));
        // A list of 32-bit integers.
        file.extend(9u32.to_le_bytes());
        file.extend(5u32.to_le_bytes());
        file.extend((shape.len() as u64).to_le_bytes());
        shape.iter().for_each(|&extent| file.extend((extent as u32).to_le_bytes()));
    }
    let mut offset = 0;
    for tensor in tensors {
        string(&mut file, &tensor.name);
        // ggml has at least one extent, and drops slow ones of 1.
        let from = tensor.shape.iter().position(|&extent| extent != 1).unwrap_or(tensor.shape.len());
        let shape = &tensor.shape[from.min(tensor.shape.len().saturating_sub(1))..];
        let shape = if shape.is_empty() { &[1] } else { shape };
        file.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|&extent| file.extend((extent as u64).to_le_bytes()));
        file.extend(tensor.kind.to_le_bytes());
        file.extend((offset as u64).to_le_bytes());
        offset = (offset + tensor.bytes.len()).next_multiple_of(ALIGNMENT);
    }
    for tensor in tensors {
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        file.extend(&tensor.bytes);
    }
    file
}

/// `quantize_row_q8_0_ref`.
pub(crate) fn q8_0(values: &[f32]) -> Vec<u8> {
    let block = |x: &[f32]| {
        let d = x.iter().fold(0.0f32, |most, v| most.max(v.abs())) / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let quants: Vec<u8> = x.iter().map(|v| (v * inverse).round() as i8 as u8).collect();
        [f16::from_f32(d).to_le_bytes().as_slice(), &quants].concat()
    };
    values.chunks(32).flat_map(block).collect()
}

/// `quantize_row_q4_0_ref`.
pub(crate) fn q4_0(values: &[f32]) -> Vec<u8> {
    let block = |x: &[f32]| {
        let largest = x.iter().fold(0.0f32, |most, &v| if v.abs() > most.abs() { v } else { most });
        let d = largest / -8.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let quant = |v: f32| ((v * inverse + 8.5) as u8).min(15);
        let quants: Vec<u8> = (0..16).map(|i| quant(x[i]) | quant(x[i + 16]) << 4).collect();
        [f16::from_f32(d).to_le_bytes().as_slice(), &quants].concat()
    };
    values.chunks(32).flat_map(block).collect()
}

/// The values of blocks of q8_0 or q4_0: `dequantize_row_q8_0`, `dequantize_row_q4_0`.
pub(crate) fn unpacked(kind: u32, bytes: &[u8]) -> Vec<f32> {
    let block = |b: &[u8]| -> Vec<f32> {
        let d = f16::from_le_bytes([b[0], b[1]]).to_f32();
        let half = |byte: u8| d * (f32::from(byte) - 8.0);
        match kind {
            8 => b[2..].iter().map(|&q| d * f32::from(q as i8)).collect(),
            _ => b[2..].iter().map(|q| half(q & 15)).chain(b[2..].iter().map(|q| half(q >> 4))).collect(),
        }
    };
    bytes.chunks(if kind == 8 { 34 } else { 18 }).flat_map(block).collect()
}
