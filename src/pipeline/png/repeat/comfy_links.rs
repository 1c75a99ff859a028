//! What a sampler of ComfyUI's graph is linked to: latents, conditioning, the model and its text encoders.

use std::collections::BTreeSet;

use super::fields::shortened;
use super::{Program, RecipeAdapter, RecipeControl, cannot, stem};
use crate::Result;
use crate::pipeline::request::Upscale;
use crate::pipeline::request::control::ControlRequest;
use crate::sampling::PredictionType;

use super::comfy::{Latent, Link, MOST_IN_A_ROW, Reader, Run, is_sampler};

impl Reader {
    /// Follows a latent to what it is made from.
    pub(super) fn latent(&mut self, from: Option<Link>) -> Result<Latent> {
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
    pub(super) fn conditioning(&mut self, run: &Run) -> Result<()> {
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
    pub(super) fn conditioned(&mut self, from: Option<Link>, side: &str) -> Result<Option<(String, Option<String>)>> {
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
    pub(super) fn told_sizes(&mut self, id: &str) -> Result<()> {
        let of = |reader: &mut Self, down: &str, across: &str| -> Result<Option<(usize, usize)>> {
            Ok(reader.number(id, down)?.zip(reader.number(id, across)?))
        };
        self.recipe.request.original_size = of(self, "height", "width")?;
        self.recipe.request.crops_coords_top_left = of(self, "crop_h", "crop_w")?.unwrap_or_default();
        self.recipe.request.target_size = of(self, "target_height", "target_width")?;
        Ok(())
    }

    pub(super) fn control(&mut self, id: &str) -> Result<()> {
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
    pub(super) fn model(&mut self, from: Option<Link>, text: Option<Link>) -> Result<()> {
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
    pub(super) fn text_node(&self, from: Link) -> Link {
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
    pub(super) fn text_encoder(&mut self, from: Option<Link>) -> Result<BTreeSet<String>> {
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
}
