//! `chiaro schedule`: the table, the plot, and what it refuses.

use super::{chiaro, fails, json, stderr};

#[test]
fn the_table_names_printed_values_and_artefacts() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = chiaro(folder.path(), &["schedule", "--model", "demo"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).expect("text");
    // The paper's numbers, and ours beside them.
    for word in
        ["2.428e-9", "4.036e-5", "4.682e-3", "0.068265", "0.997667", "443.405007", "3.0518e-5", "2^-15", "0.88", "demo"]
    {
        assert!(text.contains(word), "{word} is not in:\n{text}");
    }
    let table = json(folder.path(), &["schedule", "--model", "demo", "--json"]);
    assert_eq!(table["table_1"].as_array().expect("a list").len(), 4);
    // The demo model has Stable Diffusion's schedule.
    let own = table["own"]["recomputed"]["snr"].as_f64().expect("a number");
    assert!((own / 4.681917e-3 - 1.0).abs() < 1e-5, "{own}");
}

#[test]
fn curves_are_drawn_as_svg_and_png() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for file in ["snr.svg", "snr.png"] {
        let output = chiaro(folder.path(), &["schedule", "--plot", file]);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let svg = std::fs::read_to_string(folder.path().join("snr.svg")).expect("text");
    for word in ["<svg", "cosine", "linear", "LDM", "log10 SNR(t)", "</svg>"] {
        assert!(svg.contains(word), "{word}");
    }
    let png = chiaro::image::read_png(&folder.path().join("snr.png")).expect("a PNG");
    let has = |colour: [u8; 3]| png.data.chunks_exact(3).any(|p| p == colour);
    assert!(has([0, 114, 178]) && has([213, 94, 0]) && has([0, 158, 115]) && has([0, 0, 0]) && has([255; 3]));
}

#[test]
fn what_it_refuses() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fails(folder.path(), &["schedule", "--plot", "snr.jpg"], 2, &["snr.jpg", ".png or .svg"]);
    fails(folder.path(), &["schedule", "--model", "nowhere"], 1, &["nowhere", "nowhere", "no such file"]);
    std::fs::write(folder.path().join("snr.svg"), "precious").expect("writable");
    fails(folder.path(), &["schedule", "--plot", "snr.svg"], 2, &["snr.svg", "exists", "--overwrite"]);
    assert_eq!(std::fs::read_to_string(folder.path().join("snr.svg")).expect("text"), "precious");
}
