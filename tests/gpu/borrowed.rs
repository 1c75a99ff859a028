//! A device that a host made: results and pictures are the same, and what is the host's stays the host's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use chiaro::gpu::{
    DriverFault, GpuBackend, GpuOptions, device_descriptor, required_features, required_limits, texture,
};
use chiaro::image::Rgb8Image;
use chiaro::ops::{Epilogue, matmul};
use chiaro::record::{Backend, Constant, DType, HostBackend, Outputs, PixelRange, Recording, Run, Shape};
use chiaro::shared::wgpu;
use chiaro::{ErrorCode, Result};

use super::executor::values;
use crate::support::adapter;

/// A program that draws, and counts what its callbacks are told.
struct Host {
    adapter: wgpu::Adapter,
    device: wgpu::Device,
    queue: wgpu::Queue,
    errors: Arc<AtomicUsize>,
    losses: Arc<AtomicUsize>,
}

/// The adapter that the other tests use.
fn raw_adapter() -> wgpu::Adapter {
    let wanted = adapter::test_adapter();
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    let is_wanted = |raw: &wgpu::Adapter| {
        let info = raw.get_info();
        info.name == wanted.name && format!("{:?}", info.backend) == wanted.backend
    };
    adapters.into_iter().find(is_wanted).expect("the adapter is listed")
}

impl Host {
    fn new() -> Self {
        let adapter = raw_adapter();
        let descriptor = device_descriptor(&adapter);
        Self::with(adapter, &descriptor)
    }

    fn with(adapter: wgpu::Adapter, descriptor: &wgpu::DeviceDescriptor<'_>) -> Self {
        let (device, queue) = pollster::block_on(adapter.request_device(descriptor)).expect("the device opens");
        let (errors, losses) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (told, lost) = (Arc::clone(&errors), Arc::clone(&losses));
        device.on_uncaptured_error(Arc::new(move |_: wgpu::Error| {
            told.fetch_add(1, Ordering::SeqCst);
        }));
        device.set_device_lost_callback(move |_, _| {
            lost.fetch_add(1, Ordering::SeqCst);
        });
        Host { adapter, device, queue, errors, losses }
    }

    fn backend(&self, storage: DType) -> Result<GpuBackend> {
        let (adapter, device, queue) = (self.adapter.clone(), self.device.clone(), self.queue.clone());
        GpuBackend::on(adapter, device, queue, storage, adapter::test_options())
    }

    /// A buffer that no device makes.
    fn blunder(&self) {
        let _ = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 16,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
    }

    fn buffer(&self, usage: wgpu::BufferUsages, size: u64) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    }

    fn read(&self, encoder: wgpu::CommandEncoder, buffer: &wgpu::Buffer) -> Vec<u8> {
        self.queue.submit([encoder.finish()]);
        buffer.map_async(wgpu::MapMode::Read, .., |result| result.expect("it is mapped"));
        self.device.poll(wgpu::PollType::wait_indefinitely()).expect("it is there");
        let bytes = buffer.get_mapped_range(..).expect("it is mapped").to_vec();
        buffer.unmap();
        bytes
    }

    /// The colours of a texture, and that it is opaque.
    fn pixels(&self, texture: &wgpu::Texture) -> Vec<u8> {
        let row = (4 * texture.width()).next_multiple_of(wgpu::COPY_BYTES_PER_ROW_ALIGNMENT);
        let size = u64::from(row * texture.height());
        let buffer = self.buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST, size);
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(row), rows_per_image: None };
        let to = wgpu::TexelCopyBufferInfo { buffer: &buffer, layout };
        encoder.copy_texture_to_buffer(texture.as_image_copy(), to, texture.size());
        let bytes = self.read(encoder, &buffer);
        let pixels =
            bytes.chunks_exact(row as usize).flat_map(|row| row[..4 * texture.width() as usize].as_chunks::<4>().0);
        pixels
            .flat_map(|&[r, g, b, a]| {
                assert_eq!(a, 255);
                [r, g, b]
            })
            .collect()
    }
}

fn net(backend: &dyn Backend) -> Recording {
    let mut rec = Recording::new(backend.caps());
    let mut x = rec.input("x", Shape::tokens(1, 16, 64));
    for seed in 0..8 {
        let weight: Vec<f32> = values(seed + 1, 64 * 64).iter().map(|v| v / 8.0).collect();
        let weight = rec.constant(&Constant::from_f32("w", &[64, 64], &weight));
        x = matmul(&mut rec, x, weight, Epilogue::default()).expect("shapes fit");
    }
    rec.output("y", x);
    rec
}

fn run(backend: &dyn Backend) -> Result<Outputs> {
    backend.compile(net(backend))?.run(&[("x", &values(5, 16 * 64))])
}

