//! Models: loaded by an engine, with what their jobs have in common.

use std::ffi::{c_char, c_void};
use std::io::{Error as IoError, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use chiaro_core::engine::{Loading, ModelKey};
use chiaro_core::lookup::{ReadAt, inspect};
use chiaro_core::order::{Job, Order};
use chiaro_core::{Error, Pipeline, Request, Source};
use serde_json::json;

use crate::engine::{Engine, INFO};
use crate::handle::{Handle, Object, give, out};
use crate::job::{ordered, part_of_job};
use crate::status::{Fault, Status, border, border_of};
use crate::structs::{self, CloseCallback, LoadCallback, LoadOptions, ReadCallback, Reader, read, zeroed};
use crate::text::{c_text, give_json, given};

/// `chiaro_model`.
pub(crate) struct Model {
    pub(crate) engine: Arc<Handle<Engine>>,
    /// What jobs with it begin with: the model, its adapters, embeddings and nets.
    pub(crate) job: Job,
    /// The model, where a program gave its bytes.
    pub(crate) given: Option<Source>,
    pub(crate) key: ModelKey,
    pub(crate) pipeline: Pipeline,
    /// Whether it was loaded for a limit of memory, so that no other may take its place.
    pub(crate) is_limited: bool,
}

impl Object for Model {
    const KIND: u64 = 0x6368_6961_0000_0003;
    const NAME: &'static str = "model";
}

impl Drop for Model {
    fn drop(&mut self) {
        // What a program gave is read no more once nobody has it: the engine must not keep it for another time.
        if let Some(given) = &self.given {
            self.engine.value.engine.unload_source(given);
        }
    }
}

/// A program's bytes.
struct Given {
    read_at: ReadCallback,
    close: Option<CloseCallback>,
    size: u64,
    user: *mut c_void,
}

// SAFETY: the header says that it is called from any thread, several at a time.
unsafe impl Send for Given {}
// SAFETY: as above.
unsafe impl Sync for Given {}

impl ReadAt for Given {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        // SAFETY: the program gave it for this; the buffer is as large as told.
        let outcome = unsafe { (self.read_at)(offset, buffer.as_mut_ptr(), buffer.len(), self.user) };
        match outcome {
            0 => Ok(()),
            other => Err(IoError::other(format!("the program's reader failed with {other}"))),
        }
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        if let Some(close) = self.close {
            // SAFETY: the program gave it for this; nothing is read any more.
            unsafe { close(self.user) };
        }
    }
}

/// Bytes in a program's memory.
struct InMemory(*const u8, usize);

// SAFETY: the header says that they stay as they are.
unsafe impl Send for InMemory {}
// SAFETY: as above.
unsafe impl Sync for InMemory {}

