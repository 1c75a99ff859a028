//! What a file is instead of one of tensors, by its first bytes: what downloads that went wrong leave behind, and files of other kinds.

/// How much of a text is looked at.
const LOOKED_AT: usize = 512;
/// How much of a text is shown.
const SHOWN: usize = 60;

/// First bytes, what they begin, and what to do.
const MAGICS: &[(&[u8], &str, &str)] = &[
    (b"version https://git-lfs", "a Git LFS pointer", PULL),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture", OTHER),
    (b"\xff\xd8\xff", "a JPEG picture", OTHER),
    (b"GIF8", "a GIF picture", OTHER),
    (b"BM", "a BMP picture", OTHER),
    (b"%PDF-", "a PDF document", OTHER),
    (b"\x1f\x8b", "a gzip archive", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", UNPACK),
    (b"\xfd7zXZ\x00", "an xz archive", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", UNPACK),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras)", CONVERT),
    (b"\x93NUMPY", "a NumPy array", CONVERT),
    (b"ggml", "a ggml file from before GGUF", CONVERT),
    (b"lmgg", "a ggml file from before GGUF", CONVERT),
    (b"tjgg", "a ggml file from before GGUF", CONVERT),
    (b"\x7fELF", "a program", OTHER),
    (b"MZ", "a program", OTHER),
];

const PULL: &str = "run `git lfs pull` in its folder";
const OTHER: &str = "name the model's file";
const UNPACK: &str = "unpack it";
const CONVERT: &str = "convert it to safetensors";
const AGAIN: &str = "download the file itself";

/// What begins so, and what to do about it; `None` where nothing is recognised.
pub(super) fn what(bytes: &[u8]) -> Option<(String, &'static str)> {
    let known = |found: &str, remedy: &'static str| Some((found.to_owned(), remedy));
    if let Some((_, found, remedy)) = MAGICS.iter().find(|(magic, ..)| bytes.starts_with(magic) && !has_header(bytes)) {
        return known(found, remedy);
    }
    if let (Some(b"RIFF"), Some(b"WEBP")) = (bytes.get(..4), bytes.get(8..12)) {
        return known("a WebP picture", OTHER);
    }
    if bytes.get(4..8) == Some(b"ftyp") {
        return known("a picture or a film (AVIF, HEIC, MP4)", OTHER);
    }
    // ONNX is a protocol buffer that begins with its version and its producer.
    if bytes.starts_with(b"\x08") && bytes.get(2) == Some(&0x12) && !has_header(bytes) {
        return known("an ONNX model", "name a safetensors file of the same model");
    }
    // What is shorter than the length of a header is cut short, whatever it spells.
    if bytes.len() > 8 { text(&bytes[..bytes.len().min(LOOKED_AT)]) } else { None }
}

/// Whether a safetensors header may follow its length, which may begin with any bytes.
fn has_header(bytes: &[u8]) -> bool {
    bytes.get(8) == Some(&b'{')
}

/// A page, a server's answer in JSON, or any other text, also when blanks or a byte order mark come first.
fn text(bytes: &[u8]) -> Option<(String, &'static str)> {
    if bytes.iter().all(|byte| *byte == 0) {
        let zeros = !bytes.is_empty();
        return zeros.then(|| ("nothing but zeros: a download that never wrote".to_owned(), AGAIN));
    }
    let text = String::from_utf8_lossy(bytes);
    let start = text.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    let lower = start.to_ascii_lowercase();
    if ["<!doctype html", "<html", "<head", "<body", "<script"].iter().any(|head| lower.starts_with(head)) {
        return Some(("an HTML page, not the file".into(), AGAIN));
    }
    if lower.starts_with('<') {
        return Some(("a page or a server's answer in XML, not the file".into(), AGAIN));
    }
    // The last character may be cut.
    let printable = text.trim_end_matches('\u{fffd}').chars().all(|c| !c.is_control() || c.is_whitespace());
    if !printable || start.is_empty() {
        return None;
    }
    let line: String = start.lines().next().unwrap_or_default().chars().take(SHOWN).collect();
    let kind = if start.starts_with(['{', '[']) { "JSON" } else { "a text" };
    Some((format!("{kind} that begins {line:?}, not the file"), AGAIN))
}

#[cfg(test)]
mod tests {
    use super::what;

    #[test]
    fn what_lies_there_instead_is_named() {
        for (bytes, says) in [
            (&b"\n\n\n  <!DOCTYPE html>\n<html>"[..], "an HTML page, not the file"),
            (b"\xef\xbb\xbf<HTML><head>", "an HTML page, not the file"),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied", "XML"),
            (b"{\"error\":\"Repository not found\"}", "JSON that begins"),
            (b"Entry not found", "a text that begins \"Entry not found\""),
            (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
            (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG picture"),
            (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG picture"),
            (b"RIFF\x10\0\0\0WEBPVP8 ", "a WebP picture"),
            (b"7z\xbc\xaf\x27\x1c\0\x04", "a 7z archive"),
            (&[0; 100], "nothing but zeros"),
        ] {
            let (found, _) = what(bytes).unwrap_or_else(|| panic!("{says}"));
            assert!(found.contains(says), "{found}");
        }
        // A header of a length whose bytes spell something, and bytes that are nothing.
        assert!(what(b"BM\0\0\0\0\0\0{\"a\":{}}").is_none());
        assert!(what(&[1, 2, 3, 200, 201]).is_none() && what(&[]).is_none());
    }
}
