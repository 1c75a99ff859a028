//! `chiaro tokens`.

use chiaro::Result;
use chiaro::order::{embeddings, source};
use chiaro::pipeline::{
    ChunkReport, Places, PromptSyntax, Request, TextReport, TokenEntry, TokenReport, token_reports,
};
use serde_json::json;

use super::remedies::worded;
use super::{TokensArgs, print_json, print_line};

pub(super) fn run(args: &TokensArgs) -> Result<()> {
    let default = Request::default();
    let request = Request {
        prompt: args.prompt.clone(),
        prompt_2: args.prompt_2.clone(),
        prompt_syntax: args.reading.prompt_syntax.unwrap_or(PromptSyntax::A1111),
        comma_backtrack: args.reading.comma_backtrack.unwrap_or(default.comma_backtrack),
        num_inference_steps: args.steps.unwrap_or(default.num_inference_steps),
        ..default
    };
    let places = Places::from_env();
    let model = source(args.model.as_deref(), &places)?;
    let texts: Vec<&str> =
        [Some(&request.prompt), request.prompt_2.as_ref()].into_iter().flatten().map(String::as_str).collect();
    let found = places.embeddings_in(&texts);
    let reports = token_reports(&model, &embeddings(&args.embedding, &found), &request)?;
    if args.json {
        return print_json(&json!({ "syntax": request.prompt_syntax.to_string(), "tokenizers": reports }));
    }
    for (i, report) in reports.iter().enumerate() {
        if i > 0 && report.texts == reports[0].texts {
            print_line(&format!("{}: the same", report.tokenizer))?;
        } else {
            print(report, reports.len() > 1)?;
        }
    }
    reports[0].remarks.iter().try_for_each(|remark| print_line(&format!("warning: {}", worded(remark))))
}

fn print(report: &TokenReport, named: bool) -> Result<()> {
    if named {
        print_line(&format!("{}:", report.tokenizer))?;
    }
    for text in &report.texts {
        if report.texts.len() > 1 {
            print_line(&format!("{}: {:?}", steps(&text.steps), text.text))?;
        }
        print_text(text, report.capacity)?;
    }
    Ok(())
}

fn print_text(text: &TextReport, capacity: usize) -> Result<()> {
    let chunks = text.chunks.len();
    print_line(&format!("{} tokens, {chunks} chunk{} of {capacity}", text.count, if chunks == 1 { "" } else { "s" }))?;
    for (i, ChunkReport { tokens, padding, .. }) in text.chunks.iter().enumerate() {
        print_line(&format!("chunk {}: {} kept, {padding} padded", i + 1, tokens.len()))?;
        if !tokens.is_empty() {
            print_line(&format!("  {}", words(tokens).join(" ")))?;
        }
    }
    if !text.dropped.is_empty() {
        print_line(&format!("dropped: {:?}", text.dropped))?;
    }
    Ok(())
}

/// `word`, `part…` of a word, `word×1.2`, `猫[2]` of two tokens: one for each letter or run of them.
fn words(tokens: &[TokenEntry]) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = tokens;
    while let Some((first, others)) = rest.split_first() {
        let more = others.iter().take_while(|token| token.text.is_empty()).count();
        let last = others[..more].last().unwrap_or(first);
        let mut word = first.text.clone();
        if more > 0 {
            word += &format!("[{}]", more + 1);
        }
        if !last.token.ends_with("</w>") {
            word += "…";
        }
        // Four digits say what a user typed, and hide that 1.1 · 1.1 is not quite 1.21.
        let rounded = (first.weight * 1e4).round() / 1e4;
        words.push(if first.weight == 1.0 { word } else { format!("{word}×{rounded}") });
        rest = &others[more..];
    }
    words
}

/// "step 1", "steps 1-5, 7".
fn steps(steps: &[usize]) -> String {
    let mut spans: Vec<(usize, usize)> = Vec::new();
    for &step in steps {
        match spans.last_mut() {
            Some((_, last)) if *last + 1 == step => *last = step,
            _ => spans.push((step, step)),
        }
    }
    let span =
        |(first, last): &(usize, usize)| if first == last { format!("{first}") } else { format!("{first}-{last}") };
    let list = spans.iter().map(span).collect::<Vec<_>>().join(", ");
    format!("{} {list}", if steps.len() == 1 { "step" } else { "steps" })
}
