//! The parts of a layer's change → a [`Delta`], with every shape checked against the tensor that it changes.

use std::collections::BTreeMap;

use super::delta::{Delta, Factors, Magnitudes, Part, Side, SideValues, Terms};
use super::keys::Leaf;
use super::patches::Change;
use crate::{Error, Result};

/// Parts of one layer.
pub(super) type Parts = BTreeMap<Leaf, Part>;

/// The shape of the tensor to change: `[out, in · taps]`.
#[derive(Clone, Copy)]
struct Target<'a> {
    shape: &'a [usize],
    rows: usize,
    inner: usize,
    taps: usize,
}

impl<'a> Target<'a> {
    fn new(shape: &'a [usize]) -> Self {
        let at = |i: usize| shape.get(i).copied().unwrap_or(1);
        let taps = shape.iter().skip(2).fold(1, |n: usize, extent| n.saturating_mul(*extent));
        Target { shape, rows: at(0), inner: at(1), taps }
    }

    fn columns(self) -> usize {
        self.inner.saturating_mul(self.taps)
    }
}

const WEIGHT: &[Leaf] = &[Leaf::Up, Leaf::HadaW1A, Leaf::LokrW1, Leaf::LokrW1A, Leaf::Diff, Leaf::NormWeight];

/// What the parts make of a layer's `weight`, if they touch it. `scale` stands in for α / rank where the file has no α: PEFT keeps it
/// elsewhere.
pub(super) fn weight_change(parts: &Parts, shape: &[usize], scale: Option<Scale>) -> Result<Option<Change>> {
    let kinds: Vec<&Part> = WEIGHT.iter().filter_map(|leaf| parts.get(leaf)).collect();
    let whole = Target::new(shape);
    let latents = of_latents(parts, whole);
    let target = latents.as_deref().map_or(whole, Target::new);
    let (terms, rank) = match kinds.as_slice() {
        [] => return whole_or_nothing(parts),
        [part, ..] if shape.contains(&0) => {
            return Err(mismatch(part, "a layer with weights", &format!("{shape:?} in the model")));
        }
        [first, second, ..] => {
            let found = format!("{} and {}", first.name, second.name);
            return Err(refuse(first, "one format for a layer", &found, "the file is damaged"));
        }
        [_] if parts.contains_key(&Leaf::Up) => lora(parts, target)?,
        [_] if parts.contains_key(&Leaf::HadaW1A) => loha(parts, target)?,
        [part] if matches!(kind(parts), Kind::Full) => (full(part, target)?, None),
        [_] => lokr(parts, target)?,
    };
    let scale = match (rank, parts.get(&Leaf::Alpha), scale) {
        (None, ..) => 1.0,
        (Some(rank), Some(alpha), _) => number(alpha)? / rank as f64,
        (Some(rank), None, Some(scale)) => scale.of(rank),
        (Some(_), None, None) => 1.0,
    };
    let magnitudes = magnitudes(parts, whole)?;
    let (rows, columns, changed, taps) = (target.rows, whole.columns(), target.columns(), target.taps);
    Ok(Some(Change(Delta { terms, scale, magnitudes, rows, columns, changed, taps })))
}

/// Channels of latents.
const LATENTS: usize = 4;

/// A first convolution of 9 or 8 channels (inpainting, instructions) and a change made for the 4 of latents, which come first: the shape
/// that is changed. AUTOMATIC1111's program adds zeros for the others, too (`modules/networks`, `network_apply_weights`).
fn of_latents(parts: &Parts, target: Target<'_>) -> Option<Vec<usize>> {
    let (2.., &[rows, 8 | 9, height, width]) = (target.taps, target.shape) else { return None };
    let inner = |leaf: Leaf| {
        let part = parts.get(&leaf)?;
        Some(if part.tensor.shape.len() == 4 { part.tensor.shape[1] } else { part.extents()[1] / target.taps })
    };
    let made_for = inner(Leaf::Down).or_else(|| inner(Leaf::HadaW1B)).or_else(|| inner(Leaf::Diff));
    (made_for == Some(LATENTS) && !parts.contains_key(&Leaf::Mid)).then(|| vec![rows, LATENTS, height, width])
}

/// What the parts make of a layer's `bias`, if they touch it.
pub(super) fn bias_change(parts: &Parts, shape: &[usize]) -> Result<Option<Change>> {
    let Some(part) = parts.get(&Leaf::DiffBias).or_else(|| parts.get(&Leaf::NormBias)) else { return Ok(None) };
    let target = Target::new(shape);
    let (rows, columns) = (target.rows, target.columns());
    Ok(Some(Change(Delta {
        terms: full(part, target)?,
        scale: 1.0,
        magnitudes: None,
        rows,
        columns,
        changed: columns,
        taps: 1,
    })))
}

/// α in place of the one in the file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    pub(super) alpha: f64,
    /// rsLoRA (arXiv 2312.03732): α / √rank.
    pub(super) by_root: bool,
}

impl Scale {
    fn of(self, rank: usize) -> f64 {
        let rank = rank as f64;
        self.alpha / if self.by_root { rank.sqrt() } else { rank }
    }
}

