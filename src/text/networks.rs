//! What a prompt names beside its text: AUTOMATIC1111's extra networks (`modules/extra_networks.py`), `<kind:argument:…>`.

use std::borrow::Cow;

/// A tag: `<lora:name:0.8>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// What stands before the first colon: "lora", "lyco", "hypernet" or any other word.
    pub kind: String,
    /// What stands between the colons behind it, at least one.
    pub arguments: Vec<String>,
}

/// A prompt without its tags of the kinds that are wanted, and these. One is any word in angle brackets with a colon and something behind it, also of a kind that is
/// not known; other angle brackets are text.
pub fn split_networks(prompt: &str, wanted: impl Fn(&str) -> bool) -> (String, Vec<Network>) {
    let (mut text, mut networks, mut rest) = (String::with_capacity(prompt.len()), Vec::new(), prompt);
    while let Some((before, tag)) = rest.split_once('<') {
        text += before;
        match read(tag).filter(|(network, _)| wanted(&network.kind)) {
            Some((network, after)) => {
                networks.push(network);
                rest = after;
            }
            None => {
                text.push('<');
                rest = tag;
            }
        }
    }
    text += rest;
    (text, networks)
}

/// A prompt without its comments, from `#` to the end of a line (`modules/processing_scripts/comments.py`, which is on by default).
pub fn without_comments(prompt: &str) -> Cow<'_, str> {
    if !prompt.contains('#') {
        return Cow::Borrowed(prompt);
    }
    let lines: Vec<&str> = prompt.split('\n').map(|line| line.split('#').next().unwrap_or_default()).collect();
    Cow::Owned(lines.join("\n"))
}

/// What stands behind an opening bracket, if it is a tag, and what follows it.
fn read(tag: &str) -> Option<(Network, &str)> {
    let word = tag.find(|sign: char| !(sign.is_alphanumeric() || sign == '_')).filter(|end| *end > 0)?;
    let (kind, behind) = tag.split_at(word);
    let (arguments, after) = behind.strip_prefix(':')?.split_once('>')?;
    let arguments: Vec<String> = arguments.split(':').map(str::to_owned).collect();
    (!arguments.concat().is_empty() || arguments.len() > 1)
        .then(|| (Network { kind: kind.to_owned(), arguments }, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_every_kind_leave_the_prompt() {
        let network = |kind: &str, arguments: &[&str]| Network {
            kind: kind.into(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        };
        let cases = [
            ("a <b> < c", "a <b> < c", vec![]),
            ("a cat <lora:fur:0.8>", "a cat ", vec![network("lora", &["fur", "0.8"])]),
            (
                "<lyco:a b>x<wild_card:c:te=0.5>",
                "x",
                vec![network("lyco", &["a b"]), network("wild_card", &["c", "te=0.5"])],
            ),
            ("<lora:open", "<lora:open", vec![]),
            ("<:a> <a b:c> <a:>", "<:a> <a b:c> <a:>", vec![]),
            ("<<lora:a>", "<", vec![network("lora", &["a"])]),
            ("<hypernet:x\ny>", "", vec![network("hypernet", &["x\ny"])]),
        ];
        for (prompt, text, networks) in cases {
            assert_eq!(split_networks(prompt, |_| true), (text.to_owned(), networks), "{prompt}");
        }
        assert_eq!(split_networks("<a:b><c:d>", |kind| kind == "c").0, "<a:b>");
    }

    #[test]
    fn comments_end_with_their_line() {
        assert_eq!(without_comments("a # b\n# c\nd#"), "a \n\nd");
        assert_eq!(without_comments("a b"), "a b");
    }
}
