//! ControlNets: which files, which pictures, and at which calls of the UNet they act.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::inspect::family_of;
use super::load::DIFFUSION_STEM;
use super::recognise::{Found, explained};
use super::source::Component;
use super::stage::Stage;
use super::{DeepCache, Pipeline, Request, UnetRun, is_between};
use crate::image::Rgb8Image;
use crate::models::original::Control;
use crate::models::{ControlNet, ControlNetConfig, OneOrMany, Shortcuts, Unet, UnetConfig, names};
use crate::record::Shape;
use crate::weights::{TensorSet, WeightFile, WeightType, Weights, hex};
use crate::{Error, Place, Result};

/// A picture that a ControlNet sees, and how strongly the net acts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ControlRequest {
    /// Which of the nets of [`Overrides::controls`](super::Overrides::controls), from 0.
    pub net: usize,
    /// What the net takes: edges, depths, poses, as it was trained. Nothing is made of it but its size: it is scaled to the request's
    /// (Lanczos), not cropped, as diffusers does. A plan needs none. Not written down.
    #[serde(skip)]
    pub image: Option<Arc<Rgb8Image>>,
    /// What the net's results are multiplied with (diffusers' `controlnet_conditioning_scale`); 1 is as trained.
    pub weight: f64,
    /// The share of the steps before which the net does not run, 0 to 1.
    pub start: f64,
    /// The share of the steps after which it does not run, 0 to 1.
    pub end: f64,
    /// For prompts that say little (diffusers' `guess_mode`): the net acts on the conditional row alone, and on the finest states with a
    /// tenth of its weight, rising to all of it in the middle.
    pub guess_mode: bool,
}

impl Default for ControlRequest {
    fn default() -> Self {
        ControlRequest { net: 0, image: None, weight: 1.0, start: 0.0, end: 1.0, guess_mode: false }
    }
}

impl ControlRequest {
    /// # Errors
    /// [`Error::Request`] naming the option, its range and what came.
    pub(super) fn validate(&self) -> Result<()> {
        let refuse = |what: String| Err(Error::Request(what));
        if !(self.weight.is_finite() && self.weight.abs() <= 100.0) {
            return refuse(format!("control-weight: expected a number from -100 to 100, got {}", self.weight));
        }
        for (name, share) in [("control-start", self.start), ("control-end", self.end)] {
            if !(0.0..=1.0).contains(&share) {
                return refuse(format!("{name}: expected a share of the steps from 0 to 1, got {share}"));
            }
        }
        if self.start >= self.end {
            return refuse(format!("control-start: expected less than its end {}, got {}", self.end, self.start));
        }
        Ok(())
    }

    /// Whether the net runs at a call: the whole of it must lie between start and end.
    fn acts(&self, call: usize, of: usize) -> bool {
        self.weight != 0.0 && is_between((self.start, self.end), call, of)
    }

    /// SHA-256 of the picture's size and pixels, in hexadecimal: whether another file is the same picture.
    pub fn image_sha256(&self) -> Option<String> {
        let image = self.image.as_ref()?;
        let mut hash = Sha256::new();
        hash.update([image.width as u64, image.height as u64].map(u64::to_le_bytes).concat());
        hash.update(&image.data);
        Some(hex(&hash.finalize()))
    }

    /// The picture as the net takes it, `[1, h, w, 4]`.
    fn pixels(&self, config: &ControlNetConfig, latents: Shape) -> Result<Vec<f32>> {
        let Some(image) = &self.image else {
            return Err(Error::Request(
                "control: expected a picture for the ControlNet, got none (--control-image)".into(),
            ));
        };
        if image.width == 0 || image.height == 0 || image.data.len() != 3 * image.width * image.height {
            return Err(Error::Request(format!(
                "control-image: expected {}x{}x3 values, got {}",
                image.width,
                image.height,
                image.data.len()
            )));
        }
        let factor = config.pixels_per_latent();
        let scaled = image.resized(latents.w * factor, latents.h * factor)?;
        let [first, last] = if config.is_bgr { [2, 0] } else { [0, 2] };
        let pixel = |p: &[u8]| [p[first], p[1], p[last], 0].map(|v| f32::from(v) / 255.0);
        Ok(scaled.data.chunks_exact(3).flat_map(pixel).collect())
    }

