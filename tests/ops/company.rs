//! An image's results have the same bits alone and among any others: nothing is chosen by how many there are.

use chiaro::gpu::GpuBackend;
use chiaro::ops::{Trial, match_tokens, merge_tokens, unmerge_tokens};
use chiaro::record::{
    AdapterKind, Backend, Caps, DType, HostBackend, MatrixShape, Products, Recording, Shape, Tuning, Variant,
};

use super::cases::{Case, Operands, Wide, normal_values, table};
use super::run_case;
use crate::support::{adapter, part};

/// Images that are computed together.
const IMAGES: usize = 4;

impl Case {
    /// The same op of so many images.
    fn of(mut self, images: usize) -> Case {
        match &mut self {
            Case::Matmul { x, .. } | Case::Conv2d { x, .. } | Case::Geglu { x, .. } => x.n = images,
            Case::GroupNorm { x, .. } | Case::LayerNorm { x, .. } => x.n = images,
            Case::Elementwise { x, .. } | Case::Concat { x, .. } => x.n = images,
            Case::Attention { n, .. } => *n = images,
            Case::AddScaled { x, images: of_y, .. } => {
                x.n = images;
                // One is for all of them.
                if *of_y > 1 {
                    *of_y = images;
                }
            }
        }
        self
    }

    /// Operands that each image has of its own.
    fn owns(&self, name: &str) -> bool {
        match self {
            Case::AddScaled { images: 1, .. } if name == "y" => false,
            _ => !["weight", "bias", "gamma", "beta"].contains(&name),
        }
    }

    /// Of [`IMAGES`] images, the operands of one.
    fn alone(&self, operands: &Operands, image: usize) -> Operands {
        let own = |&(name, ref values): &(&'static str, Vec<f32>)| match self.owns(name) {
            true => (name, values.chunks(values.len() / IMAGES).nth(image).expect("one of them").to_vec()),
            false => (name, values.clone()),
        };
        Operands(operands.0.iter().map(own).collect())
    }

