//! Fields of txt2img and img2img → a job.

use chiaro::options::{InitImage, SigmaSchedule};
use chiaro::order::{Asked, File, ImageJob, Job};
use serde_json::{Map, Value};

use super::inpaint::{Inpaint, Region};
use super::units;
use crate::fields::{Fields, is_off};
use crate::pictures::{decoded, file_of, from_value};
use crate::refusal::{Answer, Refusal};
use crate::shared::{Options, Shared};
use crate::shelf::Use;
use crate::store::random;

/// What a request becomes.
pub(super) struct Read {
    pub(super) job: Job,
    /// What was asked for and is not done.
    pub(super) warnings: Vec<String>,
    /// Where the drawn pictures belong, if they are parts.
    pub(super) region: Option<Region>,
    pub(super) send_images: bool,
    pub(super) task: Option<String>,
    pub(super) subseed: u64,
    pub(super) subseed_strength: f64,
    pub(super) denoising_strength: Option<f64>,
}

/// Known, and without an effect here: where files go is the server's, grids are not made, masks of conditioning are the model's.
const WITHOUT_EFFECT: [&str; 18] = [
    "do_not_save_samples",
    "do_not_save_grid",
    "save_images",
    "override_settings_restore_afterwards",
    "script_args",
    "sampler_index",
    "firstphase_width",
    "firstphase_height",
    "include_init_images",
    "hr_checkpoint_name_restore",
    "comments",
    "disable_extra_networks",
    "refiner_checkpoint_hash",
    "latent_mask",
    "inpainting_mask_weight",
    "s_min_uncond",
    "infotext",
    "scale_by",
];

impl Read {
    /// # Errors
    /// 422 for a field of another kind or out of range, or known and not to be honoured.
    pub(super) fn of(shared: &Shared, body: Value, is_img2img: bool) -> Answer<Self> {
        let mut fields = Fields::of(body, "")?;
        let mut read = Read {
            job: Job::default(),
            warnings: Vec::new(),
            region: None,
            send_images: fields.flag("send_images")?.unwrap_or(true),
            task: fields.word("force_task_id")?,
            subseed: 0,
            subseed_strength: 0.0,
            denoising_strength: None,
        };
        let mut options = shared.options().clone();
        read.settings(shared, &mut fields, &mut options)?;
        read.model(shared, &options);
        // Whose random numbers these programs' users know.
        read.job.request.set("rng", "a1111")?;
        read.job.request.set_some("clip_skip", options.clip_skip.map(|skip| skip - 1))?;
        read.texts(&mut fields)?;
        read.sampling(&mut fields)?;
        read.noise(&mut fields)?;
        read.refused(&mut fields)?;
        let size = (side(&mut fields, "width")?, side(&mut fields, "height")?);
        read.denoising_strength = fields.number("denoising_strength")?;
        if is_img2img {
            read.image(&mut fields, size)?;
        } else {
            read.job.request.set("width", size.0)?;
            read.job.request.set("height", size.1)?;
            read.hires(&mut fields, size)?;
        }
        units::read(&mut read.job, &mut fields, &mut read.warnings, size)?;
        if !is_img2img {
            read.denoising_strength = None;
        }
        fields.pass_over(&WITHOUT_EFFECT);
        let unknown = fields.rest();
        if !unknown.is_empty() {
            read.warnings.push(format!("unknown and passed over: {}", unknown.join(", ")));
        }
        Ok(read)
    }

    /// `override_settings`: what is set for this request alone.
    fn settings(&mut self, shared: &Shared, fields: &mut Fields, options: &mut Options) -> Answer<()> {
        let Some(map) = fields.object("override_settings")? else { return Ok(()) };
        let unknown = set(shared, map, options)?;
        if !unknown.is_empty() {
            self.warnings.push(format!("override_settings, passed over: {}", unknown.join(", ")));
        }
        Ok(())
    }

    fn model(&mut self, shared: &Shared, options: &Options) {
        self.job.model.name = options.model.clone().or_else(|| shared.settings.model.clone());
        self.job.model.vae.clone_from(&options.vae);
    }

    fn texts(&mut self, fields: &mut Fields) -> Answer<()> {
        let request = &mut self.job.request;
        request.set("prompt", fields.text("prompt")?.unwrap_or_default())?;
        request.set_some("negative_prompt", fields.word("negative_prompt")?)?;
        fields.only("styles", is_off, "no styles are kept here")
    }

