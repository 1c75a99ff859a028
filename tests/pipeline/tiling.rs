//! Autoencoders in bands: when they are chosen, what they take, and that the picture is the same.

use std::sync::Arc;

use chiaro::image::Rgb8Image;
use chiaro::models::{AutoencoderKl, AutoencoderKlConfig};
use chiaro::pipeline::{
    Device, Event, InitImage, Overrides, Pipeline, Precision, Request, Source, StagePlan, VaeTiling,
};
use chiaro::record::{Backend, Caps, ChainPlan, DType, HostBackend, Program, Recording, plan};
use chiaro::weights::{WeightFile, WeightType, Weights};
use chiaro::{Error, ErrorCode, Remedy};

use super::budget::{Model, Planner, models, ordinary};
use crate::support::adapter;

const MIB: u64 = 1 << 20;

fn on_paper(caps: Caps, precision: Precision, tiling: VaeTiling) -> Device {
    Device::new(Arc::new(Planner(caps)), precision).expect("a device").with_vae_tiling(tiling)
}

/// The autoencoder's stages of a full-size model, for a picture that starts from another.
fn stages(model: &Model, device: Device, side: usize) -> chiaro::Result<Vec<StagePlan>> {
    let pipeline = Pipeline::load(&model.source(), None, device)?;
    let image = InitImage { width: side, height: side, rgb: vec![0.5; 3 * side * side], strength: 0.5, mask: None };
    let request = Request { image: Some(image), ..Request::default() };
    Ok(pipeline.plan(&request)?.into_iter().filter(|stage| stage.name.starts_with("VAE")).collect())
}

/// The least that bands can make of an autoencoder's stage.
fn least(model: &Model, caps: &Caps, precision: Precision, side: usize, stage: &str) -> u64 {
    let storage = if precision == Precision::F16 { DType::F16 } else { DType::F32 };
    let caps = Caps { storage, ..caps.clone() };
    let Source::Folder(folder) = model.source() else { panic!("a folder") };
    let text = std::fs::read_to_string(folder.join("vae/config.json")).expect("a config");
    let config = AutoencoderKlConfig::from_json(&text, "config.json").unwrap_or_else(|e| panic!("{e}"));
    let file =
        WeightFile::open(folder.join("vae/diffusion_pytorch_model.safetensors")).unwrap_or_else(|e| panic!("{e}"));
    let weights = Weights::new(Arc::new(file), "vae", WeightType::Keep);
    let vae = Arc::new(AutoencoderKl::load(config, &weights).unwrap_or_else(|e| panic!("{e}")));
    let peak = |levels: usize| {
        let chain = match stage {
            "VAE encoder" => vae.encode_chain(side, side, levels),
            _ => vae.decode_chain(side / 8, side / 8, levels),
        };
        ChainPlan::new(&chain, &caps, 0).unwrap_or_else(|e| panic!("{e}")).peak_bytes()
    };
    (1..=vae.levels()).map(peak).min().expect("levels")
}

