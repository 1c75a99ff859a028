//! Pages of help: one screen for `-h`, all options in groups for `--help`.

use chiaro::order;
use clap::builder::StyledStr;
use clap::{Arg, Command, CommandFactory};

use super::{Cli, aliases};

/// What `-h` lists, and in how few words.
const SHORT: [(&str, &str); 12] = [
    ("model", "Folder, file or name [default: a demo]"),
    ("oms", "One More Step module, or off [default: demo's]"),
    ("negative", "What to steer away from"),
    ("width", "Width, a multiple of 8 [default: the model's]"),
    ("height", "Height"),
    ("steps", "Steps of the sampler [default: 30]"),
    ("guidance", "How strongly the prompt steers [default: 7.5]"),
    ("seed", "Same seed, same picture [default: 0]"),
    ("count", "Pictures to draw [default: 1]"),
    ("image", "Picture to start from"),
    ("device", "As `chiaro devices` lists"),
    ("output", "File, or folder ending in \"/\""),
];

/// Values whose whole name would make the first page too wide.
const SHORT_VALUES: [(&str, &str); 1] = [("device", "DEVICE")];

/// Groups of options by what they are for; others stay where they say that they belong.
const GROUPS: &[(&str, &[&str])] = &[
    ("Prompt", &["like", "job", "negative", "prompt_syntax", "comma_backtrack", "clip_skip"]),
    (
        "Model",
        &[
            "model",
            "vae",
            "unet",
            "text_encoder",
            "refiner",
            "refiner_start",
            "prediction",
            "lora",
            "lora_dir",
            "embedding",
        ],
    ),
    ("Previews", &["preview", "preview_vae"]),
    (
        "One More Step",
        &["oms", "oms_text_encoder", "oms_guidance", "oms_prompt", "oms_negative", "oms_eta", "oms_compat", "compare"],
    ),
    ("Size, steps, guidance", &["width", "height", "steps", "guidance", "sampler"]),
    ("Device and memory", &["device", "precision", "weights", "vram", "vae_tiling", "stream_weights"]),
    (
        "Stable Diffusion XL",
        &[
            "prompt_2",
            "negative_2",
            "original_size",
            "crop",
            "target_size",
            "aesthetic_score",
            "negative_aesthetic_score",
        ],
    ),
];
/// The group of what is left.
const OUTPUT: &str = "Output";
/// Options of the model that only drawing commands act on.
const ONLY_DRAWN: [&str; 2] = ["preview", "preview_vae"];
const USAGE: &str = "chiaro [OPTIONS] <PROMPT>\n       chiaro <COMMAND> [OPTIONS]";

/// The commands with their options in groups, short where `-h` asks, with negative numbers as values and the last of several values winning.
pub(super) fn arranged(command: Command) -> Command {
    command.mut_subcommands(|known| {
        let name = known.get_name().to_owned();
        let draws = name == "generate";
        let known = known.args_override_self(true);
        known.mut_args(|arg| {
            let arg = described(arg);
            let id = arg.get_id().as_str().to_owned();
            let group = GROUPS.iter().find(|(_, ids)| ids.contains(&id.as_str())).map(|(group, _)| *group);
            let own = arg.get_help_heading().map(str::to_owned);
            let is_shared = group.is_some() || own.is_some();
            let short = SHORT.iter().find(|(short, _)| *short == id);
            let takes_values = arg.get_action().takes_values() && arg.get_long().is_some();
            let has_help = arg.get_help().is_some();
            let mut arg = if takes_values { arg.allow_negative_numbers(true) } else { arg };
            arg = match (group, own, draws && arg.get_long().is_some()) {
                (Some(group), ..) => arg.help_heading(group),
                (None, None, true) => arg.help_heading(OUTPUT),
                _ => arg,
            };
            arg = match short {
                Some((_, brief)) if draws && has_help => {
                    let whole = arg.get_long_help().or(arg.get_help()).cloned().unwrap_or_default();
                    arg.long_help(whole).help(*brief)
                }
                None if is_shared || (draws && arg.get_long().is_some()) => arg.hide_short_help(true),
                _ => arg,
            };
            if ONLY_DRAWN.contains(&id.as_str()) && !draws && name != "plan" { arg.hide(true) } else { arg }
        })
    })
}

