//! What every request sees.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use chiaro::engine::{Engine, ModelKey, Residency};
use chiaro::order::{Job, Order};
use chiaro::{Device, Error, Pipeline, Result};

use crate::journal::Journal;
use crate::meter::Meter;
use crate::queue::Jobs;
use crate::refusal::Answer;
use crate::settings::Settings;
use crate::shelf::Shelf;
use crate::store::Store;

/// What every request sees.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) engine: Engine,
    pub(crate) jobs: Jobs,
    pub(crate) store: Store,
    pub(crate) meter: Meter,
    shelf: RwLock<Arc<Shelf>>,
    /// Held while a model is loaded, so that two requests do not load it twice.
    loading: Mutex<()>,
    /// AUTOMATIC1111's options that were set: the model of its requests, layers that are left out.
    options: Mutex<Options>,
}

/// What AUTOMATIC1111's clients set before they draw.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    pub(crate) model: Option<String>,
    pub(crate) vae: Option<String>,
    pub(crate) clip_skip: Option<u64>,
}

impl Shared {
    /// # Errors
    /// When the folder or the journal in it cannot be used.
    pub(crate) fn open(settings: Settings, device: Device) -> Result<Self> {
        let store = Store::open(&settings.folder)?;
        let (journal, lines) = Journal::open(&store.journal())?;
        let path = store.journal();
        let jobs = Jobs::restore(journal, lines, settings.max_queue).map_err(|e| Error::io(&path, e))?;
        store.remove_unknown(|id| jobs.find(id).is_some());
        let residency = settings.memory_bytes.map_or(Residency::On, Residency::Within);
        let shared = Shared {
            engine: Engine::new(device, residency),
            shelf: RwLock::new(Shelf::list(&settings.places)),
            jobs,
            store,
            meter: Meter::default(),
            loading: Mutex::default(),
            options: Mutex::default(),
            settings,
        };
        shared.check_names()?;
        Ok(shared)
    }

    /// The names that were chosen for requests that name none.
    fn check_names(&self) -> Result<()> {
        let mut job = Job::default();
        let told = |refusal: crate::refusal::Refusal| Error::refused(refusal.told());
        self.resolve(&mut job).map_err(told)
    }

    pub(crate) fn resolve(&self, job: &mut Job) -> Answer<()> {
        self.shelf().resolve(job, self.settings.model.as_deref(), self.settings.oms.as_deref())
    }

    /// What a job that came from outside means here.
    pub(crate) fn order(&self, mut job: Job) -> Answer<Order> {
        self.resolve(&mut job)?;
        Ok(job.order(&self.settings.places)?)
    }

    /// The model of an order, loaded once.
    pub(crate) fn load(
        &self,
        order: &Order,
        told: &mut dyn FnMut(chiaro::engine::Loading) -> Result<()>,
    ) -> Result<Pipeline> {
        let _one = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        self.engine.load_told(&ModelKey::of(&order.load), told)
    }

    pub(crate) fn shelf(&self) -> Arc<Shelf> {
        Arc::clone(&self.shelf.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at the folders again.
    pub(crate) fn refresh(&self) {
        let shelf = Shelf::list(&self.settings.places);
        *self.shelf.write().unwrap_or_else(PoisonError::into_inner) = shelf;
    }

    pub(crate) fn options(&self) -> MutexGuard<'_, Options> {
        self.options.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes jobs that ended long ago, and the oldest beyond what may be kept.
    pub(crate) fn tidy(&self) {
        let now = crate::store::now_ms();
        let mut bytes = 0;
        for live in self.jobs.list() {
            let (ended, own) = {
                let told = live.told();
                (told.ended, told.pictures.iter().map(|picture| picture.bytes).sum::<u64>())
            };
            bytes += own;
            let Some(ended) = ended else { continue };
            // Callers have read it by now.
            if now.saturating_sub(ended) > 60_000 {
                live.told().forget_steps();
            }
            let is_old = u128::from(now.saturating_sub(ended)) > self.settings.keep.as_millis();
            if is_old || bytes > self.settings.disk_bytes {
                bytes -= own;
                self.remove(live.id());
            }
        }
    }

    /// Forgets a job that has ended, with its pictures.
    pub(crate) fn remove(&self, id: &str) {
        let removed = self.jobs.remove(id).and_then(|()| self.store.remove_job(id));
        if let Err(error) = removed {
            eprintln!("chiaro serve: job {id} cannot be removed: {error}");
        }
    }
}
