//! ComfyUI's graph: nodes with their inputs, as it ran (`prompt`) or as it was drawn (`workflow`). Read is what an ordinary picture needs:
//! one sampler, or two in a row, on a checkpoint with LoRAs, two texts, and a latent that is empty or made from a picture.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::fields::{number, shortened};
use super::{Program, Recipe, RecipeImage, cannot, json, stem, workflow};
use crate::pipeline::request::{Hires, Request, Upscale};
use crate::sampling::RngKind;
use crate::text::PromptSyntax;
use crate::{Error, Result};

/// Nodes of a graph; the largest that are shared have hundreds.
const MOST_NODES: usize = 2000;

/// Nodes that are followed in a row; a graph may be a circle, in files if nowhere else.
pub(super) const MOST_IN_A_ROW: usize = 200;

/// A node.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    pub(super) class: String,
    pub(super) inputs: Map<String, Value>,
}

/// Nodes by their ids.
pub(super) type Nodes = BTreeMap<String, Node>;

/// Reads `prompt`.
pub(super) fn read(text: &str) -> Result<Recipe> {
    let Some(Value::Object(map)) = json(text) else {
        return Err(cannot(Program::ComfyUi, "its graph is no JSON that can be read"));
    };
    let mut nodes = Nodes::new();
    for (id, node) in map {
        let class = node["class_type"].as_str().unwrap_or_default().to_owned();
        let inputs = node["inputs"].as_object().cloned().unwrap_or_default();
        nodes.insert(id, Node { class, inputs });
    }
    Reader { nodes, used: BTreeSet::new(), recipe: Recipe::default() }.read()
}

/// Reads `workflow`.
pub(super) fn read_drawn(text: &str) -> Result<Recipe> {
    let Some(drawn) = json(text) else {
        return Err(cannot(Program::ComfyUi, "its graph is no JSON that can be read"));
    };
    Reader { nodes: workflow::nodes(&drawn)?, used: BTreeSet::new(), recipe: Recipe::default() }.read()
}

/// Where an input comes from: a node's output.
pub(super) type Link = (String, u64);

pub(super) fn link(value: Option<&Value>) -> Option<Link> {
    match value?.as_array()?.as_slice() {
        [id, slot] => Some((id.as_str().map_or_else(|| id.to_string(), str::to_owned), slot.as_u64()?)),
        _ => None,
    }
}

/// What one sampler does.
pub(super) struct Run {
    pub(super) id: String,
    pub(super) model: Option<Link>,
    pub(super) positive: Option<Link>,
    pub(super) negative: Option<Link>,
    pub(super) latent: Option<Link>,
    pub(super) seed: u64,
    pub(super) steps: usize,
    pub(super) cfg: f64,
    pub(super) sampler: String,
    pub(super) scheduler: String,
    pub(super) denoise: f64,
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) adds_noise: bool,
}

/// What a latent is made from.
#[derive(Default)]
pub(super) struct Latent {
    pub(super) size: Option<(usize, usize)>,
    pub(super) batch: usize,
    /// It is made from a picture.
    pub(super) picture: bool,
    pub(super) mask: bool,
    /// It is what another sampler made, enlarged by so much.
    pub(super) before: Option<String>,
    pub(super) enlarged: Option<Upscale>,
    pub(super) scale: Option<f64>,
    pub(super) scaled_to: Option<(usize, usize)>,
}

pub(super) struct Reader {
    pub(super) nodes: Nodes,
    /// Nodes whose meaning is in the recipe.
    pub(super) used: BTreeSet<String>,
    pub(super) recipe: Recipe,
}

pub(super) fn is_sampler(node: &Node) -> bool {
    let has = |name: &str| node.inputs.contains_key(name);
    // Detailers and upscalers have a sampler's inputs too, and draw parts of pictures.
    let takes_all = has("sampler_name") && has("steps") && has("cfg");
    node.class.starts_with("SamplerCustom") || (node.class.to_lowercase().contains("ksampler") && takes_all)
}

impl Reader {
    pub(super) fn read(mut self) -> Result<Recipe> {
        if self.nodes.len() > MOST_NODES {
            let why = format!("its graph has {} nodes, at most {MOST_NODES} are read", self.nodes.len());
            return Err(cannot(Program::ComfyUi, why));
        }
        self.recipe.program = Program::ComfyUi;
        self.recipe.request.rng = RngKind::Comfy;
        self.recipe.request.prompt_syntax = PromptSyntax::Comfy;
        let (outputs, last) = self.last_sampler()?;
        let run = self.run(&last)?;
        let latent = self.latent(run.latent.clone())?;
        match latent.before.clone() {
            None => self.first(&run, &latent)?,
            Some(before) => {
                let first = self.run(&before)?;
                let under = self.latent(first.latent.clone())?;
                if under.before.is_some() {
                    return Err(cannot(Program::ComfyUi, "three samplers work one after the other, two are read"));
                }
                self.first(&first, &under)?;
                self.second(&first, &run, &latent)?;
            }
        }
        self.decoder(&outputs);
        self.tell_rest(&outputs);
        Ok(self.recipe)
    }

