//! `chiaro._chiaro`: the library for `python/chiaro`, which gives it Python's words. Requests, models and devices come as JSON of jobs
//! (docs/OPTIONS.md), so that a new option needs nothing here.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use chiaro::engine::{self, Cancel, ModelKey};
use chiaro::image::{PictureFormat, Rgb8Image, encode_picture, write_png};
use chiaro::lookup::{Places, inspect};
use chiaro::order::{DeviceJob, Job as Written, Order};
use chiaro::{Device, ErrorCode, Event, Generation, Pipeline, Request};
use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde_json::{Value, json};

create_exception!(_chiaro, Failure, PyException, "What went wrong: (code, message, JSON of what is known).");

/// An error for Python.
fn told(error: chiaro::Error) -> PyErr {
    let code = match error.code() {
        ErrorCode::Request => "invalid_argument",
        ErrorCode::Model => "model",
        ErrorCode::Io => "io",
        ErrorCode::OutOfMemory => "out_of_memory",
        ErrorCode::Device => "device",
        ErrorCode::DeviceLost => "device_lost",
        ErrorCode::Kernel | ErrorCode::Unsupported => "unsupported",
        ErrorCode::Cancelled => "cancelled",
        ErrorCode::NonFinite => "non_finite",
        _ => "internal",
    };
    let remedies: Vec<String> = error.remedies().iter().map(ToString::to_string).collect();
    let known = json!({ "field": error.field(), "file": error.file(), "tensor": error.tensor(), "remedies": remedies });
    Failure::new_err((code, error.to_string(), known.to_string()))
}

fn argument(message: String) -> PyErr {
    Failure::new_err(("invalid_argument", message, "{}"))
}

/// A device, and what stays on it.
#[pyclass(frozen)]
struct Engine {
    engine: engine::Engine,
    places: Places,
}

#[pymethods]
impl Engine {
    #[new]
    fn new(
        py: Python<'_>,
        device: &str,
        stays: bool,
        resident_bytes: Option<u64>,
        folders: Vec<PathBuf>,
        hash_file: Option<PathBuf>,
    ) -> PyResult<Self> {
        let asked: DeviceJob = serde_json::from_str(device).map_err(|why| argument(format!("device: {why}")))?;
        py.detach(|| {
            let device = Device::choose(&asked.name, asked.precision).map_err(told)?;
            let device = device.with_weights(asked.weights.unwrap_or_default()).with_vae_tiling(asked.vae_tiling);
            let mut device = device.with_streaming(asked.stream_weights).map_err(told)?;
            if let Some(path) = hash_file {
                device = device.with_hash_file(path);
            }
            let residency = match resident_bytes {
                _ if !stays => engine::Residency::Off,
                Some(bytes) => engine::Residency::Within(bytes),
                None => engine::Residency::On,
            };
            let places = Places { models: folders, ..Places::default() };
            Ok(Engine { engine: engine::Engine::new(device, residency), places })
        })
    }

    /// What device it is, as JSON.
    fn describe(&self) -> String {
        let device = self.engine.device();
        let told = json!({
            "device": device.name(), "storage": device.storage_name(), "weights": device.weights().to_string(),
            "remarks": device.remarks(),
        });
        told.to_string()
    }

    /// What it did so far and holds now, as JSON.
    fn statistics(&self) -> String {
        let now = self.engine.statistics();
        let told = json!({
            "uploaded_bytes": now.uploaded_bytes, "streamed_bytes": now.streamed_bytes,
            "compiled_pipelines": now.compiled_pipelines, "compiled_programs": now.compiled_programs, "hits": now.hits,
            "evictions": now.evictions, "allocated_bytes": now.allocated_bytes,
        });
        told.to_string()
    }

    fn trim(&self, py: Python<'_>) {
        py.detach(|| self.engine.release());
    }

    fn recover(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.engine.recover()).map_err(told)
    }
}

/// A loaded model, and what jobs with it begin with.
#[pyclass(frozen)]
struct Model {
    engine: Py<Engine>,
    job: Written,
    key: ModelKey,
    pipeline: Pipeline,
}

