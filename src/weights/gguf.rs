//! The header of a GGUF file (ggml's `docs/gguf.md`): key-value pairs, then the tensors' names, extents, types and places.
//!
//! Extents are stored fastest first and turned round here. ComfyUI-GGUF cuts convolutions into rows of 256 and keeps their real extents
//! under `comfy.gguf.orig_shape.NAME` (city96/ComfyUI-GGUF, `tools/convert.py`).

use std::collections::BTreeMap;
use std::ops::Range;

use super::blocks::BlockType;
use super::bytes::Bytes;
use super::cursor::Cursor;
use super::element::StoredType;
use super::file::{StoredTensor, unreadable};
use crate::{Error, Result};

/// What a file begins with.
pub(super) const MAGIC: &[u8] = b"GGUF";

/// Where tensors begin if nothing else is said: at multiples of this.
const ALIGNMENT: usize = 32;

/// ggml itself has four.
const MAX_EXTENTS: u32 = 8;

/// How deep arrays may lie in each other.
const MAX_DEPTH: usize = 4;

/// Bytes of a key: ggml's `docs/gguf.md` has as many.
const MAX_KEY: usize = 0xffff;

/// Bytes of a tensor's name; ggml's own are shorter than 64.
const MAX_NAME: usize = 1024;

const ORIGINAL_SHAPE: &str = "comfy.gguf.orig_shape.";

/// A tensor as the header has it.
struct Info {
    name: String,
    shape: Vec<usize>,
    kind: u32,
    offset: u64,
}

/// What of the key-value pairs matters here.
#[derive(Default)]
struct Settings {
    alignment: Option<u64>,
    shapes: BTreeMap<String, Vec<usize>>,
}

/// The tensors of a file of `size` bytes that begins with [`MAGIC`], from so many of its first.
///
/// # Errors
/// Saying what is wrong, without the file's name.
fn tensors(head: &[u8], size: usize) -> std::result::Result<BTreeMap<String, StoredTensor>, String> {
    let mut cursor = Cursor::new(head);
    let (count, settings) = pairs(&mut cursor)?;
    // Twice over the entries, so that no list of them is kept: their data begins behind the last.
    let mut ahead = cursor.clone();
    for _ in 0..count {
        info(&mut ahead).ok_or_else(cut_short)??;
    }
    let alignment = match settings.alignment {
        None => ALIGNMENT,
        Some(stated) if stated.is_power_of_two() && stated <= 1 << 20 => stated as usize,
        Some(stated) => return Err(format!("general.alignment: expected a power of two, got {stated}; {DAMAGED}")),
    };
    let start = ahead.at().next_multiple_of(alignment);
    let mut tensors = BTreeMap::new();
    for _ in 0..count {
        let info = info(&mut cursor).ok_or_else(cut_short)??;
        let (name, tensor) = place(info, &settings, start, alignment, size)?;
        if tensors.insert(name.clone(), tensor).is_some() {
            return Err(format!("the header names {name} twice; {DAMAGED}"));
        }
    }
    let ranges = tensors.values().map(|tensor: &StoredTensor| tensor.range.clone());
    let mut ranges: Vec<Range<usize>> = ranges.filter(|range| !range.is_empty()).collect();
    ranges.sort_by_key(|range| range.start);
    if ranges.windows(2).any(|pair| pair[0].end > pair[1].start) {
        return Err(format!("the header puts tensors over each other; {DAMAGED}"));
    }
    Ok(tensors)
}

const DAMAGED: &str = "the file is damaged: download it again";

fn cut_short() -> String {
    "the header goes on behind the file's end; it is cut short or damaged: download it again".to_owned()
}

/// Everything before the tensors' entries, and how many those are.
fn pairs(cursor: &mut Cursor<'_>) -> std::result::Result<(u64, Settings), String> {
    cursor.take(MAGIC.len()).ok_or_else(cut_short)?;
    let version = cursor.u32().ok_or_else(cut_short)?;
    if ![2, 3].contains(&version) {
        let what = if version.swap_bytes() <= 3 { "a big-endian file" } else { "another" };
        return Err(format!("expected GGUF version 2 or 3, got {version} ({what}); convert the model again"));
    }
    let (tensors, pairs) = (cursor.u64().ok_or_else(cut_short)?, cursor.u64().ok_or_else(cut_short)?);
    let mut settings = Settings::default();
    for _ in 0..pairs {
        pair(cursor, &mut settings)?;
    }
    Ok((tensors, settings))
}

