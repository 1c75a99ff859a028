//! How attention is divided among cooperative matrices: `shaders/attention_coop.wgsl`.

use crate::record::{Caps, DType};

/// A subgroup owns a strip of `fragments` matrices of `size` queries of a head, a workgroup `strips` of them; keys are visited `keys` at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Matrices {
    size: u32,
    /// Of a subgroup, at most and at least.
    lanes: [u32; 2],
    /// Vectors of four channels in a head.
    head_quads: u32,
    fragments: u32,
    strips: u32,
    keys: u32,
    /// An operand is f32: two matrices each.
    split: bool,
}

/// Channels of a head above which queries and results do not fit a subgroup's registers, and cut in two.
const MOST_CHANNELS: [usize; 2] = [160, 96];

impl Matrices {
    /// As many strips as leave enough workgroups to keep a GPU busy, or else the fewest. `None` where the device has no matrices, where
    /// activations are f32 (operands are rounded to f16, or cut into two), and for larger heads. `heads` is their number in all images that
    /// it is chosen for.
    pub(super) fn choose(caps: &Caps, head_dim: usize, queries: usize, heads: usize, split: bool) -> Option<Self> {
        let size = caps.matrix_size().filter(|_| caps.storage == DType::F16)?;
        if head_dim > MOST_CHANNELS[usize::from(split)] {
            return None;
        }
        let padded = (head_dim as u32).next_multiple_of(size);
        let lanes = [caps.subgroup_size.1, caps.subgroup_size.0.max(1)];
        let of = |strips| Matrices {
            size,
            lanes,
            head_quads: head_dim as u32 / 4,
            // Two share what they read of keys and values; AMD's compiler has the registers for short heads alone.
            fragments: if padded <= 48 && !split { 2 } else { 1 },
            strips,
            keys: if padded <= if split { 64 } else { 96 } { 32 } else { 16 },
            split,
        };
        let fitting = || [4, 2, 1].into_iter().map(of).filter(|way| way.fits(caps));
        let enough = |way: &Self| queries.div_ceil(way.queries() as usize) * heads >= 64;
        fitting().find(enough).or_else(|| fitting().next_back())
    }

    fn fits(&self, caps: &Caps) -> bool {
        self.bytes() <= caps.max_workgroup_bytes && self.invocations() <= caps.max_invocations
    }

    /// Queries of a workgroup.
    pub(super) fn queries(self) -> u32 {
        self.strips * self.fragments * self.size
    }

    fn invocations(self) -> u32 {
        self.strips * self.lanes[0]
    }

    /// Channels of a head in whole matrices.
    fn padded(self) -> u32 {
        (4 * self.head_quads).next_multiple_of(self.size)
    }

    /// Lanes that share a query's scores.
    fn parts(self) -> u32 {
        let most = (self.keys / 4).min(self.lanes[1]);
        (self.lanes[0] / self.size).clamp(1, most)
    }

    /// Values of keys, and of values, which lie transposed; rows are 16 bytes apart.
    fn tile(self) -> u32 {
        self.keys * (self.padded() + 8) + self.padded() * (self.keys + 8)
    }

    /// Bytes of workgroup memory, as the kernel declares it.
    fn bytes(self) -> u32 {
        let operands = self.tile() + self.queries() * (self.keys + 8);
        let scores = self.strips * self.size * (self.keys + 4);
        2 * operands * (1 + u32::from(self.split)) + 4 * scores + 12 * self.queries() + 4
    }

    pub(super) fn flags(self) -> impl Iterator<Item = &'static str> {
        let sized = (self.size == 16).then_some("MATRIX_16");
        std::iter::once("COOP").chain(sized).chain(self.split.then_some("SPLIT"))
    }

    pub(super) fn constants(self) -> Vec<(&'static str, u32)> {
        vec![
            ("HEAD_QUADS", self.head_quads),
            ("PADDED", self.padded()),
            ("FRAGMENTS", self.fragments),
            ("STRIPS", self.strips),
            ("KEYS", self.keys),
            ("PARTS", self.parts()),
            ("INVOCATIONS", self.invocations()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::MatrixShape;

    fn caps(size: u32, lanes: (u32, u32), workgroup_bytes: u32) -> Caps {
        Caps {
            storage: DType::F16,
            shader_f16: true,
            subgroups: true,
            subgroup_size: lanes,
            matrices: vec![MatrixShape::square(size)],
            max_workgroup_bytes: workgroup_bytes,
            max_invocations: 1024,
            ..Caps::webgpu()
        }
    }

    /// What the kernel asks of its constants.
    #[test]
    fn every_way_keeps_the_preconditions() {
        let devices = [(16, (32, 32)), (16, (32, 64)), (16, (64, 64)), (8, (32, 32)), (8, (8, 8)), (8, (4, 4))];
        for (size, lanes) in devices {
            for bytes in [32 << 10, 48 << 10, 64 << 10] {
                let caps = caps(size, lanes, bytes);
                for (head_dim, split) in (4..=512).step_by(4).flat_map(|width| [(width, false), (width, true)]) {
                    for (queries, heads) in [(1, 1), (64, 16), (4096, 16)] {
                        let chosen = Matrices::choose(&caps, head_dim, queries, heads, split);
                        assert_eq!(
                            chosen.is_some(),
                            head_dim <= MOST_CHANNELS[usize::from(split)],
                            "{head_dim} of {caps:?}"
                        );
                        let Some(way) = chosen else { continue };
                        assert!(way.bytes() <= bytes && way.invocations() <= 1024, "{way:?}");
                        assert!(way.padded() as usize >= head_dim && way.padded().is_multiple_of(size), "{way:?}");
                        assert!(way.keys.is_multiple_of(size), "{way:?}");
                        assert!(way.fragments * size * (way.padded() + 8) <= way.tile(), "{way:?}");
                        let parts = way.parts();
                        assert!(parts.is_power_of_two() && parts <= lanes.0 && parts * 4 <= way.keys, "{way:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn few_queries_are_divided_among_more_workgroups() {
        let caps = caps(16, (32, 32), 48 << 10);
        let queries = |head_dim, queries| Matrices::choose(&caps, head_dim, queries, 16, false).map(Matrices::queries);
        assert_eq!([4096, 1024, 256, 64].map(|tokens| queries(40, tokens)), [128, 128, 64, 32].map(Some));
        assert_eq!([256, 64].map(|tokens| queries(160, tokens)), [64, 16].map(Some));
    }

    #[test]
    fn only_where_activations_may_be_rounded() {
        let full = caps(16, (32, 32), 48 << 10);
        assert!(Matrices::choose(&full, 40, 4096, 16, true).is_some());
        assert_eq!(Matrices::choose(&Caps { storage: DType::F32, ..full.clone() }, 40, 4096, 16, true), None);
        assert_eq!(Matrices::choose(&Caps { matrices: Vec::new(), ..full.clone() }, 40, 4096, 16, false), None);
        assert_eq!(Matrices::choose(&Caps { max_workgroup_bytes: 4 << 10, ..full }, 40, 4096, 16, false), None);
    }
}
