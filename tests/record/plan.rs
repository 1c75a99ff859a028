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

#[test]
fn each_tensor_takes_the_bytes_of_its_own_type() {
    let caps = Caps { storage: DType::F16, shader_f16: true, ..Caps::webgpu() };
    let shape = Shape::image(1, 16, 16, 32);
    let mut rec = Recording::new(&caps);
    let wide = rec.in_f32(|rec| rec.input("wide", shape));
    let narrow = rec.input("narrow", shape);
    let w = weight(&mut rec, 32, 32);
    let sum_with = |residual| Epilogue { residual: Some(residual), ..Epilogue::default() };
    let product = matmul(&mut rec, wide, w, Epilogue::default()).expect("shapes fit");
    let sum = matmul(&mut rec, narrow, w, sum_with(wide)).expect("shapes fit");
    let narrow_sum = matmul(&mut rec, wide, w, sum_with(narrow)).expect("shapes fit");
    let in_f32 = rec.in_f32(|rec| elementwise(rec, narrow, Activation::Silu)).expect("shapes fit");
    let joined = concat(&mut rec, narrow, wide).expect("shapes fit");
    let all = [wide, narrow, product, sum, narrow_sum, in_f32, joined];
    all.iter().enumerate().for_each(|(i, tensor)| rec.output(format!("{i}"), *tensor));

    let types = all.map(|tensor| rec.dtype(tensor));
    use DType::{F16, F32};
    assert_eq!(types, [F32, F16, F16, F32, F16, F32, F32]);
    let planned = plan(&rec).expect("the net fits");
    for (tensor, dtype) in all.iter().zip(types) {
        let bytes = planned.placements[tensor.storage()].expect("every tensor is an output").bytes;
        assert_eq!(bytes, tensor.shape.len() * dtype.size(), "{tensor:?}");
    }
    let results: usize = all.iter().zip(types).map(|(tensor, dtype)| tensor.shape.len() * dtype.size()).sum();
    assert_eq!(planned.readback_bytes, results);

    let mut single = Recording::new(&Caps::webgpu());
    let x = single.input("x", shape);
    assert_eq!(single.dtype(x), DType::F32, "nothing is f16 where storage is f32");
}

/// What f16 alone fits into a binding is not refused because f32 would be nicer.
#[test]
fn f32_gives_way_to_the_size_of_a_binding() {
    let caps = Caps { storage: DType::F16, shader_f16: true, max_binding_bytes: 1 << 20, ..Caps::webgpu() };
    let mut rec = Recording::new(&caps);
    let mut stored = |c: usize| {
        let tensor = rec.in_f32(|rec| rec.tensor(Shape::image(1, 256, 256, c)));
        rec.dtype(tensor)
    };
    assert_eq!([stored(4), stored(8)], [DType::F32, DType::F16], "1 MiB and 2 MiB in f32");
    let statistics = rec.scratch(Shape::image(1, 256, 256, 8));
    assert_eq!(rec.dtype(statistics), DType::F32, "kernels declare them so");
}
