//! ControlNets of `tests/golden/control`: each is its family's UNet with some tensors of its own.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::golden::committed;
use super::single_file::{Entry, read, write};

/// The family of a net's model.
pub(crate) fn family(net: &str) -> &str {
    net.split('_').next().unwrap_or(net)
}

/// All tensors of a net under diffusers' names.
pub(crate) fn entries(net: &str) -> Vec<Entry> {
    let own = read(&committed().join("control").join(net).join("extra.safetensors"));
    let unet = read(&committed().join(family(net)).join("unet/diffusion_pytorch_model.safetensors"));
    let shared = ["conv_in.", "time_embedding.", "add_embedding.", "down_blocks.", "mid_block."];
    let is_shared = |entry: &Entry| shared.iter().any(|head| entry.name.starts_with(head));
    let kept = unet.into_iter().filter(|entry| is_shared(entry) && own.iter().all(|other| other.name != entry.name));
    kept.chain(own.clone()).collect()
}

/// Writes a net as a folder of diffusers.
pub(crate) fn write_folder(net: &str, folder: &Path) -> PathBuf {
    let at = folder.join(net);
    std::fs::create_dir_all(&at).expect("a new folder");
    write(&at.join("diffusion_pytorch_model.safetensors"), &entries(net));
    std::fs::copy(committed().join("control").join(net).join("config.json"), at.join("config.json")).expect("copied");
    at
}

/// The names of full-size nets in the original layout and in diffusers', as diffusers' converter pairs them.
pub(crate) fn table(section: &str) -> Vec<(String, Entry)> {
    let mut text = String::new();
    let packed = include_bytes!("../golden/control/keys.zlib").as_slice();
    flate2::read::ZlibDecoder::new(packed).read_to_string(&mut text).expect("the table is whole");
    let row = |line: &str| {
        let [own, name, original, shape] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let shape: Vec<usize> = shape.split(',').map(|n| n.parse().expect("an extent")).collect();
        (own == section).then(|| (name.to_owned(), Entry::hole(original, &shape)))
    };
    let table: Vec<_> = text.lines().filter_map(row).collect();
    assert!(table.len() > 300, "{section}: {} rows", table.len());
    table
}
