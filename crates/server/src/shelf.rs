//! Names → files: a listing, made at the start and when asked. Requests name things of it; no text of a request becomes a path.

use std::path::PathBuf;
use std::sync::Arc;

use chiaro::lookup::{Inspection, Places, inspect};
use chiaro::order::{File, Job};

use crate::refusal::{Answer, Refusal};

/// What the demo model and its module are called.
pub(crate) const DEMO: &str = "demo";

/// What something is used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Use {
    Model,
    Oms,
    Lora,
    Control,
    Autoencoder,
    Embedding,
    /// What cannot be used by itself.
    Other,
}

impl Use {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Use::Model => "model",
            Use::Oms => "oms",
            Use::Lora => "lora",
            Use::Control => "control",
            Use::Autoencoder => "vae",
            Use::Embedding => "embedding",
            Use::Other => "other",
        }
    }

    fn of(kind: &str) -> Self {
        match kind {
            "model folder" | "single file" => Use::Model,
            "OMS module" => Use::Oms,
            "LoRA" => Use::Lora,
            "ControlNet" => Use::Control,
            "embedding" => Use::Embedding,
            kind if kind.ends_with("autoencoder") => Use::Autoencoder,
            _ => Use::Other,
        }
    }
}

/// Something with a name.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) name: String,
    /// `None` is inside the program.
    pub(crate) path: Option<PathBuf>,
    pub(crate) usage: Use,
    pub(crate) family: Option<&'static str>,
    pub(crate) bytes: u64,
    /// Vectors of an embedding, and their width.
    pub(crate) vectors: Option<(usize, usize)>,
    /// Channels of a model's latents: 9 is for inpainting.
    pub(crate) in_channels: Option<usize>,
    /// Why it cannot be used.
    pub(crate) problem: Option<String>,
}

impl Item {
    fn inside(name: &str, usage: Use) -> Self {
        Item {
            name: name.into(),
            path: None,
            usage,
            family: Some("demo"),
            bytes: 0,
            vectors: None,
            in_channels: Some(4),
            problem: None,
        }
    }

    fn of(name: String, path: PathBuf) -> Self {
        let mut item = Item { name, path: None, ..Self::inside("", Use::Other) };
        item.family = None;
        item.in_channels = None;
        match inspect(&path) {
            Ok(seen) => item.describe(&seen),
            Err(error) => item.problem = Some(crate::refusal::without_paths(&error.to_string())),
        }
        item.path = Some(path);
        item
    }

    fn describe(&mut self, seen: &Inspection) {
        self.usage = Use::of(seen.kind);
        self.family = seen.family;
        self.bytes = seen.components.iter().map(|component| component.bytes).sum();
        self.in_channels = seen.in_channels;
        self.vectors = seen.embedding.as_ref().map(|shape| (shape.vectors, shape.widths.first().copied().unwrap_or(0)));
        let missing = (self.usage == Use::Model && !seen.missing.is_empty())
            .then(|| format!("without {}", seen.missing.join(", ")));
        self.problem = missing.or_else(|| seen.problems.first().map(|why| crate::refusal::without_paths(why)));
    }

    /// What files of it are called, without folders.
    pub(crate) fn file_name(&self) -> String {
        let own = self.path.as_deref().and_then(|path| path.file_name());
        own.map_or_else(|| self.name.clone(), |name| name.to_string_lossy().into_owned())
    }
}

/// Everything that has a name.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    pub(crate) items: Vec<Item>,
}

impl Shelf {
    /// Looks at what is in the places. Reads the beginning of every file.
    pub(crate) fn list(places: &Places) -> Arc<Self> {
        let mut items = vec![Item::inside(DEMO, Use::Model), Item::inside(DEMO, Use::Oms)];
        items.extend(places.listed().into_iter().map(|one| Item::of(one.name, one.path)));
        let inner = [
            (places.listed_adapters(), Use::Lora),
            (places.listed_autoencoders(), Use::Autoencoder),
            (places.listed_embeddings(), Use::Embedding),
        ];
        for (listed, usage) in inner {
            for one in listed {
                let mut item = Item::of(one.name, one.path);
                if item.problem.is_none() && item.usage != usage {
                    item.problem = Some(format!("expected a {}, got a {}", usage.name(), item.usage.name()));
                }
                item.usage = usage;
                items.push(item);
            }
        }
        Arc::new(Shelf { items })
    }

