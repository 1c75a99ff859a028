//! The names of tensors in adapter files: which layer they are for, and which part of its change they hold.
//!
//! Sources: kohya sd-scripts `networks/lora.py`, LyCORIS `lycoris/modules`, diffusers `loaders/lora_conversion_utils.py`, PEFT
//! `tuners/lora`, ComfyUI `comfy/lora.py`.

/// A part of a layer's change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Leaf {
    Up,
    Down,
    Mid,
    Alpha,
    /// LyCORIS's and kohya's magnitudes, along the axis that their shape tells.
    DoraScale,
    /// PEFT's magnitudes, one for each output.
    Magnitude,
    HadaW1A,
    HadaW1B,
    HadaW2A,
    HadaW2B,
    HadaT1,
    HadaT2,
    LokrW1,
    LokrW1A,
    LokrW1B,
    LokrW2,
    LokrW2A,
    LokrW2B,
    LokrT2,
    Diff,
    DiffBias,
    NormWeight,
    NormBias,
}

/// Whose way to write names it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Style {
    Kohya,
    Diffusers,
    Peft,
}

/// The style of an ending.
fn style(ending: &str) -> Style {
    let has = |part: &str| ending.contains(part);
    if has("lora_A") || has("lora_B") || has("lora_magnitude") {
        Style::Peft
    } else if has("lora.") || has("lora_linear_layer") {
        Style::Diffusers
    } else {
        Style::Kohya
    }
}

const ENDINGS: &[(&str, Leaf)] = &[
    (".lora_up.weight", Leaf::Up),
    (".lora_down.weight", Leaf::Down),
    (".lora_mid.weight", Leaf::Mid),
    (".lora_linear_layer.up.weight", Leaf::Up),
    (".lora_linear_layer.down.weight", Leaf::Down),
    (".lora.up.weight", Leaf::Up),
    (".lora.down.weight", Leaf::Down),
    ("_lora.up.weight", Leaf::Up),
    ("_lora.down.weight", Leaf::Down),
    (".lora_B.weight", Leaf::Up),
    (".lora_A.weight", Leaf::Down),
    (".lora_B.default.weight", Leaf::Up),
    (".lora_A.default.weight", Leaf::Down),
    (".alpha", Leaf::Alpha),
    (".dora_scale", Leaf::DoraScale),
    (".lora_magnitude_vector.default.weight", Leaf::Magnitude),
    (".lora_magnitude_vector.weight", Leaf::Magnitude),
    (".lora_magnitude_vector", Leaf::Magnitude),
    (".hada_w1_a", Leaf::HadaW1A),
    (".hada_w1_b", Leaf::HadaW1B),
    (".hada_w2_a", Leaf::HadaW2A),
    (".hada_w2_b", Leaf::HadaW2B),
    (".hada_t1", Leaf::HadaT1),
    (".hada_t2", Leaf::HadaT2),
    (".lokr_w1", Leaf::LokrW1),
    (".lokr_w1_a", Leaf::LokrW1A),
    (".lokr_w1_b", Leaf::LokrW1B),
    (".lokr_w2", Leaf::LokrW2),
    (".lokr_w2_a", Leaf::LokrW2A),
    (".lokr_w2_b", Leaf::LokrW2B),
    (".lokr_t2", Leaf::LokrT2),
    (".diff", Leaf::Diff),
    (".diff_b", Leaf::DiffBias),
    (".w_norm", Leaf::NormWeight),
    (".b_norm", Leaf::NormBias),
];

/// The layer, as the file names it, the part, and the style; `None` for a name of no format that is read.
pub(super) fn parse(name: &str) -> Option<(String, Leaf, Style)> {
    let (module, ending, leaf) =
        ENDINGS.iter().find_map(|(ending, leaf)| Some((name.strip_suffix(ending)?, *ending, *leaf)))?;
    let style = style(ending);
    if !ending.starts_with('_') {
        // `attn1.processor.to_q.lora_A`: PEFT over attention processors.
        return Some((module.replace(".processor.", "."), leaf, style));
    }
    // diffusers' first form keeps its factors in the attention processor: `attn1.processor.to_q_lora.up.weight`.
    let module = module.replace(".processor.", ".");
    Some((if module.ends_with(".to_out") { module + ".0" } else { module }, leaf, style))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_style_gives_layer_and_part() {
        let cases = [
            ("lora_unet_mid_block_proj_in.alpha", "lora_unet_mid_block_proj_in", Leaf::Alpha, Style::Kohya),
            ("unet.a.attn1.processor.to_q_lora.up.weight", "unet.a.attn1.to_q", Leaf::Up, Style::Diffusers),
            ("a.attn1.processor.to_out_lora.down.weight", "a.attn1.to_out.0", Leaf::Down, Style::Diffusers),
            ("unet.a.to_out.0.lora.down.weight", "unet.a.to_out.0", Leaf::Down, Style::Diffusers),
            ("text_encoder.x.q_proj.lora_linear_layer.up.weight", "text_encoder.x.q_proj", Leaf::Up, Style::Diffusers),
            ("base_model.model.x.fc1.lora_A.weight", "base_model.model.x.fc1", Leaf::Down, Style::Peft),
            ("x.lokr_w1_a", "x", Leaf::LokrW1A, Style::Kohya),
            ("x.diff_b", "x", Leaf::DiffBias, Style::Kohya),
        ];
        for (name, module, leaf, style) in cases {
            assert_eq!(parse(name), Some((module.into(), leaf, style)), "{name}");
        }
        for name in ["x.oft_blocks", "emb_params", "lora_up.weight", "x.weight"] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
