//! What a study's means are compared with.

use std::path::Path;

use crate::image::{PictureFormat, open_picture};
use crate::{Error, Result, files};

/// A CSV of means of a few million pictures; anything larger is something else.
const MAX_CSV_BYTES: u64 = 64 << 20;

/// Means of reference pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// As the user named it.
    pub name: String,
    /// The mean of each picture's values, 0 to 255.
    pub means: Vec<f64>,
}

impl Reference {
    /// The means of a folder's pictures (PNG, JPEG, WebP; not of folders in it), or those of a CSV file with a column `mean_255`.
    ///
    /// # Errors
    /// When there is no picture, or one cannot be read; when the file has no such column, no line, or a value that is not from 0 to 255.
    pub fn read(path: &Path) -> Result<Reference> {
        let means = if path.is_dir() { folder_means(path)? } else { csv_means(path)? };
        Ok(Reference { name: path.display().to_string(), means })
    }
}

fn folder_means(folder: &Path) -> Result<Vec<f64>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        if PictureFormat::of(&path).is_some() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(Error::request(
            "reference",
            format!("expected PNG, JPEG or WebP pictures in {}, found none", folder.display()),
        ));
    }
    files.sort();
    files.iter().map(|file| Ok(open_picture(file)?.mean() * 255.0)).collect()
}

fn csv_means(path: &Path) -> Result<Vec<f64>> {
    let fault = |line: usize, what: String| Error::request("reference", format!("{}:{line}: {what}", path.display()));
    let text = files::read_text(path, MAX_CSV_BYTES, "a CSV file")?;
    let mut lines = text.lines().enumerate();
    let header = fields(lines.next().map_or("", |(_, line)| line));
    let Some(column) = header.iter().position(|name| name == "mean_255") else {
        return Err(fault(1, "expected a column named mean_255, with means from 0 to 255".into()));
    };
    let mut means = Vec::new();
    for (i, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let cells = fields(line);
        let cell = cells.get(column).map_or("", |cell| cell.trim());
        match cell.parse::<f64>() {
            Ok(mean) if (0.0..=255.0).contains(&mean) => means.push(mean),
            _ => return Err(fault(i + 1, format!("mean_255: expected a number from 0 to 255, got {cell:?}"))),
        }
    }
    if means.is_empty() {
        return Err(fault(1, "expected a line for each picture, found none".into()));
    }
    Ok(means)
}

/// The cells of a line of CSV; quotes protect commas and are doubled inside (RFC 4180, without line breaks in cells).
fn fields(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        let cell = cells.last_mut().expect("there is always a cell");
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                cell.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            letter => cell.push(letter),
        }
    }
    cells
}
