//! Weight files of every format (the first bytes choose safetensors, GGUF or PyTorch's archive): recognised, and every network that is
//! found is loaded.

#![no_main]

use std::sync::Arc;

use chiaro::models::original::{Checkpoint, Patches};
use chiaro::models::{Autoencoder, ClipTextConfig, ClipTextModel, Unet, UnetConfig};
use chiaro::weights::{TensorSet, WeightFile, WeightType, Weights};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fn load(bytes: &[u8]) -> chiaro::Result<()> {
    let file = TensorSet::from(Arc::new(WeightFile::from_bytes(bytes.to_vec(), "bytes")?));
    let found = Checkpoint::read(&file, &Patches::new())?;
    for (name, part) in &found.parts {
        let config = Value::Object(part.config.clone()).to_string();
        let weights = Weights::new(part.tensors.clone(), *name, WeightType::F16);
        match *name {
            "unet" => drop(Unet::load(UnetConfig::from_json(&config, name)?, &weights)?),
            "vae" => drop(Autoencoder::load(&config, name, &weights)?),
            _ => drop(ClipTextModel::load(ClipTextConfig::from_json(&config, name)?, &weights)?),
        }
    }
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    if let Err(error) = load(bytes) {
        assert!(!error.to_string().is_empty());
    }
});
