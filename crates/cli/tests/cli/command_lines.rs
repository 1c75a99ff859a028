//! Command lines of the pages that a user reads: their commands and options are there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{ROOT, chiaro, stderr};

/// The words of a line as a shell splits them, up to a comment.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    for c in line.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '#' if !quoted && word.is_none() => break,
            _ if c.is_whitespace() && !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The command lines in a page's blocks of code, each with what a backslash continues.
fn command_lines(page: &str) -> Vec<String> {
    let blocks: Vec<&str> = page.split("```").skip(1).step_by(2).filter(|block| block.starts_with("sh\n")).collect();
    let text = blocks.join("\n").replace("\\\n", " ");
    text.lines().map(str::trim).filter(|line| line.starts_with("chiaro ")).map(str::to_owned).collect()
}

fn help(arguments: &[&str]) -> String {
    let output = chiaro(Path::new(ROOT), arguments);
    assert!(output.status.success(), "chiaro {arguments:?}: {}", stderr(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether a page of help lists an option: at the beginning of a line, alone or behind its short form.
fn lists(help: &str, option: &str) -> bool {
    help.lines().map(str::trim_start).filter(|line| line.starts_with('-')).any(|line| {
        let names = line.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| word.starts_with('-'));
        names.take(2).any(|name| name.split(['=', '[', '<']).next() == Some(option))
    })
}

#[test]
fn pages_name_commands_and_options_that_there_are() {
    let root = help(&["--help"]);
    let commands: Vec<&str> = root
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
        .collect();
    assert!(commands.contains(&"plan") && commands.contains(&"pull"), "is the search right? {root}");
    let mut pages: Vec<PathBuf> = vec![Path::new(ROOT).join("README.md")];
    let docs = std::fs::read_dir(Path::new(ROOT).join("docs")).expect("docs is readable");
    let docs = docs.map(|entry| entry.expect("an entry is readable").path());
    pages.extend(docs.filter(|path| path.extension().is_some_and(|ending| ending == "md")));

    let mut helps: BTreeMap<String, String> = BTreeMap::new();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for page in pages {
        let text = std::fs::read_to_string(&page).expect("a page is text");
        for line in command_lines(&text) {
            seen += 1;
            let words = words(&line);
            let first = words.get(1).map_or("", String::as_str);
            let is_command = first.chars().all(|c| c.is_ascii_lowercase());
            if is_command && !commands.contains(&first) {
                wrong.push(format!("{}: {line}: there is no command {first}", page.display()));
                continue;
            }
            let command = if is_command { first } else { "generate" };
            let own = helps.entry(command.to_owned()).or_insert_with(|| help(&[command, "--help"]));
            for option in words.iter().filter(|word| word.len() > 1 && word.starts_with('-')) {
                let name = option.split('=').next().unwrap_or_default();
                if !lists(own, name) {
                    wrong.push(format!("{}: {line}: {command} has no {name}", page.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "what pages say and the command has not: {wrong:#?}");
    assert!(seen > 20, "only {seen} command lines seen: is the search right?");
}

#[test]
fn lines_are_split_as_a_shell_does() {
    assert_eq!(words("chiaro \"a b\" --x=1 -o c#d # e"), ["chiaro", "a b", "--x=1", "-o", "c#d"]);
    assert_eq!(command_lines("```sh\nchiaro a \\\n  -b\n```\nchiaro c\n```\nchiaro d\n```"), ["chiaro a    -b"]);
    let page = "Options:\n  -o, --output <PATH>  Where, as --input\n      --like[=FILE]\n";
    assert!(lists(page, "-o") && lists(page, "--output") && lists(page, "--like") && !lists(page, "--input"));
}
