//! The fields of a job beside its request's, a row each.

use std::borrow::Cow;

use serde_json::Value;

use crate::pipeline::{CONTROL_WEIGHT, Field, Kind, REQUEST, Range, Request, SHARE, STRENGTH, WeightTypes};

const WEIGHT: Kind = Kind::Number(CONTROL_WEIGHT);
/// Any that is finite, within reason: sliders of adapters go far.
const ANY: Kind = Kind::Number(Range { low: -1e6, high: 1e6, low_is_in: true, high_is_in: true });
const SHARE_OF_STEPS: Kind = Kind::Number(SHARE);

/// Every field of a [`Job`](crate::order::Job) but those of its request ([`REQUEST`]).
pub const JOB: &[Field] = &[
    Field::new("version", Kind::Whole { low: 0, high: u32::MAX as u64, step: 1 }, "The form of the job, 1"),
    Field::new(
        "like",
        Kind::File,
        "Repeat a picture from the parameters in its PNG, JPEG or WebP, where other options replace what they say: one of this program, or \
         of AUTOMATIC1111 (Forge, SD.Next), ComfyUI, Fooocus, InvokeAI, NovelAI, stable-diffusion.cpp. What cannot be repeated is told",
    )
    .option("like", "FILE"),
    Field::new(
        "preset",
        Kind::OneOf(&["lcm", "turbo", "lightning", "hyper"]),
        "What a distilled model was made for: sampler, spacing, steps and guidance, as far as none is typed",
    )
    .option("preset", "KIND"),
    Field::new(
        "model.name",
        Kind::Place,
        "Stable Diffusion model: a folder in the diffusers layout, a single .safetensors, .gguf or .ckpt file as AUTOMATIC1111, ComfyUI and \
         stable-diffusion.cpp use them, or its name in the folders of CHIARO_MODELS or in the Hugging Face cache",
    )
    .option("model", "DIR|FILE|NAME")
    .default("the demo model in this program"),
    Field::new(
        "model.vae",
        Kind::Place,
        "Another autoencoder: a folder, or a single file that has one; also a tiny one (TAESD, TAESDXL)",
    )
    .option("vae", "DIR|FILE|NAME"),
    Field::new("model.unet", Kind::Place, "Another UNet: a folder, or a single file that has one")
        .option("unet", "DIR|FILE|NAME"),
    Field::new(
        "model.text_encoder",
        Kind::Place,
        "The text encoders and tokenizers of another model: a folder, or a single file",
    )
    .option("text-encoder", "DIR|FILE|NAME"),
    Field::new("model.preview_vae", Kind::Place, "Autoencoder of previews, such as TAESD: a folder, or a single file")
        .option("preview-vae", "DIR|FILE|NAME")
        .default("the model's own, which is slower and larger"),
    Field::new(
        "model.refiner",
        Kind::Place,
        "A model of the same family that draws the last steps, such as SDXL's refiner: a folder, or a single file",
    )
    .option("refiner", "DIR|FILE|NAME"),
    Field::new(
        "model.prediction",
        Kind::OneOf(&["epsilon", "v_prediction", "sample"]),
        "What the network predicts, where a single file of Stable Diffusion 2.x does not say",
    )
    .option("prediction", "PREDICTION")
    .default("the model's own; v for 2.x files"),
    Field::new("model.oms", Kind::Place, "One More Step: a module's folder or name, \"demo\", or \"off\"")
        .option("oms", "DIR|NAME|demo|off")
        .default("demo with the demo model, else off"),
    Field::new(
        "model.oms_text_encoder",
        Kind::Place,
        "Folder, or a model's name, with the text_encoder/ and tokenizer/ that the OMS module was trained with, where its own files only \
         point to a place that is not here",
    )
    .option("oms-text-encoder", "DIR|NAME"),
    Field::new(
        "adapters[].file",
        Kind::Place,
        "LoRA (also LoCon, LoHa, LoKr, DoRA) that changes the model, with its weight; may be given several times",
    )
    .option("lora", "FILE[:WEIGHT]"),
    Field::new("adapters[].weight", ANY, "How strongly it changes the model; 1 is as trained").default("1"),
    Field::new("adapters[].text_encoder_weight", ANY, "The same for text encoders").default("the weight"),
    Field::new(
        "adapter_folder",
        Kind::Place,
        "Folder where <lora:NAME:WEIGHT> in a prompt finds NAME.safetensors (or .pt, .ckpt, .gguf)",
    )
    .option("lora-dir", "DIR"),
    Field::new(
        "embeddings[]",
        Kind::Place,
        "Textual inversion embedding (.safetensors) that its file's name, or its token, in a prompt stands for; may be given several times. \
         Those in the folder embeddings/ of CHIARO_MODELS are found by their names",
    )
    .option("embedding", "FILE"),
    Field::new(
        "controls[].net",
        Kind::Place,
        "ControlNet of the model's family: a folder, a single .safetensors file, or its name in the folder controlnet/ of CHIARO_MODELS or in \
         the Hugging Face cache; several add up. \"off\" (in JSON an empty list) leaves a repeated picture's out",
    )
    .option("control", "DIR|FILE|NAME")
    .default("a repeated picture's"),
    Field::new(
        "controls[].image",
        Kind::File,
        "What the net sees (PNG, JPEG, WebP): edges, depths, poses as it was trained on. Nothing is made of it but its size: it is stretched \
         to the picture's [default size of the picture: that of the first one, as for `image.file`]",
    )
    .option("control-image", "FILE"),
    Field::new("controls[].weight", WEIGHT, "How strongly the net acts").option("control-weight", "WEIGHT").default("1"),
    Field::new("controls[].start", SHARE_OF_STEPS, "Share of the steps before which the net does not run, 0 to 1")
        .option("control-start", "SHARE")
        .default("0"),
    Field::new("controls[].end", SHARE_OF_STEPS, "Share of the steps after which the net does not run, 0 to 1")
        .option("control-end", "SHARE")
        .default("1"),
    Field::new(
        "controls[].guess_mode",
        Kind::Switch,
        "Let the nets lead where the prompt says little: they act on the prompt's row alone, less on details (diffusers' guess mode)",
    )
    .option("control-guess", ""),
    Field::new(
        "image.file",
        Kind::File,
        "Picture to start from (PNG, JPEG, WebP); cropped in the middle and scaled to the size asked for [default size: its own, or with its \
         proportions as many pixels as the model was made for, where it has far more]",
    )
    .option("image", "FILE"),
    Field::new(
        "image.mask",
        Kind::File,
        "Picture that is white where `image.file` is repainted and black where it is kept; one with transparent parts repaints where it is \
         opaque, whatever its colours",
    )
    .option("mask", "FILE"),
    Field::new(
        "image.strength",
        Kind::Number(STRENGTH),
        "How much of `image.file` is drawn anew: towards 0 nothing, 1 all",
    )
    .option("strength", "SHARE")
    .png("Denoising strength")
    .default("0.75"),
    Field::new(
        "device.name",
        Kind::Text,
        "Where to compute: auto (discrete GPU, then integrated, then the processor; what does not open, or was found wrong by `chiaro doctor`, \
         is passed over), cpu, vulkan, metal or dx12 (the best GPU by that way), or an adapter's index or part of its name as `chiaro devices` \
         lists them",
    )
    .option("device", "auto|cpu|vulkan|metal|dx12|NAME|INDEX")
    .default("auto"),
    Field::new(
        "device.precision",
        Kind::OneOf(&["auto", "f16", "bf16", "f32"]),
        "Storage of activations; auto takes f16 where the device has it and redoes a stage in f32 if it overflows. bf16, of processors that \
         multiply so (AVX-512 BF16, AMX, FEAT_BF16) and refused by others: operands of products are rounded to it, all else stays f32",
    )
    .option("precision", "PRECISION")
    .default("auto"),
    Field::new(
        "device.weights",
        Kind::Named(|text| text.parse::<WeightTypes>().map(drop)),
        "How weights are stored on the device: auto (as activations are), f16, or blocks of 32 with one scale, made while loading: q8_0 \
         (half of f16) and q4_0 (a quarter); parts by themselves as in text=f16,unet=q4_0,oms=q8_0",
    )
    .option("weights", "TYPE")
    .default("auto"),
    Field::new(
        "device.vram",
        Kind::Whole { low: 1, high: 1 << 53, step: 1 },
        "The most device memory that a stage may take, as 4GB or 1500MiB (in JSON bytes): chooses the best weights that fit, where \
         `device.weights` does not, and streams what does not fit (`device.stream_weights`)",
    )
    .option("vram", "SIZE"),
    Field::new(
        "device.vae_tiling",
        Kind::OneOf(&["auto", "on", "off"]),
        "Decode and encode pictures in bands (other programs say tiles): less device memory, the same picture without seams, more time and \
         main memory; auto does so where the whole does not fit `device.vram` or the device",
    )
    .option("vae-tiling", "auto|on|off")
    .default("auto"),
    Field::new(
        "device.stream_weights",
        Kind::OneOf(&["auto", "on", "off"]),
        "Move weights of UNet, OMS module and text encoders to the device in every step, block by block, instead of keeping them there: auto \
         (where `device.vram` asks for it, before weights become q4_0), on (rather than make weights smaller; without `device.vram` all of \
         them), off. The picture is the same, only slower",
    )
    .option("stream-weights", "WHEN")
    .default("auto"),
];

