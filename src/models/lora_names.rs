//! The names that adapter files give to layers → the layers' own.
//!
//! kohya's scripts write `_` for every `.`, which cannot be undone by itself (`to_out_0` is `to_out.0`, `to_out` is one word). So nothing is
//! undone: the network's own layers are written the same way, under each of their names, and looked up.

use std::collections::HashMap;

/// A network that adapters change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Network {
    /// The UNet.
    Unet,
    /// The text encoder of this index: 0, or with SDXL also 1.
    TextEncoder(usize),
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Network::Unet => f.write_str("UNet"),
            Network::TextEncoder(0) => f.write_str("text encoder"),
            Network::TextEncoder(i) => write!(f, "text encoder {}", i + 1),
        }
    }
}

/// What a layer's name begins with, and the network that this means.
const PREFIXES: &[(&str, Network)] = &[
    ("lora_unet_", Network::Unet),
    ("lycoris_", Network::Unet),
    ("unet.", Network::Unet),
    ("model.diffusion_model.", Network::Unet),
    ("diffusion_model.", Network::Unet),
    ("lora_te1_", Network::TextEncoder(0)),
    ("lora_te2_", Network::TextEncoder(1)),
    ("lora_te_", Network::TextEncoder(0)),
    ("text_encoder_2.", Network::TextEncoder(1)),
    ("text_encoder.", Network::TextEncoder(0)),
];

/// The network that a layer's name in a file says, if it does, and the rest of the name.
pub fn network(module: &str) -> (Option<Network>, &str) {
    let mut rest = module;
    // PEFT's wrapper, which may be around the whole or around the component.
    let unwrapped = |rest: &mut &str| {
        while let Some(inner) = rest.strip_prefix("base_model.model.") {
            *rest = inner;
        }
    };
    unwrapped(&mut rest);
    let found = PREFIXES.iter().find_map(|(prefix, network)| Some((*network, rest.strip_prefix(prefix)?)));
    let Some((network, mut rest)) = found else { return (None, rest) };
    unwrapped(&mut rest);
    (Some(network), rest)
}

/// The layers of a network under all their names.
pub struct LayerNames {
    /// By name with `_` for `.`; `None` where two layers have one name.
    by_name: HashMap<String, Option<String>>,
}

impl LayerNames {
    /// The layers of a UNet, named as in diffusers; also known by the numbers of the original code.
    pub fn unet<'a>(layers: impl Iterator<Item = &'a str>) -> Self {
        let layers: Vec<&str> = layers.collect();
        let blocks = Blocks::count(&layers);
        Self::new(layers.iter().map(|layer| (*layer, blocks.original(layer))))
    }

    /// The layers of a text encoder, named as in transformers, with or without the outermost `text_model.`.
    pub fn text_encoder<'a>(layers: impl Iterator<Item = &'a str>) -> Self {
        Self::new(layers.map(|layer| {
            let other = layer.strip_prefix("text_model.").map(str::to_owned);
            (layer, Some(other.unwrap_or_else(|| format!("text_model.{layer}"))))
        }))
    }

    fn new<'a>(layers: impl Iterator<Item = (&'a str, Option<String>)>) -> Self {
        let mut by_name: HashMap<String, Option<String>> = HashMap::new();
        for (layer, other) in layers {
            for name in std::iter::once(layer.to_owned()).chain(other) {
                let entry = by_name.entry(underscored(&name)).or_insert_with(|| Some(layer.to_owned()));
                if entry.as_deref() != Some(layer) {
                    *entry = None;
                }
            }
        }
        LayerNames { by_name }
    }

    /// The layer of this name, in any of the ways to write it.
    pub fn find(&self, name: &str) -> Option<&str> {
        self.by_name.get(&underscored(name))?.as_deref()
    }
}

fn underscored(name: &str) -> String {
    name.replace('.', "_")
}

/// How many blocks of the original code come before each level of diffusers' UNet.
struct Blocks {
    /// Resnets of each level on the way down, and up.
    down: Vec<usize>,
    up: Vec<usize>,
    /// Whether a level on the way up has attention.
    up_attention: Vec<bool>,
}

