//! Weighted and scheduled prompts, against the parsers that users know.

use chiaro::sampling::TorchRng;
use chiaro::text::{Piece, PromptSyntax, Schedule, parse};
use serde_json::Value;

use crate::support::golden::root;

/// Prompts with what AUTOMATIC1111's program and ComfyUI make of them.
fn golden() -> Value {
    let own = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let folder = if root().join("prompts").is_dir() { root() } else { own };
    let text = std::fs::read_to_string(folder.join("prompts/golden.json")).expect("the golden is there");
    serde_json::from_str(&text).expect("JSON")
}

fn cases(golden: &Value, part: &str, least: usize) -> Vec<(String, Value)> {
    let list = golden[part].as_array().expect("a list");
    assert!(list.len() >= least, "{part}: only {} prompts", list.len());
    list.iter().map(|case| (case[0].as_str().expect("a prompt").to_owned(), case[1].clone())).collect()
}

/// (text, weight) of each piece; `None` is a forced end of the chunk.
fn pieces(prompt: &str, syntax: PromptSyntax) -> Vec<Option<(String, f64)>> {
    let pieces = parse(prompt, syntax).unwrap_or_else(|e| panic!("{prompt:?}: {e}"));
    let pair = |piece| match piece {
        Piece::Text { text, weight } => Some((text, weight)),
        Piece::Break => None,
    };
    pieces.into_iter().map(pair).collect()
}

fn check_weights(part: &str, syntax: PromptSyntax) {
    for (prompt, want) in cases(&golden(), part, 60) {
        let got = pieces(&prompt, syntax);
        let want = want.as_array().expect("a list");
        assert_eq!(got.len(), want.len(), "{prompt:?}: {got:?} for {want:?}");
        for (got, want) in got.iter().zip(want) {
            let (text, weight) = (want[0].as_str().expect("a text"), want[1].as_f64().expect("a number"));
            match got {
                None => assert_eq!((text, weight), ("BREAK", -1.0), "{prompt:?}"),
                Some((t, w)) => {
                    assert!(t == text && (w - weight).abs() <= 1e-12 * weight.abs(), "{prompt:?}: {got:?} for {want}")
                }
            }
        }
    }
}

#[test]
fn weights_as_automatic1111() {
    check_weights("a1111", PromptSyntax::A1111);
}

#[test]
fn weights_as_comfyui() {
    check_weights("comfy", PromptSyntax::Comfy);
}

#[test]
fn schedules_as_automatic1111() {
    for (prompt, want) in cases(&golden(), "schedules", 60) {
        let schedule = Schedule::parse(&prompt, 10);
        let want = want.as_array().expect("a list");
        for step in 1..=10 {
            let entry =
                want.iter().find(|entry| entry[0].as_u64() >= Some(step)).expect("the table goes to the last step");
            assert_eq!(schedule.at(step as usize), entry[1].as_str().expect("a text"), "{prompt:?} at {step}");
        }
        if want.len() > 1 {
            assert!(schedule.changes(), "{prompt:?}");
        }
    }
}

/// Where this reader is meant to differ: a bar that is no alternation is text, and a `BREAK` in brackets is one.
#[test]
fn what_differs_from_automatic1111() {
    let schedule = Schedule::parse("a [{b|d{:.5] c", 10);
    assert_eq!((schedule.at(5), schedule.at(6)), ("a  c".into(), "a {b|d{ c".into()));
    let schedule = Schedule::parse("(a|b), [c:d:3]", 10);
    assert_eq!((schedule.at(3), schedule.at(4)), ("(a|b), c".into(), "(a|b), d".into()));
    let text = |text: &str, weight| Some((text.to_owned(), weight));
    assert_eq!(pieces("(a BREAK b:1.5)", PromptSyntax::A1111), [text("a", 1.5), None, text("b", 1.5)]);
}

#[test]
fn steps_and_shares_of_them() {
    let last_of_a = |prompt: &str, steps: usize| {
        let schedule = Schedule::parse(prompt, steps);
        (1..=steps).filter(|&step| schedule.at(step) == "a").count()
    };
    for steps in [1, 7, 28, 30, 100] {
        for (when, want) in [("0.25", steps / 4), (".5", steps / 2), ("1.0", steps), ("0.0", 0), ("7", 7.min(steps))] {
            assert_eq!(last_of_a(&format!("[a:b:{when}]"), steps), want, "{when} of {steps}");
        }
        for (when, want) in [("1e3", steps), ("99999999999999999999999999", steps), ("-3", 0), ("-0.5", 0)] {
            assert_eq!(last_of_a(&format!("[a:b:{when}]"), steps), want, "{when} of {steps}");
        }
    }
    // Words that Rust would take for numbers are words.
    for prompt in ["[a:b:inf]", "[a:b:nan]", "[a:b:infinity]", "[a:b:]", "[a:b:1_0]", "[a:b:.]"] {
        assert_eq!(Schedule::parse(prompt, 10).at(1), prompt);
    }
}