/// The format of a layer's parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Lora,
    Loha,
    Lokr,
    Full,
}

pub(super) fn kind(parts: &Parts) -> Kind {
    let has = |leaves: &[Leaf]| leaves.iter().any(|leaf| parts.contains_key(leaf));
    if has(&[Leaf::Up, Leaf::Down]) {
        Kind::Lora
    } else if has(&[Leaf::HadaW1A, Leaf::HadaW1B, Leaf::HadaW2A, Leaf::HadaW2B]) {
        Kind::Loha
    } else if has(&[Leaf::LokrW1, Leaf::LokrW1A, Leaf::LokrW2, Leaf::LokrW2A]) {
        Kind::Lokr
    } else {
        Kind::Full
    }
}

/// Parts that change only the bias are fine; others without their main part are not.
fn whole_or_nothing(parts: &Parts) -> Result<Option<Change>> {
    let stray = parts.iter().find(|(leaf, _)| !matches!(leaf, Leaf::DiffBias | Leaf::NormBias | Leaf::Alpha));
    match stray {
        None => Ok(None),
        Some((_, part)) => {
            Err(refuse(part, "the layer's other factors beside it", "this one alone", "the file is damaged"))
        }
    }
}

fn lora(parts: &Parts, target: Target<'_>) -> Result<(Terms, Option<usize>)> {
    let up = need(parts, Leaf::Up, "up")?;
    let down = need(parts, Leaf::Down, "down")?;
    let rank = down.extents()[0];
    let factors = match parts.get(&Leaf::Mid) {
        None => two(up, down, rank, target)?,
        Some(mid) => core(up, false, mid, down, target)?,
    };
    Ok((Terms::Product(factors), Some(rank)))
}

fn loha(parts: &Parts, target: Target<'_>) -> Result<(Terms, Option<usize>)> {
    let side = |a: Leaf, b: Leaf, t: Leaf, name: &str| -> Result<(Factors, usize)> {
        let (a, b) = (need(parts, a, &format!("hada_{name}_a"))?, need(parts, b, &format!("hada_{name}_b"))?);
        let rank = b.extents()[0];
        Ok((if let Some(t) = parts.get(&t) { core(a, true, t, b, target)? } else { two(a, b, rank, target)? }, rank))
    };
    let (left, rank) = side(Leaf::HadaW1A, Leaf::HadaW1B, Leaf::HadaT1, "w1")?;
    let (right, _) = side(Leaf::HadaW2A, Leaf::HadaW2B, Leaf::HadaT2, "w2")?;
    Ok((Terms::Hadamard(left, right), Some(rank)))
}

fn lokr(parts: &Parts, target: Target<'_>) -> Result<(Terms, Option<usize>)> {
    let (left, left_rank) = match parts.get(&Leaf::LokrW1) {
        Some(whole) => (whole_side(whole)?, None),
        None => {
            let a = need(parts, Leaf::LokrW1A, "lokr_w1 or lokr_w1_a")?;
            product_side(a, need(parts, Leaf::LokrW1B, "lokr_w1_b")?)?
        }
    };
    let (right, right_rank) = match (parts.get(&Leaf::LokrW2), parts.get(&Leaf::LokrT2)) {
        (Some(whole), _) => (whole_side(whole)?, None),
        (None, t2) => {
            let a = need(parts, Leaf::LokrW2A, "lokr_w2 or lokr_w2_a")?;
            let b = need(parts, Leaf::LokrW2B, "lokr_w2_b")?;
            match t2 {
                None => product_side(a, b)?,
                Some(t2) => {
                    let (rows, inner, rank) = (a.extents()[1], b.extents()[1], b.extents()[0]);
                    let small = Target { rows, inner, ..target };
                    let factors = core(a, true, t2, b, small)?;
                    let values = SideValues::Product(factors);
                    (Side { values, rows, columns: inner.saturating_mul(target.taps) }, Some(rank))
                }
            }
        }
    };
    let first = parts.values().next().expect("a LoKr layer has parts");
    let sizes = (left.rows.checked_mul(right.rows), left.columns.checked_mul(right.columns));
    if sizes != (Some(target.rows), Some(target.columns())) {
        let found = format!("[{}, {}] ⊗ [{}, {}]", left.rows, left.columns, right.rows, right.columns);
        return Err(mismatch(first, &format!("{:?} as a Kronecker product", target.shape), &found));
    }
    Ok((Terms::Kronecker(left, right), right_rank.or(left_rank)))
}

fn whole_side(part: &Part) -> Result<Side> {
    let [rows, columns] = solid(part)?;
    Ok(Side { values: SideValues::Whole(part.clone()), rows, columns })
}

fn product_side(a: &Part, b: &Part) -> Result<(Side, Option<usize>)> {
    let ([rows, rank], [b_rows, columns]) = (solid(a)?, solid(b)?);
    if rank != b_rows {
        return Err(mismatch(b, &format!("rank {rank} as in {}", a.name), &format!("{:?}", b.tensor.shape)));
    }
    let factors = Factors::Two { a: a.clone(), b: b.clone() };
    Ok((Side { values: SideValues::Product(factors), rows, columns }, Some(rank)))
}