impl Blocks {
    fn count(layers: &[&str]) -> Self {
        let (mut down, mut up, mut up_attention) = (Vec::new(), Vec::new(), Vec::new());
        for layer in layers {
            let mut words = layer.split('.');
            let counts = match words.next() {
                Some("down_blocks") => &mut down,
                Some("up_blocks") => &mut up,
                _ => continue,
            };
            let number = |word: Option<&str>| word.and_then(|word| word.parse::<usize>().ok()).filter(|n| *n < 64);
            let (Some(level), Some(kind), Some(at)) = (number(words.next()), words.next(), number(words.next())) else {
                continue;
            };
            if counts.len() <= level {
                counts.resize(level + 1, 0);
            }
            if kind == "resnets" {
                counts[level] = counts[level].max(at + 1);
            }
            if layer.starts_with("up_blocks") {
                if up_attention.len() <= level {
                    up_attention.resize(level + 1, false);
                }
                up_attention[level] |= kind == "attentions";
            }
        }
        Blocks { down, up, up_attention }
    }

    /// The layer's name in CompVis's `ldm/modules/diffusionmodules/openaimodel.py` (and Stability's `sgm`), which numbers all blocks through:
    /// the first convolution, then each level's resnets with their attentions and its downsampler, is an input block; each resnet with its
    /// attention and upsampler an output block. `None` for a layer that it does not have.
    fn original(&self, layer: &str) -> Option<String> {
        let whole = [
            ("time_embedding.linear_1", "time_embed.0"),
            ("time_embedding.linear_2", "time_embed.2"),
            ("add_embedding.linear_1", "label_emb.0.0"),
            ("add_embedding.linear_2", "label_emb.0.2"),
            ("conv_in", "input_blocks.0.0"),
            ("conv_norm_out", "out.0"),
            ("conv_out", "out.2"),
        ];
        if let Some((_, original)) = whole.iter().find(|(ours, _)| *ours == layer) {
            return Some((*original).into());
        }
        let (place, rest) = layer.split_once('.')?;
        if place == "mid_block" {
            let (at, inner) = [("resnets.0.", 0), ("attentions.0.", 1), ("resnets.1.", 2)]
                .into_iter()
                .find_map(|(start, at)| Some((at, rest.strip_prefix(start)?)))?;
            return Some(format!("middle_block.{at}.{}", if at == 1 { inner } else { resnet(inner)? }));
        }
        let mut words = rest.splitn(4, '.');
        let level: usize = words.next()?.parse().ok()?;
        let (kind, at, inner) = (words.next()?, words.next()?.parse::<usize>().ok()?, words.next()?);
        let (blocks, before) = match place {
            "down_blocks" => ("input_blocks", 1 + self.down.get(..level)?.iter().map(|n| n + 1).sum::<usize>()),
            "up_blocks" => ("output_blocks", self.up.get(..level)?.iter().sum()),
            _ => return None,
        };
        match kind {
            "resnets" => Some(format!("{blocks}.{}.0.{}", before + at, resnet(inner)?)),
            "attentions" => Some(format!("{blocks}.{}.1.{inner}", before + at)),
            "downsamplers" => Some(format!("{blocks}.{}.0.op", before + self.down.get(level)?)),
            "upsamplers" => {
                let behind = if *self.up_attention.get(level)? { 2 } else { 1 };
                Some(format!("{blocks}.{}.{behind}.conv", (before + self.up.get(level)?).checked_sub(1)?))
            }
            _ => None,
        }
    }
}

fn resnet(inner: &str) -> Option<&'static str> {
    Some(match inner {
        "norm1" => "in_layers.0",
        "conv1" => "in_layers.2",
        "time_emb_proj" => "emb_layers.1",
        "norm2" => "out_layers.0",
        "conv2" => "out_layers.3",
        "conv_shortcut" => "skip_connection",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_tell_the_network() {
        for (name, expected) in [
            ("lora_unet_mid_block", (Some(Network::Unet), "mid_block")),
            ("base_model.model.unet.mid_block", (Some(Network::Unet), "mid_block")),
            ("base_model.model.mid_block", (None, "mid_block")),
            ("lora_te_text_model", (Some(Network::TextEncoder(0)), "text_model")),
            ("lora_te2_text_model", (Some(Network::TextEncoder(1)), "text_model")),
            ("text_encoder_2.x", (Some(Network::TextEncoder(1)), "x")),
        ] {
            assert_eq!(network(name), expected, "{name}");
        }
    }

    #[test]
    fn one_name_for_two_layers_is_no_name() {
        let names = LayerNames::text_encoder(["a.b_c", "a_b.c", "d"].into_iter());
        assert_eq!((names.find("a.b.c"), names.find("d"), names.find("text_model_d")), (None, Some("d"), Some("d")));
    }
}
