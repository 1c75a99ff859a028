//! How much work one submission holds.
//!
//! A long submission freezes the desktop, and Windows resets a GPU that is busy for 2 s. A short one wastes time between
//! submissions. So each is cut to a time budget, by an estimate that follows the measured rate.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::record::{Dispatch, Recording};

/// Memory traffic of one byte takes about as long as this many operations.
const OPERATIONS_PER_BYTE: f64 = 8.0;

/// A dispatch that does nothing takes about as long as this many operations.
const OPERATIONS_PER_DISPATCH: f64 = 1e5;

/// What a dispatch costs, in floating-point operations or their equivalent in memory traffic.
pub(super) fn work(recording: &Recording, dispatch: &Dispatch) -> f64 {
    let touched = dispatch.reads.iter().map(|(_, t)| t).chain([&dispatch.write]);
    let bytes: usize = touched.map(|t| recording.dtype(*t).bytes(t.shape.len())).sum();
    OPERATIONS_PER_DISPATCH + (dispatch.flops as f64).max(bytes as f64 * OPERATIONS_PER_BYTE)
}

/// The measured rate of a device, shared by its programs.
pub(super) struct Pace {
    budget: Duration,
    /// Work per second.
    rate: Mutex<f64>,
}

impl Pace {
    pub(super) fn new(software: bool, budget: Option<Duration>) -> Self {
        // Low enough for the slowest device of each sort: the first submissions are short, and measure.
        let (default_budget, rate) =
            if software { (Duration::from_secs(1), 2e9) } else { (Duration::from_millis(100), 2e10) };
        Pace { budget: budget.unwrap_or(default_budget), rate: Mutex::new(rate) }
    }

    /// Work that fits the budget.
    pub(super) fn quota(&self) -> f64 {
        *self.rate.lock().unwrap_or_else(PoisonError::into_inner) * self.budget.as_secs_f64()
    }

    /// Takes a submission into account whose end was noticed late: the device is at least so fast.
    pub(super) fn learn_at_least(&self, work: f64, elapsed: Duration) {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let measured = work / elapsed.as_secs_f64().max(1e-6);
        *rate = measured.clamp(*rate, *rate * 2.0);
    }

    /// Takes a finished submission into account: fast when it took too long, slowly otherwise.
    pub(super) fn learn(&self, work: f64, elapsed: Duration) {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let measured = work / elapsed.as_secs_f64().max(1e-6);
        if elapsed > self.budget {
            *rate = measured.min(*rate);
        } else if measured > *rate {
            *rate = measured.min(*rate * 2.0);
        } else if elapsed > self.budget / 10 {
            // Shorter ones tell more about the cost of a submission than about the rate.
            *rate = 0.7 * *rate + 0.3 * measured;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quota_approaches_what_fits_the_budget() {
        let pace = Pace::new(false, None);
        let true_rate = 3e12;
        for _ in 0..20 {
            let work = pace.quota();
            pace.learn(work, Duration::from_secs_f64(work / true_rate));
        }
        assert!((pace.quota() / (true_rate * 0.1) - 1.0).abs() < 0.05, "{}", pace.quota());
        // Kernels ten times slower follow: the next submission already fits.
        let work = pace.quota();
        pace.learn(work, Duration::from_secs_f64(work / (true_rate / 10.0)));
        assert!((pace.quota() / (true_rate / 10.0 * 0.1) - 1.0).abs() < 0.05);
    }

    #[test]
    fn a_late_notice_only_raises_the_rate() {
        let pace = Pace::new(false, None);
        let before = pace.quota();
        pace.learn_at_least(before, Duration::from_secs(3600));
        assert_eq!(pace.quota(), before);
        pace.learn_at_least(before, Duration::from_micros(10));
        assert_eq!(pace.quota(), 2.0 * before);
    }

    #[test]
    fn latency_of_a_tiny_submission_does_not_lower_the_rate() {
        let pace = Pace::new(false, None);
        let before = pace.quota();
        pace.learn(1e5, Duration::from_millis(2));
        assert_eq!(pace.quota(), before);
    }
}
