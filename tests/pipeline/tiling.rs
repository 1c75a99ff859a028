//! Autoencoders in bands: when they are chosen, what they take, and that the picture is the same.

use std::sync::Arc;

use chiaro::image::Rgb8Image;
use chiaro::pipeline::{
    Device, Event, InitImage, Overrides, Pipeline, Precision, Request, Source, StagePlan, VaeTiling,
};
use chiaro::record::{Backend, Caps, DType, HostBackend};

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
                println!(
                    "{side}² {precision:?} {}: {:.1} MiB whole, {:.1} MiB: {bands}; the most by {}; {:.3} times the work",
                    whole.name,
                    whole.peak_bytes() as f64 / MIB as f64,
                    banded.peak_bytes() as f64 / MIB as f64,
                    bands.largest,
                    banded.flops as f64 / whole.flops as f64,
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
        let error =
            stages(model, on_paper(small.clone(), precision, VaeTiling::Off), side).expect_err("too large").to_string();
        assert!(error.contains("in one binding") && error.contains("--vae-tiling"), "{error}");
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
    for event in pipeline.generate(request.clone()).unwrap_or_else(|e| panic!("{e}")) {
        if let Event::Picture(picture) = event.unwrap_or_else(|e| panic!("{e}")) {
            return picture.image;
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
