//! Pickle streams as data (CPython's `pickletools.py` describes every opcode): a closed list of opcodes builds plain values, and nothing is
//! ever imported or called. What a stream asks to be made by a function or class is made here if it is a dictionary or a part of a
//! tensor; anything else becomes [`Node::Foreign`], which remembers no more than the name.

use std::collections::BTreeMap;

use super::rebuild;
use super::values::{Global, Node, Nodes, Pickle, Value};
use crate::weights::cursor::Cursor;

/// What all values of a stream may take together: so many times the file's size (a tensor of few values takes several times its share of
/// the file), and so much more.
const TIMES: usize = 16;
const MORE: usize = 1 << 20;

/// What one list of values may take beyond the file's size.
const SLACK: usize = 48 << 10;

/// Reads a stream; `file` is the size of the file that it is a part of, as far as it counts.
///
/// # Errors
/// Saying what is wrong, without the file's name: an opcode outside the list, a stream that ends early or that asks for more memory than
/// the file's size.
pub(super) fn read(stream: &[u8], file: usize) -> Result<Pickle<'_>, String> {
    let mut machine = Machine {
        cursor: Cursor::new(stream),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
        nodes: Nodes::default(),
        file,
        left: file.saturating_mul(TIMES).saturating_add(MORE),
    };
    loop {
        let at = machine.cursor.at();
        let opcode = machine
            .cursor
            .u8()
            .ok_or_else(|| "the pickle ends without its end; the file is damaged: download it again".to_owned())?;
        if opcode == STOP {
            let root =
                machine.pop().ok_or("the pickle ends without a value; the file is damaged: download it again")?;
            return Ok(Pickle { nodes: machine.nodes, root });
        }
        machine.step(opcode).map_err(|problem| match problem {
            Problem::Unknown => format!("expected a pickle of tensors, got opcode {} at byte {at}, which no such pickle needs", name(opcode)),
            Problem::Damaged => format!("the pickle's opcode {opcode:#04x} at byte {at} lacks what it works on; the file is damaged: download it again"),
            Problem::Said(message) => message,
            Problem::TooLarge => {
                format!("the pickle asks for more memory than {file} bytes of the file account for; it is hostile or damaged")
            }
        })?;
    }
}

/// An opcode outside the list, by its name where it has one (`pickletools.py`).
fn name(opcode: u8) -> String {
    const NAMES: [(u8, &str); 15] = [
        (b'F', "FLOAT"),
        (b'I', "INT"),
        (b'L', "LONG"),
        (b'P', "PERSID"),
        (b'S', "STRING"),
        (b'V', "UNICODE"),
        (b'g', "GET"),
        (b'i', "INST"),
        (b'o', "OBJ"),
        (b'p', "PUT"),
        (0x82, "EXT1"),
        (0x83, "EXT2"),
        (0x84, "EXT4"),
        (0x97, "NEXT_BUFFER"),
        (0x98, "READONLY_BUFFER"),
    ];
    let known = NAMES.iter().find(|(code, _)| *code == opcode);
    known.map_or_else(|| format!("{opcode:#04x}"), |(_, name)| format!("{name} ({opcode:#04x})"))
}

/// Why a stream is refused.
pub(super) enum Problem {
    /// The opcode is not in the list.
    Unknown,
    /// Values that it needs are not there, or of another kind.
    Damaged,
    /// Values ask for too much memory.
    TooLarge,
    /// In words.
    Said(String),
}

type Step<T = ()> = Result<T, Problem>;

const STOP: u8 = b'.';

struct Machine<'a> {
    cursor: Cursor<'a>,
    stack: Vec<Value<'a>>,
    /// Heights of the stack, above which the next container's values lie.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Value<'a>>,
    nodes: Nodes<'a>,
    /// Bytes of the file.
    file: usize,
    /// Memory that values may still take.
    left: usize,
}