impl ReadAt for InMemory {
    fn size(&self) -> u64 {
        self.1 as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        // SAFETY: the header says that they stay until the model is released.
        let bytes = unsafe { std::slice::from_raw_parts(self.0, self.1) };
        let start = usize::try_from(offset).map_err(|_| IoError::from(ErrorKind::UnexpectedEof))?;
        let part = start.checked_add(buffer.len()).and_then(|end| bytes.get(start..end));
        buffer.copy_from_slice(part.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// What to load, read and checked.
struct Wanted {
    job: Job,
    given: Option<Source>,
    limit: Option<(u64, Request)>,
    progress: Option<(LoadCallback, *mut c_void)>,
}

impl Wanted {
    /// # Safety
    /// `options` is NULL, or what it says and points to can be read.
    unsafe fn read(options: *const LoadOptions) -> Result<Self, Fault> {
        let default = zeroed::<LoadOptions>();
        // SAFETY: the caller's.
        let (options, [path, oms, oms_text_encoder, text]) = unsafe {
            let options = if options.is_null() { default } else { read(options, default)? };
            let texts = [
                given(options.path, "path")?,
                given(options.oms, "oms")?,
                given(options.oms_text_encoder, "oms_text_encoder")?,
                given(options.json, "json")?,
            ];
            (options, texts)
        };
        let mut job = text.map_or_else(|| Ok(Job::default()), part_of_job)?;
        if !job.request.is_empty() || job.image.is_some() || job.like.is_some() || job.preset.is_some() {
            return Err(Fault::argument("json", "expected what to load alone, got a request; give that to the job"));
        }
        refuse_device(&job)?;
        let sources = [path.is_some(), !options.bytes.is_null(), !options.reader.is_null()];
        if sources.iter().filter(|source| **source).count() > 1 {
            return Err(Fault::argument("path", "expected at most one of path, bytes and reader"));
        }
        let reader: Option<Arc<dyn ReadAt>> = if !options.bytes.is_null() {
            Some(Arc::new(InMemory(options.bytes, options.size)))
        } else if !options.reader.is_null() {
            // SAFETY: the caller's.
            let reader = unsafe { read(options.reader, zeroed::<Reader>()) }?;
            let read_at = reader.read_at.ok_or_else(|| Fault::argument("reader.read_at", "expected a function"))?;
            Some(Arc::new(Given { read_at, close: reader.close, size: reader.size, user: reader.user }))
        } else {
            None
        };
        for (said, place) in [
            (path, &mut job.model.name),
            (oms, &mut job.model.oms),
            (oms_text_encoder, &mut job.model.oms_text_encoder),
        ] {
            if let Some(said) = said {
                *place = Some(said.to_owned());
            }
        }
        let side = |pixels: u32| (pixels > 0).then_some(pixels as usize);
        let sized = || Request { width: side(options.width), height: side(options.height), ..Request::default() };
        Ok(Wanted {
            job,
            given: reader.map(|reader| Source::from_reader("bytes", reader)).transpose()?,
            limit: (options.memory_limit > 0).then(|| (options.memory_limit, sized())),
            progress: options.progress.map(|progress| (progress, options.progress_user)),
        })
    }
}

/// An engine has its device.
pub(crate) fn refuse_device(job: &Job) -> Result<(), Fault> {
    if job.device == Default::default() {
        return Ok(());
    }
    Err(Fault::argument("device", "the engine has a device; choose it when that is made"))
}

impl Model {
    fn load(engine: Arc<Handle<Engine>>, wanted: Wanted) -> Result<Self, Fault> {
        let owner = &engine.value;
        let Order { load, request, notes, .. } = wanted.job.clone().order_for(wanted.given.as_ref(), &owner.places)?;
        notes.iter().for_each(|note| owner.log(INFO, note));
        let key = ModelKey::of(&load);
        let mut told = |loading: Loading| match wanted.progress {
            Some((callback, user)) => {
                let part = c_text(loading.part);
                // SAFETY: the program gave it for this.
                match unsafe { callback(loading.done as u32, loading.of as u32, part.as_ptr(), user) } {
                    0 => Ok(()),
                    _ => Err(Error::Cancelled),
                }
            }
            None => Ok(()),
        };
        let pipeline = match &wanted.limit {
            None => owner.engine.load_told(&key, &mut told)?,
            Some((bytes, size)) => {
                let request = Request { width: size.width, height: size.height, ..request };
                let (model, overrides) = (&load.model, &load.overrides);
                let device = owner.engine.device();
                let (pipeline, too_large) =
                    Pipeline::load_within(model, overrides, load.oms.as_ref(), device, &request, *bytes)?;
                too_large.iter().for_each(|tried| owner.log(INFO, &tried.to_string()));
                pipeline
            }
        };
        pipeline.adapters().iter().for_each(|adapter| owner.log(INFO, &adapter.summary()));
        let is_limited = wanted.limit.is_some();
        Ok(Model { engine, job: wanted.job, given: wanted.given, key, pipeline, is_limited })
    }

    /// The pipeline of what an order says to load: this one, or one that shares with it what it can.
    pub(crate) fn pipeline_of(&self, key: &ModelKey) -> Result<Pipeline, Fault> {
        if *key == self.key {
            return Ok(self.pipeline.clone());
        }
        if self.is_limited {
            let only_adapters = ModelKey::new(key.model.clone()).with_overrides(key.overrides.clone());
            let mut own = self.key.overrides.clone();
            own.adapters.clone_from(&key.overrides.adapters);
            if key.oms != self.key.oms || only_adapters.overrides != own {
                let message = "a model that was loaded within a limit of memory takes other adapters alone";
                return Err(Fault::argument("json", message));
            }
            return Ok(self.pipeline.with_adapters(&key.overrides.adapters)?);
        }
        Ok(self.engine.value.engine.load(key)?)
    }
}

/// Opens a model.
///
/// # Safety
/// `engine` is NULL or an engine; `options` is NULL, or what it says and points to can be read; the others are NULL or can be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_model_load(
    engine: *mut Handle<Engine>,
    options: *const LoadOptions,
    model: *mut *mut Handle<Model>,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe {
        border_of(engine, error, |_| {
            out(model, "model")?;
            let loaded = Model::load(Handle::shared(engine)?, Wanted::read(options)?)?;
            give(model, Handle::new(loaded));
            Ok(())
        })
    }
}

/// # Safety
/// `model` is NULL or a model.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_model_retain(model: *mut Handle<Model>) -> *mut Handle<Model> {
    // SAFETY: the caller's.
    unsafe { Handle::retain(model) }
}

/// # Safety
/// `model` is NULL or a model that the caller owns.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_model_release(model: *mut Handle<Model>) {
    // SAFETY: the caller's.
    unsafe { Handle::release(model) }
}