    fn sampling(&mut self, fields: &mut Fields) -> Answer<()> {
        let named = fields.word("sampler_name")?;
        let index = fields.word("sampler_index")?;
        if let Some(name) = named.or(index) {
            named_in("sampler_name", &mut self.job.request, "sampler", &name)?;
        }
        let schedule = fields.word("scheduler")?.filter(|name| !name.eq_ignore_ascii_case("automatic"));
        if let Some(name) = schedule {
            named_in("scheduler", &mut self.job.request, "sigmas", &schedule_of(&name))?;
        }
        let request = &mut self.job.request;
        let steps = fields.whole("steps")?.unwrap_or(50);
        put(request, "steps", "num_inference_steps", steps)?;
        put(request, "cfg_scale", "guidance_scale", fields.number("cfg_scale")?.unwrap_or(7.0))?;
        // The default of its forms means the sampler's own; where it counts, it is a number between.
        if let Some(eta) = fields.number("eta")?.filter(|eta| *eta < 1.0 && *eta > 0.0) {
            put(request, "eta", "eta", eta)?;
        }
        fields.only("s_churn", is_off, "only 0 is honoured")?;
        fields.only("s_tmin", is_off, "only 0 is honoured")?;
        fields.only("s_noise", |value| value.as_f64() == Some(1.0), "only 1 is honoured")?;
        fields.pass_over(&["s_tmax"]);
        let refiner = fields.word("refiner_checkpoint")?.filter(|name| name != "None");
        let switch = fields.number("refiner_switch_at")?;
        if let Some(refiner) = refiner {
            self.job.model.refiner = Some(refiner);
            if let Some(switch) = switch {
                put(&mut self.job.request, "refiner_switch_at", "refiner_start", switch)?;
            }
        }
        Ok(())
    }

    fn noise(&mut self, fields: &mut Fields) -> Answer<()> {
        let batch = fields.whole("batch_size")?.unwrap_or(1);
        let rounds = fields.whole("n_iter")?.unwrap_or(1);
        if rounds < 1 {
            return Err(fields.refuse("n_iter", format!("expected at least 1, got {rounds}")));
        }
        let request = &mut self.job.request;
        put(request, "batch_size", "batch", batch)?;
        put(request, "n_iter", "count", batch.saturating_mul(rounds))?;
        let random_seed = || i64::from(random() as u32);
        let seed = fields.whole("seed")?.filter(|seed| *seed >= 0).unwrap_or_else(random_seed);
        put(request, "seed", "seed", seed)?;
        let subseed = fields.whole("subseed")?.filter(|seed| *seed >= 0).unwrap_or_else(random_seed);
        let strength = fields.number("subseed_strength")?.unwrap_or(0.0);
        (self.subseed, self.subseed_strength) = (subseed as u64, strength.max(0.0));
        if strength > 0.0 {
            put(request, "subseed_strength", "variation.strength", strength)?;
            put(request, "subseed", "variation.seed", subseed)?;
        }
        let from = |value: &Value| value.as_f64().is_some_and(|side| side <= 0.0);
        fields.only("seed_resize_from_h", from, "seeds of other sizes are not honoured")?;
        fields.only("seed_resize_from_w", from, "seeds of other sizes are not honoured")
    }

    /// What is known and cannot be done.
    fn refused(&self, fields: &mut Fields) -> Answer<()> {
        fields.only("restore_faces", is_off, "faces are not restored here")?;
        fields.only("tiling", is_off, "pictures that tile are not drawn here")?;
        fields.only("script_name", is_off, "scripts are not run here")
    }

    fn hires(&mut self, fields: &mut Fields, (width, height): (usize, usize)) -> Answer<()> {
        let is_on = fields.flag("enable_hr")?.unwrap_or(false);
        let scale = fields.number("hr_scale")?.unwrap_or(2.0);
        let upscaler = fields.word("hr_upscaler")?;
        let steps = fields.whole("hr_second_pass_steps")?.filter(|steps| *steps > 0);
        let across = fields.whole("hr_resize_x")?.filter(|side| *side > 0);
        let down = fields.whole("hr_resize_y")?.filter(|side| *side > 0);
        let others = ["hr_checkpoint_name", "hr_sampler_name", "hr_scheduler", "hr_prompt", "hr_negative_prompt"];
        if !is_on {
            fields.pass_over(&others);
            return Ok(());
        }
        for name in others {
            let same = |value: &Value| is_off(value) || value.as_str().is_some_and(|text| text.starts_with("Use same"));
            fields.only(name, same, "the second pass has the first one's")?;
        }
        let scale = match (across, down) {
            (None, None) => scale,
            (across, down) => {
                let by_width = across.map(|side| side as f64 / width as f64);
                let by_height = down.map(|side| side as f64 / height as f64);
                let scale = by_width.or(by_height).unwrap_or(scale);
                if by_height.is_some_and(|other| (other - scale).abs() > 1e-6) {
                    return Err(fields.refuse("hr_resize_y", "expected the proportions of width and height"));
                }
                scale
            }
        };
        let request = &mut self.job.request;
        put(request, "hr_scale", "hires.scale", scale)?;
        let strength = self.denoising_strength.unwrap_or(0.75);
        put(request, "denoising_strength", "hires.strength", strength)?;
        if let Some(steps) = steps {
            put(request, "hr_second_pass_steps", "hires.steps", steps)?;
        }
        let upscale = match upscaler.as_deref() {
            None => "latent",
            Some(name) if name.starts_with("Latent") => {
                if name != "Latent" {
                    self.warnings.push(format!("hr_upscaler: Latent is used in place of {name}"));
                }
                "latent"
            }
            Some("Lanczos" | "None") => "lanczos",
            Some(other) => {
                let why = format!("expected Latent or Lanczos, got {other}");
                return Err(Refusal::field("hr_upscaler", why));
            }
        };
        request.set("hires.upscale", upscale)?;
        Ok(())
    }

