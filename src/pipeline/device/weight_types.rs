//! How the weights of a model's parts are stored on the device.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::record::DType;
use crate::weights::WeightType;
use crate::{Error, Result};

/// A part of a model that has a weight type of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Text encoders, those of an OMS module too.
    Text,
    /// The UNet and its ControlNets.
    Unet,
    /// The OMS module.
    Oms,
    /// The autoencoder. It is small, and the picture shows its errors: f16 is the least it gets.
    Vae,
}

impl Part {
    pub(crate) const COUNT: usize = 4;

    const ALL: [(Part, &'static str); Part::COUNT] =
        [(Part::Text, "text"), (Part::Unet, "unet"), (Part::Oms, "oms"), (Part::Vae, "vae")];

    /// The part that a component's folder or a stage's name belongs to.
    pub(crate) fn of(name: &str) -> Part {
        match name {
            "unet" | "UNet" | "UNet with ControlNet" => Part::Unet,
            "oms_module" | "OMS module" => Part::Oms,
            "vae" | "VAE encoder" | "VAE decoder" | "preview" | "preview vae" => Part::Vae,
            _ => Part::Text,
        }
    }
}

/// The weight type of each part; `None` is what the device's storage suggests: f16 where activations are f16, else as in
/// the file; blocks of q8_0 and q4_0 that a file has stay in both. As text: `auto`, `f16`, `q8_0`, `q4_0`, or parts: `text=f16,unet=q4_0`, the others being `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WeightTypes([Option<WeightType>; Part::COUNT]);

impl WeightTypes {
    /// What was chosen for a part.
    pub fn of(&self, part: Part) -> Option<WeightType> {
        self.0[part as usize]
    }

    /// The same with another choice for one part.
    pub fn with(mut self, part: Part, choice: WeightType) -> Self {
        self.0[part as usize] = Some(choice);
        self
    }

    /// What a part is loaded as on a device with this storage.
    pub(crate) fn resolve(&self, part: Part, storage: DType) -> WeightType {
        self.of(part).unwrap_or(if storage == DType::F16 { WeightType::KeepBlocks } else { WeightType::Keep })
    }

    /// One type for all parts; the autoencoder stays in f16.
    fn all(choice: WeightType) -> Self {
        WeightTypes([Some(choice), Some(choice), Some(choice), Some(WeightType::F16)])
    }
}

/// Whether weights pass through the device in every run, block by block, instead of staying on it. It changes no bit of a picture, and the time that
/// the way there takes. The autoencoder's stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Streaming {
    /// Where a limit of memory asks for it: before weights are made as small as q4_0.
    #[default]
    Auto,
    /// Rather than make weights smaller: with a limit, what does not fit; without one, as much as there is.
    On,
    /// Never.
    Off,
}

/// The names that can be typed.
const NAMES: [(&str, WeightType); 3] =
    [("f16", WeightType::F16), ("q8_0", WeightType::Q8_0), ("q4_0", WeightType::Q4_0)];

/// "f16", "q8_0", "q4_0", or "as stored".
pub(crate) fn name(weight_type: WeightType) -> &'static str {
    // Of most files, which have no blocks, the same.
    let weight_type = if weight_type == WeightType::KeepBlocks { WeightType::F16 } else { weight_type };
    NAMES.iter().find(|(_, known)| *known == weight_type).map_or("as stored", |(name, _)| name)
}

impl fmt::Display for WeightTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == WeightTypes::default() {
            return f.write_str("auto");
        }
        if let Some((name, _)) = NAMES.iter().find(|(_, choice)| *self == WeightTypes::all(*choice)) {
            return f.write_str(name);
        }
        let chosen = |(part, word): &(Part, &str)| self.of(*part).map(|choice| format!("{word}={}", name(choice)));
        f.write_str(&Part::ALL.iter().filter_map(chosen).collect::<Vec<_>>().join(","))
    }
}

impl FromStr for WeightTypes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = |word: &str| NAMES.iter().find(|(name, _)| *name == word).map(|(_, choice)| *choice);
        if text == "auto" {
            return Ok(WeightTypes::default());
        }
        if let Some(choice) = known(text) {
            return Ok(WeightTypes::all(choice));
        }
        let refused = |what: &str| {
            Err(Error::request(
                "device.weights",
                format!("expected auto, f16, q8_0, q4_0, or parts as in text=f16,unet=q4_0,oms=q8_0, got {what:?}"),
            ))
        };
        let mut types = WeightTypes::default();
        for pair in text.split(',') {
            let Some((part, word)) = pair.split_once('=') else { return refused(text) };
            let part = Part::ALL.iter().find(|(_, name)| *name == part).map(|(part, _)| *part);
            let (Some(part), Some(choice)) = (part, known(word)) else { return refused(pair) };
            if part == Part::Vae && choice != WeightType::F16 {
                return Err(Error::request("device.weights", format!("expected vae=f16 at least, got {pair:?}")));
            }
            if types.of(part).is_some() {
                return Err(Error::request("device.weights", format!("expected each part once, got {text:?}")));
            }
            types = types.with(part, choice);
        }
        Ok(types)
    }
}

serde_by_name!(WeightTypes);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_types_agree() {
        for text in ["auto", "f16", "q8_0", "q4_0", "unet=q4_0", "text=f16,unet=q8_0,oms=q4_0,vae=f16"] {
            let types: WeightTypes = text.parse().expect(text);
            assert_eq!(types.to_string(), text);
        }
        let types: WeightTypes = "q4_0".parse().expect("one word");
        assert_eq!((types.of(Part::Unet), types.of(Part::Vae)), (Some(WeightType::Q4_0), Some(WeightType::F16)));
        let spelled: WeightTypes = "vae=f16,oms=q4_0,unet=q4_0,text=q4_0".parse().expect("parts");
        assert_eq!(spelled.to_string(), "q4_0");
        for (storage, natural) in [(DType::F16, WeightType::KeepBlocks), (DType::F32, WeightType::Keep)] {
            assert_eq!(WeightTypes::default().resolve(Part::Text, storage), natural);
            assert_eq!(types.resolve(Part::Text, storage), WeightType::Q4_0);
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in
            ["", "q5_1", "Q4_0", "unet", "unet=", "=q4_0", "clip=q4_0", "unet=q4_0,", "vae=q4_0", "unet=f16,unet=q4_0"]
        {
            let error = text.parse::<WeightTypes>().expect_err(text).to_string();
            assert!(error.starts_with("device.weights: expected "), "{text:?}: {error}");
        }
    }
}
