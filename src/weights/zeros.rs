//! Weights that are nothing but zeros: a download that reserved its space and never wrote it, or an export that went wrong. Such a model draws
//! grey, or black, and no error says why.

use super::{TensorSet, TensorView};
use crate::Result;

/// Tensors that are looked at, spread over the files as their bytes lie.
const SAMPLES: usize = 64;
/// Places of a tensor that are looked at, and bytes at each; smaller tensors may well be zeros.
const PLACES: usize = 4;
const PROBE: usize = 4096;

impl TensorSet {
    /// What should be known of a network whose larger tensors are zeros, a quarter or more of them; `name` is the network's. Tensors are looked at
    /// in a few places each, of many tensors only some.
    ///
    /// # Errors
    /// When a file cannot be read, or has changed since it was opened.
    pub fn zeros_remark(&self, name: &str) -> Result<Option<String>> {
        let mut large: Vec<(&String, &TensorView)> =
            self.tensors().iter().filter(|(_, view)| view.byte_len() >= PROBE).collect();
        large.sort_by_key(|(_, view)| (view.file.label().to_owned(), view.stored.range.start));
        let looked: Vec<_> = large.iter().step_by(large.len().div_ceil(SAMPLES).max(1)).collect();
        let mut zeros = Vec::new();
        for (tensor, view) in &looked {
            if view.is_zero()? {
                zeros.push(tensor.as_str());
            }
        }
        if zeros.is_empty() || zeros.len() * 4 < looked.len() {
            return Ok(None);
        }
        let share = match (zeros.len(), looked.len()) {
            (some, all) if some == all => "all of its weights are".to_owned(),
            (some, all) => format!("about {} in 100 of its weights, such as {}, are", some * 100 / all, zeros[0]),
        };
        Ok(Some(format!("{name}: {share} zeros: its file was not wholly written; copy or download it again")))
    }
}

impl TensorView {
    /// Whether there are zeros wherever it is looked at.
    fn is_zero(&self) -> Result<bool> {
        let length = self.byte_len();
        for place in 0..PLACES {
            let from = length.saturating_sub(PROBE) / (PLACES - 1) * place;
            let bytes = self.file.some_bytes(&self.stored, from..(from + PROBE).min(length))?;
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
