//! ComfyUI's graph: nodes with their inputs, as it ran (`prompt`) or as it was drawn (`workflow`). Read is what an ordinary picture needs:
//! one sampler, or two in a row, on a checkpoint with LoRAs, two texts, and a latent that is empty or made from a picture.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::fields::{number, shortened};
use super::{Program, Recipe, RecipeAdapter, RecipeControl, RecipeImage, cannot, json, stem, workflow};
use crate::pipeline::request::control::ControlRequest;
use crate::pipeline::request::{Hires, Request, Upscale};
use crate::sampling::{PredictionType, RngKind};
use crate::text::PromptSyntax;
use crate::{Error, Result};

/// Nodes of a graph; the largest that are shared have hundreds.
const MOST_NODES: usize = 2000;

/// Nodes that are followed in a row; a graph may be a circle, in files if nowhere else.
const MOST_IN_A_ROW: usize = 200;

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
type Link = (String, u64);

fn link(value: Option<&Value>) -> Option<Link> {
    match value?.as_array()?.as_slice() {
        [id, slot] => Some((id.as_str().map_or_else(|| id.to_string(), str::to_owned), slot.as_u64()?)),
        _ => None,
    }
}

/// What one sampler does.
struct Run {
    id: String,
    model: Option<Link>,
    positive: Option<Link>,
    negative: Option<Link>,
    latent: Option<Link>,
    seed: u64,
    steps: usize,
    cfg: f64,
    sampler: String,
    scheduler: String,
    denoise: f64,
    start: usize,
    end: usize,
    adds_noise: bool,
}

/// What a latent is made from.
#[derive(Default)]
struct Latent {
    size: Option<(usize, usize)>,
    batch: usize,
    /// It is made from a picture.
    picture: bool,
    mask: bool,
    /// It is what another sampler made, enlarged by so much.
    before: Option<String>,
    enlarged: Option<Upscale>,
    scale: Option<f64>,
    scaled_to: Option<(usize, usize)>,
}

struct Reader {
    nodes: Nodes,
    /// Nodes whose meaning is in the recipe.
    used: BTreeSet<String>,
    recipe: Recipe,
}

fn is_sampler(node: &Node) -> bool {
    let has = |name: &str| node.inputs.contains_key(name);
    // Detailers and upscalers have a sampler's inputs too, and draw parts of pictures.
    let takes_all = has("sampler_name") && has("steps") && has("cfg");
    node.class.starts_with("SamplerCustom") || (node.class.to_lowercase().contains("ksampler") && takes_all)
}

