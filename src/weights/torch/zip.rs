//! The entries of a ZIP archive whose bytes lie in the file as they are (PKWARE's APPNOTE.TXT, sections 4.3 and 4.5.3).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use crate::weights::bytes::Bytes;
use crate::weights::cursor::Cursor;

/// What a file with at least one entry begins with.
pub(super) const MAGIC: &[u8] = b"PK\x03\x04";

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: &[u8] = b"PK\x05\x06";
const END_BYTES: usize = 22;
const LONG_END: u32 = 0x0606_4b50;
const LONG_LOCATOR: u32 = 0x0706_4b50;
const LOCATOR_BYTES: usize = 20;
const LONG_END_BYTES: usize = 56;
const LOCAL_BYTES: usize = 30;

/// A line for each of the tensors; anything larger is no directory.
const MOST_DIRECTORY: usize = 1 << 30;

/// The comment behind the end record has a length of 16 bits.
const MOST_COMMENT: usize = 0xffff;

/// An entry: its bytes in the file, or why they cannot be had.
#[derive(Clone)]
pub(super) enum Entry {
    Stored(Range<usize>),
    /// It is packed by this method.
    Packed(u16),
    Encrypted,
}

/// Every entry by name.
///
/// # Errors
/// Saying what is wrong, without the file's name.
pub(super) fn entries(bytes: &Bytes) -> Result<BTreeMap<String, Entry>, String> {
    let Directory { place, count } = directory(bytes)?;
    let lines = read(bytes, place)?;
    let mut cursor = Cursor::new(&lines);
    let mut entries = BTreeMap::new();
    for _ in 0..count {
        let line = line(&mut cursor).ok_or_else(damaged)?;
        let name = std::str::from_utf8(line.name).map_err(|_| damaged())?;
        let entry = entry(bytes, &line)?;
        if entries.insert(name.to_owned(), entry).is_some() {
            return Err(format!("the archive has two entries {name:?}; {AGAIN}"));
        }
    }
    Ok(entries)
}

const AGAIN: &str = "the file is damaged: download it again";

fn damaged() -> String {
    "the archive's directory and the file do not agree; it is cut short or damaged: download it again".to_owned()
}

/// Some of the file, which a directory says is there.
fn read(bytes: &Bytes, range: Range<usize>) -> Result<Cow<'_, [u8]>, String> {
    if range.start > range.end || range.end > bytes.len() {
        return Err(damaged());
    }
    bytes.read(range).map_err(|e| e.to_string())
}

/// Where the directory lies, and how many entries it has.
struct Directory {
    place: Range<usize>,
    count: u64,
}

fn directory(bytes: &Bytes) -> Result<Directory, String> {
    // The end record, its comment, and before them what large files have.
    let from = bytes.len().saturating_sub(END_BYTES + MOST_COMMENT + LOCATOR_BYTES);
    let tail = read(bytes, from..bytes.len())?;
    let least = tail.len().saturating_sub(END_BYTES + MOST_COMMENT);
    let ends_here = |at: &usize| {
        let comment = tail.get(at + 20..at + END_BYTES).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]])));
        tail[*at..].starts_with(END) && comment.is_some_and(|length| at + END_BYTES + length == tail.len())
    };
    let last = tail.len().checked_sub(END_BYTES).ok_or_else(damaged)?;
    let end = (least..=last).rev().find(ends_here).ok_or_else(damaged)?;
    let mut cursor = Cursor::from(&tail, end + 10).ok_or_else(damaged)?;
    let fields = (|| Some((cursor.u16()?, cursor.u32()?, cursor.u32()?)))();
    let (count, _, offset) = fields.ok_or_else(damaged)?;
    let (start, count) = if count != u16::MAX && offset != u32::MAX {
        (offset as usize, u64::from(count))
    } else {
        let locator = end.checked_sub(LOCATOR_BYTES).and_then(|at| tail.get(at..end)).ok_or_else(damaged)?;
        long_directory(bytes, locator)?
    };
    if start > from + end || from + end - start > MOST_DIRECTORY {
        return Err(damaged());
    }
    Ok(Directory { place: start..from + end, count })
}

