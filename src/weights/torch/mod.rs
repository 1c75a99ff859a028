//! PyTorch's checkpoints since 1.6 (`.ckpt`, `.pt`, `.bin`): a ZIP archive with a pickle that says which tensors lie where, and an
//! entry for each storage (`torch/serialization.py`, `_save`). Nothing of a pickle is executed, and tensors stay where they are in the file.
//!
//! | file | what it does |
//! | --- | --- |
//! | `zip` | the archive's entries → places in the file |
//! | `pickle`, `values` | a stream → values, from a closed list of opcodes |
//! | `rebuild` | the calls that make tensors → what they would have made |

mod pickle;
mod rebuild;
mod values;
mod zip;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use self::rebuild::Tensor;
use self::values::{Node, Pickle, Value};
use self::zip::Entry;
use super::bytes::Bytes;
use super::file::{StoredTensor, unreadable};
use crate::{Error, Result};

/// The name under which training programs keep the tensors among other things.
const STATE: &str = "state_dict";

/// Bytes of a file from which on a pickle may ask for no more memory: that of the largest checkpoint has a few megabytes.
const MOST_FOR_PICKLE: usize = 8 << 20;

/// How deep dictionaries of tensors may lie in each other.
const MAX_DEPTH: usize = 16;

/// What turns a file that is not read into one that is.
const CONVERT: &str = "convert it where PyTorch is: python -c \"import torch, safetensors.torch as s; d = torch.load('IN', 'cpu', \
                       weights_only=True); d = d.get('state_dict', d); s.save_file({k: v.clone().contiguous() for k, v in d.items() \
                       if hasattr(v, 'dtype')}, 'OUT.safetensors')\"";

/// What a pickle without an archive begins with: protocol 2 and the magic number of PyTorch before 1.6.
const OLD_MAGIC: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";

/// Whether a file is one of PyTorch's, as far as its first bytes tell.
pub(super) fn is_torch(bytes: &[u8]) -> bool {
    bytes.starts_with(zip::MAGIC) || is_pickle(bytes) || is_tar(bytes)
}

fn is_pickle(bytes: &[u8]) -> bool {
    // A safetensors header of 0x…0280 bytes begins alike; then comes its JSON.
    matches!(bytes, [0x80, 2..=5, ..]) && bytes.get(8) != Some(&b'{')
}

fn is_tar(bytes: &[u8]) -> bool {
    bytes.get(257..262) == Some(b"ustar") && bytes.get(8) != Some(&b'{')
}

/// As much of a file as tells which of PyTorch's forms it has.
const HEAD: usize = 512;
/// The description of a checkpoint's tensors takes a few hundred kilobytes.
const MAX_PICKLE: usize = 1 << 30;

/// The tensors of a file.
///
/// # Errors
/// When it is not an archive, damaged, or holds what no list of tensors needs; each with what to do.
pub(super) fn read(label: &str, bytes: &Bytes) -> Result<BTreeMap<String, StoredTensor>> {
    let head = bytes.head(HEAD).map_err(|e| unreadable(label, e))?;
    let old = if head.starts_with(OLD_MAGIC) || is_tar(&head) {
        Some("the form of PyTorch before 1.6, which is no archive")
    } else if is_pickle(&head) {
        Some("a pickle outside an archive")
    } else {
        None
    };
    if let Some(old) = old {
        return Err(Error::model(format!(
            "{label}: expected a PyTorch checkpoint as since 1.6, found {old}; {CONVERT}"
        ))
        .in_file(label));
    }
    tensors(bytes).map_err(|wrong| {
        let remedy = if wrong.contains("download it again") { String::new() } else { format!("; {CONVERT}") };
        Error::model(format!("{label}: PyTorch checkpoint: {wrong}{remedy}")).in_file(label)
    })
}

