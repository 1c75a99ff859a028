//! How many bytes the dispatches of a recording move, and how few their layers could.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::plan::{constant_bytes, stored_bytes};
use super::{Dispatch, Recording, Role, Tensor};

/// Bytes between memory and kernels in one run, counted tensor by tensor: what a kernel reads twice because it does not fit its
/// workgroup, or finds in a cache, is not told apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Kernel launches.
    pub dispatches: usize,
    /// Floating-point operations (a fused multiply-add is two).
    pub flops: u64,
    /// Of each dispatch, the tensors that it reads and the one that it writes: of a channel view its part, of a weight all of it in
    /// the type that it has on the device.
    pub moved: u64,
    /// Of each layer, its weights, its inputs and its results, each once. A layer is a module of the checkpoint with weights of its own
    /// (convolution, linear layer, norm) or an attention without its projections; what is stored as one product is one layer with
    /// one input (queries, keys and values; the time embedding's projections), and the gated unit of a feed-forward network is one
    /// with its projection. A residual or an embedding that a layer adds is an input of it. Activations, joined skips and sums that
    /// are dispatches of their own are no layers: all that they move is above the least.
    pub least: u64,
}

impl std::iter::Sum for Traffic {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Traffic::default(), |sum, part| Traffic {
            dispatches: sum.dispatches + part.dispatches,
            flops: sum.flops + part.flops,
            moved: sum.moved + part.moved,
            least: sum.least + part.least,
        })
    }
}

impl std::ops::Mul<usize> for Traffic {
    type Output = Traffic;

    fn mul(self, times: usize) -> Traffic {
        Traffic {
            dispatches: self.dispatches * times,
            flops: self.flops * times as u64,
            moved: self.moved * times as u64,
            least: self.least * times as u64,
        }
    }
}

impl Recording {
    /// What every run moves; the prologue is left out.
    pub fn traffic(&self) -> Traffic {
        self.traffic_of(self.prologue..self.dispatches.len())
    }

    /// What a run moves besides whose inputs of the prologue are new.
    pub fn prologue_traffic(&self) -> Traffic {
        self.traffic_of(0..self.prologue)
    }

    /// What a run on kept features moves, likewise; `None` where the recording marks none.
    pub fn reusing_traffic(&self) -> Option<Traffic> {
        let Range { start, end } = self.deep;
        (start < end).then(|| self.traffic_of((self.prologue..start).chain(end..self.dispatches.len())))
    }

    fn traffic_of(&self, run: impl Iterator<Item = usize> + Clone) -> Traffic {
        let mut traffic = Traffic::default();
        for dispatch in run.clone().map(|i| &self.dispatches[i]) {
            traffic.dispatches += 1;
            traffic.moved += self.moved(dispatch);
            traffic.flops += dispatch.flops;
        }
        // A result counts where it leaves its layer.
        let mut readers: HashMap<u32, HashSet<Option<u32>>> = HashMap::new();
        for dispatch in &self.dispatches {
            for (_, tensor) in &dispatch.reads {
                readers.entry(tensor.storage).or_default().insert(dispatch.layer);
            }
        }
        for output in &self.outputs {
            readers.entry(output.tensor.storage).or_default().insert(None);
        }
        let written: HashSet<(u32, Option<u32>)> =
            self.dispatches.iter().map(|dispatch| (dispatch.write.storage, dispatch.layer)).collect();
        let leaves = |tensor: Tensor, own: u32| {
            readers.get(&tensor.storage).is_some_and(|layers| layers.iter().any(|&layer| layer != Some(own)))
        };
        let mut counted = HashSet::new();
        for dispatch in run.map(|i| &self.dispatches[i]) {
            let Some(layer) = dispatch.layer else { continue };
            for &(_, read) in &dispatch.reads {
                let own = written.contains(&(read.storage, Some(layer)));
                if !own && counted.insert((layer, part(read))) {
                    traffic.least += self.moved_bytes(read);
                }
            }
            if leaves(dispatch.write, layer) && counted.insert((layer, part(dispatch.write))) {
                traffic.least += self.moved_bytes(dispatch.write);
            }
        }
        traffic
    }

    /// Bytes of what a dispatch reads and writes, as [`Traffic::moved`] counts them.
    pub fn moved(&self, dispatch: &Dispatch) -> u64 {
        let touched = dispatch.reads.iter().map(|&(_, tensor)| tensor).chain([dispatch.write]);
        touched.map(|tensor| self.moved_bytes(tensor)).sum()
    }

    fn moved_bytes(&self, tensor: Tensor) -> u64 {
        let info = &self.tensors[tensor.storage()];
        let bytes = match info.role {
            Role::Constant(_) => constant_bytes(&self.caps, info.len, info.dtype),
            _ => stored_bytes(&self.caps, tensor.shape.len(), info.dtype),
        };
        bytes as u64
    }
}

fn part(tensor: Tensor) -> (u32, usize, usize) {
    (tensor.storage, tensor.channel_offset, tensor.shape.c)
}
