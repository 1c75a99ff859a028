//! Writes single-file checkpoints: the reference converter's names for what it covers, OpenCLIP's own for the rest.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

use flate2::read::ZlibDecoder;
use safetensors::SafeTensors;

/// Name in the original file and shape in diffusers, by name in diffusers.
pub(crate) type Table = BTreeMap<String, (String, Vec<usize>)>;

/// A section of `tests/golden/single_file`: `sd15_unet`, `sd21_unet`, `sdxl_unet`, `vae`, `sd15_text_encoder`.
pub(crate) fn table(section: &str) -> Table {
    let mut text = String::new();
    let packed = include_bytes!("../golden/single_file/keys.zlib").as_slice();
    ZlibDecoder::new(packed).read_to_string(&mut text).expect("the table is whole");
    let row = |line: &str| {
        let [own, name, original, shape] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let shape = shape.split(',').map(|n| n.parse().expect("an extent")).collect();
        (own == section).then(|| (name.to_owned(), (original.to_owned(), shape)))
    };
    let table: Table = text.lines().filter_map(row).collect();
    assert!(table.len() > 100, "{section}: {} rows", table.len());
    table
}

/// A tensor to be written; without bytes, the file has a hole there that reads as zeros.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Option<Vec<u8>>,
}

impl Entry {
    /// A hole of f16.
    pub(crate) fn hole(name: impl Into<String>, shape: &[usize]) -> Entry {
        Entry { name: name.into(), dtype: "F16", shape: shape.to_vec(), bytes: None }
    }

    /// Bytes, with no care for extents that do not fit.
    pub(crate) fn len(&self) -> usize {
        let size = match self.dtype {
            "F32" => 4,
            "F16" | "BF16" => 2,
            "I64" => 8,
            _ => 1,
        };
        self.shape.iter().fold(size, |n, &extent| n.saturating_mul(extent))
    }
}

/// The header of a file of these tensors, with its length before it.
pub(crate) fn header(entries: &[Entry]) -> Vec<u8> {
    let mut at = 0;
    let lines: Vec<String> = entries
        .iter()
        .map(|entry| {
            let from = at;
            at += entry.len();
            format!(
                r#""{}":{{"dtype":"{}","shape":{:?},"data_offsets":[{from},{at}]}}"#,
                entry.name, entry.dtype, entry.shape
            )
        })
        .collect();
    let text = format!("{{{}}}", lines.join(","));
    [(text.len() as u64).to_le_bytes().as_slice(), text.as_bytes()].concat()
}

/// Writes a file; holes take no room on the disk.
pub(crate) fn write(path: &Path, entries: &[Entry]) {
    let mut file = std::fs::File::create(path).expect("the file is made");
    let header = header(entries);
    file.write_all(&header).expect("the header is written");
    let mut at = header.len() as u64;
    for entry in entries {
        if let Some(bytes) = &entry.bytes {
            assert_eq!(bytes.len(), entry.len(), "{}", entry.name);
            std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(at)).expect("a place in the file");
            file.write_all(bytes).expect("the tensor is written");
        }
        at += entry.len() as u64;
    }
    file.set_len(at).expect("the file is as long as its header says");
}

/// All tensors of a file.
pub(crate) fn read(path: &Path) -> Vec<Entry> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = SafeTensors::deserialize(&bytes).expect("a whole file");
    let entry = |(name, tensor): (String, safetensors::tensor::TensorView<'_>)| Entry {
        name,
        dtype: match tensor.dtype() {
            safetensors::Dtype::F32 => "F32",
            safetensors::Dtype::F16 => "F16",
            safetensors::Dtype::I64 => "I64",
            other => panic!("{other:?}"),
        },
        shape: tensor.shape().to_vec(),
        bytes: Some(tensor.data().to_vec()),
    };
    file.tensors().into_iter().map(entry).collect()
}

/// Autoencoders from before diffusers 0.14 have other names for an attention.
const OLD_ATTENTION: [(&str, &str); 4] =
    [(".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")];

/// A component's tensors under the names that a section of the table has.
pub(crate) fn renamed(entries: Vec<Entry>, section: &str) -> Vec<Entry> {
    let table = table(section);
    let rename = |mut entry: Entry| {
        if entry.name == "time_embedding.cond_proj.weight" {
            entry.name = "model.diffusion_model.time_embed.cond_proj.weight".into();
            return entry;
        }
        if entry.name.ends_with("position_ids") {
            entry.name = format!("cond_stage_model.transformer.{}", entry.name);
            return entry;
        }
        let mut name = entry.name.clone();
        if section == "vae" && name.contains(".attentions.") {
            for (old, new) in OLD_ATTENTION {
                name = name.replace(old, new);
            }
            if entry.shape.len() == 2 {
                entry.shape.extend([1, 1]);
            }
        }
        // A tiny model has shortcuts where the full-size one's channels stay the same: they lie beside the block's others.
        let shortcut = || {
            let (original, _) = table.get(&name.replace(".conv_shortcut.", ".conv1."))?;
            Some(original.replace(".conv1.", ".nin_shortcut.").replace(".in_layers.2.", ".skip_connection."))
        };
        let known = table.get(&name).map(|(original, _)| original.clone());
        entry.name = known.or_else(shortcut).unwrap_or_else(|| panic!("{section}: {name}"));
        entry
    };
    entries.into_iter().map(rename).collect()
}

