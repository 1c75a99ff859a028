//! OMS modules: files → the network and what reads its prompt. One module serves several models of a process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use crate::models::Unet;
use crate::pipeline::device::Device;
use crate::pipeline::device::residency::Numbered;
use crate::pipeline::device::weight_types::{Part, name};
use crate::pipeline::files::lookup::{Places, successor};
use crate::pipeline::files::recognise::explained;
use crate::pipeline::files::source::{Component, DIFFUSION_STEM, Source, TEXT_STEM};
use crate::pipeline::model::adapters::Adapters;
use crate::pipeline::model::encoders::{Encoder, TextEncoder, joined_width, load_text_encoders};
use crate::pipeline::model::kind::Reading;
use crate::pipeline::model::load::load_unet;
use crate::pipeline::model::pipeline::Pipeline;
use crate::pipeline::request::OmsRequest;
use crate::weights::WeightType;
use crate::{Error, Place, Remedy, Result};

/// An OMS module's folder, and where its text encoder is if not beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OmsSource {
    /// The folder with `oms_module/`.
    pub module: Source,
    /// A folder with `text_encoder/` and `tokenizer/`, in place of what the module's own files point to.
    pub text_encoder: Option<PathBuf>,
    /// Where the repositories that the module's files point to are looked up; nowhere by default.
    pub places: Places,
}

impl OmsSource {
    /// The demo model's module, inside the program.
    pub fn demo() -> Self {
        OmsSource { module: Source::DemoOms, text_encoder: None, places: Places::default() }
    }

    /// A module in a folder; its text encoder is where its files point to, or in [`places`](Self::places).
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        OmsSource { module: Source::Folder(path.into()), text_encoder: None, places: Places::default() }
    }

    /// The step as it is meant for this module. The demo module was trained for a mean-squared error, which pulls towards grey; an ω_ψ a
    /// little above 1 makes up for it.
    pub fn request(&self) -> OmsRequest {
        let default = OmsRequest::default();
        let guidance_scale = if self.module == Source::DemoOms { 1.25 } else { default.guidance_scale };
        OmsRequest { guidance_scale, ..default }
    }
}

/// What a published module needs of another repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OmsPart {
    /// ORGANISATION/REPOSITORY.
    pub repository: String,
    /// The folder in it.
    pub folder: String,
}

/// What a module's files in a folder say of its text encoder and tokenizer, where these are not in the folder; empty of what is no module.
pub fn oms_parts(folder: &Path) -> Vec<OmsPart> {
    let module = Source::Folder(folder.to_owned());
    if !module.component("oms_module").has("config.json") {
        return Vec::new();
    }
    let mut parts: Vec<OmsPart> = Vec::new();
    for (name, file) in [("oms_text_encoder", "config.json"), ("oms_tokenizer", "vocab.json")] {
        let here = module.component(name);
        let is_here = if name == "oms_tokenizer" { here.has(file) } else { here.has_weights(TEXT_STEM) };
        let Ok(Pointer { class_name, path: Some(repository), subfolder }) = Pointer::read(&module, name) else {
            continue;
        };
        if is_here {
            continue;
        }
        let dual = ["text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"].map(str::to_owned).to_vec();
        let folders = if class_name.contains("SDXL") { dual } else { subfolder.into_iter().collect() };
        parts.extend(folders.into_iter().map(|folder| OmsPart { repository: repository.clone(), folder }));
    }
    parts.dedup();
    parts
}

/// An OMS module with what reads its prompt. It belongs to a latent space, not to a model: with [`Pipeline::attach_oms`] one serves, say, Stable
/// Diffusion 1.5, 2.1 and their LCMs. It is opened once, and while stages of several pipelines on one device are open, it is on
/// the device once.
pub struct OmsModule {
    label: String,
    pub(crate) unet: Arc<Numbered<Unet>>,
    text_encoders: OmsText,
    files: Component,
    /// How the module's and its text encoders' weights are stored.
    weights: [(Part, WeightType); 2],
    latent_space: Option<LatentSpace>,
    /// Where its text encoders are said to be, if nothing is there.
    lost_pointer: Option<String>,
}

/// The latents that a module works on, as far as its files tell: the published modules have one configuration, and 4 channels, for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LatentSpace {
    /// Stable Diffusion 1.x and 2.x.
    Sd,
    /// Stable Diffusion XL.
    Xl,
}

