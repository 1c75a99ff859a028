//! Every code of the 8-bit types against the definition, and views of tensors.

use chiaro::record::DType;
use chiaro::weights::{StoredType, TensorSet, WeightType, Weights};
use half::bf16;

use super::{counting, f32s, file, safetensors, values};

/// (-1)^s · 2^(e - bias) · (1 + m / 2^bits), or 2^(1 - bias) · m / 2^bits where e is 0, from the specification's table
/// (OCP 8-bit Floating Point Specification, revision 1.0, section 5.1).
fn defined(code: u8, exponent_bits: u32, special: impl Fn(u32, u32) -> Option<f64>) -> f64 {
    let mantissa_bits = 7 - exponent_bits;
    let bias = (1i32 << (exponent_bits - 1)) - 1;
    let exponent = u32::from(code) >> mantissa_bits & ((1 << exponent_bits) - 1);
    let mantissa = u32::from(code) & ((1 << mantissa_bits) - 1);
    let fraction = f64::from(mantissa) / f64::from(1 << mantissa_bits);
    let magnitude = special(exponent, mantissa).unwrap_or(match exponent {
        0 => 2f64.powi(1 - bias) * fraction,
        e => 2f64.powi(e as i32 - bias) * (1.0 + fraction),
    });
    if code & 0x80 != 0 { -magnitude } else { magnitude }
}

fn check(dtype: &str, defined: impl Fn(u8) -> f64) {
    let codes: Vec<u8> = (0..=255).collect();
    let whole =
        file(safetensors(&[("codes", dtype, &[256, 1, 1, 1], codes.clone()), ("row", dtype, &[1, 256], codes)]));
    for weight_type in [WeightType::Keep, WeightType::F16] {
        let w = Weights::new(whole.clone(), "m", weight_type);
        let constant = w.matrix("row", [1, 256]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(constant.dtype, DType::F16, "f16 holds every {dtype}");
        let vector = w.table("row", [1, 256]).unwrap_or_else(|e| panic!("{e}"));
        let row = vector.row(0).unwrap_or_else(|e| panic!("{e}"));
        for (code, (got, exact)) in values(&constant).into_iter().zip(row).enumerate() {
            let want = defined(code as u8);
            assert!(
                (want.is_nan() && got.is_nan() && exact.is_nan())
                    || (f64::from(got) == want && f64::from(exact) == want && got.is_sign_negative() == (code > 127)),
                "{dtype} {code:#04x}: {got} and {exact}, defined as {want}"
            );
        }
    }
}

#[test]
fn every_code_of_e4m3() {
    check("F8_E4M3", |code| defined(code, 4, |e, m| (e == 15 && m == 7).then_some(f64::NAN)));
    assert_eq!(defined(0x7e, 4, |_, _| None), 448.0, "the specification's largest value");
}

#[test]
fn every_code_of_e5m2() {
    let special = |e, m| (e == 31).then_some(if m == 0 { f64::INFINITY } else { f64::NAN });
    check("F8_E5M2", |code| defined(code, 5, special));
    assert_eq!(defined(0x7b, 5, special), 57_344.0, "the specification's largest value");
}

/// bf16 reaches further than f16, so that it is kept as f32, and refused as f16 beyond its range.
#[test]
fn bf16_is_not_cut() {
    let values_of = [1.0, 1e30, -3.0, 0.0];
    let bytes = values_of.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect();
    let whole = file(safetensors(&[("a", "BF16", &[1, 4], bytes)]));
    let kept = Weights::new(whole.clone(), "m", WeightType::Keep).matrix("a", [1, 4]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((kept.dtype, values(&kept)[1]), (DType::F32, bf16::from_f32(1e30).to_f32()));
    let halves = Weights::new(whole, "m", WeightType::F16).matrix("a", [1, 4]).unwrap_or_else(|e| panic!("{e}"));
    assert!(halves.data.bytes().is_err());
}

#[test]
fn views_are_parts_of_the_same_bytes() {
    let whole = TensorSet::from(file(safetensors(&[
        ("in.qkv", "F32", &[6, 2], f32s(&counting(12))),
        ("in.projection", "F32", &[2, 3], f32s(&counting(6))),
        ("other", "F16", &[1], vec![0; 2]),
    ])));
    let inner = whole.under("in.");
    assert_eq!(inner.tensors().keys().collect::<Vec<_>>(), ["projection", "qkv"]);
    let qkv = &inner.tensors()["qkv"];
    let part = qkv.part(1, 3).expect("two rows");
    assert!(qkv.part(3, 3).is_none() && qkv.part(0, 4).is_none() && qkv.part(0, 0).is_none());
    assert!(qkv.reshaped(&[3, 4, 1]).is_some() && qkv.reshaped(&[5]).is_none());
    let swapped = inner.tensors()["projection"].swapped().expect("a matrix");
    assert_eq!((swapped.shape(), swapped.dtype()), ([3, 2].as_slice(), StoredType::F32));
    let set = TensorSet::new("view", [("k".into(), part), ("p".into(), swapped)].into());
    let w = Weights::new(set, "m", WeightType::Keep);
    let k = w.matrix("k", [2, 2]).unwrap_or_else(|e| panic!("{e}"));
    let bytes = k.data.bytes().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(bytemuck::pod_collect_to_vec::<u8, f32>(&bytes)[..2], [5.0, 6.0]);
    // Stored [[1, 2, 3], [4, 5, 6]].
    let p = w.matrix("p", [3, 2]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(values(&p)[..8], [1.0, 4.0, 0.0, 0.0, 2.0, 5.0, 0.0, 0.0]);
    let table = w.table("p", [3, 2]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(table.row(2).unwrap_or_else(|e| panic!("{e}")), [3.0, 6.0]);
}