#[pymethods]
impl Model {
    /// Loads what a job's JSON says of the model. `progress` is called with (done, of, part) before each part; True goes on.
    #[new]
    fn new(py: Python<'_>, engine: Py<Engine>, job: &str, progress: Option<Py<PyAny>>) -> PyResult<Self> {
        let job = Written::from_json(job).map_err(told)?;
        let owner = engine.get();
        let mut failed = None;
        let loaded = py.detach(|| {
            let Order { load, .. } = job.clone().order(&owner.places)?;
            let key = ModelKey::of(&load);
            let mut watch = |loading: engine::Loading| {
                let Some(progress) = &progress else { return Ok(()) };
                let goes_on =
                    Python::attach(|py| progress.call1(py, (loading.done, loading.of, loading.part))?.is_truthy(py));
                match goes_on {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(chiaro::Error::Cancelled),
                    Err(error) => {
                        failed = Some(error);
                        Err(chiaro::Error::Cancelled)
                    }
                }
            };
            let pipeline = owner.engine.load_told(&key, &mut watch)?;
            Ok((key, pipeline))
        });
        let (key, pipeline) = loaded.map_err(|error| failed.unwrap_or_else(|| told(error)))?;
        Ok(Model { engine, job, key, pipeline })
    }

    /// What model it is, as JSON.
    fn describe(&self) -> PyResult<String> {
        let pipeline = &self.pipeline;
        let (width, height) = pipeline.size(&Request::default()).map_err(told)?;
        let told = json!({
            "label": pipeline.label(), "oms": pipeline.oms_label(), "width": width, "height": height,
            "adapters": pipeline.adapters().iter().map(|adapter| adapter.to_json()).collect::<Vec<_>>(),
        });
        Ok(told.to_string())
    }

    /// What a request would take, as JSON.
    fn plan(&self, py: Python<'_>, job: &str) -> PyResult<String> {
        py.detach(|| {
            let (pipeline, order) = self.ordered(job)?;
            Ok(pipeline.plan_json(&order.request)?.to_string())
        })
        .map_err(told)
    }

    /// A request, checked and not begun.
    fn start(&self, py: Python<'_>, job: &str, without_oms: bool, preview_every: usize) -> PyResult<Job> {
        py.detach(|| {
            let (pipeline, mut order) = self.ordered(job)?;
            order.request.previews = preview_every > 0;
            if without_oms {
                order.request.oms = None;
            }
            let (total, seed) = (pipeline.units(&order.request), order.request.seed);
            let generation = pipeline.generate(order.request)?;
            let notes = order.notes.into_iter().chain(generation.warnings().to_vec()).collect();
            let cancel = generation.cancel_token();
            let work = Work { generation: Some(generation), done: 0, began: None };
            Ok(Job { work: Mutex::new(work), cancel, total, seed, preview_every, notes })
        })
        .map_err(told)
    }
}

impl Model {
    fn ordered(&self, job: &str) -> chiaro::Result<(Pipeline, Order)> {
        let owner = self.engine.get();
        let order = Written::from_json(job)?.after(&self.job)?.order(&owner.places)?;
        let key = ModelKey::of(&order.load);
        let pipeline = if key == self.key { self.pipeline.clone() } else { owner.engine.load(&key)? };
        Ok((pipeline, order))
    }
}

/// A request under way.
#[pyclass(frozen)]
struct Job {
    work: Mutex<Work>,
    cancel: Cancel,
    #[pyo3(get)]
    total: u64,
    seed: u64,
    preview_every: usize,
    /// What a user should know.
    #[pyo3(get)]
    notes: Vec<String>,
}

struct Work {
    generation: Option<Generation>,
    done: u64,
    began: Option<Instant>,
}

