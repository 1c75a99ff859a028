//! Words of other programs for the options of this one: stable-diffusion.cpp, diffusers, AUTOMATIC1111's, ComfyUI and CompVis' scripts.
//! They are taken, and not listed.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use clap::Command;
use clap::builder::Str;

/// An option by its name here, and what others call it.
const ALIASES: &[(&str, &[&str])] = &[
    ("model", &["ckpt", "checkpoint", "model-id", "model-path", "pretrained-model-name-or-path"]),
    ("unet", &["diffusion-model"]),
    ("vae", &["vae-path"]),
    ("preview_vae", &["taesd"]),
    ("negative", &["negative-prompt", "neg-prompt", "uc"]),
    ("negative_2", &["negative-prompt-2"]),
    ("guidance", &["guidance-scale", "cfg-scale", "cfg"]),
    ("guidance_rescale", &["rescale-cfg"]),
    ("image_guidance", &["image-guidance-scale", "img-cfg-scale", "image-cfg-scale"]),
    ("steps", &["num-inference-steps", "sampling-steps", "ddim-steps", "sample-steps"]),
    ("sampler", &["sampling-method", "sample-method", "sampler-name", "sampler-index"]),
    ("sigmas", &["scheduler", "schedule"]),
    ("spacing", &["timestep-spacing"]),
    ("count", &["batch-count", "n-iter", "num-images-per-prompt", "num-images", "n-samples"]),
    ("batch", &["batch-size"]),
    ("variation_seed", &["subseed"]),
    ("variation_strength", &["subseed-strength"]),
    ("image", &["init-img", "init-image", "input-image"]),
    ("mask", &["mask-image", "mask-img"]),
    ("strength", &["denoising-strength", "denoise"]),
    ("hires", &["hr-scale", "hires-scale"]),
    ("hires_steps", &["hr-second-pass-steps"]),
    ("hires_strength", &["hires-denoising-strength"]),
    ("lora_dir", &["lora-model-dir"]),
    ("control", &["control-net", "controlnet"]),
    ("control_image", &["control-net-image"]),
    ("control_weight", &["control-strength", "controlnet-conditioning-scale"]),
    ("control_start", &["control-guidance-start"]),
    ("control_end", &["control-guidance-end"]),
    ("clip_skip", &["clip-stop-at-last-layers"]),
    ("output", &["out", "outfile"]),
    ("weights", &["type"]),
    ("oms_guidance", &["oms-guidance-scale"]),
    ("oms_negative", &["oms-negative-prompt"]),
];

/// Letters likewise, where they are free here.
const LETTERS: &[(&str, char)] = &[("model", 'm')];

/// The commands with these words, and each long name with `_` in place of `-`, as Python has it.
pub(super) fn added(command: Command) -> Command {
    command.mut_subcommands(|known| {
        known.mut_args(|arg| {
            let id = arg.get_id().as_str();
            let others = ALIASES.iter().find(|(name, _)| *name == id).map_or(&[][..], |(_, others)| others);
            let letter = LETTERS.iter().find(|(name, _)| *name == id).map(|(_, letter)| *letter);
            let own = arg.get_long().map(str::to_owned);
            let Some(own) = own else { return arg };
            let dashed = std::iter::once(own.as_str()).chain(others.iter().copied());
            let python = dashed.filter(|name| name.contains('-')).map(|name| name.replace('-', "_"));
            let all = others.iter().map(|name| Str::from(*name)).chain(python.map(shared));
            let arg = arg.aliases(all.collect::<Vec<_>>());
            match letter {
                Some(letter) => arg.short_alias(letter),
                None => arg,
            }
        })
    })
}

/// A name that was made here. Command lines hold names for as long as the program runs: each is kept once.
pub(super) fn shared(name: String) -> Str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let known = names.get(name.as_str()).copied();
    known
        .unwrap_or_else(|| {
            let kept: &'static str = name.leak();
            names.insert(kept);
            kept
        })
        .into()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::Cli;

    #[test]
    fn every_alias_belongs_to_an_option() {
        let command = Cli::command();
        let generate = command.find_subcommand("generate").expect("generate");
        let is_option = |id: &str| generate.get_arguments().any(|arg| arg.get_id() == id);
        assert!(ALIASES.iter().all(|(id, _)| is_option(id)) && LETTERS.iter().all(|(id, _)| is_option(id)));
    }
}