/// `a [out, rank] · b [rank, in · taps]`; trailing extents of 1, as of 1×1 convolutions, may be there or not.
fn two(a: &Part, b: &Part, rank: usize, target: Target<'_>) -> Result<Factors> {
    let ([a_rows, a_columns], [b_rows, b_columns]) = (solid(a)?, solid(b)?);
    if (a_rows, a_columns) != (target.rows, rank) {
        return Err(mismatch(a, &format!("[{}, {rank}] for {:?}", target.rows, target.shape), &shape(a)));
    }
    // [rank, in · taps] as one, or the convolution's own shape.
    let second = b.tensor.shape[1];
    if (b_rows, b_columns) != (rank, target.columns()) || (second != target.inner && second != target.columns()) {
        let rest: Vec<usize> = std::iter::once(rank).chain(target.shape.iter().skip(1).copied()).collect();
        return Err(mismatch(b, &format!("{rest:?} for {:?}", target.shape), &shape(b)));
    }
    Ok(Factors::Two { a: a.clone(), b: b.clone() })
}

/// A core `[p, q, taps…]` between `a` of p and `b [q, in]`.
fn core(a: &Part, transposed: bool, core: &Part, b: &Part, target: Target<'_>) -> Result<Factors> {
    let (a_extents, b_extents, core_extents) = (solid(a)?, solid(b)?, solid(core)?);
    let (p, q) = (core.tensor.shape[0], core.tensor.shape[1]);
    if core_extents[1] != q.saturating_mul(target.taps) {
        let kernel = &target.shape[2.min(target.shape.len())..];
        return Err(mismatch(core, &format!("a core [p, q] with the kernel {kernel:?}"), &shape(core)));
    }
    let wanted = if transposed { [p, target.rows] } else { [target.rows, p] };
    if a_extents != wanted {
        return Err(mismatch(a, &format!("{wanted:?} for {:?}", target.shape), &shape(a)));
    }
    if b_extents != [q, target.inner] {
        return Err(mismatch(b, &format!("[{q}, {}] for {:?}", target.inner, target.shape), &shape(b)));
    }
    Ok(Factors::Core { a: a.clone(), transposed, core: core.clone(), b: b.clone() })
}

fn full(part: &Part, target: Target<'_>) -> Result<Terms> {
    let trimmed = |shape: &[usize]| {
        let end = shape.iter().rposition(|&extent| extent != 1).map_or(0, |at| at + 1);
        shape[..end].to_vec()
    };
    if trimmed(&part.tensor.shape) != trimmed(target.shape) {
        return Err(mismatch(part, &format!("{:?}", target.shape), &shape(part)));
    }
    Ok(Terms::Full(part.clone()))
}

fn magnitudes(parts: &Parts, target: Target<'_>) -> Result<Option<Magnitudes>> {
    let (part, per_output) = match (parts.get(&Leaf::Magnitude), parts.get(&Leaf::DoraScale)) {
        (Some(part), _) => (part, true),
        // As ComfyUI tells them: the first extent is the output's, or there is none.
        (None, Some(part)) => (part, part.tensor.shape.first() == Some(&target.rows)),
        (None, None) => return Ok(None),
    };
    let count = if per_output { target.rows } else { target.inner };
    let [first, others] = part.extents();
    if first.saturating_mul(others) != count {
        let expected = format!("{} values for the outputs or [1, {}] for the inputs", target.rows, target.inner);
        return Err(mismatch(part, &expected, &shape(part)));
    }
    Ok(Some(Magnitudes { values: part.clone(), per_output }))
}

/// The one value of a scalar.
fn number(part: &Part) -> Result<f64> {
    match part.values()?.as_slice() {
        [value] if value.is_finite() => Ok(f64::from(*value)),
        values => Err(refuse(part, "one finite number", &format!("{} values", values.len()), "the file is damaged")),
    }
}

fn need<'p>(parts: &'p Parts, leaf: Leaf, name: &str) -> Result<&'p Part> {
    let other = parts.values().next().expect("a layer has parts");
    parts.get(&leaf).ok_or_else(|| refuse(other, &format!("{name} beside it"), "none", "the file is damaged"))
}

/// Extents of a matrix or a convolution with something in it.
fn solid(part: &Part) -> Result<[usize; 2]> {
    if part.tensor.shape.len() < 2 {
        return Err(refuse(part, "a matrix", &shape(part), "the file is damaged"));
    }
    if part.tensor.shape.contains(&0) {
        return Err(refuse(part, "a rank of 1 or more", &format!("{} (rank 0)", shape(part)), "train it again"));
    }
    Ok(part.extents())
}

fn shape(part: &Part) -> String {
    format!("{:?}", part.tensor.shape)
}

fn mismatch(part: &Part, expected: &str, found: &str) -> Error {
    refuse(part, expected, found, "the adapter was made for another model")
}

fn refuse(part: &Part, expected: &str, found: &str, remedy: &str) -> Error {
    Error::model(format!("{}: {}: expected {expected}, found {found}; {remedy}", part.file.label(), part.name))
        .in_file(part.file.label())
        .of_tensor(&part.name)
}