#[test]
fn a_weight_that_is_no_number_is_an_error() {
    for (prompt, number) in [("(a:1.2.3)", "1.2.3"), ("(a:..)", ".."), ("((b:-.) a)", "-.")] {
        let message = parse(prompt, PromptSyntax::A1111).expect_err(prompt).to_string();
        assert!(message.contains("number") && message.contains(number), "{message}");
    }
    // A sign apart from its digits is no weight at all, as in the original.
    assert_eq!(pieces("(a:+ 2)", PromptSyntax::A1111), [Some(("a:+ 2".to_owned(), 1.1))]);
    let huge = format!("(a:{})", "9".repeat(400));
    assert!(parse(&huge, PromptSyntax::A1111).is_err());
    // ComfyUI takes what is no number for text, and so do we with what is not finite.
    for prompt in ["(a:1.2.3)", "(a:inf)", "(a:nan)"] {
        assert_eq!(pieces(prompt, PromptSyntax::Comfy), [Some((prompt[1..prompt.len() - 1].to_owned(), 1.1))]);
    }
}

/// Random strings of marks and words.
fn random_prompts(count: usize) -> impl Iterator<Item = String> {
    const PARTS: &[&str] = &[
        "(", ")", "[", "]", ":", "|", "\\", " ", ",", ".", "1", "0.5", "-2", "BREAK", " BREAK ", "AND", "a", "cat",
        "é", "猫", "\n", "\0", "\u{1}", ":1.2)", "(((", "]]]", ":.5]", "[a:b:", "|]",
    ];
    let mut rng = TorchRng::new(3);
    (0..count).map(move |i| {
        let picks = rng.randn(1 + i % 40);
        picks.iter().map(|v| PARTS[(v.abs() * 1e4) as usize % PARTS.len()]).collect()
    })
}

#[test]
fn any_string_is_read_without_panic() {
    let mut errors = 0;
    let mut changing = 0;
    for prompt in random_prompts(20_000) {
        let schedule = Schedule::parse(&prompt, 9);
        changing += usize::from(schedule.changes());
        for step in 1..=9 {
            let text = schedule.at(step);
            assert!(text.len() <= prompt.len(), "{prompt:?} grew to {text:?}");
            // Without a group nothing is taken away.
            assert!(schedule.changes() || text == prompt, "{prompt:?} became {text:?}");
            match parse(&text, PromptSyntax::A1111) {
                Ok(pieces) => check_pieces(&text, &pieces),
                Err(_) => errors += 1,
            }
        }
        check_pieces(&prompt, &parse(&prompt, PromptSyntax::Comfy).expect("nothing is an error there"));
    }
    assert!(changing > 1000, "only {changing} schedules: are the strings right?");
    assert!(errors < 20_000, "{errors} errors");
}

/// Weights are finite, and the texts have no more than the prompt had.
fn check_pieces(prompt: &str, pieces: &[Piece]) {
    let mut length = 0;
    for piece in pieces {
        if let Piece::Text { text, weight } = piece {
            assert!(weight.is_finite(), "{prompt:?}: {weight}");
            length += text.len();
        }
    }
    assert!(length <= prompt.len(), "{prompt:?}: {pieces:?}");
}

/// As deep as the longest prompt allows: no stack to overflow, no hours.
#[test]
fn brackets_nest_as_deep_as_one_likes() {
    let half = 16_384;
    for (open, close) in
        [("(", ")"), ("[", "]"), ("[", ""), ("(", ""), ("", ")"), ("", "]"), ("[a|", "]"), ("[", ":2]")]
    {
        let depth = half / open.len().max(close.len()).max(1);
        let prompt = format!("{}x{}", open.repeat(depth), close.repeat(depth));
        let schedule = Schedule::parse(&prompt, 3);
        assert!(schedule.at(1).len() <= prompt.len());
        // So many brackets overflow any weight; what matters is an answer.
        let _ = parse(&prompt, PromptSyntax::A1111);
        assert!(parse(&prompt, PromptSyntax::Comfy).is_ok());
    }
}

#[test]
fn text_without_marks_has_weight_one() {
    for text in ["", "a photo of an astronaut", "Stra\u{df}e, 猫! #1 {x} <y>", "a: b, c:d 12:30"] {
        for (name, syntax) in PromptSyntax::ALL {
            let joined: String = pieces(text, *syntax)
                .into_iter()
                .map(|piece| {
                    let (text, weight) = piece.expect("no end of a chunk");
                    assert_eq!(weight, 1.0, "{name}: {text:?}");
                    text
                })
                .collect();
            assert_eq!(joined, text, "{name}");
        }
    }
    let marked = "(a:1.2) [b] BREAK \\(";
    assert_eq!(pieces(marked, PromptSyntax::Plain), [Some((marked.to_owned(), 1.0))]);
}
