//! What an upload gets piece by piece, against the definition of each layout and type.

use std::sync::Arc;

use chiaro::record::{Constant, DType, quantize};
use chiaro::weights::{WeightType, Weights};
use half::{bf16, f16};

use super::{f32s, file, safetensors};

/// Tensors of more values than are converted at a time.
const MATRIX: [usize; 2] = [1504, 800];
const CONV: [usize; 2] = [258, 515];
const BLOCKS: [usize; 2] = [262, 512];
const FUSED: [usize; 2] = [701, 544];

fn number(i: usize) -> f32 {
    ((i % 9973) as f32 * 0.37).sin()
}

/// Values as stored, and as the type holds them.
fn stored(dtype: &str, count: usize, seed: usize) -> (Vec<u8>, Vec<f32>) {
    let values: Vec<f32> = (0..count).map(|i| number(i + seed)).collect();
    match dtype {
        "F32" => (f32s(&values), values),
        "F16" => {
            let halves: Vec<f16> = values.iter().map(|v| f16::from_f32(*v)).collect();
            (halves.iter().flat_map(|v| v.to_le_bytes()).collect(), halves.iter().map(|v| v.to_f32()).collect())
        }
        _ => {
            let upper: Vec<bf16> = values.iter().map(|v| bf16::from_f32(*v)).collect();
            (upper.iter().flat_map(|v| v.to_le_bytes()).collect(), upper.iter().map(|v| v.to_f32()).collect())
        }
    }
}

/// `[out, in, taps]` → `[out', taps, in']`, zeros where there was nothing.
fn packed(values: &[f32], [out, inner]: [usize; 2], taps: usize) -> Vec<f32> {
    let (rows, columns) = (out.next_multiple_of(4), inner.next_multiple_of(4));
    let mut packed = vec![0.0; rows * taps * columns];
    for (i, value) in values.iter().enumerate() {
        let (row, channel, tap) = (i / (inner * taps), i / taps % inner, i % taps);
        packed[(row * taps + tap) * columns + channel] = *value;
    }
    packed
}

fn bytes(values: &[f32], dtype: DType) -> Vec<u8> {
    let halves = || values.iter().map(|v| f16::from_f32(*v));
    match dtype {
        DType::F32 => f32s(values),
        DType::F16 => halves().flat_map(|v| v.to_le_bytes()).collect(),
        blocks => quantize(blocks, &halves().map(|v| v.to_f32()).collect::<Vec<_>>()).expect("whole blocks"),
    }
}

/// The pieces put together; each byte is given once, and the number of pieces.
fn gathered(constant: &Constant) -> (Vec<u8>, usize) {
    let mut all = vec![0; constant.byte_len()];
    let mut given = vec![false; all.len()];
    let mut count = 0;
    let pieces = constant.checked_pieces(&mut |offset, piece| {
        assert!(offset % 4 == 0 && (piece.len() % 4 == 0 || offset + piece.len() == given.len()), "{}", constant.label);
        assert!(given[offset..offset + piece.len()].iter().all(|given| !given), "{}: twice", constant.label);
        given[offset..offset + piece.len()].fill(true);
        all[offset..offset + piece.len()].copy_from_slice(piece);
        count += 1;
        Ok(())
    });
    pieces.unwrap_or_else(|e| panic!("{e}"));
    assert!(given.iter().all(|given| *given), "{}: gaps", constant.label);
    (all, count)
}

