//! An adapter, tier by tier.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rayon::prelude::*;

use super::cases::{CASES, Case, OTHER_SIZES};
use super::probes::{self, Answer};
use super::report::{Examination, Progress, TierReport, Verdict};
use crate::gpu::{AdapterInfo, GpuBackend, GpuOptions, tier_of};
use crate::pipeline::{Device, Event, OmsRequest, OmsSource, Pipeline, Precision, Request, Source};
use crate::record::{AdapterKind, Backend, Caps, DType, HostBackend, Recording, Vendor};
use crate::{Error, Result, Tier, Tiers};

/// How far an f32 result may lie from the host's, relative to the largest one: both round sums of up to 3,000 terms.
const SINGLE: f64 = 2e-5;
/// The normalised mean squared error that half-precision storage and packed products explain; and the largest error of one value.
const HALF: (f64, f64) = (1e-5, 1e-2);
/// Bindings are tried up to here: more would push other programs' memory out.
const LARGEST_BINDING: u64 = 4 << 30;
/// On adapters that take the host's memory.
const LARGEST_SHARED_BINDING: u64 = 1 << 30;
/// Every device has a binding of this size (WebGPU's default limit).
const LEAST_BINDING: u64 = 128 << 20;
/// Pictures that lie nearer are the same to the eye; half precision gives 40 dB and more on the demo model.
const ALIKE: f64 = 30.0;

/// Devices of one adapter that are open at once.
const MOST_BENCHES: usize = 4;

/// What stands for the infinity of two pictures that are the same.
const SAME: f64 = 99.0;

/// Opens an adapter with each tier that it offers and `options` allow, and compares kernels with their host twins. `told` hears of each tier.
///
/// Nothing ends it: what fails is a verdict.
pub fn examine(adapter: &AdapterInfo, options: GpuOptions, told: impl FnMut(&Progress)) -> Examination {
    // A software adapter takes a minute for the model's own size.
    let side = (adapter.caps.kind == AdapterKind::Software).then_some(SMALL);
    examine_some(adapter, options, |_| true, side, told)
}

/// Pixels of a side of the demo model's picture on software adapters.
#[doc(hidden)]
pub const SMALL: usize = 64;

/// [`examine`] with the cases that `wanted` names and a picture of so many pixels a side: a software adapter takes minutes for the kernels of GPUs.
#[doc(hidden)]
pub fn examine_some(
    adapter: &AdapterInfo,
    options: GpuOptions,
    wanted: impl Fn(&str) -> bool,
    side: Option<usize>,
    mut told: impl FnMut(&Progress),
) -> Examination {
    let software = adapter.caps.kind == AdapterKind::Software;
    let tried = |case: &&Case| wanted(case.name) && !(software && OTHER_SIZES.contains(&case.name));
    let cases: Vec<&Case> = CASES.iter().filter(tried).collect();
    let mut examination = Examination::default();
    let mut usable = Tiers::none();
    for tier in Tier::ALL {
        let started = Instant::now();
        let set_aside = (!options.tiers.has(tier)).then(|| "left out".to_owned());
        let verdict = match set_aside.or_else(|| absence(adapter, tier, &usable)) {
            Some(why) => Verdict::Absent(why),
            None => {
                told(&Progress::Tries(tier));
                let tiers = usable_for(tier, &usable);
                let verdict = match benches(adapter, tier, GpuOptions { tiers, poison: true, ..options }) {
                    Ok(benches) => verdict(&benches, tier, &cases),
                    Err(error) => Verdict::Wrong(vec![error.to_string()]),
                };
                if matches!(verdict, Verdict::Right { .. }) {
                    usable = usable.with(tier);
                }
                verdict
            }
        };
        let report = TierReport { tier, verdict, seconds: started.elapsed().as_secs_f64() };
        told(&Progress::Tier(report.clone()));
        let ends = tier == Tier::Single && matches!(report.verdict, Verdict::Wrong(_));
        examination.tiers.push(report);
        if ends {
            return examination;
        }
    }
    let options = GpuOptions { tiers: usable, ..options };
    limits(adapter, options, &mut examination);
    // Without the demo model there is no picture to compare.
    if !cfg!(feature = "demo") {
        return examination;
    }
    match likeness(adapter, options, side) {
        Ok(decibels) => {
            examination.picture = Some(decibels);
            if decibels < ALIKE {
                let fault = format!("the demo model's picture is unlike the processor's: {decibels:.0} dB");
                condemn(&mut examination, fault);
            }
        }
        Err(error) => condemn(&mut examination, format!("the demo model's picture: {error}")),
    }
    examination
}

