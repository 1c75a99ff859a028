//! `chiaro study` from the outside.

use super::{chiaro, fails, json, stderr};

#[test]
fn a_small_study_from_prompts_to_report() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("prompts.txt"), "a solid black image\n# light\na white image\n")
        .expect("writable");
    std::fs::write(folder.path().join("reference.csv"), "mean_255\n0\n255\n").expect("writable");
    let arguments = [
        "study",
        "prompts.txt",
        "-o",
        "out",
        "--steps",
        "1",
        "-W",
        "64",
        "-H",
        "64",
        "--device",
        "cpu",
        "--reference",
        "reference.csv",
        "--oms-guidances",
        "1",
        "2.5",
        "--grid-prompts",
        "a house",
    ];
    let plan = json(folder.path(), &[&arguments[..], &["--dry-run", "--json"]].concat());
    assert_eq!((plan["pictures"].as_u64(), plan["missing"].as_u64()), (Some(7), Some(7)));
    assert!(plan["flops"].as_u64() > Some(1_000_000));
    assert!(!folder.path().join("out").exists(), "a plan writes nothing");
    let output = chiaro(folder.path(), &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("7 pictures, 0 of them there; 7 to draw"), "{}", stderr(&output));
    assert!(stderr(&output).contains("s a picture: about"), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("distance to the reference") && text.contains("out/report.md"), "{text}");
    let report = std::fs::read_to_string(folder.path().join("out/report.md")).expect("text");
    assert!(report.contains("chiaro study prompts.txt -o out --steps 1"), "{report}");
    // The second run finds all pictures and reports again.
    let summary = json(folder.path(), &[&arguments[..], &["--json"]].concat());
    assert_eq!(summary["summary"]["with"]["pictures"], 2);
    let mut other = arguments;
    other[5] = "2";
    let output = chiaro(folder.path(), &other);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("steps: the folder's study has 1, this one 2"), "{}", stderr(&output));
}

#[test]
fn what_it_refuses() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("prompts.txt"), "a house\n").expect("writable");
    std::fs::write(folder.path().join("empty.txt"), "\n# nothing\n").expect("writable");
    let refuses = |more: &[&str], code, words: &[&str]| {
        fails(folder.path(), &[&["study", "-o", "out", "--device", "cpu"], more].concat(), code, words);
    };
    refuses(&["nowhere.txt"], 1, &["nowhere.txt"]);
    refuses(&["empty.txt"], 2, &["prompts", "1 to"]);
    refuses(&["prompts.txt", "--oms", "off"], 2, &["--oms DIR"]);
    refuses(&["prompts.txt", "--count", "0"], 2, &["count"]);
    refuses(&["prompts.txt", "--steps", "0"], 2, &["steps"]);
    refuses(&["prompts.txt", "--grid-prompts", "a"], 2, &["--grid-prompts", "--oms-prompts"]);
    refuses(&["prompts.txt", "--oms-guidances", "-3"], 2, &["oms-guidances", "-3"]);
    refuses(&["prompts.txt", "--reference", "nowhere.csv"], 1, &["nowhere.csv"]);
    refuses(&["prompts.txt", "--reference", "prompts.txt"], 2, &["prompts.txt", "mean_255"]);
    fails(folder.path(), &["study", "prompts.txt"], 2, &["--output"]);
    fails(folder.path(), &["study", "prompts.txt", "-o", "prompts.txt", "--device", "cpu"], 2, &["expected a folder"]);
}
