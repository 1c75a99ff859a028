//! Fields of OpenAI's image requests → a job.

use chiaro::image::PictureFormat;
use chiaro::order::{File, ImageJob, Job};
use serde_json::Value;

use crate::a1111::{one_more_step, put};
use crate::fields::{Fields, short};
use crate::pictures::{Mask, decoded, file_of};
use crate::refusal::{Answer, Refusal};

/// What an answer looks like.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) format: PictureFormat,
    pub(super) as_url: bool,
    /// Partial pictures of a stream; `None` where nothing is streamed.
    pub(super) partial: Option<usize>,
    pub(super) size: String,
    pub(super) quality: String,
}

impl Shape {
    pub(super) fn format_name(&self) -> &'static str {
        match self.format {
            PictureFormat::Jpeg => "jpeg",
            PictureFormat::WebP => "webp",
            _ => "png",
        }
    }
}

/// A picture to change, and where.
pub(super) struct Edit {
    pub(super) image: Vec<u8>,
    pub(super) mask: Option<Vec<u8>>,
}

/// What a request becomes.
pub(super) struct Read {
    pub(super) job: Job,
    pub(super) shape: Shape,
    pub(super) warnings: Vec<String>,
}

impl Read {
    /// # Errors
    /// What is wrong with a field.
    pub(super) fn of(body: Value, edit: Option<Edit>) -> Answer<Self> {
        let mut fields = Fields::of(body, "")?;
        let mut job = Job::default();
        let prompt =
            fields.text("prompt")?.ok_or_else(|| fields.refuse("prompt", "expected what to draw, got nothing"))?;
        put(&mut job.request, "prompt", "prompt", prompt)?;
        job.model.name = fields.word("model")?;
        let count = fields.whole("n")?.unwrap_or(1);
        if !(1..=10).contains(&count) {
            return Err(fields.refuse("n", format!("expected 1 to 10, got {count}")));
        }
        job.request.set("count", count)?;
        let size = fields.word("size")?.unwrap_or_else(|| "auto".into());
        if size != "auto" {
            let sides = size.split_once('x').and_then(|(w, h)| Some((w.parse::<u64>().ok()?, h.parse::<u64>().ok()?)));
            let (width, height) =
                sides.ok_or_else(|| fields.refuse("size", format!("expected auto or WIDTHxHEIGHT, got {size}")))?;
            put(&mut job.request, "size", "width", width)?;
            put(&mut job.request, "size", "height", height)?;
        }
        let mut warnings = Vec::new();
        let shape = shape(&mut fields, size, &mut warnings)?;
        more(&mut job, &mut fields)?;
        match edit {
            Some(edit) => start(&mut job, &mut fields, edit)?,
            None => fields.pass_over(&["strength"]),
        }
        for name in ["style", "moderation", "user", "input_fidelity", "safety_identifier"] {
            fields.pass_over(&[name]);
        }
        let unknown = fields.rest();
        if !unknown.is_empty() {
            warnings.push(format!("unknown and passed over: {}", unknown.join(", ")));
        }
        Ok(Read { job, shape, warnings })
    }
}

fn shape(fields: &mut Fields, size: String, warnings: &mut Vec<String>) -> Answer<Shape> {
    let as_url = match fields.word("response_format")?.as_deref() {
        None | Some("b64_json") => false,
        Some("url") => true,
        Some(other) => return Err(fields.refuse("response_format", format!("expected url or b64_json, got {other}"))),
    };
    let format = match fields.word("output_format")?.as_deref() {
        None | Some("png") => PictureFormat::Png,
        Some("jpeg" | "jpg") => PictureFormat::Jpeg,
        Some("webp") => PictureFormat::WebP,
        Some(other) => return Err(fields.refuse("output_format", format!("expected png, jpeg or webp, got {other}"))),
    };
    if as_url && format != PictureFormat::Png {
        return Err(fields.refuse("output_format", "pictures behind addresses are PNGs; ask for b64_json"));
    }
    fields.only("background", |value| value == "auto" || value == "opaque", "pictures have no transparent parts")?;
    if let Some(compression) = fields.whole("output_compression")?.filter(|percent| *percent != 100) {
        if !(0..=100).contains(&compression) {
            return Err(fields.refuse("output_compression", format!("expected 0 to 100, got {compression}")));
        }
        warnings.push("output_compression: passed over; JPEGs have one quality, PNG and WebP lose nothing".into());
    }
    let quality = fields.word("quality")?.unwrap_or_else(|| "auto".into());
    if !matches!(quality.as_str(), "auto" | "standard") {
        warnings.push("quality: passed over; steps and sampler say how much work goes into a picture".into());
    }
    let partial = fields.whole("partial_images")?.unwrap_or(0);
    if !(0..=3).contains(&partial) {
        return Err(fields.refuse("partial_images", format!("expected 0 to 3, got {partial}")));
    }
    let partial = fields.flag("stream")?.unwrap_or(false).then_some(partial as usize);
    Ok(Shape { format, as_url, partial, size, quality })
}

/// What clients send beyond OpenAI's fields (`extra_body`): ours by our names, and by AUTOMATIC1111's where those are shorter.
fn more(job: &mut Job, fields: &mut Fields) -> Answer<()> {
    let request = &mut job.request;
    for (name, key) in
        [("seed", "seed"), ("steps", "num_inference_steps"), ("num_inference_steps", "num_inference_steps")]
    {
        if let Some(value) = fields.whole(name)?.filter(|value| name != "seed" || *value >= 0) {
            put(request, name, key, value)?;
        }
    }
    for (name, key) in [("cfg_scale", "guidance_scale"), ("guidance_scale", "guidance_scale")] {
        if let Some(value) = fields.number(name)? {
            put(request, name, key, value)?;
        }
    }
    for (name, key) in [("negative_prompt", "negative_prompt"), ("sampler", "sampler"), ("sigmas", "sigmas")] {
        if let Some(text) = fields.word(name)? {
            put(request, name, key, text)?;
        }
    }
    if let Some(oms) = fields.take("oms") {
        // A form has texts.
        let oms = match oms {
            Value::String(text) => serde_json::from_str(&text).map_err(|_| {
                fields.refuse("oms", format!("expected true, false or an object, got {}", short(&text.into())))
            })?,
            other => other,
        };
        one_more_step(job, oms)?;
    }
    Ok(())
}

fn start(job: &mut Job, fields: &mut Fields, edit: Edit) -> Answer<()> {
    let photo = decoded("image", &edit.image)?;
    // The picture's own transparent parts are what is changed, where there is no mask.
    let mask = match edit.mask {
        Some(bytes) => {
            let mask = decoded("mask", &bytes)?;
            if (mask.image.width, mask.image.height) != (photo.image.width, photo.image.height) {
                return Err(Refusal::field("mask", "expected the size of the picture"));
            }
            Some(Mask::of_holes(&mask))
        }
        None => photo.alpha.is_some().then(|| Mask::of_holes(&photo)),
    };
    let strength = fields.number("strength")?;
    if let Some(strength) = strength.filter(|strength| !(*strength > 0.0 && *strength <= 1.0)) {
        return Err(fields.refuse("strength", format!("expected above 0 and up to 1, got {strength}")));
    }
    // What is under a mask is drawn anew.
    let strength = strength.or(mask.is_some().then_some(1.0));
    let mask: Option<File> = mask.map(|mask| file_of(&mask.image())).transpose()?;
    job.image = Some(ImageJob { file: file_of(&photo.image)?, mask, strength });
    Ok(())
}