/// An option without words of its own, with those of its field: the library's tables have them for every front door.
fn described(arg: Arg) -> Arg {
    let Some(field) = arg.get_long().filter(|_| arg.get_help().is_none()).and_then(order::field_of) else { return arg };
    // clap says its own defaults itself.
    let default = order::default_of(field).filter(|_| arg.get_default_values().is_empty());
    let default = default.map_or_else(String::new, |default| format!(" [default: {default}]"));
    let help = order::with_options(&format!("{}{default}", field.about)).into_owned();
    let arg = if field.value.is_empty() { arg } else { arg.value_name(field.value) };
    arg.help(help)
}

/// The first page, of the program itself: all options of drawing, or those that matter most.
pub(super) fn first_page(all: bool) -> StyledStr {
    let mut page = first_command(all);
    if all { page.render_long_help() } else { page.render_help() }
}

/// The program's page as a command of its own: the options are those of `generate`.
pub(super) fn first_command(all: bool) -> Command {
    let whole = arranged(aliases::added(Cli::command()));
    let generate = whole.find_subcommand("generate").expect("the command has it").clone();
    let about = whole.get_about().cloned().unwrap_or_default();
    let long_about = whole.get_long_about().cloned().unwrap_or_default();
    let page = generate.name("chiaro").bin_name("chiaro").about(about).long_about(long_about).override_usage(USAGE);
    let page = page.version(env!("CARGO_PKG_VERSION"));
    let known = whole.get_subcommands().filter(|known| !known.is_hide_set()).cloned();
    if all {
        let after = whole.get_after_help().cloned().unwrap_or_default();
        return page.subcommands(known).disable_help_subcommand(true).after_help(after);
    }
    let names: Vec<String> = known.map(|known| known.get_name().to_owned()).collect();
    let (first, last) = names.split_at(names.len().div_ceil(2));
    let commands = format!("Commands: {},\n          {}", first.join(", "), last.join(", "));
    let page = page.mut_args(|arg| {
        let brief = SHORT_VALUES.iter().find(|(id, _)| arg.get_id() == *id);
        let arg = arg.help_heading("Options");
        if let Some((_, value)) = brief { arg.value_name(*value) } else { arg }
    });
    // Wider than its lines, so that each option keeps to one.
    let page = page.term_width(120);
    page.help_template("{about}\n\n{usage-heading} {usage}\n\n{options}{after-help}").after_help(format!(
        "{commands}\n`chiaro --help`: every option, in groups; `chiaro COMMAND --help`: a command's"
    ))
}

#[cfg(test)]
mod tests {
    use chiaro::pipeline::REQUEST;

    use super::*;

    #[test]
    fn the_short_page_fits_a_screen() {
        let text = first_page(false).to_string();
        assert!(text.lines().count() <= 24 && text.lines().all(|line| line.chars().count() <= 80), "{text}");
        for (id, _) in SHORT {
            assert!(text.contains(&format!("--{id}")), "{id}: {text}");
        }
        assert!(text.contains("--help") && text.contains("devices") && !text.contains("--token-merging"), "{text}");
    }

    #[test]
    fn the_long_page_has_every_option_in_a_group() {
        let (page, text) = (first_command(true), first_page(true).to_string());
        for arg in page.get_arguments().filter(|arg| !arg.is_hide_set() && arg.get_long().is_some()) {
            let name = format!("--{}", arg.get_long().expect("filtered"));
            let is_help = ["help", "version"].contains(&arg.get_id().as_str());
            assert!(text.contains(&name) && (is_help || arg.get_help_heading().is_some()), "{name}");
        }
        for group in GROUPS.iter().map(|(group, _)| *group).chain([OUTPUT, "Seeds", "Less work", "Commands"]) {
            assert!(text.contains(&format!("{group}:\n")), "{group}: {text}");
        }
    }

    #[test]
    fn every_field_with_an_option_is_described_by_its_row() {
        let text = first_page(true).to_string();
        let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let page = flat(&text);
        for field in order::JOB.iter().chain(REQUEST) {
            let Some(option) = field.option else { continue };
            let about = flat(&order::with_options(field.about));
            assert!(page.contains(&format!("--{option}")) && page.contains(&about), "{option}: {text}");
        }
    }

    #[test]
    fn every_name_of_the_tables_is_an_option() {
        let command = Cli::command();
        let generate = command.find_subcommand("generate").expect("generate");
        let ids: Vec<&str> = generate.get_arguments().map(|arg| arg.get_id().as_str()).collect();
        let named = SHORT.iter().map(|(id, _)| *id).chain(GROUPS.iter().flat_map(|(_, ids)| ids.iter().copied()));
        for id in named.chain(ONLY_DRAWN) {
            assert!(ids.contains(&id), "{id}");
        }
    }
}