#[test]
fn full_size_in_bands() {
    let [sd15, _] = models();
    for precision in [Precision::F16, Precision::F32] {
        for side in [512, 1024, 2048] {
            // Bindings of any size, so that the whole can be planned.
            let caps = Caps { max_binding_bytes: 64 << 30, max_buffer_bytes: 64 << 30, ..ordinary() };
            let plans = |tiling| {
                stages(sd15, on_paper(caps.clone(), precision, tiling), side).unwrap_or_else(|e| panic!("{side}: {e}"))
            };
            for (whole, banded) in plans(VaeTiling::Off).iter().zip(plans(VaeTiling::On)) {
                let bands = banded.bands.as_ref().unwrap_or_else(|| panic!("{side}: {} is whole", banded.name));
                let least = least(sd15, &caps, precision, side, whole.name);
                assert!(least <= banded.peak_bytes(), "{side}: {least}");
                println!(
                    "{side}² {precision:?} {}: {:.1} MiB whole, {:.1} MiB: {bands}; the most by {}; {:.3} times the work; \
                     {:.1} MiB at least",
                    whole.name,
                    whole.peak_bytes() as f64 / MIB as f64,
                    banded.peak_bytes() as f64 / MIB as f64,
                    bands.largest,
                    banded.flops as f64 / whole.flops as f64,
                    least as f64 / MIB as f64,
                );
                assert!(whole.bands.is_none());
                assert_eq!(bands.whole_bytes, whole.peak_bytes());
                assert!(banded.peak_bytes() * 3 < whole.peak_bytes(), "{side}: {}", banded.peak_bytes());
                let work = banded.flops as f64 / whole.flops as f64;
                assert!((0.99..1.25).contains(&work), "{side}: {work} times the work");
                // Three maps of the finest level, of 256 channels at most, and the next coarser one.
                let map = (side * side * 256 * 4) as u64;
                assert!(bands.host_bytes > map / 4 && bands.host_bytes < 2 * map, "{side}: {bands:?}");
            }
        }
    }
}

/// Bindings that hold the UNet's tensors and not the decoder's, in f32 and in f16.
#[test]
fn what_a_device_cannot_bind_is_cut() {
    let [sd15, sdxl] = models();
    let small = Caps { max_binding_bytes: 256 << 20, max_buffer_bytes: 256 << 20, ..ordinary() };
    for (model, precision, side) in
        [(sd15, Precision::F32, 768), (sdxl, Precision::F32, 1024), (sdxl, Precision::F16, 1280)]
    {
        let error = stages(model, on_paper(small.clone(), precision, VaeTiling::Off), side).expect_err("too large");
        assert!(error.to_string().contains("in one binding"), "{error}");
        assert!(error.remedies().contains(&Remedy::Bands) && error.code() == ErrorCode::Unsupported, "{error:?}");
        let cut = stages(model, on_paper(small.clone(), precision, VaeTiling::Auto), side)
            .unwrap_or_else(|e| panic!("{side}: {e}"));
        let decoder = cut.iter().find(|stage| stage.name == "VAE decoder").expect("a decoder");
        let bands = decoder.bands.as_ref().expect("it is cut");
        println!("{side}² {precision:?}: {:.1} MiB: {bands}", decoder.peak_bytes() as f64 / MIB as f64);
        assert!(decoder.memory.placements.iter().flatten().all(|place| place.bytes <= 256 << 20));
    }
    // What fits stays whole.
    let whole = stages(sd15, on_paper(ordinary(), Precision::F16, VaeTiling::Auto), 512).expect("it fits");
    assert!(whole.iter().all(|stage| stage.bands.is_none()));
}

/// An encoder whose f32 tensors would fit the bindings only as f16 is cut, so that they stay f32.
#[test]
fn what_would_be_narrowed_is_cut() {
    let [sd15, _] = models();
    // 768² pixels of 128 channels are 288 MiB in f32, 144 MiB in f16.
    for (binding, expected) in [(288 << 20, false), (200 << 20, true)] {
        let caps = Caps { max_binding_bytes: binding, ..ordinary() };
        let stages =
            stages(sd15, on_paper(caps, Precision::F16, VaeTiling::Auto), 768).unwrap_or_else(|e| panic!("{e}"));
        let encoder = stages.iter().find(|stage| stage.name == "VAE encoder").expect("an encoder");
        assert_eq!(encoder.bands.is_some(), expected, "bindings of {binding}");
    }
}

