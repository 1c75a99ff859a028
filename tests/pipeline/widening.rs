//! Half precision that overflows is redone in f32, or is an error that says so.

use std::path::Path;
use std::sync::Arc;

use chiaro::pipeline::{Device, Event, Overrides, Pipeline, Precision, Request, Source, VaeTiling};
use chiaro::record::{Backend, DType, HostBackend};

use crate::support::adapter;

/// The demo model with this added to the bias of a convolution on the decoder's way up, whose result is f16 and whose mean the
/// next norm takes away: 1e5 overflows f16, and f32 does not notice.
fn shifted(folder: &Path, shift: f32) -> Source {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/model");
    crate::support::files::copy(&demo, folder);
    let path = folder.join("vae/diffusion_pytorch_model.safetensors");
    let bytes = std::fs::read(&path).expect("readable");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("whole");
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = file
        .iter()
        .map(|(name, tensor)| {
            let values = bytemuck::pod_collect_to_vec::<u8, half::f16>(tensor.data());
            let shift = if name == "decoder.up_blocks.0.resnets.0.conv1.bias" { shift } else { 0.0 };
            let shifted: Vec<f32> = values.iter().map(|v| v.to_f32() + shift).collect();
            (name.to_owned(), tensor.shape().to_vec(), bytemuck::cast_slice(&shifted).to_vec())
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, data)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), data);
        (name.as_str(), view.expect("the size fits"))
    });
    safetensors::serialize_to_file(views, None, &path).expect("writable");
    Source::Folder(folder.to_owned())
}

fn draw(source: &Source, backend: Arc<dyn Backend>, precision: Precision) -> chiaro::Result<Vec<String>> {
    let pipeline = Pipeline::load(source, None, Device::new(backend, precision)?)?;
    let request =
        Request { prompt: "x".into(), num_inference_steps: 1, width: Some(64), height: Some(64), ..Request::default() };
    let mut notes = Vec::new();
    for event in pipeline.generate(request)? {
        if let Event::Picture(picture) = event? {
            notes = picture.notes.clone();
        }
    }
    Ok(notes)
}

#[test]
fn an_overflow_in_f16_is_redone_in_f32() {
    let gpu: Arc<dyn Backend> = Arc::new(adapter::open(DType::F32));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = shifted(folder.path(), 1e5);
    let notes = draw(&source, Arc::clone(&gpu), Precision::Auto).expect("redone");
    assert!(notes.iter().any(|n| n.contains("VAE decoder") && n.contains("f32")), "{notes:?}");
    let message = draw(&source, gpu, Precision::F16).expect_err("f16 was asked for").to_string();
    assert!(message.contains("VAE decoder") && message.contains("not finite"), "{message}");
}

/// A decoder that overflows in f16 and fits the limit only so is cut into bands, or is an error, not a larger program.
#[test]
fn a_limit_of_memory_holds_for_what_is_redone() {
    let gpu: Arc<dyn Backend> = Arc::new(adapter::open(DType::F32));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = shifted(folder.path(), 1e5);
    let device = Device::new(gpu, Precision::Auto).expect("automatic");
    let side = Some(128);
    let request = Request {
        prompt: "x".into(),
        num_inference_steps: 1,
        width: side,
        height: side,
        guidance_scale: 1.0,
        ..Request::default()
    };
    // With its UNet in q4_0, the decoder is the demo model's largest stage.
    let small = device.clone().with_weights("unet=q4_0".parse().expect("one part"));
    let stages = Pipeline::load(&source, None, small).and_then(|p| p.plan(&request)).unwrap_or_else(|e| panic!("{e}"));
    let largest = stages.iter().max_by_key(|s| s.peak_bytes()).expect("stages");
    assert_eq!(largest.name, "VAE decoder");
    let limit = largest.peak_bytes();
    let draw = |tiling: VaeTiling| {
        let device = device.clone().with_vae_tiling(tiling);
        let (pipeline, _) = Pipeline::load_within(&source, &Overrides::default(), None, device, &request, limit)
            .unwrap_or_else(|e| panic!("{e}"));
        let run = pipeline.generate(request.clone()).unwrap_or_else(|e| panic!("{e}"));
        run.collect::<chiaro::Result<Vec<_>>>()
    };
    let error = draw(VaeTiling::Off).expect_err("the decoder overflows").to_string();
    assert!(error.contains("VAE decoder") && error.contains("more than the limit of memory allows"), "{error}");
    for tiling in [VaeTiling::Auto, VaeTiling::On] {
        let events = draw(tiling).unwrap_or_else(|e| panic!("{e}"));
        let Some(Event::Picture(picture)) = events.last() else { panic!("the last event is the picture") };
        assert!(picture.notes.iter().any(|n| n.contains("VAE decoder") && n.contains("f32")), "{:?}", picture.notes);
    }
}

#[test]
fn damaged_weights_are_an_error_not_a_black_picture() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = shifted(folder.path(), f32::NAN);
    let message =
        draw(&source, Arc::new(HostBackend::default()), Precision::Auto).expect_err("NaN weights").to_string();
    assert!(message.contains("VAE decoder") && message.contains("not finite"), "{message}");
}
