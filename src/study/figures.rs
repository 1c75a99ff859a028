//! The report's pictures.

use super::job::Form;
use super::{Chart, Curve, Measured, Settings, histogram};
use crate::Result;
use crate::image::{Rgb8Image, Stack, contact_sheet};

/// Parts of the range 0 to 256 in the histogram: 8 values each.
const BINS: usize = 32;
/// Pairs across the sheet.
const ACROSS: usize = 10;

/// The paper's Figure 6: log10 of the share of pictures whose mean lies in each part of the range.
pub(super) fn means(measured: &Measured) -> Result<Chart> {
    let sides = [
        measured.reference.as_ref().map(|side| (side, "reference")),
        Some((&measured.without, "without OMS")),
        Some((&measured.with, "with OMS")),
    ];
    let sides: Vec<_> = sides.into_iter().flatten().collect();
    // An empty part stands half a picture of the largest set below its lowest possible share.
    let most = sides.iter().map(|(side, _)| side.means.len()).max().unwrap_or(1);
    let floor = (0.5 / most as f64).log10();
    let mut curves = Vec::new();
    for (side, label) in sides {
        let counts = histogram(&side.means, 0.0, 256.0, BINS)?;
        let mut points = vec![(0.0, floor)];
        for (bin, count) in counts.into_iter().enumerate() {
            let share = count as f64 / side.means.len() as f64;
            let height = if count == 0 { floor } else { share.log10() };
            let width = 256.0 / BINS as f64;
            points.extend([(bin as f64 * width, height), ((bin + 1) as f64 * width, height)]);
        }
        points.push((256.0, floor));
        curves.push(Curve { label: format!("{label} ({})", side.means.len()), points, dashed: label == "reference" });
    }
    Ok(Chart {
        title: "Means of pictures".into(),
        x_label: "mean of a picture, 0 black to 255 white".into(),
        y_label: "log10 of the share of pictures".into(),
        x: (0.0, 256.0),
        y: (floor, 0.0),
        curves,
    })
}

/// Without above with, for the first prompts.
pub(super) fn pairs(settings: &Settings, measured: &Measured) -> Result<Rgb8Image> {
    let stacks: Vec<Stack<'_>> = measured
        .pairs
        .iter()
        .map(|(prompt, pair)| Stack { label: settings.prompts[*prompt].clone(), pictures: pair.iter().collect() })
        .collect();
    let side = measured.pairs.first().map_or(1, |(_, pair)| pair[0].width);
    contact_sheet(&stacks, ACROSS, side)
}

/// A grid: a column for each value in front of which `heading` gives a name, a row for each of the grid's prompts.
pub(super) fn grid(measured: &Measured, heading: &dyn Fn(Form) -> Option<String>) -> Result<Rgb8Image> {
    let forms = measured.grid.first().map_or(&[][..], |row| row);
    let columns: Vec<(usize, String)> =
        forms.iter().enumerate().filter_map(|(i, (form, _))| heading(*form).map(|name| (i, name))).collect();
    let side = forms.first().map_or(1, |(_, picture)| picture.width);
    let stacks: Vec<Stack<'_>> = columns
        .into_iter()
        .map(|(i, label)| Stack { label, pictures: measured.grid.iter().map(|row| &row[i].1).collect() })
        .collect();
    contact_sheet(&stacks, stacks.len(), side)
}
