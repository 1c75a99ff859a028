//! A device that an application made and draws with, lent to Chiaro: frames go on while a picture is drawn, and the picture is a texture there.
//! `examples/window` is the same with a window.
//!
//! ```sh
//! cargo run --release --example shared_device
//! ```

mod host;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{TryRecvError, channel};
use std::time::Duration;

use chiaro::engine::{Engine, JobEvent, ModelKey, Residency};
use chiaro::image::decode_photo;
use chiaro::shared::{texture, wgpu};
use chiaro::{Device, Event, Picture, Precision, Request, Source};

use host::{Host, Result, target};

fn main() -> Result<()> {
    let host = pollster::block_on(Host::open())?;
    let quiet = (0..120).map(|_| host.frame()).collect::<Result<Vec<_>>>()?;

    let lent = Device::lent(host.lent.clone(), Precision::Auto)?;
    println!("lent: {}", lent.describe());
    let engine = Engine::new(lent, Residency::On);
    let pipeline = engine.load(&ModelKey::new(Source::DemoModel))?;
    // Small, so that a driver that computes on the processor is done soon too.
    let request = Request {
        prompt: "a red circle on a black background".into(),
        width: Some(64),
        height: Some(64),
        num_inference_steps: 8,
        on_device: true,
        ..Request::default()
    };

    // The job has a thread of its own; this one draws frames until the job ends.
    let (told, events) = channel();
    let _job = engine.start(&pipeline, request.clone(), move |event| drop(told.send(event)))?;
    let (mut busy, mut picture) = (Vec::new(), None);
    loop {
        busy.push(host.frame()?);
        match events.try_recv() {
            Ok(JobEvent::Done(Event::Picture(drawn))) => picture = Some(drawn),
            Ok(JobEvent::Failed(error)) => return Err(error.into()),
            Ok(_) | Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => break,
        }
    }
    println!("frames alone:     {}", spread(quiet));
    println!("while it draws:   {}", spread(busy));

    let picture: Box<Picture> = picture.ok_or("expected a picture, got none")?;
    let on_device = picture.on_device.as_deref().and_then(texture);
    let shown = on_device.ok_or("expected a texture on the device that was lent")?;
    let png = decode_photo(Path::new("the PNG"), &picture.png()?)?.image;
    let differ = host.read_back(&shown)?.iter().zip(&png.data).filter(|(a, b)| a != b).count();
    println!("texture {}×{} {:?}: {differ} values differ from the PNG", png.width, png.height, shown.format());

    // Errors of the application's own calls come to the application, and so does the loss of the device.
    println!("errors told to the application while Chiaro drew: {}", host.errors.load(Ordering::Relaxed));
    let size = wgpu::Extent3d { width: 0, ..shown.size() };
    let _refused = host.lent.device.create_texture(&wgpu::TextureDescriptor { size, ..target() });
    println!("after one of its own: {}", host.errors.load(Ordering::Relaxed));
    host.lent.device.destroy();
    let end = pipeline.generate(request)?.find_map(|event| event.err());
    println!("losses told to it: {}", host.losses.load(Ordering::Relaxed));
    println!("Chiaro says {:?}", end.map(|error| error.code()));
    Ok(())
}

fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: usize| times.get((times.len() * share / 100).min(times.len() - 1)).copied().unwrap_or_default();
    format!("{} of them, p50 {:.2?}, p99 {:.2?}", times.len(), at(50), at(99))
}
