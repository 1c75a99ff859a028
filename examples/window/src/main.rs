//! A window that moves at its frame rate while a picture is drawn on the same device, and then shows it: the picture is a texture there.
//!
//! ```sh
//! cd examples/window && cargo run --release -- "a red circle on a black background"
//! ```

mod painter;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use chiaro::engine::{Engine, JobEvent, JobHandle, ModelKey, Residency};
use chiaro::shared::texture;
use chiaro::{Device, Event, Precision, Request, Source};
use winit::application::ApplicationHandler;
use winit::event::WindowEvent;
use winit::event_loop::{ActiveEventLoop, EventLoop};
use winit::window::{Window, WindowId};

use painter::Painter;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let prompt = std::env::args().nth(1).unwrap_or_else(|| "a red circle on a black background".into());
    let mut application = Application { prompt, open: None, failed: None };
    EventLoop::new()?.run_app(&mut application)?;
    application.failed.map_or(Ok(()), Err)
}

struct Application {
    prompt: String,
    open: Option<Open>,
    failed: Option<Box<dyn std::error::Error>>,
}

/// What there is once there is a window.
struct Open {
    window: Arc<Window>,
    painter: Painter,
    /// Dropped with the window: that cancels it.
    job: JobHandle,
    events: Receiver<JobEvent>,
    /// Keeps what stays on the device.
    _engine: Engine,
    last_frame: Instant,
    longest: f64,
}

impl Open {
    fn new(events: &ActiveEventLoop, prompt: &str) -> Result<Open> {
        let window = Arc::new(events.create_window(Window::default_attributes().with_title("Chiaro"))?);
        let painter = pollster::block_on(Painter::new(Arc::clone(&window)))?;
        let engine = Engine::new(Device::lent(painter.lent(), Precision::Auto)?, Residency::On);
        println!("{}", engine.device().describe());
        let pipeline = engine.load(&ModelKey::new(Source::DemoModel))?;
        let request = Request { prompt: prompt.into(), on_device: true, ..Request::default() };
        let (told, events) = channel();
        let job = engine.start(&pipeline, request, move |event| drop(told.send(event)))?;
        window.request_redraw();
        Ok(Open { window, painter, job, events, _engine: engine, last_frame: Instant::now(), longest: 0.0 })
    }

    fn frame(&mut self) -> Result<()> {
        for event in self.events.try_iter() {
            match event {
                JobEvent::Done(Event::Step { step, of, .. }) => {
                    self.window.set_title(&format!("Chiaro: step {step} of {of}"));
                }
                JobEvent::Done(Event::Picture(picture)) => {
                    if let Some(texture) = picture.on_device.as_deref().and_then(texture) {
                        self.painter.show(&texture);
                    }
                    println!("longest time between two frames while it was drawn: {:.1} ms", self.longest);
                    self.window.set_title("Chiaro");
                }
                JobEvent::Failed(error) => return Err(error.into()),
                _ => {}
            }
        }
        self.painter.paint()?;
        if !self.job.has_ended() {
            self.longest = self.longest.max(self.last_frame.elapsed().as_secs_f64() * 1e3);
        }
        self.last_frame = Instant::now();
        self.window.request_redraw();
        Ok(())
    }
}

impl ApplicationHandler for Application {
    fn resumed(&mut self, events: &ActiveEventLoop) {
        match Open::new(events, &self.prompt) {
            Ok(open) => self.open = Some(open),
            Err(error) => self.end(events, error),
        }
    }

    fn window_event(&mut self, events: &ActiveEventLoop, _: WindowId, event: WindowEvent) {
        let Some(open) = &mut self.open else { return };
        let done = match event {
            WindowEvent::CloseRequested => {
                events.exit();
                Ok(())
            }
            WindowEvent::Resized(size) => {
                open.painter.resize(size.width, size.height);
                Ok(())
            }
            WindowEvent::RedrawRequested => open.frame(),
            _ => Ok(()),
        };
        if let Err(error) = done {
            self.end(events, error);
        }
    }
}

impl Application {
    fn end(&mut self, events: &ActiveEventLoop, error: Box<dyn std::error::Error>) {
        self.failed = Some(error);
        events.exit();
    }
}