/// One key and its value, kept if it matters.
fn pair(cursor: &mut Cursor<'_>, settings: &mut Settings) -> std::result::Result<(), String> {
    let key = string(cursor).ok_or_else(cut_short)?;
    if key.len() > MAX_KEY {
        return Err(format!("expected a key of at most {MAX_KEY} bytes, got {}; {DAMAGED}", key.len()));
    }
    let key = String::from_utf8_lossy(key);
    let kind = cursor.u32().ok_or_else(cut_short)?;
    let mut value = cursor.clone();
    skip(cursor, kind, 0)?;
    let unexpected = || format!("{key:?}: expected a whole number or a list of them; {DAMAGED}");
    if key == "general.alignment" {
        settings.alignment = Some(number(&mut value, kind).ok_or_else(unexpected)?);
    } else if let Some(name) = key.strip_prefix(ORIGINAL_SHAPE) {
        let inner = value.u32().filter(|_| kind == ARRAY).ok_or_else(unexpected)?;
        let count = value.u64().filter(|&count| count <= u64::from(MAX_EXTENTS)).ok_or_else(unexpected)?;
        let extent = |_| usize::try_from(number(&mut value, inner)?).ok();
        let shape: Option<Vec<usize>> = (0..count).map(extent).collect();
        settings.shapes.insert(name.to_owned(), shape.ok_or_else(unexpected)?);
    }
    Ok(())
}

const ARRAY: u32 = 9;
const STRING: u32 = 8;

/// A whole number that is not negative.
fn number(cursor: &mut Cursor<'_>, kind: u32) -> Option<u64> {
    match kind {
        0 => cursor.u8().map(u64::from),
        2 => cursor.u16().map(u64::from),
        4 => cursor.u32().map(u64::from),
        5 => u64::try_from(cursor.i32()?).ok(),
        10 => cursor.u64(),
        11 => cursor.u64().filter(|&n| i64::try_from(n).is_ok()),
        _ => None,
    }
}

/// Bytes of a value of fixed size.
fn size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

fn skip(cursor: &mut Cursor<'_>, kind: u32, depth: usize) -> std::result::Result<(), String> {
    if let Some(size) = size(kind) {
        return cursor.take_long(size).map(drop).ok_or_else(cut_short);
    }
    match kind {
        STRING => string(cursor).map(drop).ok_or_else(cut_short),
        ARRAY if depth < MAX_DEPTH => {
            let (inner, count) = (cursor.u32().ok_or_else(cut_short)?, cursor.u64().ok_or_else(cut_short)?);
            if let Some(size) = size(inner) {
                return count.checked_mul(size).and_then(|n| cursor.take_long(n)).map(drop).ok_or_else(cut_short);
            }
            (0..count).try_for_each(|_| skip(cursor, inner, depth + 1))
        }
        other => Err(format!("expected a known type of metadata, got {other}; {DAMAGED}")),
    }
}

fn string<'a>(cursor: &mut Cursor<'a>) -> Option<&'a [u8]> {
    let length = cursor.u64()?;
    cursor.take_long(length)
}

/// A tensor's entry; `None` at the end of the bytes.
fn info(cursor: &mut Cursor<'_>) -> Option<std::result::Result<Info, String>> {
    let name = string(cursor)?;
    if name.len() > MAX_NAME {
        return Some(Err(format!(
            "expected a tensor's name of at most {MAX_NAME} bytes, got {}; {DAMAGED}",
            name.len()
        )));
    }
    let Ok(name) = std::str::from_utf8(name) else {
        return Some(Err(format!("a tensor's name is no text; {DAMAGED}")));
    };
    if name.chars().any(char::is_control) {
        return Some(Err(format!("{name:?}: expected printable text for a tensor's name; {DAMAGED}")));
    }
    let count = cursor.u32()?;
    if count > MAX_EXTENTS {
        return Some(Err(format!("{name}: expected at most {MAX_EXTENTS} extents, got {count}; {DAMAGED}")));
    }
    // An extent beyond usize is beyond any file too, and told as such.
    let mut extent = || cursor.u64().map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let mut shape = (0..count).map(|_| extent()).collect::<Option<Vec<usize>>>()?;
    shape.reverse();
    let (kind, offset) = (cursor.u32()?, cursor.u64()?);
    Some(Ok(Info { name: name.to_owned(), shape, kind, offset }))
}

