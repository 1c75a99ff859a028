//! Loading a model to the device takes at most 256 MB of host memory above the mapped file, however large its tensors are.
//!
//! What is counted is what the process asks Rust's allocator for (`support::allocations`): conversions, staging that is not the driver's, wgpu's own
//! books. A software driver's buffers are host memory too, but stand for a GPU's. The host executor keeps all weights in f32 and is exempt.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use chiaro::gpu::GpuBackend;
use chiaro::ops::{Conv2d, Epilogue, conv2d, matmul};
use chiaro::pipeline::{Adapter, Device, Overrides, Pipeline, Precision, Request, Source};
use chiaro::record::{Backend, Caps, Constant, DType, Outputs, Program, Recording, Role, Run, Shape};
use chiaro::weights::{WeightFile, WeightType, Weights};

use super::adapter_files::{Tensors, write};
use crate::support::allocations::most_held;
use crate::support::{adapter, alone, full_size, part};

const LIMIT: usize = 256_000_000;

/// SDXL's largest tensor, `up_blocks.0.resnets.0.conv1.weight`: 29.5 million values.
const CONV: [usize; 2] = [1280, 2560];

/// Extents of the others, its widest matrices.
const UP: [usize; 2] = [10240, 1280];
const DOWN: [usize; 2] = [1280, 5120];

/// A file of 0.3 GB that takes a few pages: all holes but for a value at the end of each tensor.
fn write_sparse(path: &Path) {
    let tensors: [(&str, &str, usize, &[usize]); 8] = [
        ("single.weight", "F32", 4, &[CONV[0], CONV[1], 3, 3]),
        ("half.weight", "F16", 2, &[CONV[0], CONV[1], 3, 3]),
        ("up.weight", "F32", 4, &UP),
        ("upper.weight", "BF16", 2, &UP),
        ("eighth.weight", "F8_E4M3", 1, &UP),
        ("to_q.weight", "F32", 4, &DOWN),
        ("to_k.weight", "F16", 2, &DOWN),
        ("to_v.weight", "F32", 4, &DOWN),
    ];
    let mut header = serde_json::Map::new();
    let (mut end, mut last) = (0, Vec::new());
    for (name, dtype, size, shape) in tensors {
        let begin = end;
        end += size * shape.iter().product::<usize>();
        header.insert(name.into(), serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] }));
        // 0.5 in each type.
        last.push((
            end - size,
            match dtype {
                "F32" => 0.5f32.to_le_bytes().to_vec(),
                "F16" => half::f16::from_f32(0.5).to_le_bytes().to_vec(),
                "BF16" => half::bf16::from_f32(0.5).to_le_bytes().to_vec(),
                _ => vec![6 << 3],
            },
        ));
    }
    let mut header = serde_json::Value::Object(header).to_string();
    header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
    let mut file = std::fs::File::create(path).expect("a file");
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("a length");
    file.write_all(header.as_bytes()).expect("a header");
    let start = (8 + header.len()) as u64;
    file.set_len(start + end as u64).expect("a sparse file");
    for (at, bytes) in last {
        file.seek(SeekFrom::Start(start + at as u64)).expect("within the file");
        file.write_all(&bytes).expect("a value");
    }
}

struct Constants {
    convs: [Arc<Constant>; 2],
    matrices: Vec<Arc<Constant>>,
}

fn constants(file: &Arc<WeightFile>, weight_type: WeightType) -> Constants {
    let weights = Weights::new(Arc::clone(file), "large", weight_type);
    let conv = |name: &str| weights.conv(&format!("{name}.weight"), CONV, 3).expect("there");
    let matrix = |name: &str, shape| weights.matrix(&format!("{name}.weight"), shape).expect("there");
    let fused = || weights.fused_matrix(&["to_q.weight", "to_k.weight", "to_v.weight"], DOWN).expect("there");
    let four = || [matrix("up", UP), matrix("upper", UP), matrix("eighth", UP), fused()];
    Constants { convs: [conv("single"), conv("half")], matrices: [four(), four()].concat() }
}

/// Every constant read once, each by a dispatch of its own.
fn record(caps: &Caps, constants: &Constants, limit: Option<u64>) -> Recording {
    let mut rec = Recording::new(caps);
    rec.memory_limit = limit;
    for (i, conv) in constants.convs.iter().enumerate() {
        let x = rec.input(format!("image {i}"), Shape::image(1, 1, 1, CONV[1]));
        let weight = rec.constant(conv);
        let y = conv2d(&mut rec, x, weight, Conv2d::SAME, Epilogue::default()).expect("shapes fit");
        rec.output(format!("conv {i}"), y);
    }
    for (i, matrix) in constants.matrices.iter().enumerate() {
        let x = rec.input(format!("row {i}"), Shape::tokens(1, 1, matrix.shape[1]));
        let weight = rec.constant(matrix);
        let y = matmul(&mut rec, x, weight, Epilogue::default()).expect("shapes fit");
        rec.output(format!("matrix {i}"), y);
    }
    rec
}

