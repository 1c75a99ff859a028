//! What a PNG, JPEG or WebP file says beside its pixels, which are not decoded.

use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::Crc;
use flate2::read::ZlibDecoder;

use super::check_names;
use super::exif::{Exif, utf8_or_latin1};
use crate::{Error, Result, files};

/// All texts and EXIF of a file together, unpacked, are refused above this many bytes: a small file could hold gigabytes.
const MAX_BYTES: u64 = 16 << 20;

/// The keyword of an XMP packet, in every format that of PNG (XMP specification, part 3, 1.1.5).
pub const XMP: &str = "XML:com.adobe.xmp";

/// What an APP1 segment with an XMP packet begins with (the same, 1.1.3).
const XMP_SEGMENT: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

/// What a picture's file says beside its pixels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// A PNG's texts by keyword, in the file's order; a JPEG's comments under `Comment`; XMP under [`XMP`].
    pub texts: Vec<(String, String)>,
    /// The first EXIF block that can be read.
    pub exif: Option<Exif>,
}

impl Metadata {
    /// The first text of a keyword.
    pub fn text(&self, keyword: &str) -> Option<&str> {
        self.texts.iter().find(|(own, _)| own == keyword).map(|(_, text)| text.as_str())
    }
}

/// Reads what a PNG (tEXt, zTXt, iTXt and eXIf chunks in front of and behind the pixels), JPEG (comments, APP1) or WebP (EXIF and XMP
/// chunks) says beside its pixels; told apart by their first bytes.
///
/// # Errors
/// When the file is missing, of another kind, cut short, or says more than 16 MiB, unpacked.
pub fn read_metadata(path: &Path) -> Result<Metadata> {
    check_names(path)?;
    let file = files::open(path).map_err(|e| Error::io(path, e))?;
    let about = file.metadata().map_err(|e| Error::io(path, e))?;
    read_from(path, BufReader::new(file), about.len())
}

/// As [`read_metadata`], of a file's bytes; `path` is what messages call it.
///
/// # Errors
/// As [`read_metadata`].
pub fn metadata_in(path: &Path, bytes: &[u8]) -> Result<Metadata> {
    read_from(path, Cursor::new(bytes), bytes.len() as u64)
}

fn read_from(path: &Path, file: impl Read + Seek, length: u64) -> Result<Metadata> {
    let mut walk = Walk { path, file, length, left: MAX_BYTES, found: Metadata::default() };
    let mut first = [0; 12];
    walk.fill(&mut first)?;
    match first {
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => walk.png()?,
        [0xff, 0xd8, 0xff, ..] => walk.jpeg()?,
        [b'R', b'I', b'F', b'F', size @ .., b'W', b'E', b'B', b'P'] => {
            walk.webp(u64::from(u32::from_le_bytes([size[0], size[1], size[2], size[3]])))?;
        }
        _ => return Err(damaged(path, "expected a PNG, JPEG or WebP picture")),
    }
    Ok(walk.found)
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::io(path, std::io::Error::new(std::io::ErrorKind::InvalidData, what))
}

/// A way through a file's blocks.
struct Walk<'a, R> {
    path: &'a Path,
    file: R,
    /// The file's length.
    length: u64,
    /// Bytes that may still be kept.
    left: u64,
    found: Metadata,
}

