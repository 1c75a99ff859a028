//! Where a pipeline computes, and how it stores activations there.

pub(crate) mod choice;
pub(crate) mod findings;
pub(crate) mod kept;
pub(crate) mod programs;
pub(crate) mod residency;
pub(crate) mod tuning_file;
pub(crate) mod vae_tiling;
pub(crate) mod weight_types;

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::pipeline::device::programs::Programs;
use crate::pipeline::device::residency::{Residency, Statistics, all_bytes, free_bytes};
use crate::pipeline::device::vae_tiling::VaeTiling;
use crate::pipeline::device::weight_types::{Part, Streaming, WeightTypes};
use crate::record::{AdapterKind, Backend, Caps, DType, Products, Program, Recording, Tuning};
use crate::weights::WeightType;
use crate::{Error, Remedy, Result};

/// A backend that plans are made for and nothing runs on.
struct Paper(Caps);

impl Backend for Paper {
    fn caps(&self) -> &Caps {
        &self.0
    }

    fn compile(&self, _: Recording) -> Result<Box<dyn Program>> {
        Err(Error::Device("plans: expected a plan alone, got a network to run; choose a device".into()))
    }
}

/// How activations are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Precision {
    /// f16 where the device has it, with a stage redone in f32 when it overflows; f32 elsewhere.
    #[default]
    Auto,
    /// f16, or an error.
    F16,
    /// Operands of products in bf16 on the processor, with sums and all else in f32; an error on GPUs, and where the processor has no instructions
    /// for it (AVX-512 BF16, AMX; AArch64's FEAT_BF16). On Linux the process then asks for AMX's tiles once, after which signal stacks that the
    /// program sets up need room for them, 8 KiB more (`AT_MINSIGSTKSZ` tells).
    Bf16,
    /// f32.
    F32,
}

/// A backend and the storage type chosen for it.
#[derive(Clone)]
pub struct Device {
    backend: Arc<dyn Backend>,
    storage: DType,
    weights: WeightTypes,
    /// Tiles that were measured on it.
    tuning: Arc<Tuning>,
    /// Bytes that a stage may allocate, if limited.
    budget: Option<u64>,
    vae_tiling: VaeTiling,
    streaming: Streaming,
    /// Parts whose weights a limit made pass through.
    streamed: [bool; Part::COUNT],
    /// Whether a stage that overflows in f16 is redone in f32.
    may_widen: bool,
    /// Devices and tiers that were passed over, and why.
    remarks: Vec<String>,
    /// Where hashes of weight files are kept.
    hash_file: Option<PathBuf>,
    /// What stays on it; clones of the device have it in common.
    programs: Arc<Programs>,
}

impl Device {
    /// A device on an opened backend.
    ///
    /// # Errors
    /// When `F16` is asked of a backend that stores f32 only, and `Bf16` of one that does not multiply so.
    #[cfg_attr(not(feature = "unstable"), doc(hidden))]
    pub fn new(backend: Arc<dyn Backend>, precision: Precision) -> Result<Device> {
        let has_f16 = backend.caps().shader_f16;
        let storage = match precision {
            Precision::Auto if has_f16 => DType::F16,
            Precision::Auto | Precision::F32 => DType::F32,
            Precision::F16 if has_f16 => DType::F16,
            Precision::F16 => {
                let message = format!("f16: {} has no 16-bit shader types", backend.caps().name);
                return Err(Error::request("device.precision", message)
                    .advise([Remedy::AutomaticPrecision, Remedy::SinglePrecision]));
            }
            Precision::Bf16 if backend.caps().products == Products::Bf16 => DType::F32,
            Precision::Bf16 => {
                let caps = backend.caps();
                let message = format!("bf16: {} has no products of it (AVX-512 BF16, AMX, FEAT_BF16)", caps.name);
                let processor = (!caps.is_host() && Products::has_bf16()).then_some(Remedy::Processor);
                let others = [Remedy::AutomaticPrecision, Remedy::SinglePrecision];
                return Err(Error::request("device.precision", message).advise(processor.into_iter().chain(others)));
            }
        };
        Ok(Device::with_storage(backend, storage, precision == Precision::Auto && storage == DType::F16))
    }

