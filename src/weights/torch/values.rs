//! The values of a pickle.

use super::rebuild;

/// A value. Everything with parts is a [`Node`] of the [`Pickle`], so that values are small, may be shared, and are dropped without recursion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Text(&'a str),
    /// A number or bytes that no tensor needs.
    Other,
    Node(usize),
}

/// A value with parts.
#[derive(Debug)]
pub(super) enum Node<'a> {
    List(Vec<Value<'a>>),
    Tuple(Vec<Value<'a>>),
    Dict(Vec<(Value<'a>, Value<'a>)>),
    /// The name of a function or class.
    Global(Global<'a>),
    Storage(Box<rebuild::Storage<'a>>),
    Tensor(Box<rebuild::Tensor<'a>>),
    /// What a global that is not known here would have made.
    Foreign(Global<'a>),
}

/// Where Python would look for a function or class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Global<'a> {
    pub(super) module: &'a str,
    pub(super) name: &'a str,
}

impl std::fmt::Display for Global<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The names are a stranger's: quoted, and no longer than a line.
        let short = |text: &str| text.chars().take(60).collect::<String>();
        write!(f, "{:?}", format!("{}.{}", short(self.module), short(self.name)))
    }
}

/// What a stream said, and the value that it ended with.
pub(super) struct Pickle<'a> {
    pub(super) nodes: Nodes<'a>,
    pub(super) root: Value<'a>,
}

/// All nodes of a stream, in pieces of [`PIECE`], so that no list of them is ever copied to grow.
#[derive(Default)]
pub(super) struct Nodes<'a>(Vec<Vec<Node<'a>>>);

const PIECE: usize = 256;

impl<'a> Nodes<'a> {
    /// The node that a value is.
    pub(super) fn of(&self, value: Value<'a>) -> Option<&Node<'a>> {
        match value {
            Value::Node(index) => self.0.get(index / PIECE)?.get(index % PIECE),
            _ => None,
        }
    }

    pub(super) fn of_mut(&mut self, value: Value<'a>) -> Option<&mut Node<'a>> {
        match value {
            Value::Node(index) => self.0.get_mut(index / PIECE)?.get_mut(index % PIECE),
            _ => None,
        }
    }

    pub(super) fn push(&mut self, node: Node<'a>) -> Value<'a> {
        if self.0.last().is_none_or(|piece| piece.len() == PIECE) {
            self.0.push(Vec::with_capacity(PIECE));
        }
        let last = self.0.len() - 1;
        self.0[last].push(node);
        Value::Node(last * PIECE + self.0[last].len() - 1)
    }
}
