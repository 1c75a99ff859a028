//! Arguments as the process gets them → the command that is meant. What does not begin with a command is a prompt, unless it is nearly one.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::builder::StyledStr;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use super::{Cli, Command, GenerateArgs, ModelArgs, aliases, config, help, refusal};

/// The command that prompts without one belong to.
const IMPLIED: &str = "generate";

/// Words that people type for a command, and the one that is meant; none where there is nothing of the kind.
const OTHER_WORDS: &[(&str, Option<&str>)] = &[
    ("list", Some("models")),
    ("ls", Some("models")),
    ("download", Some("pull")),
    ("fetch", Some("pull")),
    ("gpus", Some("devices")),
    ("info", Some("inspect")),
    ("run", Some("generate")),
    ("draw", Some("generate")),
    ("txt2img", Some("generate")),
    ("img2img", Some("generate")),
    ("completion", Some("completions")),
    ("man", Some("manual")),
    ("benchmark", Some("profile")),
    ("server", Some("serve")),
    ("webui", Some("serve")),
    ("update", None),
    ("upgrade", None),
    ("convert", None),
    ("quantize", None),
];

/// Why nothing is done.
#[derive(Debug)]
pub(super) enum Answer {
    /// A page of help or the version; not always asked for.
    Page { text: StyledStr, asked: bool },
    /// What was typed cannot be meant, in one line.
    Refused(String),
}

impl Answer {
    /// Says it where it belongs; nobody may be reading.
    pub(super) fn tell(self) -> ExitCode {
        match self {
            Answer::Page { text, asked: true } => {
                let _ = write!(std::io::stdout(), "{}", styled(&text, std::io::stdout().is_terminal()));
                ExitCode::SUCCESS
            }
            Answer::Page { text, asked: false } => {
                let _ = write!(std::io::stderr(), "{}", styled(&text, std::io::stderr().is_terminal()));
                ExitCode::from(2)
            }
            Answer::Refused(line) => {
                let _ = writeln!(std::io::stderr(), "chiaro: {line}");
                ExitCode::from(2)
            }
        }
    }
}

/// Bold and underlined where a terminal shows that.
fn styled(text: &StyledStr, is_terminal: bool) -> String {
    let plain = !is_terminal || cfg!(windows) || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain { text.to_string() } else { text.ansi().to_string() }
}

/// The command line with its aliases and pages of help.
pub(super) fn command() -> clap::Command {
    help::arranged(aliases::added(Cli::command()))
}

/// What the arguments mean; the first one is the program's name.
pub(super) fn parse(mut arguments: Vec<OsString>) -> Result<Cli, Answer> {
    let first = arguments.get(1).map(|first| first.to_string_lossy().into_owned());
    let is_known = |name: &str| name == "help" || command().find_subcommand(name).is_some();
    let is_implied = match first.as_deref() {
        None => return Err(Answer::Page { text: help::first_page(false), asked: false }),
        Some("-h") => return Err(Answer::Page { text: help::first_page(false), asked: true }),
        Some("--help") => return Err(Answer::Page { text: help::first_page(true), asked: true }),
        Some("help") if arguments.len() == 2 => {
            return Err(Answer::Page { text: help::first_page(true), asked: true });
        }
        Some("-V" | "--version") => false,
        Some(name) => !is_known(name),
    };
    if is_implied {
        refuse_near_miss(&arguments)?;
        arguments.insert(1, IMPLIED.into());
    }
    let (mut cli, matches) = read(&arguments).map_err(|error| refusal::answer(&command(), &arguments, &error))?;
    if let Command::Generate(args) = &mut cli.command {
        if let ([word], true) = (args.words.as_slice(), is_implied) {
            // Behind options: `chiaro --json devices`.
            if let Some(meant) = Meant::of(word)
                && first.as_deref().is_some_and(|first| first.starts_with('-'))
                && meant.fits(word, &arguments)
            {
                return Err(meant.refused(word, &[]));
            }
        }
        join(args)?;
    }
    if let Some(model) = cli.command.model_mut()
        && let Some(size) = model.size
    {
        model.width = model.width.or(Some(size.across));
        model.height = model.height.or(Some(size.down));
    }
    if cli.command.takes_defaults() {
        let config = config::read().map_err(|error| Answer::Refused(error.to_string()))?;
        let is_typed = |id: &str| {
            let (_, matches) = matches.subcommand()?;
            matches.value_source(id).filter(|source| *source == ValueSource::CommandLine)
        };
        config.fill(&mut cli.command, |id| is_typed(id).is_some());
    }
    Ok(cli)
}