fn tensors(bytes: &Bytes) -> std::result::Result<BTreeMap<String, StoredTensor>, String> {
    let archive = Archive::open(bytes)?;
    let place = archive.stored("data.pkl")?;
    if place.len() > MAX_PICKLE {
        return Err(format!("data.pkl: expected at most {MAX_PICKLE} bytes, got {}; the file is damaged", place.len()));
    }
    let stream = bytes.read(place).map_err(|e| e.to_string())?;
    let pickle = pickle::read(&stream, bytes.len().min(MOST_FOR_PICKLE))?;
    let mut found =
        Found { pickle: &pickle, archive, tensors: BTreeMap::new(), seen: BTreeSet::new(), left: bytes.len() };
    let root = found.dictionary(pickle.root, "the checkpoint")?;
    let state = root.iter().find(|(key, _)| *key == Value::Text(STATE));
    match state {
        Some((_, state)) => {
            let state = found.dictionary(*state, STATE)?;
            found.take(state, "", 0)?;
        }
        None => found.take(root, "", 0)?,
    }
    Ok(found.tensors)
}

struct Archive {
    entries: BTreeMap<String, Entry>,
    /// What all names begin with.
    folder: String,
}

impl Archive {
    fn open(bytes: &Bytes) -> std::result::Result<Self, String> {
        let entries = zip::entries(bytes)?;
        let folder = |name: &String| {
            let folder = name.strip_suffix("data.pkl")?;
            (folder.ends_with('/') || folder.is_empty()).then(|| folder.to_owned())
        };
        let folders: Vec<String> = entries.keys().filter_map(folder).collect();
        let [folder] = &folders[..] else {
            return Err(format!(
                "expected one data.pkl in the archive, found {}; it is no PyTorch checkpoint, unpack it and name the file in it",
                folders.len()
            ));
        };
        let archive = Archive { entries, folder: folder.clone() };
        if archive.entries.contains_key(format!("{folder}constants.pkl").as_str()) {
            return Err("expected tensors, found a TorchScript program".into());
        }
        if archive.entries.contains_key(format!("{folder}byteorder").as_str()) {
            let place = archive.stored("byteorder")?;
            let order = bytes.read(place.start..place.end.min(place.start + 64)).map_err(|e| e.to_string())?;
            if order.as_ref() != b"little" {
                return Err(format!(
                    "expected little-endian tensors, got {:?}",
                    String::from_utf8_lossy(&order[..order.len().min(16)])
                ));
            }
        }
        Ok(archive)
    }

    /// Where an entry's bytes are.
    fn stored(&self, name: &str) -> std::result::Result<Range<usize>, String> {
        let found = self.entries.get(format!("{}{name}", self.folder).as_str());
        // A storage's name is a stranger's.
        let name = name.escape_debug();
        match found {
            Some(Entry::Stored(range)) => Ok(range.clone()),
            Some(Entry::Packed(method)) => Err(format!(
                "{name}: expected bytes as they are, as PyTorch stores them, got them packed (method {method})"
            )),
            Some(Entry::Encrypted) => Err(format!("{name}: expected bytes as they are, got them encrypted")),
            None => Err(format!(
                "expected an entry {name} in the archive, there is none; the file is damaged: download it again"
            )),
        }
    }
}

/// Collects the tensors of dictionaries.
struct Found<'p, 'a> {
    pickle: &'p Pickle<'a>,
    archive: Archive,
    tensors: BTreeMap<String, StoredTensor>,
    /// Dictionaries that were walked.
    seen: BTreeSet<usize>,
    /// Bytes that names may still take.
    left: usize,
}

type Pairs<'p, 'a> = &'p [(Value<'a>, Value<'a>)];

impl<'p, 'a> Found<'p, 'a> {
    fn node(&self, value: Value<'a>) -> Option<&'p Node<'a>> {
        self.pickle.nodes.of(value)
    }

    fn dictionary(&self, value: Value<'a>, what: &str) -> std::result::Result<Pairs<'p, 'a>, String> {
        let found = match self.node(value) {
            Some(Node::Dict(pairs)) => return Ok(pairs),
            Some(Node::Foreign(global)) => format!("what {global} makes, which is never called here"),
            Some(Node::Global(global)) => format!("{global}"),
            Some(Node::Tensor(_)) => "a single tensor".into(),
            Some(Node::List(_) | Node::Tuple(_)) => "a list".into(),
            Some(Node::Storage(_)) | None => "a plain value".into(),
        };
        Err(format!("{what}: expected a dictionary of tensors, got {found}"))
    }