/// Runs on ones: the last value of each result is the sum of a last row, 0.5.
fn check_run(program: &mut dyn Program, what: &str) {
    let images = (0..2).map(|i| (format!("image {i}"), vec![1.0; CONV[1]]));
    let rows = [UP[1], UP[1], UP[1], DOWN[1]].repeat(2).into_iter().enumerate();
    let inputs: Vec<(String, Vec<f32>)> = images.chain(rows.map(|(i, n)| (format!("row {i}"), vec![1.0; n]))).collect();
    let inputs: Vec<(&str, &[f32])> = inputs.iter().map(|(name, values)| (name.as_str(), values.as_slice())).collect();
    let outputs = program.run(&inputs).unwrap_or_else(|e| panic!("{what}: {e}"));
    for (name, values) in outputs {
        // The last tap of the convolution lies outside of an image of one pixel.
        let want = if name.starts_with("conv") { 0.0 } else { 0.5 };
        let last = *values.last().expect("not empty");
        assert!((last - want).abs() < 2e-3 && values[0] == 0.0, "{what}: {name}: {last}");
    }
}

fn megabytes(bytes: usize) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Adapters of the largest tensor of Stable Diffusion 1.5, which is as large as SDXL's and here all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Lora,
    /// Norms over outputs, and over input channels.
    Dora,
    DoraIn,
}

const RANK: usize = 8;
const LAYER: &str = "up_blocks.0.resnets.0.conv1";

/// Row `i` of the first factor; the second is 0.01 everywhere.
fn up(row: usize) -> f64 {
    0.01 * (1 + row % 7) as f64
}

fn magnitude(channel: usize) -> f64 {
    0.1 * (1 + channel % 5) as f64
}

impl Change {
    /// ΔW = up · down, for DoRA with its rows or channels of the length `magnitude`: all values of a row and channel.
    fn value(self, row: usize, channel: usize) -> f64 {
        let delta = |row: usize| RANK as f64 * up(row) * 0.01;
        match self {
            Change::Lora => delta(row),
            Change::Dora => magnitude(row) / ((CONV[1] * 9) as f64).sqrt(),
            Change::DoraIn => {
                static NORM: LazyLock<f64> = LazyLock::new(|| {
                    (0..CONV[0]).map(|row| 9.0 * (RANK as f64 * up(row) * 0.01).powi(2)).sum::<f64>().sqrt()
                });
                magnitude(channel) * delta(row) / *NORM
            }
        }
    }

    fn write(self, path: &Path) {
        let mut tensors = Tensors::new();
        let mut add = |part: &str, shape: &[usize], values: Vec<f64>| {
            tensors.insert(format!("lora_unet_{}.{part}", LAYER.replace('.', "_")), (shape.to_vec(), values));
        };
        add("lora_up.weight", &[CONV[0], RANK, 1, 1], (0..CONV[0]).flat_map(|row| [up(row); RANK]).collect());
        add("lora_down.weight", &[RANK, CONV[1], 3, 3], vec![0.01; RANK * CONV[1] * 9]);
        match self {
            Change::Lora => {}
            Change::Dora => add("dora_scale", &[CONV[0], 1, 1, 1], (0..CONV[0]).map(magnitude).collect()),
            Change::DoraIn => add("dora_scale", &[1, CONV[1], 1, 1], (0..CONV[1]).map(magnitude).collect()),
        }
        write(path, &tensors);
    }

    /// The constant as a device gets it, `[out, 3, 3, in]` in halves.
    fn check(self, constant: &Constant) {
        let row_bytes = 2 * 9 * CONV[1];
        let pieces = constant.checked_pieces(&mut |offset, bytes| {
            for (i, row) in bytes.chunks(row_bytes).enumerate() {
                let row_index = offset / row_bytes + i;
                for (at, half) in row.chunks(2).enumerate() {
                    let want = self.value(row_index, at % CONV[1]);
                    let got = half::f16::from_le_bytes([half[0], half[1]]).to_f64();
                    assert!((got - want).abs() <= 1e-3 * want + 1e-7, "{self:?}: {row_index}, {at}: {got}, not {want}");
                }
            }
            Ok(())
        });
        pieces.unwrap_or_else(|e| panic!("{e}"));
    }
}

/// Reads what a device would be given, and runs nothing.
struct Reader {
    caps: Caps,
    change: Option<Change>,
    most: AtomicUsize,
    checked: AtomicUsize,
}

struct Nothing;

impl Program for Nothing {
    fn execute(&mut self, _: &[(&str, &[f32])], _: Run<'_>) -> chiaro::Result<Outputs> {
        unreachable!("nothing is run here")
    }

