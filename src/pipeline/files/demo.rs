//! The demo model inside the binary: a newcomer gets a picture with no download. Without the feature `demo`, its files are not there.

use crate::Error;

/// The files of `assets/demo`, by their path there.
#[cfg(feature = "demo")]
macro_rules! embed {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../../../assets/demo/", $path)).as_slice())),*]
    };
}

#[cfg(not(feature = "demo"))]
const FILES: &[(&str, &[u8])] = &[];

#[cfg(feature = "demo")]
const FILES: &[(&str, &[u8])] = embed![
    "model/model_index.json",
    "model/scheduler/scheduler_config.json",
    "model/text_encoder/config.json",
    "model/text_encoder/model.safetensors",
    "model/tokenizer/merges.txt",
    "model/tokenizer/special_tokens_map.json",
    "model/tokenizer/tokenizer_config.json",
    "model/tokenizer/vocab.json",
    "model/unet/config.json",
    "model/unet/diffusion_pytorch_model.safetensors",
    "model/vae/config.json",
    "model/vae/diffusion_pytorch_model.safetensors",
    "oms/model_index.json",
    "oms/oms_module/config.json",
    "oms/oms_module/diffusion_pytorch_model.safetensors",
];

/// The bytes of one embedded file.
pub(crate) fn file(path: &str) -> Option<&'static [u8]> {
    FILES.iter().find(|(name, _)| *name == path).map(|(_, bytes)| *bytes)
}

/// What is wrong where one of its files is asked for and not there.
pub(super) fn lacks(path: &str) -> Error {
    Error::model(match cfg!(feature = "demo") {
        true => format!("demo {path}: not part of the embedded model"),
        false => "demo: this program was built without the demo model; name another model, or build it with the feature `demo`".into(),
    })
}

/// Every word of the captions that it was trained on (`assets/demo/train/demo_data.py`).
const WORDS: &[&str] = &[
    "a",
    "an",
    "and",
    "at",
    "background",
    "big",
    "black",
    "blue",
    "boat",
    "bright",
    "by",
    "circle",
    "clouds",
    "cross",
    "cyan",
    "dark",
    "day",
    "diamond",
    "field",
    "from",
    "green",
    "grey",
    "heart",
    "hills",
    "house",
    "image",
    "in",
    "lamp",
    "landscape",
    "large",
    "light",
    "lighthouse",
    "moon",
    "night",
    "of",
    "on",
    "orange",
    "over",
    "photo",
    "picture",
    "pink",
    "plain",
    "pure",
    "purple",
    "red",
    "ring",
    "room",
    "sea",
    "sky",
    "small",
    "snow",
    "solid",
    "square",
    "star",
    "starry",
    "stars",
    "sun",
    "sunny",
    "sunset",
    "the",
    "to",
    "tree",
    "triangle",
    "under",
    "white",
    "window",
    "with",
    "yellow",
];

/// Spellings of words that it knows otherwise.
pub(crate) const SPELLINGS: &[(&str, &str)] = &[("gray", "grey")];

/// Words of a text that mean nothing to it, each once, as they were typed.
pub(crate) fn unknown_words(text: &str) -> Vec<String> {
    let mut unknown: Vec<String> = Vec::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_ascii_punctuation()) {
        let lower = word.to_lowercase();
        // Pictograms are words too; quotes and dashes are not.
        let says_something = word.chars().any(|c| c.is_alphanumeric() || c >= '\u{2190}');
        let is_known = WORDS.contains(&lower.as_str()) || SPELLINGS.iter().any(|(spelling, _)| *spelling == lower);
        if says_something && !is_known && !unknown.iter().any(|known| known.to_lowercase() == lower) {
            unknown.push(word.to_owned());
        }
    }
    unknown
}

/// What to say of words that mean nothing to it.
pub(crate) fn remark(unknown: &[String]) -> Option<String> {
    if unknown.is_empty() {
        return None;
    }
    let words: Vec<String> = unknown.iter().map(|word| format!("{word:?}")).collect();
    Some(format!(
        "the demo model does not know {}; it draws eight shapes and a few scenes. For anything else take a real model",
        words.join(", ")
    ))
}

#[cfg(all(test, feature = "demo"))]
mod tests {
    use super::*;
    use crate::pipeline::files::source::Source;
    use crate::pipeline::model::encoders::load_tokenizer;

    #[test]
    fn its_words_are_tokens_of_its_vocabulary() {
        let tokenizer = load_tokenizer(&Source::DemoModel.component("tokenizer")).expect("it is in the binary");
        for word in WORDS {
            assert_eq!(tokenizer.words(word).len(), 1, "{word}");
        }
        for (spelling, word) in SPELLINGS {
            assert_eq!(tokenizer.words(&format!("A {spelling} circle")), tokenizer.words(&format!("a {word} circle")));
            assert_ne!(
                tokenizer.words(&format!("{spelling}ling")),
                tokenizer.words(&format!("{word}ling")),
                "a part is no word"
            );
        }
    }

    /// Captions of its training set, and prompts that newcomers type.
    #[test]
    fn words_outside_its_captions_are_named() {
        for known in [
            "a green heart on a bright background",
            "A Photo of a lighthouse at night.",
            "a dark room with a lamp!",
            "a gray square",
            "a boat on the sea on a sunny day",
            "a landscape in the snow",
            "",
        ] {
            assert_eq!(unknown_words(known), Vec::<String>::new(), "{known}");
        }
        assert_eq!(unknown_words("a cat, a Cat and 2 dogs"), ["cat", "2", "dogs"]);
        // Fragments of its vocabulary are no words of its captions.
        assert_eq!(unknown_words("brown art set now"), ["brown", "art", "set", "now"]);
        assert_eq!(unknown_words("красный 红色 🐱 —"), ["красный", "红色", "🐱"]);
        let told = remark(&unknown_words("a cat")).expect("told");
        assert!(told.contains("\"cat\"") && told.contains("a real model"), "{told}");
        assert_eq!(remark(&[]), None);
    }
}
