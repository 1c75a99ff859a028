//! Numbers for Prometheus (its text format, version 0.0.4).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

/// Seconds of the histograms' buckets.
const BUCKETS: [f64; 12] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];

#[derive(Default)]
struct Histogram {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

impl Histogram {
    fn add(&mut self, seconds: f64) {
        for (bucket, most) in self.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(seconds <= most);
        }
        self.count += 1;
        self.sum += seconds;
    }

    fn write(&self, text: &mut String, name: &str, about: &str) {
        let _ = writeln!(text, "# HELP {name} {about}\n# TYPE {name} histogram");
        for (bucket, most) in self.buckets.iter().zip(BUCKETS) {
            let _ = writeln!(text, "{name}_bucket{{le=\"{most}\"}} {bucket}");
        }
        let (count, sum) = (self.count, self.sum);
        let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}");
    }
}

#[derive(Default)]
struct Counts {
    requests: BTreeMap<(&'static str, u16), u64>,
    images: u64,
    /// Forwards that several jobs shared, and their steps.
    shared: (u64, u64),
    waited: Histogram,
    drew: Histogram,
    /// Floating-point operations and seconds of jobs that were drawn, for what new ones will take.
    work: (f64, f64),
}

/// A gauge or counter of elsewhere: name, kind, explanation, values by their labels.
pub(crate) type Series = (&'static str, &'static str, &'static str, Vec<(String, f64)>);

/// What happened since the start.
#[derive(Default)]
pub(crate) struct Meter(Mutex<Counts>);

impl Meter {
    fn with<T>(&self, change: impl FnOnce(&mut Counts) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn request(&self, interface: &'static str, status: u16) {
        self.with(|counts| *counts.requests.entry((interface, status)).or_default() += 1);
    }

    pub(crate) fn image(&self) {
        self.with(|counts| counts.images += 1);
    }

    /// A forward did a step of so many jobs.
    pub(crate) fn forward(&self, jobs: usize) {
        self.with(|counts| counts.shared = (counts.shared.0 + 1, counts.shared.1 + jobs as u64));
    }

    pub(crate) fn job(&self, waited: f64, drew: f64, flops: u64) {
        self.with(|counts| {
            counts.waited.add(waited);
            counts.drew.add(drew);
            // Recent ones count more.
            counts.work = (counts.work.0 * 0.8 + flops as f64, counts.work.1 * 0.8 + drew);
        });
    }

    /// Seconds that so much work takes, as far as that is known.
    pub(crate) fn seconds(&self, flops: u64) -> Option<f64> {
        let (done, seconds) = self.with(|counts| counts.work);
        (done > 0.0).then(|| flops as f64 * seconds / done)
    }

    /// What is counted here, and `more`.
    pub(crate) fn text(&self, more: &[Series]) -> String {
        let mut text = String::new();
        self.with(|counts| {
            text += "# HELP chiaro_http_requests_total Requests by interface and status.\n# TYPE chiaro_http_requests_total counter\n";
            for ((interface, status), count) in &counts.requests {
                let labels = format!("interface=\"{interface}\",status=\"{status}\"");
                let _ = writeln!(text, "chiaro_http_requests_total{{{labels}}} {count}");
            }
            let images = counts.images;
            text += "# HELP chiaro_images_total Pictures drawn.\n# TYPE chiaro_images_total counter\n";
            let _ = writeln!(text, "chiaro_images_total {images}");
            let (forwards, steps) = counts.shared;
            text += "# HELP chiaro_shared_forwards_total Forwards of the UNet that several jobs shared.\n# TYPE chiaro_shared_forwards_total counter\n";
            let _ = writeln!(text, "chiaro_shared_forwards_total {forwards}");
            text += "# HELP chiaro_shared_steps_total Steps of jobs that were done in those.\n# TYPE chiaro_shared_steps_total counter\n";
            let _ = writeln!(text, "chiaro_shared_steps_total {steps}");
            counts.waited.write(&mut text, "chiaro_job_wait_seconds", "Seconds that jobs waited.");
            counts.drew.write(&mut text, "chiaro_job_seconds", "Seconds that jobs were drawn in.");
        });
        for (name, kind, about, values) in more {
            let _ = writeln!(text, "# HELP {name} {about}\n# TYPE {name} {kind}");
            for (labels, value) in values {
                let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_cumulative() {
        let meter = Meter::default();
        assert_eq!(meter.seconds(1), None);
        meter.job(0.01, 3.0, 30);
        meter.job(7.0, 1.0, 10);
        let seconds = meter.seconds(20).expect("two were drawn");
        assert!((seconds - 2.0).abs() < 1e-9, "{seconds}");
        meter.request("native", 200);
        let text = meter.text(&[("chiaro_x", "gauge", "X.", vec![(String::new(), 2.0), ("a=\"b\"".into(), 3.0)])]);
        for line in [
            "chiaro_job_wait_seconds_bucket{le=\"0.05\"} 1",
            "chiaro_job_wait_seconds_bucket{le=\"10\"} 2",
            "chiaro_job_wait_seconds_bucket{le=\"+Inf\"} 2",
            "chiaro_job_seconds_sum 4",
            "chiaro_http_requests_total{interface=\"native\",status=\"200\"} 1",
            "chiaro_x 2",
            "chiaro_x{a=\"b\"} 3",
        ] {
            assert!(text.lines().any(|own| own == line), "{line} in {text}");
        }
    }
}