    /// `[rows, sites]` with zeros up to a multiple of 4; rows are `[unconditional, conditional]` × pictures under guidance.
    fn scales(&self, sites: usize, guided: bool, rows: usize) -> Vec<f32> {
        let own = |site: usize| match self.guess_mode {
            true => self.weight * 10f64.powf(site as f64 / (sites - 1) as f64 - 1.0),
            false => self.weight,
        };
        let row = |row: usize| {
            let silent = self.guess_mode && guided && row < rows / 2;
            (0..sites.next_multiple_of(4)).map(move |site| if silent || site >= sites { 0.0 } else { own(site) as f32 })
        };
        (0..rows).flat_map(row).collect()
    }
}

/// A net with its files.
pub(super) struct LoadedControl {
    pub(super) net: ControlNet,
    name: String,
    tensors: TensorSet,
    sha256: String,
    foreign: Vec<String>,
}

impl LoadedControl {
    /// A folder of `ControlNetModel`, or a single file in its layout or the original one.
    ///
    /// # Errors
    /// When files are missing or damaged, it is no ControlNet, one of an unsupported kind, or of another family than the UNet.
    pub(super) fn load(path: &Path, unet: &Unet, weight_type: WeightType) -> Result<Self> {
        let Files { config, tensors, foreign } = read(path, Some(unet.config()), weight_type.prefers_halves())?;
        if let Some(reason) = config.misfit(unet.config()) {
            return Err(Error::Model(format!(
                "{}: expected a ControlNet for {}, got one for {}: {reason}",
                path.display(),
                family_of(unet.config()).name(),
                family_of(&config.unet).name()
            )));
        }
        let net = ControlNet::load(config, &Weights::new(tensors.clone(), "controlnet", weight_type))?;
        let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
        let name = name.map_or_else(|| "controlnet".into(), |name| name.to_string_lossy().into_owned());
        // A picture's parameters name it, whatever becomes of the file.
        let sha256 = tensors.sha256()?;
        Ok(LoadedControl { net, name, tensors, sha256, foreign })
    }

    /// The folder's name, or the file's without ending.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What a user should know of the file.
    pub(super) fn notice(&self) -> Option<String> {
        let first = self.foreign.first()?;
        Some(format!(
            "{}: {} tensors are of no ControlNet, such as {first} (chiaro inspect lists them)",
            self.tensors.label(),
            self.foreign.len()
        ))
    }

    /// SHA-256 of the weights' file, in hexadecimal.
    pub(super) fn sha256(&self) -> &str {
        &self.sha256
    }
}

/// What lies at a path.
pub(super) struct Files {
    pub(super) config: ControlNetConfig,
    tensors: TensorSet,
    /// Names that belong to no ControlNet.
    pub(super) foreign: Vec<String>,
}

/// Configuration and tensors of what lies at a path. What shapes do not tell is taken from the UNet that a net goes with.
pub(super) fn read(path: &Path, unet: Option<&UnetConfig>, prefer_f16: bool) -> Result<Files> {
    if !path.is_dir() {
        let file = Arc::new(WeightFile::open(path)?);
        let found = Found::in_file(&file, &BTreeMap::new());
        if !matches!(found, Found::Control(_)) {
            return Err(found.refusal(path, Place::Control));
        }
        let file = TensorSet::from(file);
        let Control { part, foreign, .. } = Control::read(&file, &unet.map(of_unet).unwrap_or_default())?;
        let config = Value::Object(part.config).to_string();
        let config = ControlNetConfig::from_json(&config, &path.display().to_string())?;
        return Ok(Files { config, tensors: part.tensors, foreign });
    }
    let inner = path.join("controlnet");
    let files = Component::Folder(if inner.is_dir() { inner } else { path.to_owned() });
    let config = files
        .text("config.json")
        .and_then(|text| ControlNetConfig::from_json(&text, &files.label("config.json")))
        .map_err(|error| explained(path, Place::Control, error))?;
    let tensors = files.weights(DIFFUSION_STEM, prefer_f16)?;
    match Control::relative(&tensors) {
        Some(relative) => Err(Error::Model(format!(
            "{}: expected a ControlNet, got {relative}, which is not supported",
            path.display()
        ))),
        None => Ok(Files { config, tensors, foreign: Vec::new() }),
    }
}