fn assert_near(got: &Outputs, want: &Outputs) {
    assert!(got["y"].iter().zip(&want["y"]).all(|(got, want)| (got - want).abs() < 1e-4), "{got:?}");
}

/// Values on every boundary between two levels and beside it, beyond both ends, and none at all.
fn colours(len: usize) -> Vec<f32> {
    let edge = |i: usize| ((i / 3) as f32 + 0.5) / 255.0 * 2.0 - 1.0 + [0.0, 1e-7, -1e-7][i % 3];
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 1.0, -1.0, 7.0, -7.0, f32::MIN_POSITIVE];
    (0..len).map(|i| if i < odd.len() { odd[i] } else { edge(i % 771) }).collect()
}

#[test]
fn a_texture_has_the_pixels_of_the_png() {
    let host = Host::new();
    let types = [DType::F32, DType::F16]
        .into_iter()
        .filter(|&storage| storage == DType::F32 || host.device.features().contains(wgpu::Features::SHADER_F16));
    for storage in types {
        let backend = host.backend(storage).unwrap_or_else(|e| panic!("{e}"));
        // Rows that are no multiple of 256 bytes.
        let shape = Shape::image(1, 24, 37, 4);
        let mut rec = Recording::new(backend.caps());
        let x = rec.input("x", shape);
        rec.output("y", x.channels(0, 3));
        rec.output("z", x.channels(1, 3));
        let mut program = backend.compile(rec).unwrap();
        assert!(program.picture("y", PixelRange::Signed).is_err(), "nothing was run");
        let x = colours(shape.len());
        let outputs = program.run(&[("x", &x)]).unwrap();
        let before = backend.allocated_bytes();
        let kept = program.execute(&[("x", &x)], Run { keep_on_device: true, ..Run::default() }).unwrap();
        assert!(kept.is_empty());
        for (name, range) in [("y", PixelRange::Signed), ("z", PixelRange::Signed), ("y", PixelRange::FromZero)] {
            let mut told = outputs[name].clone();
            let odd = told.iter().filter(|v| !v.is_finite()).count();
            if range == PixelRange::FromZero {
                told.iter_mut().for_each(|v| *v = *v * 2.0 - 1.0);
            }
            let image = Rgb8Image::from_unit_range(&told, 37, 24).unwrap();
            let picture = program.picture(name, range).unwrap();
            assert_eq!((picture.size(), picture.non_finite()), ((37, 24), odd), "{storage:?} {name}");
            let texture = texture(&picture).expect("a GPU's");
            assert_eq!(host.pixels(&texture), image.data, "{storage:?} {name} {range:?}");
        }
        assert!(program.picture("no such", PixelRange::Signed).is_err());
        assert_eq!(backend.allocated_bytes(), before, "only the texture is left, and that is the host's");
    }
    let mut rec = Recording::new(HostBackend::default().caps());
    let x = rec.input("x", Shape::image(1, 2, 2, 4));
    rec.output("y", x);
    let mut program = HostBackend::default().compile(rec).unwrap();
    program.run(&[("x", &[0.0; 16])]).unwrap();
    assert_eq!(program.picture("y", PixelRange::Signed).err().map(|e| e.code()), Some(ErrorCode::Unsupported));
}

#[test]
fn what_is_the_hosts_stays_the_hosts() {
    let host = Host::new();
    let own = host.buffer(wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST, 1024);
    host.queue.write_buffer(&own, 0, &[7; 1024]);
    let backend = host.backend(DType::F32).unwrap_or_else(|e| panic!("{e}"));
    // The host's scope sees the host's faults, and none of ours.
    let scope = host.device.push_error_scope(wgpu::ErrorFilter::Validation);
    let got = run(&backend).unwrap();
    assert!(pollster::block_on(scope.pop()).is_none());
    assert_near(&got, &run(&HostBackend::default()).unwrap());
    assert_eq!(host.errors.load(Ordering::SeqCst), 0);
    host.blunder();
    assert_eq!(host.errors.load(Ordering::SeqCst), 1, "the host's handler is told");
    assert_eq!(run(&backend).unwrap(), got, "the host's fault is not ours");
    backend.destroy();
    assert_eq!(run(&backend).expect_err("it was given up").code(), ErrorCode::DeviceLost);
    assert_eq!(backend.reopen().err().map(|e| e.code()), Some(ErrorCode::Unsupported));
    assert_eq!(backend.allocated_bytes(), 0);
    drop(backend);
    let read = host.buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST, 1024);
    let mut encoder = host.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    encoder.copy_buffer_to_buffer(&own, 0, &read, 0, 1024);
    assert_eq!(host.read(encoder, &read), [7; 1024]);
    assert_eq!(host.losses.load(Ordering::SeqCst), 0);
}

