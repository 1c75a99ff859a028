//! Pixels and files.

mod bytes;
mod kinds;
mod metadata;
mod photos;
mod sheets;

use chiaro::image::{Rgb8Image, png_text, read_png, side_by_side, write_png};

pub(super) fn gradient(width: usize, height: usize) -> Rgb8Image {
    let data = (0..width * height * 3).map(|i| (i * 7 % 256) as u8).collect();
    Rgb8Image { width, height, data }
}

#[test]
fn values_become_bytes_as_in_the_reference() {
    // (x / 2 + 0.5) · 255, clipped, rounded to nearest even: 0.5 / 255 lies between 0 and 1.
    let halves = [-1.0, 1.0, 0.0, -3.0, 9.0, 2.0 * (2.5 / 255.0) - 1.0];
    let image = Rgb8Image::from_unit_range(&halves, 2, 1).expect("six values");
    assert_eq!(image.data[..5], [0, 255, 128, 0, 255]);
    assert!(image.data[5] == 2 || image.data[5] == 3);
    assert!(Rgb8Image::from_unit_range(&halves, 2, 2).is_err());
    assert_eq!(Rgb8Image { width: 1, height: 1, data: vec![0, 255, 255] }.mean(), 2.0 / 3.0);
}

#[test]
fn a_png_comes_back_with_its_texts() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.png");
    let image = gradient(5, 3);
    let texts = vec![("parameters".to_owned(), "naïve".to_owned()), ("chiaro".to_owned(), "猫 🦀".to_owned())];
    write_png(&path, &image, &texts, false).expect("written");
    assert_eq!(read_png(&path).expect("a PNG"), image);
    assert_eq!(png_text(&path).expect("a PNG"), texts);
    assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 1, "no partial file stays");
}

#[test]
fn nothing_is_overwritten_and_nothing_is_left_half_written() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.png");
    std::fs::write(&path, "precious").expect("writable");
    let message = write_png(&path, &gradient(2, 2), &[], false).expect_err("it exists").to_string();
    assert!(message.contains("a.png") && message.contains("exists"), "{message}");
    assert_eq!(std::fs::read_to_string(&path).expect("readable"), "precious");
    write_png(&path, &gradient(2, 2), &[], true).expect("asked for");
    assert!(read_png(&path).is_ok());
    assert!(write_png(&folder.path().join("none/a.png"), &gradient(2, 2), &[], false).is_err());
    // A keyword that PNG does not allow fails before anything is written.
    let bad = vec![("k".repeat(100), String::new())];
    assert!(write_png(&folder.path().join("b.png"), &gradient(2, 2), &bad, false).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 1);
}

#[test]
fn a_protected_file_and_a_link_stay() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.png");
    std::fs::write(&path, "precious").expect("writable");
    let writable = std::fs::metadata(&path).expect("there").permissions();
    let mut protected = writable.clone();
    protected.set_readonly(true);
    std::fs::set_permissions(&path, protected).expect("its owner may");
    let message = write_png(&path, &gradient(2, 2), &[], true).expect_err("read-only").to_string();
    assert!(message.contains("a.png") && message.contains("read-only"), "{message}");
    assert_eq!(std::fs::read_to_string(&path).expect("readable"), "precious");
    assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 1, "no partial file stays");
    std::fs::set_permissions(&path, writable).expect("its owner may");
    #[cfg(unix)]
    {
        let link = folder.path().join("b.png");
        std::os::unix::fs::symlink("nowhere", &link).expect("links are");
        let message = write_png(&link, &gradient(2, 2), &[], false).expect_err("a link is there").to_string();
        assert!(message.contains("b.png") && message.contains("exists"), "{message}");
        assert!(std::fs::read_link(&link).is_ok());
    }
}

#[test]
fn a_name_may_be_as_long_as_the_system_allows() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(format!("{}.png", "n".repeat(251)));
    write_png(&path, &gradient(2, 2), &[], false).expect("255 bytes are a name");
    assert_eq!(read_png(&path).expect("a PNG"), gradient(2, 2));
    let message = write_png(&folder.path().join("n".repeat(256)), &gradient(2, 2), &[], false).expect_err("too long");
    assert!(message.to_string().contains("nnnn"), "{message}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 1, "no partial file stays");
}

#[test]
fn damaged_pictures_are_errors() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.png");
    write_png(&path, &gradient(64, 64), &[], false).expect("written");
    let whole = std::fs::read(&path).expect("readable");
    for len in [0, 7, 8, 20, 40, whole.len() / 2] {
        std::fs::write(&path, &whole[..len]).expect("writable");
        let message = read_png(&path).expect_err("truncated").to_string();
        assert!(message.contains("a.png"), "{message}");
    }
    std::fs::write(&path, b"GIF89a").expect("writable");
    assert!(read_png(&path).is_err() && png_text(&path).is_err());
}

#[test]
fn labels_stand_above_pictures() {
    let (a, b) = (gradient(120, 40), gradient(60, 40));
    let both = side_by_side(&[("without OMS", &a), ("with", &b)]).expect("one height");
    assert_eq!(both.width, 120 + 60 + 3 * 8);
    let row = |y: usize| &both.data[y * both.width * 3..(y + 1) * both.width * 3];
    assert!((8..22).any(|y| row(y).contains(&255)), "the labels' ink");
    assert_eq!(&row(30)[8 * 3..8 * 3 + 360], &a.data[..360], "the first picture's first row");
    assert!(side_by_side(&[]).is_err());
    assert!(side_by_side(&[("a", &a), ("b", &gradient(8, 8))]).is_err());
}