    pub(crate) fn used_as(&self, usage: Use) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(move |item| item.usage == usage)
    }

    /// What a name means: the name itself, the file's, or either in other cases of letters.
    ///
    /// # Errors
    /// [`Refusal`] 404 with the nearest names.
    pub(crate) fn find(&self, field: &str, name: &str, uses: &[Use]) -> Answer<&Item> {
        let of_use = || self.items.iter().filter(|item| uses.contains(&item.usage));
        let name = name.trim();
        let lower = name.to_lowercase();
        let found =
            of_use().find(|item| item.name == name).or_else(|| of_use().find(|item| item.file_name() == name)).or_else(
                || of_use().find(|item| item.name.to_lowercase() == lower || item.file_name().to_lowercase() == lower),
            );
        found.ok_or_else(|| {
            let alike = |item: &Item| strsim::jaro_winkler(&item.name.to_lowercase(), &lower);
            let mut near: Vec<(f64, &str)> = of_use().map(|item| (alike(item), item.name.as_str())).collect();
            near.retain(|(alike, _)| *alike > 0.7);
            near.sort_by(|a, b| b.0.total_cmp(&a.0));
            let near: Vec<&str> = near.into_iter().take(3).map(|(_, name)| name).collect();
            let hint = if near.is_empty() { String::new() } else { format!("; near names: {}", near.join(", ")) };
            let name: String = name.chars().take(80).collect();
            let kinds = uses.iter().map(|one| one.name()).collect::<Vec<_>>().join(" or ");
            let mut refusal = Refusal::not_found(format!("no {kinds} here is called {name:?}{hint}"));
            refusal.field = Some(field.into());
            refusal
        })
    }

    /// Puts what names mean in their place in a job that came from outside.
    ///
    /// # Errors
    /// Names that are not listed, paths, and what is the server's to choose.
    pub(crate) fn resolve(&self, job: &mut Job, default_model: Option<&str>, default_oms: Option<&str>) -> Answer<()> {
        if job.device != chiaro::order::DeviceJob::default() {
            return Err(Refusal::field("device", "the device and how it stores are chosen when the server starts"));
        }
        if job.adapter_folder.is_some() {
            return Err(Refusal::field("adapter_folder", "adapters have names here, and no folders"));
        }
        if job.like.is_some() {
            return Err(Refusal::field(
                "like",
                "a server repeats no file by itself: POST the picture to /v1/chiaro/recipe, and send the job that it answers with",
            ));
        }
        self.resolve_model(job, default_model, default_oms)?;
        for (i, adapter) in job.adapters.iter_mut().enumerate() {
            let field = format!("adapters[{i}].file");
            let found = self.find(&field, &adapter.file.to_string_lossy(), &[Use::Lora])?;
            adapter.file = found.path.clone().unwrap_or_default();
        }
        for (i, embedding) in job.embeddings.iter_mut().enumerate() {
            let found = self.find(&format!("embeddings[{i}]"), &embedding.to_string_lossy(), &[Use::Embedding])?;
            *embedding = found.path.clone().unwrap_or_default();
        }
        for (i, control) in job.controls.iter_mut().flatten().enumerate() {
            if let Some(net) = &mut control.net {
                let found = self.find(&format!("controls[{i}].net"), net, &[Use::Control])?;
                *net = path_of(found);
            }
            only_bytes(&format!("controls[{i}].image"), control.image.as_ref())?;
        }
        if let Some(image) = &job.image {
            only_bytes("image.file", Some(&image.file))?;
            only_bytes("image.mask", image.mask.as_ref())?;
        }
        Ok(())
    }

    fn resolve_model(&self, job: &mut Job, default_model: Option<&str>, default_oms: Option<&str>) -> Answer<()> {
        let own = &mut job.model;
        let name = own.name.take().or_else(|| default_model.map(str::to_owned)).unwrap_or_else(|| DEMO.into());
        let found = self.find("model.name", &name, &[Use::Model])?;
        if let Some(problem) = &found.problem {
            return Err(Refusal::field("model.name", format!("{} cannot be used: {problem}", found.name)));
        }
        let is_demo = found.path.is_none();
        own.name = Some(path_of(found));
        if own.oms.is_none() && !is_demo {
            own.oms = default_oms.map(str::to_owned);
        }
        for (field, place, uses) in [
            ("model.unet", &mut own.unet, &[Use::Model, Use::Other][..]),
            ("model.vae", &mut own.vae, &[Use::Autoencoder, Use::Model]),
            ("model.text_encoder", &mut own.text_encoder, &[Use::Model]),
            ("model.preview_vae", &mut own.preview_vae, &[Use::Autoencoder]),
            ("model.refiner", &mut own.refiner, &[Use::Model]),
            ("model.oms_text_encoder", &mut own.oms_text_encoder, &[Use::Model, Use::Other]),
        ] {
            if let Some(name) = place {
                *place = Some(path_of(self.find(field, name, uses)?));
            }
        }
        if let Some(name) = own.oms.as_deref().filter(|name| !matches!(*name, DEMO | "off")) {
            own.oms = Some(path_of(self.find("model.oms", name, &[Use::Oms])?));
        }
        Ok(())
    }
}

