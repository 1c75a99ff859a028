//! Folders of pictures and files of means to compare with.

use chiaro::image::{Rgb8Image, write_png};
use chiaro::study::{Reference, parse_prompts};

#[test]
fn a_folder_gives_the_means_of_its_pngs() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, data) in [("a.png", [0, 0, 30]), ("b.PNG", [255, 255, 255])] {
        let image = Rgb8Image { width: 1, height: 1, data: data.to_vec() };
        write_png(&folder.path().join(name), &image, &[], false).expect("written");
    }
    std::fs::write(folder.path().join("notes.txt"), "not a picture").expect("writable");
    let reference = Reference::read(folder.path()).expect("two pictures");
    let want = [10.0, 255.0];
    assert!(reference.means.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-12), "{:?}", reference.means);
    std::fs::write(folder.path().join("c.png"), "not a picture").expect("writable");
    assert!(Reference::read(folder.path()).expect_err("damaged").to_string().contains("c.png"));
    let empty = tempfile::tempdir().expect("a temporary folder");
    assert!(Reference::read(empty.path()).expect_err("no pictures").to_string().contains("none"));
    assert!(Reference::read(&empty.path().join("nowhere")).is_err());
}

#[test]
fn a_csv_gives_its_column() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("means.csv");
    let read = |text: &str| {
        std::fs::write(&path, text).expect("writable");
        Reference::read(&path).map(|r| r.means).map_err(|e| e.to_string())
    };
    assert_eq!(read("mean_255\n1\n255.0\n\n"), Ok(vec![1.0, 255.0]));
    assert_eq!(read("prompt,mean_255,x\n\"a, \"\"b\"\"\",12.5,7\nc,3,7\n"), Ok(vec![12.5, 3.0]));
    for (text, words) in [
        ("", ":1: expected a column named mean_255"),
        ("mean\n1\n", "mean_255"),
        ("mean_255\n", "none"),
        ("mean_255\n1\n256\n", ":3: mean_255: expected a number from 0 to 255, got \"256\""),
        ("mean_255\n1\nNaN\n", "NaN"),
        ("x,mean_255\n1\n", ":2: "),
    ] {
        let message = read(text).expect_err("not a CSV of means");
        assert!(message.contains(words) && message.contains("means.csv"), "{message}");
    }
}

#[test]
fn prompts_are_lines() {
    let prompts = parse_prompts("# a comment\n\n a red circle \r\na red circle\n").expect("two");
    assert_eq!(prompts, ["a red circle", "a red circle"]);
    assert!(parse_prompts("\n# nothing\n").is_err());
}
