//! The plan's promises, on chains of random shape: no two living tensors share bytes, no dispatch reads the lane that it writes,
//! and sharing saves memory.

use chiaro::ops::{Activation, Epilogue, concat, elementwise, matmul};
use chiaro::record::{Caps, Constant, DType, Recording, Shape, Tensor, plan};

fn weight(rec: &mut Recording, rows: usize, columns: usize) -> Tensor {
    let constant = Constant::from_f32("w", &[rows, columns], &vec![0.5; rows * columns]);
    rec.constant(&constant)
}

/// A net with skips, like a UNet's: every second tensor is needed again at the end.
fn skipping_net(caps: &Caps, depth: usize) -> Recording {
    let mut rec = Recording::new(caps);
    let mut x = rec.input("x", Shape::image(1, 16, 16, 32));
    let mut skips = Vec::new();
    for i in 0..depth {
        let width = 16 + 16 * (i * 7 % 5);
        let w = weight(&mut rec, width, x.shape.c);
        x = matmul(&mut rec, x, w, Epilogue::default()).expect("shapes fit");
        x = elementwise(&mut rec, x, Activation::Silu).expect("shapes fit");
        if i % 2 == 0 {
            skips.push(x);
        }
    }
    while let Some(skip) = skips.pop() {
        let joined = concat(&mut rec, x, skip).expect("shapes fit");
        let w = weight(&mut rec, 32, joined.shape.c);
        x = matmul(&mut rec, joined, w, Epilogue::default()).expect("shapes fit");
    }
    rec.output("out", x);
    rec
}

/// First and last use of each storage, as the executor sees them.
fn lifetimes(rec: &Recording, storage_of: impl Fn(Tensor) -> usize) -> Vec<Option<(usize, usize)>> {
    let mut lives = vec![None; rec.tensors.len()];
    let mut touch = |storage: usize, at: usize| {
        let life = lives[storage].get_or_insert((at, at));
        *life = (life.0.min(at), life.1.max(at));
    };
    for (at, dispatch) in rec.dispatches.iter().enumerate() {
        for (_, tensor) in &dispatch.reads {
            touch(storage_of(*tensor), at);
        }
        touch(storage_of(dispatch.write), at);
    }
    for output in &rec.outputs {
        touch(storage_of(output.tensor), rec.dispatches.len());
    }
    lives
}

#[test]
fn living_tensors_never_overlap_and_lanes_never_conflict() {
    for (caps, depth) in [(Caps::webgpu(), 9), (Caps::host(), 12), (Caps { storage: DType::F16, ..Caps::webgpu() }, 17)]
    {
        let rec = skipping_net(&caps, depth);
        let plan = plan(&rec).expect("the net fits");
        let lives = lifetimes(&rec, Tensor::storage);
        for (a, life_a) in lives.iter().enumerate() {
            for (b, life_b) in lives.iter().enumerate().skip(a + 1) {
                let (Some(pa), Some(pb), Some(la), Some(lb)) = (plan.placements[a], plan.placements[b], life_a, life_b)
                else {
                    continue;
                };
                let together = la.0 <= lb.1 && lb.0 <= la.1;
                let overlap =
                    pa.lane == pb.lane && pa.offset < pb.offset + pb.bytes && pb.offset < pa.offset + pa.bytes;
                assert!(!(together && overlap), "tensors {a} and {b} live together and overlap: {pa:?} {pb:?}");
            }
        }
        for dispatch in &rec.dispatches {
            let out = plan.placements[dispatch.write.storage()].expect("outputs are placed");
            assert_eq!(out.offset % caps.binding_alignment as usize, 0);
            for (_, read) in &dispatch.reads {
                if let Some(read) = plan.placements[read.storage()] {
                    assert_ne!(read.lane, out.lane, "{} reads the lane that it writes", dispatch.label);
                }
            }
        }
        let lanes: usize = plan.lanes.iter().sum();
        assert!(lanes < plan.unshared_bytes, "sharing saves nothing: {lanes} of {}", plan.unshared_bytes);
    }
}

#[test]
fn lanes_stay_within_the_largest_buffer() {
    let caps = Caps { max_buffer_bytes: 64 << 10, max_binding_bytes: 64 << 10, ..Caps::webgpu() };
    let mut rec = Recording::new(&caps);
    let inputs: Vec<Tensor> = (0..6).map(|i| rec.input(format!("x{i}"), Shape::image(1, 16, 16, 32))).collect();
    for (i, input) in inputs.into_iter().enumerate() {
        let out = elementwise(&mut rec, input, Activation::Silu).expect("shapes fit");
        rec.output(format!("y{i}"), out);
    }
    let plan = plan(&rec).expect("each tensor fits");
    assert!(plan.lanes.iter().all(|&bytes| bytes as u64 <= caps.max_buffer_bytes), "{:?}", plan.lanes);
    assert!(plan.lanes.len() >= 4, "{:?}", plan.lanes);
}

#[test]
fn a_tensor_larger_than_a_binding_is_an_error_that_names_it() {
    let caps = Caps { max_binding_bytes: 1 << 20, ..Caps::webgpu() };
    let mut rec = Recording::new(&caps);
    let x = rec.input("latents", Shape::image(1, 512, 512, 4));
    let out = elementwise(&mut rec, x, Activation::Silu).expect("shapes fit");
    rec.output("out", out);
    let message = plan(&rec).expect_err("4 MiB do not fit in 1 MiB").to_string();
    assert!(message.contains("latents") && message.contains("4 MiB") && message.contains("1 MiB"), "{message}");
}
