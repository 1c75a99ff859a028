//! What all stages of a job share: how it is stopped, and where its time went.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::record::Cancel;

/// Where the time of one stage of a job went.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StageTime {
    /// The stage.
    pub stage: &'static str,
    /// Reading its weights, putting them in order, bringing them to the device, compiling its kernels: each time that it was not there.
    pub opening: Duration,
    /// Releasing its memory where it does not stay.
    pub closing: Duration,
    /// Its runs.
    pub running: Duration,
    /// How many there were.
    pub runs: usize,
}

/// How a job is stopped, and the time of its stages in the order in which they were opened first.
#[derive(Clone, Default)]
pub(crate) struct Watch {
    pub(crate) cancel: Cancel,
    times: Arc<Mutex<Vec<StageTime>>>,
}

impl Watch {
    pub(crate) fn times(&self) -> Vec<StageTime> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn opened(&self, stage: &'static str, since: Instant) {
        self.add(stage, |time| time.opening += since.elapsed());
    }

    pub(crate) fn closed(&self, stage: &'static str, since: Instant) {
        self.add(stage, |time| time.closing += since.elapsed());
    }

    pub(crate) fn ran(&self, stage: &'static str, since: Instant) {
        self.add(stage, |time| {
            time.running += since.elapsed();
            time.runs += 1;
        });
    }

    fn add(&self, stage: &'static str, add: impl FnOnce(&mut StageTime)) {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let at = times.iter().position(|time| time.stage == stage).unwrap_or_else(|| {
            let none = Duration::ZERO;
            times.push(StageTime { stage, opening: none, closing: none, running: none, runs: 0 });
            times.len() - 1
        });
        add(&mut times[at]);
    }
}
