//! What was typed → what is meant: a request, and the model that it goes to.

use std::path::PathBuf;

use chiaro::pipeline::{
    Hires, OmsRequest, Pipeline, Places, Program, PromptSyntax, Recipe, Request, Source, Upscale, read_recipe,
};
use chiaro::sampling::{OmsForm, Variation};
use chiaro::{Error, Result};

use super::generate_args::{GenerateArgs, Pair, StartArgs};
use super::{ModelArgs, PrecisionArg, SeedArg};

/// A request with the model that it goes to.
pub(super) struct Order {
    pub(super) model: ModelArgs,
    pub(super) request: Request,
    /// What a user should know of what was made of the options.
    pub(super) notes: Vec<String>,
    recipe: Option<Recipe>,
    /// What a repeated picture says that is not done.
    pub(super) not_repeated: Vec<String>,
}

impl Order {
    /// Reads what was typed, the PNG to repeat and the start picture; checks all that needs no network.
    pub(super) fn read(args: &GenerateArgs) -> Result<Order> {
        let filled = args.sampling.preset.map(|preset| preset.fill(args));
        let args = filled.as_ref().unwrap_or(args);
        let recipe = args.like.as_deref().map(read_recipe).transpose()?;
        let mut model = match &recipe {
            Some(recipe) => like(&args.model, recipe)?,
            None => args.model.clone(),
        };
        let base = match &recipe {
            Some(recipe) => recipe.request.clone(),
            None => Request { prompt_syntax: PromptSyntax::A1111, ..Request::default() },
        };
        let has_oms = model.oms_source()?.is_some();
        refuse_unused_oms_options(args, has_oms)?;
        let mut request = apply(args, base)?;
        let mut not_repeated = recipe.as_ref().map_or_else(Vec::new, |recipe| recipe.not_repeated.clone());
        if let Some(recipe) = &recipe {
            not_repeated.extend(unknown_names(args, recipe)?);
            model.add_repeated(&recipe.adapters)?;
        }
        if request.prompt_syntax == PromptSyntax::A1111 {
            request.prompt = model.take_tags(&request.prompt)?;
        }
        request.oms = match (has_oms, request.oms.take()) {
            (true, base) => Some(oms(args, &model, base)?),
            (false, _) => None,
        };
        if args.refiner_start.is_some() && model.refiner.is_none() {
            return Err(Error::refused("--refiner-start: needs a second model, add --refiner DIR"));
        }
        // Other programs' nets have no hash and the picture that they saw is not here: they are told, and left out unless they are typed.
        let own = recipe.as_ref().filter(|recipe| recipe.program == Program::Chiaro);
        let repeated = own.map_or(&[][..], |recipe| &recipe.controls);
        let mut notes = Vec::new();
        request.controls = args.control.apply(&mut model, repeated, &request.controls, &mut notes)?;
        if !request.controls.is_empty() {
            not_repeated.retain(|field| !field.starts_with("ControlNet "));
        }
        args.start_from(&model, recipe.as_ref(), &mut request, &mut notes)?;
        refuse_empty_prompt(args, &request)?;
        request.validate()?;
        model.found_embeddings =
            Places::from_env().embeddings_in(&request.prompts().map(String::as_str).collect::<Vec<_>>());
        Pipeline::check_schedule(&model.source()?, &model.overrides()?, &request)?;
        Ok(Order { model, request, notes, recipe, not_repeated })
    }