    pub(super) fn node(&self, id: &str) -> Result<&Node> {
        self.nodes.get(id).ok_or_else(|| cannot(Program::ComfyUi, format!("its graph has no node {}", shortened(id))))
    }

    pub(super) fn class(&self, id: &str) -> &str {
        self.nodes.get(id).map_or("", |node| &node.class)
    }

    pub(super) fn linked(&self, id: &str, input: &str) -> Option<Link> {
        link(self.nodes.get(id)?.inputs.get(input))
    }

    /// A node as messages name it.
    pub(super) fn called(&self, id: &str) -> String {
        format!("node {} ({})", shortened(self.class(id)), shortened(id))
    }

    pub(super) fn tell(&mut self, what: String) {
        if !self.recipe.not_repeated.contains(&what) {
            self.recipe.not_repeated.push(what);
        }
    }

    /// Every node that a node's inputs lead to, the node itself too.
    pub(super) fn above(&self, ids: &[String]) -> BTreeSet<String> {
        let (mut seen, mut todo) = (BTreeSet::new(), ids.to_vec());
        while let Some(id) = todo.pop() {
            if let (true, Some(node)) = (seen.insert(id.clone()), self.nodes.get(&id)) {
                todo.extend(node.inputs.values().filter_map(|value| link(Some(value))).map(|(id, _)| id));
            }
        }
        seen
    }

    /// The outputs that are saved, and the sampler whose picture they are.
    pub(super) fn last_sampler(&self) -> Result<(Vec<String>, String)> {
        let fed: BTreeSet<String> = self
            .nodes
            .values()
            .flat_map(|node| node.inputs.values())
            .filter_map(|v| link(Some(v)))
            .map(|l| l.0)
            .collect();
        let ends: Vec<String> = self.nodes.keys().filter(|id| !fed.contains(*id)).cloned().collect();
        let saves: Vec<String> = ends.iter().filter(|id| self.class(id).contains("Save")).cloned().collect();
        let outputs = if saves.is_empty() { ends } else { saves };
        let all = self.above(&outputs);
        let samplers: Vec<&String> = all.iter().filter(|id| self.nodes.get(*id).is_some_and(is_sampler)).collect();
        // The last is above none of the others.
        let mut above = BTreeSet::new();
        for id in &samplers {
            let inputs = self.nodes.get(*id).into_iter().flat_map(|node| node.inputs.values());
            above.extend(self.above(&inputs.filter_map(|value| link(Some(value))).map(|l| l.0).collect::<Vec<_>>()));
        }
        let last: Vec<&&String> = samplers.iter().filter(|id| !above.contains(**id)).collect();
        match last.as_slice() {
            [one] => Ok((outputs.clone(), (**one).clone())),
            [] => Err(cannot(
                Program::ComfyUi,
                "its graph has no sampler that is known (KSampler, KSamplerAdvanced, SamplerCustom)",
            )),
            several => {
                let list: Vec<String> = several.iter().map(|id| self.called(id)).collect();
                Err(cannot(
                    Program::ComfyUi,
                    format!("its graph has several pictures ({}), and does not say which this is", list.join(", ")),
                ))
            }
        }
    }

    /// An input's value, also where it is a node of its own that holds one.
    pub(super) fn value(&mut self, id: &str, input: &str) -> Result<Option<Value>> {
        const HELD: [&str; 9] = ["value", "seed", "noise_seed", "int", "float", "number", "text", "string", "Text"];
        let (mut id, mut input) = (id.to_owned(), input.to_owned());
        for _ in 0..MOST_IN_A_ROW {
            let Some(value) = self.node(&id)?.inputs.get(&input).filter(|value| !value.is_null()).cloned() else {
                return Ok(None);
            };
            let Some((from, _)) = link(Some(&value)) else { return Ok(Some(value)) };
            let node = self.node(&from)?;
            let only = node.inputs.keys().next().filter(|_| node.inputs.len() == 1).map(String::as_str);
            let held = HELD.into_iter().find(|name| node.inputs.contains_key(*name)).or(only);
            match held.map(str::to_owned) {
                Some(held) => {
                    self.used.insert(from.clone());
                    (id, input) = (from, held);
                }
                None => {
                    let what =
                        format!("{input} of {} comes from {}, which is not read", self.called(&id), self.called(&from));
                    return Err(cannot(Program::ComfyUi, what));
                }
            }
        }
        Err(cannot(Program::ComfyUi, "its graph is a circle"))
    }

