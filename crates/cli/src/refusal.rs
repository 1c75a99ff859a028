//! What cannot be meant, in one line: the option, what it takes, what came, what to do.

use std::error::Error as _;
use std::ffi::OsString;
use std::num::{IntErrorKind, ParseFloatError, ParseIntError};

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::remedies::advice;
use super::typed::Answer;

/// What to say of an error of parsing these arguments, the first two being the program and the command.
pub(super) fn answer(command: &Command, arguments: &[OsString], error: &clap::Error) -> Answer {
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if asked || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Answer::Page { text: error.render(), asked };
    }
    let typed = Typed { command, arguments };
    Answer::Refused(typed.line(error))
}

struct Typed<'a> {
    command: &'a Command,
    arguments: &'a [OsString],
}

impl Typed<'_> {
    fn name(&self) -> String {
        self.arguments.get(1).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    fn line(&self, error: &clap::Error) -> String {
        let arg = text(error, ContextKind::InvalidArg);
        let value = text(error, ContextKind::InvalidValue);
        let option = arg.as_deref().map(bare).unwrap_or_default();
        match error.kind() {
            ErrorKind::UnknownArgument => self.unknown(error, arg.as_deref().unwrap_or_default()),
            ErrorKind::InvalidSubcommand => self.unknown_command(error),
            ErrorKind::InvalidValue => {
                let valid = list(error, ContextKind::ValidValue);
                let value = value.unwrap_or_default();
                match (value.is_empty(), valid.is_empty()) {
                    (true, true) => format!("{option}: expected a value, got none"),
                    (true, false) => format!("{option}: expected {}, got no value", either(&valid)),
                    (false, _) => format!("{option}: expected {}, got {value:?}", either(&valid)),
                }
            }
            ErrorKind::ValueValidation => wrong(&option, &value.unwrap_or_default(), error),
            ErrorKind::ArgumentConflict => {
                let others = list(error, ContextKind::PriorArg);
                let others: Vec<String> = others.iter().map(|other| bare(other)).collect();
                format!("{option}: does not go with {}; leave one out", others.join(", "))
            }
            ErrorKind::MissingRequiredArgument => self.missing(&list(error, ContextKind::InvalidArg)),
            _ => first_line(error),
        }
    }

    fn unknown(&self, error: &clap::Error, arg: &str) -> String {
        let name = self.name();
        if !arg.starts_with('-') {
            let words = self.words();
            return format!(
                "{name}: takes no {arg:?}, see `chiaro {name} --help`; to draw the words: `chiaro generate {:?}`",
                words.join(" ")
            );
        }
        let near = text(error, ContextKind::SuggestedArg).map(|near| bare(&near));
        let near = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
        let page = if name == "generate" { "chiaro --help".into() } else { format!("chiaro {name} --help") };
        format!("{arg}: no such option{near} (`{page}` lists them)")
    }

    fn unknown_command(&self, error: &clap::Error) -> String {
        let name = text(error, ContextKind::InvalidSubcommand).unwrap_or_default();
        let near = list(error, ContextKind::SuggestedSubcommand);
        let near = near.first().map_or_else(String::new, |near| format!("; did you mean {near}?"));
        let words = self.words();
        let draw = if words.len() > 2 {
            format!("; to draw the words: `chiaro generate {:?}`", words.join(" "))
        } else {
            String::new()
        };
        format!("{name}: no such command{near} (`chiaro --help` lists them){draw}")
    }

    /// What is missing, and which of the typed options asks for it.
    fn missing(&self, missing: &[String]) -> String {
        let name = self.name();
        let [first, ..] = missing else { return format!("{name}: something is missing; see `chiaro {name} --help`") };
        if !first.starts_with('-') {
            let what = match name.as_str() {
                "generate" => "a prompt, as in `chiaro \"a red circle\"`".to_owned(),
                _ => format!("{}; see `chiaro {name} --help`", missing.join(" ")),
            };
            return format!("{name}: expected {what}");
        }
        match self.options().find(|option| self.asks_for(option, first)) {
            Some(option) => format!("{option}: has no meaning without {}", missing.join(", ")),
            None => format!("{name}: expected {}; see `chiaro {name} --help`", missing.join(", ")),
        }
    }

    /// Words that are no options, from the command on.
    fn words(&self) -> Vec<String> {
        let texts = self.arguments.iter().skip(1).map(|text| text.to_string_lossy().into_owned());
        texts.take_while(|text| !text.starts_with('-')).collect()
    }

    /// The options that were typed, by their long names.
    fn options(&self) -> impl Iterator<Item = String> {
        let known = self.command.find_subcommand(self.name());
        let long = move |text: &str| {
            let name = text.split('=').next().unwrap_or_default();
            let is_it = |arg: &&clap::Arg| {
                let names = arg
                    .get_long_and_visible_aliases()
                    .into_iter()
                    .flatten()
                    .chain(arg.get_all_aliases().into_iter().flatten());
                let letters = arg
                    .get_short_and_visible_aliases()
                    .into_iter()
                    .flatten()
                    .chain(arg.get_all_short_aliases().into_iter().flatten());
                names
                    .map(|long| format!("--{long}"))
                    .chain(letters.map(|letter| format!("-{letter}")))
                    .any(|one| one == name)
            };
            known
                .and_then(|known| known.get_arguments().find(is_it))
                .and_then(|arg| Some(format!("--{}", arg.get_long()?)))
        };
        self.arguments.iter().filter_map(move |text| long(&text.to_string_lossy()))
    }

    /// Whether this option alone is refused for the want of `missing`.
    fn asks_for(&self, option: &str, missing: &str) -> bool {
        let lines = [vec!["chiaro", "generate", "x", option, "1"], vec!["chiaro", "generate", "x", option]];
        lines.into_iter().any(|line| {
            let error = self.command.clone().try_get_matches_from(line).err();
            error.is_some_and(|error| {
                error.kind() == ErrorKind::MissingRequiredArgument
                    && list(&error, ContextKind::InvalidArg).iter().any(|one| one == missing)
            })
        })
    }
}