/// Kind, picture, step, steps; units that are done; seconds; the picture or a preview.
type Told = (&'static str, usize, usize, usize, u64, f64, Option<Image>);

#[pymethods]
impl Job {
    /// One unit of work; `None` once all is done.
    fn step(&self, py: Python<'_>) -> PyResult<Option<Told>> {
        py.detach(|| {
            let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
            let began = *work.began.get_or_insert_with(Instant::now);
            let event = match work.generation.as_mut().and_then(Iterator::next) {
                None => {
                    work.generation = None;
                    return Ok(None);
                }
                Some(Err(error)) => {
                    work.generation = None;
                    return Err(error);
                }
                Some(Ok(event)) => event,
            };
            work.done += 1;
            let mut picture = None;
            let (kind, image, step, of) = match event {
                Event::Encoded => ("encoded", 0, 0, 0),
                Event::OneMoreStep { image } => ("oms", image, 0, 0),
                Event::Step { image, step, of } => {
                    let is_due = self.preview_every > 0 && step.is_multiple_of(self.preview_every) && step < of;
                    if let Some(generation) = work.generation.as_mut().filter(|_| is_due) {
                        let seed = self.seed.wrapping_add(image as u64);
                        picture = generation.preview(image)?.map(|pixels| Image::preview(pixels, seed));
                    }
                    ("step", image, step, of)
                }
                Event::Enlarged { image } => ("enlarged", image, 0, 0),
                Event::Picture(drawn) => {
                    let image = drawn.seed.wrapping_sub(self.seed) as usize;
                    picture = Some(Image {
                        seed: drawn.seed,
                        texts: drawn.text_chunks(),
                        parameters: drawn.parameters.clone(),
                        pixels: Arc::new(drawn.image),
                    });
                    ("picture", image, 0, 0)
                }
                _ => ("other", 0, 0, 0),
            };
            Ok(Some((kind, image, step, of, work.done, began.elapsed().as_secs_f64(), picture)))
        })
        .map_err(told)
    }

    /// Asks it to end, from any thread.
    fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Gives back what it holds.
    fn close(&self, py: Python<'_>) {
        self.cancel.cancel();
        py.detach(|| self.work.lock().unwrap_or_else(PoisonError::into_inner).generation = None);
    }
}

/// A picture.
#[pyclass(frozen)]
struct Image {
    pixels: Arc<Rgb8Image>,
    #[pyo3(get)]
    seed: u64,
    texts: Vec<(String, String)>,
    parameters: Value,
}

impl Image {
    fn preview(pixels: Rgb8Image, seed: u64) -> Self {
        Image { pixels: Arc::new(pixels), seed, texts: Vec::new(), parameters: json!({}) }
    }
}

#[pymethods]
impl Image {
    #[getter]
    fn width(&self) -> usize {
        self.pixels.width
    }

    #[getter]
    fn height(&self) -> usize {
        self.pixels.height
    }

    /// All that is needed to draw it again, as JSON.
    fn parameters(&self) -> String {
        self.parameters.to_string()
    }

    /// `[height, width, 3]`.
    fn tobytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.pixels.data)
    }

    fn png<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let encoded = py.detach(|| encode_picture(PictureFormat::Png, &self.pixels, &self.texts));
        let (bytes, _) = encoded.map_err(|why| Failure::new_err(("internal", why, "{}")))?;
        Ok(PyBytes::new(py, &bytes))
    }

    fn save(&self, py: Python<'_>, path: PathBuf, overwrite: bool) -> PyResult<()> {
        py.detach(|| write_png(&path, &self.pixels, &self.texts, overwrite)).map_err(told)
    }
}

/// What lies at a path, as JSON.
#[pyfunction(name = "inspect")]
fn inspected(py: Python<'_>, path: PathBuf) -> PyResult<String> {
    let found = py.detach(|| inspect(&path)).map_err(told)?;
    serde_json::to_string(&found).map_err(|why| argument(why.to_string()))
}

/// All devices, as JSON.
#[pyfunction]
fn devices(py: Python<'_>) -> String {
    let adapters = py.detach(chiaro::gpu::adapters);
    let one = |a: &chiaro::gpu::AdapterInfo| {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        json!({
            "index": a.index, "gpu": a.gpu, "name": a.name, "backend": a.backend, "driver": a.driver,
            "kind": format!("{:?}", a.kind).to_lowercase(), "pci": a.identity.pci,
            "uuid": a.identity.uuid.as_ref().map(|id| hex(id)), "luid": a.identity.luid.as_ref().map(|id| hex(id)),
            "memory_bytes": a.identity.memory_bytes, "has_f16": a.caps.shader_f16,
        })
    };
    let host = json!({ "index": adapters.len(), "name": "cpu", "backend": "Host", "kind": "host" });
    Value::from_iter(adapters.iter().map(one).chain([host])).to_string()
}

#[pymodule]
fn _chiaro(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Engine>()?;
    module.add_class::<Model>()?;
    module.add_class::<Job>()?;
    module.add_class::<Image>()?;
    module.add("Failure", module.py().get_type::<Failure>())?;
    module.add("version", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(inspected, module)?)?;
    module.add_function(wrap_pyfunction!(devices, module)?)
}