impl Reader {
    fn read(mut self) -> Result<Recipe> {
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

    fn node(&self, id: &str) -> Result<&Node> {
        self.nodes.get(id).ok_or_else(|| cannot(Program::ComfyUi, format!("its graph has no node {}", shortened(id))))
    }

    fn class(&self, id: &str) -> &str {
        self.nodes.get(id).map_or("", |node| &node.class)
    }

    fn linked(&self, id: &str, input: &str) -> Option<Link> {
        link(self.nodes.get(id)?.inputs.get(input))
    }

    /// A node as messages name it.
    fn called(&self, id: &str) -> String {
        format!("node {} ({})", shortened(self.class(id)), shortened(id))
    }

    fn tell(&mut self, what: String) {
        if !self.recipe.not_repeated.contains(&what) {
            self.recipe.not_repeated.push(what);
        }
    }

    /// Every node that a node's inputs lead to, the node itself too.
    fn above(&self, ids: &[String]) -> BTreeSet<String> {
        let (mut seen, mut todo) = (BTreeSet::new(), ids.to_vec());
        while let Some(id) = todo.pop() {
            if let (true, Some(node)) = (seen.insert(id.clone()), self.nodes.get(&id)) {
                todo.extend(node.inputs.values().filter_map(|value| link(Some(value))).map(|(id, _)| id));
            }
        }
        seen
    }

    /// The outputs that are saved, and the sampler whose picture they are.
    fn last_sampler(&self) -> Result<(Vec<String>, String)> {
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
    fn value(&mut self, id: &str, input: &str) -> Result<Option<Value>> {
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

    fn text(&mut self, id: &str, input: &str) -> Result<Option<String>> {
        Ok(self.value(id, input)?.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
    }

    fn number<T: std::str::FromStr>(&mut self, id: &str, input: &str) -> Result<Option<T>> {
        let text = self.text(id, input)?;
        let read = text.map(|text| number(input, &text)).transpose();
        read.map_err(|e: Error| cannot(Program::ComfyUi, format!("{}: {e}", self.called(id))))
    }

    fn run(&mut self, id: &str) -> Result<Run> {
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
    fn custom_run(&mut self, id: &str) -> Result<Run> {
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
    fn first(&mut self, run: &Run, latent: &Latent) -> Result<()> {
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
    fn second(&mut self, first: &Run, run: &Run, latent: &Latent) -> Result<()> {
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
    fn tell_texts(&mut self, first: &Run, run: &Run) -> Result<()> {
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

    /// Follows a latent to what it is made from.
    fn latent(&mut self, from: Option<Link>) -> Result<Latent> {
        let mut found = Latent { batch: 1, ..Latent::default() };
        let mut at = from;
        for _ in 0..MOST_IN_A_ROW {
            let Some((id, _)) = at.clone() else {
                return Err(cannot(Program::ComfyUi, "its graph does not say what its latent is"));
            };
            let node = self.node(&id)?.clone();
            if is_sampler(&node) {
                found.before = Some(id);
                return Ok(found);
            }
            self.used.insert(id.clone());
            let has = |name: &str| node.inputs.contains_key(name);
            at = match node.class.as_str() {
                "LoadImage" | "LoadImageMask" | "LoadImageOutput" => {
                    found.picture = true;
                    return Ok(found);
                }
                class if class.starts_with("Empty") && has("width") && has("height") => {
                    found.size = self.number(&id, "width")?.zip(self.number(&id, "height")?);
                    found.batch = self.number(&id, "batch_size")?.unwrap_or(1);
                    return Ok(found);
                }
                "VAEEncode" | "VAEEncodeTiled" => self.linked(&id, "pixels"),
                "VAEEncodeForInpaint" | "InpaintModelConditioning" => {
                    found.mask = true;
                    self.linked(&id, "pixels")
                }
                "SetLatentNoiseMask" => {
                    found.mask = true;
                    self.linked(&id, "samples")
                }
                "VAEDecode" | "VAEDecodeTiled" => self.linked(&id, "samples"),
                "LatentUpscaleBy" | "LatentUpscale" | "ImageScaleBy" | "ImageScale" => {
                    let is_latent = node.class.starts_with("Latent");
                    found.enlarged = Some(if is_latent { Upscale::Latent } else { Upscale::Image });
                    found.scale = self.number(&id, "scale_by")?;
                    let sides = (self.number(&id, "width")?, self.number(&id, "height")?);
                    found.scaled_to = sides.0.zip(sides.1);
                    let method = self.text(&id, "upscale_method")?.unwrap_or_default();
                    if method != if is_latent { "bilinear" } else { "lanczos" } {
                        self.tell(format!("upscale_method {}", shortened(&method)));
                    }
                    self.linked(&id, if is_latent { "samples" } else { "image" })
                }
                "RepeatLatentBatch" => {
                    found.batch = self.number(&id, "amount")?.unwrap_or(1);
                    self.linked(&id, "samples")
                }
                _ => {
                    let what = self.called(&id);
                    let next = ["samples", "latent", "latent_image", "pixels", "image", "images", "any", ""];
                    let next = next.into_iter().find_map(|input| self.linked(&id, input));
                    match (next, node.class.as_str()) {
                        (Some(next), "Reroute") => Some(next),
                        (Some(next), _) => {
                            self.tell(what);
                            Some(next)
                        }
                        (None, _) => return Err(cannot(Program::ComfyUi, format!("the latent of {what} is not read"))),
                    }
                }
            };
        }
        Err(cannot(Program::ComfyUi, "its graph is a circle"))
    }

    /// Both texts, and ControlNets on the way to them.
    fn conditioning(&mut self, run: &Run) -> Result<()> {
        let positive = self.conditioned(run.positive.clone(), "positive")?;
        let negative = self.conditioned(run.negative.clone(), "negative")?;
        let request = &mut self.recipe.request;
        if let Some((text, second)) = positive {
            (request.prompt, request.prompt_2) = (text, second);
        }
        match negative {
            Some((text, second)) => (request.negative_prompt, request.negative_prompt_2) = (Some(text), second),
            None => request.negative_prompt = None,
        }
        Ok(())
    }

    /// A conditioning's text, and the second encoder's if that is another. Nothing where it is zeros.
    fn conditioned(&mut self, from: Option<Link>, side: &str) -> Result<Option<(String, Option<String>)>> {
        let mut at = from;
        for _ in 0..MOST_IN_A_ROW {
            let Some((id, _)) = at.clone() else { return Ok(None) };
            let node = self.node(&id)?.clone();
            self.used.insert(id.clone());
            at = match node.class.as_str() {
                "CLIPTextEncodeSDXL" => {
                    let (first, second) = (self.text(&id, "text_l")?, self.text(&id, "text_g")?);
                    if side == "positive" {
                        self.told_sizes(&id)?;
                    }
                    let first = first.unwrap_or_default();
                    let second = second.filter(|second| *second != first);
                    return Ok(Some((first, second)));
                }
                "ConditioningZeroOut" => return Ok(None),
                class if class.starts_with("ControlNetApply") => {
                    if side == "positive" {
                        self.control(&id)?;
                    }
                    self.linked(&id, side).or_else(|| self.linked(&id, "conditioning"))
                }
                "InpaintModelConditioning" => self.linked(&id, side),
                _ if node.inputs.contains_key("text") => {
                    return Ok(Some((self.text(&id, "text")?.unwrap_or_default(), None)));
                }
                class => {
                    let inputs = [side, "conditioning", "conditioning_to", "conditioning_1", ""];
                    let next = inputs.into_iter().find_map(|input| self.linked(&id, input));
                    let what = self.called(&id);
                    match next {
                        None => return Err(cannot(Program::ComfyUi, format!("the text of {what} is not read"))),
                        Some(next) if class == "Reroute" => Some(next),
                        Some(next) => {
                            self.tell(what);
                            Some(next)
                        }
                    }
                }
            };
        }
        Err(cannot(Program::ComfyUi, "its graph is a circle"))
    }

    /// What SDXL is told of sizes.
    fn told_sizes(&mut self, id: &str) -> Result<()> {
        let of = |reader: &mut Self, down: &str, across: &str| -> Result<Option<(usize, usize)>> {
            Ok(reader.number(id, down)?.zip(reader.number(id, across)?))
        };
        self.recipe.request.original_size = of(self, "height", "width")?;
        self.recipe.request.crops_coords_top_left = of(self, "crop_h", "crop_w")?.unwrap_or_default();
        self.recipe.request.target_size = of(self, "target_height", "target_width")?;
        Ok(())
    }

    fn control(&mut self, id: &str) -> Result<()> {
        let net = self.linked(id, "control_net").map(|(net, _)| net);
        let name = match &net {
            Some(net) => self.text(net, "control_net_name")?.unwrap_or_default(),
            None => String::new(),
        };
        let seen = self.linked(id, "image").map(|(image, _)| image);
        let above = self.above(seen.as_slice());
        self.used.extend(net.into_iter().chain(above));
        let control = ControlRequest {
            net: self.recipe.request.controls.len(),
            weight: self.number(id, "strength")?.unwrap_or(1.0),
            start: self.number(id, "start_percent")?.unwrap_or(0.0),
            end: self.number(id, "end_percent")?.unwrap_or(1.0),
            ..ControlRequest::default()
        };
        self.recipe.request.controls.push(control);
        let name = stem(&name);
        self.tell(format!("ControlNet {} ({})", self.recipe.controls.len(), shortened(&name)));
        self.recipe.controls.push(RecipeControl { name, sha256: None, image_sha256: None });
        Ok(())
    }

    /// The model with what is put upon it; the way of the text encoder, too.
    fn model(&mut self, from: Option<Link>, text: Option<Link>) -> Result<()> {
        let mut read_texts = BTreeSet::new();
        if let Some((encode, _)) = text.map(|link| self.text_node(link)) {
            let clips = self.linked(&encode, "clip");
            read_texts = self.text_encoder(clips)?;
        }
        let mut at = from;
        let mut adapters = Vec::new();
        for _ in 0..MOST_IN_A_ROW {
            let Some((id, _)) = at.clone() else { break };
            let node = self.node(&id)?.clone();
            self.used.insert(id.clone());
            at = self.linked(&id, "model").or_else(|| self.linked(&id, ""));
            match node.class.as_str() {
                "LoraLoader" | "LoraLoaderModelOnly" => {
                    let name = stem(&self.text(&id, "lora_name")?.unwrap_or_default());
                    let weight = self.number(&id, "strength_model")?.unwrap_or(1.0);
                    let clip = match read_texts.remove(&id) {
                        true => self.number(&id, "strength_clip")?.unwrap_or(1.0),
                        false => 0.0,
                    };
                    let text_encoder_weight = (clip != weight).then_some(clip);
                    adapters.push(RecipeAdapter { name, sha256: None, weight, text_encoder_weight });
                }
                "ModelSamplingDiscrete" => {
                    let sampling = self.text(&id, "sampling")?.unwrap_or_default();
                    match sampling.as_str() {
                        "eps" => self.recipe.prediction = Some(PredictionType::Epsilon),
                        "v_prediction" => self.recipe.prediction = Some(PredictionType::VPrediction),
                        "lcm" => {}
                        other => self.tell(format!("sampling {}", shortened(other))),
                    }
                    self.recipe.request.zero_terminal_snr = self.text(&id, "zsnr")?.is_some_and(|on| on == "true");
                }
                "RescaleCFG" => {
                    self.recipe.request.guidance_rescale = self.number(&id, "multiplier")?.unwrap_or(0.7);
                }
                "Reroute" => {}
                _ => {
                    let names = ["ckpt_name", "unet_name", "model_path", "model_name"];
                    let mut named = None;
                    for name in names {
                        named = named.or(self.text(&id, name)?);
                    }
                    match (named, &at) {
                        (Some(name), _) => {
                            self.recipe.model = Some(stem(&name));
                            break;
                        }
                        (None, Some(_)) => {
                            let what = self.called(&id);
                            self.tell(what);
                        }
                        (None, None) => {
                            return Err(cannot(
                                Program::ComfyUi,
                                format!("the model of {} is not read", self.called(&id)),
                            ));
                        }
                    }
                }
            }
        }
        // The first that is applied stands first.
        adapters.reverse();
        self.recipe.adapters = adapters;
        for id in read_texts {
            let name = stem(&self.text(&id, "lora_name")?.unwrap_or_default());
            let text_encoder_weight = Some(self.number(&id, "strength_clip")?.unwrap_or(1.0));
            self.recipe.adapters.push(RecipeAdapter { name, sha256: None, weight: 0.0, text_encoder_weight });
        }
        Ok(())
    }

    /// The node that encodes a conditioning's text.
    fn text_node(&self, from: Link) -> Link {
        let mut at = from;
        for _ in 0..MOST_IN_A_ROW {
            let node = self.nodes.get(&at.0);
            if node.is_none_or(|node| node.inputs.contains_key("clip")) {
                return at;
            }
            let inputs = ["positive", "conditioning", "conditioning_to", "conditioning_1", ""];
            match inputs.into_iter().find_map(|input| self.linked(&at.0, input)) {
                Some(next) => at = next,
                None => return at,
            }
        }
        at
    }

    /// Follows a text encoder to its file: how many layers are left out, and which LoRAs are on the way.
    fn text_encoder(&mut self, from: Option<Link>) -> Result<BTreeSet<String>> {
        let mut loras = BTreeSet::new();
        let mut at = from;
        for _ in 0..MOST_IN_A_ROW {
            let Some((id, _)) = at.clone() else { break };
            let node = self.node(&id)?.clone();
            at = self.linked(&id, "clip").or_else(|| self.linked(&id, ""));
            self.used.insert(id.clone());
            match node.class.as_str() {
                "CLIPSetLastLayer" => {
                    let stop: i64 = self.number(&id, "stop_at_clip_layer")?.unwrap_or(-1);
                    self.recipe.request.clip_skip = usize::try_from(-stop - 1).unwrap_or(0);
                }
                "LoraLoader" => {
                    loras.insert(id);
                }
                "Reroute" => {}
                _ if at.is_some() => {
                    let what = self.called(&id);
                    self.tell(what);
                }
                class if class.starts_with("Checkpoint") => {}
                _ => {
                    let file = self.text(&id, "clip_name")?.or(self.text(&id, "clip_name1")?).unwrap_or_default();
                    if !file.is_empty() {
                        self.tell(format!("text encoder {} (`model.text_encoder`)", shortened(&stem(&file))));
                    }
                }
            }
        }
        Ok(loras)
    }

    /// The autoencoder, where it is a file of its own.
    fn decoder(&mut self, outputs: &[String]) {
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
    fn tell_rest(&mut self, outputs: &[String]) {
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
fn whole_steps(steps: usize, denoise: f64) -> (usize, f64) {
    if denoise > 0.9999 || denoise <= 0.0 || denoise.is_nan() {
        return (steps, 1.0);
    }
    let whole = (steps as f64 / denoise) as usize;
    let done = (whole as f64 * denoise) as usize;
    // The share as it is written, where it gives that many.
    (whole, if done == steps { denoise } else { (steps as f64 + 0.5) / whole.max(1) as f64 })
}