fn path_of(item: &Item) -> String {
    item.path.as_ref().map_or_else(|| item.name.clone(), |path| path.to_string_lossy().into_owned())
}

fn only_bytes(field: &str, file: Option<&File>) -> Answer<()> {
    match file {
        Some(File::Path(_)) => Err(Refusal::bad(format!(
            "{field}: expected a picture in base64 or a data URI; this server opens no files and no addresses for others"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chiaro::order::{AdapterJob, ImageJob};

    #[test]
    fn names_lead_to_what_is_listed_and_nowhere_else() {
        let mut shelf = Shelf { items: vec![Item::inside(DEMO, Use::Model), Item::inside(DEMO, Use::Oms)] };
        let lora = Item { path: Some("/m/loras/fur.safetensors".into()), ..Item::inside("fur", Use::Lora) };
        shelf.items.push(lora);
        let resolve = |change: &dyn Fn(&mut Job)| {
            let mut job = Job::default();
            change(&mut job);
            shelf.resolve(&mut job, None, None).map(|()| job).map_err(|refusal| refusal.told())
        };
        assert_eq!(resolve(&|_| {}).expect("the demo model").model.name.as_deref(), Some(DEMO));
        let named = |file: &str| AdapterJob { file: file.into(), weight: None, text_encoder_weight: None };
        let with = resolve(&|job| job.adapters.push(named("fur"))).expect("listed");
        assert_eq!(with.adapters[0].file, PathBuf::from("/m/loras/fur.safetensors"));
        for wrong in ["../fur", "/m/loras/fur.safetensors", "/etc/passwd", "", "fur/../fur"] {
            assert!(resolve(&|job| job.adapters.push(named(wrong))).is_err(), "{wrong}");
            assert!(resolve(&|job| job.model.name = Some(wrong.into())).is_err(), "{wrong}");
            assert!(resolve(&|job| job.model.vae = Some(wrong.into())).is_err(), "{wrong}");
            assert!(resolve(&|job| job.model.oms = Some(wrong.into())).is_err(), "{wrong}");
        }
        let file = File::Path("/etc/passwd".into());
        let image = ImageJob { file: file.clone(), mask: None, strength: None };
        assert!(resolve(&|job| job.image = Some(image.clone())).is_err());
        assert!(resolve(&|job| job.like = Some(file.clone())).is_err());
        assert!(resolve(&|job| job.adapter_folder = Some("/m".into())).is_err());
        assert!(resolve(&|job| job.device.name = "cpu".into()).is_err());
        assert!(
            resolve(&|job| job.model.name = Some("demi".into())).expect_err("unknown").contains("near names: demo")
        );
    }
}
