//! What tensors are made of in a pickle of PyTorch: storages by persistent id, and the functions of `torch/_utils.py` that make tensors of them.

use super::pickle::Problem;
use super::values::{Global, Node, Nodes, Value};
use crate::weights::StoredType;

/// A run of elements in an entry of the archive (`torch/serialization.py`, `persistent_id`: `("storage", class, key, device, elements)`).
#[derive(Debug, Clone, Copy)]
pub(super) struct Storage<'a> {
    /// `None`: bytes of what the tensor says (`UntypedStorage`).
    pub(super) element: Option<Element>,
    /// The entry `data/KEY`.
    pub(super) key: &'a str,
    /// Elements, or bytes.
    pub(super) len: u64,
}

/// A tensor's elements in a storage.
#[derive(Debug)]
pub(super) struct Tensor<'a> {
    pub(super) element: Element,
    pub(super) storage: Storage<'a>,
    /// Elements before the first.
    pub(super) offset: u64,
    pub(super) shape: Vec<u64>,
    /// Elements from one to the next along each extent.
    pub(super) strides: Vec<u64>,
}

/// An element's type, and its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) dtype: StoredType,
    pub(super) size: u64,
}

/// More than any network's tensors have.
const MAX_EXTENTS: usize = 16;

/// What a call gives.
pub(super) enum Made<'a> {
    Value(Value<'a>),
    Node(Node<'a>),
}

/// The element types by the names of storages' classes and of `torch.dtype`s.
const ELEMENTS: &[(&str, &str, StoredType, u64)] = &[
    ("FloatStorage", "float32", StoredType::F32, 4),
    ("HalfStorage", "float16", StoredType::F16, 2),
    ("BFloat16Storage", "bfloat16", StoredType::BF16, 2),
    ("", "float8_e4m3fn", StoredType::F8E4M3, 1),
    ("", "float8_e5m2", StoredType::F8E5M2, 1),
    ("DoubleStorage", "float64", StoredType::Other("F64"), 8),
    ("LongStorage", "int64", StoredType::Other("I64"), 8),
    ("IntStorage", "int32", StoredType::Other("I32"), 4),
    ("ShortStorage", "int16", StoredType::Other("I16"), 2),
    ("CharStorage", "int8", StoredType::Other("I8"), 1),
    ("ByteStorage", "uint8", StoredType::Other("U8"), 1),
    ("BoolStorage", "bool", StoredType::Other("BOOL"), 1),
];

/// The storage that a persistent id names; `None` for an id of another kind.
pub(super) fn storage<'a>(id: &Node<'a>, nodes: &Nodes<'a>) -> Result<Option<Storage<'a>>, Problem> {
    let Node::Tuple(parts) = id else { return Ok(None) };
    let [Value::Text("storage"), class, Value::Text(key), _, Value::Int(len), ..] = parts[..] else { return Ok(None) };
    let Some(Node::Global(class)) = nodes.of(class) else { return Err(Problem::Damaged) };
    let is_torch = class.module == "torch" || class.module == "torch.storage";
    let known = ELEMENTS.iter().find(|(storage, ..)| is_torch && !storage.is_empty() && *storage == class.name);
    let element = match known {
        Some(&(_, _, dtype, size)) => Some(Element { dtype, size }),
        None if is_torch && class.name == "UntypedStorage" => None,
        None => return Err(Problem::Said(format!("expected a storage of PyTorch, got {class}"))),
    };
    let len = u64::try_from(len).map_err(|_| Problem::Damaged)?;
    Ok(Some(Storage { element, key, len }))
}

/// Memory that [`call`] needs beside its node.
pub(super) fn size<'a>(global: Global<'a>, arguments: &[Value<'a>], nodes: &Nodes<'a>) -> usize {
    let list = arguments.first().map_or(0, |&list| sequence(list, nodes).map_or(0, <[_]>::len));
    match global.module {
        "collections" => list.saturating_mul(2 * size_of::<Value<'_>>()),
        _ => size_of::<Tensor<'_>>() + 2 * MAX_EXTENTS * size_of::<u64>(),
    }
}

/// What a function or class would have made; [`Node::Foreign`] for one that tensors do not need.
pub(super) fn call<'a>(global: Global<'a>, arguments: &[Value<'a>], nodes: &Nodes<'a>) -> Result<Made<'a>, Problem> {
    let made = match (global.module, global.name) {
        ("collections", "OrderedDict") => Node::Dict(ordered(arguments, nodes)?),
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => {
            let [storage, offset, shape, strides, ..] = *arguments else { return Err(Problem::Damaged) };
            Node::Tensor(Box::new(tensor([storage, offset, shape, strides], None, nodes)?))
        }
        // (storage, offset, shape, strides, requires_grad, hooks, dtype, …)
        ("torch._utils", "_rebuild_tensor_v3") => {
            let [storage, offset, shape, strides, _, _, dtype, ..] = *arguments else { return Err(Problem::Damaged) };
            Node::Tensor(Box::new(tensor([storage, offset, shape, strides], Some(dtype), nodes)?))
        }
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => match arguments.first() {
            Some(&inner) if matches!(nodes.of(inner), Some(Node::Tensor(_))) => return Ok(Made::Value(inner)),
            _ => return Err(Problem::Damaged),
        },
        // A tensor with attributes, or of a class of its own: (function, class, its arguments, attributes).
        ("torch._tensor", "_rebuild_from_type_v2") => match *arguments {
            [function, class, inner, ..] => return typed(global, [function, class, inner], nodes),
            _ => return Err(Problem::Damaged),
        },
        _ => Node::Foreign(global),
    };
    Ok(Made::Node(made))
}

/// What a function makes of a plain tensor's or parameter's parts; those of other classes may mean something else.
fn typed<'a>(
    global: Global<'a>,
    [function, class, inner]: [Value<'a>; 3],
    nodes: &Nodes<'a>,
) -> Result<Made<'a>, Problem> {
    let (Some(Node::Global(function)), Some(Node::Global(class))) = (nodes.of(function), nodes.of(class)) else {
        return Err(Problem::Damaged);
    };
    let is_plain = matches!((class.module, class.name), ("torch", "Tensor") | ("torch.nn.parameter", "Parameter"));
    let is_known = matches!(function.module, "torch._utils");
    if is_plain && is_known {
        call(*function, sequence(inner, nodes)?, nodes)
    } else {
        Ok(Made::Node(Node::Foreign(if is_plain { global } else { *class })))
    }
}

