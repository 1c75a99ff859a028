//! What stays: a device with the models that are loaded on it, and jobs that draw with them.
//!
//! An [`Engine`] is what an application, a server or a list of prompts keeps for as long as it runs. It opens a device once and lets compiled networks
//! and their weights stay there within a limit ([`Residency`]), so that the second picture costs its arithmetic alone. Jobs run on threads of their
//! own, in turns on the device; a caller that wants to drive one itself asks [`Pipeline::generate`].

mod job;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::Result;
use crate::order::Load;
use crate::pipeline::{Device, OmsModule, OmsSource, Overrides, Pipeline, Request, Source};

pub use crate::pipeline::{Loading, Residency, Statistics, Together};
pub use crate::record::Cancel;
pub use job::{JobEvent, JobHandle};

/// What a model is loaded from.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ModelKey {
    /// The model.
    pub model: Source,
    /// Parts from elsewhere, adapters, ControlNets.
    pub overrides: Overrides,
    /// One More Step's module.
    pub oms: Option<OmsSource>,
}

impl ModelKey {
    /// A model as its files have it.
    pub fn new(model: Source) -> Self {
        ModelKey { model, overrides: Overrides::default(), oms: None }
    }

    /// The same with One More Step.
    pub fn with_oms(self, oms: OmsSource) -> Self {
        ModelKey { oms: Some(oms), ..self }
    }

    /// The same with parts from elsewhere.
    pub fn with_overrides(self, overrides: Overrides) -> Self {
        ModelKey { overrides, ..self }
    }

    /// What an order says to load; where and within which limits is the engine's.
    pub fn of(load: &Load) -> Self {
        ModelKey { model: load.model.clone(), overrides: load.overrides.clone(), oms: load.oms.clone() }
    }

    /// Whether the other model differs in nothing but its adapters and its module.
    fn has_the_networks_of(&self, other: &ModelKey) -> bool {
        let bare = |key: &ModelKey| {
            let overrides = Overrides { adapters: Vec::new(), ..key.overrides.clone() };
            ModelKey { overrides, oms: None, ..key.clone() }
        };
        bare(self) == bare(other)
    }
}

/// A device, the models that are loaded for it, and what of them stays on it.
pub struct Engine {
    device: RwLock<Device>,
    /// The most recently used last.
    models: Mutex<Vec<(ModelKey, Pipeline)>>,
}

/// Models whose files stay open.
const MOST_MODELS: usize = 8;

impl Engine {
    /// An engine on an opened device. Compiled networks stay within `residency`; all models of the device count together.
    pub fn new(device: Device, residency: Residency) -> Self {
        device.set_residency(residency);
        Engine { device: RwLock::new(device), models: Mutex::default() }
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.device.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens the device anew after it was lost ([`ErrorCode::DeviceLost`](crate::ErrorCode::DeviceLost)). Models are loaded again when they are asked for, and
    /// requests can be asked again; pipelines from before are of no more use.
    ///
    /// # Errors
    /// As [`Device::reopened`]; the engine stays as it was then.
    pub fn recover(&self) -> Result<()> {
        let mut device = self.device.write().unwrap_or_else(PoisonError::into_inner);
        *device = device.reopened()?;
        drop(device);
        let gone = std::mem::take(&mut *self.lock());
        drop(gone);
        Ok(())
    }

    /// The model: loaded now, or as it was loaded before. One that differs from a loaded one in its adapters or its module alone shares all else with
    /// it. Of the models that nobody uses the least recently used is given up when there are more than eight.
    ///
    /// # Errors
    /// As [`Pipeline::load_with`].
    pub fn load(&self, key: &ModelKey) -> Result<Pipeline> {
        self.load_told(key, &mut |_| Ok(()))
    }

    /// [`load`](Self::load), with every part told before it is loaded; nothing is told of a model that is there.
    ///
    /// # Errors
    /// As [`Pipeline::load_told`].
    pub fn load_told(&self, key: &ModelKey, told: &mut dyn FnMut(Loading) -> Result<()>) -> Result<Pipeline> {
        let known = {
            let mut models = self.lock();
            if let Some(at) = models.iter().position(|(known, _)| known == key) {
                let model = models.remove(at);
                models.push(model.clone());
                return Ok(model.1);
            }
            models.iter().rev().find(|(known, _)| known.has_the_networks_of(key)).cloned()
        };
        // Without the lock: another thread may load another model meanwhile, or this one twice.
        let pipeline = match known {
            Some((known, pipeline)) => self.changed(&known, pipeline, key)?,
            None => Pipeline::load_told(&key.model, &key.overrides, key.oms.as_ref(), self.device(), told)?,
        };
        let mut models = self.lock();
        models.push((key.clone(), pipeline.clone()));
        let surplus = models.len().saturating_sub(MOST_MODELS);
        let gone: Vec<_> = models.drain(..surplus).collect();
        drop(models);
        drop(gone);
        Ok(pipeline)
    }

    /// A loaded model with the adapters and the module of another.
    fn changed(&self, from: &ModelKey, mut pipeline: Pipeline, to: &ModelKey) -> Result<Pipeline> {
        if from.overrides.adapters != to.overrides.adapters {
            pipeline = pipeline.with_adapters(&to.overrides.adapters)?;
        }
        match &to.oms {
            same if *same == from.oms => {}
            None => pipeline.detach_oms(),
            Some(source) => {
                let shared = self.lock().iter().find(|(key, _)| key.oms.as_ref() == Some(source)).cloned();
                let module = match shared.and_then(|(_, other)| other.oms_module().cloned()) {
                    Some(module) => module,
                    None => Arc::new(OmsModule::load(source, pipeline.device())?),
                };
                pipeline.attach_oms(module)?;
            }
        }
        Ok(pipeline)
    }

    /// Gives up a model, unless a job still uses it.
    pub fn unload(&self, key: &ModelKey) {
        self.give_up(|known| known == key);
    }

    /// Gives up all that was loaded of a model's files, with whatever adapters and module, unless a job still uses it.
    pub fn unload_source(&self, model: &Source) {
        self.give_up(|known| known.model == *model);
    }

    /// Without the lock by the time that models go: their threads are waited for.
    fn give_up(&self, is_meant: impl Fn(&ModelKey) -> bool) {
        let gone: Vec<_> = self.lock().extract_if(.., |(known, _)| is_meant(known)).collect();
        drop(gone);
    }

    /// Draws a request of a model on a thread of the job's own. `told` hears of everything on that thread.
    ///
    /// # Errors
    /// As [`Pipeline::generate`].
    pub fn start(
        &self,
        pipeline: &Pipeline,
        request: Request,
        told: impl FnMut(JobEvent) + Send + 'static,
    ) -> Result<JobHandle> {
        JobHandle::start(pipeline.generate(request)?, told)
    }

    /// What the device did so far and holds now.
    pub fn statistics(&self) -> Statistics {
        self.device().statistics()
    }

    /// Gives up what stays on the device and is not in use.
    pub fn release(&self) {
        self.device().release();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(ModelKey, Pipeline)>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
