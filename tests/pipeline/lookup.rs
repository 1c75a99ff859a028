//! Names of models, in places made for the test.

use std::path::Path;

use chiaro::pipeline::Places;

fn file(path: &Path) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
    std::fs::write(path, "{}").expect("writable");
}

#[test]
fn names_lead_to_folders_files_and_snapshots() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let (models, hub) = (root.path().join("models"), root.path().join("hub"));
    file(&models.join("plain/model_index.json"));
    file(&models.join("Stable-diffusion/anime.safetensors"));
    file(&models.join("checkpoints/photo.safetensors"));
    file(&models.join("checkpoints/photo.ckpt"));
    file(&models.join("checkpoints/old.ckpt"));
    file(&models.join("small.gguf"));
    let repository = hub.join("models--some--model-2-1");
    file(&repository.join("snapshots/0123abc/model_index.json"));
    file(&repository.join("snapshots/fed987/model_index.json"));
    std::fs::create_dir_all(repository.join("refs")).expect("writable");
    std::fs::write(repository.join("refs/main"), "fed987\n").expect("writable");
    file(&hub.join("models--one--snapshot/snapshots/aa/model_index.json"));
    let places = Places { models: vec![models.clone()], hubs: vec![hub.clone()] };

    let find = |name: &str| places.find(name).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(find("plain"), models.join("plain"));
    assert_eq!(find("anime"), models.join("Stable-diffusion/anime.safetensors"));
    assert_eq!(find("photo.safetensors"), models.join("checkpoints/photo.safetensors"));
    assert_eq!(find("photo"), models.join("checkpoints/photo.safetensors"));
    assert_eq!((find("old"), find("small")), (models.join("checkpoints/old.ckpt"), models.join("small.gguf")));
    assert_eq!(find("some/model-2-1"), repository.join("snapshots/fed987"));
    assert_eq!(find("one/snapshot"), hub.join("models--one--snapshot/snapshots/aa"));
    // A path that exists is that path.
    let path = models.join("plain").display().to_string();
    assert_eq!(find(&path), models.join("plain"));
    assert_eq!(places.names(), ["anime", "old", "one/snapshot", "photo", "plain", "small", "some/model-2-1"]);
}

#[test]
fn embeddings_are_found_by_names_in_prompts() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let models = root.path().to_owned();
    for name in ["embeddings/EasyNeg.safetensors", "embeddings/sd15/style.safetensors", "embeddings/other.safetensors"]
    {
        file(&models.join(name));
    }
    file(&models.join("embeddings/style.txt"));
    let places = Places { models: vec![models.clone()], hubs: Vec::new() };
    let found = places.embeddings_in(&["a house", "(easyneg:1.2), style"]);
    assert_eq!(
        found,
        ["embeddings/EasyNeg.safetensors", "embeddings/sd15/style.safetensors"].map(|name| models.join(name))
    );
    assert!(places.embeddings_in(&["a house"]).is_empty());
    file(&models.join("controlnet/canny.safetensors"));
    assert_eq!(places.find_control("canny").expect("there"), models.join("controlnet/canny.safetensors"));
    assert!(places.find("canny").is_err(), "it is no model");
}

#[test]
fn unknown_names_answer_with_places_and_near_names() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let hub = root.path().join("hub");
    for name in ["stabilityai--stable-diffusion-2-1", "other--thing"] {
        file(&hub.join(format!("models--{name}/snapshots/a/model_index.json")));
    }
    // Two snapshots and no reference: which is meant is not known.
    file(&hub.join("models--other--thing/snapshots/b/model_index.json"));
    let places = Places { models: vec![], hubs: vec![hub.clone()] };
    let message = places.find("stabilityai/stable-diffusion-2").expect_err("not there").to_string();
    assert!(message.contains("stabilityai/stable-diffusion-2-1") && message.contains("hub"), "{message}");
    // References that lead out of the cache lead nowhere.
    for name in ["other/thing", "../hub", "a/../b", "/no/such/place", "", "a/b/c", ".hidden/x"] {
        assert!(places.find(name).is_err(), "{name:?}");
    }
    std::fs::create_dir_all(hub.join("models--other--thing/refs")).expect("writable");
    std::fs::write(hub.join("models--other--thing/refs/main"), "../../..").expect("writable");
    assert!(places.find("other/thing").is_err());
}
