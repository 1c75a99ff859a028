//! Curves on axes, drawn as SVG or as a picture.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::raster::Raster;
use crate::image::{Rgb8Image, write_file, write_png};
use crate::{Error, Result};

/// Blue, vermilion, green, purple, orange, black: told apart by most colour-blind readers (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
];
const SIZE: (u32, u32) = (900, 560);
const TEXT: (&str, u32) = ("sans-serif", 18);

/// A line through points, with its name in the legend.
pub struct Curve {
    /// Its name.
    pub label: String,
    /// (x, y), in order of x.
    pub points: Vec<(f64, f64)>,
    /// Drawn as dashes, so that a curve below shows.
    pub dashed: bool,
}

/// Curves on one pair of axes, 900×560 pixels.
pub struct Chart {
    /// Above the axes.
    pub title: String,
    /// Below them.
    pub x_label: String,
    /// Beside them.
    pub y_label: String,
    /// From left to right.
    pub x: (f64, f64),
    /// From bottom to top.
    pub y: (f64, f64),
    /// Drawn in this order.
    pub curves: Vec<Curve>,
}

impl Chart {
    /// Whether [`write`](Self::write) knows the format that a file's name asks for.
    ///
    /// # Errors
    /// When the name ends neither in .png nor in .svg.
    pub fn check_name(path: &Path) -> Result<()> {
        format(path).map(|_| ())
    }

    /// Writes the chart as the file's name says: `.svg` or `.png`.
    ///
    /// # Errors
    /// When the name has another ending, the file exists and `overwrite` is false, or writing fails.
    pub fn write(&self, path: &Path, overwrite: bool) -> Result<()> {
        match format(path)? {
            Format::Svg => write_file(path, self.svg()?.as_bytes(), overwrite),
            Format::Png => write_png(path, &self.picture()?, &[], overwrite),
        }
    }

    /// The chart as SVG.
    ///
    /// # Errors
    /// When an axis is empty or not finite.
    pub fn svg(&self) -> Result<String> {
        let mut text = String::new();
        {
            let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
            self.draw(&area)?;
            area.present().map_err(failed)?;
        }
        Ok(text)
    }

    /// The chart as pixels.
    ///
    /// # Errors
    /// As [`svg`](Self::svg).
    pub fn picture(&self) -> Result<Rgb8Image> {
        let (width, height) = (SIZE.0 as usize, SIZE.1 as usize);
        let mut image = Rgb8Image { width, height, data: vec![255; width * height * 3] };
        self.draw(&Raster(&mut image).into_drawing_area())?;
        Ok(image)
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<()> {
        for (name, (low, high)) in [("x", self.x), ("y", self.y)] {
            if !(low.is_finite() && high.is_finite() && low < high) {
                return Err(Error::shape("chart", format!("the {name} axis goes from {low} to {high}")));
            }
        }
        area.fill(&WHITE).map_err(failed)?;
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", 22))
            .margin(14)
            .margin_right(34)
            .x_label_area_size(58)
            .y_label_area_size(78)
            .build_cartesian_2d(self.x.0..self.x.1, self.y.0..self.y.1)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.15))
            .label_style(TEXT)
            .axis_desc_style(TEXT)
            .x_label_formatter(&tick)
            .y_label_formatter(&tick)
            .x_desc(&self.x_label)
            .y_desc(&self.y_label)
            .draw()
            .map_err(failed)?;
        for (curve, colour) in self.curves.iter().zip(COLOURS.iter().cycle()) {
            let style = colour.stroke_width(2);
            let points = curve.points.iter().copied();
            if curve.dashed {
                chart.draw_series(DashedLineSeries::new(points, 8, 6, style)).map_err(failed)?;
            } else {
                chart.draw_series(LineSeries::new(points, style)).map_err(failed)?;
            }
        }
        self.draw_legend(area)
    }

    /// A line and a name for each curve, in the upper right corner. plotters' own legend measures texts by a font that is not there.
    fn draw_legend<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<()> {
        const LINE: i32 = 26;
        let style = TEXT.into_text_style(area);
        let width = |curve: &Curve| Ok(area.estimate_text_size(&curve.label, &style).map_err(failed)?.0 as i32);
        let widths: Vec<i32> = self.curves.iter().map(width).collect::<Result<_>>()?;
        let (right, top) = (SIZE.0 as i32 - 48, 60);
        let left = right - widths.into_iter().max().unwrap_or(0) - 52;
        let bottom = top + LINE * self.curves.len() as i32;
        for style in [WHITE.mix(0.85).filled(), BLACK.mix(0.4).stroke_width(1)] {
            area.draw(&Rectangle::new([(left, top), (right, bottom)], style)).map_err(failed)?;
        }
        for (i, (curve, colour)) in self.curves.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let y = top + LINE * i as i32 + LINE / 2;
            let line = PathElement::new(vec![(left + 8, y), (left + 34, y)], colour.stroke_width(2));
            area.draw(&line).map_err(failed)?;
            area.draw(&Text::new(curve.label.as_str(), (left + 42, y - 7), style.clone())).map_err(failed)?;
        }
        Ok(())
    }
}

/// A tick's number without needless digits.
fn tick(value: &f64) -> String {
    // Adding 0 turns -0 into 0.
    format!("{}", (value * 1e4).round() / 1e4 + 0.0)
}

enum Format {
    Svg,
    Png,
}

fn format(path: &Path) -> Result<Format> {
    match path.extension().and_then(|e| e.to_str()).map(str::to_lowercase).as_deref() {
        Some("svg") => Ok(Format::Svg),
        Some("png") => Ok(Format::Png),
        _ => Err(Error::request("plot", format!("expected a name ending in .png or .svg, got {}", path.display()))),
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::shape("chart", error.to_string())
}
