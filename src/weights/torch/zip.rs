//! The entries of a ZIP archive whose bytes lie in the file as they are (PKWARE's APPNOTE.TXT, sections 4.3 and 4.5.3).

use std::collections::BTreeMap;
use std::ops::Range;

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
pub(super) fn entries(bytes: &[u8]) -> Result<BTreeMap<&str, Entry>, String> {
    let (directory, count) = directory(bytes)?;
    let mut cursor = Cursor::from(bytes, directory).ok_or_else(damaged)?;
    let mut entries = BTreeMap::new();
    for _ in 0..count {
        let (name, entry) = entry(bytes, &mut cursor).ok_or_else(damaged)?;
        let name = std::str::from_utf8(name).map_err(|_| damaged())?;
        if entries.insert(name, entry).is_some() {
            return Err(format!("the archive has two entries {name:?}; {AGAIN}"));
        }
    }
    Ok(entries)
}

const AGAIN: &str = "the file is damaged: download it again";

fn damaged() -> String {
    "the archive's directory and the file do not agree; it is cut short or damaged: download it again".to_owned()
}

/// Where the directory begins, and how many entries it has.
fn directory(bytes: &[u8]) -> Result<(usize, u64), String> {
    let least = bytes.len().saturating_sub(END_BYTES + MOST_COMMENT);
    let ends_here = |at: &usize| {
        let comment = bytes.get(at + 20..at + END_BYTES).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]])));
        bytes[*at..].starts_with(END) && comment.is_some_and(|length| at + END_BYTES + length == bytes.len())
    };
    let last = bytes.len().checked_sub(END_BYTES).ok_or_else(damaged)?;
    let end = (least..=last).rev().find(ends_here).ok_or_else(damaged)?;
    let mut cursor = Cursor::from(bytes, end + 10).ok_or_else(damaged)?;
    let fields = (|| Some((cursor.u16()?, cursor.u32()?, cursor.u32()?)))();
    let (count, _, offset) = fields.ok_or_else(damaged)?;
    if count != u16::MAX && offset != u32::MAX {
        return Ok((offset as usize, u64::from(count)));
    }
    let long = end.checked_sub(LOCATOR_BYTES).and_then(|at| long_directory(bytes, at));
    long.ok_or_else(damaged)
}

/// The same from the records for large files, of which the locator lies at `at`.
fn long_directory(bytes: &[u8], at: usize) -> Option<(usize, u64)> {
    let mut locator = Cursor::from(bytes, at)?;
    if locator.u32()? != LONG_LOCATOR {
        return None;
    }
    locator.u32()?;
    let mut end = Cursor::from(bytes, usize::try_from(locator.u64()?).ok()?)?;
    if end.u32()? != LONG_END {
        return None;
    }
    end.take(28)?;
    let (count, _, offset) = (end.u64()?, end.u64()?, end.u64()?);
    Some((usize::try_from(offset).ok()?, count))
}

/// A line of the directory; `None` where it is damaged.
fn entry<'a>(bytes: &'a [u8], cursor: &mut Cursor<'a>) -> Option<(&'a [u8], Entry)> {
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
    if flags & 1 == 1 {
        return Some((name, Entry::Encrypted));
    }
    if method != 0 {
        return Some((name, Entry::Packed(method)));
    }
    let mut header = Cursor::from(bytes, usize::try_from(local).ok()?)?;
    if header.u32()? != LOCAL || whole != packed {
        return None;
    }
    header.take(22)?;
    let (its_name, its_extra) = (header.u16()?, header.u16()?);
    header.take(usize::from(its_name) + usize::from(its_extra))?;
    let start = header.at();
    header.take_long(whole)?;
    Some((name, Entry::Stored(start..header.at())))
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
