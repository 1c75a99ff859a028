//! A compiled recording on its way to the queue, cut to a time budget, with the constants that pass through.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backend::Shared;
use super::program::{GpuProgram, Step};
use super::stream::Stream;
use super::wait::Submission;
use crate::record::{Run, caught};
use crate::{Error, Result};

/// Submissions that the device has at a time: one runs while the next is ready. A run that is asked to stop waits for these.
const IN_FLIGHT: usize = 2;

impl GpuProgram {
    /// Submits the dispatches of `ranges`, cut to the time budget, and waits for them; asked to stop, for those that are submitted.
    pub(super) fn submit_all(&mut self, ranges: &[Range<usize>], how: Run<'_>) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let mut flights = Flights::new(&shared, self.stream.is_some());
        let submissions = self.in_chunks(ranges, how, |program, chunk| {
            let mut submissions = 0;
            let mut next = chunk.start;
            while next < chunk.end {
                how.check()?;
                let range = program.cut(next..chunk.end);
                next = range.end;
                let work = program.steps[range.clone()].iter().map(|s| s.work).sum();
                flights.add(program.submit(range, None)?, work)?;
                submissions += 1;
            }
            Ok(submissions)
        });
        if let Ok(_) | Err(Error::Cancelled) = submissions {
            flights.land_all()?;
        }
        self.submissions = submissions?;
        how.check()
    }

    /// Runs `body` for each part of `ranges` whose constants are on the device together, and loads those of the next meanwhile. Gives the sum.
    pub(super) fn in_chunks(
        &mut self,
        ranges: &[Range<usize>],
        how: Run<'_>,
        mut body: impl FnMut(&Self, Range<usize>) -> Result<usize>,
    ) -> Result<usize> {
        let Some(mut stream) = self.stream.take() else {
            return ranges.iter().map(|range| body(self, range.clone())).sum();
        };
        let sum = caught("run", || self.load_and_run(ranges, how, &mut stream, &mut body));
        self.stream = Some(stream);
        sum
    }

    fn load_and_run(
        &self,
        ranges: &[Range<usize>],
        how: Run<'_>,
        stream: &mut Stream,
        body: &mut impl FnMut(&Self, Range<usize>) -> Result<usize>,
    ) -> Result<usize> {
        let gpu = &self.shared.gpu;
        let mut sum = 0;
        let mut parts: Vec<(usize, Range<usize>)> = Vec::new();
        for range in ranges {
            for chunk in 0..stream.chunks() {
                let own = stream.dispatches(chunk);
                let part = own.start.max(range.start)..own.end.min(range.end);
                if !part.is_empty() {
                    parts.push((chunk, part));
                }
            }
        }
        let mut loaded = None;
        for (at, (chunk, part)) in parts.iter().enumerate() {
            if loaded != Some(*chunk) {
                stream.load(gpu, &self.recording, *chunk, how)?;
            }
            sum += body(self, part.clone())?;
            // Two parts of one chunk need its constants once; the next chunk's follow behind what was submitted.
            loaded = Some(*chunk);
            if let Some((next, _)) = parts.get(at + 1).filter(|(next, _)| next != chunk) {
                stream.load(gpu, &self.recording, *next, how)?;
                loaded = Some(*next);
            }
        }
        Ok(sum)
    }

    /// The first dispatches of `range` that fit the time budget: one at least.
    pub(super) fn cut(&self, range: Range<usize>) -> Range<usize> {
        let quota = self.shared.pace.quota();
        let mut total = self.steps[range.start].work;
        let mut end = range.start + 1;
        while end < range.end && total + self.steps[end].work <= quota {
            total += self.steps[end].work;
            end += 1;
        }
        range.start..end
    }

    /// Submits some dispatches; with `timestamps`, each in a pass of its own, from query 0 on.
    pub(super) fn submit(&self, range: Range<usize>, timestamps: Option<&wgpu::QuerySet>) -> Result<Submission> {
        let gpu = &self.shared.gpu;
        let label = |index: usize| &self.recording.dispatches[index].label;
        gpu.scoped(
            || format!("{} to {}", label(range.start), label(range.end - 1)),
            || {
                let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                match timestamps {
                    None => {
                        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                        self.steps[range.clone()].iter().for_each(|step| step.encode(&mut pass));
                    }
                    Some(query_set) => {
                        for (query, step) in self.steps[range.clone()].iter().enumerate() {
                            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                                label: None,
                                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                                    query_set,
                                    beginning_of_pass_write_index: Some(2 * query as u32),
                                    end_of_pass_write_index: Some(2 * query as u32 + 1),
                                }),
                            });
                            step.encode(&mut pass);
                        }
                    }
                }
                gpu.submit(encoder)
            },
        )
    }
}

/// What the device has been given and was not seen to end.
struct Flights<'s> {
    shared: &'s Shared,
    waiting: VecDeque<(Submission, f64, Instant)>,
    last_finished: Instant,
    /// Whether the host does other work between two submissions, so that it may notice an end late.
    may_be_late: bool,
    last_was_late: bool,
}

/// A wait so short found the end long past.
const NO_WAIT: Duration = Duration::from_micros(100);

impl<'s> Flights<'s> {
    fn new(shared: &'s Shared, may_be_late: bool) -> Self {
        let last_finished = Instant::now();
        Flights { shared, waiting: VecDeque::new(), last_finished, may_be_late, last_was_late: may_be_late }
    }

    /// Waits for the oldest when there are many.
    fn add(&mut self, submission: Submission, work: f64) -> Result<()> {
        self.waiting.push_back((submission, work, Instant::now()));
        if self.waiting.len() < IN_FLIGHT { Ok(()) } else { self.land() }
    }

    fn land(&mut self) -> Result<()> {
        let Some((submission, work, submitted)) = self.waiting.pop_front() else { return Ok(()) };
        let asked = Instant::now();
        self.shared.gpu.wait(&submission)?;
        let finished = Instant::now();
        let late = self.may_be_late && finished - asked < NO_WAIT;
        if late || self.last_was_late {
            self.shared.pace.learn_at_least(work, finished - submitted);
        } else {
            self.shared.pace.learn(work, finished - submitted.max(self.last_finished));
        }
        (self.last_finished, self.last_was_late) = (finished, late);
        Ok(())
    }

    fn land_all(mut self) -> Result<()> {
        while !self.waiting.is_empty() {
            self.land()?;
        }
        Ok(())
    }
}

impl Step {
    fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        let [x, y, z] = self.grid;
        pass.set_pipeline(&self.pipeline.raw);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}
