//! `chiaro completions` and `chiaro manual`: what shells and `man` read, made of the command line itself.

use chiaro::{Error, Result};
use clap::{Args, Command};
use clap_complete::Shell;

use super::aliases::shared;
use super::{help, print_text};

/// Options of `completions`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "bash: chiaro completions bash > ~/.local/share/bash-completion/completions/chiaro\n\
                        zsh:  chiaro completions zsh > a folder of $fpath, as _chiaro\n\
                        fish: chiaro completions fish > ~/.config/fish/completions/chiaro.fish")]
pub(crate) struct CompletionsArgs {
    /// Whose
    #[arg(value_name = "SHELL", value_enum)]
    pub(crate) shell: Shell,
}

/// Options of `manual`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "chiaro manual > ~/.local/share/man/man1/chiaro.1; then: man chiaro")]
pub(crate) struct ManualArgs {
    /// The page of a command, such as plan [default: that of the program]
    #[arg(value_name = "COMMAND")]
    pub(crate) command: Option<String>,
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<()> {
    let mut out = Vec::new();
    clap_complete::generate(args.shell, &mut help::first_command(true), "chiaro", &mut out);
    print_bytes(&out)
}

pub(super) fn manual(args: &ManualArgs) -> Result<()> {
    let whole = help::first_command(true);
    let page: Command = match &args.command {
        None => whole,
        Some(name) => {
            let found = whole.get_subcommands().find(|known| known.get_name() == name).cloned();
            let known: Vec<&str> = whole.get_subcommands().map(Command::get_name).collect();
            let found = found
                .ok_or_else(|| Error::refused(format!("manual: expected one of {}, got {name:?}", known.join(", "))))?;
            // As `man chiaro-plan` asks for it.
            found.name(shared(format!("chiaro-{name}"))).bin_name(format!("chiaro {name}"))
        }
    };
    let mut out = Vec::new();
    clap_mangen::Man::new(page).render(&mut out).map_err(|e| Error::io("the manual", e))?;
    print_bytes(&out)
}

fn print_bytes(bytes: &[u8]) -> Result<()> {
    print_text(&String::from_utf8_lossy(bytes))
}