/// The command's option of a key, without dashes; of a part that has none, that of the whole that it is typed in (`--deep-cache N:D`).
pub fn option_of(key: &str) -> Option<&'static str> {
    let rows = || JOB.iter().chain(REQUEST);
    let own = rows().find(|field| field.key == key)?;
    let (whole, _) = key.rsplit_once('.').unwrap_or((key, ""));
    let beside = || {
        let inside = |field: &&Field| field.key.strip_prefix(whole).is_some_and(|rest| rest.starts_with('.'));
        rows().filter(inside).find_map(|field| field.option)
    };
    own.option.or_else(beside)
}

/// The row of an option of the command.
pub fn field_of(option: &str) -> Option<&'static Field> {
    JOB.iter().chain(REQUEST).find(|field| field.option == Some(option))
}

/// What holds where a field is not said, in words; `None` where that is nothing.
pub fn default_of(field: &Field) -> Option<String> {
    if let Some(words) = field.default {
        return Some(words.to_owned());
    }
    let request = serde_json::to_value(Request::default()).expect("a request is texts and numbers");
    let own = field.key.split('.').try_fold(&request, |value, name| value.get(name))?;
    match own {
        Value::Number(number) => number.as_f64().map(|number| number.to_string()),
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        _ => None,
    }
}

