//! What a config may say, and what is refused by name.

use chiaro::models::{AutoencoderKlConfig, AutoencoderTinyConfig, ClipTextConfig, OneOrMany, UnetConfig};

/// Published configs of Stable Diffusion 1.x leave out what was invented later: the defaults are diffusers' own.
#[test]
fn absent_fields_mean_what_diffusers_means() {
    let text = r#"{"_class_name": "UNet2DConditionModel", "attention_head_dim": 8, "cross_attention_dim": 768,
        "block_out_channels": [320, 640, 1280, 1280], "sample_size": 64}"#;
    let config = UnetConfig::from_json(text, "config.json").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((config.in_channels, config.norm_num_groups, config.norm_eps), (4, 32, 1e-5));
    assert_eq!(config.layers_per_block, OneOrMany::One(2));
    assert!(!config.use_linear_projection && config.has_time());
    let config = AutoencoderKlConfig::from_json("{}", "config.json").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((config.scaling_factor, config.pixels_per_latent()), (0.18215, 8));
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    let refused = [
        ("class_embed_type", r#""timestep""#),
        ("resnet_time_scale_shift", r#""scale_shift""#),
        ("only_cross_attention", "[true, false, false, false]"),
        ("center_input_sample", "true"),
        ("freq_shift", "1"),
        ("addition_embed_type", r#""image""#),
        ("mid_block_type", r#""UNetMidBlock2DSimpleCrossAttn""#),
        ("act_fn", r#""mish""#),
        ("_class_name", r#""UNet3DConditionModel""#),
        ("down_block_types", r#"["AttnDownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D"]"#),
        ("attention_head_dim", "[8, 8]"),
        ("norm_num_groups", "33"),
    ];
    for (field, value) in refused {
        let text = format!(r#"{{"{field}": {value}}}"#);
        let error = UnetConfig::from_json(&text, "unet/config.json").expect_err(field).to_string();
        let named = match field {
            "down_block_types" => "AttnDownBlock2D",
            field => field,
        };
        assert!(error.contains(named) && !error.contains('\n'), "{field}: {error}");
    }
    let allowed = r#"{"only_cross_attention": [false, false, false, false], "mid_block_scale_factor": 1.0}"#;
    UnetConfig::from_json(allowed, "unet/config.json").unwrap_or_else(|e| panic!("{e}"));

    let error =
        ClipTextConfig::from_json(r#"{"hidden_act": "relu"}"#, "config.json").expect_err("hidden_act").to_string();
    assert!(error.contains("relu") && error.contains("quick_gelu"), "{error}");
    let error =
        AutoencoderKlConfig::from_json(r#"{"latents_mean": [0.1]}"#, "config.json").expect_err("mean").to_string();
    assert!(error.contains("latents_mean"), "{error}");
    let error =
        AutoencoderTinyConfig::from_json(r#"{"act_fn": "silu"}"#, "config.json").expect_err("act_fn").to_string();
    assert!(error.contains("act_fn"), "{error}");
    let error = UnetConfig::from_json("<html>", "unet/config.json").expect_err("not JSON").to_string();
    assert!(error.starts_with("unet/config.json"), "{error}");
}
