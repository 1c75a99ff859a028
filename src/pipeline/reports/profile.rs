//! Where the time of a stage goes, against what the device can do.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::ops::{Epilogue, add_scaled, matmul};
use crate::pipeline::device::Device;
use crate::pipeline::model::pipeline::Pipeline;
use crate::pipeline::request::Request;
use crate::record::{Constant, DType, Dispatch, Recording, Role, Shape, Variant};
use crate::{Error, Result};

/// One dispatch of a stage.
#[derive(Debug, Clone)]
pub struct DispatchProfile {
    /// Where in the network: the checkpoint's module path.
    pub label: String,
    /// Stem of the kernel.
    pub kernel: &'static str,
    /// Which form of it: flags and constants; nothing on the host executor.
    pub variant: String,
    /// Seconds, the median of the runs.
    pub seconds: f64,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes that it reads and writes, each tensor once.
    pub moved: u64,
    /// Type of its input, by which its peak is told.
    pub input: DType,
    /// The least seconds that the device's peaks allow: the longer of its operations and its bytes.
    pub limit: f64,
}

/// What the device reaches in kernels that do nothing else, measured beside the stage.
#[derive(Debug, Clone, Default)]
pub struct Peaks {
    /// Floating-point operations a second of a large product, by the type of its input; weights are f16.
    pub product: BTreeMap<&'static str, f64>,
    /// Bytes a second that a sum of two large tensors reads and writes.
    pub bandwidth: f64,
}

/// How a stage spends its time.
#[derive(Debug, Clone)]
pub struct StageProfile {
    /// The stage.
    pub stage: &'static str,
    /// Its dispatches in order, without those that run once a picture.
    pub dispatches: Vec<DispatchProfile>,
    /// Dispatches that run once a picture, and their seconds.
    pub once: (usize, f64),
    /// Seconds until it could run first: recorded, weights read, put in order and brought to the device, kernels compiled.
    pub opening: f64,
    /// Seconds of a run as pictures have it, transfers of inputs and results included: the median.
    pub run: f64,
    /// The device's own limits.
    pub peaks: Peaks,
}

impl StageProfile {
    /// Seconds of all dispatches, each timed alone.
    pub fn seconds(&self) -> f64 {
        self.dispatches.iter().map(|d| d.seconds).sum()
    }

    /// The least seconds that the peaks allow.
    pub fn limit(&self) -> f64 {
        self.dispatches.iter().map(|d| d.limit).sum()
    }
}

impl Pipeline {
    /// Names of a request's stages, in the order of their runs.
    ///
    /// # Errors
    /// When the request cannot be had of the model.
    #[cfg_attr(not(feature = "unstable"), doc(hidden))]
    pub fn stage_names(&self, request: &Request) -> Result<Vec<&'static str>> {
        Ok(self.stages(request)?.iter().map(|stage| stage.name()).collect())
    }

    /// Runs one stage of a request `runs` times on values that are like noise, each dispatch timed, and measures the device's peaks.
    ///
    /// # Errors
    /// When the request has no stage of that name, cannot be had of the model, or the device fails or has no timestamps.
    #[cfg_attr(not(feature = "unstable"), doc(hidden))]
    pub fn profile(&self, request: &Request, stage: &str, runs: usize) -> Result<StageProfile> {
        let (device, stages) = (self.device(), self.stages(request)?);
        let names: Vec<&str> = stages.iter().map(|stage| stage.name()).collect();
        let wanted = stage.to_lowercase();
        let found = stages.iter().find(|stage| stage.name().to_lowercase().starts_with(&wanted));
        let Some(stage) = found.filter(|_| !wanted.is_empty()) else {
            return Err(Error::request("stage", format!("expected one of {}, got {stage:?}", names.join(", "))));
        };
        let start = Instant::now();
        let recording = stage.recording(device)?;
        let recorded = start.elapsed();
        let peaks = Peaks::measure(device, &recording)?;
        let inputs: Vec<(String, Vec<f32>)> =
            recording.inputs().map(|(name, len)| (name.to_owned(), noise(len))).collect();
        let inputs: Vec<(&str, &[f32])> =
            inputs.iter().map(|(name, values)| (name.as_str(), values.as_slice())).collect();
        let prologue = recording.prologue;
        let mut dispatches: Vec<DispatchProfile> =
            recording.dispatches[prologue..].iter().map(|dispatch| peaks.of(&recording, dispatch)).collect();
        let start = Instant::now();
        let mut program = device.backend().compile(recording)?;
        let opening = (recorded + start.elapsed()).as_secs_f64();
        let (_, first) = program.run_profiled(&inputs)?;
        let once = first[..prologue.min(first.len())].iter().map(|time| time.seconds).sum();
        let (mut seconds, mut whole) = (vec![Vec::new(); dispatches.len()], Vec::new());
        for _ in 0..runs.max(1) {
            let (_, times) = program.run_profiled(&inputs)?;
            let skipped = times.len() - dispatches.len();
            for (all, time) in seconds.iter_mut().zip(&times[skipped..]) {
                all.push(time.seconds);
            }
            let start = Instant::now();
            program.run(&inputs)?;
            whole.push(start.elapsed().as_secs_f64());
        }
        for (dispatch, seconds) in dispatches.iter_mut().zip(seconds) {
            dispatch.seconds = median(seconds);
        }
        let (once, run) = ((prologue, once), median(whole));
        Ok(StageProfile { stage: stage.name(), dispatches, once, opening, run, peaks })
    }
}

