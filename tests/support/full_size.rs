//! Full-size Stable Diffusion 1.5 and XL in f16 with every weight zero: sparse files with the real names and shapes, for what is
//! decided before anything runs.

use std::collections::BTreeMap;
use std::fs::{File, create_dir_all, write};
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::golden::root;

/// Names and shapes of a file.
#[derive(Default)]
struct Shapes(BTreeMap<String, Vec<usize>>);

/// Writes a model of the family, `sd15` or `sdxl`, in the diffusers layout.
pub(crate) fn write_model(family: &str, folder: &Path) {
    let xl = family == "sdxl";
    for part in ["scheduler/scheduler_config.json", "model_index.json"] {
        copy(&root().join(family).join(part), &folder.join(part));
    }
    for tokenizer in if xl { &["tokenizer", "tokenizer_2"][..] } else { &["tokenizer"] } {
        for file in ["vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"] {
            copy(&root().join("sd15/tokenizer").join(file), &folder.join(tokenizer).join(file));
        }
    }
    // CLIP ViT-L/14, and OpenCLIP ViT-bigG/14.
    let large = json!({ "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
        "projection_dim": 768 });
    let giant = json!({ "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32,
        "projection_dim": 1280 });
    let component = |name: &str, file: &str, changes: Value, shapes: Shapes| {
        let tiny =
            std::fs::read_to_string(root().join(family).join(name).join("config.json")).expect("the tiny config");
        let mut config: Value = serde_json::from_str(&tiny).expect("JSON");
        for (key, value) in changes.as_object().expect("changes are an object") {
            config[key] = value.clone();
        }
        create_dir_all(folder.join(name)).expect("a folder");
        write(folder.join(name).join("config.json"), config.to_string()).expect("a config");
        shapes.write(&folder.join(name).join(file));
    };
    component("text_encoder", "model.safetensors", large, text_encoder(768, 3072, 12, None));
    if xl {
        component("text_encoder_2", "model.safetensors", giant, text_encoder(1280, 5120, 32, Some(1280)));
    }
    let vae_config = json!({ "block_out_channels": [128, 256, 512, 512], "norm_num_groups": 32, "sample_size": if xl { 1024 } else { 512 } });
    component("vae", "diffusion_pytorch_model.safetensors", vae_config, vae());
    let (config, shapes) = if xl {
        let config = json!({ "block_out_channels": [320, 640, 1280], "attention_head_dim": [5, 10, 20], "cross_attention_dim": 2048,
            "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816, "norm_num_groups": 32,
            "transformer_layers_per_block": [1, 2, 10], "sample_size": 128 });
        (config, unet(&[320, 640, 1280], &[0, 2, 10], 2048, Some(2816)))
    } else {
        let config = json!({ "block_out_channels": [320, 640, 1280, 1280], "attention_head_dim": 8, "cross_attention_dim": 768,
            "norm_num_groups": 32, "sample_size": 64 });
        (config, unet(&[320, 640, 1280, 1280], &[1, 1, 1, 0], 768, None))
    };
    component("unet", "diffusion_pytorch_model.safetensors", config, shapes);
}

fn copy(from: &Path, to: &Path) {
    create_dir_all(to.parent().expect("a file in a folder")).expect("a folder");
    std::fs::copy(from, to).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
}

impl Shapes {
    fn add(&mut self, name: String, shape: &[usize]) {
        self.0.insert(format!("{name}.weight"), shape.to_vec());
    }

    fn with_bias(&mut self, name: String, shape: &[usize]) {
        self.0.insert(format!("{name}.bias"), vec![shape[0]]);
        self.add(name, shape);
    }

    fn write(&self, path: &Path) {
        let mut end = 0;
        let mut entries = serde_json::Map::new();
        for (name, shape) in &self.0 {
            let begin = end;
            end += 2 * shape.iter().product::<usize>();
            entries.insert(name.clone(), json!({ "dtype": "F16", "shape": shape, "data_offsets": [begin, end] }));
        }
        let mut header = Value::Object(entries).to_string();
        header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
        let mut file = File::create(path).expect("a file");
        file.write_all(&(header.len() as u64).to_le_bytes()).expect("a length");
        file.write_all(header.as_bytes()).expect("a header");
        file.set_len((8 + header.len() + end) as u64).expect("a sparse file");
    }

    fn resnet(&mut self, at: &str, c_in: usize, c_out: usize, time: Option<usize>) {
        self.with_bias(format!("{at}.norm1"), &[c_in]);
        self.with_bias(format!("{at}.conv1"), &[c_out, c_in, 3, 3]);
        if let Some(time) = time {
            self.with_bias(format!("{at}.time_emb_proj"), &[c_out, time]);
        }
        self.with_bias(format!("{at}.norm2"), &[c_out]);
        self.with_bias(format!("{at}.conv2"), &[c_out, c_out, 3, 3]);
        if c_in != c_out {
            self.with_bias(format!("{at}.conv_shortcut"), &[c_out, c_in, 1, 1]);
        }
    }

    /// `linear` projections are stored as matrices (SDXL), the others as 1×1 convolutions.
    fn transformer(&mut self, at: &str, c: usize, layers: usize, context: usize, linear: bool) {
        self.with_bias(format!("{at}.norm"), &[c]);
        let projection = if linear { vec![c, c] } else { vec![c, c, 1, 1] };
        self.with_bias(format!("{at}.proj_in"), &projection);
        self.with_bias(format!("{at}.proj_out"), &projection);
        for layer in 0..layers {
            let block = format!("{at}.transformer_blocks.{layer}");
            for (attention, keys) in [("attn1", c), ("attn2", context)] {
                self.add(format!("{block}.{attention}.to_q"), &[c, c]);
                self.add(format!("{block}.{attention}.to_k"), &[c, keys]);
                self.add(format!("{block}.{attention}.to_v"), &[c, keys]);
                self.with_bias(format!("{block}.{attention}.to_out.0"), &[c, c]);
            }
            (1..4).for_each(|norm| self.with_bias(format!("{block}.norm{norm}"), &[c]));
            self.with_bias(format!("{block}.ff.net.0.proj"), &[8 * c, c]);
            self.with_bias(format!("{block}.ff.net.2"), &[c, 4 * c]);
        }
    }
}

