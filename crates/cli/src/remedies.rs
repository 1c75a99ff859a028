//! Errors and warnings as this command tells them: what to do about them in its options and commands.

use chiaro::order::with_options;
use chiaro::{Error, Place, Remedy};

use super::models::{self, FIRST_MODEL};

/// The message, and the options that may help.
pub(super) fn told(error: &Error) -> String {
    format!("{}{}{}", message(error), remedy_of(error), advice(error))
}

/// What may help against an error, beginning with "; ", or empty.
pub(super) fn advice(error: &Error) -> String {
    let remedies = error.remedies();
    // Options are chosen among; whatever is more than an option has words of its own.
    let mut choices = ways(&remedies, choice);
    let others = ways(&remedies, deed);
    let mut sentence = String::new();
    if let Some(last) = choices.pop() {
        let before = match choices.as_slice() {
            [] => String::new(),
            [one] => format!("{one} or "),
            several => format!("{}, or ", several.join(", ")),
        };
        sentence = format!("; choose {before}{last}");
    }
    for other in &others {
        sentence += if sentence.is_empty() { "; " } else { ", or " };
        sentence += other;
    }
    sentence
}

/// A warning of the library as this command tells it.
pub(super) fn worded(warning: &str) -> String {
    let mut text = with_options(warning).into_owned();
    if text.starts_with("the demo model does not know") {
        text += &format!(": `chiaro pull {FIRST_MODEL}`, then --model {FIRST_MODEL}");
    }
    text
}

/// The message, behind the option of the field that it is about.
fn message(error: &Error) -> String {
    let text = error.to_string();
    let option = error.field().and_then(|field| {
        let key = format!("`{field}`");
        // What is no field of a job is an option of a command's own.
        let option = if field == "stage" { "--stage".into() } else { with_options(&key) };
        (option != key).then(|| text.replacen(field, &option, 1))
    });
    with_options(option.as_deref().unwrap_or(&text)).into_owned()
}

fn ways(remedies: &[Remedy], words: fn(&Remedy) -> Option<String>) -> Vec<String> {
    let mut ways: Vec<String> = Vec::new();
    for way in remedies.iter().filter_map(words) {
        if !ways.contains(&way) {
            ways.push(way);
        }
    }
    ways
}

/// What stands behind "choose".
fn choice(remedy: &Remedy) -> Option<String> {
    Some(match remedy {
        Remedy::HalfPrecision => "--precision f16".into(),
        Remedy::SinglePrecision => "--precision f32".into(),
        Remedy::AutomaticPrecision => "--precision auto".into(),
        Remedy::Bands => "--vae-tiling auto".into(),
        Remedy::Whole => "--vae-tiling off".into(),
        Remedy::OtherDevice => "another --device".into(),
        Remedy::Processor => "--device cpu".into(),
        Remedy::Gpu => "a GPU with --device".into(),
        Remedy::LargerLimit => "a larger --vram".into(),
        Remedy::NoLimit => "no --vram".into(),
        Remedy::NoStreaming => "no --stream-weights".into(),
        Remedy::WithoutOms => "--oms off".into(),
        Remedy::Overwrite => "--overwrite".into(),
        // The doctor keeps what it finds, and later runs leave that out.
        Remedy::WithoutTier(tier) => format!("`chiaro doctor`, which leaves {tier} out where it is wrong"),
        other if deed(other).is_some() => return None,
        other => other.to_string(),
    })
}

/// What is more than to choose an option.
fn deed(remedy: &Remedy) -> Option<String> {
    Some(match remedy {
        Remedy::Name(place) => format!("name {} with {}", named(*place), option(*place)?),
        Remedy::Fetch { repository, parts } => {
            let parts: String = parts.iter().map(|part| format!(" {part}")).collect();
            format!("`chiaro pull {repository}{parts}` fetches it")
        }
        Remedy::Samplers => "`chiaro samplers` lists all".into(),
        Remedy::Devices => "`chiaro devices` lists what there is".into(),
        Remedy::Examine => "`chiaro doctor` writes it anew".into(),
        Remedy::Tune => "`chiaro tune` writes it anew".into(),
        Remedy::CacheFolder => "name one in CHIARO_CACHE, XDG_CACHE_HOME or HOME".into(),
        _ => return None,
    })
}

fn named(place: Place) -> &'static str {
    match place {
        Place::Oms | Place::OmsTextEncoder => "its folder",
        _ => "a file or folder that has one",
    }
}

/// The option that takes what was given to another, in brackets; how to get what is not here.
fn remedy_of(error: &Error) -> String {
    match error.cause() {
        Error::Misplaced { belongs: Some(place), .. } => {
            option(*place).map_or(String::new(), |option| format!(" ({option})"))
        }
        Error::NotFound { name, .. } => format!("; {}", models::remedy(name)),
        _ => String::new(),
    }
}

fn option(place: Place) -> Option<&'static str> {
    Some(match place {
        Place::Model => "--model",
        Place::Unet => "--unet",
        Place::Vae => "--vae",
        Place::TextEncoder => "--text-encoder",
        Place::Adapter => "--lora",
        Place::Control => "--control",
        Place::Embedding => "--embedding",
        Place::Oms => "--oms",
        Place::OmsTextEncoder => "--oms-text-encoder",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use chiaro::Tier;

    #[test]
    fn remedies_are_told_as_options() {
        let error = Error::too_large("gpu", "input x", 2 << 20, 1 << 20).advise([Remedy::Bands, Remedy::Processor]);
        assert_eq!(
            told(&error),
            "gpu: input x needs 2 MiB in one binding, the device allows 1 MiB; \
             choose a smaller size or batch, --precision f16, --device cpu, or --vae-tiling auto"
        );
        let one = Error::refused("device x: none").advise([Remedy::Processor]);
        assert_eq!(told(&one), "device x: none; choose --device cpu");
        let two = Error::Device("x".into()).advise([Remedy::WithoutTier(Tier::Half), Remedy::OtherDevice]);
        assert_eq!(told(&two), "x; choose `chiaro doctor`, which leaves f16 out where it is wrong or another --device");
        assert_eq!(told(&Error::Cancelled), "cancelled");
    }

    #[test]
    fn what_is_more_than_a_choice_has_its_own_words() {
        let fetch = Remedy::Fetch { repository: "a/b".into(), parts: vec!["text_encoder", "tokenizer"] };
        let error = Error::Device("x".into()).advise([fetch, Remedy::Name(Place::OmsTextEncoder)]);
        assert_eq!(
            told(&error),
            "x; `chiaro pull a/b text_encoder tokenizer` fetches it, or name its folder with --oms-text-encoder"
        );
        let error = Error::request("device.vram", "expected 3").advise([Remedy::LargerLimit, Remedy::Name(Place::Vae)]);
        assert_eq!(
            told(&error),
            "--vram: expected 3; choose a larger --vram, or name a file or folder that has one with --vae"
        );
    }

    #[test]
    fn fields_are_told_as_options() {
        assert_eq!(told(&Error::request("controls[1].image", "no")), "--control-image 2: no");
        assert_eq!(told(&Error::request("latents", "not with `image.file`")), "latents: not with --image");
        assert_eq!(told(&Error::refused("a: b")), "a: b");
        assert!(worded("the demo model does not know \"x\"").ends_with(&format!("--model {FIRST_MODEL}")));
    }
}
