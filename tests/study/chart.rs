//! Curves land where the axes say.

use chiaro::study::{Chart, Curve};

fn chart(points: Vec<(f64, f64)>) -> Chart {
    Chart {
        title: "a title".into(),
        x_label: "across".into(),
        y_label: "up".into(),
        x: (0.0, 1.0),
        y: (0.0, 1.0),
        curves: vec![Curve { label: "one <curve>".into(), points, dashed: false }],
    }
}

/// Rows of the picture with ink of the first curve, left of the legend.
fn inked_rows(chart: &Chart) -> Vec<usize> {
    let image = chart.picture().expect("drawn");
    let row = |y: usize| &image.data[y * image.width * 3..(y * image.width + image.width / 2) * 3];
    (0..image.height).filter(|y| row(*y).chunks_exact(3).any(|p| p == [0, 114, 178])).collect()
}

#[test]
fn a_level_line_lies_at_its_height() {
    let at = |y: f64| inked_rows(&chart(vec![(0.0, y), (1.0, y)]));
    let (low, middle, high) = (at(0.1), at(0.5), at(0.9));
    let centre = |rows: &[usize]| rows.iter().sum::<usize>() as f64 / rows.len() as f64;
    for rows in [&low, &middle, &high] {
        assert!((1..=4).contains(&rows.len()), "a line of two pixels: {rows:?}");
    }
    assert!(centre(&high) < centre(&middle) && centre(&middle) < centre(&low), "y points up");
    let (above, below) = (centre(&middle) - centre(&high), centre(&low) - centre(&middle));
    assert!((above - below).abs() <= 1.5, "equal steps: {above} and {below}");
}

#[test]
fn svg_is_well_formed_where_labels_have_brackets() {
    let svg = chart(vec![(0.0, 0.0), (1.0, 1.0)]).svg().expect("drawn");
    assert!(svg.contains("one &lt;curve&gt;") && !svg.contains("<curve>"), "{svg}");
}

#[test]
fn axes_without_extent_are_errors() {
    for x in [(1.0, 1.0), (1.0, 0.0), (0.0, f64::INFINITY), (f64::NAN, 1.0)] {
        assert!(Chart { x, ..chart(vec![]) }.svg().is_err(), "{x:?}");
    }
}
