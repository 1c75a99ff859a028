//! Single-file checkpoints in the layout of the original training code (CompVis latent-diffusion, Stability's generative-models,
//! OpenCLIP), as AUTOMATIC1111, ComfyUI and Civitai keep them, and as stable-diffusion.cpp renames them; networks under diffusers' names, too.
//!
//! Tensors are seen under diffusers' names, with nothing copied, and what `config.json` would say follows from names and shapes.
//! What those cannot tell (the number of heads, groups of norms, scaling of latents) is that of the published family.
//!
//! Facts: the names are those of the files themselves; how they correspond to diffusers' is checked against a table of every name
//! of the full-size models (`tests/golden/single_file`).

mod config;
mod control;
mod names;
mod taesd;
mod text;
mod unet;
mod vae;

pub use control::Control;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::weights::{TensorSet, TensorView};
use crate::{Error, Result};

/// What a checkpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Stable Diffusion 1.x.
    Sd1,
    /// Stable Diffusion 2.x.
    Sd2,
    /// Stable Diffusion XL.
    Xl,
    /// The refiner of Stable Diffusion XL.
    XlRefiner,
}

impl Family {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Family::Sd1 => "Stable Diffusion 1.x",
            Family::Sd2 => "Stable Diffusion 2.x",
            Family::Xl => "Stable Diffusion XL",
            Family::XlRefiner => "Stable Diffusion XL refiner",
        }
    }

    /// What the UNet's latents are scaled by (the published configurations).
    pub fn scaling_factor(self) -> f64 {
        match self {
            Family::Sd1 | Family::Sd2 => 0.18215,
            Family::Xl | Family::XlRefiner => 0.13025,
        }
    }
}

/// One network of a checkpoint.
#[derive(Clone)]
pub struct Part {
    /// Its tensors under the names of diffusers or transformers.
    pub tensors: TensorSet,
    /// What its `config.json` would say.
    pub config: Map<String, Value>,
}

/// Fields of `config.json` by component, in place of what follows from the file.
pub type Patches = BTreeMap<String, Map<String, Value>>;

/// What was found in a file.
pub struct Checkpoint {
    /// What it is.
    pub family: Family,
    /// `unet`, `vae`, `text_encoder`, `text_encoder_2`, as far as they are there.
    pub parts: BTreeMap<&'static str, Part>,
    /// Whether the network predicts v rather than ε.
    pub predicts_v: bool,
    /// Whether that follows from the file; with Stable Diffusion 2.x it does not.
    pub prediction_is_known: bool,
    /// Whether the file asks for a schedule that ends in pure noise.
    pub zero_terminal_snr: bool,
    /// Averaged twins of the UNet's tensors, which are not used.
    pub ema: usize,
    /// Names that belong to nothing here.
    pub foreign: Vec<String>,
}

/// What the training code saves beside the networks: schedules, masks, counters.
const BUFFERS: &[&str] = &[
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "betas",
    "denoiser.sigmas",
    "log_one_minus_alphas_cumprod",
    "logvar",
    "lvlb_weights",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "posterior_variance",
    "scale_factor",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    V_MARK,
    ZERO_SNR_MARK,
];

/// An empty tensor that marks a v-model (ComfyUI).
const V_MARK: &str = "v_pred";

/// An empty tensor that marks a model of a schedule with ᾱ_T = 0 (ComfyUI).
const ZERO_SNR_MARK: &str = "ztsnr";

const EMA: &str = "model_ema.";

