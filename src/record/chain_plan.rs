//! How high the bands of a [`Chain`] are, and what memory they take.

use super::chain::MapKind;
use super::{Caps, Chain, DType, MemoryPlan, Part, Recording, Residual, Shape, Span, Tensor, Traffic, Window, plan};
use crate::Result;

/// The work and the memory of a chain on a device.
#[derive(Debug, Clone)]
pub struct ChainPlan {
    /// Its parts in order.
    pub parts: Vec<PartPlan>,
    /// The most bytes that feature maps take in host memory at one time.
    pub host_bytes: u64,
}

/// The work and the memory of a part.
#[derive(Debug, Clone)]
pub struct PartPlan {
    /// Where in the network.
    pub label: String,
    /// Whether it could be run in bands; a band may still be all of the map.
    pub in_bands: bool,
    /// Input rows of a run.
    pub rows: usize,
    /// Its runs.
    pub windows: Vec<Window>,
    /// The map that it reads: the whole of it.
    pub map: (Shape, DType),
    /// What the first half of its residual block read.
    pub kept: Option<(Shape, DType)>,
    /// What it makes: the whole of it.
    pub result: (Shape, DType),
    /// Device memory.
    pub memory: MemoryPlan,
    /// Floating-point operations of one run.
    pub flops: u64,
    /// Kernel launches of one run, and what they move.
    pub traffic: Traffic,
    /// Bytes of its weights by element type.
    pub weights: Vec<(DType, u64)>,
    /// What becomes of the map that it reads.
    residual: Residual,
}

impl ChainPlan {
    /// Gives each part the fewest bands with which it allocates at most `aim` bytes, and then the lowest bands of that number. A
    /// part that takes more than that as it is, or in its lowest bands, is planned all the same.
    ///
    /// # Errors
    /// When a part exceeds the device's limits even so.
    pub fn new(chain: &Chain<'_>, caps: &Caps, aim: u64) -> Result<Self> {
        Self::with_rows(chain, |part, map, kept| tallest(part, caps, map, kept, aim), caps)
    }

    /// Bands of these rows, or the nearest number that a part can have.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_rows(chain: &Chain<'_>, caps: &Caps, rows: usize) -> Result<Self> {
        let nearest = |part: &Part<'_>, (shape, _): MapKind, _: Option<MapKind>| match part.span {
            Span::Whole => Ok(shape.h),
            Span::Rows(reach) => Ok(reach.band_rows(rows, shape.h)),
        };
        Self::with_rows(chain, nearest, caps)
    }

    fn with_rows(
        chain: &Chain<'_>,
        rows_of: impl Fn(&Part<'_>, MapKind, Option<MapKind>) -> Result<usize>,
        caps: &Caps,
    ) -> Result<Self> {
        let (mut map, mut kept) = ((chain.shape, DType::F32), None);
        let mut parts = Vec::new();
        for part in &chain.parts {
            let rows = rows_of(part, map, kept)?;
            let planned = plan_part(part, caps, rows, map, kept)?;
            kept = (part.residual == Residual::Keep).then_some(map);
            map = planned.result;
            parts.push(planned);
        }
        let host_bytes = host_bytes(&parts);
        Ok(ChainPlan { parts, host_bytes })
    }

    /// Bytes that the executor allocates at one time: those of the largest part.
    pub fn peak_bytes(&self) -> u64 {
        self.largest().map_or(0, |part| part.memory.peak_bytes())
    }

    /// The part that takes most memory.
    pub fn largest(&self) -> Option<&PartPlan> {
        self.parts.iter().max_by_key(|part| part.memory.peak_bytes())
    }
}

fn plan_part(part: &Part<'_>, caps: &Caps, rows: usize, map: MapKind, kept: Option<MapKind>) -> Result<PartPlan> {
    let (recording, made) = part.record(caps, rows, map, kept)?;
    let height = map.0.h;
    let (windows, out_height) = match part.span {
        Span::Whole => (vec![Window { start: 0, keep: 0..made.shape.h, of_band: 0..made.shape.h }], made.shape.h),
        Span::Rows(reach) => (reach.windows(rows, height), reach.out_rows(height)),
    };
    Ok(PartPlan {
        label: part.label.clone(),
        in_bands: part.span != Span::Whole,
        rows,
        windows,
        map,
        kept: kept.filter(|_| part.residual == Residual::Add),
        result: (Shape { h: out_height, ..made.shape }, recording.dtype(made)),
        memory: plan(&recording)?,
        flops: recording.flops(),
        traffic: recording.traffic(),
        weights: recording.constant_bytes(),
        residual: part.residual,
    })
}

/// The rows of the fewest bands within `aim`, evened out.
fn tallest(part: &Part<'_>, caps: &Caps, map: MapKind, kept: Option<MapKind>, aim: u64) -> Result<usize> {
    let height = map.0.h;
    let Span::Rows(reach) = part.span else { return Ok(height) };
    let types = |recording: &Recording| recording.tensors.iter().map(|t| t.dtype).collect::<Vec<_>>();
    let least = reach.band_rows(1, height);
    // In a band that is too high for one binding, a recording would narrow f32 to the storage type: lower bands need not.
    let wanted = types(&part.record(caps, least, map, kept)?.0);
    let fits = |rows: usize| {
        let recorded: Result<(Recording, Tensor)> = part.record(caps, rows, map, kept);
        recorded.is_ok_and(|(recording, _)| {
            types(&recording) == wanted && plan(&recording).is_ok_and(|plan| plan.peak_bytes() <= aim)
        })
    };
    if fits(height) {
        return Ok(height);
    }
    let (mut low, mut high) = (least, height);
    // Invariant: low fits or is the least, high does not fit.
    while low + 1 < high {
        let middle = reach.band_rows((low + high) / 2, height);
        if middle <= low {
            break;
        }
        match fits(middle) {
            true => low = middle,
            false => high = middle,
        }
    }
    Ok(reach.balanced(low, height))
}

/// Goes through all runs as [`ChainProgram`](super::ChainProgram) does, counting rows.
fn host_bytes(parts: &[PartPlan]) -> u64 {
    let row = |(shape, dtype): MapKind| dtype.bytes(shape.w * shape.c) as u64;
    let mut most = 0;
    for part in parts {
        let all = part.map.0.h as u64;
        for window in &part.windows {
            let left = all - window.start as u64;
            let read = row(part.map) * if part.residual == Residual::Keep { all } else { left };
            let kept = part.kept.map_or(0, |kept| row(kept) * left);
            most = most.max(read + kept + row(part.result) * window.keep.end as u64);
        }
    }
    most
}