/// A value that its option does not take.
fn wrong(option: &str, value: &str, error: &clap::Error) -> String {
    let source = error.source();
    let number = |kind: &str, too_large: bool| match too_large {
        true => format!("{option}: {value} is too large"),
        false => format!("{option}: expected {kind}, got {value:?}"),
    };
    if let Some(whole) = source.and_then(|source| source.downcast_ref::<ParseIntError>()) {
        return number("a whole number", *whole.kind() == IntErrorKind::PosOverflow);
    }
    if source.is_some_and(|source| source.is::<ParseFloatError>()) {
        return number("a number", false);
    }
    if let Some(refused) = source.and_then(|source| source.downcast_ref::<chiaro::Error>()) {
        let advice = advice(refused);
        return match refused.cause() {
            chiaro::Error::Request { message, .. } => refusal(option, message, value) + &advice,
            other => refusal(option, &other.to_string(), value) + &advice,
        };
    }
    let Some(reason) = source.map(ToString::to_string) else { return first_line(error) };
    if let Some((_, range)) = reason.split_once(" is not in ") {
        return format!(
            "{option}: expected a number from {}, got {value}",
            range.replace("..=", " to ").replace("..", " on")
        );
    }
    refusal(option, reason.lines().next().unwrap_or_default(), value)
}

/// A reason behind its option, which it may begin with.
fn refusal(option: &str, reason: &str, value: &str) -> String {
    let reason = reason.strip_prefix(&format!("{option}: ")).unwrap_or(reason);
    let got = if reason.contains(value) { String::new() } else { format!(", got {value:?}") };
    format!("{option}: {reason}{got}")
}

/// `--steps <N>` → `--steps`; a letter or another program's word → this program's.
fn bare(arg: &str) -> String {
    arg.split([' ', '=', '[']).next().unwrap_or(arg).to_owned()
}

/// "auto, f16 or f32".
fn either(values: &[String]) -> String {
    match values {
        [] => "another value".into(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

fn first_line(error: &clap::Error) -> String {
    let whole = error.render().to_string();
    let line = whole.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => texts.first().cloned(),
        _ => None,
    }
}

fn list(error: &clap::Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        _ => Vec::new(),
    }
}
