//! The original code's numbers, from the tables of the published checkpoints' names (`stable-diffusion-v1-5`, `sd_xl_base_1.0`).

use chiaro::models::LayerNames;

use crate::support::golden::root;

/// The layers of a family's UNet, by the names of its weights.
fn layers(family: &str) -> Vec<String> {
    let path = root().join(family).join("unet/diffusion_pytorch_model.safetensors");
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a sound file");
    file.names().into_iter().filter_map(|name| Some(name.strip_suffix(".weight")?.to_owned())).collect()
}

const XL: &[(&str, &str)] = &[
    ("conv_in", "input_blocks.0.0"),
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("down_blocks.0.resnets.0.norm1", "input_blocks.1.0.in_layers.0"),
    ("down_blocks.0.resnets.1.conv1", "input_blocks.2.0.in_layers.2"),
    ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
    ("down_blocks.1.attentions.0.proj_in", "input_blocks.4.1.proj_in"),
    ("down_blocks.1.resnets.0.conv_shortcut", "input_blocks.4.0.skip_connection"),
    ("down_blocks.1.resnets.1.time_emb_proj", "input_blocks.5.0.emb_layers.1"),
    ("down_blocks.2.attentions.1.norm", "input_blocks.8.1.norm"),
    ("down_blocks.2.resnets.1.conv2", "input_blocks.8.0.out_layers.3"),
    ("mid_block.resnets.0.norm2", "middle_block.0.out_layers.0"),
    ("mid_block.attentions.0.proj_out", "middle_block.1.proj_out"),
    ("mid_block.resnets.1.conv1", "middle_block.2.in_layers.2"),
    ("up_blocks.0.attentions.2.proj_in", "output_blocks.2.1.proj_in"),
    ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.2.conv"),
    ("up_blocks.1.resnets.2.conv_shortcut", "output_blocks.5.0.skip_connection"),
    ("up_blocks.2.resnets.2.conv2", "output_blocks.8.0.out_layers.3"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
];

const SD15: &[(&str, &str)] = &[
    ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
    ("down_blocks.3.resnets.1.conv1", "input_blocks.11.0.in_layers.2"),
    ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.1.conv"),
    ("up_blocks.1.upsamplers.0.conv", "output_blocks.5.2.conv"),
    ("up_blocks.3.attentions.2.proj_out", "output_blocks.11.1.proj_out"),
];

#[test]
fn numbers_of_the_original_code() {
    for (family, pairs) in [("sd15", SD15), ("sdxl", XL)] {
        let layers = layers(family);
        let names = LayerNames::unet(layers.iter().map(String::as_str));
        for (ours, theirs) in pairs {
            // Only a block that changes the number of channels has a shortcut: that follows from the widths.
            let there = layers.iter().any(|layer| layer == ours);
            assert!(there || ours.ends_with("conv_shortcut"), "{family}: no {ours}");
            let expected = there.then_some(*ours);
            assert_eq!(names.find(theirs), expected, "{family}: {theirs}");
            assert_eq!(names.find(&theirs.replace('.', "_")), expected, "{family}: {theirs}");
        }
        for layer in &layers {
            assert_eq!(names.find(&layer.replace('.', "_")), Some(layer.as_str()), "{family}");
        }
        assert_eq!(names.find("input_blocks_99_0_op"), None);
    }
}
