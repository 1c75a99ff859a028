//! PNG in and out, with text chunks; a file appears whole or not at all.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use png::{BitDepth, ColorType, Transformations};

use super::Rgb8Image;
use crate::{Error, Result};

/// Pictures above this many pixels are refused: a damaged header could ask for any size.
const MAX_PIXELS: usize = 1 << 28;

/// Writes a picture and its texts (keyword of 1 to 79 Latin-1 letters, any text): to a temporary name in the same folder, then renamed.
///
/// # Errors
/// When the file exists and `overwrite` is false, or writing fails; nothing is left behind then.
pub fn write_png(path: &Path, image: &Rgb8Image, text: &[(String, String)], overwrite: bool) -> Result<()> {
    let bytes = encode(image, text).map_err(|e| Error::io(path, std::io::Error::other(e)))?;
    let part = partial_name(path);
    let written = write_whole(&part, &bytes).and_then(|()| publish(&part, path, overwrite));
    if written.is_err() {
        // The error that matters is the one being returned; the part may not even exist.
        let _ = std::fs::remove_file(&part);
    }
    written
}

fn partial_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.part", std::process::id()))
}

fn write_whole(part: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = BufWriter::new(File::create(part).map_err(|e| Error::io(part, e))?);
    file.write_all(bytes).and_then(|()| file.flush()).map_err(|e| Error::io(part, e))?;
    file.get_ref().sync_all().map_err(|e| Error::io(part, e))
}

/// Gives the finished file its name. A hard link fails if the name is taken, also by a file made since it was checked.
fn publish(part: &Path, path: &Path, overwrite: bool) -> Result<()> {
    if overwrite {
        return std::fs::rename(part, path).map_err(|e| Error::io(path, e));
    }
    match std::fs::hard_link(part, path) {
        Ok(()) => std::fs::remove_file(part).map_err(|e| Error::io(part, e)),
        Err(_) if path.exists() => Err(Error::io(
            path,
            std::io::Error::new(std::io::ErrorKind::AlreadyExists, "exists; choose another name or add --overwrite"),
        )),
        // A file system without hard links: the check above is all there is.
        Err(_) => std::fs::rename(part, path).map_err(|e| Error::io(path, e)),
    }
}

fn encode(image: &Rgb8Image, text: &[(String, String)]) -> std::result::Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, image.width as u32, image.height as u32);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    for (keyword, text) in text {
        // tEXt holds Latin-1 alone.
        if text.chars().all(|c| u32::from(c) < 256) {
            encoder.add_text_chunk(keyword.clone(), text.clone())?;
        } else {
            encoder.add_itxt_chunk(keyword.clone(), text.clone())?;
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&image.data)?;
    writer.finish()?;
    Ok(bytes)
}

fn open(path: &Path) -> Result<png::Reader<BufReader<File>>> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut decoder = png::Decoder::new(BufReader::new(file));
    decoder.set_transformations(Transformations::normalize_to_color8());
    let reader = decoder.read_info().map_err(|e| damaged(path, e))?;
    let info = reader.info();
    if info.width as usize * info.height as usize > MAX_PIXELS {
        return Err(damaged(path, format!("{}×{} pixels, at most {MAX_PIXELS} are read", info.width, info.height)));
    }
    Ok(reader)
}

fn damaged(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::io(path, std::io::Error::new(std::io::ErrorKind::InvalidData, format!("not a PNG that can be read: {what}")))
}

/// Reads a PNG of any kind as 8-bit RGB; transparency is dropped.
///
/// # Errors
/// When the file is missing, damaged, not a PNG, or too large.
pub fn read_png(path: &Path) -> Result<Rgb8Image> {
    let mut reader = open(path)?;
    let size = reader.output_buffer_size().ok_or_else(|| damaged(path, "its size overflows"))?;
    let mut buffer = vec![0; size];
    let frame = reader.next_frame(&mut buffer).map_err(|e| damaged(path, e))?;
    let samples = frame.color_type.samples();
    let data = buffer[..frame.buffer_size()]
        .chunks_exact(samples)
        .flat_map(|pixel| if samples < 3 { [pixel[0]; 3] } else { [pixel[0], pixel[1], pixel[2]] })
        .collect();
    Ok(Rgb8Image { width: frame.width as usize, height: frame.height as usize, data })
}

/// The texts of a PNG, by keyword.
///
/// # Errors
/// As [`read_png`].
pub fn png_text(path: &Path) -> Result<Vec<(String, String)>> {
    let reader = open(path)?;
    let info = reader.info();
    let mut found: Vec<(String, String)> =
        info.uncompressed_latin1_text.iter().map(|t| (t.keyword.clone(), t.text.clone())).collect();
    for chunk in &info.utf8_text {
        found.push((chunk.keyword.clone(), chunk.get_text().map_err(|e| damaged(path, e))?));
    }
    Ok(found)
}