impl<R: Read + Seek> Walk<'_, R> {
    fn cut(&self) -> Error {
        damaged(self.path, "the picture is cut short; copy or download it again")
    }

    fn too_much(&self) -> Error {
        damaged(self.path, &format!("its texts are more than {} MiB together, unpacked", MAX_BYTES >> 20))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        match self.file.read_exact(bytes) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Err(self.cut()),
            Err(e) => Err(Error::io(self.path, e)),
        }
    }

    fn go_to(&mut self, place: u64) -> Result<()> {
        if place > self.length {
            return Err(self.cut());
        }
        self.file.seek(SeekFrom::Start(place)).map(drop).map_err(|e| Error::io(self.path, e))
    }

    fn place(&mut self) -> Result<u64> {
        self.file.stream_position().map_err(|e| Error::io(self.path, e))
    }

    /// The next bytes, which count.
    fn keep(&mut self, count: u64) -> Result<Vec<u8>> {
        self.left = self.left.checked_sub(count).ok_or_else(|| self.too_much())?;
        let mut bytes = vec![0; count as usize];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn unpack(&mut self, packed: &[u8]) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let unpacked = ZlibDecoder::new(packed).take(self.left + 1).read_to_end(&mut bytes);
        unpacked.map_err(|_| damaged(self.path, "a compressed text is damaged"))?;
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| self.too_much())?;
        Ok(bytes)
    }

    fn exif(&mut self, block: &[u8]) {
        if self.found.exif.is_none() {
            self.found.exif = Exif::parse(block);
        }
    }

    /// PNG specification (third edition), 5.3 and 11.3.3: length, kind, data and checksum of each chunk.
    fn png(&mut self) -> Result<()> {
        let mut at = 8;
        loop {
            self.go_to(at)?;
            let mut head = [0; 8];
            self.fill(&mut head)?;
            let [a, b, c, d, kind @ ..] = head;
            let length = u64::from(u32::from_be_bytes([a, b, c, d]));
            at += 8 + length + 4;
            if at > self.length {
                return Err(self.cut());
            }
            match &kind {
                b"IEND" => return Ok(()),
                b"tEXt" | b"zTXt" | b"iTXt" | b"eXIf" => {
                    let data = self.keep(length)?;
                    let mut sum = [0; 4];
                    self.fill(&mut sum)?;
                    let mut crc = Crc::new();
                    crc.update(&kind);
                    crc.update(&data);
                    if crc.sum() != u32::from_be_bytes(sum) {
                        return Err(damaged(self.path, "a text's checksum is wrong: the picture is damaged"));
                    }
                    self.png_chunk(kind, &data)?;
                }
                _ => {}
            }
        }
    }

    fn png_chunk(&mut self, kind: [u8; 4], data: &[u8]) -> Result<()> {
        if &kind == b"eXIf" {
            self.exif(data);
            return Ok(());
        }
        let broken = || damaged(self.path, "a text is damaged");
        let (keyword, rest) = split_at_zero(data).ok_or_else(broken)?;
        let text = match &kind {
            // Latin-1 by the specification; stable-diffusion.cpp and others put UTF-8 there.
            b"tEXt" => utf8_or_latin1(rest),
            b"zTXt" => {
                let packed = rest.strip_prefix(&[0]).ok_or_else(broken)?;
                utf8_or_latin1(&self.unpack(packed)?)
            }
            _ => {
                let (flags, rest) = rest.split_at_checked(2).ok_or_else(broken)?;
                let (_language, rest) = split_at_zero(rest).ok_or_else(broken)?;
                let (_translated, rest) = split_at_zero(rest).ok_or_else(broken)?;
                match flags {
                    [0, _] => utf8_or_latin1(rest),
                    [1, 0] => utf8_or_latin1(&self.unpack(rest)?),
                    _ => return Err(broken()),
                }
            }
        };
        self.found.texts.push((utf8_or_latin1(keyword), text));
        Ok(())
    }

    /// ITU-T T.81, B.1: markers and lengths up to the first scan.
    fn jpeg(&mut self) -> Result<()> {
        self.go_to(2)?;
        loop {
            let mut byte = [0];
            self.fill(&mut byte)?;
            if byte != [0xff] {
                return Err(damaged(self.path, "a marker is damaged: no JPEG that can be read"));
            }
            while byte == [0xff] {
                self.fill(&mut byte)?;
            }
            let length = match byte[0] {
                0xd9 | 0xda => return Ok(()),
                0x01 | 0xd0..=0xd8 => continue,
                _ => {
                    let mut length = [0; 2];
                    self.fill(&mut length)?;
                    u64::from(u16::from_be_bytes(length)).checked_sub(2)
                }
            };
            let Some(length) = length else {
                return Err(damaged(self.path, "a length is damaged: no JPEG that can be read"));
            };
            let end = self.place()? + length;
            match byte[0] {
                0xe1 => {
                    let block = self.keep(length)?;
                    if block.starts_with(b"Exif\0") {
                        self.exif(&block);
                    } else if let Some(packet) = block.strip_prefix(XMP_SEGMENT) {
                        self.found.texts.push((XMP.into(), utf8_or_latin1(packet)));
                    }
                }
                0xfe => {
                    let text = utf8_or_latin1(&self.keep(length)?);
                    self.found.texts.push(("Comment".into(), text));
                }
                _ => {}
            }
            self.go_to(end)?;
        }
    }

    /// RFC 9649, 2.3: names and lengths of chunks, each padded to an even length.
    fn webp(&mut self, size: u64) -> Result<()> {
        let end = 8 + size;
        let mut at = 12;
        while at + 8 <= end {
            self.go_to(at)?;
            let mut head = [0; 8];
            self.fill(&mut head)?;
            let [kind @ .., a, b, c, d] = head;
            let length = u64::from(u32::from_le_bytes([a, b, c, d]));
            if at + 8 + length > self.length {
                return Err(self.cut());
            }
            match &kind {
                b"EXIF" => {
                    let block = self.keep(length)?;
                    self.exif(&block);
                }
                b"XMP " => {
                    let packet = utf8_or_latin1(&self.keep(length)?);
                    self.found.texts.push((XMP.into(), packet));
                }
                _ => {}
            }
            at += 8 + length + length % 2;
        }
        Ok(())
    }
}

fn split_at_zero(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let zero = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..zero], &bytes[zero + 1..]))
}