/// A UNet of fewer blocks than the table's under its original names: each level has `layers` blocks on the way down, then one that
/// shrinks; `layers + 1` on the way up, the last of which also grows (`openaimodel.py` of latent-diffusion, `UNetModel`). What is inside a
/// block is named as in 1.5.
pub(crate) fn small_unet(entries: Vec<Entry>, layers: usize) -> Vec<Entry> {
    let attends: Vec<String> = entries
        .iter()
        .filter(|e| e.name.contains(".attentions.0.norm.weight"))
        .map(|e| e.name.replace(".attentions.0.norm.weight", ""))
        .collect();
    let rename = |mut entry: Entry| {
        let parts: Vec<&str> = entry.name.splitn(5, '.').collect();
        let [list @ ("down_blocks" | "up_blocks"), level, kind, index, inside] = parts[..] else {
            if let Some((_, rest)) = entry.name.split_once("transformer_blocks.1.") {
                let first = format!("mid_block.attentions.0.transformer_blocks.0.{rest}");
                let original = renamed(vec![Entry { name: first, ..entry.clone() }], "sd15_unet").remove(0).name;
                entry.name = original.replace("transformer_blocks.0.", "transformer_blocks.1.");
                return entry;
            }
            let section = if entry.name.starts_with("add_embedding.") { "sdxl_unet" } else { "sd15_unet" };
            return renamed(vec![entry], section).remove(0);
        };
        // A block of 1.5 of the same kind: its levels 0 (down) and 1 (up) have attention, its last one up has not.
        let attending = attends.contains(&format!("{list}.{level}"));
        let like = match (list, attending) {
            ("down_blocks", _) => 0,
            (_, true) => 1,
            (_, false) => 0,
        };
        // 1.5 has one transformer block in an attention.
        let depth = inside.strip_prefix("transformer_blocks.").and_then(|rest| rest.split('.').next()).unwrap_or("0");
        let numbered = format!("transformer_blocks.{depth}.");
        let first = inside.replace(&numbered, "transformer_blocks.0.");
        let block = Entry { name: format!("{list}.{like}.{kind}.0.{first}"), ..entry.clone() };
        let original = renamed(vec![block], "sd15_unet").remove(0).name.replace("transformer_blocks.0.", &numbered);
        let (level, index): (usize, usize) = (level.parse().expect("a level"), index.parse().expect("a block"));
        let number = match (list, kind) {
            ("down_blocks", "downsamplers") => 1 + level * (layers + 1) + layers,
            ("down_blocks", _) => 1 + level * (layers + 1) + index,
            (_, "upsamplers") => level * (layers + 1) + layers,
            _ => level * (layers + 1) + index,
        };
        let pieces: Vec<&str> = original.splitn(5, '.').collect();
        entry.name = format!("{}.{}.{}.{number}.{}", pieces[0], pieces[1], pieces[2], pieces[4]);
        entry
    };
    entries.into_iter().map(rename).collect()
}

