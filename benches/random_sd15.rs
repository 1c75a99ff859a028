//! Writes a full-size Stable Diffusion 1.5 with random weights, in the diffusers layout, for benchmarks and stress tests:
//!
//! `cargo run --release --example random_sd15 -- FOLDER`
//!
//! The shapes and `config.json` files are the real ones (2.1 GB in f16); each matrix has the scale that keeps a normalised
//! input's variance, so that activations stay in half precision's range. The pictures are noise.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::f16;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

type Shapes = BTreeMap<String, Vec<usize>>;

const UNET_CONFIG: &str = r#"{
  "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", "act_fn": "silu", "attention_head_dim": 8,
  "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": false, "cross_attention_dim": 768,
  "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
  "downsample_padding": 1, "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
  "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
  "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]
}"#;

const VAE_CONFIG: &str = r#"{
  "_class_name": "AutoencoderKL", "_diffusers_version": "0.6.0", "act_fn": "silu", "block_out_channels": [128, 256, 512, 512],
  "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
  "in_channels": 3, "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32, "out_channels": 3, "sample_size": 512,
  "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]
}"#;

const TEXT_CONFIG: &str = r#"{
  "architectures": ["CLIPTextModel"], "attention_dropout": 0.0, "bos_token_id": 0, "dropout": 0.0, "eos_token_id": 2,
  "hidden_act": "quick_gelu", "hidden_size": 768, "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 3072,
  "layer_norm_eps": 1e-05, "max_position_embeddings": 77, "model_type": "clip_text_model", "num_attention_heads": 12,
  "num_hidden_layers": 12, "pad_token_id": 1, "projection_dim": 768, "vocab_size": 49408
}"#;

const SCHEDULER_CONFIG: &str = r#"{
  "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012, "beta_schedule": "scaled_linear",
  "beta_start": 0.00085, "num_train_timesteps": 1000, "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
  "trained_betas": null, "clip_sample": false
}"#;

const MODEL_INDEX: &str = r#"{
  "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.6.0", "scheduler": ["diffusers", "PNDMScheduler"],
  "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
  "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]
}"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some(folder) = std::env::args().nth(1).map(PathBuf::from) else {
        return Err("usage: random_sd15 FOLDER".into());
    };
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sd15/tokenizer");
    std::fs::create_dir_all(folder.join("tokenizer"))?;
    for file in ["vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"] {
        std::fs::copy(tokenizer.join(file), folder.join("tokenizer").join(file))?;
    }
    std::fs::write(folder.join("model_index.json"), MODEL_INDEX)?;
    std::fs::create_dir_all(folder.join("scheduler"))?;
    std::fs::write(folder.join("scheduler/scheduler_config.json"), SCHEDULER_CONFIG)?;
    write(&folder.join("text_encoder"), "model.safetensors", TEXT_CONFIG, &text_encoder())?;
    write(&folder.join("vae"), "diffusion_pytorch_model.safetensors", VAE_CONFIG, &vae())?;
    write(&folder.join("unet"), "diffusion_pytorch_model.safetensors", UNET_CONFIG, &unet())?;
    Ok(())
}