/// A message in which the command's options stand for keys in backticks: `` `model.vae` `` becomes `--vae`, `` `controls[1].image` ``
/// `--control-image 2`.
pub fn with_options(message: &str) -> Cow<'_, str> {
    if !message.contains('`') {
        return Cow::Borrowed(message);
    }
    let mut parts = message.split('`');
    let mut text = parts.next().unwrap_or_default().to_owned();
    let mut quoted = true;
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        // Without a second backtick it is no quotation.
        match option_in(part).filter(|_| quoted && parts.peek().is_some()) {
            Some(option) => {
                text += &option;
                text += parts.next().unwrap_or_default();
                quoted = true;
            }
            None => {
                text.push('`');
                text += part;
                quoted = !quoted;
            }
        }
    }
    Cow::Owned(text)
}

/// The option of a key that may have a place in its list.
fn option_in(key: &str) -> Option<String> {
    let Some((list, rest)) = key.split_once('[') else { return option_of(key).map(|option| format!("--{option}")) };
    let (place, rest) = rest.split_once(']')?;
    let option = option_of(&format!("{list}[]{rest}"))?;
    match place.parse::<usize>() {
        Ok(place) => Some(format!("--{option} {}", place + 1)),
        Err(_) => place.is_empty().then(|| format!("--{option}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_options_in_place_of_keys() {
        for (message, told) in [
            ("`model.vae`: no", "--vae: no"),
            ("a `num_inference_steps` b `like`.", "a --steps b --like."),
            ("`controls[1].image`: another, `adapters[].file`", "--control-image 2: another, --lora"),
            ("`chiaro samplers` lists `sampler`s", "`chiaro samplers` lists --samplers"),
            ("`place` has none, `like", "`place` has none, `like"),
            ("`deep_cache.depth`: 0, `adapters[0].weight`", "--deep-cache: 0, --lora 1"),
            ("plain", "plain"),
        ] {
            assert_eq!(with_options(message), told);
        }
    }
}
