//! ComfyUI's graph as it was drawn (`workflow`): nodes with widgets in the order in which they stand, and links by number. Turned into what
//! ran, as ComfyUI does when it queues it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::comfy::{Node, Nodes};
use super::fields::shortened;
use super::{Program, cannot};
use crate::Result;

/// Names of the widgets of ComfyUI's own nodes, in order (`nodes.py`, `comfy_extras`); an empty one is the choice of what happens to a seed
/// after a run, or the button of a picture.
const WIDGETS: [(&str, &[&str]); 27] = [
    ("KSampler", &["seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"]),
    (
        "KSamplerAdvanced",
        &[
            "add_noise",
            "noise_seed",
            "",
            "steps",
            "cfg",
            "sampler_name",
            "scheduler",
            "start_at_step",
            "end_at_step",
            "return_with_leftover_noise",
        ],
    ),
    ("CheckpointLoaderSimple", &["ckpt_name"]),
    ("CheckpointLoader", &["config_name", "ckpt_name"]),
    ("UNETLoader", &["unet_name", "weight_dtype"]),
    ("CLIPLoader", &["clip_name", "type"]),
    ("DualCLIPLoader", &["clip_name1", "clip_name2", "type"]),
    ("VAELoader", &["vae_name"]),
    ("LoraLoader", &["lora_name", "strength_model", "strength_clip"]),
    ("LoraLoaderModelOnly", &["lora_name", "strength_model"]),
    ("CLIPSetLastLayer", &["stop_at_clip_layer"]),
    ("CLIPTextEncode", &["text"]),
    (
        "CLIPTextEncodeSDXL",
        &["width", "height", "crop_w", "crop_h", "target_width", "target_height", "text_g", "text_l"],
    ),
    ("EmptyLatentImage", &["width", "height", "batch_size"]),
    ("LoadImage", &["image", ""]),
    ("VAEEncodeForInpaint", &["grow_mask_by"]),
    ("LatentUpscale", &["upscale_method", "width", "height", "crop"]),
    ("LatentUpscaleBy", &["upscale_method", "scale_by"]),
    ("ImageScale", &["upscale_method", "width", "height", "crop"]),
    ("ImageScaleBy", &["upscale_method", "scale_by"]),
    ("ControlNetLoader", &["control_net_name"]),
    ("ControlNetApply", &["strength"]),
    ("ControlNetApplyAdvanced", &["strength", "start_percent", "end_percent"]),
    ("ModelSamplingDiscrete", &["sampling", "zsnr"]),
    ("RescaleCFG", &["multiplier"]),
    ("PrimitiveNode", &["value", ""]),
    ("RepeatLatentBatch", &["amount"]),
];

/// LiteGraph's modes of nodes that do not run.
const NEVER: u64 = 2;
const BYPASSED: u64 = 4;

/// A link: from which node's output, of which kind.
struct Wire {
    from: String,
    slot: u64,
    kind: String,
}

fn id_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The nodes that would run, by their ids.
pub(super) fn nodes(drawn: &Value) -> Result<Nodes> {
    let list = drawn["nodes"].as_array();
    let Some(list) = list.filter(|list| !list.is_empty()) else {
        return Err(cannot(Program::ComfyUi, "its drawn graph has no nodes"));
    };
    if drawn["definitions"]["subgraphs"].as_array().is_some_and(|graphs| !graphs.is_empty()) {
        return Err(cannot(Program::ComfyUi, "its drawn graph has graphs inside, and the one that ran is not kept"));
    }
    let wires = wires(&drawn["links"]);
    let by_id: BTreeMap<String, &Value> = list.iter().map(|node| (id_of(&node["id"]), node)).collect();
    let mut nodes = Nodes::new();
    for (id, node) in &by_id {
        if matches!(node["mode"].as_u64(), Some(NEVER | BYPASSED)) {
            continue;
        }
        let class = node["type"].as_str().unwrap_or_default().to_owned();
        let mut inputs = widgets(&class, node)?;
        for input in node["inputs"].as_array().into_iter().flatten() {
            let name = input["name"].as_str().unwrap_or_default();
            if let Some(wire) = source(&input["link"], &wires, &by_id) {
                inputs.insert(name.to_owned(), json!([wire.from, wire.slot]));
            }
        }
        nodes.insert(id.clone(), Node { class, inputs });
    }
    Ok(nodes)
}

/// `[id, from, slot, to, slot, kind]` each, in files of a newer form objects.
fn wires(links: &Value) -> BTreeMap<String, Wire> {
    let one = |link: &Value| -> Option<(String, Wire)> {
        let (id, from, slot, kind) = match link {
            Value::Array(parts) => (parts.first()?, parts.get(1)?, parts.get(2)?, parts.get(5)?),
            object => (&object["id"], &object["origin_id"], &object["origin_slot"], &object["type"]),
        };
        let kind = kind.as_str().unwrap_or_default().to_owned();
        Some((id_of(id), Wire { from: id_of(from), slot: slot.as_u64()?, kind }))
    };
    links.as_array().into_iter().flatten().filter_map(one).collect()
}

/// Where a link comes from, past nodes that are bypassed: of these the first input of the kind goes through.
fn source<'w>(link: &Value, wires: &'w BTreeMap<String, Wire>, nodes: &BTreeMap<String, &Value>) -> Option<&'w Wire> {
    let mut wire = wires.get(&id_of(link)).filter(|_| !link.is_null())?;
    for _ in 0..=nodes.len() {
        let node = nodes.get(&wire.from)?;
        match node["mode"].as_u64() {
            Some(NEVER) => return None,
            Some(BYPASSED) => {
                let inputs = node["inputs"].as_array()?.iter().filter_map(|input| wires.get(&id_of(&input["link"])));
                wire = inputs.into_iter().find(|own| own.kind == wire.kind)?;
            }
            _ => return Some(wire),
        }
    }
    None
}

fn widgets(class: &str, node: &Value) -> Result<Map<String, Value>> {
    let values = match &node["widgets_values"] {
        Value::Object(named) => return Ok(named.clone()),
        Value::Array(values) if !values.is_empty() => values,
        _ => return Ok(Map::new()),
    };
    let known = WIDGETS.iter().find(|(own, _)| *own == class).map(|(_, names)| *names);
    let Some(names) = known else {
        // Notes, savers and the like do not matter; a sampler that is not known is told where it would be read.
        return match class.contains("Sampler") {
            true => Err(cannot(
                Program::ComfyUi,
                format!("node {} of its drawn graph is not read, and the graph that ran is not kept", shortened(class)),
            )),
            false => Ok(Map::new()),
        };
    };
    let pairs = names.iter().zip(values).filter(|(name, _)| !name.is_empty());
    Ok(pairs.map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}