fn write(folder: &Path, file: &str, config: &str, shapes: &Shapes) -> Result<(), Box<dyn std::error::Error>> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("config.json"), config)?;
    let mut seed = 1;
    let data: Vec<(&String, &Vec<usize>, Vec<u8>)> =
        shapes.iter().map(|(name, shape)| (name, shape, values(name, shape, &mut seed))).collect();
    let views = data
        .iter()
        .map(|(name, shape, bytes)| Ok((name.as_str(), TensorView::new(Dtype::F16, shape.to_vec(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    serialize_to_file(views, None, &folder.join(file))?;
    let parameters: usize = shapes.values().map(|s| s.iter().product::<usize>()).sum();
    println!("{}: {} tensors, {parameters} parameters", folder.join(file).display(), shapes.len());
    Ok(())
}

/// Norm scales 1, biases 0, everything else uniform with variance 1 / fan-in, by a 64-bit linear congruential generator.
fn values(name: &str, shape: &[usize], seed: &mut u64) -> Vec<u8> {
    let len: usize = shape.iter().product();
    let fan_in: usize = shape.iter().skip(1).product();
    let halves: Vec<f16> = if name.ends_with(".bias") {
        vec![f16::ZERO; len]
    } else if shape.len() == 1 {
        vec![f16::ONE; len]
    } else {
        let scale =
            if name.contains("embedding") && !name.contains("time") { 0.02 } else { (3.0 / fan_in as f32).sqrt() };
        (0..len)
            .map(|_| {
                *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                f16::from_f32(((*seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale)
            })
            .collect()
    };
    bytemuck::cast_slice(&halves).to_vec()
}

fn weight(shapes: &mut Shapes, name: &str, shape: &[usize], bias: bool) {
    shapes.insert(format!("{name}.weight"), shape.to_vec());
    if bias {
        shapes.insert(format!("{name}.bias"), vec![shape[0]]);
    }
}

fn text_encoder() -> Shapes {
    let mut s = Shapes::new();
    weight(&mut s, "text_model.embeddings.token_embedding", &[49408, 768], false);
    weight(&mut s, "text_model.embeddings.position_embedding", &[77, 768], false);
    for layer in 0..12 {
        let at = format!("text_model.encoder.layers.{layer}");
        for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            weight(&mut s, &format!("{at}.self_attn.{projection}"), &[768, 768], true);
        }
        weight(&mut s, &format!("{at}.layer_norm1"), &[768], true);
        weight(&mut s, &format!("{at}.layer_norm2"), &[768], true);
        weight(&mut s, &format!("{at}.mlp.fc1"), &[3072, 768], true);
        weight(&mut s, &format!("{at}.mlp.fc2"), &[768, 3072], true);
    }
    weight(&mut s, "text_model.final_layer_norm", &[768], true);
    s
}

fn resnet(s: &mut Shapes, at: &str, c_in: usize, c_out: usize, time: Option<usize>) {
    weight(s, &format!("{at}.norm1"), &[c_in], true);
    weight(s, &format!("{at}.conv1"), &[c_out, c_in, 3, 3], true);
    if let Some(time) = time {
        weight(s, &format!("{at}.time_emb_proj"), &[c_out, time], true);
    }
    weight(s, &format!("{at}.norm2"), &[c_out], true);
    weight(s, &format!("{at}.conv2"), &[c_out, c_out, 3, 3], true);
    if c_in != c_out {
        weight(s, &format!("{at}.conv_shortcut"), &[c_out, c_in, 1, 1], true);
    }
}

fn transformer(s: &mut Shapes, at: &str, c: usize) {
    weight(s, &format!("{at}.norm"), &[c], true);
    weight(s, &format!("{at}.proj_in"), &[c, c, 1, 1], true);
    weight(s, &format!("{at}.proj_out"), &[c, c, 1, 1], true);
    let block = format!("{at}.transformer_blocks.0");
    for (attention, context) in [("attn1", c), ("attn2", 768)] {
        weight(s, &format!("{block}.{attention}.to_q"), &[c, c], false);
        weight(s, &format!("{block}.{attention}.to_k"), &[c, context], false);
        weight(s, &format!("{block}.{attention}.to_v"), &[c, context], false);
        weight(s, &format!("{block}.{attention}.to_out.0"), &[c, c], true);
    }
    for norm in ["norm1", "norm2", "norm3"] {
        weight(s, &format!("{block}.{norm}"), &[c], true);
    }
    weight(s, &format!("{block}.ff.net.0.proj"), &[8 * c, c], true);
    weight(s, &format!("{block}.ff.net.2"), &[c, 4 * c], true);
}

fn unet() -> Shapes {
    const CHANNELS: [usize; 4] = [320, 640, 1280, 1280];
    const TIME: usize = 1280;
    let mut s = Shapes::new();
    weight(&mut s, "conv_in", &[320, 4, 3, 3], true);
    weight(&mut s, "time_embedding.linear_1", &[TIME, 320], true);
    weight(&mut s, "time_embedding.linear_2", &[TIME, TIME], true);
    let mut skips = vec![320];
    let mut c = 320;
    for (level, &width) in CHANNELS.iter().enumerate() {
        let at = format!("down_blocks.{level}");
        for layer in 0..2 {
            resnet(&mut s, &format!("{at}.resnets.{layer}"), c, width, Some(TIME));
            if level < 3 {
                transformer(&mut s, &format!("{at}.attentions.{layer}"), width);
            }
            c = width;
            skips.push(c);
        }
        if level < 3 {
            weight(&mut s, &format!("{at}.downsamplers.0.conv"), &[c, c, 3, 3], true);
            skips.push(c);
        }
    }
    resnet(&mut s, "mid_block.resnets.0", c, c, Some(TIME));
    transformer(&mut s, "mid_block.attentions.0", c);
    resnet(&mut s, "mid_block.resnets.1", c, c, Some(TIME));
    for (block, &width) in CHANNELS.iter().rev().enumerate() {
        let at = format!("up_blocks.{block}");
        for layer in 0..3 {
            let skip = skips.pop().expect("every down layer left a skip");
            resnet(&mut s, &format!("{at}.resnets.{layer}"), c + skip, width, Some(TIME));
            if block > 0 {
                transformer(&mut s, &format!("{at}.attentions.{layer}"), width);
            }
            c = width;
        }
        if block < 3 {
            weight(&mut s, &format!("{at}.upsamplers.0.conv"), &[c, c, 3, 3], true);
        }
    }
    weight(&mut s, "conv_norm_out", &[320], true);
    weight(&mut s, "conv_out", &[4, 320, 3, 3], true);
    s
}

fn vae_middle(s: &mut Shapes, at: &str) {
    resnet(s, &format!("{at}.resnets.0"), 512, 512, None);
    resnet(s, &format!("{at}.resnets.1"), 512, 512, None);
    weight(s, &format!("{at}.attentions.0.group_norm"), &[512], true);
    for projection in ["to_q", "to_k", "to_v", "to_out.0"] {
        weight(s, &format!("{at}.attentions.0.{projection}"), &[512, 512], true);
    }
}

fn vae() -> Shapes {
    const CHANNELS: [usize; 4] = [128, 256, 512, 512];
    let mut s = Shapes::new();
    weight(&mut s, "encoder.conv_in", &[128, 3, 3, 3], true);
    let mut c = 128;
    for (level, &width) in CHANNELS.iter().enumerate() {
        for layer in 0..2 {
            resnet(&mut s, &format!("encoder.down_blocks.{level}.resnets.{layer}"), c, width, None);
            c = width;
        }
        if level < 3 {
            weight(&mut s, &format!("encoder.down_blocks.{level}.downsamplers.0.conv"), &[c, c, 3, 3], true);
        }
    }
    vae_middle(&mut s, "encoder.mid_block");
    weight(&mut s, "encoder.conv_norm_out", &[512], true);
    weight(&mut s, "encoder.conv_out", &[8, 512, 3, 3], true);
    weight(&mut s, "quant_conv", &[8, 8, 1, 1], true);
    weight(&mut s, "post_quant_conv", &[4, 4, 1, 1], true);
    weight(&mut s, "decoder.conv_in", &[512, 4, 3, 3], true);
    vae_middle(&mut s, "decoder.mid_block");
    for (block, &width) in CHANNELS.iter().rev().enumerate() {
        for layer in 0..3 {
            resnet(&mut s, &format!("decoder.up_blocks.{block}.resnets.{layer}"), c, width, None);
            c = width;
        }
        if block < 3 {
            weight(&mut s, &format!("decoder.up_blocks.{block}.upsamplers.0.conv"), &[c, c, 3, 3], true);
        }
    }
    weight(&mut s, "decoder.conv_norm_out", &[128], true);
    weight(&mut s, "decoder.conv_out", &[3, 128, 3, 3], true);
    s
}