    /// The tensors of a dictionary, and of those in it, under names joined by dots. One that holds tensors holds nothing that is not known
    /// here; in others only tensors and dictionaries are looked at.
    fn take(&mut self, pairs: Pairs<'p, 'a>, path: &str, depth: usize) -> std::result::Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("expected at most {MAX_DEPTH} dictionaries inside each other, got more"));
        }
        let has_tensors = pairs.iter().any(|(_, value)| matches!(self.node(*value), Some(Node::Tensor(_))));
        for (key, value) in pairs {
            let node = self.node(*value);
            let matters = match node {
                Some(Node::Tensor(_) | Node::Dict(_)) => true,
                Some(Node::Foreign(_)) => has_tensors,
                _ => false,
            };
            if !matters {
                continue;
            }
            let name = self.name(path, *key)?;
            match node {
                Some(Node::Tensor(tensor)) => {
                    let stored = self.place(&name, tensor)?;
                    if self.tensors.insert(name.clone(), stored).is_some() {
                        return Err(format!("the pickle names {name} twice; the file is damaged: download it again"));
                    }
                }
                Some(Node::Dict(inner)) => {
                    if let Value::Node(index) = value
                        && !self.seen.insert(*index)
                    {
                        return Err(format!(
                            "{name}: expected a dictionary of its own, got one that stands elsewhere too"
                        ));
                    }
                    self.take(inner, &format!("{name}."), depth + 1)?;
                }
                Some(Node::Foreign(global)) => {
                    return Err(format!(
                        "{name}: expected a tensor, got what {global} makes, which is never called here"
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn name(&mut self, path: &str, key: Value<'a>) -> std::result::Result<String, String> {
        let name = match key {
            Value::Text(text) => format!("{path}{text}"),
            Value::Int(number) => format!("{path}{number}"),
            _ => return Err(format!("{path}: expected text for a tensor's name, got something else")),
        };
        if name.chars().any(char::is_control) {
            return Err(format!(
                "{name:?}: expected printable text for a tensor's name; the file is damaged: download it again"
            ));
        }
        let left = self.left.checked_sub(name.len());
        self.left = left.ok_or("the names take more memory than the file's size accounts for; the file is hostile")?;
        Ok(name)
    }

    /// Where a tensor's elements lie in the file, without gaps and the last extent the fastest.
    fn place(&self, name: &str, tensor: &Tensor<'_>) -> std::result::Result<StoredTensor, String> {
        let Tensor { element, storage, offset, shape, strides } = tensor;
        let outside = || {
            format!(
                "{name}: expected its {shape:?} elements inside the {} of its storage; the file is damaged: download it again",
                storage.len
            )
        };
        let entry = self.archive.stored(&format!("data/{}", storage.key))?;
        let unit = storage.element.map_or(1, |element| element.size);
        if storage.len.checked_mul(unit) != Some(entry.len() as u64) {
            return Err(format!(
                "{name}: expected {} elements in the entry data/{}, it has {} bytes; the file is damaged: download it again",
                storage.len,
                storage.key.escape_debug(),
                entry.len()
            ));
        }
        let count = shape.iter().try_fold(1u64, |n, &extent| n.checked_mul(extent)).ok_or_else(outside)?;
        let mut step = 1;
        for (&extent, &stride) in shape.iter().zip(strides).rev() {
            if extent != 1 && stride != step && count > 0 {
                return Err(format!(
                    "{name}: expected elements after each other (strides from the right 1, {}, …), got strides {strides:?} for {shape:?}",
                    shape.last().copied().unwrap_or(1)
                ));
            }
            step = step.saturating_mul(extent);
        }
        let bytes = |elements: u64| usize::try_from(elements.checked_mul(element.size)?).ok();
        let from = bytes(*offset).and_then(|offset| entry.start.checked_add(offset)).ok_or_else(outside)?;
        let end = bytes(count).and_then(|length| from.checked_add(length)).filter(|&end| end <= entry.end);
        let shape = shape.iter().map(|&extent| usize::try_from(extent).ok()).collect::<Option<Vec<usize>>>();
        let (end, shape) = end.zip(shape).ok_or_else(outside)?;
        Ok(StoredTensor { dtype: element.dtype, shape, range: from..end })
    }
}
