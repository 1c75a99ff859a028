//! Whole studies of the demo model, small and of few steps.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chiaro::image::{Rgb8Image, read_png, write_png};
use chiaro::pipeline::{Device, OmsSource, Pipeline, Precision, Source};
use chiaro::record::HostBackend;
use chiaro::study::{Reference, Settings, Study, Told};

fn pipeline() -> Pipeline {
    let device = Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("f32 is everywhere");
    let oms = OmsSource::demo();
    Pipeline::load(&Source::DemoModel, Some(&oms), device).expect("the demo model loads")
}

/// Two pictures of each of two prompts on both sides, and a row of grids: 8 + 1 + 2 + 1 pictures.
fn settings() -> Settings {
    Settings {
        model: "demo".into(),
        oms: "demo".into(),
        prompts: vec!["a solid black image".into(), "white | \"snow\", bright".into()],
        count: 2,
        seed: 5,
        negative_prompt: String::new(),
        width: Some(64),
        height: Some(64),
        steps: 1,
        guidance_scale: 3.0,
        sampler: None,
        eta: None,
        sigmas: None,
        oms_guidance_scale: 1.25,
        grid_prompts: vec!["a house".into()],
        oms_prompts: vec!["[a dark:a red:0.5] image".into(), "a bright image".into()],
        oms_guidance_scales: vec![2.0],
        weights: "auto".into(),
    }
}

fn draw(study: &Study, pipeline: &Pipeline) -> usize {
    let mut saved = 0;
    study
        .draw(pipeline, &mut |told| {
            if let Told::Saved { .. } = told {
                saved += 1;
            }
        })
        .expect("the study runs");
    saved
}

/// Every PNG below a folder, with its bytes and the time of its writing.
fn pictures(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let mut found = BTreeMap::new();
    for part in ["pictures", "grids"] {
        for entry in std::fs::read_dir(folder.join(part)).expect("readable") {
            let path = entry.expect("readable").path();
            let written = path.metadata().expect("readable").modified().expect("a time");
            found.insert(path.clone(), (std::fs::read(&path).expect("readable"), written));
        }
    }
    found
}

#[test]
fn a_study_goes_on_where_it_stood_and_reports_what_the_pictures_hold() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (place, pipeline) = (folder.path().join("study"), pipeline());
    let study = Study::new(&place, settings()).expect("good settings");
    assert_eq!(study.count().expect("countable"), (12, 12));
    assert!(!place.exists(), "nothing is written before it begins");
    assert!(study.report(None, "chiaro study").is_err(), "there is no picture to report on");
    assert!(draw(&study, &pipeline) > 0);
    let first = pictures(&place);
    assert_eq!(first.len(), 12);

    // Stopped: two pictures are not there. Only they are drawn, and they are the same again.
    let gone: Vec<&PathBuf> =
        first.keys().filter(|p| p.ends_with("0001-8-with.png") || p.ends_with("00-prompt-01.png")).collect();
    assert_eq!(gone.len(), 2);
    gone.iter().for_each(|path| std::fs::remove_file(path).expect("removable"));
    let study = Study::new(&place, settings()).expect("the same settings");
    assert_eq!(study.count().expect("countable"), (12, 2));
    assert_eq!(draw(&study, &pipeline), 2);
    for (path, (bytes, written)) in pictures(&place) {
        assert_eq!(bytes, first[&path].0, "{}", path.display());
        assert_eq!(written == first[&path].1, !gone.contains(&&path), "{}", path.display());
    }
    assert_eq!(draw(&study, &pipeline), 0, "nothing is left to do");

    report_is_whole(&study, &place);
}

