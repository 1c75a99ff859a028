//! Where a pipeline computes, and how it stores activations there.

use std::sync::Arc;

use super::Precision;
use super::tiling::VaeTiling;
use super::weight_types::{Part, Streaming, WeightTypes};
use crate::record::{AdapterKind, Backend, Caps, DType, Program, Recording, Tuning};
use crate::weights::WeightType;
use crate::{Error, Result};

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
}

impl Device {
    /// A device on an opened backend.
    ///
    /// # Errors
    /// When `F16` is asked of a backend that stores f32 only.
    #[cfg_attr(not(feature = "unstable"), doc(hidden))]
    pub fn new(backend: Arc<dyn Backend>, precision: Precision) -> Result<Device> {
        let has_f16 = backend.caps().shader_f16;
        let storage = match precision {
            Precision::Auto if has_f16 => DType::F16,
            Precision::Auto | Precision::F32 => DType::F32,
            Precision::F16 if has_f16 => DType::F16,
            Precision::F16 => {
                return Err(Error::Request(format!(
                    "--precision f16: {} has no 16-bit shader types; use auto or f32",
                    backend.caps().name
                )));
            }
        };
        Ok(Device {
            backend,
            storage,
            weights: WeightTypes::default(),
            tuning: Arc::default(),
            budget: None,
            vae_tiling: VaeTiling::default(),
            streaming: Streaming::Auto,
            streamed: [false; Part::COUNT],
            may_widen: precision == Precision::Auto && storage == DType::F16,
            remarks: Vec::new(),
        })
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

    /// A GPU without limits that exists on paper only, for plans of what a real one would need.
    pub(super) fn for_plans(storage: DType) -> Device {
        let unlimited = Caps { binding_alignment: 256, max_workgroups: 65_535, ..Caps::host() };
        let caps = Caps { name: "plans".into(), kind: AdapterKind::Virtual, shader_f16: true, ..unlimited };
        Device {
            backend: Arc::new(Paper(caps)),
            storage,
            weights: WeightTypes::default(),
            tuning: Arc::default(),
            budget: None,
            vae_tiling: VaeTiling::default(),
            streaming: Streaming::Auto,
            streamed: [false; Part::COUNT],
            may_widen: false,
            remarks: Vec::new(),
        }
    }

    /// The adapter's name, or "cpu".
    pub fn name(&self) -> &str {
        if self.backend.caps().kind == AdapterKind::Host { "cpu" } else { &self.backend.caps().name }
    }

    /// The same device, with these remarks.
    pub(super) fn with_remarks(self, remarks: Vec<String>) -> Device {
        Device { remarks, ..self }
    }

    /// Which devices, and which tiers of this one, were passed over, and why: a line each, for a user.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// One phrase for a user: what computes, with which storage.
    pub fn describe(&self) -> String {
        let place = match self.backend.caps().is_host() {
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

    /// "f16" or "f32".
    pub fn storage_name(&self) -> &'static str {
        self.storage.name()
    }

    /// The same device, with models' weights of these types.
    pub fn with_weights(self, weights: WeightTypes) -> Device {
        Device { weights, ..self }
    }

    /// The same device, with autoencoders in bands or not.
    pub fn with_vae_tiling(self, vae_tiling: VaeTiling) -> Device {
        Device { vae_tiling, ..self }
    }

    pub(super) fn vae_tiling(&self) -> VaeTiling {
        self.vae_tiling
    }

    /// The same device, with another choice for one part.
    pub(super) fn with_part(self, part: Part, choice: WeightType) -> Device {
        Device { weights: self.weights.with(part, choice), ..self }
    }

    /// Whether weights are stored alike on both, and stay or pass through alike.
    pub(super) fn same_weights(&self, other: &Device) -> bool {
        (self.weights, self.streamed) == (other.weights, other.streamed)
    }

    /// The weight types that were chosen.
    pub fn weights(&self) -> WeightTypes {
        self.weights
    }

    /// How a part of a model is loaded here.
    pub(super) fn weight_type(&self, part: Part) -> WeightType {
        self.weights.resolve(part, self.storage)
    }

    /// The same device, with another answer to when weights pass through it.
    ///
    /// # Errors
    /// When they always should, and the device is the host executor, which has them in the memory that they would pass from.
    pub fn with_streaming(self, streaming: Streaming) -> Result<Device> {
        if streaming == Streaming::On && self.backend.caps().is_host() {
            return Err(Error::Request(
                "--stream-weights on: weights pass through the memory of a GPU, the processor keeps all of them; choose a GPU with --device \
                 or leave it out"
                    .into(),
            ));
        }
        Ok(Device { streaming, ..self })
    }

    pub(super) fn streaming(&self) -> Streaming {
        self.streaming
    }

    /// Whether the weights of a part pass through as far as they do not fit.
    pub(super) fn streams(&self, part: Part) -> bool {
        part != Part::Vae && (self.streaming == Streaming::On || self.streamed[part as usize])
    }

    /// The same device, on which the weights of this part pass through too.
    pub(super) fn with_streamed(mut self, part: Part) -> Device {
        self.streamed[part as usize] = true;
        self
    }

    /// Bytes within which a recording of this part keeps its constants.
    pub(super) fn memory_limit(&self, part: Part) -> Option<u64> {
        self.streams(part).then(|| self.budget.unwrap_or(0))
    }

    pub(super) fn with_budget(self, bytes: u64) -> Device {
        Device { budget: Some(bytes), ..self }
    }

    pub(super) fn budget(&self) -> Option<u64> {
        self.budget
    }

    /// What recordings are made for.
    pub(super) fn caps(&self) -> Caps {
        self.caps_with(self.storage)
    }

    pub(super) fn caps_with(&self, storage: DType) -> Caps {
        Caps { storage, tuning: Arc::clone(&self.tuning), ..self.backend.caps().clone() }
    }

    pub(super) fn storage(&self) -> DType {
        self.storage
    }

    pub(super) fn may_widen(&self) -> bool {
        self.may_widen
    }

    pub(super) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    pub(super) fn backend_arc(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.backend)
    }
}
