//! Half precision that overflows is redone in f32, or is an error that says so.

use std::path::Path;
use std::sync::Arc;

use chiaro::pipeline::{Device, Event, Pipeline, Precision, Request, Source};
use chiaro::record::{Backend, DType, HostBackend};

use crate::support::adapter;

/// The demo model with the decoder's first layer a hundred thousand times too strong: f16 overflows, f32 does not.
fn overflowing(folder: &Path, factor: f32) -> Source {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/model");
    crate::cli::copy(&demo, folder);
    let path = folder.join("vae/diffusion_pytorch_model.safetensors");
    let bytes = std::fs::read(&path).expect("readable");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("whole");
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = file
        .iter()
        .map(|(name, tensor)| {
            let values = bytemuck::pod_collect_to_vec::<u8, half::f16>(tensor.data());
            let scale = if name == "decoder.conv_in.weight" { factor } else { 1.0 };
            let scaled: Vec<f32> = values.iter().map(|v| v.to_f32() * scale).collect();
            (name.to_owned(), tensor.shape().to_vec(), bytemuck::cast_slice(&scaled).to_vec())
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
    let request = Request { prompt: "x".into(), num_inference_steps: 1, ..Request::default() };
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
    // Large enough to overflow the activations, small enough for the weights to be halves.
    let source = overflowing(folder.path(), 2e4);
    let notes = draw(&source, Arc::clone(&gpu), Precision::Auto).expect("redone");
    assert!(notes.iter().any(|n| n.contains("VAE decoder") && n.contains("f32")), "{notes:?}");
    let message = draw(&source, gpu, Precision::F16).expect_err("f16 was asked for").to_string();
    assert!(message.contains("VAE decoder") && message.contains("not finite"), "{message}");
}

#[test]
fn damaged_weights_are_an_error_not_a_black_picture() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = overflowing(folder.path(), f32::NAN);
    let message =
        draw(&source, Arc::new(HostBackend::default()), Precision::Auto).expect_err("NaN weights").to_string();
    assert!(message.contains("VAE decoder") && message.contains("not finite"), "{message}");
}