    /// Everything as it is where nobody asks for something else.
    fn with_storage(backend: Arc<dyn Backend>, storage: DType, may_widen: bool) -> Device {
        Device {
            backend,
            storage,
            weights: WeightTypes::default(),
            tuning: Arc::default(),
            budget: None,
            vae_tiling: VaeTiling::default(),
            streaming: Streaming::Auto,
            streamed: [false; Part::COUNT],
            may_widen,
            remarks: Vec::new(),
            hash_file: None,
            programs: Arc::default(),
        }
    }

    /// The same device, with these tiles for its products in place of those that its file had.
    #[cfg_attr(not(feature = "unstable"), doc(hidden))]
    pub fn with_tuning(self, tuning: Tuning) -> Device {
        Device { tuning: tuning.into(), ..self }
    }

    /// Tiles that were measured on it.
    #[cfg_attr(not(feature = "unstable"), doc(hidden))]
    pub fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    /// What tells these tiles from others.
    pub(crate) fn tuning_key(&self) -> usize {
        Arc::as_ptr(&self.tuning) as usize
    }

    /// A GPU without limits that exists on paper only, for plans of what a real one would need.
    pub(crate) fn for_plans(storage: DType) -> Device {
        let unlimited = Caps { binding_alignment: 256, max_workgroups: 65_535, ..Caps::host() };
        let caps = Caps { name: "plans".into(), kind: AdapterKind::Virtual, shader_f16: true, ..unlimited };
        Device::with_storage(Arc::new(Paper(caps)), storage, false)
    }

    /// The adapter's name, or "cpu".
    pub fn name(&self) -> &str {
        if self.backend.caps().kind == AdapterKind::Host { "cpu" } else { &self.backend.caps().name }
    }

    /// The same device, with these remarks.
    pub(crate) fn with_remarks(self, remarks: Vec<String>) -> Device {
        Device { remarks, ..self }
    }

    /// Which devices, and which tiers of this one, were passed over, and why: a line each, for a user.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Bytes of memory that it computes in, where that is known: the processor's is main memory and swap, within the limits of a container.
    pub fn memory_bytes(&self) -> Option<u64> {
        if self.backend.caps().is_host() { all_bytes() } else { None }
    }

    /// One phrase for a user: what computes, with which storage.
    pub fn describe(&self) -> String {
        let place = match self.backend.caps().is_host() {
            true if self.backend.caps().products == Products::Bf16 => "the processor, bf16 products".into(),
            true => "the processor".into(),
            false => format!("{}, {} storage", self.name(), self.storage_name()),
        };
        let streamed = self.streaming == Streaming::On || self.streamed.contains(&true);
        match (self.weights == WeightTypes::default(), streamed) {
            (true, false) => place,
            (true, true) => format!("{place}, weights streamed"),
            (false, false) => format!("{place}, weights {}", self.weights),
            (false, true) => format!("{place}, weights {}, streamed", self.weights),
        }
    }