/// Checks a tensor's type, extents and place.
fn place(
    Info { name, shape, kind, offset }: Info,
    settings: &Settings,
    start: usize,
    alignment: usize,
    file: usize,
) -> std::result::Result<(String, StoredTensor), String> {
    let Some((dtype, block, size)) = stored_type(kind) else {
        return Err(format!("{name}: expected a type that ggml has, got number {kind}; convert the model again"));
    };
    let values = |shape: &[usize]| shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent));
    let row = shape.last().copied().unwrap_or(1);
    let count = values(&shape).filter(|_| row.is_multiple_of(block));
    let bytes = count.and_then(|count| (count / block).checked_mul(size));
    let (Some(count), Some(bytes)) = (count, bytes) else {
        return Err(format!("{name}: expected rows of whole blocks of {block} {dtype}, got {shape:?}; {DAMAGED}"));
    };
    let shape = match settings.shapes.get(&name) {
        Some(original) if values(original) == Some(count) => original.clone(),
        Some(original) => {
            return Err(format!(
                "{name}: {ORIGINAL_SHAPE}: expected as many values as in {shape:?}, got {original:?}; {DAMAGED}"
            ));
        }
        None => shape,
    };
    let from = usize::try_from(offset).ok().filter(|offset| offset.is_multiple_of(alignment));
    let from = from.and_then(|offset| offset.checked_add(start));
    match from.and_then(|from| Some(from..from.checked_add(bytes)?)).filter(|range| range.end <= file) {
        Some(range) => Ok((name, StoredTensor { dtype, shape, range })),
        None => Err(format!(
            "{name}: expected {bytes} bytes at a multiple of {alignment} behind {start}, the file has {file} and the header says \
             {offset}; it is cut short or damaged: download it again"
        )),
    }
}

/// ggml's number of a type (`ggml.h`, `enum ggml_type`): what it is, values and bytes of a block.
fn stored_type(kind: u32) -> Option<(StoredType, usize, usize)> {
    let blocks = |blocks: BlockType| Some((StoredType::Blocks(blocks), blocks.values(), blocks.bytes()));
    let plain = |dtype: StoredType, size: usize| Some((dtype, 1, size));
    let other = |name: &'static str, values: usize, bytes: usize| Some((StoredType::Other(name), values, bytes));
    match kind {
        0 => plain(StoredType::F32, 4),
        1 => plain(StoredType::F16, 2),
        2 => blocks(BlockType::Q4_0),
        3 => blocks(BlockType::Q4_1),
        6 => blocks(BlockType::Q5_0),
        7 => blocks(BlockType::Q5_1),
        8 => blocks(BlockType::Q8_0),
        10 => blocks(BlockType::Q2K),
        11 => blocks(BlockType::Q3K),
        12 => blocks(BlockType::Q4K),
        13 => blocks(BlockType::Q5K),
        14 => blocks(BlockType::Q6K),
        16 => other("IQ2_XXS", 256, 66),
        17 => other("IQ2_XS", 256, 74),
        18 => other("IQ3_XXS", 256, 98),
        19 => other("IQ1_S", 256, 50),
        20 => other("IQ4_NL", 32, 18),
        21 => other("IQ3_S", 256, 110),
        22 => other("IQ2_S", 256, 82),
        23 => other("IQ4_XS", 256, 136),
        24 => other("I8", 1, 1),
        25 => other("I16", 1, 2),
        26 => other("I32", 1, 4),
        27 => other("I64", 1, 8),
        28 => other("F64", 1, 8),
        29 => other("IQ1_M", 256, 56),
        30 => plain(StoredType::BF16, 2),
        34 => other("TQ1_0", 256, 54),
        35 => other("TQ2_0", 256, 66),
        39 => other("MXFP4", 32, 17),
        _ => None,
    }
}

/// [`tensors`] with the file's name in what is wrong.
pub(super) fn read(label: &str, bytes: &Bytes) -> Result<BTreeMap<String, StoredTensor>> {
    let mut size = FIRST;
    loop {
        let head = bytes.head(size).map_err(|e| unreadable(label, e))?;
        match tensors(&head, bytes.len()) {
            // The header may go on behind what was read of it.
            Err(wrong) if wrong == cut_short() && head.len() < bytes.len() && size < MOST => size *= 8,
            read => return read.map_err(|wrong| Error::model(format!("{label}: GGUF: {wrong}")).in_file(label)),
        }
    }
}

/// Bytes of a header that are read at first, and at most: a vocabulary of a language model takes a few millions.
const FIRST: usize = 1 << 18;
const MOST: usize = 1 << 30;