impl LatentSpace {
    /// From the names under which its authors published it (oms_b_openclip_15_21, oms_b_openclip_xl, oms_b_mixclip_xl): that of its folder, and
    /// that which its configuration points to.
    pub(crate) fn of(module: &Source) -> Option<Self> {
        let pointed = Pointer::read(module, "oms_module").ok().and_then(|pointer| pointer.path);
        [pointed, Some(module.name())].into_iter().flatten().find_map(|name| {
            let name = name.to_lowercase().replace('-', "_");
            match () {
                () if !name.contains("oms_") => None,
                () if name.contains("_xl") => Some(LatentSpace::Xl),
                () if name.contains("15_21") => Some(LatentSpace::Sd),
                () => None,
            }
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            LatentSpace::Sd => "Stable Diffusion 1.x and 2.x",
            LatentSpace::Xl => "Stable Diffusion XL",
        }
    }
}

/// Which text encoders read the prompt of an OMS module.
enum OmsText {
    /// Its own: one, or the two of SDXL.
    Own(Vec<Encoder>),
    /// So many of the base's, from the first.
    Base(usize),
}

/// A module in front of a model.
#[derive(Clone)]
pub(crate) struct AttachedOms {
    pub(crate) module: Arc<OmsModule>,
    /// The model's encoders as they were before adapters changed them, where they read the module's prompt.
    plain_text: Option<Vec<Encoder>>,
}

impl AttachedOms {
    /// What reads the module's prompt.
    pub(crate) fn text_encoders<'a>(&'a self, base: &'a [Encoder]) -> &'a [Encoder] {
        match (&self.module.text_encoders, &self.plain_text) {
            (OmsText::Own(encoders), _) => encoders,
            (OmsText::Base(count), Some(plain)) => &plain[..*count],
            (OmsText::Base(count), None) => &base[..*count],
        }
    }
}

impl OmsModule {
    /// Opens a module for pipelines on this device, with the weight types that the device asks for.
    ///
    /// # Errors
    /// When a file is missing, damaged or not that of a module, or its text encoder is not where its files point to.
    pub fn load(source: &OmsSource, device: &Device) -> Result<OmsModule> {
        let weights = [Part::Oms, Part::Text].map(|part| (part, device.weight_type(part)));
        check_is_module(&source.module)?;
        let [(_, own), (_, text)] = weights;
        let files = resolve(source, "oms_module", |c| c.has_weights(DIFFUSION_STEM))?;
        let module = load_unet(&files, "oms_module", own, Ok)?;
        if module.config().has_time() {
            return Err(Error::model(format!(
                "{}: expected a UNet2DConditionWoCTModel, got a UNet with a time embedding; it is not an OMS module",
                files.label("config.json")
            ))
            .in_file(files.label("config.json")));
        }
        let (text_encoders, lost_pointer) = load_oms_text_encoders(source, text, device)?;
        let label = source.module.name();
        let latent_space = LatentSpace::of(&source.module);
        let module = Numbered::new(module, device);
        let oms = OmsModule { label, unet: module, text_encoders, files, weights, latent_space, lost_pointer };
        if let OmsText::Own(encoders) = &oms.text_encoders {
            oms.check_width(encoders)?;
        }
        Ok(oms)
    }

    /// The module's name.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// What a user should know of how its prompt is read.
    pub(crate) fn notice(&self) -> Option<String> {
        let lost = self.lost_pointer.as_ref()?;
        Some(format!(
            "{}: its text encoder is said to be that of {lost:?}, which is not here; the model's own reads its prompt (`model.oms_text_encoder` \
             names another)",
            self.label
        ))
    }