#[test]
fn a_hosts_device_that_is_lost() {
    let host = Host::new();
    let backend = host.backend(DType::F32).unwrap_or_else(|e| panic!("{e}"));
    let mut program = backend.compile(net(&backend)).unwrap();
    let x = values(5, 16 * 64);
    program.run(&[("x", &x)]).unwrap();
    host.device.destroy();
    for _ in 0..2 {
        assert_eq!(program.run(&[("x", &x)]).expect_err("it is gone").code(), ErrorCode::DeviceLost);
        assert_eq!(run(&backend).expect_err("it is gone").code(), ErrorCode::DeviceLost);
    }
    drop(program);
    assert_eq!(backend.allocated_bytes(), 0);
    let _ = host.device.poll(wgpu::PollType::Poll);
    assert_eq!(host.losses.load(Ordering::SeqCst), 1, "the host's callback is told");
}

/// Two backends at once, while the host waits for its own frames.
#[test]
fn backends_share_a_device_with_a_host_that_polls() {
    let host = Host::new();
    let want = run(&HostBackend::default()).unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ours: Vec<_> = (0..2)
            .map(|_| {
                let backend = host.backend(DType::F32).unwrap_or_else(|e| panic!("{e}"));
                let want = &want;
                scope.spawn(move || (0..6).for_each(|_| assert_near(&run(&backend).unwrap(), want)))
            })
            .collect();
        let frames = scope.spawn(|| {
            let (mut frames, own) = (0, host.buffer(wgpu::BufferUsages::COPY_DST, 4096));
            while !ended.load(Ordering::SeqCst) {
                host.queue.write_buffer(&own, 0, &[1; 4096]);
                host.queue.submit([]);
                host.device.poll(wgpu::PollType::wait_indefinitely()).expect("it is there");
                frames += 1;
            }
            frames
        });
        let results: Vec<_> = ours.into_iter().map(|thread| thread.join()).collect();
        ended.store(true, Ordering::SeqCst);
        let frames = frames.join().expect("the host goes on");
        results.into_iter().for_each(|result| result.expect("every run is right"));
        assert!(frames > 0);
    });
    assert_eq!((host.errors.load(Ordering::SeqCst), host.losses.load(Ordering::SeqCst)), (0, 0));
}

#[test]
fn what_a_device_lacks_is_listed() {
    let adapter = raw_adapter();
    assert!(adapter.features().contains(required_features(&adapter)));
    let limits = wgpu::Limits {
        max_storage_buffers_per_shader_stage: 4,
        max_compute_invocations_per_workgroup: 128,
        ..required_limits(&adapter)
    };
    let descriptor = wgpu::DeviceDescriptor { required_limits: limits, ..Default::default() };
    let host = Host::with(adapter, &descriptor);
    let error = host.backend(DType::F16).err().expect("too little");
    assert_eq!(error.code(), ErrorCode::Unsupported);
    let told = error.to_string();
    for name in ["SHADER_F16", "max_storage_buffers_per_shader_stage 8", "max_compute_invocations_per_workgroup 256"] {
        assert!(told.contains(name), "{told}");
    }
    let defaults = Host::with(raw_adapter(), &wgpu::DeviceDescriptor::default());
    assert_near(&run(&defaults.backend(DType::F32).unwrap()).unwrap(), &run(&HostBackend::default()).unwrap());
}

#[test]
fn a_device_of_ours_that_was_lost_is_opened_again() {
    let fault = Some(DriverFault::Loss(12));
    let backend = adapter::open_with(DType::F32, GpuOptions { fault, ..adapter::test_options() });
    let error = run(&backend).expect_err("the device is lost");
    assert_eq!(error.code(), ErrorCode::DeviceLost, "{error}");
    let again = backend.reopen().unwrap_or_else(|e| panic!("{e}"));
    assert_near(&run(&again).unwrap(), &run(&HostBackend::default()).unwrap());
    assert_eq!(run(&backend).expect_err("that one is gone").code(), ErrorCode::DeviceLost);
}

/// What it prints is what it shows: pixels that are equal, errors and losses that come to the application, a device that is its own.
#[cfg(feature = "demo")]
#[test]
fn the_example_without_a_window_shows_it() {
    let built = std::env::current_exe().expect("this program");
    let example = built.parent().and_then(std::path::Path::parent).expect("a folder").join("examples/shared_device");
    let done = std::process::Command::new(&example).output();
    let done = done.unwrap_or_else(|why| panic!("{}: {why}; `cargo build --examples` makes it", example.display()));
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{text}{}", String::from_utf8_lossy(&done.stderr));
    for line in [
        "texture 64×64 Rgba8Unorm: 0 values differ from the PNG",
        "errors told to the application while Chiaro drew: 0",
        "after one of its own: 1",
        "losses told to it: 1",
        "Chiaro says Some(DeviceLost)",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(text.contains("frames alone: ") && text.contains("while it draws: "), "{text}");
}