/// The fewest levels, then the highest bands: a smaller limit never gives fewer levels, and what is cut fits.
#[test]
fn a_limit_cuts_as_little_as_it_must() {
    let [sd15, _] = models();
    let side = Some(1920);
    let request = Request { prompt: "x".into(), width: side, height: side, guidance_scale: 1.0, ..Request::default() };
    let within = |bytes: u64, tiling: VaeTiling| {
        let device = on_paper(ordinary(), Precision::F16, tiling);
        let device = device.with_weights("text=q4_0,unet=q4_0".parse().expect("types"));
        let source = sd15.source();
        let (pipeline, tried) = Pipeline::load_within(&source, &Overrides::default(), None, device, &request, bytes)?;
        let plans = pipeline.plan(&request)?;
        let decoder = plans.into_iter().find(|stage| stage.name == "VAE decoder").expect("a decoder");
        chiaro::Result::Ok((decoder, tried))
    };
    let mut levels = 0;
    let mut peaks = Vec::new();
    for limit in [5000 * MIB, 4000 * MIB, 2600 * MIB, 2000 * MIB, 1800 * MIB] {
        let (decoder, _) = within(limit, VaeTiling::Auto).unwrap_or_else(|e| panic!("{limit}: {e}"));
        assert!(decoder.peak_bytes() <= limit);
        let cut = decoder.bands.as_ref().map_or(0, |bands| bands.levels);
        assert!(cut >= levels, "{limit}: {cut} levels after {levels}");
        levels = cut;
        peaks.push((limit / MIB, decoder.peak_bytes() / MIB, cut));
    }
    println!("{peaks:?}");
    assert!(peaks[0].2 == 0 && levels > 1, "{peaks:?}: from whole to more than one level");
    let error = within(1800 * MIB, VaeTiling::Off).map(|_| ()).expect_err("whole, it does not fit").to_string();
    assert!(error.contains("the VAE decoder needs"), "{error}");
}

/// A device that has so much memory, and does not say.
struct Small(HostBackend, u64);

impl Backend for Small {
    fn caps(&self) -> &Caps {
        self.0.caps()
    }

    fn compile(&self, recording: Recording) -> chiaro::Result<Box<dyn Program>> {
        match plan(&recording)?.peak_bytes() {
            bytes if bytes <= self.1 => self.0.compile(recording),
            bytes => Err(Error::out_of_memory("small", "the plan", Some(bytes), Some(self.1))),
        }
    }
}

/// After all steps are done, the picture is not lost.
#[test]
fn a_device_without_memory_for_the_whole_runs_bands() {
    let load = |backend: Arc<dyn Backend>, tiling: VaeTiling| {
        let device = demo(backend, Precision::F32).with_vae_tiling(tiling);
        Pipeline::load(&Source::DemoModel, None, device).expect("the demo model is whole")
    };
    let whole = load(Arc::new(HostBackend::default()), VaeTiling::Auto);
    // The decoder is larger than all others.
    let request = request(320);
    let plans = whole.plan(&request).expect("a plan");
    let largest = plans.iter().filter(|s| !s.name.starts_with("VAE")).map(StagePlan::peak_bytes).max().expect("a UNet");
    let decoder = plans.iter().find(|s| s.name == "VAE decoder").expect("a decoder").peak_bytes();
    assert!(largest < decoder, "{largest}, {decoder}");
    let small = || Arc::new(Small(HostBackend::default(), largest));
    let cut = load(small(), VaeTiling::Auto);
    assert!(cut.plan(&request).expect("a plan").iter().all(|stage| stage.bands.is_none()), "nobody could know");
    let (image, notes) = draw_with_notes(&cut, &request);
    assert_same(&draw(&whole, &request), &image);
    assert!(
        notes.iter().any(|n| n.contains("VAE decoder in bands") && n.contains("out of device memory")),
        "{notes:?}"
    );
    let off = load(small(), VaeTiling::Off);
    let run = off.generate(request).unwrap_or_else(|e| panic!("{e}"));
    let error = run.filter_map(Result::err).next().expect("no memory").to_string();
    assert!(error.contains("out of device memory"), "{error}");
}

fn demo(backend: Arc<dyn Backend>, precision: Precision) -> Device {
    Device::new(backend, precision).expect("a device")
}

