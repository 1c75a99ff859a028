//! Errors as this command tells them: what to do about them in its options.

use std::borrow::Cow;

use chiaro::order::with_options;
use chiaro::{Error, Place, Remedy};

use super::models;

/// The message, and the options that may help.
pub(super) fn told(error: &Error) -> String {
    let mut ways: Vec<String> = Vec::new();
    for way in error.remedies().iter().map(option) {
        if !ways.contains(&way) {
            ways.push(way);
        }
    }
    let choice = match ways.split_last() {
        None => String::new(),
        Some((only, [])) => format!("; choose {only}"),
        Some((last, [one])) => format!("; choose {one} or {last}"),
        Some((last, others)) => format!("; choose {}, or {last}", others.join(", ")),
    };
    format!("{}{}{choice}", with_options(&error.to_string()), option_of(error))
}

fn option(remedy: &Remedy) -> String {
    match remedy {
        Remedy::HalfPrecision => "--precision f16".into(),
        Remedy::SinglePrecision => "--precision f32".into(),
        Remedy::Bands => "--vae-tiling auto".into(),
        Remedy::Whole => "--vae-tiling off".into(),
        Remedy::OtherDevice => "another --device".into(),
        Remedy::Processor => "--device cpu".into(),
        // The doctor keeps what it finds, and later runs leave that out.
        Remedy::WithoutTier(tier) => format!("`chiaro doctor`, which leaves {tier} out where it is wrong"),
        other => other.to_string(),
    }
}

/// The option that takes what was given to another, in brackets; how to get what is not here.
fn option_of(error: &Error) -> Cow<'static, str> {
    let place = match error.cause() {
        Error::Misplaced { belongs: Some(place), .. } => place,
        Error::NotFound { name, .. } => return format!("; {}", models::remedy(name)).into(),
        _ => return "".into(),
    };
    let option = match place {
        Place::Model => " (--model)",
        Place::Unet => " (--unet)",
        Place::Vae => " (--vae)",
        Place::TextEncoder => " (--text-encoder)",
        Place::Adapter => " (--lora)",
        Place::Control => " (--control)",
        Place::Embedding => " (--embedding)",
        Place::Oms => " (--oms)",
        _ => "",
    };
    option.into()
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
        let one = Error::Request("device x: none".into()).advise([Remedy::Processor]);
        assert_eq!(told(&one), "device x: none; choose --device cpu");
        let two = Error::Device("x".into()).advise([Remedy::WithoutTier(Tier::Half), Remedy::OtherDevice]);
        assert_eq!(told(&two), "x; choose `chiaro doctor`, which leaves f16 out where it is wrong or another --device");
        assert_eq!(told(&Error::Cancelled), "cancelled");
    }
}