    fn check_width(&self, encoders: &[Encoder]) -> Result<()> {
        let (wanted, width) = (self.unet.config().cross_attention_dim, joined_width(encoders));
        if wanted == width {
            return Ok(());
        }
        let named = Remedy::Name(Place::OmsTextEncoder);
        let Some(lost) = &self.lost_pointer else {
            let message = format!(
                "{}: the module takes text states of width {wanted}, its text encoder gives {width}",
                self.label
            );
            return Err(Error::model(message).advise([named]));
        };
        let repository = successor(lost).unwrap_or_else(|| lost.clone());
        Err(Error::model(format!(
            "{}: the module's text encoder is that of {lost}, which is not here, and the model's own gives states of width {width} in place of \
             {wanted}",
            self.label
        ))
        .advise([Remedy::Fetch { repository, parts: vec!["text_encoder", "tokenizer"] }, named]))
    }
}

impl Pipeline {
    /// Puts a module in front of this model, in place of the one that was there. Others may have the same one.
    ///
    /// # Errors
    /// When the module is of another latent space, reads its prompt with encoders that this model lacks, or was loaded with other weight types than
    /// this pipeline's device asks for. What was there stays then.
    pub fn attach_oms(&mut self, module: Arc<OmsModule>) -> Result<()> {
        let label = module.label();
        for (part, stored) in module.weights {
            let asked = self.device.weight_type(part);
            if asked != stored {
                return Err(Error::refused(format!(
                    "{label}: the module was loaded with weights {}, this device asks for {}; load it for this device",
                    name(stored),
                    name(asked)
                )));
            }
        }
        let plain_text = match (&module.text_encoders, &self.plain_texts) {
            (OmsText::Base(count), _) if self.text_encoders.len() < *count => {
                return Err(Error::model(format!(
                    "{label}: the module reads its prompt with SDXL's two text encoders, {} has one; those of an SDXL model are right",
                    self.label
                )).in_file(label)
                .advise([Remedy::Name(Place::OmsTextEncoder)]));
            }
            (OmsText::Base(_), Some((texts, embeddings))) => {
                let text = self.device.weight_type(Part::Text);
                let mut plain =
                    load_text_encoders(texts, self.kind.reading, text, &mut Adapters::none(&self.plain.pool))?;
                embeddings.add_to(&mut plain)?;
                Some(plain.into_iter().map(|encoder| Numbered::new(encoder, &self.device)).collect())
            }
            _ => None,
        };
        let attached = AttachedOms { module: Arc::clone(&module), plain_text };
        module.check_width(attached.text_encoders(&self.text_encoders))?;
        let (takes, latents) = (module.unet.config().in_channels, self.vae.latent_channels());
        if takes != latents {
            return Err(Error::model(format!(
                "{label}: the module takes {takes} latent channels, {} has {latents}; it was made for another latent space",
                self.label
            )).in_file(label));
        }
        let own = if self.kind.is_xl() { LatentSpace::Xl } else { LatentSpace::Sd };
        if let Some(made_for) = module.latent_space.filter(|made_for| *made_for != own) {
            return Err(Error::model(format!(
                "{label}: the module was made for the latent space of {}, {} draws in that of {}; take the module of its family",
                made_for.name(),
                self.label,
                own.name()
            )).in_file(label));
        }
        self.files.retain(|(component, ..)| *component != "oms_module");
        self.files.push(("oms_module", module.files.clone(), DIFFUSION_STEM));
        self.oms = Some(attached);
        self.renew_hashes();
        Ok(())
    }

    /// Takes the module away, if there is one.
    pub fn detach_oms(&mut self) {
        if self.oms.is_some() {
            self.files.retain(|(component, ..)| *component != "oms_module");
            self.oms = None;
            self.renew_hashes();
        }
    }

    /// The OMS module, to be attached to other pipelines too.
    pub fn oms_module(&self) -> Option<&Arc<OmsModule>> {
        self.oms.as_ref().map(|oms| &oms.module)
    }
}

/// `config.json` of a component whose weights may lie elsewhere: the published modules name a repository.
#[derive(Default, Deserialize)]
struct Pointer {
    #[serde(rename = "_class_name", default)]
    class_name: String,
    #[serde(rename = "_name_or_path")]
    path: Option<String>,
    subfolder: Option<String>,
}

impl Pointer {
    /// That of a module's component; an empty one where there is no such file.
    fn read(module: &Source, name: &str) -> Result<Self> {
        let here = module.component(name);
        if here.has("config.json") { here.json("config.json") } else { Ok(Pointer::default()) }
    }