/// The numbers that a net shares with its UNet and that no shape tells.
fn of_unet(unet: &UnetConfig) -> Map<String, Value> {
    let heads = match unet.num_attention_heads.as_ref().unwrap_or(&unet.attention_head_dim) {
        OneOrMany::One(heads) => json!(heads),
        OneOrMany::Many(heads) => json!(heads),
    };
    [
        ("attention_head_dim", heads),
        ("norm_num_groups", json!(unet.norm_num_groups)),
        ("norm_eps", json!(unet.norm_eps)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into_iter()
    .collect()
}

/// What the UNet is at a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    /// The controls that act, as places in the request's list.
    pub(super) acting: Vec<usize>,
    /// Rows for each picture: the conditional one, and those that guide.
    pub(super) rows: usize,
}

/// Which controls act at a call.
pub(super) fn acting(controls: &[ControlRequest], call: usize, of: usize) -> Vec<usize> {
    (0..controls.len()).filter(|&i| controls[i].acts(call, of)).collect()
}

/// The calls of the UNet that a pass makes for each group of its pictures.
pub(super) struct Calls {
    /// Which of all, counted over the base's and the refiner's.
    pub(super) made: Range<usize>,
    /// All of them.
    pub(super) of: usize,
}

/// Distinct calls in the order of their first, and how many of each are whole and on kept features.
fn distinct<T: PartialEq + Clone>(calls: impl Iterator<Item = T>, cache: Option<DeepCache>) -> Vec<(T, [usize; 2])> {
    let mut found: Vec<(T, [usize; 2])> = Vec::new();
    let mut last: Option<(T, usize)> = None;
    for call in calls {
        // A network that is exchanged keeps nothing.
        let kept = last.filter(|(known, _)| *known == call).map(|(_, age)| age);
        let age = DeepCache::age(cache, kept);
        let at = found.iter().position(|(known, _)| *known == call).unwrap_or_else(|| {
            found.push((call.clone(), [0; 2]));
            found.len() - 1
        });
        found[at].1[usize::from(age > 0)] += 1;
        last = Some((call, age));
    }
    found
}

impl Pipeline {
    /// What the UNet is at call `call` of `of`.
    pub(super) fn call(&self, request: &Request, call: usize, of: usize) -> Call {
        Call { acting: acting(&request.controls, call, of), rows: self.rows_at(request, call, of) }
    }

    /// The UNet for a batch of pictures, in each form that it has at some of these calls.
    pub(super) fn unet_stages(&self, request: &Request, run: UnetRun, calls: Calls) -> Result<Vec<Stage<'_>>> {
        let groups = request.count.div_ceil(run.batch);
        let forms = calls.made.map(|call| self.call(request, call, calls.of));
        let stage = |(call, runs): (Call, [usize; 2])| {
            let [whole, reusing] = runs.map(|runs| runs * groups);
            Ok(self.unet_stage(request, run, &call)?.runs_of(whole, reusing))
        };
        distinct(forms, request.deep_cache).into_iter().map(stage).collect()
    }

    /// The UNet and the ControlNets that act with it as one network.
    pub(super) fn unet_stage(&self, request: &Request, run: UnetRun, call: &Call) -> Result<Stage<'_>> {
        let latents = self.latent_shape(run.size);
        let (rows, tokens) = (call.rows * run.batch, run.tokens);
        let nets: Vec<_> = call.acting.iter().map(|&i| &self.controls[request.controls[i].net].net).collect();
        let name = if nets.is_empty() { "UNet" } else { "UNet with ControlNet" };
        let shortcuts = Shortcuts {
            depth: request.deep_cache.filter(|cache| cache.interval > 1).map(|cache| cache.depth),
            merging: request.token_merging,
        };
        let stage = Stage::new(name, 1, move |caps| {
            let shape = [rows, latents.h, latents.w];
            self.unet.record_shortened(caps, shape, tokens, &nets, shortcuts, false)
        });
        Ok(stage.beside(self.preview_bytes(request, run.size)?))
    }
}

/// The pictures of a pass as its nets take them.
pub(super) struct ControlInputs(Vec<Vec<f32>>);

impl ControlInputs {
    /// # Errors
    /// When a picture is missing or not whole.
    pub(super) fn new(controls: &[ControlRequest], nets: &[LoadedControl], latents: Shape) -> Result<Self> {
        let one = |control: &ControlRequest| control.pixels(nets[control.net].net.config(), latents);
        controls.iter().map(one).collect::<Result<_>>().map(ControlInputs)
    }