fn read(arguments: &[OsString]) -> Result<(Cli, ArgMatches), clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(arguments)?;
    let cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    Ok((cli, matches))
}

/// What a word may be meant for that is no command.
enum Meant {
    Command(String),
    /// A command that other programs have.
    Nothing,
}

impl Meant {
    fn of(word: &str) -> Option<Meant> {
        if word.starts_with('-') || word.contains(char::is_whitespace) {
            return None;
        }
        let word = word.to_lowercase();
        if let Some((_, meant)) = OTHER_WORDS.iter().find(|(other, _)| *other == word) {
            return Some(meant.map_or(Meant::Nothing, |name| Meant::Command(name.into())));
        }
        let command = command();
        let names = || command.get_subcommands().filter(|known| !known.is_hide_set()).map(clap::Command::get_name);
        let letters = word.chars().count();
        let allowed = match letters {
            0..=3 => 0,
            4 | 5 => 1,
            _ => 2,
        };
        let begun: Vec<&str> = names().filter(|name| letters >= 3 && name.starts_with(&word)).collect();
        let near = || {
            let distances = names().chain(["help"]).map(|name| (strsim::damerau_levenshtein(name, &word), name));
            distances.filter(|(distance, _)| *distance <= allowed).min().map(|(_, name)| name)
        };
        let found = if let [one] = begun[..] { Some(one) } else { near() };
        found.map(|name| Meant::Command(name.into()))
    }

    /// Whether a line in which the word stands behind options can be meant for it; `generate` stands in front already.
    fn fits(&self, word: &str, arguments: &[OsString]) -> bool {
        let Meant::Command(name) = self else { return true };
        let rest = arguments.iter().skip(2).filter(|argument| argument.to_str() != Some(word)).cloned();
        could_be(name, arguments[..1].iter().cloned().chain([name.into()]).chain(rest).collect())
    }

    /// With the words that follow.
    fn refused(&self, word: &str, rest: &[String]) -> Answer {
        let rest: String = rest.iter().map(|word| format!(" {}", quoted(word))).collect();
        let meant = match self {
            Meant::Command(name) => format!("; did you mean `chiaro {name}{rest}`?"),
            Meant::Nothing => ";".into(),
        };
        Answer::Refused(format!("{word}: no such command{meant} To draw it: `chiaro {IMPLIED} {word}{rest}`"))
    }
}

/// Refuses a first word that is nearly a command, where the line can be meant for it: alone, or with what that command takes.
fn refuse_near_miss(arguments: &[OsString]) -> Result<(), Answer> {
    let texts: Vec<String> = arguments.iter().map(|text| text.to_string_lossy().into_owned()).collect();
    let Some(meant) = texts.get(1).and_then(|word| Meant::of(word)) else { return Ok(()) };
    let is_alone = arguments.len() == 2;
    let with = |name: &str| {
        let mut line = arguments.to_vec();
        line[1] = name.into();
        line
    };
    match &meant {
        Meant::Command(name) if is_alone || could_be(name, with(name)) => Err(meant.refused(&texts[1], &texts[2..])),
        Meant::Nothing if is_alone => Err(meant.refused(&texts[1], &[])),
        _ => Ok(()),
    }
}

/// Whether the line is one of the command that it names, or nearly.
fn could_be(name: &str, line: Vec<OsString>) -> bool {
    match read(&line) {
        Ok(_) => name != IMPLIED,
        Err(error) => matches!(error.kind(), ErrorKind::MissingRequiredArgument | ErrorKind::DisplayHelp),
    }
}

/// As it would be typed.
fn quoted(text: &str) -> String {
    if text.is_empty() || text.contains(char::is_whitespace) { format!("{text:?}") } else { text.into() }
}

/// Words that the shell took apart are one prompt.
fn join(args: &mut GenerateArgs) -> Result<(), Answer> {
    let is_one = args.words.len() < 2;
    if let (Some(prompt), [word, ..]) = (&args.prompt, args.words.as_slice()) {
        return Err(Answer::Refused(format!(
            "--prompt: the prompt is there twice, {prompt:?} and {word:?}; leave one out"
        )));
    }
    if let Some(whole) = args.words.iter().find(|word| !is_one && word.contains(char::is_whitespace)) {
        let other = args.words.iter().find(|word| *word != whole).unwrap_or(whole);
        return Err(Answer::Refused(format!(
            "expected one prompt, got {whole:?} and {other:?}; put the whole of it in one pair of quotes"
        )));
    }
    if let Some((file, option)) = args.words.iter().find_map(|word| Some((word, option_of_file(word)?))) {
        return Err(Answer::Refused(format!(
            "{file}: a file, not a prompt; to use it: `chiaro PROMPT {option} {file}`. To draw the words: --prompt {file:?}"
        )));
    }
    if !args.words.is_empty() {
        args.prompt = Some(args.words.join(" "));
    }
    Ok(())
}