    /// How what is about to be drawn differs from what is repeated.
    pub(super) fn differences(&self, pipeline: &Pipeline) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let Some(recipe) = &self.recipe else { return Ok(found) };
        let own = pipeline.hashes()?;
        for (component, hash) in &recipe.sha256 {
            if own.get(component.as_str()).is_some_and(|own| own != hash) {
                found.push(format!("{component}: another file than the picture's; it will come out otherwise"));
            }
        }
        for own in pipeline.adapters() {
            let name = own.name();
            let wanted = recipe.adapters.iter().find(|wanted| wanted.name == name);
            let other = wanted.and_then(|wanted| wanted.sha256.as_ref()).is_some_and(|hash| hash != own.sha256());
            // Other programs keep its beginning, and leave separating signs out of the name.
            let short = recipe.adapter_hashes.get(&name.replace([':', ','], ""));
            if other || short.is_some_and(|hash| !own.sha256_of_data().starts_with(&hash.to_lowercase())) {
                found.push(format!("lora {name}: another file than the picture's; it will come out otherwise"));
            }
        }
        if let (Some(hash), Source::File(_)) = (&recipe.model_hash, self.model.source()?)
            && !own.values().any(|own| own.starts_with(&hash.to_lowercase()))
        {
            found.push(format!("the picture was drawn with a model of hash {hash}; this one is another"));
        }
        for (part, name) in &recipe.parts {
            if !pipeline.parts().iter().any(|(own, _)| own == part) {
                let option = part.replace('_', "-");
                found.push(format!("the picture was drawn with the {part} of {name}, name that with --{option}"));
            }
        }
        let (device, storage) = (pipeline.device().name(), pipeline.device().storage_name());
        if let (Some(other), Some(stored)) = (&recipe.device, &recipe.storage)
            && (other != device || stored != storage)
        {
            found.push(format!("the picture was drawn on {other} with {stored} storage: details may differ"));
        }
        let weights = pipeline.device().weights().to_string();
        if let Some(other) = recipe.weights.as_ref().filter(|other| **other != weights) {
            found.push(format!(
                "the picture was drawn with weights {other}, this one is with {weights}: it will come out otherwise"
            ));
        }
        if let (Some(image), Some(given)) = (&recipe.image, &self.request.image)
            && image.sha256.as_ref().is_some_and(|hash| *hash != given.sha256())
        {
            found.push("--image: another picture than the one that it started from".into());
        }
        for wanted in &recipe.embeddings {
            match pipeline.embeddings().iter().find(|own| own.name == wanted.name) {
                None => found.push(format!(
                    "embedding {}: not here, its name is read as words (--embedding FILE); it will come out otherwise",
                    wanted.name
                )),
                Some(own) if !own.sha256().starts_with(&wanted.sha256.to_lowercase()) => {
                    found.push(format!(
                        "embedding {}: another file than the picture's; it will come out otherwise",
                        wanted.name
                    ));
                }
                Some(_) => {}
            }
        }
        let nets: Vec<_> = pipeline.controls().collect();
        for (i, (wanted, control)) in recipe.controls.iter().zip(&self.request.controls).enumerate() {
            let other = |sha256: &str| wanted.sha256.as_ref().is_some_and(|hash| hash != sha256);
            if nets.get(control.net).is_some_and(|(_, sha256)| other(sha256)) {
                found.push(format!("--control {}: another net than the picture's; it will come out otherwise", i + 1));
            }
            if wanted.image_sha256.is_some() && control.image_sha256() != wanted.image_sha256 {
                found.push(format!("--control-image {}: another picture than the one that the net saw", i + 1));
            }
        }
        let told = self.not_repeated.iter().any(|field| field.starts_with("ControlNet "));
        if recipe.controls.len() != self.request.controls.len() && !told {
            let (had, has) = (recipe.controls.len(), self.request.controls.len());
            found.push(format!("the picture was drawn with {had} ControlNets, this one is with {has}"));
        }
        Ok(found)
    }
}

/// Without words, and without a picture to start from or to follow, there is nothing to draw.
fn refuse_empty_prompt(args: &GenerateArgs, request: &Request) -> Result<()> {
    let is_empty = args.prompt.as_ref().is_some_and(|prompt| prompt.trim().is_empty());
    if is_empty && request.image.is_none() && request.controls.is_empty() {
        return Err(Error::refused(
            "prompt: expected words, got none; say what to draw, or name a picture to start from with --image",
        ));
    }
    Ok(())
}

fn refuse_unused_oms_options(args: &GenerateArgs, has_oms: bool) -> Result<()> {
    if has_oms {
        return Ok(());
    }
    let unused = [
        ("--compare", args.compare),
        ("--oms-prompt", args.oms_prompt.is_some()),
        ("--oms-negative", args.oms_negative.is_some()),
        ("--oms-guidance", args.model.oms_guidance.is_some()),
        ("--oms-eta", args.oms_eta.is_some()),
        ("--oms-compat", args.oms_compat),
    ];
    match unused.into_iter().find(|(_, given)| *given) {
        Some((option, _)) => {
            Err(Error::refused(format!("{option}: needs a module, add --oms DIR (or --oms demo with the demo model)")))
        }
        None => Ok(()),
    }
}

