//! Prompts in every syntax, with the vocabulary of the demo model.

#![no_main]

use chiaro::pipeline::{PromptSyntax, Request, Source, token_reports};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|prompt: &str| {
    for prompt_syntax in [PromptSyntax::A1111, PromptSyntax::Comfy, PromptSyntax::Plain] {
        let request = Request { prompt: prompt.to_owned(), prompt_syntax, ..Request::default() };
        let _ = token_reports(&Source::DemoModel, &[], &request);
    }
});