/// The option that a file belongs to, if the word is one.
fn option_of_file(word: &str) -> Option<&'static str> {
    let path = Path::new(word);
    let ending = path.extension()?.to_str()?.to_lowercase();
    let option = match ending.as_str() {
        "png" | "jpg" | "jpeg" | "webp" => "--image",
        "safetensors" | "gguf" | "ckpt" => "--model",
        _ => return None,
    };
    path.is_file().then_some(option)
}

impl Command {
    /// Whether a user's defaults count.
    fn takes_defaults(&mut self) -> bool {
        self.model_mut().is_some()
    }

    /// The options of the model, of a command that has them.
    pub(super) fn model_mut(&mut self) -> Option<&mut ModelArgs> {
        match self {
            Command::Generate(args) => Some(&mut args.model),
            Command::Plan(args) => Some(&mut args.model),
            Command::Profile(args) => Some(&mut args.model),
            Command::Tune(args) => Some(&mut args.model),
            Command::Study(args) => Some(&mut args.model),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> Result<Cli, Answer> {
        parse(std::iter::once("chiaro").chain(line.iter().copied()).map(OsString::from).collect())
    }

    fn refused(line: &[&str]) -> String {
        match parsed(line).expect_err("nothing is done") {
            Answer::Refused(text) => text,
            Answer::Page { text, .. } => panic!("{line:?}: {text}"),
        }
    }

    fn drawn(line: &[&str]) -> GenerateArgs {
        match parsed(line).map(|cli| cli.command) {
            Ok(Command::Generate(args)) => *args,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn near_misses_are_refused_with_both_meanings() {
        for (line, meant) in [
            (&["devcies"][..], "chiaro devices`"),
            (&["Devices"], "chiaro devices`"),
            (&["devcies", "--json"], "chiaro devices --json`"),
            (&["dev"], "chiaro devices`"),
            (&["inspct", "a.safetensors"], "chiaro inspect a.safetensors`"),
            (&["studdy", "prompts.txt"], "chiaro study prompts.txt`"),
            (&["scheduel", "--plot", "x.svg"], "chiaro schedule --plot x.svg`"),
            (&["download", "some/model"], "chiaro pull some/model`"),
            (&["list"], "chiaro models`"),
            (&["man"], "chiaro manual`"),
            (&["halp"], "chiaro help`"),
            (&["plane"], "chiaro plan`"),
            (&["--json", "devices"], "chiaro devices`"),
            (&["upgrade"], "no such command; To draw it"),
        ] {
            let text = refused(line);
            let word = line.iter().find(|word| !word.starts_with('-')).expect("a word");
            assert!(text.contains(meant) && text.contains(&format!("chiaro generate {word}")), "{line:?}: {text}");
        }
    }

    #[test]
    fn other_words_are_prompts() {
        for (line, prompt) in [
            (&["boat"][..], "boat"),
            (&["cat"], "cat"),
            (&["tulip"], "tulip"),
            (&["a", "red", "circle", "--seed", "3"], "a red circle"),
            (&["a", "--seed", "3", "red", "circle"], "a red circle"),
            (&["bull", "in", "a", "field"], "bull in a field"),
            (&["plane", "over", "hills"], "plane over hills"),
            (&["bull", "--seed", "7"], "bull"),
            (&["update", "cold"], "update cold"),
            (&["generate", "devcies"], "devcies"),
            (&["-p", "devices"], "devices"),
            (&["study of a horse"], "study of a horse"),
            (&["--", "-1", "degrees"], "-1 degrees"),
        ] {
            assert_eq!(drawn(line).prompt.as_deref(), Some(prompt), "{line:?}");
        }
        assert!(refused(&["a red circle", "and a house"]).contains("quotes"));
        assert!(refused(&["study", "of", "a", "horse", "-o", "x"]).contains("chiaro generate \"study of a horse\""));
        assert!(refused(&["help", "me", "draw"]).contains("chiaro generate \"help me draw\""));
        assert!(refused(&["-p", "a", "b"]).contains("twice"));
    }

    #[test]
    fn the_words_of_other_programs_are_understood() {
        let args = drawn(&[
            "-p",
            "a house",
            "-m",
            "model",
            "--cfg-scale",
            "5",
            "--num_inference_steps",
            "7",
            "--negative-prompt",
            "blue",
            "--batch-count",
            "2",
            "--sampling-method",
            "euler_a",
            "--size",
            "512x768",
            "--init-img",
            "a.png",
            "--denoising-strength",
            "0.5",
            "--subseed-strength",
            "0.1",
            "--hr-scale",
            "2",
            "--lora-model-dir",
            "loras",
        ]);
        assert_eq!(args.prompt.as_deref(), Some("a house"));
        assert_eq!(
            (args.model.model.as_deref(), args.model.guidance, args.model.steps),
            (Some("model"), Some(5.0), Some(7))
        );
        assert_eq!((args.negative.as_deref(), args.noise.count), (Some("blue"), Some(2)));
        assert_eq!((args.model.width, args.model.height), (Some(512), Some(768)));
        assert_eq!((args.start.strength, args.start.hires), (Some(0.5), Some(2.0)));
        assert!(args.model.sampler.is_some() && args.start.image.is_some() && args.model.lora_dir.is_some());
        assert_eq!(args.noise.variation_strength, Some(0.1));
        let args = drawn(&[
            "x",
            "--guidance-scale",
            "2",
            "--n-iter",
            "3",
            "--sampling_steps",
            "9",
            "--num-images-per-prompt",
            "4",
        ]);
        assert_eq!((args.model.guidance, args.noise.count, args.model.steps), (Some(2.0), Some(4), Some(9)));
        assert!(matches!(parsed(&["plan", "-m", "x", "--cfg-scale", "1", "--size", "64x64"]).expect("a plan").command,
            Command::Plan(args) if args.model.width == Some(64)));
    }

    #[test]
    fn the_last_value_wins() {
        let args =
            drawn(&["x", "--steps", "3", "--device", "0", "--steps", "5", "--device", "cpu", "--json", "--json"]);
        assert_eq!((args.model.steps, args.model.device.as_str()), (Some(5), "cpu"));
        assert_eq!(drawn(&["x", "--lora", "a", "--lora", "b"]).model.lora.len(), 2, "what adds up still does");
        assert!(parsed(&["devices", "--json", "--json"]).is_ok());
    }

    #[test]
    fn refusals_name_the_option_and_what_it_takes() {
        for (line, words) in [
            (&["x", "--steps", "-3"][..], &["--steps", "whole number", "-3"][..]),
            (&["x", "--steps", "abc"], &["--steps", "whole number", "abc"]),
            (&["x", "--steps=1.5"], &["--steps", "whole number", "1.5"]),
            (&["x", "-W", "-8"], &["--width", "whole number", "-8"]),
            (&["x", "--count", "99999999999999999999"], &["--count", "99999999999999999999", "too large"]),
            (&["x", "--guidance", "abc"], &["--guidance", "a number", "abc"]),
            (&["x", "--clip-skip", "0"], &["--clip-skip", "1 to 65535", "0"]),
            (&["plan", "--steps", "-1"], &["--steps", "whole number"]),
            (&["tune", "--budget", "-1"], &["--budget", "-1"]),
            (&["x", "--weights", "q5"], &["--weights", "q4_0"]),
            (&["x", "--precision", "fast"], &["--precision", "auto, f16, bf16 or f32", "fast"]),
            (&["x", "--stepz", "3"], &["--stepz", "--steps", "chiaro --help"]),
            (&["x", "--mask", "m.png"], &["--mask", "--image"]),
            (&["x", "--preview-vae", "v"], &["--preview-vae", "--preview"]),
            (&["x", "--oms-compat", "--oms-eta", "1"], &["--oms-eta", "--oms-compat"]),
            (&["x", "--steps"], &["--steps", "value"]),
            (&["--steps", "3"], &["prompt"]),
            (&["inspect"], &["inspect", "DIR|FILE|NAME"]),
            (&["devices", "nvidia"], &["devices", "nvidia"]),
        ] {
            let text = refused(line);
            assert!(words.iter().all(|word| text.contains(word)), "{line:?}: {text}");
            assert!(!text.contains('\n') && !text.contains("-- -") && !text.contains("digit"), "{line:?}: {text}");
        }
        let weights = refused(&["x", "--weights", "q5"]);
        assert_eq!(weights.matches("--weights").count(), 1, "{weights}");
    }
}
