//! Pictures as bytes in memory: what goes out is what a file would hold, and what comes in is read as a file is.

use std::path::Path;

#[cfg(feature = "demo")]
use chiaro::image::write_png;
use chiaro::image::{PictureFormat, decode_photo, encode_picture, metadata_in, open_photo, read_metadata};
#[cfg(feature = "demo")]
use chiaro::recipe::{read_recipe, recipe_in};
#[cfg(feature = "demo")]
use chiaro::{Device, Event, Pipeline, Precision, Request, Source};

use super::gradient;

#[test]
fn bytes_are_read_as_files_are() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let texts = vec![("parameters".to_owned(), "naïve".to_owned()), ("chiaro".to_owned(), "{}".to_owned())];
    for (format, name) in
        [(PictureFormat::Png, "a.png"), (PictureFormat::Jpeg, "a.jpg"), (PictureFormat::WebP, "a.webp")]
    {
        let (bytes, _) = encode_picture(format, &gradient(9, 5), &texts).expect("a picture");
        let path = folder.path().join(name);
        std::fs::write(&path, &bytes).expect("writable");
        assert_eq!(
            decode_photo(Path::new("upload"), &bytes).expect("a picture"),
            open_photo(&path).expect("a picture"),
            "{name}"
        );
        let said = metadata_in(Path::new("upload"), &bytes).expect("a picture");
        assert_eq!(said, read_metadata(&path).expect("a picture"), "{name}");
        assert!(!said.texts.is_empty() || said.exif.is_some(), "{name} says something");
        // Messages name what the bytes were called.
        let half = &bytes[..bytes.len() / 2];
        for error in [
            decode_photo(Path::new("upload"), half).map(drop),
            metadata_in(Path::new("upload"), b"GIF89a, no picture").map(drop),
        ] {
            let message = error.expect_err("no whole picture").to_string();
            assert!(message.starts_with("upload: "), "{name}: {message}");
        }
    }
}

#[cfg(feature = "demo")]
#[test]
fn a_drawn_picture_is_the_same_in_memory_as_in_a_file() {
    let device = Device::choose("cpu", Precision::Auto).expect("a processor");
    let pipeline = Pipeline::load(&Source::DemoModel, None, device).expect("the demo model");
    let request = Request {
        prompt: "a red circle".into(),
        width: Some(64),
        height: Some(64),
        num_inference_steps: 1,
        ..Request::default()
    };
    let generation = pipeline.generate(request.clone()).expect("a request");
    let picture = generation.map(|event| event.expect("a unit of work")).find_map(|event| match event {
        Event::Picture(picture) => Some(picture),
        _ => None,
    });
    let picture = picture.expect("a picture");
    let bytes = picture.png().expect("a PNG");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.png");
    write_png(&path, &picture.image, &picture.text_chunks(), false).expect("writable");
    assert_eq!(std::fs::read(&path).expect("readable"), bytes);
    assert_eq!(decode_photo(Path::new("a picture"), &bytes).expect("a PNG").image, picture.image);
    let recipes = [recipe_in(Path::new("a picture"), &bytes), read_recipe(&path)];
    for recipe in recipes.map(|recipe| recipe.expect("a recipe").request) {
        assert_eq!((&recipe.prompt, recipe.seed, recipe.width), (&request.prompt, picture.seed, request.width));
        assert_eq!(recipe.num_inference_steps, request.num_inference_steps);
    }
    let message =
        recipe_in(Path::new("a picture"), &encode_picture(PictureFormat::Png, &picture.image, &[]).expect("a PNG").0);
    let message = message.expect_err("it says nothing").to_string();
    assert!(message.starts_with("a picture: "), "{message}");
}