    /// Pictures and scales of the controls that act, by the names of the recording's inputs.
    pub(super) fn of(
        &self,
        acting: &[usize],
        controls: &[ControlRequest],
        nets: &[LoadedControl],
        (guided, rows): (bool, usize),
    ) -> Vec<(String, std::borrow::Cow<'_, [f32]>)> {
        let mut inputs = Vec::new();
        for (place, &i) in acting.iter().enumerate() {
            let sites = nets[controls[i].net].net.sites();
            inputs.push((names::control_image(place), self.0[i].as_slice().into()));
            inputs.push((names::control_scales(place), controls[i].scales(sites, guided, rows).into()));
        }
        inputs
    }
}

/// What a picture's parameters say of its controls.
pub(super) fn parameters(controls: &[ControlRequest], nets: &[LoadedControl]) -> Vec<Value> {
    let one = |control: &ControlRequest| {
        let net = &nets[control.net];
        json!({ "name": net.name(), "sha256": net.sha256(), "image_sha256": control.image_sha256() })
    };
    controls.iter().map(one).collect()
}

/// A control as AUTOMATIC1111's sd-webui-controlnet writes it (`scripts/infotext.py`), as far as it has a meaning here.
pub(super) fn infotext(control: &ControlRequest, nets: &[LoadedControl]) -> String {
    let net = &nets[control.net];
    let mode = if control.guess_mode { "ControlNet is more important" } else { "Balanced" };
    format!(
        "Module: none, Model: {} [{}], Weight: {}, Resize Mode: Just Resize, Guidance Start: {}, Guidance End: {}, Control Mode: {mode}",
        net.name(),
        &net.sha256()[..8],
        control.weight,
        control.start,
        control.end
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(start: f64, end: f64) -> ControlRequest {
        ControlRequest { start, end, ..ControlRequest::default() }
    }

    /// diffusers keeps step i of n where `not (i / n < start or (i + 1) / n > end)`.
    #[test]
    fn steps_between_start_and_end() {
        let steps = |start, end, of| (0..of).filter(|&i| control(start, end).acts(i, of)).collect::<Vec<_>>();
        assert_eq!(steps(0.0, 1.0, 3), [0, 1, 2]);
        assert_eq!(steps(0.0, 0.5, 4), [0, 1]);
        assert_eq!(steps(0.0, 0.6, 4), [0, 1]);
        assert_eq!(steps(0.3, 1.0, 4), [2, 3]);
        assert!(steps(0.4, 0.45, 4).is_empty());
        let controls = [control(0.0, 0.6), control(0.2, 0.8)];
        let sets = distinct((0..5).map(|call| acting(&controls, call, 5)), None);
        assert_eq!(sets, [(vec![0], [1, 0]), (vec![0, 1], [2, 0]), (vec![1], [1, 0]), (vec![], [1, 0])]);
        assert!(!ControlRequest { weight: 0.0, ..control(0.0, 1.0) }.acts(0, 1));
    }

    #[test]
    fn a_network_that_is_exchanged_keeps_no_features() {
        let cache = |interval| Some(DeepCache { interval, depth: 1 });
        let of = |calls: &str, interval| distinct(calls.chars(), cache(interval));
        assert_eq!(of("aaaaaaa", 3), [('a', [3, 4])]);
        assert_eq!(of("aaaabbba", 3), [('a', [3, 2]), ('b', [1, 2])]);
        assert_eq!(of("abab", 3), [('a', [2, 0]), ('b', [2, 0])]);
        assert_eq!(of("aab", 1), [('a', [2, 0]), ('b', [1, 0])]);
    }

    /// `torch.logspace(-1, 0, 3)` is 0.1, 0.3162…, 1.
    #[test]
    fn guessing_rises_to_the_middle_and_leaves_the_unconditional_row() {
        let guess = ControlRequest { weight: 2.0, guess_mode: true, ..ControlRequest::default() };
        let scales = guess.scales(3, true, 2);
        assert_eq!(scales[..5], [0.0, 0.0, 0.0, 0.0, 0.2]);
        assert!((scales[5] - 0.632_455_5).abs() < 1e-6 && scales[6..] == [2.0, 0.0], "{scales:?}");
        assert!(guess.scales(3, false, 2)[..3].iter().all(|s| *s > 0.0));
        assert_eq!(control(0.0, 1.0).scales(3, true, 2), [1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0]);
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        let wrong = [control(-0.1, 1.0), control(0.5, 0.5), control(0.0, 1.1), control(f64::NAN, 1.0)];
        for control in wrong.into_iter().chain([ControlRequest { weight: f64::INFINITY, ..control(0.0, 1.0) }]) {
            assert!(control.validate().is_err(), "{control:?}");
        }
        assert!(control(0.2, 0.8).validate().is_ok());
    }
}
