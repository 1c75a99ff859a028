//! Runs with textual inversion embeddings against diffusers' pipelines, and embeddings of other models.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chiaro::pipeline::{Device, Embedding, Overrides, Pipeline, Precision, Request, Source};
use chiaro::record::HostBackend;

use super::runs::{check, committed_folder, draw, request, scheduler};
use crate::support::golden::{Golden, committed};

fn device() -> Device {
    Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("the host")
}

fn file(name: &str) -> PathBuf {
    committed().join(format!("embeddings/{name}.safetensors"))
}

fn embedding(path: &Path, is_found: bool) -> Embedding {
    Embedding { path: path.to_owned(), is_found }
}

fn load(base: &Path, embeddings: &[Embedding], scheduler: Option<String>) -> chiaro::Result<Pipeline> {
    let overrides = Overrides { embeddings: embeddings.to_vec(), scheduler, ..Overrides::default() };
    Pipeline::load_with(&Source::Folder(base.to_owned()), &overrides, None, device())
}

#[test]
fn runs_with_embeddings() {
    let golden = Golden::open_in(&committed(), "embeddings");
    for (name, run) in golden.runs() {
        let files: &[&str] = if name == "sdxl" { &["zzpair"] } else { &["easyneg", "learned_embeds"] };
        let embeddings: Vec<Embedding> = files.iter().map(|name| embedding(&file(name), false)).collect();
        let (base, _guard) = committed_folder(&name);
        let pipeline = load(&base, &embeddings, Some(scheduler(&run))).unwrap_or_else(|e| panic!("{name}: {e}"));
        let picture = draw(&pipeline, request(&run));
        check(&golden, &name, 0, &picture).unwrap_or_else(|e| panic!("{e}"));
        let hashes = pipeline.embeddings().iter().map(|e| format!("{}: {}", e.name, &e.sha256()[..12]));
        let hashes = hashes.collect::<Vec<_>>().join(", ");
        assert!(picture.infotext.contains(&format!("TI hashes: \"{hashes}\"")), "{}", picture.infotext);
        // Without its embeddings the same request draws another picture.
        let plain = load(&base, &[], Some(scheduler(&run))).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(check(&golden, &name, 0, &draw(&plain, request(&run))).is_err(), "{name}: names have no effect");
    }
}

#[test]
fn embeddings_of_other_models() {
    let refusal = |family: &str, name: &str| {
        let (base, _guard) = committed_folder(family);
        load(&base, &[embedding(&file(name), false)], None).err().expect("it does not fit").to_string()
    };
    // The tiny models' encoders are all 16 wide: a pair is for two of them, one tensor for one.
    let message = refusal("sd15", "zzpair");
    assert!(message.contains("width 16 for") && message.contains("got 16 and 16"), "{message}");
    let message = refusal("sdxl", "easyneg");
    assert!(message.contains("16 and 16") && message.contains("another family"), "{message}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let sd15 = committed().join("sd15");
    let no_embedding = committed().join("sd15/unet/diffusion_pytorch_model.safetensors");
    let message = load(&sd15, &[embedding(&no_embedding, false)], None).err().expect("a UNet").to_string();
    assert!(message.contains("expected an embedding"), "{message}");
    // What was only found is left out, and said.
    let same = folder.path().join("easyneg.safetensors");
    std::fs::copy(file("easyneg"), &same).expect("copied");
    let found = [
        embedding(&file("easyneg"), true),
        embedding(&file("zzpair"), true),
        embedding(&no_embedding, true),
        embedding(&same, true),
    ];
    let pipeline = load(&sd15, &found, None).expect("what does not fit is left out");
    assert_eq!(
        pipeline.embeddings().iter().map(|e| (e.name.as_str(), e.vectors)).collect::<Vec<_>>(),
        [("easyneg", 3)]
    );
    let request = Request { prompt: "easyneg zzpair".into(), num_inference_steps: 1, ..Request::default() };
    let generation = pipeline.generate(request).expect("it can be drawn");
    let said = generation.warnings().join("\n");
    for words in ["zzpair", "read as words", "expected an embedding", "the same name"] {
        assert!(said.contains(words), "{said}");
    }
}

/// AUTOMATIC1111's own files, as its program saved them before safetensors, hold the same vectors.
#[test]
fn pickled_embeddings_are_the_same() {
    let sd15 = committed().join("sd15");
    let pictures = ["safetensors", "pt"].map(|ending| {
        let path = committed().join(format!("embeddings/easyneg.{ending}"));
        let pipeline = load(&sd15, &[embedding(&path, false)], None).unwrap_or_else(|e| panic!("{ending}: {e}"));
        let request = Request {
            prompt: "a photo of easyneg".into(),
            width: Some(64),
            height: Some(64),
            num_inference_steps: 1,
            ..Request::default()
        };
        draw(&pipeline, request).image.data
    });
    assert_eq!(pictures[0], pictures[1]);
}
