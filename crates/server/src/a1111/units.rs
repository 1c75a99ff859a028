//! Scripts that are always on: ControlNet's units (Mikubill/sd-webui-controlnet, `scripts/external_code.py`), and One More Step.

use chiaro::order::{ControlJob, File, Job};
use serde_json::Value;

use super::job::put;
use crate::fields::{Fields, is_off};
use crate::pictures::{decoded, from_value};
use crate::refusal::{Answer, Refusal};

/// Takes `alwayson_scripts` and `oms`.
pub(super) fn read(
    job: &mut Job,
    fields: &mut Fields,
    warnings: &mut Vec<String>,
    _size: (usize, usize),
) -> Answer<()> {
    if let Some(oms) = fields.take("oms") {
        one_more_step(job, oms)?;
    }
    for (name, script) in fields.object("alwayson_scripts")?.unwrap_or_default() {
        let arguments = match &script {
            Value::Object(map) => map.get("args").cloned().unwrap_or(Value::Null),
            other => other.clone(),
        };
        match name.to_lowercase().as_str() {
            "oms" | "one more step" => {
                let first = match arguments {
                    Value::Array(mut list) if list.len() == 1 => list.remove(0),
                    other => other,
                };
                one_more_step(job, first)?;
            }
            "controlnet" => control(job, arguments, warnings)?,
            _ if is_off(&arguments) => {}
            _ => warnings.push(format!("alwayson_scripts.{name}: not known here, passed over")),
        }
    }
    Ok(())
}

/// `true` or `false`, or an object: `enabled`, `module`, `prompt`, `negative_prompt`, `guidance_scale`, `form`.
pub(crate) fn one_more_step(job: &mut Job, value: Value) -> Answer<()> {
    let off = |job: &mut Job| job.model.oms = Some("off".into());
    match value {
        Value::Null | Value::Bool(true) => return Ok(()),
        Value::Bool(false) => {
            off(job);
            return Ok(());
        }
        _ => {}
    }
    let mut fields = Fields::of(value, "oms.")?;
    let enabled = fields.flag("enabled")?;
    let on = fields.flag("on")?;
    if enabled.or(on) == Some(false) {
        off(job);
        return Ok(());
    }
    if let Some(module) = fields.word("module")? {
        job.model.oms = Some(module);
    }
    let request = &mut job.request;
    for (name, key) in [("prompt", "oms.prompt"), ("negative_prompt", "oms.negative_prompt")] {
        if let Some(text) = fields.text(name)? {
            put(request, key, key, text)?;
        }
    }
    if let Some(scale) = fields.number("guidance_scale")? {
        put(request, "oms.guidance_scale", "oms.guidance_scale", scale)?;
    }
    if let Some(form) = fields.take("form") {
        put(request, "oms.form", "oms.form", form)?;
    }
    match fields.rest().first() {
        Some(unknown) => Err(Refusal::field(
            format!("oms.{unknown}"),
            "unknown; expected enabled, module, prompt, negative_prompt, guidance_scale, form",
        )),
        None => Ok(()),
    }
}

fn control(job: &mut Job, arguments: Value, warnings: &mut Vec<String>) -> Answer<()> {
    let units = match arguments {
        Value::Array(units) => units,
        Value::Null => Vec::new(),
        other => vec![other],
    };
    let mut nets = Vec::new();
    for (i, unit) in units.into_iter().enumerate() {
        if is_off(&unit) {
            continue;
        }
        let place = format!("alwayson_scripts.ControlNet[{i}]");
        let at = |refusal: Refusal| Refusal {
            field: Some(format!("{place}.{}", refusal.field.clone().unwrap_or_default())),
            ..refusal
        };
        if let Some(net) = one_unit(unit, &place, warnings).map_err(at)? {
            nets.push(net);
        }
    }
    if !nets.is_empty() {
        job.controls = Some(nets);
    }
    Ok(())
}

fn one_unit(unit: Value, place: &str, warnings: &mut Vec<String>) -> Answer<Option<ControlJob>> {
    let mut fields = Fields::of(unit, "")?;
    if fields.flag("enabled")? == Some(false) {
        return Ok(None);
    }
    let none = |value: &Value| is_off(value) || value.as_str().is_some_and(|text| text.eq_ignore_ascii_case("none"));
    fields.only("module", none, "no preprocessors are run here; send what the net shall see")?;
    let Some(net) = fields.word("model")?.filter(|name| !name.eq_ignore_ascii_case("none")) else { return Ok(None) };
    // There it may be an object with the picture and its mask.
    let image = match fields.take("image").or_else(|| fields.take("input_image")) {
        Some(Value::Object(mut map)) => map.remove("image"),
        other => other,
    };
    let image = image.ok_or_else(|| Refusal::field("image", "expected a picture in base64, got none"))?;
    let bytes = from_value("image", &image)?;
    decoded("image", &bytes)?;
    let control = ControlJob {
        net: Some(net.split(" [").next().unwrap_or_default().to_owned()),
        image: Some(File::Bytes(bytes)),
        weight: fields.number("weight")?,
        start: fields.number("guidance_start")?,
        end: fields.number("guidance_end")?,
        guess_mode: fields.take("control_mode").map(|mode| mode == 2 || mode == "ControlNet is more important"),
    };
    fields.pass_over(&[
        "processor_res",
        "threshold_a",
        "threshold_b",
        "low_vram",
        "lowvram",
        "pixel_perfect",
        "resize_mode",
        "hr_option",
    ]);
    let unknown = fields.rest();
    if !unknown.is_empty() {
        warnings.push(format!("{place}, passed over: {}", unknown.join(", ")));
    }
    Ok(Some(control))
}
