//! `chiaro inspect`.

use chiaro::pipeline::{ComponentReport, Inspection, LoraReport, inspect};
use chiaro::{Error, Result};

use super::{InspectArgs, models, print_json, print_line};

/// How many foreign names are shown.
const LISTED: usize = 10;

pub(super) fn run(args: &InspectArgs) -> Result<()> {
    let path = models::find(&args.name)?;
    let found = inspect(&path)?;
    if args.json {
        let json = serde_json::to_value(&found).map_err(|e| Error::model(format!("the report: {e}")))?;
        return print_json(&json);
    }
    let format = found.format.filter(|format| *format != "safetensors");
    let kind = format.map_or_else(|| found.kind.to_owned(), |format| format!("{} ({format})", found.kind));
    let kind = if found.kind.ends_with("autoencoder") { kind + " (for --vae)" } else { kind };
    let what = match found.family {
        Some(family) => format!("{kind}, {family}"),
        None => kind,
    };
    print_line(&format!("{}: {what}{}", path.display(), variant(&found)))?;
    if let Some(prediction) = found.prediction {
        let sure = if found.prediction_is_known { "" } else { " (not said in the file; --prediction changes it)" };
        print_line(&format!("predicts {prediction}{sure}"))?;
    }
    for component in &found.components {
        print_line(&line(component))?;
    }
    if let Some(lora) = &found.lora {
        let layers: Vec<String> = lora.layers.iter().map(|(network, count)| format!("{count} of {network}")).collect();
        let ranks: Vec<String> = lora.ranks.iter().map(usize::to_string).collect();
        print_line(&format!(
            "{} under {}'s names: layers {}{}; {}",
            lora.kind,
            lora.names,
            layers.join(", "),
            if ranks.is_empty() { String::new() } else { format!("; rank {}", ranks.join(", ")) },
            use_of(lora)
        ))?;
    }
    if let Some(embedding) = &found.embedding {
        let widths: Vec<String> = embedding.widths.iter().map(usize::to_string).collect();
        print_line(&format!(
            "{} vectors of width {}, for the file's name{} in prompts; --embedding loads it",
            embedding.vectors,
            widths.join(" and "),
            embedding.token.as_ref().map_or_else(String::new, |token| format!(" or {token}"))
        ))?;
    }
    if found.kind == "ControlNet" && found.problems.is_empty() {
        print_line("--control applies it")?;
    }
    if let Some(oms) = &found.oms {
        print_line(&format!(
            "works on {} latent channels ({}), text states of width {}{}",
            oms.latent_channels,
            oms.latent_space,
            oms.text_width,
            oms.text_encoder.as_ref().map_or_else(String::new, |place| format!(", text encoder at {place}"))
        ))?;
    }
    if found.ema_tensors > 0 {
        print_line(&format!("{} averaged twins (EMA), not used", found.ema_tensors))?;
    }
    if !found.foreign.is_empty() {
        let listed = found.foreign[..found.foreign.len().min(LISTED)].join(", ");
        print_line(&format!("{} tensors of no network that is known: {listed}", found.foreign.len()))?;
    }
    for name in &found.missing {
        print_line(&format!("missing: {name}"))?;
    }
    for problem in &found.problems {
        print_line(&format!("problem: {problem}"))?;
    }
    for remark in found.components.iter().filter_map(|component| component.zeros.as_ref()) {
        print_line(&format!("warning: {remark}"))?;
    }
    for memory in &found.memory {
        print_line(&format!(
            "{0}×{0} in {1}: {2:.2} GiB ({3})",
            memory.side,
            memory.storage,
            memory.peak_bytes as f64 / f64::from(1 << 30),
            memory.stage
        ))?;
    }
    Ok(())
}

/// What an adapter is good for here.
fn use_of(lora: &LoraReport) -> String {
    let made_for = lora.made_for.as_ref().map(|family| format!("made for {family}; ")).unwrap_or_default();
    match &lora.unread {
        Some(reason) => reason.clone(),
        None => format!("{made_for}--lora applies it"),
    }
}

/// What the UNet takes beside ordinary latents.
fn variant(found: &Inspection) -> &'static str {
    match found.in_channels {
        Some(9) => ", for inpainting",
        Some(8) => ", for instructions that change a picture",
        Some(5) => ", with depth as input (not supported yet)",
        _ => "",
    }
}

fn line(component: &ComponentReport) -> String {
    let types: Vec<String> = component
        .types
        .iter()
        .map(|(name, count)| match component.types.len() {
            1 => name.clone(),
            _ => format!("{name} {:.0} %", 100.0 * *count as f64 / component.parameters.max(1) as f64),
        })
        .collect();
    format!(
        "{:<16} {:>5} tensors {:>9.2} M parameters {:>9.1} MiB  {}",
        component.name,
        component.tensors,
        component.parameters as f64 / 1e6,
        component.bytes as f64 / f64::from(1 << 20),
        types.join(", ")
    )
}