    /// "f16" or "f32"; "bf16" of a processor that multiplies so.
    pub fn storage_name(&self) -> &'static str {
        if self.backend.caps().products == Products::Bf16 { "bf16" } else { self.storage.name() }
    }

    /// The same device, with models' weights of these types.
    pub fn with_weights(self, weights: WeightTypes) -> Device {
        Device { weights, ..self }
    }

    /// The same device, with autoencoders in bands or not.
    pub fn with_vae_tiling(self, vae_tiling: VaeTiling) -> Device {
        Device { vae_tiling, ..self }
    }

    pub(crate) fn vae_tiling(&self) -> VaeTiling {
        self.vae_tiling
    }

    /// The same device, with another choice for one part.
    pub(crate) fn with_part(self, part: Part, choice: WeightType) -> Device {
        Device { weights: self.weights.with(part, choice), ..self }
    }

    /// Whether weights are stored alike on both, and stay or pass through alike.
    pub(crate) fn same_weights(&self, other: &Device) -> bool {
        (self.weights, self.streamed) == (other.weights, other.streamed)
    }

    /// The weight types that were chosen.
    pub fn weights(&self) -> WeightTypes {
        self.weights
    }

    /// How a part of a model is loaded here.
    pub(crate) fn weight_type(&self, part: Part) -> WeightType {
        self.weights.resolve(part, self.storage)
    }

    /// The same device, with another answer to when weights pass through it.
    ///
    /// # Errors
    /// When they always should, and the device is the host executor, which has them in the memory that they would pass from.
    pub fn with_streaming(self, streaming: Streaming) -> Result<Device> {
        if streaming == Streaming::On && self.backend.caps().is_host() {
            let message = "on: weights pass through the memory of a GPU, the processor keeps all of them";
            return Err(Error::request("device.stream_weights", message).advise([Remedy::Gpu, Remedy::NoStreaming]));
        }
        Ok(Device { streaming, ..self })
    }

    pub(crate) fn streaming(&self) -> Streaming {
        self.streaming
    }

    /// Whether the weights of a part pass through as far as they do not fit.
    pub(crate) fn streams(&self, part: Part) -> bool {
        part != Part::Vae && (self.streaming == Streaming::On || self.streamed[part as usize])
    }

    /// The same device, on which the weights of this part pass through too.
    pub(crate) fn with_streamed(mut self, part: Part) -> Device {
        self.streamed[part as usize] = true;
        self
    }

    /// Bytes within which a recording of this part keeps its constants.
    pub(crate) fn memory_limit(&self, part: Part) -> Option<u64> {
        self.streams(part).then(|| self.budget.unwrap_or(0))
    }

    /// The same device; hashes of the weight files of models that are loaded for it are kept in this file, so that they are computed once. Without
    /// one they are computed anew in each process, beside the work.
    pub fn with_hash_file(self, path: PathBuf) -> Device {
        Device { hash_file: Some(path), ..self }
    }

    pub(crate) fn hash_file(&self) -> Option<&PathBuf> {
        self.hash_file.as_ref()
    }

    /// Lets compiled networks stay or not, of all models that were loaded for this device and its clones. What is in use goes on.
    pub fn set_residency(&self, residency: Residency) {
        let free = if self.backend.caps().is_host() { free_bytes() } else { None };
        self.programs.set_residency(residency, free.map(|bytes| bytes / 2));
    }

    /// Whether compiled networks stay.
    pub fn residency(&self) -> Residency {
        self.programs.residency()
    }

    /// The same device, opened anew after it was lost. What was on the old one, and all pipelines that were loaded for it, are of no more use.
    ///
    /// # Errors
    /// When it does not open again, or is a program's own ([`lent`](Self::lent)): then the program lends another.
    pub fn reopened(&self) -> Result<Device> {
        let device = Device { backend: self.backend.reopen()?, programs: Arc::default(), ..self.clone() };
        device.set_residency(self.residency());
        self.programs.abandon();
        Ok(device)
    }

    /// What it did so far and holds now.
    pub fn statistics(&self) -> Statistics {
        let (counters, [hits, evictions]) = (self.backend.counters(), self.programs.counts());
        Statistics {
            uploaded_bytes: counters.uploaded_bytes,
            streamed_bytes: counters.streamed_bytes,
            compiled_pipelines: counters.compiled_pipelines,
            compiled_programs: counters.compiled_programs,
            hits,
            evictions,
            allocated_bytes: self.backend.allocated_bytes(),
        }
    }

    /// Gives up what stays and is not in use.
    pub fn release(&self) {
        self.programs.clear();
    }

    pub(crate) fn programs(&self) -> &Arc<Programs> {
        &self.programs
    }

    /// Bytes that may be allocated on it at one time, with what stays.
    pub(crate) fn resident_limit(&self) -> Option<u64> {
        match self.programs.residency() {
            Residency::Within(bytes) => Some(self.budget.map_or(bytes, |budget| budget.min(bytes))),
            Residency::On => self.budget.or_else(|| self.programs.room()),
            Residency::Off => self.budget,
        }
    }

    pub(crate) fn with_budget(self, bytes: u64) -> Device {
        Device { budget: Some(bytes), ..self }
    }

    pub(crate) fn budget(&self) -> Option<u64> {
        self.budget
    }

    /// What recordings are made for.
    pub(crate) fn caps(&self) -> Caps {
        self.caps_with(self.storage)
    }

    pub(crate) fn caps_with(&self, storage: DType) -> Caps {
        Caps { storage, tuning: Arc::clone(&self.tuning), ..self.backend.caps().clone() }
    }

    pub(crate) fn storage(&self) -> DType {
        self.storage
    }

    pub(crate) fn may_widen(&self) -> bool {
        self.may_widen
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    pub(crate) fn backend_arc(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.backend)
    }
}
