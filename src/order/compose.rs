//! A job → an order: what to load, the request, and what to say of both. No network is opened.

use crate::order::asked::Asked;
use crate::order::job::Job;
use crate::order::load::Load;
use crate::pipeline::{OmsSource, Pipeline, Places, Program, PromptSyntax, Recipe, Request, Source};
use crate::{Error, Result};

/// A request with the model that it goes to.
#[derive(Debug)]
pub struct Order {
    /// What to load.
    pub load: Load,
    /// What to draw.
    pub request: Request,
    /// What a caller should know of what was made of the job.
    pub notes: Vec<String>,
    /// What a repeated picture says that is not done.
    pub not_repeated: Vec<String>,
    pub(super) recipe: Option<Recipe>,
}

impl Job {
    /// What the job means: reads the picture to repeat, the start picture and those of ControlNets, looks names up, and checks all that needs no
    /// network.
    ///
    /// # Errors
    /// [`Error::Request`] that names fields by their keys in backticks; [`Error::NotFound`] for names; errors of the files that are read.
    pub fn order(self, places: &Places) -> Result<Order> {
        self.order_for(None, places)
    }

    /// [`order`](Self::order) for a model that is at hand, whatever the job calls it.
    ///
    /// # Errors
    /// As [`order`](Self::order).
    pub fn order_for(mut self, model: Option<&Source>, places: &Places) -> Result<Order> {
        if let Some(model) = model {
            self.model.name = Some(model.to_string());
        }
        if let Some(preset) = self.preset {
            preset.fill(&mut self.request)?;
        }
        let recipe = self.like.as_ref().map(|file| file.recipe()).transpose()?;
        if let Some(recipe) = &recipe {
            self.repeat_model(recipe, places)?;
        }
        let oms = self.model.oms(places)?;
        let mut request = self.asked(recipe.as_ref(), oms.as_ref())?;
        let mut not_repeated = recipe.as_ref().map_or_else(Vec::new, |recipe| recipe.not_repeated.clone());
        if let Some(recipe) = &recipe {
            not_repeated.extend(self.unknown_names(recipe)?);
            self.add_repeated(&recipe.adapters, places)?;
        }
        if request.prompt_syntax == PromptSyntax::A1111 {
            request.prompt = self.take_tags(&request.prompt, places)?;
        }
        if self.request.has("refiner_start") && self.model.refiner.is_none() {
            return Err(Error::request("refiner_start", "needs a second model, add `model.refiner` DIR"));
        }
        // Other programs' nets have no hash and the picture that they saw is not here: they are told, and left out unless the job names them.
        let own = recipe.as_ref().filter(|recipe| recipe.program == Program::Chiaro);
        let repeated = own.map_or(&[][..], |recipe| &recipe.controls);
        let mut notes = Vec::new();
        let (nets, controls) = self.controls(repeated, &request.controls, places, &mut notes)?;
        request.controls = controls;
        if !request.controls.is_empty() {
            not_repeated.retain(|field| !field.starts_with("ControlNet "));
        }
        let mut load = self.load(model, oms, nets, places)?;
        self.start_from(|| load.overrides.own_size(&load.model), recipe.as_ref(), &mut request, &mut notes)?;
        refuse_empty_prompt(&self.request, &request)?;
        request.validate()?;
        let found = places.embeddings_in(&request.prompts().map(String::as_str).collect::<Vec<_>>());
        load.overrides.embeddings = super::embeddings(&self.embeddings, &found);
        Pipeline::check_schedule(&load.model, &load.overrides, &request)?;
        Ok(Order { load, request, notes, not_repeated, recipe })
    }

    /// The request: what is asked for over what the repeated picture, or the default, says.
    fn asked(&self, recipe: Option<&Recipe>, oms: Option<&OmsSource>) -> Result<Request> {
        let first = self.request.first_of("oms");
        if oms.is_none() && !first.is_empty() {
            return Err(Error::request(
                first,
                "needs a module, add `model.oms` DIR (or `model.oms` demo with the demo model)",
            ));
        }
        let mut base = match recipe {
            Some(recipe) => recipe.request.clone(),
            None => Request { prompt_syntax: PromptSyntax::A1111, ..Request::default() },
        };
        base.oms = oms.map(|oms| base.oms.take().unwrap_or_else(|| oms.request()));
        self.request.over(base, recipe.is_some())
    }
}

/// Without words, and without a picture to start from or to follow, there is nothing to draw.
fn refuse_empty_prompt(asked: &Asked, request: &Request) -> Result<()> {
    let is_empty = asked.text("prompt").is_some_and(|prompt| prompt.trim().is_empty());
    if is_empty && request.image.is_none() && request.controls.is_empty() {
        return Err(Error::request(
            "prompt",
            "expected words, got none; say what to draw, or name a picture to start from with `image.file`",
        ));
    }
    Ok(())
}
