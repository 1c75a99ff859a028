//! Constants that pass through: every dispatch finds its own, arenas hold them apart, and limits are kept with little traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chiaro::ops::{Epilogue, matmul};
use chiaro::record::{Caps, Constant, DType, MemoryPlan, Recording, Role, Shape, StreamPlan, plan};

/// A chain of matrices of these widths. Those at `again` are those of the layer before the last one, once more.
fn chain(caps: &Caps, widths: &[usize], again: Option<usize>) -> Recording {
    let mut rec = Recording::new(caps);
    let mut x = rec.input("x", Shape::tokens(1, 4, widths[0]));
    let mut weights: Vec<Arc<Constant>> = Vec::new();
    for (i, pair) in widths.windows(2).enumerate() {
        let (inner, out) = (pair[0], pair[1]);
        let weight = match again.filter(|_| i >= 2) {
            Some(at) if at == i => Arc::clone(&weights[i - 2]),
            _ => Constant::from_f32(format!("layer {i}"), &[out, inner], &vec![0.5; out * inner]),
        };
        let bias = Constant::from_f32(format!("bias {i}"), &[out], &vec![0.5; out]);
        let (w, bias) = (rec.constant(&weight), rec.constant(&bias));
        x = matmul(&mut rec, x, w, Epilogue::bias(Some(bias))).expect("shapes fit");
        weights.push(weight);
    }
    rec.output("y", x);
    rec
}

fn numbers(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % below
    }
}

fn within(rec: &mut Recording, limit: u64) -> MemoryPlan {
    rec.memory_limit = Some(limit);
    plan(rec).expect("the chain fits")
}

/// What is wrong with a plan.
fn fault(rec: &Recording, plan: &MemoryPlan) -> Option<String> {
    let Some(stream) = &plan.stream else { return None };
    let align = rec.caps.binding_alignment as usize;
    let constants: BTreeSet<usize> =
        (0..rec.tensors.len()).filter(|&storage| matches!(rec.tensors[storage].role, Role::Constant(_))).collect();
    let passing: BTreeSet<usize> = stream.chunks.iter().flat_map(|c| &c.loads).map(|load| load.storage).collect();
    let staying: usize = constants.difference(&passing).map(|&s| rec.tensors[s].bytes().next_multiple_of(4)).sum();
    if staying != plan.constant_bytes {
        return Some(format!("{staying} bytes stay, the plan says {}", plan.constant_bytes));
    }
    let mut next = 0;
    for (index, chunk) in stream.chunks.iter().enumerate() {
        if chunk.dispatches.start != next || chunk.dispatches.is_empty() {
            return Some(format!("chunk {index} is {:?} after {next}", chunk.dispatches));
        }
        next = chunk.dispatches.end;
        let mut end = 0;
        let mut found = BTreeMap::new();
        for load in &chunk.loads {
            if load.offset % align != 0 || load.offset < end || load.offset + load.bytes > stream.arena_bytes {
                return Some(format!("chunk {index}: {load:?} after {end} in {}", stream.arena_bytes));
            }
            if load.bytes != rec.tensors[load.storage].bytes() {
                return Some(format!("chunk {index}: {load:?} is not as long as its constant"));
            }
            end = load.offset + load.bytes;
            found.insert(load.storage, load);
        }
        for (_, read) in rec.dispatches[chunk.dispatches.clone()].iter().flat_map(|dispatch| &dispatch.reads) {
            if passing.contains(&read.storage()) && !found.contains_key(&read.storage()) {
                return Some(format!("chunk {index}: a dispatch reads {}, which is not loaded", read.storage()));
            }
        }
    }
    (next != rec.dispatches.len()).then(|| format!("{next} of {} dispatches", rec.dispatches.len()))
}

fn total(plan: &MemoryPlan) -> u64 {
    plan.constant_bytes as u64 + plan.stream.as_ref().map_or(0, |stream| stream.allocated_bytes() as u64)
}

#[test]
fn every_dispatch_finds_its_constants_within_the_limit() {
    let mut streamed = 0;
    for seed in 0..60 {
        let mut next = numbers(seed);
        let widths: Vec<usize> = (0..4 + next(20)).map(|_| 4 * (1 + next(40))).collect();
        let mut widths = widths;
        let again = if seed % 3 == 0 && widths.len() > 5 {
            // Layer 3 is layer 1 again.
            (widths[3], widths[4]) = (widths[1], widths[2]);
            Some(3)
        } else {
            None
        };
        let caps = Caps { binding_alignment: if seed % 2 == 0 { 256 } else { 32 }, ..Caps::webgpu() };
        let mut rec = chain(&caps, &widths, again);
        let whole = plan(&rec).expect("the chain fits");
        let others = whole.peak_bytes() - whole.constant_bytes as u64;
        let least = within(&mut rec, 0).peak_bytes();
        assert!(least <= whole.peak_bytes());
        for part in 0..=8 {
            let limit = least + (whole.peak_bytes() - least) * part / 8;
            let planned = within(&mut rec, limit);
            assert_eq!(fault(&rec, &planned), None, "seed {seed}, {limit}");
            assert!(planned.peak_bytes() <= limit, "seed {seed}: {} of {limit}", planned.peak_bytes());
            assert_eq!(planned.peak_bytes(), others + total(&planned));
            streamed += usize::from(planned.stream.is_some());
        }
        let planned = within(&mut rec, whole.peak_bytes());
        assert!(planned.stream.is_none() && planned.constant_bytes == whole.constant_bytes, "what fits stays");
    }
    assert!(streamed > 300, "{streamed} plans streamed");
}

