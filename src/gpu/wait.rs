//! Handing work to the queue and waiting for it, on a device of one's own and on a host's.
//!
//! On a host's device nothing blocks inside of wgpu: its poll would run the host's callbacks here for as long as it waits, and two waiting
//! polls trip an assertion of wgpu-core 30.0.1 (mended upstream after it, gfx-rs/wgpu#9958). There the queue says when work is done, and whoever
//! polls (the host, or this thread now and then without waiting) brings the news.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::device::{Gpu, Owner};
use super::fault::DriverFault;
use crate::Result;

/// Work that the queue was given.
pub(super) struct Submission {
    index: wgpu::SubmissionIndex,
    /// Set when it is done; on a host's device alone.
    done: Option<Arc<AtomicBool>>,
}

/// Between two looks at a host's device.
const SHORTEST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(1);

/// After so long without news, whether the device is still there is asked.
const DOUBT: Duration = Duration::from_secs(1);

impl Gpu {
    /// Hands commands to the queue; for the inside of [`scoped`](Self::scoped).
    pub(super) fn submit(&self, encoder: wgpu::CommandEncoder) -> Submission {
        let index = self.queue.submit([encoder.finish()]);
        let done = (self.owner == Owner::Host).then(|| {
            let done = Arc::new(AtomicBool::new(false));
            let told = Arc::clone(&done);
            self.queue.on_submitted_work_done(move || told.store(true, Ordering::Release));
            done
        });
        Submission { index, done }
    }

    /// Blocks until the device has finished `submission`.
    pub(super) fn wait(&self, submission: &Submission) -> Result<()> {
        self.wait_until(submission, || true)
    }

    /// Blocks until the device has finished `submission` and the callbacks that it calls then have made `ready` true.
    pub(super) fn wait_until(&self, submission: &Submission, ready: impl Fn() -> bool) -> Result<()> {
        self.check()?;
        // Memory does not end while one waits.
        let counts = !matches!(self.options.fault, Some(DriverFault::Memory(_)));
        if let Some(DriverFault::Refusal(_)) = counts.then(|| self.fault_of_this_call()).flatten() {
            return Err(self.error("the wait was refused, as the fault asks"));
        }
        match &submission.done {
            None => self.block(&submission.index),
            Some(done) => self.look_now_and_then(|| done.load(Ordering::Acquire) && ready()),
        }
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(if self.is_software() { 1800 } else { 120 })
    }

    fn block(&self, index: &wgpu::SubmissionIndex) -> Result<()> {
        let started = Instant::now();
        loop {
            self.check()?;
            let poll = wgpu::PollType::Wait { submission_index: Some(index.clone()), timeout: Some(DOUBT) };
            let alone = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            // wgpu 30 panics when the device is lost during the wait (`handle_error_fatal` in its `Device::poll`).
            let ended = catch_unwind(AssertUnwindSafe(|| self.device.poll(poll)));
            drop(alone);
            match ended {
                Ok(Ok(_)) => return self.check(),
                Ok(Err(wgpu::PollError::Timeout)) if started.elapsed() < self.patience() => {}
                Ok(Err(wgpu::PollError::Timeout)) => self.no_answer(),
                // What a device that is gone was given has no number to wait for.
                Ok(Err(wgpu::PollError::WrongSubmissionIndex(..))) => {
                    self.note("the device was lost: what it was given did not begin".into());
                }
                Err(_) => self.note("the device was lost while it was waited for".into()),
            }
        }
    }

    fn look_now_and_then(&self, done: impl Fn() -> bool) -> Result<()> {
        let started = Instant::now();
        let (mut pause, mut doubted) = (SHORTEST_PAUSE, started);
        while !done() {
            self.news();
            self.check()?;
            if done() {
                break;
            }
            if doubted.elapsed() > DOUBT {
                self.probe();
                doubted = Instant::now();
            }
            if started.elapsed() > self.patience() {
                self.no_answer();
            }
            std::thread::sleep(pause);
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
        self.check()
    }

    fn no_answer(&self) {
        self.note(format!("no answer for {} s", self.patience().as_secs()));
    }

    /// Asks the device for news, without waiting: callbacks of what is done, and whether it was lost.
    pub(super) fn news(&self) {
        let _alone = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if catch_unwind(AssertUnwindSafe(|| self.device.poll(wgpu::PollType::Poll))).is_err() {
            self.note("the device was lost".into());
        }
    }

    /// Finds out whether a host's device was lost, which its own callback is told and nobody else: a buffer that is made without a complaint and
    /// has no memory.
    pub(super) fn probe(&self) {
        if self.owner == Owner::Ours {
            return;
        }
        let scopes = [wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Internal]
            .map(|filter| self.device.push_error_scope(filter));
        let has_memory = catch_unwind(AssertUnwindSafe(|| {
            let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("chiaro: is the device there"),
                size: 8,
                usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: true,
            });
            buffer.get_mapped_range_mut(..).is_ok()
        }));
        let errors = scopes.into_iter().rev().map(|scope| pollster::block_on(scope.pop()));
        let complaints = errors.flatten().count();
        if complaints == 0 && !has_memory.unwrap_or(false) {
            self.note("the device was lost".into());
        }
    }
}