/// A picture that is wrong although every tier passed for right: the adapter is not to be used.
fn condemn(examination: &mut Examination, fault: String) {
    if let Some(single) = examination.tiers.first_mut() {
        single.verdict = Verdict::Wrong(vec![fault]);
    }
}

/// Why a tier is not examined.
fn absence(adapter: &AdapterInfo, tier: Tier, usable: &Tiers) -> Option<String> {
    let caps = &adapter.caps;
    let software = caps.kind == AdapterKind::Software;
    let offered = match tier {
        Tier::Single => true,
        Tier::Half | Tier::Packed => caps.shader_f16,
        Tier::Subgroups => caps.subgroups,
        Tier::Matrices => caps.matrix_size().is_some(),
    };
    let missing = tier.needs().iter().find(|&&needed| !usable.has(needed));
    match tier {
        _ if !offered => Some("the adapter has none".into()),
        Tier::Packed if caps.vendor == Vendor::Intel => Some("no kernel for GPUs of Intel's uses it".into()),
        Tier::Packed | Tier::Matrices if software => Some("no kernel for software adapters uses it".into()),
        _ => missing.map(|needed| format!("needs {needed}")),
    }
}

/// A tier with what it stands on; subgroups together with f16 where that is right, as networks have it.
fn usable_for(tier: Tier, usable: &Tiers) -> Tiers {
    let tiers = Tiers::none().with(tier);
    if tier == Tier::Subgroups && usable.has(Tier::Half) { tiers.with(Tier::Half) } else { tiers }
}

/// Devices on which cases run side by side: a software adapter compiles a kernel when it first runs, on one of the host's cores.
fn benches(adapter: &AdapterInfo, tier: Tier, options: GpuOptions) -> Result<Vec<Bench>> {
    let cores =
        if adapter.caps.kind == AdapterKind::Software { rayon::current_num_threads().min(MOST_BENCHES) } else { 1 };
    (0..cores.max(1)).map(|_| Bench::open(adapter, tier, options)).collect()
}

/// What the cases that concern a tier find, and what its probe does.
fn verdict(benches: &[Bench], tier: Tier, cases: &[&Case]) -> Verdict {
    let Some(first) = benches.first() else { return Verdict::Wrong(vec!["no device was opened".into()]) };
    let (mut faults, mut checks, mut worst) = (Vec::new(), 0, 0.0f64);
    let probe = match tier {
        Tier::Half => Some(("16-bit arithmetic", probes::half_math(&first.gpu))),
        Tier::Subgroups => Some(("subgroups", probes::subgroups(&first.gpu))),
        Tier::Matrices => Some(("matrices", probes::matrices(&first.gpu))),
        Tier::Single | Tier::Packed => None,
    };
    if let Some((name, answer)) = probe {
        checks += 1;
        match answer {
            Ok(Answer::Right) => {}
            Ok(Answer::Wrong(what)) => faults.push(what),
            Err(error) => faults.push(format!("{name}: {error}")),
        }
    }
    let concerned: Vec<&Case> = cases.iter().copied().filter(|case| first.concerns(case, tier)).collect();
    if let [only] = benches {
        // All cores compile, and one case after the other then finds its kernels compiled.
        let prepare = |case: &&Case| case.record(only.gpu.caps()).and_then(|recording| only.gpu.prepare(&recording));
        let _: Vec<_> = concerned.par_iter().map(prepare).collect();
    }
    let next = AtomicUsize::new(0);
    let some = |bench: &Bench| {
        let taken = std::iter::from_fn(|| {
            let at = next.fetch_add(1, Ordering::Relaxed);
            concerned.get(at).map(|case| (at, bench.compare(case)))
        });
        taken.collect::<Vec<_>>()
    };
    let mut compared: Vec<(usize, Result<f64>)> = std::thread::scope(|scope| {
        let running: Vec<_> = benches.iter().map(|bench| scope.spawn(|| some(bench))).collect();
        let joined = running.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        joined.flatten().collect()
    });
    compared.sort_by_key(|(at, _)| *at);
    for (at, result) in compared {
        match result {
            Ok(nmse) => {
                checks += 1;
                worst = worst.max(nmse);
            }
            Err(error) => faults.push(format!("{}: {error}", concerned[at].name)),
        }
    }
    if faults.is_empty() { Verdict::Right { checks, nmse: worst } } else { Verdict::Wrong(faults) }
}