    /// The most values of an operand of one image.
    fn largest(&self) -> usize {
        self.of(1).operands().0.iter().map(|(_, values)| values.len()).max().unwrap_or(0)
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// How many of an image's values are others alone than in company, with the largest difference.
fn difference(alone: &[f32], together: &[f32]) -> Option<(usize, f32)> {
    assert_eq!(alone.len(), together.len());
    let differs: Vec<_> = alone.iter().zip(together).filter(|(a, b)| a.to_bits() != b.to_bits()).collect();
    let largest = differs.iter().map(|(a, b)| (*a - *b).abs()).fold(0.0, f32::max);
    (!differs.is_empty()).then_some((differs.len(), largest))
}

/// Runs cases with all images at once, and with the first and the last alone: no two are in the same place of a tile.
fn run(backend: &dyn Backend, caps: &Caps, wide: Wide, cases: impl Iterator<Item = Case>) {
    let (mut failures, mut checked) = (Vec::new(), 0);
    for case in cases {
        let operands = case.of(IMAGES).operands();
        let (together, _) = run_case(backend, caps, &case.of(IMAGES), &operands, wide);
        for (image, own) in together.chunks(together.len() / IMAGES).enumerate().step_by(IMAGES - 1) {
            let (alone, _) = run_case(backend, caps, &case.of(1), &case.alone(&operands, image), wide);
            if let Some((count, largest)) = difference(&alone, own) {
                failures.push(format!("{case:?}: {count} of {} values of image {image}, by {largest:e}", own.len()));
            }
        }
        checked += 1;
    }
    assert!(failures.is_empty(), "{} on {}:\n{}", failures.len(), caps.name, failures.join("\n"));
    assert!(checked > 5, "only {checked} cases");
}

/// The table's cases whose operands have at most so many values of an image, and products of them with weights in blocks.
fn cases(most: usize) -> impl Iterator<Item = Case> {
    let blocks = table().into_iter().filter_map(|case| case.in_blocks(DType::Q8_0)).step_by(3);
    table().into_iter().chain(blocks).filter(move |case| case.largest() <= most)
}

/// What a software driver computes in a minute. As a GPU it takes long, and only products and attention have other kernels than before. Each
/// so-and-so-many-th case if not everything is tested.
fn run_on(backend: &GpuBackend, caps: &Caps, every: usize) {
    let most = if caps.kind == AdapterKind::Software { 100_000 } else { 90_000 };
    let is_chosen = |case: &Case| {
        let chosen =
            matches!(case, Case::Matmul { .. } | Case::Conv2d { .. } | Case::Geglu { .. } | Case::Attention { .. });
        chosen || caps.kind == AdapterKind::Software
    };
    run(backend, caps, Wide::default(), part::of(every, cases(most).filter(is_chosen)));
}

/// What networks keep in f32 where all else is f16.
const MIXED: Wide = Wide(&["x", "q", "k", "v", "out"]);

#[test]
fn alone_and_together_on_the_host() {
    let backend = HostBackend::default();
    run(&backend, backend.caps(), Wide::default(), cases(usize::MAX));
}

#[test]
fn alone_and_together_on_the_host_in_bf16() {
    let backend = HostBackend::new(Products::Bf16);
    run(&backend, backend.caps(), Wide::default(), cases(usize::MAX));
}

#[test]
fn alone_and_together_on_the_gpu() {
    let backend = adapter::open_with(DType::F32, adapter::test_options());
    run_on(&backend, backend.caps(), 2);
}

#[test]
fn alone_and_together_on_the_gpu_with_half_precision() {
    let backend = adapter::open_with(DType::F16, adapter::test_options());
    run_on(&backend, backend.caps(), 4);
    run(&backend, backend.caps(), MIXED, part::of(4, cases(20_000)));
}

#[test]
fn alone_and_together_on_the_gpu_with_only_what_webgpu_guarantees() {
    let backend = adapter::open_restricted();
    run(&backend, backend.caps(), Wide::default(), cases(20_000));
}

/// The kernels of GPUs: single precision, packed f16, and matrices where the device has them.
#[test]
fn alone_and_together_in_shared_tiles() {
    for storage in [DType::F32, DType::F16] {
        let backend = adapter::open_with(storage, adapter::test_options());
        let gpu = Caps { kind: AdapterKind::Integrated, ..backend.caps().clone() };
        let without = Caps { matrices: Vec::new(), ..gpu.clone() };
        run_on(&backend, &without, 4);
        if storage == DType::F16 && gpu.matrix_size().is_some() {
            run_on(&backend, &gpu, 4);
            run(&backend, &gpu, MIXED, cases(20_000));
        }
    }
}

fn merged(backend: &dyn Backend, shape: Shape, count: usize, x: &[f32]) -> Vec<Vec<f32>> {
    let mut rec = Recording::new(backend.caps());
    let input = rec.input("x", shape);
    let by = match_tokens(&mut rec, input, count, 3).expect("it fits").expect("tokens to merge");
    let merged = merge_tokens(&mut rec, input, &by).expect("it fits");
    let back = unmerge_tokens(&mut rec, input, merged, &by).expect("it fits");
    let outputs = [("slots", by.slots()), ("merged", merged), ("back", back)];
    outputs.iter().for_each(|&(name, tensor)| rec.output(name, tensor));
    let mut found = backend.compile(rec).and_then(|mut program| program.run(&[("x", x)])).expect("it runs");
    outputs.map(|(name, _)| found.remove(name).expect("an output")).to_vec()
}

#[test]
fn tokens_are_merged_alone_as_together() {
    let host = HostBackend::default();
    let [single, half] = [DType::F32, DType::F16].map(|storage| adapter::open_with(storage, adapter::test_options()));
    for backend in [&host as &dyn Backend, &single, &half] {
        for (h, w, c, count) in [(9, 7, 20, 17), (16, 16, 64, 128), (5, 33, 12, 100)] {
            let one = Shape::image(1, h, w, c);
            let x = normal_values(5, IMAGES * one.len(), 0.3, 1.0);
            let together = merged(backend, Shape { n: IMAGES, ..one }, count, &x);
            for (image, x) in x.chunks(one.len()).enumerate() {
                for (alone, together) in merged(backend, one, count, x).iter().zip(&together) {
                    let own = together.chunks(alone.len()).nth(image).expect("one of them");
                    assert_eq!(bits(alone), bits(own), "{}: {one}, image {image}", backend.caps().name);
                }
            }
        }
    }
}

/// Devices of every sort, by their capabilities.
fn devices() -> Vec<Caps> {
    let software = Caps { kind: AdapterKind::Software, subgroups: true, subgroup_size: (8, 8), ..Caps::webgpu() };
    let gpu = adapter::discrete_caps();
    let half = Caps { storage: DType::F16, shader_f16: true, ..gpu.clone() };
    let matrices = |size| Caps { matrices: vec![MatrixShape::square(size)], ..half.clone() };
    vec![Caps::host(), Caps::webgpu(), software, gpu, half.clone(), matrices(16), matrices(8)]
}

/// Shapes of Stable Diffusion 1.5 at 512² that are too large to compute here; nothing is.
fn large() -> Vec<Case> {
    let levels = [(64, 320, 40), (32, 640, 80), (16, 1280, 160), (8, 1280, 160)];
    let at = |(side, c, head_dim): (usize, usize, usize)| {
        let (x, extras) = (Shape::image(1, side, side, c), super::cases::Extras::default());
        let view = super::cases::View::default();
        let attention = |t_k| Case::Attention {
            n: 1,
            heads: c / head_dim,
            head_dim,
            t_q: side * side,
            t_k,
            causal: false,
            fused: false,
            spread: 1.0,
        };
        let geometry = chiaro::ops::Conv2d::SAME;
        [
            Case::Conv2d { x, c_out: c, geometry, stored: DType::F16, extras },
            Case::Matmul { x, view, c_out: c, stored: DType::F16, extras },
            attention(side * side),
            attention(77),
        ]
    };
    levels.into_iter().flat_map(at).collect()
}

fn ways(case: &Case, caps: &Caps, operands: &Operands) -> (Vec<(&'static str, Variant)>, Vec<String>) {
    let recording = case.record(caps, operands, Wide::default()).unwrap_or_else(|e| panic!("{case:?}: {e}"));
    let classes = Trial::of(&recording).iter().map(Trial::key).collect();
    (recording.dispatches.into_iter().map(|d| (d.kernel.stem, d.variant)).collect(), classes)
}

/// Kernels, tiles and what a table of measured tiles calls them, on every sort of device; measured tiles too.
#[test]
fn choices_do_not_see_how_many_images_there_are() {
    for case in part::of(2, table().into_iter().chain(large())) {
        let operands = case.of(1).operands();
        for caps in devices() {
            let (alone, classes) = ways(&case.of(1), &caps, &operands);
            let mut tuning = Tuning::default();
            let recording = case.of(1).record(&caps, &operands, Wide::default()).expect("it was recorded before");
            for trial in Trial::of(&recording) {
                tuning.set(trial.key(), trial.tiles(&caps).pop().expect("there are some"));
            }
            let tuned = Caps { tuning: tuning.into(), ..caps.clone() };
            let (tuned_alone, _) = ways(&case.of(1), &tuned, &operands);
            for images in [2, 3, 8, 64] {
                let together = ways(&case.of(images), &caps, &operands);
                assert_eq!(together, (alone.clone(), classes.clone()), "{case:?}, {images} images: {caps:?}");
                assert_eq!(ways(&case.of(images), &tuned, &operands).0, tuned_alone, "{case:?}, {images} images");
            }
        }
    }
}
