//! Jobs: a request under way, stepped by its caller or on a thread of its own.

use std::ffi::{c_char, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chiaro_core::engine::{Cancel, ModelKey};
use chiaro_core::order::{Job as Written, Order};
use chiaro_core::{Event as Done, Generation, Pipeline};

use crate::engine::{Engine, INFO, WARNING};
use crate::handle::{Handle, Object, give, out};
use crate::image::Image;
use crate::model::{Model, refuse_device};
use crate::status::{Fault, Status, border, border_of};
use crate::structs::{Event, EventCallback, Request, read, write, zeroed};
use crate::text::given;

/// `chiaro_job`.
pub(crate) struct Job {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Object for Job {
    const KIND: u64 = 0x6368_6961_0000_0004;
    const NAME: &'static str = "job";
}

/// What a job and its thread have in common.
struct Shared {
    engine: Arc<Handle<Engine>>,
    work: Mutex<Work>,
    cancel: Cancel,
    done: AtomicU64,
    total: u64,
    seed: u64,
    preview_every: usize,
    /// Whether a thread of its own does the rest.
    is_started: AtomicBool,
    /// Whether that has told its last.
    has_told: AtomicBool,
    outcome: Mutex<Option<Result<(), Fault>>>,
    ended: Condvar,
    images: Mutex<Vec<Arc<Handle<Image>>>>,
}

struct Work {
    /// `None` once it has ended.
    generation: Option<Generation>,
    began: Option<Instant>,
    /// The picture of the last event.
    shown: Option<Arc<Handle<Image>>>,
}

const ENCODED: u32 = 1;
const OMS: u32 = 2;
const STEP: u32 = 3;
const ENLARGED: u32 = 4;
const PICTURE: u32 = 5;
const FINISHED: u32 = 6;
const FAILED: u32 = 7;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Some of a job's fields, which need not say the version: the library and the program's header have the same.
pub(crate) fn part_of_job(text: &str) -> Result<Written, Fault> {
    match serde_json::from_str(text) {
        Ok(serde_json::Value::Object(mut fields)) => {
            fields.entry("version").or_insert_with(|| Written::VERSION.into());
            Ok(Written::from_json(&serde_json::Value::Object(fields).to_string())?)
        }
        // What is wrong with it, it says.
        _ => Ok(Written::from_json(text)?),
    }
}

/// What a program's request adds to a model's job.
struct Asked {
    job: Written,
    preview_every: usize,
    on_device: bool,
    without_oms: bool,
}

impl Asked {
    /// # Safety
    /// `request` is NULL, or what it says and points to can be read.
    unsafe fn read(model: &Model, request: *const Request) -> Result<Self, Fault> {
        let default = Request { guidance: -1.0, oms_guidance: -1.0, ..zeroed() };
        // SAFETY: the caller's.
        let (own, [prompt, negative, sampler, oms_prompt, text]) = unsafe {
            let own = read(request, default)?;
            let texts = [
                given(own.prompt, "prompt")?,
                given(own.negative_prompt, "negative_prompt")?,
                given(own.sampler, "sampler")?,
                given(own.oms_prompt, "oms_prompt")?,
                given(own.json, "json")?,
            ];
            (own, texts)
        };
        let job = text.map_or_else(|| Ok(Written::default()), part_of_job)?;
        let mut job = job.after(&model.job)?;
        let count = |value: u32| (value > 0).then_some(value);
        // NaN is for the range to refuse.
        let weight = |value: f64| if value < 0.0 { None } else { Some(value) };
        let asked = &mut job.request;
        asked.set_some("prompt", prompt)?;
        asked.set_some("negative_prompt", negative)?;
        if let Some(name) = sampler {
            asked.unset("sigmas");
            asked.set("sampler", name)?;
        }
        asked.set_some("width", count(own.width))?;
        asked.set_some("height", count(own.height))?;
        asked.set_some("num_inference_steps", count(own.steps))?;
        asked.set_some("guidance_scale", weight(own.guidance))?;
        asked.set_some("count", count(own.count))?;
        asked.set_some("batch", count(own.batch))?;
        if own.seed != 0 || !asked.has("seed") {
            asked.set("seed", own.seed)?;
        }
        let without_oms = match own.oms {
            0 | 1 => false,
            2 => true,
            other => return Err(Fault::argument("oms", &format!("expected 0, 1 or 2, got {other}"))),
        };
        asked.set_some("oms.prompt", oms_prompt)?;
        asked.set_some("oms.guidance_scale", weight(own.oms_guidance))?;
        Ok(Asked { job, preview_every: own.preview_every as usize, on_device: own.on_device != 0, without_oms })
    }
}

/// A request of a model as what is drawn, and with which pipeline; and after how many steps each it shows previews.
///
/// # Safety
/// `request` is NULL, or what it says and points to can be read.
pub(crate) unsafe fn ordered(model: &Model, request: *const Request) -> Result<(Pipeline, Order, usize), Fault> {
    // SAFETY: the caller's.
    let asked = unsafe { Asked::read(model, request) }?;
    let mut order = asked.job.order_for(model.given.as_ref(), &model.engine.value.places)?;
    let pipeline = model.pipeline_of(&ModelKey::of(&order.load))?;
    order.request.previews = asked.preview_every > 0;
    order.request.on_device = asked.on_device;
    if asked.without_oms {
        order.request.oms = None;
    }
    Ok((pipeline, order, asked.preview_every))
}

impl Job {
    fn new(
        engine: Arc<Handle<Engine>>,
        pipeline: &Pipeline,
        order: Order,
        preview_every: usize,
    ) -> Result<Arc<Handle<Self>>, Fault> {
        let log = &engine.value;
        order.notes.iter().for_each(|note| log.log(INFO, note));
        let not_repeated = order.not_repeated.join(", ");
        if !not_repeated.is_empty() {
            log.log(WARNING, &format!("not repeated: {not_repeated}"));
        }
        let (total, seed) = (pipeline.units(&order.request), order.request.seed);
        let generation = pipeline.generate(order.request)?;
        generation.warnings().iter().for_each(|warning| log.log(WARNING, warning));
        let cancel = generation.cancel_token();
        let work = Work { generation: Some(generation), began: None, shown: None };
        let shared = Arc::new(Shared {
            engine,
            work: Mutex::new(work),
            cancel,
            done: AtomicU64::new(0),
            total,
            seed,
            preview_every,
            is_started: AtomicBool::new(false),
            has_told: AtomicBool::new(false),
            outcome: Mutex::default(),
            ended: Condvar::new(),
            images: Mutex::default(),
        });
        Ok(Handle::new(Job { shared, thread: Mutex::default() }))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.shared.cancel.cancel();
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // From its own callback there is nothing to wait for.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            // What went wrong in it was told.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// One unit of work. `None` once all is done.
    fn step(&self, work: &mut Work, keeps: bool) -> Result<Option<Event>, Fault> {
        if let Some(outcome) = lock(&self.outcome).clone() {
            return outcome.map(|()| None);
        }
        let began = *work.began.get_or_insert_with(Instant::now);
        work.shown = None;
        let event = match work.generation.as_mut().and_then(Iterator::next) {
            Some(Ok(event)) => self.told(work, event, keeps),
            Some(Err(error)) => Err(error.into()),
            None => {
                self.end(work, Ok(()));
                return Ok(None);
            }
        };
        match event {
            Ok(event) => Ok(Some(self.timed(event, began))),
            Err(fault) => {
                self.end(work, Err(fault.clone()));
                Err(fault)
            }
        }
    }

    /// An event as the header has it.
    fn told(&self, work: &mut Work, event: Done, keeps: bool) -> Result<Event, Fault> {
        self.done.fetch_add(1, Ordering::Relaxed);
        let mut told = zeroed::<Event>();
        match event {
            Done::Encoded => told.kind = ENCODED,
            Done::OneMoreStep { image } => (told.kind, told.image) = (OMS, image as u32),
            Done::Step { image, step, of } => {
                (told.kind, told.image, told.step, told.of) = (STEP, image as u32, step as u32, of as u32);
                let is_due = self.preview_every > 0 && step.is_multiple_of(self.preview_every) && step < of;
                if let Some(generation) = work.generation.as_mut().filter(|_| is_due) {
                    let seed = self.seed.wrapping_add(image as u64);
                    work.shown = generation.preview(image)?.map(|pixels| Image::preview(pixels, seed));
                }
            }
            Done::Enlarged { image } => (told.kind, told.image) = (ENLARGED, image as u32),
            Done::Picture(picture) => {
                let log = &self.engine.value;
                picture.notes.iter().for_each(|note| log.log(INFO, note));
                told.kind = PICTURE;
                told.image = picture.seed.wrapping_sub(self.seed) as u32;
                let image = Image::of(*picture);
                if keeps {
                    lock(&self.images).push(Arc::clone(&image));
                }
                work.shown = Some(image);
            }
            _ => {}
        }
        told.picture = work.shown.as_ref().map_or(std::ptr::null_mut(), |image| Arc::as_ptr(image).cast_mut());
        Ok(told)
    }

    /// The event with how far the job is.
    fn timed(&self, mut event: Event, began: Instant) -> Event {
        event.struct_size = size_of::<Event>() as u32;
        (event.done, event.total) = (self.done.load(Ordering::Relaxed), self.total);
        event.seconds = began.elapsed().as_secs_f64();
        let left = self.total.saturating_sub(event.done) as f64;
        event.seconds_left = if event.done > 0 { event.seconds / event.done as f64 * left } else { -1.0 };
        event
    }

    /// The last event.
    fn last(&self, work: &Work, kind: u32) -> Event {
        let event = Event { kind, ..zeroed() };
        let event = self.timed(event, work.began.unwrap_or_else(Instant::now));
        Event { seconds_left: 0.0, ..event }
    }

    /// Gives back what the job holds, then tells that it has ended.
    fn end(&self, work: &mut Work, outcome: Result<(), Fault>) {
        work.generation = None;
        lock(&self.outcome).get_or_insert(outcome);
        self.ended.notify_all();
    }

    /// The right to do the job's work.
    fn begin(&self) -> Result<MutexGuard<'_, Work>, Fault> {
        if self.is_started.load(Ordering::Acquire) {
            return Err(Fault::busy("the job runs on a thread of its own"));
        }
        match self.work.try_lock() {
            Ok(work) => Ok(work),
            Err(TryLockError::Poisoned(work)) => Ok(work.into_inner()),
            Err(TryLockError::WouldBlock) => Err(Fault::busy("another thread does the job's work")),
        }
    }
}

/// A request, checked.
///
/// # Safety
/// `model` is NULL or a model; `request` is NULL, or what it says and points to can be read; the others are NULL or can be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_job_new(
    model: *const Handle<Model>,
    request: *const Request,
    job: *mut *mut Handle<Job>,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe {
        border_of(model, error, |model| {
            out(job, "job")?;
            let (pipeline, order, preview_every) = ordered(&model.value, request)?;
            let engine = Arc::clone(&model.value.engine);
            give(job, Job::new(engine, &pipeline, order, preview_every)?);
            Ok(())
        })
    }
}

/// A whole job, with its model.
///
/// # Safety
/// `engine` is NULL or an engine; `json` is NULL or a text; the others are NULL or can be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_job_new_json(
    engine: *mut Handle<Engine>,
    json: *const c_char,
    job: *mut *mut Handle<Job>,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe {
        border_of(engine, error, |_| {
            out(job, "job")?;
            let engine = Handle::shared(engine)?;
            let text = given(json, "json")?.ok_or_else(|| Fault::argument("json", "expected a job, got NULL"))?;
            let written = Written::from_json(text)?;
            refuse_device(&written)?;
            let order = written.order(&engine.value.places)?;
            let pipeline = engine.value.engine.load(&ModelKey::of(&order.load))?;
            give(job, Job::new(engine, &pipeline, order, 0)?);
            Ok(())
        })
    }
}