/// An adapter opened with a tier, and the host beside it.
struct Bench {
    gpu: GpuBackend,
    host: HostBackend,
}

impl Bench {
    fn open(adapter: &AdapterInfo, tier: Tier, options: GpuOptions) -> Result<Self> {
        let storage = if tier != Tier::Single && options.tiers.has(Tier::Half) { DType::F16 } else { DType::F32 };
        Ok(Bench { gpu: GpuBackend::open(adapter, storage, options)?, host: HostBackend::default() })
    }

    /// Whether a case has a kernel of a tier. f16 storage concerns every kernel, also one that reads f32.
    fn concerns(&self, case: &Case, tier: Tier) -> bool {
        let of_tier = |recording: Recording| {
            recording.dispatches.iter().any(|dispatch| tier_of(dispatch.kernel, &dispatch.variant) == tier)
        };
        // One that cannot be recorded says why when it is compared.
        tier == Tier::Half || case.record(self.gpu.caps()).map_or(true, of_tier)
    }

    /// The normalised mean squared error of a case beside its host twin.
    fn compare(&self, case: &Case) -> Result<f64> {
        let recording = case.record(self.gpu.caps())?;
        let inputs = Case::inputs(&recording);
        let inputs: Vec<(&str, &[f32])> =
            inputs.iter().map(|(name, values)| (name.as_str(), values.as_slice())).collect();
        let stored = recording.dtype(recording.outputs[0].tensor);
        let got = self.gpu.compile(recording)?.run(&inputs)?.remove("out").unwrap_or_default();
        let twin = case.record(self.host.caps())?;
        let expected = self.host.compile(twin)?.run(&inputs)?.remove("out").unwrap_or_default();
        distance(&got, &expected, stored)
    }
}

/// The normalised mean squared error of `got`, where it is within what its storage explains.
fn distance(got: &[f32], expected: &[f32], stored: DType) -> Result<f64> {
    let wrong = |what: String| Err(Error::Device(what));
    if got.len() != expected.len() {
        return wrong(format!("expected {} values, got {}", expected.len(), got.len()));
    }
    let strange = got.iter().filter(|v| !v.is_finite()).count();
    if strange > 0 {
        return wrong(format!("{strange} of {} values are NaN or infinite", got.len()));
    }
    let (mut errors, mut squares, mut off, mut largest) = (0.0, 0.0, 0.0f64, f64::MIN_POSITIVE);
    for (&got, &expected) in got.iter().zip(expected) {
        let (got, expected) = (f64::from(got), f64::from(expected));
        errors += (got - expected).powi(2);
        squares += expected * expected;
        off = off.max((got - expected).abs());
        largest = largest.max(expected.abs());
    }
    let (nmse, off) = (errors / f64::max(squares, f64::MIN_POSITIVE), off / largest);
    let fits =
        if stored == DType::F32 { off <= SINGLE || nmse <= SINGLE * SINGLE } else { nmse <= HALF.0 && off <= HALF.1 };
    if fits {
        Ok(nmse)
    } else {
        wrong(format!(
            "differs from the processor's result: by {off:.1e} of its largest value at most, NMSE {nmse:.1e}"
        ))
    }
}

