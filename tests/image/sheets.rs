//! Smaller pictures, letters and contact sheets.

use chiaro::image::{Rgb8Image, Stack, contact_sheet, draw_text, text_pixels, text_size};

fn plain(side: usize, value: u8) -> Rgb8Image {
    Rgb8Image { width: side, height: side, data: vec![value; side * side * 3] }
}

#[test]
fn a_smaller_picture_has_the_means_of_areas() {
    // 4×2 to 2×1: blocks of 2×2, each channel on its own.
    let rows = [[0, 10, 20, 30], [40, 50, 60, 74]];
    let data = rows.iter().flatten().flat_map(|&v| [v, 100 + v, 255]).collect();
    let image = Rgb8Image { width: 4, height: 2, data };
    let half = image.shrunk(2, 1).expect("pixels");
    assert_eq!((half.width, half.height, &half.data[..]), (2, 1, &[25, 125, 255, 46, 146, 255][..]));
    // 3 to 2: the middle pixel is shared by halves: (0 + 60/2) / 1.5 and (60/2 + 90) / 1.5.
    let data = [0u8, 60, 90].iter().flat_map(|&v| [v; 3]).collect();
    let third = Rgb8Image { width: 3, height: 1, data }.shrunk(2, 1).expect("pixels");
    assert_eq!(third.data, [20, 20, 20, 80, 80, 80]);
    assert_eq!(image.shrunk(4, 2).expect("pixels"), image, "its own size changes nothing");
    assert!(image.shrunk(0, 1).is_err());
    // A mean survives any reduction but for rounding.
    let noisy = Rgb8Image { width: 50, height: 31, data: (0..50 * 31 * 3).map(|i| (i * 97 % 251) as u8).collect() };
    assert!((noisy.shrunk(7, 9).expect("pixels").mean() - noisy.mean()).abs() < 0.5 / 255.0);
}

#[test]
fn channel_means_are_of_each_channel() {
    let image = Rgb8Image { width: 2, height: 1, data: vec![0, 255, 51, 255, 255, 102] };
    assert_eq!(image.channel_means(), [0.5, 1.0, 0.3]);
}

#[test]
fn letters_stay_in_their_room_and_in_the_picture() {
    assert_eq!(text_size("ab", 2), (22, 14));
    assert_eq!(text_size("", 1).0, 0);
    let (width, height) = text_size("Wg?", 3);
    let pixels: Vec<_> = text_pixels("Wg?", 3).collect();
    assert!(!pixels.is_empty() && pixels.iter().all(|(x, y)| *x < width && *y < height));
    let inked = |text: &str, at, room| {
        let mut image = plain(40, 0);
        draw_text(&mut image, text, at, room, 1, [255; 3]);
        image
            .data
            .chunks_exact(3)
            .enumerate()
            .filter(|(_, p)| p[0] > 0)
            .map(|(i, _)| (i % 40, i / 40))
            .collect::<Vec<_>>()
    };
    // Room for two letters of five columns and the gap between them.
    assert_eq!(inked("HHHH", (1, 1), 11), inked("HH", (1, 1), 40));
    assert!(inked("HHHH", (1, 1), 11).iter().all(|(x, _)| *x < 12));
    assert!(!inked("HH", (36, 37), 40).is_empty(), "what lies outside is left out");
}

#[test]
fn a_contact_sheet_stacks_pictures_under_their_labels() {
    let (black, white) = (plain(64, 0), plain(64, 255));
    let stack = |label: &str| Stack { label: label.into(), pictures: vec![&black, &white] };
    let sheet = contact_sheet(&[stack("a"), stack("b"), stack("c")], 2, 16).expect("three stacks");
    // Two columns, two rows; the fourth place stays empty. 16×16 pixels of each kind a stack, letters apart.
    let count = |value: u8| sheet.data.chunks_exact(3).filter(|p| **p == [value; 3]).count();
    assert_eq!(count(0), 3 * 256);
    assert!(count(255) > 3 * 256 && count(255) < 3 * 256 + 100, "{}", count(255));
    let first = |value: u8| sheet.data.chunks_exact(3).position(|p| p == [value; 3]).expect("there") / sheet.width;
    assert!(first(255) < first(0), "the label is above");
    // A label of five words is broken into lines, which push the pictures down; a fifth line is left out.
    let tall = contact_sheet(&[stack("aaa bbb ccc ddd eee")], 1, 22).expect("one stack");
    let short = contact_sheet(&[stack("aaa")], 1, 22).expect("one stack");
    assert_eq!((tall.width, tall.height), (short.width, short.height + 3 * 9));
    assert!(contact_sheet(&[], 2, 16).is_err() && contact_sheet(&[stack("a")], 0, 16).is_err());
    assert!(contact_sheet(&[stack("a"), Stack { label: "b".into(), pictures: vec![&black] }], 2, 16).is_err());
}
