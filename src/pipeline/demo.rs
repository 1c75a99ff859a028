//! The demo model inside the binary: a newcomer gets a picture with no download.

/// The files of `assets/demo`, by their path there.
macro_rules! embed {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../../assets/demo/", $path)).as_slice())),*]
    };
}

const FILES: &[(&str, &[u8])] = embed![
    "model/model_index.json",
    "model/scheduler/scheduler_config.json",
    "model/text_encoder/config.json",
    "model/text_encoder/model.safetensors",
    "model/tokenizer/merges.txt",
    "model/tokenizer/special_tokens_map.json",
    "model/tokenizer/tokenizer_config.json",
    "model/tokenizer/vocab.json",
    "model/unet/config.json",
    "model/unet/diffusion_pytorch_model.safetensors",
    "model/vae/config.json",
    "model/vae/diffusion_pytorch_model.safetensors",
    "oms/model_index.json",
    "oms/oms_module/config.json",
    "oms/oms_module/diffusion_pytorch_model.safetensors",
];

/// The bytes of one embedded file.
pub(super) fn file(path: &str) -> Option<&'static [u8]> {
    FILES.iter().find(|(name, _)| *name == path).map(|(_, bytes)| *bytes)
}
