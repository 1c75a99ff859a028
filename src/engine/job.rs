//! A request that is drawn on a thread of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::pipeline::{Event, Generation};
use crate::record::Cancel;
use crate::{Error, Result};

/// What a job tells.
#[derive(Debug)]
#[non_exhaustive]
pub enum JobEvent {
    /// A unit of work is done.
    Done(Event),
    /// The job ends with this, and tells nothing more.
    Failed(Error),
    /// All pictures are there.
    Finished,
}

/// A request under way. Dropping it cancels it and waits for its thread.
pub struct JobHandle {
    cancel: Cancel,
    has_ended: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl JobHandle {
    pub(super) fn start(generation: Generation, told: impl FnMut(JobEvent) + Send + 'static) -> Result<JobHandle> {
        let (cancel, has_ended) = (generation.cancel_token(), Arc::new(AtomicBool::new(false)));
        let ended = Arc::clone(&has_ended);
        let run = move || {
            run(generation, told);
            ended.store(true, Ordering::Release);
        };
        let thread = std::thread::Builder::new().name("chiaro job".into()).spawn(run);
        let thread = thread.map_err(|e| Error::io("a thread for a job", e))?;
        Ok(JobHandle { cancel, has_ended, thread: Mutex::new(Some(thread)) })
    }

    /// Asks the job to end, from any thread: it fails with [`Error::Cancelled`] soon after, also inside a step. One that has ended stays as it is.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// What does the same as [`cancel`](Self::cancel) and can be kept elsewhere.
    pub fn cancel_token(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Whether it has told its last.
    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// Waits until it has told its last. Not from what it tells.
    pub fn wait(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            // A panic was told as an error.
            let _ = thread.join();
        }
    }
}

impl Drop for JobHandle {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.wait();
    }
}

fn run(generation: Generation, mut told: impl FnMut(JobEvent)) {
    let mut generation = Some(generation);
    loop {
        let last = match generation.as_mut().map_or(Ok(None), |generation| generation.next().transpose()) {
            Ok(Some(event)) => {
                told(JobEvent::Done(event));
                continue;
            }
            Ok(None) => JobEvent::Finished,
            Err(error) => JobEvent::Failed(error),
        };
        // What it holds is given back before anybody hears that it has ended.
        drop(generation.take());
        return told(last);
    }
}