impl<'a> Machine<'a> {
    #[rustfmt::skip]
    fn step(&mut self, opcode: u8) -> Step {
        match opcode {
            // Protocol and frames say nothing here; a frame's length is implied.
            0x80 => self.byte().map(drop),
            0x95 => self.number(Cursor::u64).map(drop),
            b'(' => { self.room::<usize>(self.marks.len() + 1)?; self.marks.push(self.stack.len()); Ok(()) }
            b'0' => self.discard(),
            b'1' => self.since_mark().map(drop),
            b'2' => { let top = *self.stack.last().ok_or(Problem::Damaged)?; self.push(top) }
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'J' => { let n = self.number(Cursor::i32)?; self.push(Value::Int(n.into())) }
            b'K' => { let n = self.byte()?; self.push(Value::Int(n.into())) }
            b'M' => { let n = self.number(Cursor::u16)?; self.push(Value::Int(n.into())) }
            0x8a => { let length = self.byte()?; self.long(length.into()) }
            0x8b => { let length = self.number(Cursor::u32)?; self.long(length.into()) }
            b'G' => { self.number(Cursor::u64)?; self.push(Value::Other) }
            b'X' => { let length = self.number(Cursor::u32)?; self.text(length.into()) }
            0x8c => { let length = self.byte()?; self.text(length.into()) }
            0x8d => { let length = self.number(Cursor::u64)?; self.text(length) }
            // Strings of Python 2: text if they are.
            b'U' => { let length = self.byte()?; self.string(length.into()) }
            b'T' => { let length = self.number(Cursor::u32)?; self.string(length.into()) }
            b'C' => { let length = self.byte()?; self.bytes(length.into()) }
            b'B' => { let length = self.number(Cursor::u32)?; self.bytes(length.into()) }
            0x8e | 0x96 => { let length = self.number(Cursor::u64)?; self.bytes(length) }
            b']' => self.make(Node::List(Vec::new())),
            b'}' => self.make(Node::Dict(Vec::new())),
            b')' => self.make(Node::Tuple(Vec::new())),
            b't' => { let parts = self.since_mark()?; self.make(Node::Tuple(parts)) }
            b'l' => { let parts = self.since_mark()?; self.make(Node::List(parts)) }
            b'd' => { let parts = self.since_mark()?; self.dict(&parts) }
            0x85 => self.tuple(1),
            0x86 => self.tuple(2),
            0x87 => self.tuple(3),
            b'a' => { let part = self.need()?; self.append(&[part]) }
            b'e' => { let parts = self.since_mark()?; self.append(&parts) }
            b's' => { let (value, key) = (self.need()?, self.need()?); self.insert(&[key, value]) }
            b'u' => { let parts = self.since_mark()?; self.insert(&parts) }
            // Sets: no tensor is in one.
            0x8f => self.foreign("builtins", "set"),
            0x90 => { self.since_mark()?; self.top_node().map(drop) }
            0x91 => { self.since_mark()?; self.foreign("builtins", "frozenset") }
            b'c' => self.global(),
            0x93 => self.stack_global(),
            b'R' | 0x81 => { let (arguments, maker) = (self.need()?, self.need()?); self.call(maker, arguments) }
            0x92 => { self.need()?; let (arguments, maker) = (self.need()?, self.need()?); self.call(maker, arguments) }
            // An object's attributes: a dictionary has _metadata, which no tensor needs.
            b'b' => { self.need()?; self.top_node().map(drop) }
            b'Q' => { let id = self.need()?; self.persistent(id) }
            b'q' => { let index = self.byte()?; self.remember(index.into()) }
            b'r' => { let index = self.number(Cursor::u32)?; self.remember(index) }
            0x94 => { let index = u32::try_from(self.memo.len()).map_err(|_| Problem::TooLarge)?; self.remember(index) }
            b'h' => { let index = self.byte()?; self.recall(index.into()) }
            b'j' => { let index = self.number(Cursor::u32)?; self.recall(index) }
            _ => Err(Problem::Unknown),
        }
    }

    fn spend(&mut self, bytes: usize) -> Step {
        self.left = self.left.checked_sub(bytes).ok_or(Problem::TooLarge)?;
        Ok(())
    }

    /// Whether a list of so many may grow to twice as many.
    fn room<T>(&self, count: usize) -> Step {
        let fits = count.saturating_mul(2 * size_of::<T>()) <= self.file.saturating_add(SLACK);
        if fits { Ok(()) } else { Err(Problem::TooLarge) }
    }

    fn push(&mut self, value: Value<'a>) -> Step {
        self.room::<Value<'_>>(self.stack.len() + 1)?;
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Option<Value<'a>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() > floor { self.stack.pop() } else { None }
    }