/// What model it is.
///
/// # Safety
/// `model` is NULL or a model; the others are NULL or can be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_model_describe(
    model: *const Handle<Model>,
    json: *mut *mut c_char,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe {
        border_of(model, error, |model| {
            out(json, "json")?;
            let pipeline = &model.value.pipeline;
            let (width, height) = pipeline.size(&Request::default())?;
            let parts: serde_json::Map<_, _> =
                pipeline.parts().iter().map(|(part, name)| ((*part).to_owned(), json!(name))).collect();
            let told = json!({
                "label": pipeline.label(), "oms": pipeline.oms_label(), "width": width, "height": height, "parts": parts,
                "adapters": pipeline.adapters().iter().map(|adapter| adapter.to_json()).collect::<Vec<_>>(),
                "controls": pipeline.controls().map(|(name, _)| name).collect::<Vec<_>>(),
                "embeddings": pipeline.embeddings().iter().map(|embedding| &embedding.name).collect::<Vec<_>>(),
            });
            give_json(json, &told);
            Ok(())
        })
    }
}

/// What lies at a path.
///
/// # Safety
/// `path` is NULL or a text; the others are NULL or can be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_inspect(
    path: *const c_char,
    json: *mut *mut c_char,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe {
        border(error, || {
            out(json, "json")?;
            let path = given(path, "path")?.ok_or_else(|| Fault::argument("path", "expected a path, got NULL"))?;
            let found = inspect(Path::new(path))?;
            let told = serde_json::to_value(&found).map_err(|why| Fault::internal(why.to_string()))?;
            give_json(json, &told);
            Ok(())
        })
    }
}

/// What a request would take.
///
/// # Safety
/// `model` is NULL or a model; `request` is NULL, or what it says and points to can be read; the others are NULL or can be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_plan(
    model: *const Handle<Model>,
    request: *const structs::Request,
    json: *mut *mut c_char,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe {
        border_of(model, error, |model| {
            out(json, "json")?;
            let (pipeline, order, _) = ordered(&model.value, request)?;
            give_json(json, &pipeline.plan_json(&order.request)?);
            Ok(())
        })
    }
}
