//! Families of networks that are not read here, told by the names of their tensors, or of the layers that an adapter changes.
//!
//! Sources of the names: diffusers `models/transformers`, ComfyUI `comfy/model_detection.py`, kohya sd-scripts and musubi-tuner `networks`.

/// A family, and parts of names that only its networks have. Names are compared with `_` for `.` and one in front, so that a part may
/// begin a name.
struct Other {
    family: &'static str,
    parts: &'static [&'static str],
    /// Whether its names stand beside those of Stable Diffusion's UNet.
    is_relative: bool,
}

const fn other(family: &'static str, parts: &'static [&'static str]) -> Other {
    Other { family, parts, is_relative: false }
}

const fn relative(family: &'static str, parts: &'static [&'static str]) -> Other {
    Other { family, parts, is_relative: true }
}

/// The most telling first.
const OTHERS: &[Other] = &[
    relative("AnimateDiff", &["_motion_modules_"]),
    relative("Stable Cascade", &["_clip_txt_mapper", "_clip_txt_pooled_mapper", "_effnet_mapper", "_channelwise_"]),
    relative("Kolors", &["_encoder_hid_proj_"]),
    relative("IP-Adapter", &["_ip_adapter_", "_image_proj_", "_to_k_ip_"]),
    relative("DeepFloyd IF", &["_encoder_pooling_", "_add_k_proj_", "_norm_cross_"]),
    other("HunyuanVideo", &["_individual_token_refiner_", "_img_mlp_fc1"]),
    other("Flux.2", &["_double_stream_modulation_", "_single_stream_modulation_", "_to_qkv_mlp_proj"]),
    other("Chroma", &["_distilled_guidance_layer_"]),
    other("HiDream", &["_double_stream_blocks_", "_single_stream_blocks_"]),
    other("AuraFlow", &["_joint_transformer_blocks_", "_double_layers_", "_single_layers_"]),
    other("Flux", &["_double_blocks_", "_single_blocks_", "_single_transformer_blocks_"]),
    other("Qwen-Image", &["_img_mlp_net_", "_txt_mlp_net_", "_img_mod_1", "_txt_mod_1"]),
    other("Stable Diffusion 3", &["_joint_blocks_", "_te3_", "_text_encoder_3_"]),
    other("Z-Image or Lumina", &["_noise_refiner_", "_context_refiner_", "_feed_forward_w1"]),
    other("Hunyuan-DiT", &["_attn1_qkv", "_attn1_wqkv"]),
    other("PixArt or Sana", &["_adaln_single_", "_glumbconv_", "_y_embedder_"]),
];

/// Parts of the names of Stable Diffusion's UNet, in diffusers' and in the original naming.
const OWN: &[&str] =
    &["_down_blocks_", "_up_blocks_", "_mid_block_", "_input_blocks_", "_output_blocks_", "_middle_block_"];

/// Other networks that come in files of their own: what they are, and parts of their names.
const KINDS: &[(&str, &[&str])] = &[
    ("an IP-Adapter, which is not supported", &["_image_proj_", "_ip_adapter_"]),
    ("a motion module of AnimateDiff, which is not supported", &["_motion_modules_"]),
    ("an image encoder (CLIP vision), which is not used", &["_vision_model_", "_visual_conv1_"]),
    ("a T5 text encoder, which no supported model has", &["_encoder_block_0_layer_0_selfattention_"]),
    ("a language model as text encoder, which no supported model has", &["_model_layers_0_self_attn_", "_blk_0_attn_"]),
    ("an upscaler (ESRGAN), which is not supported", &["_rdb1_conv", "_rrdb_trunk_", "_model_1_sub_0_"]),
    ("an upscaler (Swin or DAT), which is not supported", &["_residual_group_blocks_", "_layers_0_blocks_0_attn_"]),
    ("a hypernetwork, which is not supported", &["_linear_0_weight"]),
];

/// The family of these names, when it is none that is read here.
pub fn other_family<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'static str> {
    let names: Vec<String> = names.map(plain).collect();
    let has = |parts: &[&str]| names.iter().any(|name| parts.iter().any(|part| name.contains(part)));
    let is_own = has(OWN);
    let told = OTHERS.iter().find(|other| (!is_own || other.is_relative) && has(other.parts)).map(|o| o.family);
    told.or_else(|| if is_own { None } else { names.iter().find_map(|name| form(name)) })
}

/// What else a file is, in words; `None` where its names tell nothing.
pub fn other_kind<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let names: Vec<&str> = names.collect();
    let family = other_family(names.iter().copied());
    let plain: Vec<String> = names.iter().map(|name| plain(name)).collect();
    let numbers = |name: &&String| name.starts_with('_') && name[1..].starts_with(|c: char| c.is_ascii_digit());
    let is_hyper = |what: &str| what.contains("hypernetwork");
    let kind = KINDS.iter().find(|(what, parts)| {
        let mut names = plain.iter().filter(|name| !is_hyper(what) || numbers(name));
        names.any(|name| parts.iter().any(|part| name.contains(part)))
    });
    match (kind, family) {
        (Some((words, _)), _) => Some((*words).into()),
        (None, Some(family)) => Some(format!("a model of another family ({family}), which is not supported")),
        (None, None) => None,
    }
}