    fn image(&mut self, fields: &mut Fields, (width, height): (usize, usize)) -> Answer<()> {
        let mut images = fields.list("init_images")?;
        let image = match images.len() {
            1 => images.remove(0),
            0 => return Err(fields.refuse("init_images", "expected a picture in base64, got none")),
            several => return Err(fields.refuse("init_images", format!("expected one picture, got {several}"))),
        };
        let photo = decoded("init_images", &from_value("init_images", &image)?)?;
        fields.only("image_cfg_scale", is_off, "send image_guidance_scale in a job of /v1/chiaro").or_else(|_| {
            self.warnings.push("image_cfg_scale: passed over".into());
            Ok::<(), Refusal>(())
        })?;
        let one = |value: &Value| is_off(value) || value.as_f64() == Some(1.0);
        fields.only("initial_noise_multiplier", one, "only 1 is honoured")?;
        let mode = fields.whole("resize_mode")?.unwrap_or(0);
        let inpaint = Inpaint::read(fields, &mut self.warnings)?;
        let strength = self.denoising_strength.unwrap_or(InitImage::STRENGTH);
        self.denoising_strength = Some(strength);
        if !(strength > 0.0 && strength <= 1.0) {
            return Err(Refusal::field("denoising_strength", format!("expected above 0 and up to 1, got {strength}")));
        }
        let prepared = inpaint.prepare(photo.image, (width, height), mode)?;
        self.region = prepared.region;
        let mask: Option<File> = prepared.mask.map(|mask| file_of(&mask.image())).transpose()?;
        self.job.image = Some(ImageJob { file: file_of(&prepared.image)?, mask, strength: Some(strength) });
        self.job.request.set("width", width)?;
        self.job.request.set("height", height)?;
        Ok(())
    }
}

/// A side in pixels; 512 where none is said, as there.
fn side(fields: &mut Fields, name: &str) -> Answer<usize> {
    let side = fields.whole(name)?.unwrap_or(512);
    match usize::try_from(side) {
        Ok(side) if (64..=8192).contains(&side) && side.is_multiple_of(8) => Ok(side),
        _ => Err(fields.refuse(name, format!("expected a multiple of 8 from 64 to 8192, got {side}"))),
    }
}

/// Puts a value into a request; what is wrong with it is told of the field that it came in.
pub(crate) fn put(request: &mut Asked, field: &str, key: &str, value: impl serde::Serialize) -> Answer<()> {
    request.set(key, value).map_err(|error| {
        let told = Refusal::of(&error);
        Refusal { field: Some(field.into()), ..told }
    })
}

fn named_in(field: &str, request: &mut Asked, key: &str, name: &str) -> Answer<()> {
    put(request, field, key, name)
}

/// A schedule by its name or what AUTOMATIC1111 shows for it.
fn schedule_of(name: &str) -> String {
    let plain = |text: &str| text.to_lowercase().replace([' ', '_'], "");
    let found = SigmaSchedule::ALL
        .iter()
        .find(|(own, schedule, _)| plain(own) == plain(name) || plain(schedule.label()) == plain(name));
    found.map_or_else(|| name.to_owned(), |(own, ..)| (*own).to_owned())
}

/// Puts options that are known in their place; gives the names of the others.
pub(super) fn set(shared: &Shared, map: Map<String, Value>, options: &mut Options) -> Answer<Vec<String>> {
    let mut fields = Fields::of(Value::Object(map), "")?;
    let shelf = shared.shelf();
    if let Some(name) = fields.word("sd_model_checkpoint")? {
        // What follows in brackets is a hash there.
        let plain = name.split(" [").next().unwrap_or(&name);
        options.model = Some(shelf.find("sd_model_checkpoint", plain, &[Use::Model])?.name.clone());
    }
    if let Some(name) = fields.word("sd_vae")? {
        options.vae = match name.as_str() {
            "Automatic" | "None" => None,
            name => Some(shelf.find("sd_vae", name, &[Use::Autoencoder])?.name.clone()),
        };
    }
    if let Some(skip) = fields.whole("CLIP_stop_at_last_layers")? {
        let skip = u64::try_from(skip).ok().filter(|skip| (1..=12).contains(skip));
        options.clip_skip = Some(skip.ok_or_else(|| fields.refuse("CLIP_stop_at_last_layers", "expected 1 to 12"))?);
    }
    // Both are what holds here.
    fields.pass_over(&["samples_format", "sd_checkpoint_hash", "inpainting_mask_weight"]);
    Ok(fields.rest())
}