/// # Safety
/// `job` is NULL or a job.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_job_retain(job: *mut Handle<Job>) -> *mut Handle<Job> {
    // SAFETY: the caller's.
    unsafe { Handle::retain(job) }
}

/// # Safety
/// `job` is NULL or a job that the caller owns.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_job_release(job: *mut Handle<Job>) {
    // SAFETY: the caller's.
    unsafe { Handle::release(job) }
}

/// One unit of work.
///
/// # Safety
/// `job` is NULL or a job; the others are NULL or can be written; `event` says its size.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_job_step(
    job: *mut Handle<Job>,
    event: *mut Event,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe {
        border_of(job.cast_const(), error, |job| {
            let shared = &job.value.shared;
            let mut work = shared.begin()?;
            let told = shared.step(&mut work, false)?.unwrap_or_else(|| shared.last(&work, FINISHED));
            if event.is_null() { Ok(()) } else { write(event, &told) }
        })
    }
}

/// All that is left.
///
/// # Safety
/// `job` is NULL or a job; `error` is NULL or can be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_job_run(job: *mut Handle<Job>, error: *mut *mut Handle<Fault>) -> Status {
    // SAFETY: the caller's.
    unsafe {
        border_of(job.cast_const(), error, |job| {
            let shared = &job.value.shared;
            let mut work = shared.begin()?;
            while shared.step(&mut work, true)?.is_some() {}
            Ok(())
        })
    }
}