    /// The folder that it names: from the module's own if relative, else among the models of the source's places, as the published modules name
    /// repositories. Embedded files point nowhere.
    fn folder(&self, source: &OmsSource) -> Option<PathBuf> {
        let Source::Folder(root) = &source.module else {
            return None;
        };
        let named = self.path.as_ref()?;
        let beside = root.join(named);
        let place = if beside.is_dir() { beside } else { source.places.find(named).unwrap_or(beside) };
        Some(place.join(self.subfolder.as_deref().unwrap_or_default()))
    }
}

/// The folder where a component of an OMS module really is: beside its config if weights lie there, else where the config points.
fn resolve(source: &OmsSource, name: &str, is_there: impl Fn(&Component) -> bool) -> Result<Component> {
    let here = source.module.component(name);
    if is_there(&here) {
        return Ok(here);
    }
    let pointer = Pointer::read(&source.module, name)?;
    let Some(folder) = pointer.folder(source) else {
        return Err(Error::model(format!(
            "{}: expected the weights of {name} in this folder, or a _name_or_path in its config.json that says where they are, got neither; {} is \
             no OMS module, or its download is not complete",
            here.label(""),
            source.module
        )).in_file(here.label("")));
    };
    let there = Component::Folder(folder);
    if is_there(&there) {
        return Ok(there);
    }
    Err(Error::model(format!(
        "{}: points to {:?}, which is no folder here with the files of {name}; download it",
        here.label("config.json"),
        pointer.path.unwrap_or_default()
    ))
    .in_file(here.label("config.json"))
    .advise([Remedy::Name(if name == "oms_module" { Place::Oms } else { Place::OmsTextEncoder })]))
}

/// Refuses a folder or file that is something else.
fn check_is_module(module: &Source) -> Result<()> {
    let path = match module {
        Source::Folder(path) => path.as_path(),
        Source::File(file) => file.path(),
        Source::DemoModel | Source::DemoOms => return Ok(()),
    };
    let is_module = path.join("oms_module").is_dir();
    if is_module {
        return Ok(());
    }
    let refused = Error::model(format!(
        "{}: expected an OMS module, a folder with model_index.json and oms_module/, found none",
        path.display()
    ))
    .in_file(path.display());
    Err(explained(path, Place::Oms, refused))
}

/// What reads the module's prompt, as its index and the class of its text encoder say: its own encoder; where the index has none, the base's
/// (first) one; for a class named after SDXL, both of SDXL's, which are the base's own unless others are named or found. Then also where they were
/// looked for and not found.
fn load_oms_text_encoders(
    source: &OmsSource,
    weight_type: WeightType,
    device: &Device,
) -> Result<(OmsText, Option<String>)> {
    let mut none = Adapters::default();
    let own = |encoders: Vec<TextEncoder>| {
        (OmsText::Own(encoders.into_iter().map(|encoder| Numbered::new(encoder, device)).collect()), None)
    };
    let index: serde_json::Value = source.module.root().json("model_index.json")?;
    let absent = |name: &str| index[name].as_array().is_none_or(|entry| entry.iter().all(serde_json::Value::is_null));
    let pointer = Pointer::read(&source.module, "oms_text_encoder")?;
    let class = index["oms_text_encoder"][1].as_str().unwrap_or_default();
    let is_dual = [class, &pointer.class_name].iter().any(|class| class.contains("SDXL"));
    if let Some(folder) = &source.text_encoder {
        let reading = if is_dual { Reading::Xl } else { Reading::Clip };
        return load_text_encoders(&Source::Folder(folder.clone()), reading, weight_type, &mut none).map(own);
    }
    if is_dual {
        let pointed = pointer.folder(source).map(Source::Folder);
        return match pointed.filter(|folder| folder.component("text_encoder_2").has_weights(TEXT_STEM)) {
            Some(folder) => load_text_encoders(&folder, Reading::Xl, weight_type, &mut none).map(own),
            None => Ok((OmsText::Base(2), pointer.path)),
        };
    }
    if absent("oms_text_encoder") || absent("oms_tokenizer") {
        return Ok((OmsText::Base(1), None));
    }
    let encoder = resolve(source, "oms_text_encoder", |c| c.has_weights(TEXT_STEM));
    let tokenizer = resolve(source, "oms_tokenizer", |c| c.has("vocab.json"));
    if let (Err(_), Some(lost)) = (encoder.as_ref().and(tokenizer.as_ref()), &pointer.path) {
        // Stable Diffusion 2.x has the encoder that the published modules of its latent space point to; others are of another width.
        return Ok((OmsText::Base(1), Some(lost.clone())));
    }
    let (encoder, tokenizer) = (encoder?, tokenizer?);
    Ok(own(vec![TextEncoder::load(&encoder, &tokenizer, "text_encoder", weight_type, &mut none)?]))
}
