//! What comes next where a device is of no use, on the first adapter that there is, made to pass for a GPU with faults.

use std::collections::BTreeMap;

use super::*;
use crate::gpu::DriverFault;
use crate::pipeline::files::source::Source;
use crate::pipeline::model::pipeline::Pipeline;
use crate::pipeline::request::Request;

fn adapter() -> AdapterInfo {
    let mut adapter = gpu::adapters().into_iter().next().expect("a graphics driver, a software one is enough");
    adapter.kind = AdapterKind::Integrated;
    adapter.caps.kind = AdapterKind::Integrated;
    adapter
}

/// Where the demo model's kernels for one step are prepared: the device's storage and remarks.
fn prepared(fault: Option<DriverFault>, findings: &[Findings], precision: Precision) -> Result<(String, Vec<String>)> {
    let attempt = |device: Device| {
        let pipeline = Pipeline::load(&Source::DemoModel, None, device)?;
        pipeline.prepare(&Request { num_inference_steps: 1, ..Request::default() })?;
        let device = pipeline.device();
        let place = if device.backend().caps().is_host() { "cpu" } else { device.storage_name() };
        Ok((place.to_owned(), device.remarks().to_vec()))
    };
    let options = GpuOptions { fault, ..GpuOptions::default() };
    let ways = findings.iter().map(|findings| (adapter(), findings.clone())).collect();
    Trials { precision, options, remarks: Vec::new(), attempt }.on_first(ways)
}

fn wrong(tier: Tier) -> Findings {
    Findings { wrong: BTreeMap::from([(tier, "something".to_owned())]), ..Findings::default() }
}

#[test]
fn a_device_that_does_not_open_is_passed_over() {
    let clean = Findings::default();
    let (place, remarks) =
        prepared(Some(DriverFault::Open), &[clean.clone(), clean], Precision::Auto).expect("the host");
    assert_eq!((place.as_str(), remarks.len()), ("cpu", 2), "{remarks:?}");
    assert!(remarks[0].contains("is not used: the device did not open") && !remarks[0].contains('\n'), "{remarks:?}");
    let (place, remarks) = prepared(None, &[], Precision::Auto).expect("the host");
    assert_eq!(place, "cpu");
    assert!(remarks[0].contains("no hardware GPU found"), "{remarks:?}");
}

#[test]
fn a_tier_whose_kernels_do_not_compile_is_left_out() {
    let half = adapter().caps.shader_f16;
    let clean = [Findings::default()];
    let (place, remarks) = prepared(None, &clean, Precision::Auto).expect("the adapter");
    assert_eq!((place.as_str(), remarks.len()), (if half { "f16" } else { "f32" }, 0), "{remarks:?}");
    if half {
        let (place, remarks) =
            prepared(Some(DriverFault::Kernel(Tier::Packed)), &clean, Precision::Auto).expect("the adapter");
        assert_eq!((place.as_str(), remarks.len()), ("f16", 1), "{remarks:?}");
        assert!(remarks[0].starts_with("without packed-f16: ") && remarks[0].contains("kernel "), "{remarks:?}");
        let (place, remarks) =
            prepared(Some(DriverFault::Kernel(Tier::Half)), &clean, Precision::Auto).expect("the adapter");
        assert_eq!(place, "f32", "{remarks:?}");
        // Who asked for f16 is told why it cannot be had.
        let error = prepared(Some(DriverFault::Kernel(Tier::Half)), &clean, Precision::F16).expect_err("no f16");
        assert!(
            matches!(error.cause(), Error::Request { message, .. } if message.contains("without f16: ")),
            "{error}"
        );
    }
    // In f32 there is nothing to leave out: the next device.
    let (place, remarks) =
        prepared(Some(DriverFault::Kernel(Tier::Single)), &clean, Precision::Auto).expect("the host");
    assert_eq!(place, "cpu");
    assert!(remarks.last().expect("a remark").contains("is not used: kernel "), "{remarks:?}");
}

#[test]
fn what_was_found_wrong_is_not_used() {
    let (place, remarks) = prepared(None, &[wrong(Tier::Half)], Precision::Auto).expect("the adapter");
    assert_eq!(place, "f32", "{remarks:?}");
    assert!(remarks[0].contains("without f16, which its examination found wrong: something"), "{remarks:?}");
    let (place, remarks) = prepared(None, &[wrong(Tier::Single)], Precision::Auto).expect("the host");
    assert_eq!((place.as_str(), remarks.len()), ("cpu", 1), "{remarks:?}");
    assert!(remarks[0].contains("is not used: its examination found something"), "{remarks:?}");
    // The second way to the same GPU.
    let (place, _) = prepared(None, &[wrong(Tier::Single), Findings::default()], Precision::F32).expect("the adapter");
    assert_eq!(place, "f32");
}

/// What is wrong with a request or a model is not the device's fault.
#[test]
fn other_errors_end_it() {
    let mut attempts = 0;
    let attempt = |_: Device| -> Result<()> {
        attempts += 1;
        Err(Error::model("damaged"))
    };
    let trials = Trials { precision: Precision::Auto, options: GpuOptions::default(), remarks: Vec::new(), attempt };
    let error = trials.on_first(vec![(adapter(), Findings::default())]).expect_err("the model's error");
    assert!(matches!(&error, Error::Model { message, .. } if message == "damaged"), "{error}");
    assert_eq!(attempts, 1);
}