/// Workgroup memory at the driver's word, and the largest binding that can be had.
fn limits(adapter: &AdapterInfo, options: GpuOptions, examination: &mut Examination) {
    // Poison would be written to the whole of a large binding.
    let backend = match GpuBackend::open(adapter, DType::F32, GpuOptions { poison: false, ..options }) {
        Ok(backend) => backend,
        Err(error) => return examination.notes.push(error.to_string()),
    };
    let caps = backend.caps().clone();
    match probes::workgroup_memory(&backend) {
        Ok(Answer::Right) => examination.notes.push(format!(
            "{} KiB of workgroup memory and {} invocations, as the driver says",
            caps.max_workgroup_bytes >> 10,
            caps.max_invocations
        )),
        Ok(Answer::Wrong(what)) => condemn(examination, what),
        Err(error) => examination.notes.push(format!("workgroup memory: {error}")),
    }
    match probes::is_zeroed(&backend) {
        Ok(true) => {}
        Ok(false) => {
            let note = "workgroup memory is not zero at first where that is asked for; no kernel here asks for it";
            examination.notes.push(note.into());
        }
        Err(error) => examination.notes.push(format!("zeroed workgroup memory: {error}")),
    }
    binding(&backend, &caps, examination);
}

fn binding(backend: &GpuBackend, caps: &Caps, examination: &mut Examination) {
    let shared = caps.kind != AdapterKind::Discrete;
    let most = caps.max_binding_bytes.min(caps.max_buffer_bytes);
    let mut tried = most.min(if shared { LARGEST_SHARED_BINDING } else { LARGEST_BINDING });
    let said = most >> 20;
    let (mut refused, mut wrong) = (String::new(), None);
    while tried >= LEAST_BINDING.min(most) {
        match probes::binding(backend, tried) {
            Ok(Answer::Right) => break,
            Ok(Answer::Wrong(what)) => wrong = Some(what),
            // Memory that is taken now may be free later.
            Err(_) => refused = format!("; no memory for {} MiB", tried >> 20),
        }
        tried /= 2;
    }
    match wrong {
        None => {
            let note = format!("a binding of {} MiB, of {said} MiB that the driver says{refused}", tried >> 20);
            examination.notes.push(note);
        }
        Some(what) => {
            examination.max_binding_bytes = Some(tried.max(LEAST_BINDING).min(most));
            let note = format!("bindings of {} MiB at most, though the driver says {said} MiB: {what}", tried >> 20);
            examination.notes.push(note);
        }
    }
}

/// How like the processor's the demo model's picture is, in dB.
fn likeness(adapter: &AdapterInfo, options: GpuOptions, side: Option<usize>) -> Result<f64> {
    let backend = GpuBackend::open(adapter, DType::F32, options)?;
    let theirs = draw(Device::new(Arc::new(backend), Precision::Auto)?, side)?;
    let ours = draw(Device::new(Arc::new(HostBackend::default()), Precision::F32)?, side)?;
    let square = |(a, b): (&u8, &u8)| (f64::from(*a) - f64::from(*b)).powi(2);
    let mean = theirs.iter().zip(&ours).map(square).sum::<f64>() / ours.len().max(1) as f64;
    Ok((10.0 * (255.0 * 255.0 / mean).log10()).min(SAME))
}

/// The pixels of a picture of the demo model, its OMS module included.
fn draw(device: Device, side: Option<usize>) -> Result<Vec<u8>> {
    let oms = OmsSource::demo();
    let pipeline = Pipeline::load(&Source::DemoModel, Some(&oms), device)?;
    let request = Request {
        prompt: "a red circle on a black background".into(),
        width: side,
        height: side,
        num_inference_steps: 4,
        oms: Some(OmsRequest::default()),
        ..Request::default()
    };
    for event in pipeline.generate(request)? {
        if let Event::Picture(picture) = event? {
            return Ok(picture.image.data.clone());
        }
    }
    Err(Error::Device("no picture came".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_told() {
        let expected: Vec<f32> = (0..100).map(|i| (i as f32).sin()).collect();
        let off =
            |by: f32| expected.iter().enumerate().map(|(i, v)| if i == 7 { v + by } else { *v }).collect::<Vec<_>>();
        for stored in [DType::F32, DType::F16] {
            assert!(distance(&expected, &expected, stored).is_ok());
            for by in [0.5, f32::NAN, f32::INFINITY, -0.02] {
                assert!(distance(&off(by), &expected, stored).is_err(), "{by}");
            }
            assert!(distance(&expected[1..], &expected, stored).is_err());
        }
        assert!(distance(&off(1e-3), &expected, DType::F32).is_err());
        assert!(distance(&off(1e-3), &expected, DType::F16).is_ok());
    }
}