#[test]
fn pieces_are_the_whole_in_every_layout_and_type() {
    for stored_as in ["F32", "F16", "BF16"] {
        let of = |count: usize, seed: usize| stored(stored_as, count, seed);
        let (matrix, conv) = (of(MATRIX[0] * MATRIX[1], 1), of(CONV[0] * CONV[1] * 9, 2));
        let (blocks, vector) = (of(BLOCKS[0] * BLOCKS[1] * 9, 3), of(5, 4));
        let fused: Vec<_> = (5..8).map(|seed| of(FUSED[0] * FUSED[1], seed)).collect();
        let names = ["q", "k", "v"];
        let mut tensors = vec![
            ("matrix", stored_as, &MATRIX[..], matrix.0),
            ("conv", stored_as, &[CONV[0], CONV[1], 3, 3][..], conv.0),
            ("blocks", stored_as, &[BLOCKS[0], BLOCKS[1], 3, 3][..], blocks.0),
            ("vector", stored_as, &[5][..], vector.0),
        ];
        tensors
            .extend(names.iter().zip(&fused).map(|(name, (bytes, _))| (*name, stored_as, &FUSED[..], bytes.clone())));
        let whole = file(safetensors(&tensors));
        let rows: Vec<f32> = fused.iter().flat_map(|(_, values)| values.iter().copied()).collect();
        let wants = [
            packed(&matrix.1, MATRIX, 1),
            packed(&conv.1, CONV, 9),
            packed(&blocks.1, BLOCKS, 9),
            packed(&rows, [3 * FUSED[0], FUSED[1]], 1),
        ];
        for weight_type in [WeightType::Keep, WeightType::F16, WeightType::Q8_0, WeightType::Q4_0] {
            let what = format!("{stored_as} as {weight_type:?}");
            let w = Weights::new(whole.clone(), "m", weight_type);
            let constants: [chiaro::Result<Arc<Constant>>; 4] = [
                w.matrix("matrix", MATRIX),
                w.conv("conv", CONV, 3),
                w.conv("blocks", BLOCKS, 3),
                w.fused_matrix(&names, FUSED),
            ];
            for (constant, want) in constants.into_iter().zip(&wants) {
                let constant = constant.unwrap_or_else(|e| panic!("{e}"));
                let (got, count) = gathered(&constant);
                // Rows of 515 channels are padded to 516 and so no whole blocks.
                let quantised = weight_type != WeightType::Keep && weight_type != WeightType::F16;
                assert_eq!(
                    constant.dtype.is_quantized(),
                    quantised && constant.label != "conv",
                    "{what}: {}",
                    constant.label
                );
                let name = &constant.label;
                assert!(got == bytes(want, constant.dtype), "{what}: {name} differs");
                assert!(
                    got == *constant.checked_bytes().unwrap_or_else(|e| panic!("{e}")),
                    "{what}: {name}: bytes differ"
                );
                assert!(count >= 1, "{what}: {name}: no pieces");
            }
            let constant = w.vector("vector", 5).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(gathered(&constant).0, f32s(&[&vector.1[..], &[0.0; 3]].concat()), "{what}");
        }
    }
}

/// The count of what f16 cannot hold is the tensor's, not the piece's.
#[test]
fn what_is_lost_is_counted_over_all_pieces() {
    let mut values = vec![0.5f32; MATRIX[0] * MATRIX[1]];
    let last = values.len() - 1;
    (values[0], values[1], values[last]) = (1e6, -1e6, 7e4);
    let whole = file(safetensors(&[("matrix", "F32", &MATRIX, f32s(&values))]));
    let w = Weights::new(whole, "m", WeightType::F16);
    let constant = w.matrix("matrix", MATRIX).unwrap_or_else(|e| panic!("{e}"));
    let error = constant.checked_pieces(&mut |_, _| Ok(())).expect_err("beyond f16").to_string();
    assert!(error.contains("matrix: 3 values are beyond the range of f16"), "{error}");
    assert_eq!(constant.checked_bytes().map(|_| ()).expect_err("beyond f16").to_string(), error);
}

/// A sink's refusal ends the reading.
#[test]
fn an_error_of_the_sink_comes_through() {
    let whole = file(safetensors(&[("matrix", "BF16", &MATRIX, vec![0; 2 * MATRIX[0] * MATRIX[1]])]));
    let constant =
        Weights::new(whole, "m", WeightType::Q8_0).matrix("matrix", MATRIX).unwrap_or_else(|e| panic!("{e}"));
    let mut calls = 0;
    let result = constant.checked_pieces(&mut |_, _| {
        calls += 1;
        Err(chiaro::Error::Device("full".into()))
    });
    assert!(result.is_err_and(|e| e.to_string().contains("full")) && calls == 1);
}
