//! A checkpoint of holes in the layout of Stable Diffusion 2.x that is just large enough to be recognised.

use super::single_file::Entry;

/// The smallest checkpoint in the layout of Stable Diffusion 2.x: one level, one block.
pub(crate) fn smallest() -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut put = |name: &str, shape: &[usize]| {
        entries.push(Entry::hole(format!("{name}.weight"), shape));
        entries.push(Entry::hole(format!("{name}.bias"), &shape[..1]));
    };
    let unet = "model.diffusion_model";
    put(&format!("{unet}.input_blocks.0.0"), &[64, 4, 3, 3]);
    put(&format!("{unet}.time_embed.0"), &[256, 64]);
    put(&format!("{unet}.time_embed.2"), &[256, 256]);
    put(&format!("{unet}.out.0"), &[64]);
    put(&format!("{unet}.out.2"), &[4, 64, 3, 3]);
    let blocks = [("input_blocks.1.0", 64), ("middle_block.0", 64), ("middle_block.2", 64), ("output_blocks.0.0", 128)];
    for (block, inner) in [blocks.as_slice(), &[("output_blocks.1.0", 128)]].concat() {
        let at = format!("{unet}.{block}");
        put(&format!("{at}.in_layers.0"), &[inner]);
        put(&format!("{at}.in_layers.2"), &[64, inner, 3, 3]);
        put(&format!("{at}.emb_layers.1"), &[64, 256]);
        put(&format!("{at}.out_layers.0"), &[64]);
        put(&format!("{at}.out_layers.3"), &[64, 64, 3, 3]);
        if inner != 64 {
            put(&format!("{at}.skip_connection"), &[64, inner, 1, 1]);
        }
    }
    for half in ["encoder", "decoder"] {
        let at = format!("first_stage_model.{half}");
        let (first, last) = if half == "encoder" { (3, 8) } else { (4, 3) };
        put(&format!("{at}.conv_in"), &[32, first, 3, 3]);
        put(&format!("{at}.conv_out"), &[last, 32, 3, 3]);
        put(&format!("{at}.norm_out"), &[32]);
        let blocks: &[&str] = if half == "encoder" { &["down.0.block.0"] } else { &["up.0.block.0", "up.0.block.1"] };
        for block in [blocks, &["mid.block_1", "mid.block_2"]].concat() {
            for norm in ["norm1", "norm2"] {
                put(&format!("{at}.{block}.{norm}"), &[32]);
            }
            for conv in ["conv1", "conv2"] {
                put(&format!("{at}.{block}.{conv}"), &[32, 32, 3, 3]);
            }
        }
        put(&format!("{at}.mid.attn_1.norm"), &[32]);
        for projection in ["q", "k", "v", "proj_out"] {
            put(&format!("{at}.mid.attn_1.{projection}"), &[32, 32, 1, 1]);
        }
    }
    put("first_stage_model.quant_conv", &[8, 8, 1, 1]);
    put("first_stage_model.post_quant_conv", &[4, 4, 1, 1]);
    let text = "cond_stage_model.model";
    put(&format!("{text}.ln_final"), &[64]);
    for layer in 0..2 {
        let at = format!("{text}.transformer.resblocks.{layer}");
        put(&format!("{at}.ln_1"), &[64]);
        put(&format!("{at}.ln_2"), &[64]);
        put(&format!("{at}.attn.out_proj"), &[64, 64]);
        put(&format!("{at}.mlp.c_fc"), &[64, 64]);
        put(&format!("{at}.mlp.c_proj"), &[64, 64]);
    }
    for layer in 0..2 {
        let at = format!("{text}.transformer.resblocks.{layer}.attn");
        entries.push(Entry::hole(format!("{at}.in_proj_weight"), &[192, 64]));
        entries.push(Entry::hole(format!("{at}.in_proj_bias"), &[192]));
    }
    entries.push(Entry::hole(format!("{text}.token_embedding.weight"), &[16, 64]));
    entries.push(Entry::hole(format!("{text}.positional_embedding"), &[4, 64]));
    entries
}

/// The transformers of [`smallest`].
pub(crate) fn attentions() -> Vec<Entry> {
    let mut entries = Vec::new();
    for block in ["input_blocks.1.1", "middle_block.1", "output_blocks.0.1", "output_blocks.1.1"] {
        let at = format!("model.diffusion_model.{block}");
        let inner = format!("{at}.transformer_blocks.0");
        let mut put = |name: String, shape: &[usize], bias: bool| {
            entries.push(Entry::hole(format!("{name}.weight"), shape));
            if bias {
                entries.push(Entry::hole(format!("{name}.bias"), &shape[..1]));
            }
        };
        put(format!("{at}.norm"), &[64], true);
        put(format!("{at}.proj_in"), &[64, 64], true);
        put(format!("{at}.proj_out"), &[64, 64], true);
        for norm in ["norm1", "norm2", "norm3"] {
            put(format!("{inner}.{norm}"), &[64], true);
        }
        for attention in ["attn1", "attn2"] {
            for projection in ["to_q", "to_k", "to_v"] {
                put(format!("{inner}.{attention}.{projection}"), &[64, 64], false);
            }
            put(format!("{inner}.{attention}.to_out.0"), &[64, 64], true);
        }
        put(format!("{inner}.ff.net.0.proj"), &[512, 64], true);
        put(format!("{inner}.ff.net.2"), &[64, 256], true);
    }
    entries
}