fn report_is_whole(study: &Study, place: &Path) {
    let reference = Reference { name: "two".into(), means: vec![0.0, 255.0] };
    let measured = study.report(Some(&reference), "chiaro study 'a b'").expect("all pictures are there");
    // Means against the files themselves.
    let csv = std::fs::read_to_string(place.join("means.csv")).expect("text");
    assert_eq!(csv.lines().count(), 9);
    let mut of_side = [vec![], vec![]];
    for row in &measured.rows {
        let side = if row.oms { "with" } else { "without" };
        let file = place.join(format!("pictures/{:04}-{}-{side}.png", row.prompt, row.seed));
        let mean = read_png(&file).expect("a PNG").mean() * 255.0;
        assert!((row.mean - mean).abs() < 1e-9 && (row.channels.iter().sum::<f64>() / 3.0 - mean).abs() < 1e-9);
        assert!(csv.contains(&format!(",{},{},{mean:.3},", row.seed, u8::from(row.oms))), "{csv}");
        of_side[usize::from(row.oms)].push(mean);
    }
    assert!(csv.contains("\"white | \"\"snow\"\", bright\",7,0,"), "quoted as CSV has it: {csv}");
    assert_eq!(Reference::read(&place.join("means.csv")).expect("a CSV of means").means.len(), 8);
    // Four against four: the mean distance of sorted pairs. Four against {0, 255}: two values to either end.
    of_side.iter_mut().for_each(|side| side.sort_by(f64::total_cmp));
    let [without, with] = &of_side;
    let between = without.iter().zip(with).map(|(a, b)| (a - b).abs()).sum::<f64>() / 4.0;
    assert!((measured.between - between).abs() < 1e-9);
    let to_ends = (without[0] + without[1] + 510.0 - without[2] - without[3]) / 4.0;
    assert!((measured.without.distance.expect("a reference") - to_ends).abs() < 1e-9);
    // Every picture of the report is there and has words for those who do not see it.
    let page = std::fs::read_to_string(place.join("report.md")).expect("text");
    for words in [
        "\\[a dark:a red:0.5\\] image",
        "chiaro study 'a b'",
        "a solid black image",
        "white \\| \"snow\", bright",
        "Figure 6",
        "Table 2",
    ] {
        assert!(page.contains(words), "{words} is not in:\n{page}");
    }
    let links: Vec<&str> = page.split("](").skip(1).map(|rest| &rest[..rest.find(')').expect("closed")]).collect();
    assert!(links.len() >= 7, "{links:?}");
    for link in links {
        assert!(place.join(link).is_file(), "{link}");
    }
    for alt in page.split("![").skip(1) {
        assert!(alt.find("](figures/").is_some_and(|end| end > 20), "a picture without words: {alt}");
    }
    let sheet = |name: &str| read_png(&place.join("figures").join(name)).expect("a PNG");
    assert!(sheet("oms-prompts.png").width > sheet("oms-guidances.png").width, "three columns and two");
    assert!(sheet("pairs.png").height > 2 * 84);
    let hidden = std::fs::read_dir(place)
        .expect("readable")
        .filter(|e| e.as_ref().expect("readable").file_name().to_string_lossy().starts_with('.'));
    assert_eq!(hidden.count(), 0, "no partial file stays");
}

#[test]
fn a_folder_belongs_to_one_study() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pipeline = pipeline();
    let small =
        Settings { count: 1, grid_prompts: vec![], oms_prompts: vec![], oms_guidance_scales: vec![], ..settings() };
    let study = Study::new(folder.path(), small.clone()).expect("good settings");
    draw(&study, &pipeline);
    let refused = |changed: Settings, words: &[&str]| {
        let message = Study::new(folder.path(), changed).err().expect("another study").to_string();
        for word in words {
            assert!(message.contains(word), "expected {word:?} in: {message}");
        }
    };
    refused(Settings { steps: 2, ..small.clone() }, &["study.json", "steps", "has 1", "this one 2"]);
    refused(Settings { count: 2, ..small.clone() }, &["count", "has 1", "this one 2"]);
    refused(Settings { sampler: Some("euler".into()), ..small.clone() }, &["sampler", "null", "euler"]);
    let mut other = small.clone();
    other.prompts[1] = "a tree".into();
    refused(other.clone(), &["prompts[1]", "snow", "a tree"]);
    other.prompts[1].clone_from(&small.prompts[1]);
    other.prompts.push("a tree".into());
    refused(other, &["prompts", "2 entries", "3 entries"]);
    // A picture that is not what its name says is neither counted nor replaced.
    let foreign = folder.path().join("pictures/0000-5-with.png");
    std::fs::remove_file(&foreign).expect("removable");
    std::fs::copy(folder.path().join("pictures/0000-5-without.png"), &foreign).expect("copied");
    let message = study.count().expect_err("another picture").to_string();
    assert!(message.contains("0000-5-with.png") && message.contains("expected oms"), "{message}");
    let image = Rgb8Image { width: 1, height: 1, data: vec![0; 3] };
    write_png(&foreign, &image, &[], true).expect("written");
    assert!(study.count().expect_err("no parameters").to_string().contains("parameters"));
    std::fs::write(folder.path().join("study.json"), "{}").expect("writable");
    assert!(Study::new(folder.path(), small).err().expect("damaged").to_string().contains("study.json"));
}

/// A report is written over the one before it, so the folder must not hold anything else.
#[test]
fn a_folder_with_other_files_is_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join(".hidden"), "").expect("writable");
    assert!(Study::new(folder.path(), settings()).is_ok());
    std::fs::write(folder.path().join("report.md"), "precious").expect("writable");
    let message = Study::new(folder.path(), settings()).err().expect("not empty").to_string();
    assert!(message.contains("report.md") && message.contains("study.json"), "{message}");
}

#[test]
fn settings_out_of_range_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (changed, word) in [
        (Settings { prompts: vec![], ..settings() }, "prompts"),
        (Settings { count: 0, ..settings() }, "count"),
        (Settings { steps: 0, ..settings() }, "steps"),
        (Settings { width: Some(100), ..settings() }, "width"),
        (Settings { oms_guidance_scales: vec![f64::NAN], ..settings() }, "oms-guidances"),
    ] {
        let message = Study::new(folder.path(), changed).err().expect("out of range").to_string();
        assert!(message.contains(word), "{message}");
    }
}
