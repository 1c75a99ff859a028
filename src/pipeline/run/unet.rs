//! The UNet and the ControlNets that act with it: which network each call of a pass runs.

use std::ops::Range;

use crate::Result;
use crate::pipeline::model::pipeline::Pipeline;
use crate::pipeline::request::Request;
use crate::pipeline::request::control::acting;
use crate::pipeline::request::deep_cache::DeepCache;
use crate::pipeline::run::stage::Stage;
use crate::sampling::embedding;

/// The shapes of a UNet's run.
#[derive(Clone, Copy)]
pub(crate) struct UnetRun {
    /// (width, height) in pixels.
    pub(crate) size: (usize, usize),
    /// Pictures in one forward.
    pub(crate) batch: usize,
    /// Text states of a row.
    pub(crate) tokens: usize,
}

/// What tells the UNet the time.
pub(crate) struct TimeInputs {
    pub(crate) projection: Vec<f32>,
    pub(crate) guidance: Option<Vec<f32>>,
}

/// What the UNet is at a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    /// The controls that act, as places in the request's list.
    pub(crate) acting: Vec<usize>,
    /// Rows for each picture: the conditional one, and those that guide.
    pub(crate) rows: usize,
}

/// The calls of the UNet that a pass makes for each group of its pictures.
pub(crate) struct Calls {
    /// Which of all, counted over the base's and the refiner's.
    pub(crate) made: Range<usize>,
    /// All of them.
    pub(crate) of: usize,
}

/// Distinct calls in the order of their first, and how many of each are whole and on kept features.
fn distinct<T: PartialEq + Clone>(calls: impl Iterator<Item = T>, cache: Option<DeepCache>) -> Vec<(T, [usize; 2])> {
    let mut found: Vec<(T, [usize; 2])> = Vec::new();
    let mut last: Option<(T, usize)> = None;
    for call in calls {
        // A network that is exchanged keeps nothing.
        let kept = last.filter(|(known, _)| *known == call).map(|(_, age)| age);
        let age = DeepCache::age(cache, kept);
        let at = found.iter().position(|(known, _)| *known == call).unwrap_or_else(|| {
            found.push((call.clone(), [0; 2]));
            found.len() - 1
        });
        found[at].1[usize::from(age > 0)] += 1;
        last = Some((call, age));
    }
    found
}

impl Pipeline {
    /// What the UNet is at call `call` of `of`.
    pub(crate) fn call(&self, request: &Request, call: usize, of: usize) -> Call {
        Call { acting: acting(&request.controls, call, of), rows: self.rows_at(request, call, of) }
    }

    /// The time embedding's sinusoids for each row, and the guidance embedding of models that have one.
    pub(crate) fn time_inputs(&self, timestep: f64, rows: usize, request: &Request) -> TimeInputs {
        let config = self.unet.config();
        let one = embedding::timestep_embedding(
            timestep,
            config.block_out_channels[0],
            // The UNet's configuration refuses other values of flip_sin_to_cos and freq_shift.
            true,
            0.0,
        );
        let guidance = config
            .time_cond_proj_dim
            .map(|dim| embedding::guidance_scale_embedding(request.guidance_scale, dim).repeat(rows));
        TimeInputs { projection: one.repeat(rows), guidance }
    }

    /// The UNet for a batch of pictures, in each form that it has at some of these calls.
    pub(crate) fn unet_stages(&self, request: &Request, run: UnetRun, calls: Calls) -> Result<Vec<Stage>> {
        let groups = request.count.div_ceil(run.batch);
        let forms = calls.made.map(|call| self.call(request, call, calls.of));
        let stage = |(call, runs): (Call, [usize; 2])| {
            let [whole, reusing] = runs.map(|runs| runs * groups);
            Ok(self.unet_stage(request, run, &call)?.runs_of(whole, reusing))
        };
        distinct(forms, request.deep_cache).into_iter().map(stage).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::request::control::ControlRequest;

    #[test]
    fn controls_that_come_and_go_are_networks_of_their_own() {
        let control = |start, end| ControlRequest { start, end, ..ControlRequest::default() };
        let controls = [control(0.0, 0.6), control(0.2, 0.8)];
        let sets = distinct((0..5).map(|call| acting(&controls, call, 5)), None);
        assert_eq!(sets, [(vec![0], [1, 0]), (vec![0, 1], [2, 0]), (vec![1], [1, 0]), (vec![], [1, 0])]);
    }

    #[test]
    fn a_network_that_is_exchanged_keeps_no_features() {
        let cache = |interval| Some(DeepCache { interval, depth: 1 });
        let of = |calls: &str, interval| distinct(calls.chars(), cache(interval));
        assert_eq!(of("aaaaaaa", 3), [('a', [3, 4])]);
        assert_eq!(of("aaaabbba", 3), [('a', [3, 2]), ('b', [1, 2])]);
        assert_eq!(of("abab", 3), [('a', [2, 0]), ('b', [2, 0])]);
        assert_eq!(of("aab", 1), [('a', [2, 0]), ('b', [1, 0])]);
    }
}