fn text_encoder(width: usize, inner: usize, layers: usize, projection: Option<usize>) -> Shapes {
    let mut s = Shapes::default();
    s.add("text_model.embeddings.token_embedding".into(), &[49408, width]);
    s.add("text_model.embeddings.position_embedding".into(), &[77, width]);
    for layer in 0..layers {
        let at = format!("text_model.encoder.layers.{layer}");
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            s.with_bias(format!("{at}.self_attn.{name}"), &[width, width]);
        }
        s.with_bias(format!("{at}.layer_norm1"), &[width]);
        s.with_bias(format!("{at}.layer_norm2"), &[width]);
        s.with_bias(format!("{at}.mlp.fc1"), &[inner, width]);
        s.with_bias(format!("{at}.mlp.fc2"), &[width, inner]);
    }
    s.with_bias("text_model.final_layer_norm".into(), &[width]);
    if let Some(dim) = projection {
        s.add("text_projection".into(), &[dim, width]);
    }
    s
}

/// `transformers`: layers in each attention of a level, 0 where it has none.
fn unet(channels: &[usize], transformers: &[usize], context: usize, added: Option<usize>) -> Shapes {
    const TIME: usize = 1280;
    let mut s = Shapes::default();
    let linear = added.is_some();
    s.with_bias("conv_in".into(), &[320, 4, 3, 3]);
    for (name, inner) in [("time_embedding", Some(320)), ("add_embedding", added)] {
        if let Some(inner) = inner {
            s.with_bias(format!("{name}.linear_1"), &[TIME, inner]);
            s.with_bias(format!("{name}.linear_2"), &[TIME, TIME]);
        }
    }
    let (last, mut skips, mut c) = (channels.len() - 1, vec![320], 320);
    for (level, (&width, &layers)) in channels.iter().zip(transformers).enumerate() {
        let at = format!("down_blocks.{level}");
        for layer in 0..2 {
            s.resnet(&format!("{at}.resnets.{layer}"), c, width, Some(TIME));
            if layers > 0 {
                s.transformer(&format!("{at}.attentions.{layer}"), width, layers, context, linear);
            }
            c = width;
            skips.push(c);
        }
        if level < last {
            s.with_bias(format!("{at}.downsamplers.0.conv"), &[c, c, 3, 3]);
            skips.push(c);
        }
    }
    s.resnet("mid_block.resnets.0", c, c, Some(TIME));
    s.transformer("mid_block.attentions.0", c, transformers[last].max(1), context, linear);
    s.resnet("mid_block.resnets.1", c, c, Some(TIME));
    for (block, (&width, &layers)) in channels.iter().zip(transformers).rev().enumerate() {
        let at = format!("up_blocks.{block}");
        for layer in 0..3 {
            let skip = skips.pop().expect("every layer on the way down left a skip");
            s.resnet(&format!("{at}.resnets.{layer}"), c + skip, width, Some(TIME));
            if layers > 0 {
                s.transformer(&format!("{at}.attentions.{layer}"), width, layers, context, linear);
            }
            c = width;
        }
        if block < last {
            s.with_bias(format!("{at}.upsamplers.0.conv"), &[c, c, 3, 3]);
        }
    }
    s.with_bias("conv_norm_out".into(), &[320]);
    s.with_bias("conv_out".into(), &[4, 320, 3, 3]);
    s
}

fn vae() -> Shapes {
    const CHANNELS: [usize; 4] = [128, 256, 512, 512];
    let mut s = Shapes::default();
    for (side, first, last) in [("encoder", 3, 8), ("decoder", 4, 3)] {
        let widths: Vec<usize> =
            if side == "encoder" { CHANNELS.to_vec() } else { CHANNELS.iter().rev().copied().collect() };
        let (blocks, layers, sampler) =
            if side == "encoder" { ("down_blocks", 2, "downsamplers") } else { ("up_blocks", 3, "upsamplers") };
        s.with_bias(format!("{side}.conv_in"), &[widths[0], first, 3, 3]);
        let mut c = widths[0];
        for (level, &width) in widths.iter().enumerate() {
            for layer in 0..layers {
                s.resnet(&format!("{side}.{blocks}.{level}.resnets.{layer}"), c, width, None);
                c = width;
            }
            if level < 3 {
                s.with_bias(format!("{side}.{blocks}.{level}.{sampler}.0.conv"), &[c, c, 3, 3]);
            }
        }
        for resnet in 0..2 {
            s.resnet(&format!("{side}.mid_block.resnets.{resnet}"), 512, 512, None);
        }
        s.with_bias(format!("{side}.mid_block.attentions.0.group_norm"), &[512]);
        for projection in ["to_q", "to_k", "to_v", "to_out.0"] {
            s.with_bias(format!("{side}.mid_block.attentions.0.{projection}"), &[512, 512]);
        }
        s.with_bias(format!("{side}.conv_norm_out"), &[c]);
        s.with_bias(format!("{side}.conv_out"), &[last, c, 3, 3]);
    }
    s.with_bias("quant_conv".into(), &[8, 8, 1, 1]);
    s.with_bias("post_quant_conv".into(), &[4, 4, 1, 1]);
    s
}