    fn allocated_bytes(&self) -> u64 {
        0
    }

    fn weights(self: Box<Self>) -> Box<dyn Send> {
        self
    }
}

impl Backend for Reader {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn compile(&self, recording: Recording) -> chiaro::Result<Box<dyn Program>> {
        for tensor in &recording.tensors {
            if let Role::Constant(constant) = &tensor.role {
                let (read, held) = most_held(|| constant.checked_pieces(&mut |_, _| Ok(())));
                read?;
                if let (Some(change), true) = (self.change, constant.label == format!("{LAYER}.weight")) {
                    change.check(constant);
                    self.checked.fetch_add(1, Ordering::Relaxed);
                }
                self.most.fetch_max(held, Ordering::Relaxed);
            }
        }
        Ok(Box::new(Nothing))
    }
}

/// Whole models: as stored, and with an adapter of the largest tensor.
fn check_full_size(folder: &Path) {
    full_size::write_model("sd15", folder);
    for change in part::of(3, [None, Some(Change::Lora), Some(Change::Dora), Some(Change::DoraIn)].into_iter()) {
        let what = format!("SD1.5, {change:?}");
        let path = folder.join("adapter.safetensors");
        let adapters = change.map(|change| {
            change.write(&path);
            Adapter { path: path.clone(), weight: 1.0, text_encoder_weight: None }
        });
        let caps = Caps { storage: DType::F16, shader_f16: true, max_binding_bytes: 1 << 31, ..Caps::webgpu() };
        let caps = Caps { max_buffer_bytes: 1 << 32, ..caps };
        let reader = Arc::new(Reader { caps, change, most: AtomicUsize::new(0), checked: AtomicUsize::new(0) });
        let device = Device::new(reader.clone(), Precision::F16).expect("16-bit types");
        let overrides = Overrides { adapters: adapters.into_iter().collect(), ..Overrides::default() };
        let pipeline = Pipeline::load_with(&Source::Folder(folder.into()), &overrides, None, device);
        let request = Request { prompt: "x".into(), width: Some(512), height: Some(512), ..Request::default() };
        let stages = pipeline.and_then(|pipeline| pipeline.measure(&request)).unwrap_or_else(|e| panic!("{what}: {e}"));
        let held = reader.most.load(Ordering::Relaxed);
        println!("{what}: {} for {} stages", megabytes(held), stages.len());
        assert!(held < LIMIT, "{what}: {}", megabytes(held));
        assert_eq!(reader.checked.load(Ordering::Relaxed), usize::from(change.is_some()), "{what}: the layer is there");
    }
}

#[test]
#[ignore = "alone in its process, by the test below"]
fn alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("large.safetensors");
    write_sparse(&path);
    let file = Arc::new(WeightFile::open(&path).unwrap_or_else(|e| panic!("{e}")));
    let backend: GpuBackend = adapter::open(DType::F32);
    let single = 4 * 9 * CONV[0] * CONV[1];

    // The count sees what an upload at one go would take.
    let whole = constants(&file, WeightType::Q8_0);
    let (_, held) =
        most_held(|| whole.convs[0].data.bytes().map(|bytes| bytes.len()).unwrap_or_else(|e| panic!("{e}")));
    println!("at one go: {}", megabytes(held));
    assert!(held > single, "{held}");

    for weight_type in [WeightType::Keep, WeightType::F16, WeightType::Q8_0, WeightType::Q4_0] {
        let what = format!("{weight_type:?}");
        let constants = constants(&file, weight_type);
        let recording = record(backend.caps(), &constants, None);
        let started = Instant::now();
        let (program, held) = most_held(|| backend.compile(recording));
        println!("{what}: {} to load, {:.1?}", megabytes(held), started.elapsed());
        assert!(held < LIMIT, "{what}: {}", megabytes(held));
        assert!(held < single, "{what}: {} is a whole tensor", megabytes(held));
        drop(program.unwrap_or_else(|e| panic!("{what}: {e}")));

        // The heaviest conversions: a software GPU is slow at such convolutions.
        if ![WeightType::Keep, WeightType::Q8_0].contains(&weight_type) {
            continue;
        }
        let recording = record(backend.caps(), &constants, Some(0));
        let mut streamed = backend.compile_program(recording).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(streamed.plan().stream.is_some());
        let started = Instant::now();
        let ((), held) = most_held(|| check_run(&mut streamed, &what));
        println!("{what}: {} to stream, {:.1?}", megabytes(held), started.elapsed());
        assert!(held < LIMIT && held < single, "{what}: streamed: {}", megabytes(held));
    }
    check_full_size(&folder.path().join("sd15"));
}

#[test]
fn loading_takes_little_host_memory() {
    alone::passes("pipeline::host_memory::alone");
}