impl Checkpoint {
    /// Recognises a file; `patches` replace fields of what would be inferred.
    ///
    /// # Errors
    /// When no network is recognised, blocks are missing, or a shape fits no known family.
    pub fn read(file: &TensorSet, patches: &Patches) -> Result<Self> {
        let mut taken = Taken::of(file);
        let nothing = Map::new();
        let patch = |name: &str| patches.get(name).unwrap_or(&nothing);
        let mut parts = BTreeMap::new();
        if let Some(tensors) = taken.either(&[unet::ORIGINAL, unet::DIFFUSERS])? {
            let config = config::unet(&tensors, patch("unet"))?;
            parts.insert("unet", Part { tensors, config });
        }
        if let Some(tensors) = taken.either(&[vae::ORIGINAL, vae::DIFFUSERS])? {
            let config = config::vae(&tensors)?;
            parts.insert("vae", Part { tensors, config });
        }
        if !parts.contains_key("vae")
            && let Some(tensors) = taken.take(taesd::PREFIXES, taesd::MARK, taesd::rename)?
        {
            let config = taesd::config(&tensors);
            parts.insert("vae", Part { tensors, config });
        }
        let texts = text::read(&mut taken, patches)?;
        let family = family(file, &parts, &texts)?;
        parts.extend(texts);
        let mut checkpoint = Checkpoint {
            family,
            predicts_v: false,
            prediction_is_known: true,
            zero_terminal_snr: file.contains(ZERO_SNR_MARK),
            ema: file.tensors().keys().filter(|name| name.starts_with(EMA)).count(),
            foreign: taken.foreign(),
            parts,
        };
        checkpoint.settle_prediction(file);
        checkpoint.settle_family();
        for (name, part) in &mut checkpoint.parts {
            part.config.extend(patch(name).clone());
        }
        Ok(checkpoint)
    }

    /// A v-model of XL is marked; one of 2.x is not, but its inpainting models go on from the ε-base.
    fn settle_prediction(&mut self, file: &TensorSet) {
        let text_to_image = self.in_channels() == Some(4);
        let marked = file.contains(V_MARK);
        self.predicts_v = marked || (self.family == Family::Sd2 && text_to_image);
        self.prediction_is_known = marked || self.family != Family::Sd2 || !self.parts.contains_key("unet");
    }

    /// What the published members of the family have in common.
    fn settle_family(&mut self) {
        let side = match self.family {
            Family::Xl | Family::XlRefiner => 128,
            Family::Sd2 if self.predicts_v => 96,
            Family::Sd1 | Family::Sd2 => 64,
        };
        let pooled = self.parts.get("text_encoder_2").and_then(|part| part.config["projection_dim"].as_u64());
        if let Some(unet) = self.parts.get_mut("unet") {
            unet.config.insert("sample_size".into(), json!(side));
            let inner = unet.config["projection_class_embeddings_input_dim"].as_u64();
            // Six sizes, each as a sinusoid of the same width, follow the pooled text (SDXL, section 2.2).
            // The refiner is told five numbers.
            let numbers = if self.family == Family::XlRefiner { 5 } else { 6 };
            let width =
                inner.zip(pooled).and_then(|(inner, pooled)| inner.checked_sub(pooled)).map_or(256, |w| w / numbers);
            if inner.is_some() {
                unet.config.insert("addition_time_embed_dim".into(), json!(width));
            }
        }
        let kl = |vae: &&mut Part| vae.config["_class_name"] == "AutoencoderKL";
        if let Some(vae) = self.parts.get_mut("vae").filter(kl) {
            vae.config.insert("scaling_factor".into(), json!(self.family.scaling_factor()));
        }
    }

    /// Channels that the UNet takes.
    pub fn in_channels(&self) -> Option<u64> {
        self.parts.get("unet")?.config["in_channels"].as_u64()
    }
}

