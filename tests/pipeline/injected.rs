//! Device memory that ends, a call that is refused and a device that is lost, at calls all over a run: an error each time, never a panic and
//! never a picture; and the run after it is right, but on a device that is gone.

use std::path::Path;
use std::sync::Arc;

use chiaro::gpu::{DriverFault, GpuBackend, GpuOptions};
use chiaro::pipeline::{Device, Event, Pipeline, Precision, Request, Source, Streaming};
use chiaro::record::DType;
use chiaro::{ErrorCode, Result};

use super::runs::committed_folder;
use crate::support::adapter;

/// A pipeline on a device of its own, opened with a fault.
fn load(folder: &Path, fault: Option<DriverFault>, streaming: Streaming) -> Pipeline {
    let backend: GpuBackend = adapter::open_with(DType::F32, GpuOptions { fault, ..GpuOptions::default() });
    let device = Device::new(Arc::new(backend), Precision::F32).and_then(|device| device.with_streaming(streaming));
    let device = device.unwrap_or_else(|e| panic!("{e}"));
    Pipeline::load(&Source::Folder(folder.into()), None, device).unwrap_or_else(|e| panic!("{e}"))
}

fn draw(pipeline: &Pipeline) -> Result<Vec<u8>> {
    let side = Some(64);
    let request = Request {
        prompt: "a lighthouse".into(),
        width: side,
        height: side,
        num_inference_steps: 1,
        ..Request::default()
    };
    let mut drawn = None;
    for event in pipeline.generate(request)? {
        if let Event::Picture(picture) = event? {
            drawn = Some(picture.image.data.clone());
        }
    }
    Ok(drawn.expect("a run that ends well has a picture"))
}

/// Calls further and further apart, until a run ends before the fault comes. Each error has one of `codes`.
fn everywhere(fault: fn(u64) -> DriverFault, streaming: Streaming, codes: &[ErrorCode]) -> Vec<String> {
    let (folder, _guard) = committed_folder("sd15");
    let expected = draw(&load(&folder, None, streaming)).unwrap_or_else(|e| panic!("{e}"));
    let (mut call, mut told) = (0, Vec::new());
    loop {
        let fault = fault(call);
        let pipeline = load(&folder, Some(fault), streaming);
        let error = match draw(&pipeline) {
            Ok(picture) => {
                assert_eq!(picture, expected, "{fault} was not seen, and the picture is another");
                assert!(told.len() > 5, "{fault} was never reached: {told:?}");
                return told;
            }
            Err(error) => error,
        };
        assert!(codes.contains(&error.code()), "{fault}: {error:?}");
        let message = error.to_string();
        assert!(!message.contains('\n') && !message.contains("panicked"), "{fault}: {message}");
        match (fault, draw(&pipeline)) {
            (DriverFault::Loss(_), again) => {
                let again = again.expect_err("a lost device draws nothing");
                assert_eq!(again.code(), ErrorCode::DeviceLost, "{fault}: {again:?}");
            }
            (_, again) => assert!(again.is_ok_and(|again| again == expected), "{fault}: the run after it"),
        }
        told.push(message);
        call = 2 * call + 1;
    }
}

/// Whether some of the messages has each of the words.
fn tell(told: &[String], words: &[&str]) {
    for word in words {
        assert!(told.iter().any(|message| message.contains(word)), "no message says {word}: {told:#?}");
    }
}

#[test]
fn memory_ends_anywhere() {
    let told = everywhere(DriverFault::Memory, Streaming::On, &[ErrorCode::OutOfMemory]);
    assert!(told.iter().all(|message| message.contains("out of device memory")), "{told:#?}");
    tell(&told, &["MiB", "kernel "]);
}

#[test]
fn any_call_is_refused() {
    let told = everywhere(DriverFault::Refusal, Streaming::Auto, &[ErrorCode::Device, ErrorCode::Kernel]);
    tell(&told, &["as the fault asks", "kernel "]);
}

#[test]
fn a_device_is_lost_anywhere() {
    let told = everywhere(DriverFault::Loss, Streaming::On, &[ErrorCode::DeviceLost]);
    tell(&told, &["lost"]);
}