impl Peaks {
    fn measure(device: &Device, recording: &Recording) -> Result<Self> {
        let mut product = BTreeMap::new();
        for dispatch in &recording.dispatches {
            let input = input(recording, dispatch);
            if !product.contains_key(input.name()) {
                product.insert(input.name(), product_rate(device, input)?);
            }
        }
        Ok(Peaks { product, bandwidth: bandwidth(device)? })
    }

    fn of(&self, recording: &Recording, dispatch: &Dispatch) -> DispatchProfile {
        let (input, moved) = (input(recording, dispatch), recording.moved(dispatch));
        let rate = self.product.get(input.name()).copied().unwrap_or(f64::INFINITY);
        DispatchProfile {
            label: dispatch.label.clone(),
            kernel: dispatch.kernel.stem,
            // Tiles are the GPU's; the host executor has its own.
            variant: if recording.caps.is_host() { String::new() } else { form(&dispatch.variant) },
            seconds: 0.0,
            flops: dispatch.flops,
            moved,
            input,
            limit: f64::max(dispatch.flops as f64 / rate, moved as f64 / self.bandwidth),
        }
    }
}

/// Element type of the first activation that a dispatch reads.
fn input(recording: &Recording, dispatch: &Dispatch) -> DType {
    let mut read = dispatch.reads.iter().map(|&(_, tensor)| &recording.tensors[tensor.storage()]);
    read.find(|info| !matches!(info.role, Role::Constant(_))).map_or(DType::F32, |info| info.dtype)
}

fn form(variant: &Variant) -> String {
    let constants = variant.constants.iter().filter(|constant| **constant != ("ACTIVATION", 0));
    let constants = constants.map(|(name, value)| format!("{name} {value}"));
    variant.flags.iter().map(|flag| (*flag).to_owned()).chain(constants).collect::<Vec<_>>().join(" ")
}

/// Operations a second of a large product with `input` activations.
fn product_rate(device: &Device, input: DType) -> Result<f64> {
    let caps = device.caps();
    let side = if is_slow(device) { 768 } else { 4096 };
    let mut rec = Recording::new(&caps);
    let shape = Shape::tokens(1, side, side);
    let x = if input == DType::F32 { rec.in_f32(|rec| rec.input("x", shape)) } else { rec.input("x", shape) };
    let weight = rec.constant(&Constant::from_f32_as_f16("weight", &[side, side], &noise(side * side)));
    let out = matmul(&mut rec, x, weight, Epilogue::default())?;
    rec.output("out", out);
    let flops = rec.flops() as f64;
    Ok(flops / least(device, rec, &[("x", &noise(side * side))])?)
}

/// Bytes a second of a sum of two tensors that no cache holds.
fn bandwidth(device: &Device) -> Result<f64> {
    let rows = if is_slow(device) { 4 << 10 } else { 16 << 10 };
    let mut rec = Recording::new(&device.caps());
    let shape = Shape::tokens(1, rows, 1024);
    let (x, y) = (rec.input("x", shape), rec.input("y", shape));
    let out = add_scaled(&mut rec, x, y, None)?;
    rec.output("out", out);
    let moved = rec.traffic().moved as f64;
    let values = noise(shape.len());
    Ok(moved / least(device, rec, &[("x", &values), ("y", &values)])?)
}

/// Whether the device computes on the host's cores.
fn is_slow(device: &Device) -> bool {
    use crate::record::AdapterKind::{Host, Software};
    matches!(device.caps().kind, Host | Software)
}

/// The least seconds of the one dispatch of a recording.
fn least(device: &Device, recording: Recording, inputs: &[(&str, &[f32])]) -> Result<f64> {
    let mut program = device.backend().compile(recording)?;
    let mut least = f64::INFINITY;
    for _ in 0..5 {
        let (_, times) = program.run_profiled(inputs)?;
        least = least.min(times.iter().map(|time| time.seconds).sum());
    }
    // A clock too coarse for the product must not make the peak infinite.
    Ok(least.max(1e-9))
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(0.0)
}

/// From -1 to 1, of a linear congruential generator (Knuth's MMIX multiplier).
fn noise(len: usize) -> Vec<f32> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}