    fn need(&mut self) -> Step<Value<'a>> {
        self.pop().ok_or(Problem::Damaged)
    }

    /// The topmost value, or the topmost mark.
    fn discard(&mut self) -> Step {
        if self.pop().is_none() {
            self.marks.pop().ok_or(Problem::Damaged)?;
        }
        Ok(())
    }

    /// The values above the topmost mark, which goes.
    fn since_mark(&mut self) -> Step<Vec<Value<'a>>> {
        let floor = self.marks.pop().ok_or(Problem::Damaged)?;
        self.spend((self.stack.len() - floor) * size_of::<Value<'_>>())?;
        Ok(self.stack.split_off(floor))
    }

    fn tuple(&mut self, count: usize) -> Step {
        let mut parts = (0..count).map(|_| self.need()).collect::<Step<Vec<_>>>()?;
        parts.reverse();
        self.make(Node::Tuple(parts))
    }

    fn make(&mut self, node: Node<'a>) -> Step {
        self.spend(size_of::<Node<'_>>())?;
        let value = self.nodes.push(node);
        self.push(value)
    }

    fn foreign(&mut self, module: &'a str, name: &'a str) -> Step {
        self.make(Node::Foreign(Global { module, name }))
    }

    /// The topmost value's node, which stays.
    fn top_node(&mut self) -> Step<&mut Node<'a>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = self.stack.last().filter(|_| self.stack.len() > floor).ok_or(Problem::Damaged)?;
        self.nodes.of_mut(*top).ok_or(Problem::Damaged)
    }

    fn append(&mut self, parts: &[Value<'a>]) -> Step {
        self.spend(size_of_val(parts))?;
        let length = if let Node::List(list) = self.top_node()? { list.len() } else { 0 };
        self.room::<Value<'_>>(length + parts.len())?;
        match self.top_node()? {
            Node::List(list) => list.extend_from_slice(parts),
            // A class that is a list, too.
            Node::Foreign(_) => {}
            _ => return Err(Problem::Damaged),
        }
        Ok(())
    }

    fn insert(&mut self, parts: &[Value<'a>]) -> Step {
        self.spend(size_of_val(parts))?;
        let length = if let Node::Dict(dict) = self.top_node()? { dict.len() } else { 0 };
        self.room::<(Value<'_>, Value<'_>)>(length + parts.len() / 2)?;
        match self.top_node()? {
            Node::Dict(dict) => dict.extend(pairs(parts)?),
            Node::Foreign(_) => {}
            _ => return Err(Problem::Damaged),
        }
        Ok(())
    }

    fn dict(&mut self, parts: &[Value<'a>]) -> Step {
        self.make(Node::Dict(pairs(parts)?.collect()))
    }

    fn byte(&mut self) -> Step<u8> {
        self.number(Cursor::u8)
    }

    fn number<T>(&mut self, read: impl Fn(&mut Cursor<'a>) -> Option<T>) -> Step<T> {
        read(&mut self.cursor).ok_or(Problem::Damaged)
    }

    /// A whole number of any length, the lowest byte first, in two's complement.
    fn long(&mut self, length: u64) -> Step {
        let bytes = self.cursor.take_long(length).ok_or(Problem::Damaged)?;
        let negative = bytes.last().is_some_and(|&last| last > 127);
        let mut whole = [if negative { 0xff } else { 0 }; 8];
        let fits = bytes.len() <= whole.len();
        if fits {
            whole[..bytes.len()].copy_from_slice(bytes);
        }
        self.push(if fits { Value::Int(i64::from_le_bytes(whole)) } else { Value::Other })
    }

    fn text(&mut self, length: u64) -> Step {
        let bytes = self.cursor.take_long(length).ok_or(Problem::Damaged)?;
        let text = std::str::from_utf8(bytes).map_err(|_| Problem::Damaged)?;
        self.push(Value::Text(text))
    }

    fn string(&mut self, length: u64) -> Step {
        let bytes = self.cursor.take_long(length).ok_or(Problem::Damaged)?;
        self.push(std::str::from_utf8(bytes).map_or(Value::Other, Value::Text))
    }

    fn bytes(&mut self, length: u64) -> Step {
        self.cursor.take_long(length).ok_or(Problem::Damaged)?;
        self.push(Value::Other)
    }

    fn global(&mut self) -> Step {
        let mut line = || std::str::from_utf8(self.cursor.line()?).ok();
        let (module, name) = (line().ok_or(Problem::Damaged)?, line().ok_or(Problem::Damaged)?);
        self.make(Node::Global(Global { module, name }))
    }

    fn stack_global(&mut self) -> Step {
        match (self.need()?, self.need()?) {
            (Value::Text(name), Value::Text(module)) => self.make(Node::Global(Global { module, name })),
            _ => Err(Problem::Damaged),
        }
    }

    /// What calling a global would give; nothing is called.
    fn call(&mut self, maker: Value<'a>, arguments: Value<'a>) -> Step {
        let Some(Node::Tuple(arguments)) = self.nodes.of(arguments) else { return Err(Problem::Damaged) };
        let global = match self.nodes.of(maker) {
            Some(Node::Global(global) | Node::Foreign(global)) => *global,
            _ => return Err(Problem::Damaged),
        };
        let size = rebuild::size(global, arguments, &self.nodes);
        self.room::<u8>(size)?;
        self.left = self.left.checked_sub(size).ok_or(Problem::TooLarge)?;
        match rebuild::call(global, arguments, &self.nodes)? {
            rebuild::Made::Value(value) => self.push(value),
            rebuild::Made::Node(node) => self.make(node),
        }
    }

    fn persistent(&mut self, id: Value<'a>) -> Step {
        let storage = match self.nodes.of(id) {
            Some(node) => rebuild::storage(node, &self.nodes)?,
            None => None,
        };
        match storage {
            Some(storage) => self.make(Node::Storage(Box::new(storage))),
            None => self.foreign("pickle", "persistent id"),
        }
    }

    fn remember(&mut self, index: u32) -> Step {
        self.spend(2 * size_of::<(u32, Value<'_>)>())?;
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = self.stack.last().filter(|_| self.stack.len() > floor).ok_or(Problem::Damaged)?;
        self.memo.insert(index, *top);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Step {
        let value = *self.memo.get(&index).ok_or(Problem::Damaged)?;
        self.push(value)
    }
}

fn pairs<'v, 'a>(parts: &'v [Value<'a>]) -> Step<impl Iterator<Item = (Value<'a>, Value<'a>)> + use<'v, 'a>> {
    if parts.len().is_multiple_of(2) {
        Ok(parts.chunks_exact(2).map(|pair| (pair[0], pair[1])))
    } else {
        Err(Problem::Damaged)
    }
}
