//! A picture that is drawn again: what its file says of the model, and how another run differs.

use std::path::PathBuf;

use crate::order::compose::Order;
use crate::order::job::Job;
use crate::pipeline::{Pipeline, Places, Precision, Program, Recipe, Source};
use crate::{Error, Remedy, Result};

impl Job {
    /// The model that a picture was drawn with, where the job names none.
    pub(super) fn repeat_model(&mut self, recipe: &Recipe, places: &Places) -> Result<()> {
        let model = &mut self.model;
        let demo = |name: Option<&str>| name == Some("demo");
        if model.name.is_none() && !demo(recipe.model.as_deref()) {
            model.name = recipe.model.as_deref().and_then(|name| found(name, places, Places::find));
            if model.name.is_none() {
                let name = recipe.model.as_deref().unwrap_or("not named in it");
                return Err(Error::request(
                    "like",
                    format!("the picture's model ({name}) is needed, name its folder or file with `model.name`"),
                ));
            }
        }
        for (part, own) in [("vae", &mut model.vae), ("refiner", &mut model.refiner), ("unet", &mut model.unet)] {
            // This program's own are told where they are missing.
            if let (None, Some(name), true) = (&own, recipe.parts.get(part), recipe.program != Program::Chiaro) {
                *own = found(name, places, Places::find_part);
            }
        }
        if model.oms.is_none() {
            model.oms = match recipe.oms_module.as_deref() {
                None => Some("off".into()),
                Some("demo") => Some("demo".into()),
                Some(name) => {
                    return Err(Error::request(
                        "like",
                        format!(
                            "the picture's OMS module ({name}) is needed, name its folder with `model.oms`, or leave it out with \
                         `model.oms` off"
                        ),
                    ));
                }
            };
        }
        if model.prediction.is_none() {
            model.prediction = recipe.prediction;
        }
        let device = &mut self.device;
        if device.precision == Precision::Auto && recipe.storage.as_deref() == Some("f32") {
            device.precision = Precision::F32;
        }
        if device.weights.is_none() && device.vram.is_none() {
            device.weights = recipe.weights.as_deref().map(str::parse).transpose()?;
        }
        Ok(())
    }

    /// Names of a repeated picture's sampling that are none here: they are needed, or told where others are asked for.
    pub(super) fn unknown_names(&self, recipe: &Recipe) -> Result<Vec<String>> {
        let unknown = [("sampler", &recipe.unknown_sampler, "sampler"), ("schedule", &recipe.unknown_sigmas, "sigmas")];
        let mut told = Vec::new();
        for (what, name, key) in unknown {
            match name {
                Some(name) if !self.request.has(key) => {
                    return Err(Error::request(
                        "like",
                        format!("{}'s {what} {name:?} is not here, choose one with `{key}`", recipe.program),
                    )
                    .advise([Remedy::Samplers]));
                }
                Some(name) => told.push(format!("{what} {name}")),
                None => {}
            }
        }
        Ok(told)
    }
}

/// Where a file of that name lies, if it is a name: a picture's maker does not choose paths.
fn found(name: &str, places: &Places, find: impl Fn(&Places, &str) -> Result<PathBuf>) -> Option<String> {
    let is_plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', ':']);
    let path = find(places, name).ok().filter(|_| name.split('/').all(is_plain))?;
    Some(path.to_string_lossy().into_owned())
}

impl Order {
    /// How what is about to be drawn differs from what is repeated.
    ///
    /// # Errors
    /// As [`Pipeline::hashes`].
    pub fn differences(&self, pipeline: &Pipeline) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let Some(recipe) = &self.recipe else { return Ok(found) };
        self.files(recipe, pipeline, &mut found)?;
        storage(recipe, pipeline, &mut found);
        if let (Some(image), Some(given)) = (&recipe.image, &self.request.image)
            && image.sha256.as_ref().is_some_and(|hash| *hash != given.sha256())
        {
            found.push("`image.file`: another picture than the one that it started from".into());
        }
        embeddings(recipe, pipeline, &mut found);
        self.control_differences(recipe, pipeline, &mut found);
        Ok(found)
    }

    fn files(&self, recipe: &Recipe, pipeline: &Pipeline, found: &mut Vec<String>) -> Result<()> {
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
        if let (Some(hash), Source::File(_)) = (&recipe.model_hash, &self.load.model)
            && !own.values().any(|own| own.starts_with(&hash.to_lowercase()))
        {
            found.push(format!("the picture was drawn with a model of hash {hash}; this one is another"));
        }
        for (part, name) in &recipe.parts {
            if !pipeline.parts().iter().any(|(own, _)| own == part) {
                found.push(format!("the picture was drawn with the {part} of {name}, name that with `model.{part}`"));
            }
        }
        Ok(())
    }

    fn control_differences(&self, recipe: &Recipe, pipeline: &Pipeline, found: &mut Vec<String>) {
        let nets: Vec<_> = pipeline.controls().collect();
        for (i, (wanted, control)) in recipe.controls.iter().zip(&self.request.controls).enumerate() {
            let other = |sha256: &str| wanted.sha256.as_ref().is_some_and(|hash| hash != sha256);
            if nets.get(control.net).is_some_and(|(_, sha256)| other(sha256)) {
                found.push(format!("`controls[{i}].net`: another net than the picture's; it will come out otherwise"));
            }
            if wanted.image_sha256.is_some() && control.image_sha256() != wanted.image_sha256 {
                found.push(format!("`controls[{i}].image`: another picture than the one that the net saw"));
            }
        }
        let told = self.not_repeated.iter().any(|field| field.starts_with("ControlNet "));
        if recipe.controls.len() != self.request.controls.len() && !told {
            let (had, has) = (recipe.controls.len(), self.request.controls.len());
            found.push(format!("the picture was drawn with {had} ControlNets, this one is with {has}"));
        }
    }
}

fn storage(recipe: &Recipe, pipeline: &Pipeline, found: &mut Vec<String>) {
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
}

fn embeddings(recipe: &Recipe, pipeline: &Pipeline, found: &mut Vec<String>) {
    for wanted in &recipe.embeddings {
        match pipeline.embeddings().iter().find(|own| own.name == wanted.name) {
            None => found.push(format!(
                "embedding {}: not here, its name is read as words (`embeddings[]` names its file); it will come out otherwise",
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
}
