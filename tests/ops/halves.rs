//! Products of bf16 on the host executor.

use chiaro::record::{Backend, DType, HostBackend, Products};

use super::cases::{Case, Wide, table};
use super::reference::reference;
use super::{check, run_case};

/// With what this processor has for it; where there is nothing, widened. Operands that are exact in bf16 give what f32 gives, but in attention, whose
/// scaled queries and weights are rounded on the way: by 2⁻⁹ each, with scores of 256 by one in their exponent.
#[test]
fn host_in_bf16() {
    let backend = HostBackend::new(Products::Bf16);
    let (mut failures, mut checked) = (Vec::new(), 0);
    for case in table() {
        let rounds = match case {
            Case::Matmul { stored, .. } | Case::Conv2d { stored, .. } | Case::Geglu { stored, .. } => {
                if !matches!(stored, DType::F32 | DType::F16) {
                    continue;
                }
                None
            }
            Case::Attention { spread, .. } => Some(if spread > 1.0 { 5e-3 } else { 2e-5 }),
            _ => continue,
        };
        let mut operands = case.operands();
        for (_, values) in
            operands.0.iter_mut().filter(|(name, _)| ["x", "weight", "q", "k", "v", "qkv"].contains(name))
        {
            values.iter_mut().for_each(|value| *value = half::bf16::from_f32(*value).to_f32());
        }
        let expected = reference(&case, &operands);
        let (out, _) = run_case(&backend, backend.caps(), &case, &operands, Wide::default());
        let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
        let error = squares(&mut out.iter().zip(&expected).map(|(out, want)| f64::from(*out) - want));
        let verdict = match rounds {
            None => check(&case, DType::F32, &out, &expected).map(drop),
            Some(most) if error / squares(&mut expected.iter().copied()) <= most => Ok(()),
            Some(most) => {
                Err(format!("{case:?}: {:e}, allowed {most:e}", error / squares(&mut expected.iter().copied())))
            }
        };
        failures.extend(verdict.err());
        checked += 1;
    }
    assert!(failures.is_empty(), "{}:\n{}", failures.len(), failures.join("\n"));
    assert!(checked > 50, "only {checked} cases");
}