/// The model that a picture was drawn with, where it is not typed.
fn like(typed: &ModelArgs, recipe: &Recipe) -> Result<ModelArgs> {
    let mut model = typed.clone();
    let demo = |name: Option<&str>| name == Some("demo");
    if model.model.is_none() && !demo(recipe.model.as_deref()) {
        model.model = recipe.model.as_deref().and_then(|name| found(name, Places::find));
        if model.model.is_none() {
            let name = recipe.model.as_deref().unwrap_or("not named in it");
            return Err(Error::refused(format!(
                "--like: the picture's model ({name}) is needed, name its folder or file with --model"
            )));
        }
    }
    for (part, typed) in [("vae", &mut model.vae), ("refiner", &mut model.refiner), ("unet", &mut model.unet)] {
        // This program's own are told where they are missing.
        if let (None, Some(name), true) = (&typed, recipe.parts.get(part), recipe.program != Program::Chiaro) {
            *typed = found(name, Places::find_part);
        }
    }
    if model.oms.is_none() {
        model.oms = match recipe.oms_module.as_deref() {
            None => Some("off".into()),
            Some("demo") => Some("demo".into()),
            Some(name) => {
                return Err(Error::refused(format!(
                    "--like: the picture's OMS module ({name}) is needed, name its folder with --oms, or leave it out with --oms off"
                )));
            }
        };
    }
    if model.prediction.is_none() {
        model.prediction = recipe.prediction.map(Into::into);
    }
    if model.precision == PrecisionArg::Auto && recipe.storage.as_deref() == Some("f32") {
        model.precision = PrecisionArg::F32;
    }
    if model.weights.is_none() && model.vram.is_none() {
        model.weights = recipe.weights.as_deref().map(str::parse).transpose()?;
    }
    Ok(model)
}

/// Where a file of that name lies, if it is a name: a picture's maker does not choose paths.
fn found(name: &str, find: impl Fn(&Places, &str) -> Result<PathBuf>) -> Option<String> {
    let is_plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', ':']);
    let path = find(&Places::from_env(), name).ok().filter(|_| name.split('/').all(is_plain))?;
    Some(path.to_string_lossy().into_owned())
}

/// Names of a repeated picture's sampling that are none here: they are needed, or told where others were typed.
fn unknown_names(args: &GenerateArgs, recipe: &Recipe) -> Result<Vec<String>> {
    let typed = args.model.sampler;
    let sigmas = args.sampling.sigmas.or(typed.and_then(|sampler| sampler.sigmas));
    let unknown = [
        ("sampler", &recipe.unknown_sampler, typed.is_some(), "--sampler"),
        ("schedule", &recipe.unknown_sigmas, sigmas.is_some(), "--sigmas"),
    ];
    let mut told = Vec::new();
    for (what, name, typed, option) in unknown {
        match name {
            Some(name) if !typed => {
                return Err(Error::refused(format!(
                    "--like: {}'s {what} {name:?} is not here, choose one with {option} (`chiaro samplers` lists all)",
                    recipe.program
                )));
            }
            Some(name) => told.push(format!("{what} {name}")),
            None => {}
        }
    }
    Ok(told)
}