#[test]
fn the_check_sees_a_damaged_plan() {
    let mut rec = chain(&Caps::webgpu(), &[64, 96, 64, 128, 32, 64, 64, 96], None);
    let good = within(&mut rec, 0);
    let chunks = |plan: &MemoryPlan| plan.stream.as_ref().expect("it streams").chunks.len();
    assert!(fault(&rec, &good).is_none() && chunks(&good) > 2);
    let damages: [fn(&mut StreamPlan); 6] = [
        |stream| stream.chunks[1].loads[0].offset += 4,
        |stream| stream.chunks[1].loads[0].offset += stream.arena_bytes,
        |stream| stream.chunks[1].loads[0].bytes -= 4,
        |stream| stream.chunks[1].loads.clear(),
        |stream| drop(stream.chunks.remove(1)),
        |stream| stream.chunks[0].dispatches.end -= 1,
    ];
    for (index, damage) in damages.into_iter().enumerate() {
        let mut plan = good.clone();
        damage(plan.stream.as_mut().expect("it streams"));
        assert!(fault(&rec, &plan).is_some(), "damage {index} passes");
    }
}

/// All ways to choose what passes, of nets that are small enough for that.
#[test]
fn little_more_than_the_least_traffic() {
    let (mut cases, mut worst) = (0, 1.0f64);
    for seed in 0..40 {
        let mut next = numbers(100 + seed);
        let widths: Vec<usize> = (0..12).map(|_| 4 * (1 + next(32))).collect();
        let mut rec = chain(&Caps { binding_alignment: 32, ..Caps::webgpu() }, &widths, None);
        let whole = plan(&rec).expect("the chain fits");
        let others = whole.peak_bytes() - whole.constant_bytes as u64;
        let sizes: Vec<u64> = widths.windows(2).map(|pair| 4 * (pair[0] * pair[1]) as u64).collect();
        let fixed = whole.constant_bytes as u64 - sizes.iter().sum::<u64>();
        let least = within(&mut rec, 0).peak_bytes();
        for part in (1..6).filter(|_| least < whole.peak_bytes()) {
            let limit = least + (whole.peak_bytes() - least) * part / 6;
            let ours = within(&mut rec, limit).stream.expect("not all fits").bytes_per_run();
            let choices = (1u32..1 << sizes.len()).filter_map(|passing| {
                let passes = |i: &usize| passing >> i & 1 == 1;
                let arena = (0..sizes.len()).filter(passes).map(|i| sizes[i].next_multiple_of(32)).max()?;
                let traffic: u64 = (0..sizes.len()).filter(passes).map(|i| sizes[i]).sum();
                let staying = sizes.iter().sum::<u64>() - traffic;
                (others + fixed + staying + 4 * arena <= limit).then_some(traffic)
            });
            let best = choices.min().expect("the limit was reached");
            assert!(ours >= best, "seed {seed}: {ours} is less than the least, {best}");
            worst = worst.max(ours as f64 / best as f64);
            cases += 1;
        }
    }
    println!("{cases} limits, at most {worst:.3} of the least");
    assert!(cases > 100 && worst < 1.25, "{cases}: {worst}");
}

/// Where there is room, chunks are not so small that submissions cost more than they hold.
#[test]
fn arenas_are_large_where_there_is_room() {
    let mut rec = Recording::new(&Caps { max_binding_bytes: 1 << 30, max_buffer_bytes: 1 << 30, ..Caps::webgpu() });
    let mut x = rec.input("x", Shape::tokens(1, 1, 2048));
    let zeros = vec![0.0; 2048 * 512];
    for i in 0..40 {
        let out = if i % 2 == 0 { 512 } else { 2048 };
        let weight = rec.constant(&Constant::from_f32_as_f16("w", &[out, 2560 - out], &zeros));
        x = matmul(&mut rec, x, weight, Epilogue::default()).expect("shapes fit");
    }
    rec.output("y", x);
    // 40 constants of 2 MiB.
    let roomy = within(&mut rec, 72 << 20).stream.expect("80 MiB do not fit");
    assert!(roomy.arena_bytes > 2 << 20 && roomy.arena_bytes <= 72 << 16, "{}", roomy.arena_bytes);
    let tight = within(&mut rec, 0).stream.expect("nothing fits");
    assert_eq!((tight.arena_bytes, tight.chunks.len()), (2 << 20, 40));
}

/// The host keeps everything, and so does a net of one constant, which an arena would not make smaller.
#[test]
fn nothing_passes_where_it_would_not_help() {
    let mut host = chain(&Caps::host(), &[64, 96, 64, 128, 32, 64], None);
    assert!(within(&mut host, 0).stream.is_none());
    let mut single = chain(&Caps::webgpu(), &[64, 96], None);
    assert!(within(&mut single, 0).stream.is_none());
    let f16 = Caps { storage: DType::F16, shader_f16: true, ..Caps::webgpu() };
    assert!(within(&mut chain(&f16, &[64, 96, 64, 128, 32, 64, 64, 96, 32], None), 0).stream.is_some());
}