/// A program's function for events, with what it is called with.
struct Callback {
    job: *mut Handle<Job>,
    function: Option<EventCallback>,
    user: *mut c_void,
}

// SAFETY: the header says that it is called on the job's thread. The job outlives that.
unsafe impl Send for Callback {}

impl Callback {
    fn tell(&self, event: &Event) {
        if let Some(function) = self.function {
            // SAFETY: the program gave it for this.
            unsafe { function(self.job, event, self.user) };
        }
    }
}

fn run(shared: &Shared, callback: &Callback) {
    let mut work = lock(&shared.work);
    let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        loop {
            match shared.step(&mut work, callback.function.is_none()) {
                Ok(Some(event)) => callback.tell(&event),
                Ok(None) => return FINISHED,
                Err(_) => return FAILED,
            }
        }
    }));
    let kind = told.unwrap_or_else(|_| {
        shared.end(&mut work, Err(Fault::internal("a fault of the library on the job's thread")));
        FAILED
    });
    callback.tell(&shared.last(&work, kind));
    work.shown = None;
    let outcome = lock(&shared.outcome);
    shared.has_told.store(true, Ordering::Release);
    shared.ended.notify_all();
    drop(outcome);
}

/// All that is left, on a thread of its own.
///
/// # Safety
/// `job` is NULL or a job; `callback` takes what it is given until the job is released; `error` is NULL or can be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_job_start(
    job: *mut Handle<Job>,
    callback: Option<EventCallback>,
    user: *mut c_void,
    error: *mut *mut Handle<Fault>,
) -> Status {
    let told = Callback { job, function: callback, user };
    // SAFETY: the caller's.
    unsafe {
        border_of(job.cast_const(), error, |job| {
            let mut thread = lock(&job.value.thread);
            let shared = Arc::clone(&job.value.shared);
            let work = shared.begin()?;
            shared.is_started.store(true, Ordering::Release);
            drop(work);
            let body = move || {
                let told = told;
                run(&shared, &told);
            };
            let started = std::thread::Builder::new().name("chiaro job".into()).spawn(body);
            let started = started.map_err(|why| {
                job.value.shared.is_started.store(false, Ordering::Release);
                Fault::io(&format!("a thread for the job: {why}"))
            });
            *thread = Some(started?);
            Ok(())
        })
    }
}