/// The text encoders tell the family; without them, what the UNet takes does.
fn family(
    file: &TensorSet,
    parts: &BTreeMap<&'static str, Part>,
    texts: &BTreeMap<&'static str, Part>,
) -> Result<Family> {
    if let Some(family) = text::family(file) {
        return Ok(family);
    }
    let has_vae = parts.contains_key("vae");
    let Some(unet) = parts.get("unet") else {
        if has_vae && texts.is_empty() {
            // An autoencoder alone: whose it is, its user says.
            return Ok(Family::Sd1);
        }
        return Err(Error::model(format!(
            "{}: expected a checkpoint of Stable Diffusion (model.diffusion_model.…, first_stage_model.…), got {}",
            file.label(),
            names::some(file)
        ))
        .in_file(file.label()));
    };
    let config = &unet.config;
    Ok(match (config["cross_attention_dim"].as_u64(), config["addition_embed_type"].is_string()) {
        (Some(1280), true) => Family::XlRefiner,
        (_, true) => Family::Xl,
        _ if config["use_linear_projection"] == json!(true) => Family::Sd2,
        _ => Family::Sd1,
    })
}

/// A file, and which of its names were taken.
struct Taken<'a> {
    file: &'a TensorSet,
    /// Name → whether a network uses it.
    names: BTreeMap<String, ()>,
}

/// A naming of a network: prefixes that its names may have, names of which one is always there, and how they become diffusers'.
struct Naming {
    prefixes: &'static [&'static str],
    mark: &'static [&'static str],
    rename: fn(&TensorSet) -> Result<Renamed>,
}

impl<'a> Taken<'a> {
    fn of(file: &'a TensorSet) -> Self {
        Taken { file, names: BTreeMap::new() }
    }

    /// A network's tensors in the first of these namings that the file has.
    fn either(&mut self, namings: &[Naming]) -> Result<Option<TensorSet>> {
        for Naming { prefixes, mark, rename } in namings {
            if let Some(tensors) = self.take(prefixes, mark, *rename)? {
                return Ok(Some(tensors));
            }
        }
        Ok(None)
    }

    /// The tensors below the first of `prefixes` that has `mark`, renamed; what has no new name is left.
    fn take(
        &mut self,
        prefixes: &[&str],
        mark: &[&str],
        rename: fn(&TensorSet) -> Result<Renamed>,
    ) -> Result<Option<TensorSet>> {
        let has = |prefix: &str| mark.iter().any(|mark| self.file.contains(&format!("{prefix}{mark}")));
        let Some(prefix) = prefixes.iter().find(|prefix| has(prefix)) else {
            return Ok(None);
        };
        let renamed = rename(&self.file.under(prefix))?;
        self.names.extend(renamed.taken.into_iter().map(|name| (format!("{prefix}{name}"), ())));
        Ok(Some(TensorSet::new(self.file.label(), renamed.tensors)))
    }

    fn foreign(&self) -> Vec<String> {
        let known = |name: &str| {
            self.names.contains_key(name) || BUFFERS.contains(&name) || name.starts_with(EMA) || text::is_buffer(name)
        };
        self.file.tensors().keys().filter(|name| !known(name)).cloned().collect()
    }
}

/// Tensors under their new names, and the old names that were used or are known not to be needed.
#[derive(Default)]
struct Renamed {
    tensors: BTreeMap<String, TensorView>,
    taken: Vec<String>,
}

impl Renamed {
    /// Every tensor that `name` knows.
    fn each(tensors: &TensorSet, name: impl Fn(&str) -> Option<String>) -> Result<Renamed> {
        let mut renamed = Renamed::default();
        for (old, view) in tensors.tensors() {
            if let Some(new) = name(old) {
                renamed.put(tensors.label(), old, new, view.clone())?;
            }
        }
        Ok(renamed)
    }

    /// The tensors whose names begin with one of `heads`, as they are.
    fn same(tensors: &TensorSet, heads: &[&str]) -> Result<Renamed> {
        Renamed::each(tensors, |name| heads.iter().any(|head| name.starts_with(head)).then(|| name.to_owned()))
    }

    fn put(&mut self, label: &str, old: &str, new: String, view: TensorView) -> Result<()> {
        if self.tensors.insert(new.clone(), view).is_some() {
            return Err(Error::model(format!("{label}: {old}: a second tensor for {new}; the file mixes two layouts"))
                .in_file(label)
                .of_tensor(old));
        }
        self.taken.push(old.to_owned());
        Ok(())
    }
}