/// A text encoder of transformers under the names of OpenCLIP (`open_clip/transformer.py`: `ResidualAttentionBlock`,
/// `nn.MultiheadAttention`), below `prefix`. With `one_more`, a last layer follows that nobody listens to.
pub(crate) fn open_clip(entries: Vec<Entry>, prefix: &str, one_more: bool) -> Vec<Entry> {
    let old: BTreeMap<String, Entry> = entries.into_iter().map(|e| (e.name.clone(), e)).collect();
    let mut new = Vec::new();
    let mut put = |name: &str, entry: &Entry| new.push(Entry { name: format!("{prefix}{name}"), ..entry.clone() });
    put("token_embedding.weight", &old["text_model.embeddings.token_embedding.weight"]);
    put("positional_embedding", &old["text_model.embeddings.position_embedding.weight"]);
    for leaf in ["weight", "bias"] {
        put(&format!("ln_final.{leaf}"), &old[&format!("text_model.final_layer_norm.{leaf}")]);
    }
    if let Some(projection) = old.get("text_projection.weight") {
        put("text_projection", &transposed(projection));
    }
    put("logit_scale", &Entry { shape: vec![], bytes: Some(vec![0; 2]), ..Entry::hole("", &[]) });
    let layers =
        (0..).take_while(|i| old.contains_key(&format!("text_model.encoder.layers.{i}.mlp.fc1.weight"))).count();
    for layer in 0..layers + usize::from(one_more) {
        let from = format!("text_model.encoder.layers.{}", layer.min(layers - 1));
        let to = format!("transformer.resblocks.{layer}");
        let pairs = [
            ("layer_norm1", "ln_1"),
            ("layer_norm2", "ln_2"),
            ("self_attn.out_proj", "attn.out_proj"),
            ("mlp.fc1", "mlp.c_fc"),
            ("mlp.fc2", "mlp.c_proj"),
        ];
        for leaf in ["weight", "bias"] {
            for (a, b) in pairs {
                put(&format!("{to}.{b}.{leaf}"), &old[&format!("{from}.{a}.{leaf}")]);
            }
            let parts = ["q", "k", "v"].map(|p| &old[&format!("{from}.self_attn.{p}_proj.{leaf}")]);
            let bytes = parts[0]
                .bytes
                .is_some()
                .then(|| parts.iter().flat_map(|part| part.bytes.clone().expect("all have bytes")).collect());
            let mut shape = parts[0].shape.clone();
            shape[0] *= 3;
            put(&format!("{to}.attn.in_proj_{leaf}"), &Entry { shape, bytes, ..parts[0].clone() });
        }
    }
    new
}

pub(crate) fn transposed(entry: &Entry) -> Entry {
    let [rows, columns] = entry.shape[..] else { panic!("{}: {:?}", entry.name, entry.shape) };
    let bytes = entry.bytes.as_ref().map(|bytes| {
        let size = bytes.len() / (rows * columns);
        let at = |row: usize, column: usize| &bytes[(row * columns + column) * size..][..size];
        (0..columns).flat_map(|column| (0..rows).flat_map(move |row| at(row, column))).copied().collect()
    });
    Entry { shape: vec![columns, rows], bytes, ..entry.clone() }
}

/// A text encoder of transformers with holes for tensors.
pub(crate) fn clip_holes(hidden: usize, wide: usize, layers: usize, projection: Option<usize>) -> Vec<Entry> {
    let mut entries = vec![
        Entry::hole("text_model.embeddings.token_embedding.weight", &[49_408, hidden]),
        Entry::hole("text_model.embeddings.position_embedding.weight", &[77, hidden]),
        Entry::hole("text_model.final_layer_norm.weight", &[hidden]),
        Entry::hole("text_model.final_layer_norm.bias", &[hidden]),
    ];
    entries.extend(projection.map(|dim| Entry::hole("text_projection.weight", &[dim, hidden])));
    for layer in 0..layers {
        let mut put = |name: &str, shape: &[usize]| {
            entries.push(Entry::hole(format!("text_model.encoder.layers.{layer}.{name}"), shape));
        };
        for name in ["layer_norm1", "layer_norm2"] {
            put(&format!("{name}.weight"), &[hidden]);
            put(&format!("{name}.bias"), &[hidden]);
        }
        for (name, out, inner) in [
            ("self_attn.q_proj", hidden, hidden),
            ("self_attn.k_proj", hidden, hidden),
            ("self_attn.v_proj", hidden, hidden),
            ("self_attn.out_proj", hidden, hidden),
            ("mlp.fc1", wide, hidden),
            ("mlp.fc2", hidden, wide),
        ] {
            put(&format!("{name}.weight"), &[out, inner]);
            put(&format!("{name}.bias"), &[out]);
        }
    }
    entries
}

/// Full-size tensors of a section, under their original names, as holes.
pub(crate) fn holes(section: &str) -> Vec<Entry> {
    let entry = |(name, (_, shape)): (String, (String, Vec<usize>))| Entry::hole(name, &shape);
    renamed(table(section).into_iter().map(entry).collect(), section)
}

/// A whole full-size checkpoint of `sd15`, `sd21` or `sdxl`, as holes.
pub(crate) fn full_size(family: &str) -> Vec<Entry> {
    let mut entries = holes(&format!("{family}_unet"));
    entries.extend(holes("vae"));
    match family {
        "sd15" => entries.extend(holes("sd15_text_encoder")),
        "sd21" => entries.extend(open_clip(clip_holes(1024, 4096, 23, Some(1024)), "cond_stage_model.model.", true)),
        _ => {
            let mut first = holes("sd15_text_encoder");
            for entry in &mut first {
                entry.name = entry.name.replace("cond_stage_model.", "conditioner.embedders.0.");
            }
            entries.extend(first);
            entries.extend(open_clip(clip_holes(1280, 5120, 32, Some(1280)), "conditioner.embedders.1.model.", false));
        }
    }
    entries
}