/// `base` with what was typed in its place.
fn apply(args: &GenerateArgs, base: Request) -> Result<Request> {
    let (sampling, noise, model) = (&args.sampling, &args.noise, &args.model);
    let base = args.shortcuts.apply(base);
    let steps = model.steps.or(model.sampler.map(|s| s.kind.default_steps()).filter(|_| args.like.is_none()));
    let variation = match noise.variation_strength {
        Some(strength) => Some(Variation { seed: noise.variation_seed.map_or(0, SeedArg::number), strength }),
        None => base.variation,
    };
    // Another seed or count leaves the repeated picture's place in its batch.
    let moved = noise.seed.is_some() || noise.count.is_some() || noise.rng.is_some();
    Ok(Request {
        prompt: args.prompt.clone().unwrap_or(base.prompt),
        negative_prompt: args.negative.clone().or(base.negative_prompt),
        prompt_2: args.prompt_2.clone().or(base.prompt_2),
        negative_prompt_2: args.negative_2.clone().or(base.negative_prompt_2),
        original_size: args.original_size.map(Pair::down_across).or(base.original_size),
        crops_coords_top_left: args.crop.map_or(base.crops_coords_top_left, Pair::down_across),
        aesthetic_score: args.aesthetic_score.unwrap_or(base.aesthetic_score),
        negative_aesthetic_score: args.negative_aesthetic_score.unwrap_or(base.negative_aesthetic_score),
        refiner_start: args.refiner_start.unwrap_or(base.refiner_start),
        image_guidance_scale: args.start.image_guidance.unwrap_or(base.image_guidance_scale),
        target_size: args.target_size.map(Pair::down_across).or(base.target_size),
        width: model.width.or(base.width),
        height: model.height.or(base.height),
        num_inference_steps: steps.unwrap_or(base.num_inference_steps),
        guidance_scale: model.guidance.unwrap_or(base.guidance_scale),
        guidance_interval: base.guidance_interval,
        deep_cache: base.deep_cache,
        token_merging: base.token_merging,
        sampler: model.sampler.map(|s| s.kind).or(base.sampler),
        sigmas: sampling.sigmas.or(model.sampler.map_or(base.sigmas, |s| s.sigmas)),
        timestep_spacing: sampling.spacing.or(base.timestep_spacing),
        beta_schedule: sampling.betas.map(Into::into).or(base.beta_schedule),
        zero_terminal_snr: sampling.zero_snr || base.zero_terminal_snr,
        guidance_rescale: sampling.guidance_rescale.unwrap_or(base.guidance_rescale),
        dynamic_thresholding: sampling.dynamic_thresholding.or(base.dynamic_thresholding),
        offset_noise: noise.offset_noise.unwrap_or(base.offset_noise),
        eta: sampling.eta.or(base.eta),
        seed: noise.seed.map_or(base.seed, SeedArg::number),
        rng: noise.rng.unwrap_or(base.rng),
        noise_seed_delta: noise.noise_seed_delta.unwrap_or(base.noise_seed_delta),
        variation,
        place: base.place.filter(|_| !moved),
        count: noise.count.unwrap_or(base.count),
        batch: noise.batch.unwrap_or(base.batch),
        image: None,
        previews: model.preview.is_some(),
        paste_back: args.start.paste_back.or(base.paste_back),
        controls: base.controls,
        hires: hires(&args.start, base.hires)?,
        clip_skip: args.clip_skip.map_or(base.clip_skip, |layers| usize::from(layers) - 1),
        prompt_syntax: args.reading.prompt_syntax.unwrap_or(base.prompt_syntax),
        comma_backtrack: args.reading.comma_backtrack.unwrap_or(base.comma_backtrack),
        oms: base.oms,
        latents: None,
    })
}

fn oms(args: &GenerateArgs, model: &ModelArgs, base: Option<OmsRequest>) -> Result<OmsRequest> {
    let default = OmsRequest { guidance_scale: model.oms_guidance()?, ..OmsRequest::default() };
    let base = base.unwrap_or(default);
    let form = match (args.oms_compat, args.oms_eta) {
        (true, _) => OmsForm::Official,
        (false, Some(eta)) => OmsForm::Paper { eta },
        (false, None) => base.form,
    };
    Ok(OmsRequest {
        prompt: args.oms_prompt.clone().or(base.prompt),
        negative_prompt: args.oms_negative.clone().unwrap_or(base.negative_prompt),
        guidance_scale: model.oms_guidance.unwrap_or(base.guidance_scale),
        form,
    })
}

fn hires(args: &StartArgs, base: Option<Hires>) -> Result<Option<Hires>> {
    let first = Hires { scale: 0.0, strength: 0.7, steps: None, upscale: Upscale::Latent };
    let asked = args.hires.is_some() || base.is_some();
    let parts = args.hires_strength.is_some() || args.hires_steps.is_some() || args.hires_upscale.is_some();
    if parts && !asked {
        return Err(Error::refused(
            "--hires-strength, --hires-steps, --hires-upscale: say how much larger with --hires",
        ));
    }
    let base = base.unwrap_or(first);
    Ok(asked.then(|| Hires {
        scale: args.hires.unwrap_or(base.scale),
        strength: args.hires_strength.unwrap_or(base.strength),
        steps: args.hires_steps.or(base.steps),
        upscale: args.hires_upscale.map_or(base.upscale, Into::into),
    }))
}
