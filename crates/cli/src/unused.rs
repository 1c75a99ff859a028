//! Options that were typed and change nothing.

use chiaro::order::Order;
use chiaro::pipeline::{PromptSyntax, Source};

use super::GenerateArgs;

impl GenerateArgs {
    /// A line for each option that was typed and has no effect on this request. What depends on the model's kind, the pipeline tells.
    pub(super) fn without_effect(&self, order: &Order) -> Vec<String> {
        let (args, request) = (self, &order.request);
        let guided = request.guidance_scale > 1.0;
        let is_named = args.output.as_deref().is_some_and(|path| path.as_os_str() != "-" && !path.is_dir());
        let has_tags = args.prompt.as_deref().is_some_and(|prompt| prompt.contains("<lora:"));
        let idle = [
            (
                args.overwrite && !is_named,
                "--overwrite: no file is named with --output, and names that are made are free",
            ),
            (args.noise.batch.is_some_and(|batch| batch > request.count), "--batch: --count asks for fewer pictures"),
            (
                args.reading.comma_backtrack.is_some() && request.prompt_syntax != PromptSyntax::A1111,
                "--comma-backtrack: belongs to --prompt-syntax a1111",
            ),
            (
                args.sampling.guidance_rescale.is_some_and(|weight| weight > 0.0) && !guided,
                "--guidance-rescale: there is no guidance at --guidance 1",
            ),
            (
                args.shortcuts.guidance_interval.is_some() && !guided,
                "--guidance-interval: there is no guidance at --guidance 1",
            ),
            (
                args.noise.variation_seed.is_some() && args.noise.variation_strength == Some(0.0),
                "--variation-seed: --variation-strength 0 leaves the noise as it is",
            ),
            (args.model.lora_dir.is_some() && !has_tags, "--lora-dir: no <lora:NAME:WEIGHT> is in the prompt"),
            (
                args.model.preview.is_some_and(|every| usize::from(every) >= request.num_inference_steps),
                "--preview: the picture is there before so many steps are done",
            ),
            (
                args.model.oms_text_encoder.is_some()
                    && order.load.oms.as_ref().is_none_or(|oms| oms.module == Source::DemoOms),
                "--oms-text-encoder: the demo module has its own",
            ),
        ];
        idle.into_iter().filter(|(is_idle, _)| *is_idle).map(|(_, why)| format!("no effect: {why}")).collect()
    }
}
