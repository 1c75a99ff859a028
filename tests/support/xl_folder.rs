//! Folders of Stable Diffusion XL and its refiner, put together from goldens that share parts.

use std::path::Path;

use tempfile::TempDir;

use super::files::copy;
use super::golden::committed;

fn put(from: &str, to: &Path) {
    copy(&committed().join(from), to);
}

/// SDXL's folder with its tokenizers, which are those of others.
pub(crate) fn sdxl() -> TempDir {
    let whole = tempfile::tempdir().expect("a temporary folder");
    put("sdxl", whole.path());
    put("sd15/tokenizer", &whole.path().join("tokenizer"));
    put("sd21/tokenizer", &whole.path().join("tokenizer_2"));
    whole
}

/// The refiner's folder: its UNet with parts of SDXL's.
pub(crate) fn refiner() -> TempDir {
    let whole = tempfile::tempdir().expect("a temporary folder");
    for part in ["text_encoder_2", "vae", "scheduler"] {
        put(&format!("sdxl/{part}"), &whole.path().join(part));
    }
    put("sd21/tokenizer", &whole.path().join("tokenizer_2"));
    put("refiner/unet", &whole.path().join("unet"));
    let index = serde_json::json!({
        "_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": [null, null], "force_zeros_for_empty_prompt": false,
    });
    std::fs::write(whole.path().join("model_index.json"), index.to_string()).expect("it is written");
    whole
}