fn request(side: usize) -> Request {
    // A picture that starts from another, so that the encoder runs too.
    let of = |i: usize| i as f32 / side as f32;
    let rgb: Vec<f32> = (0..side * side).flat_map(|i| [of(i % side), of(i / side), 0.3]).collect();
    let image = InitImage { width: side, height: side, rgb, strength: 0.5, mask: None };
    Request {
        prompt: "a red circle".into(),
        image: Some(image),
        num_inference_steps: 2,
        guidance_scale: 1.0,
        ..Request::default()
    }
}

fn draw(pipeline: &Pipeline, request: &Request) -> Rgb8Image {
    draw_with_notes(pipeline, request).0
}

fn draw_with_notes(pipeline: &Pipeline, request: &Request) -> (Rgb8Image, Vec<String>) {
    for event in pipeline.generate(request.clone()).unwrap_or_else(|e| panic!("{e}")) {
        if let Event::Picture(picture) = event.unwrap_or_else(|e| panic!("{e}")) {
            return (picture.image, picture.notes);
        }
    }
    panic!("no picture");
}

/// At most one of 255 in few places.
fn assert_same(a: &Rgb8Image, b: &Rgb8Image) {
    assert_eq!((a.width, a.height), (b.width, b.height));
    let differences: Vec<u8> = a.data.iter().zip(&b.data).map(|(a, b)| a.abs_diff(*b)).collect();
    let off = differences.iter().filter(|d| **d > 0).count();
    assert!(differences.iter().all(|d| *d <= 1) && off * 100 < differences.len(), "{off} of {}", differences.len());
}

#[test]
fn pictures_in_bands_are_the_same_on_the_host() {
    let device = demo(Arc::new(HostBackend::default()), Precision::F32);
    let load = |device: Device| Pipeline::load(&Source::DemoModel, None, device).expect("the demo model is whole");
    let (whole, banded) = (load(device.clone()), load(device.with_vae_tiling(VaeTiling::On)));
    let request = request(64);
    let cut = |pipeline: &Pipeline| {
        pipeline.plan(&request).expect("a plan").iter().filter_map(|stage| stage.bands.as_ref()).count()
    };
    assert_eq!((cut(&whole), cut(&banded)), (0, 2));
    assert_same(&draw(&whole, &request), &draw(&banded, &request));
}

/// A limit below what the autoencoder takes whole, on a device that runs.
#[test]
fn a_limit_forces_bands() {
    let gpu: Arc<dyn Backend> = Arc::new(adapter::open(DType::F32));
    let device = demo(gpu, Precision::F32).with_weights("unet=q4_0,text=q4_0".parse().expect("types"));
    let whole = Pipeline::load(&Source::DemoModel, None, device.clone()).expect("the demo model is whole");
    let request = request(128);
    let plans = whole.plan(&request).expect("a plan");
    let of = |vae: bool| plans.iter().filter(move |stage| stage.name.starts_with("VAE") == vae);
    let decoder = of(true).map(StagePlan::peak_bytes).max().expect("an autoencoder");
    let others = of(false).map(StagePlan::peak_bytes).max().expect("a UNet");
    assert!(others < decoder, "the autoencoder is the largest stage: {others}, {decoder}");
    let limit = others.max(decoder / 2);
    let (cut, tried) = Pipeline::load_within(&Source::DemoModel, &Overrides::default(), None, device, &request, limit)
        .unwrap_or_else(|e| panic!("{e}"));
    let measured = cut.measure(&request).expect("every stage opens");
    assert!(measured.iter().any(|(plan, _)| plan.bands.is_some()), "{measured:?}");
    for (plan, allocated) in &measured {
        assert!(*allocated <= limit, "{}: {allocated} of {limit}", plan.name);
        assert!((*allocated as f64 / plan.peak_bytes() as f64 - 1.0).abs() <= 0.02);
    }
    assert!(tried.iter().all(|t| t.peak_bytes > limit), "{tried:?}");
    assert_same(&draw(&whole, &request), &draw(&cut, &request));
}
