//! What an examination finds: nothing on a driver that is right, and each fault that a driver is made to have.

use std::sync::Arc;

use chiaro::Tier;
use chiaro::doctor::{Examination, SMALL, Verdict, examine, examine_some, probes};
use chiaro::gpu::{AdapterInfo, DriverFault, GpuBackend, GpuOptions};
use chiaro::pipeline::{Device, Event, Pipeline, Precision, Request, Source};
use chiaro::record::{AdapterKind, DType, HostBackend};

use crate::support::adapter::test_adapter;
use crate::support::part;

/// The test adapter passing for a GPU, so that the kernels of GPUs are examined.
fn as_gpu() -> AdapterInfo {
    let mut adapter = test_adapter();
    adapter.kind = AdapterKind::Integrated;
    adapter.caps.kind = AdapterKind::Integrated;
    adapter
}

fn faulty(fault: Option<DriverFault>) -> GpuOptions {
    GpuOptions { fault, ..GpuOptions::default() }
}

fn verdict(examination: &Examination, tier: Tier) -> &Verdict {
    &examination
        .tiers
        .iter()
        .find(|report| report.tier == tier)
        .unwrap_or_else(|| panic!("no {tier}: {examination:?}"))
        .verdict
}

fn draw(device: Device) -> Vec<u8> {
    let pipeline = Pipeline::load(&Source::DemoModel, None, device).expect("the demo model");
    let side = Some(SMALL);
    let (width, height) = (side, side);
    let request =
        Request { prompt: "a blue square".into(), num_inference_steps: 3, width, height, ..Request::default() };
    for event in pipeline.generate(request).expect("a request") {
        if let Event::Picture(picture) = event.expect("a picture") {
            return picture.image.data.clone();
        }
    }
    panic!("no picture came");
}

/// Whether a picture on the faulty device, used as the examination says, is the processor's to within half precision.
fn is_right_with(adapter: &AdapterInfo, fault: DriverFault, examination: &Examination) {
    let findings = examination.findings();
    let (tiers, max_binding_bytes) = (findings.tiers(), findings.max_binding_bytes);
    let options = GpuOptions { tiers, max_binding_bytes, ..faulty(Some(fault)) };
    let backend = GpuBackend::open(adapter, DType::F32, options).expect("it opens");
    let theirs = draw(Device::new(Arc::new(backend), Precision::Auto).expect("a device"));
    let ours = draw(Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("the host"));
    let off = theirs.iter().zip(&ours).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / ours.len() as f64;
    assert!(off < 2.0, "{fault}: pictures differ by {off} on average");
}

/// Whether an examination draws a picture.
fn draws(adapter: &AdapterInfo) -> bool {
    adapter.kind == AdapterKind::Software || part::everything()
}

/// As the doctor examines an adapter. One that passes for a GPU with one case of each kernel that GPUs have for themselves, a faulty one with a product
/// and what has exponentials, and with a picture where everything is tested: software drivers take their time to compile.
fn examined(adapter: &AdapterInfo, fault: Option<DriverFault>) -> Examination {
    let few =
        ["matmul, f16 weights", "attention, head 40", "GELU", "conv2d", "group norm", "layer norm", "token merging"];
    let few = match (adapter.kind, fault) {
        (AdapterKind::Software, None) => return examine(adapter, GpuOptions::default(), |_| {}),
        (_, None) => &few[..],
        _ => &few[..3],
    };
    examine_some(adapter, faulty(fault), |name| few.contains(&name), draws(adapter).then_some(SMALL), |_| {})
}

/// Whether the picture of an examination, drawn with all that was right, is the processor's to within half precision.
fn has_drawn(examination: &Examination, adapter: &AdapterInfo) {
    assert!(!draws(adapter) || examination.picture.is_some_and(|decibels| decibels > 35.0), "{examination:#?}");
}