/// The pairs of `OrderedDict(…)`: none, or a list of pairs as Python 2 wrote it.
fn ordered<'a>(arguments: &[Value<'a>], nodes: &Nodes<'a>) -> Result<Vec<(Value<'a>, Value<'a>)>, Problem> {
    let Some(&list) = arguments.first() else { return Ok(Vec::new()) };
    let parts = sequence(list, nodes)?;
    let pair = |&part: &Value<'a>| match sequence(part, nodes)? {
        [key, value] => Ok((*key, *value)),
        _ => Err(Problem::Damaged),
    };
    parts.iter().map(pair).collect()
}

fn sequence<'n, 'a>(value: Value<'a>, nodes: &'n Nodes<'a>) -> Result<&'n [Value<'a>], Problem> {
    match nodes.of(value) {
        Some(Node::Tuple(parts) | Node::List(parts)) => Ok(parts),
        _ => Err(Problem::Damaged),
    }
}

fn tensor<'a>(
    [storage, offset, shape, strides]: [Value<'a>; 4],
    dtype: Option<Value<'a>>,
    nodes: &Nodes<'a>,
) -> Result<Tensor<'a>, Problem> {
    let storage = match nodes.of(storage) {
        Some(Node::Storage(storage)) => **storage,
        Some(Node::Foreign(global)) => {
            return Err(Problem::Said(format!("expected a tensor's storage, got what {global} makes")));
        }
        _ => return Err(Problem::Damaged),
    };
    let stated = match dtype.map(|dtype| nodes.of(dtype)) {
        None => None,
        Some(Some(Node::Global(Global { module: "torch", name }))) => {
            let known = ELEMENTS.iter().find(|(_, dtype, ..)| dtype == name);
            let unknown =
                || Problem::Said(format!("expected a known element type, got {}", Global { module: "torch", name }));
            known.map(|&(_, _, dtype, size)| Some(Element { dtype, size })).ok_or_else(unknown)?
        }
        Some(_) => return Err(Problem::Damaged),
    };
    let element = stated.or(storage.element).ok_or(Problem::Damaged)?;
    let numbers = |value| {
        let parts = sequence(value, nodes)?;
        if parts.len() > MAX_EXTENTS {
            return Err(Problem::Damaged);
        }
        parts.iter().map(|&v| count(v)).collect::<Result<Vec<u64>, Problem>>()
    };
    let (shape, strides) = (numbers(shape)?, numbers(strides)?);
    if shape.len() != strides.len() {
        return Err(Problem::Damaged);
    }
    Ok(Tensor { element, storage, offset: count(offset)?, shape, strides })
}

/// A whole number that is not negative.
fn count(value: Value<'_>) -> Result<u64, Problem> {
    match value {
        Value::Int(n) => u64::try_from(n).map_err(|_| Problem::Damaged),
        _ => Err(Problem::Damaged),
    }
}