    pub(super) fn text(&mut self, id: &str, input: &str) -> Result<Option<String>> {
        Ok(self.value(id, input)?.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
    }

    pub(super) fn number<T: std::str::FromStr>(&mut self, id: &str, input: &str) -> Result<Option<T>> {
        let text = self.text(id, input)?;
        let read = text.map(|text| number(input, &text)).transpose();
        read.map_err(|e: Error| cannot(Program::ComfyUi, format!("{}: {e}", self.called(id))))
    }

    pub(super) fn run(&mut self, id: &str) -> Result<Run> {
        self.used.insert(id.to_owned());
        if self.class(id).starts_with("SamplerCustom") {
            return self.custom_run(id);
        }
        let steps = self.number(id, "steps")?.unwrap_or(20);
        let seed = match self.number(id, "seed")? {
            Some(seed) => seed,
            None => self.number(id, "noise_seed")?.unwrap_or(0),
        };
        let add = self.text(id, "add_noise")?;
        Ok(Run {
            id: id.to_owned(),
            model: self.linked(id, "model"),
            positive: self.linked(id, "positive"),
            negative: self.linked(id, "negative"),
            latent: self.linked(id, "latent_image"),
            seed,
            steps,
            cfg: self.number(id, "cfg")?.unwrap_or(8.0),
            sampler: self.text(id, "sampler_name")?.unwrap_or_else(|| "euler".into()),
            scheduler: self.text(id, "scheduler")?.unwrap_or_else(|| "normal".into()),
            denoise: self.number(id, "denoise")?.unwrap_or(1.0),
            start: self.number(id, "start_at_step")?.unwrap_or(0),
            end: self.number(id, "end_at_step")?.unwrap_or(usize::MAX),
            adds_noise: add.is_none_or(|add| add != "disable" && add != "false"),
        })
    }

    /// SamplerCustom, and SamplerCustomAdvanced with its nodes for noise, guidance, solver and noise levels.
    pub(super) fn custom_run(&mut self, id: &str) -> Result<Run> {
        let mut of = |input: &str| {
            let found = self.linked(id, input).map(|(id, _)| id);
            self.used.extend(found.clone());
            found.unwrap_or_else(|| id.to_owned())
        };
        let (noise, guider, solver, levels) = (of("noise"), of("guider"), of("sampler"), of("sigmas"));
        let Some(steps) = self.number(&levels, "steps")? else {
            return Err(cannot(Program::ComfyUi, format!("noise levels of {} are not read", self.called(&levels))));
        };
        let scheduler = match self.text(&levels, "scheduler")? {
            Some(name) => name,
            // KarrasScheduler and the like.
            None => self.class(&levels).trim_end_matches("Scheduler").to_owned(),
        };
        let sampler = match self.text(&solver, "sampler_name")? {
            Some(name) => name,
            None => self.class(&solver).trim_start_matches("Sampler").to_owned(),
        };
        let seed = match self.number(&noise, "noise_seed")? {
            Some(seed) => seed,
            None => self.number(&noise, "seed")?.unwrap_or(0),
        };
        let cfg = self.number(&guider, "cfg")?.unwrap_or(1.0);
        Ok(Run {
            id: id.to_owned(),
            model: self.linked(&guider, "model").or_else(|| self.linked(&levels, "model")),
            positive: self.linked(&guider, "positive").or_else(|| self.linked(&guider, "conditioning")),
            negative: self.linked(&guider, "negative"),
            latent: self.linked(id, "latent_image"),
            seed,
            steps,
            cfg,
            sampler,
            scheduler,
            denoise: self.number(&levels, "denoise")?.unwrap_or(1.0),
            start: 0,
            end: usize::MAX,
            adds_noise: self.text(id, "add_noise")?.is_none_or(|add| add != "false"),
        })
    }

    /// The first pass: everything but what comes after it.
    pub(super) fn first(&mut self, run: &Run, latent: &Latent) -> Result<()> {
        if run.start > 0 || !run.adds_noise {
            let why = format!("{} goes on with noise that another made", self.called(&run.id));
            return Err(cannot(Program::ComfyUi, why));
        }
        let (steps, strength) = whole_steps(run.steps, run.denoise);
        let request = Request {
            seed: run.seed,
            num_inference_steps: steps,
            guidance_scale: run.cfg,
            width: latent.size.map(|size| size.0),
            height: latent.size.map(|size| size.1),
            count: latent.batch.clamp(1, 64),
            ..self.recipe.request.clone()
        };
        self.recipe.request = request;
        self.recipe.take_sampler(&run.sampler, Some(&run.scheduler));
        if latent.batch > 1 {
            self.tell(format!("which picture of the batch of {} it is (all are drawn)", latent.batch));
        }
        match (latent.picture, run.denoise < 1.0) {
            (true, _) => self.recipe.image = Some(RecipeImage { sha256: None, strength, mask: latent.mask }),
            (false, true) => self.tell(format!("denoise {} of an empty latent", run.denoise)),
            (false, false) => {}
        }
        self.conditioning(run)?;
        self.model(run.model.clone(), run.positive.clone())
    }

    /// The second of two samplers: it enlarges, or is another model's.
    pub(super) fn second(&mut self, first: &Run, run: &Run, latent: &Latent) -> Result<()> {
        let refines = run.start > 0 && run.start == first.end.min(first.steps) && !run.adds_noise;
        if refines {
            let mut other = Reader { nodes: self.nodes.clone(), used: BTreeSet::new(), recipe: Recipe::default() };
            other.model(run.model.clone(), None)?;
            self.used.extend(other.used);
            if let Some(name) = other.recipe.model.filter(|name| Some(name) != self.recipe.model.as_ref()) {
                self.recipe.parts.insert("refiner".into(), name);
                self.recipe.request.refiner_start = run.start as f64 / run.steps.max(1) as f64;
            }
            self.tell_texts(first, run)?;
            return Ok(());
        }
        let own = self.recipe.request.width.zip(self.recipe.request.height);
        let by_size = latent.scaled_to.zip(own).map(|(to, own)| to.0 as f64 / own.0.max(1) as f64);
        let Some(scale) = latent.scale.or(by_size).filter(|scale| *scale > 1.0) else {
            let why = format!("{} draws over what another drew at the same size", self.called(&run.id));
            return Err(cannot(Program::ComfyUi, why));
        };
        let (steps, strength) = whole_steps(run.steps, run.denoise);
        let upscale = latent.enlarged.unwrap_or(Upscale::Latent);
        self.recipe.request.hires = Some(Hires { scale, strength, steps: Some(steps), upscale });
        let differs = [
            ("sampler", run.sampler != first.sampler, run.sampler.clone()),
            ("scheduler", run.scheduler != first.scheduler, run.scheduler.clone()),
            ("cfg", run.cfg != first.cfg, run.cfg.to_string()),
            ("seed", true, run.seed.to_string()),
        ];
        for (what, differs, value) in differs {
            if differs {
                self.tell(format!("{what} {} of the second pass", shortened(&value)));
            }
        }
        self.tell_texts(first, run)
    }

    /// Texts of a second sampler that are not the first's.
    pub(super) fn tell_texts(&mut self, first: &Run, run: &Run) -> Result<()> {
        for (one, other) in [(&first.positive, &run.positive), (&first.negative, &run.negative)] {
            let nodes: Vec<String> = [one, other].into_iter().flatten().map(|link| link.0.clone()).collect();
            let text =
                |at: usize| nodes.get(at).and_then(|id| self.nodes.get(id)).and_then(|node| node.inputs.get("text"));
            if one != other && text(0) != text(1) {
                self.tell("texts of the second sampler".into());
            }
            self.used.extend(other.iter().map(|link| link.0.clone()));
        }
        Ok(())
    }

    /// The autoencoder, where it is a file of its own.
    pub(super) fn decoder(&mut self, outputs: &[String]) {
        for id in self.above(outputs) {
            let class = self.class(&id).to_owned();
            if class.starts_with("VAEDecode") || class.starts_with("Save") || class.starts_with("Preview") {
                self.used.insert(id.clone());
            }
            if class == "VAELoader" {
                self.used.insert(id.clone());
                if let Ok(Some(name)) = self.text(&id, "vae_name") {
                    self.recipe.parts.insert("vae".into(), stem(&name));
                }
            }
        }
    }

    /// Nodes above the outputs whose meaning is not in the recipe.
    pub(super) fn tell_rest(&mut self, outputs: &[String]) {
        const SILENT: [&str; 8] = [
            "Reroute",
            "PrimitiveNode",
            "Note",
            "LoadImage",
            "LoadImageMask",
            "LoadImageOutput",
            "CheckpointLoaderSimple",
            "CLIPLoader",
        ];
        let rest: Vec<String> = self.above(outputs).into_iter().filter(|id| !self.used.contains(id)).collect();
        for id in rest {
            if !SILENT.contains(&self.class(&id)) && self.nodes.contains_key(&id) {
                let what = self.called(&id);
                self.tell(what);
            }
        }
    }
}

/// ComfyUI does `steps` steps whatever is left of the noise: so many of a whole run, and the share of it that they are.
pub(super) fn whole_steps(steps: usize, denoise: f64) -> (usize, f64) {
    if denoise > 0.9999 || denoise <= 0.0 || denoise.is_nan() {
        return (steps, 1.0);
    }
    let whole = (steps as f64 / denoise) as usize;
    let done = (whole as f64 * denoise) as usize;
    // The share as it is written, where it gives that many.
    (whole, if done == steps { denoise } else { (steps as f64 + 0.5) / whole.max(1) as f64 })
}
