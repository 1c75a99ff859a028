//! Threads of one's own to compute on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{JoinHandle, ThreadId};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::{Error, Result};

/// A pool of threads that ends with its owner. Rayon's global pool never ends, and dropping one of its other pools does not wait: a program that
/// unloads this code would run threads without any.
///
/// The threads start when they are first needed: as many as there are cores, or as `RAYON_NUM_THREADS` says.
#[derive(Default)]
pub struct Workers {
    pool: OnceLock<Pool>,
}

struct Pool {
    /// `None` only while it is dropped.
    rayon: Option<ThreadPool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Workers {
    /// Runs `work` on these threads; what it does with rayon stays on them. The caller waits and does nothing else meanwhile: a thread of another
    /// pool takes none of that pool's tasks up, so locks that it holds cannot be in their way.
    ///
    /// # Panics
    /// Where `work` does, and when the system has no thread left.
    pub fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        // On its own threads rayon runs `work` at once.
        self.apart(|| self.rayon().install(work))
    }

    /// Runs `work` on one of these threads, where the caller is one, or else on a thread that is no worker of any pool: the caller, or a new one that it
    /// waits for. A worker of another pool that waited in rayon's way would take up other tasks of its pool, which may want what it holds. One of
    /// these must not wait for a new thread: it would be missing where that one's work is done, and with one worker nobody would do it.
    pub(crate) fn apart<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        if rayon::current_thread_index().is_none() || self.is_worker() {
            return work();
        }
        let result = std::thread::scope(|scope| scope.spawn(work).join());
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.rayon().current_num_threads()
    }

    /// Whether the caller is one of them.
    pub fn is_worker(&self) -> bool {
        let started = self.pool.get().and_then(|pool| pool.rayon.as_ref());
        started.is_some_and(|pool| pool.current_thread_index().is_some())
    }

    fn rayon(&self) -> &ThreadPool {
        let pool = self.pool.get_or_init(|| Pool::new(0).or_else(|_| Pool::new(1)).expect("the system has a thread"));
        pool.rayon.as_ref().expect("the pool is there until it is dropped")
    }
}

/// Runs `work`; a panic in it, also of one of the threads that it waits for, becomes an error that says where.
///
/// # Errors
/// As `work`, and [`Error::Internal`] where it panics.
pub(crate) fn caught<T>(place: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
            (Some(message), _) => (*message).to_owned(),
            (_, Some(message)) => message.clone(),
            _ => "no message".to_owned(),
        };
        Err(Error::Internal { place: place.to_owned(), message })
    })
}

impl Pool {
    fn new(threads: usize) -> std::result::Result<Self, rayon::ThreadPoolBuildError> {
        let handles = Mutex::new(Vec::new());
        let spawn = |worker: rayon::ThreadBuilder| {
            let mut thread = std::thread::Builder::new().name(format!("chiaro-{}", worker.index()));
            if let Some(bytes) = worker.stack_size() {
                thread = thread.stack_size(bytes);
            }
            let handle = thread.spawn(|| worker.run())?;
            handles.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
            Ok(())
        };
        let rayon = ThreadPoolBuilder::new().num_threads(threads).spawn_handler(spawn).build()?;
        Ok(Pool { rayon: Some(rayon), threads: handles })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        drop(self.rayon.take());
        let threads = std::mem::take(self.threads.get_mut().unwrap_or_else(PoisonError::into_inner));
        let ids: Vec<ThreadId> = threads.iter().map(|thread| thread.thread().id()).collect();
        // One of them cannot wait for itself, nor for those that may wait for what it does: then they end on their own.
        if ids.contains(&std::thread::current().id()) {
            return;
        }
        for thread in threads {
            // A worker hands panics on to who waits for the task; none ends it.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rayon::prelude::*;

    use super::*;

    #[test]
    fn work_runs_on_its_threads_from_anywhere() {
        let (ours, other) = (Workers::default(), Workers::default());
        let inside =
            |workers: &Workers| workers.install(|| workers.is_worker() && workers.install(|| workers.is_worker()));
        assert!(!ours.is_worker() && inside(&ours));
        assert!(other.install(|| inside(&ours) && other.is_worker() && !ours.is_worker()));
        let name = ours.install(|| std::thread::current().name().map(str::to_owned));
        assert!(name.is_some_and(|name| name.starts_with("chiaro-")));
    }

    /// Work of one of its threads that hands on work is done, also where there is no other thread, and all of them take part in it.
    #[test]
    fn a_worker_hands_on_work() {
        for threads in [1, 2, 3] {
            let workers = Workers { pool: Pool::new(threads).expect("threads").into() };
            let (sender, receiver) = std::sync::mpsc::channel();
            let work = move || {
                let all = workers.install(|| {
                    workers.apart(|| workers.install(|| rayon::broadcast(|context| context.index()).len()))
                });
                sender.send(all).expect("the test waits");
            };
            std::thread::spawn(work);
            let all = receiver.recv_timeout(std::time::Duration::from_secs(60)).expect("it ends");
            assert_eq!(all, threads);
        }
    }

    /// With rayon's own `install` the second task is taken up by the first one's thread while it waits, and waits for the lock that the first
    /// one holds.
    #[test]
    fn a_lock_over_a_job_is_no_trap() {
        let workers = Workers::default();
        let callers = ThreadPoolBuilder::new().num_threads(2).build().expect("threads");
        let (lock, sum) = (Mutex::new(()), AtomicUsize::new(0));
        callers.install(|| {
            (0..32).into_par_iter().with_max_len(1).for_each(|i| {
                let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
                let part: usize = workers.install(|| (0..100usize).into_par_iter().map(|k| k * i).sum());
                sum.fetch_add(part, Ordering::Relaxed);
            });
        });
        assert_eq!(sum.into_inner(), 4950 * 496);
    }

    #[test]
    fn a_panic_comes_back_and_the_threads_stay() {
        let workers = Workers::default();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            workers.install(|| (0..8).into_par_iter().for_each(|i| assert!(i != 5, "five")))
        }));
        assert!(panicked.is_err());
        assert_eq!(workers.install(|| (0..8).into_par_iter().sum::<i32>()), 28);
    }

    #[test]
    fn dropped_on_one_of_its_threads_it_does_not_wait_for_itself() {
        let workers = std::sync::Arc::new(Workers::default());
        let inner = std::sync::Arc::clone(&workers);
        let (sender, receiver) = std::sync::mpsc::channel();
        let (gone, is_gone) = std::sync::mpsc::channel::<()>();
        workers.rayon().spawn(move || {
            is_gone.recv().expect("the other owner says so");
            drop(inner);
            sender.send(()).expect("the test waits");
        });
        drop(workers);
        gone.send(()).expect("the task waits");
        receiver.recv_timeout(std::time::Duration::from_secs(60)).expect("it ends");
    }
}