/// Waits for a job that was started.
///
/// # Safety
/// `job` is NULL or a job; `error` is NULL or can be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_job_wait(
    job: *mut Handle<Job>,
    milliseconds: i64,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe {
        border_of(job.cast_const(), error, |job| {
            let shared = &job.value.shared;
            let outcome = lock(&shared.outcome);
            if outcome.is_none() && !shared.is_started.load(Ordering::Acquire) {
                return Err(Fault::argument("job", "nobody does its work; start it, or step it"));
            }
            // What the program has for its callback is its own again once this returns.
            let tells = || shared.is_started.load(Ordering::Acquire) && !shared.has_told.load(Ordering::Acquire);
            let goes_on = |outcome: &mut Option<_>| outcome.is_none() || tells();
            let outcome = match u64::try_from(milliseconds) {
                Err(_) => shared.ended.wait_while(outcome, goes_on).unwrap_or_else(PoisonError::into_inner),
                Ok(milliseconds) => {
                    let most = Duration::from_millis(milliseconds);
                    let waited = shared.ended.wait_timeout_while(outcome, most, goes_on);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            if outcome.is_some() && !tells() { Ok(()) } else { Err(Fault::busy("the job goes on")) }
        })
    }
}

/// How the job ended.
///
/// # Safety
/// `job` is NULL or a job; `error` is NULL or can be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_job_status(job: *const Handle<Job>, error: *mut *mut Handle<Fault>) -> Status {
    // SAFETY: the caller's.
    unsafe {
        border(error, || {
            let outcome = lock(&Handle::of(job)?.value.shared.outcome).clone();
            outcome.unwrap_or_else(|| Err(Fault::busy("the job has not ended")))
        })
    }
}

/// How far it is.
///
/// # Safety
/// `job` is NULL or a job; the others are NULL or can be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_job_progress(job: *const Handle<Job>, done: *mut u64, total: *mut u64) {
    // SAFETY: the caller's.
    unsafe {
        let (so_far, all) = Handle::of(job)
            .map_or((0, 0), |job| (job.value.shared.done.load(Ordering::Relaxed), job.value.shared.total));
        if !done.is_null() {
            *done = so_far;
        }
        if !total.is_null() {
            *total = all;
        }
    }
}

/// Asks the job to end.
///
/// # Safety
/// `job` is NULL or a job.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_job_cancel(job: *const Handle<Job>) {
    // SAFETY: the caller's. An atomic store alone: signal handlers may call it.
    if let Ok(job) = unsafe { Handle::of(job) } {
        job.value.shared.cancel.cancel();
    }
}

/// How many pictures are kept.
///
/// # Safety
/// `job` is NULL or a job.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_job_image_count(job: *const Handle<Job>) -> usize {
    // SAFETY: the caller's.
    unsafe { Handle::of(job) }.map_or(0, |job| lock(&job.value.shared.images).len())
}

/// One of them.
///
/// # Safety
/// `job` is NULL or a job; the others are NULL or can be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_job_image(
    job: *const Handle<Job>,
    index: usize,
    image: *mut *mut Handle<Image>,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe {
        border(error, || {
            out(image, "image")?;
            let images = lock(&Handle::of(job)?.value.shared.images);
            let found = images.get(index).ok_or_else(|| {
                Fault::argument("index", &format!("there are {} pictures, got {index}", images.len()))
            })?;
            give(image, Arc::clone(found));
            Ok(())
        })
    }
}