/// Where the directory of a large file begins, and how many entries it has, from the record that the locator points to.
fn long_directory(bytes: &Bytes, locator: &[u8]) -> Result<(usize, u64), String> {
    let mut cursor = Cursor::new(locator);
    let place = (|| {
        let is_locator = cursor.u32()? == LONG_LOCATOR;
        cursor.u32()?;
        usize::try_from(cursor.u64()?).ok().filter(|_| is_locator)
    })();
    let place = place.ok_or_else(damaged)?;
    let record = read(bytes, place..place.checked_add(LONG_END_BYTES).ok_or_else(damaged)?)?;
    let mut end = Cursor::new(&record);
    let fields = (|| {
        let is_end = end.u32()? == LONG_END;
        end.take(28)?;
        let (count, _, offset) = (end.u64()?, end.u64()?, end.u64()?);
        Some((usize::try_from(offset).ok().filter(|_| is_end)?, count))
    })();
    fields.ok_or_else(damaged)
}

/// A line of the directory.
struct Line<'a> {
    name: &'a [u8],
    flags: u16,
    method: u16,
    whole: u64,
    packed: u64,
    local: u64,
}

/// The next line; `None` where it is damaged.
fn line<'a>(cursor: &mut Cursor<'a>) -> Option<Line<'a>> {
    if cursor.u32()? != CENTRAL {
        return None;
    }
    cursor.take(4)?;
    let (flags, method) = (cursor.u16()?, cursor.u16()?);
    cursor.take(8)?;
    let (packed, whole) = (cursor.u32()?, cursor.u32()?);
    let (name, extra, comment) = (cursor.u16()?, cursor.u16()?, cursor.u16()?);
    cursor.take(8)?;
    let local = cursor.u32()?;
    let name = cursor.take(usize::from(name))?;
    let extra = cursor.take(usize::from(extra))?;
    cursor.take(usize::from(comment))?;
    let [whole, packed, local] = long_fields([whole, packed, local], extra)?;
    Some(Line { name, flags, method, whole, packed, local })
}

/// Where the bytes of an entry lie: behind a header of its own.
fn entry(bytes: &Bytes, line: &Line<'_>) -> Result<Entry, String> {
    if line.flags & 1 == 1 {
        return Ok(Entry::Encrypted);
    }
    if line.method != 0 {
        return Ok(Entry::Packed(line.method));
    }
    let at = usize::try_from(line.local).ok().filter(|_| line.whole == line.packed).ok_or_else(damaged)?;
    let header = read(bytes, at..at.checked_add(LOCAL_BYTES).ok_or_else(damaged)?)?;
    let mut cursor = Cursor::new(&header);
    let behind = (|| {
        let is_local = cursor.u32()? == LOCAL;
        cursor.take(22)?;
        let (name, extra) = (cursor.u16()?, cursor.u16()?);
        is_local.then_some(usize::from(name) + usize::from(extra))
    })();
    let start = at + LOCAL_BYTES + behind.ok_or_else(damaged)?;
    let end = usize::try_from(line.whole).ok().and_then(|whole| start.checked_add(whole));
    match end.filter(|end| *end <= bytes.len()) {
        Some(end) => Ok(Entry::Stored(start..end)),
        None => Err(damaged()),
    }
}

/// Fields that are too large for 32 bits stand in the extra field 1, in this order.
fn long_fields(fields: [u32; 3], extra: &[u8]) -> Option<[u64; 3]> {
    let mut long = fields.map(u64::from);
    if !fields.contains(&u32::MAX) {
        return Some(long);
    }
    let mut cursor = Cursor::new(extra);
    while cursor.left() > 0 {
        let (id, length) = (cursor.u16()?, cursor.u16()?);
        let mut field = Cursor::new(cursor.take(usize::from(length))?);
        if id == 1 {
            for value in long.iter_mut().filter(|value| **value == u64::from(u32::MAX)) {
                *value = field.u64()?;
            }
            return Some(long);
        }
    }
    None
}