#[test]
fn a_right_driver_has_no_faults() {
    // A GPU without faults is what the test of workgroup memory finds too.
    for (adapter, all) in part::of(2, [(test_adapter(), 25), (as_gpu(), 7)].into_iter()) {
        let examination = examined(&adapter, None);
        assert!(!examination.has_faults(), "{examination:#?}");
        has_drawn(&examination, &adapter);
        for report in &examination.tiers {
            match &report.verdict {
                Verdict::Right { checks, .. } => assert!(*checks >= 1, "{examination:#?}"),
                Verdict::Absent(why) => assert!(!why.is_empty()),
                other => panic!("{other:?}"),
            }
        }
        let checked = |tier| matches!(verdict(&examination, tier), Verdict::Right { checks, .. } if *checks >= all);
        assert!(checked(Tier::Single), "{examination:#?}");
        assert_eq!(checked(Tier::Half), adapter.caps.shader_f16, "{examination:#?}");
    }
}

/// Each fault is found at its tier, called by its name, and avoided: the picture is right.
fn is_found(adapter: &AdapterInfo, fault: DriverFault, tier: Tier, words: &[&str]) -> Examination {
    let examination = examined(adapter, Some(fault));
    match verdict(&examination, tier) {
        Verdict::Wrong(faults) => {
            for word in words {
                assert!(faults.iter().any(|f| f.contains(word)), "{fault}: expected {word}: {faults:#?}");
            }
        }
        other => panic!("{fault}: {tier} is {other:?}"),
    }
    assert!(!examination.findings().tiers().has(tier), "{fault}");
    assert_eq!(examination.findings().refusal(), None, "{fault}: {examination:#?}");
    has_drawn(&examination, adapter);
    examination
}

#[test]
fn nan_in_f16_exponentials_is_found() {
    let adapter = test_adapter();
    if adapter.caps.shader_f16 {
        // By the probe, and by the networks' kernels.
        let words = ["exp of 16-bit values", "values are NaN"];
        let examination = is_found(&adapter, DriverFault::HalfExp, Tier::Half, &words);
        is_right_with(&adapter, DriverFault::HalfExp, &examination);
    }
}

#[test]
fn a_wrong_subgroup_size_is_found() {
    let adapter = test_adapter();
    let words = format!("the driver says subgroups of {}", 2 * adapter.caps.subgroup_size.1);
    is_found(&adapter, DriverFault::SubgroupSize, Tier::Subgroups, &[&words]);
}

/// No kernel asks for zeroes: the fault is told, and pictures are right with every tier.
#[test]
fn workgroup_memory_that_is_not_zeroed_is_found() {
    let adapter = as_gpu();
    let examination = examined(&adapter, Some(DriverFault::WorkgroupMemory));
    assert!(!examination.has_faults(), "{examination:#?}");
    assert!(examination.notes.iter().any(|note| note.contains("is not zero at first")), "{examination:#?}");
    has_drawn(&examination, &adapter);
}

#[test]
fn transposed_matrices_are_found() {
    let adapter = as_gpu();
    if adapter.caps.matrix_size().is_none() {
        println!("{adapter} has no cooperative matrices: nothing was checked");
        return;
    }
    is_found(&adapter, DriverFault::TransposedMatrix, Tier::Matrices, &["transposed"]);
}

#[test]
fn kernels_that_do_not_compile_are_found() {
    let adapter = as_gpu();
    for tier in [Tier::Packed, Tier::Matrices] {
        let offered =
            if tier == Tier::Matrices { adapter.caps.matrix_size().is_some() } else { adapter.caps.shader_f16 };
        if offered {
            is_found(&adapter, DriverFault::Kernel(tier), tier, &["kernel "]);
        }
    }
    let examination = examined(&adapter, Some(DriverFault::Kernel(Tier::Single)));
    assert!(examination.findings().refusal().is_some_and(|why| why.contains("kernel ")), "{examination:#?}");
    let examination = examined(&adapter, Some(DriverFault::Open));
    assert!(examination.findings().refusal().is_some_and(|why| why.contains("did not open")), "{examination:#?}");
}

#[test]
fn every_probe_is_recorded_for_what_it_needs() {
    let caps = as_gpu().caps;
    let offered = [caps.shader_f16, caps.subgroups, caps.matrix_size().is_some()];
    assert_eq!(probes(&caps).len(), 3 + offered.iter().filter(|&&offered| offered).count());
}