/// Families that the form of a name tells: a list's name, a number, and what the block has.
fn form(name: &str) -> Option<&'static str> {
    let block = |list: &str| {
        let (before, behind) = name.split_once(list)?;
        let (number, inner) = behind.split_once('_')?;
        number.parse::<u32>().ok().map(|_| (before, inner))
    };
    // In Stable Diffusion they lie inside a numbered attention.
    if let Some((before, inner)) = block("_transformer_blocks_") {
        let own = before.ends_with(|c: char| c.is_ascii_digit());
        return match inner {
            _ if own => None,
            _ if inner.starts_with("attn_") => Some("Stable Diffusion 3, Qwen-Image or Flux"),
            _ if inner.starts_with("attn1_") || inner.starts_with("attn2_") => Some("PixArt, LTX-Video or CogVideoX"),
            _ => Some("a diffusion transformer"),
        };
    }
    if let Some((before, inner)) = block("_blocks_")
        && (inner.starts_with("self_attn_") || inner.starts_with("cross_attn_"))
        && !before.contains("encoder")
    {
        return Some("Wan or Cosmos");
    }
    if let Some((before, inner)) = block("_layers_")
        && inner.starts_with("attention_")
        && !before.contains("encoder")
    {
        return Some("Z-Image or Lumina");
    }
    // A T5 beside a CLIP.
    block("_encoder_block_")
        .map(|_| if name.contains("2_encoder_block_") { "Flux" } else { "Flux or Stable Diffusion 3" })
}

/// With `_` for `.`, in lower case, and one `_` in front.
fn plain(name: &str) -> String {
    format!("_{}", name.replace('.', "_").to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One layer of each family, as its trainers or its publishers name it.
    #[test]
    fn layers_tell_families() {
        for (name, family) in [
            ("lora_unet_double_blocks_0_img_attn_proj", Some("Flux")),
            ("transformer.single_transformer_blocks.3.attn.to_q", Some("Flux")),
            ("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", Some("Flux")),
            ("transformer.transformer_blocks.0.img_mlp.net.0.proj", Some("Qwen-Image")),
            ("transformer_blocks.0.attn.to_q", Some("Stable Diffusion 3, Qwen-Image or Flux")),
            ("lora_unet_joint_blocks_1_x_block_attn_qkv", Some("Stable Diffusion 3")),
            ("diffusion_model.blocks.0.cross_attn.k", Some("Wan or Cosmos")),
            ("lora_unet_blocks_3_self_attn_q", Some("Wan or Cosmos")),
            ("diffusion_model.layers.0.attention.qkv", Some("Z-Image or Lumina")),
            ("transformer.transformer_blocks.0.attn1.to_q", Some("PixArt, LTX-Video or CogVideoX")),
            ("lora_te3_encoder_block_0_layer_0_SelfAttention_q", Some("Stable Diffusion 3")),
            ("lora_te2_encoder_block_0_layer_0_SelfAttention_q", Some("Flux")),
            ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", None),
            ("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k", None),
            ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_k", None),
            ("lora_te_text_model_encoder_layers_0_self_attn_q_proj", None),
            ("text_encoder.text_model.encoder.layers.0.self_attn.q_proj", None),
        ] {
            assert_eq!(other_family([name].into_iter()), family, "{name}");
        }
    }

    #[test]
    fn other_files_are_told() {
        for (name, says) in [
            ("encoder.block.0.layer.0.SelfAttention.q.weight", "T5"),
            ("vision_model.encoder.layers.0.mlp.fc1.weight", "CLIP vision"),
            ("body.0.rdb1.conv1.weight", "upscaler"),
            ("model.1.sub.0.RDB1.conv1.0.weight", "upscaler"),
            ("768.0.linear.0.weight", "hypernetwork"),
            ("down_blocks.0.motion_modules.0.temporal_transformer.norm.weight", "AnimateDiff"),
            ("image_proj.proj.weight", "IP-Adapter"),
            ("double_blocks.0.img_attn.qkv.weight", "another family (Flux)"),
        ] {
            let found = other_kind([name].into_iter()).unwrap_or_else(|| panic!("{name}"));
            assert!(found.contains(says), "{name}: {found}");
        }
        assert_eq!(other_kind(["strange"].into_iter()), None);
    }
}
