//! What a C program cannot bring about: drivers that fail, code that panics.

use std::ptr::null_mut;
use std::sync::Arc;

use chiaro_core::gpu::{DriverFault, GpuBackend, GpuOptions, adapters};
use chiaro_core::record::{Backend, Caps, DType, HostBackend, Program, Recording};
use chiaro_core::{Device, Precision};

use crate::engine::Engine;
use crate::handle::Handle;
use crate::job::{
    Job, chiaro_job_cancel, chiaro_job_new, chiaro_job_release, chiaro_job_run, chiaro_job_start, chiaro_job_status,
    chiaro_job_step, chiaro_job_wait,
};
use crate::model::{Model, chiaro_model_load, chiaro_model_release};
use crate::status::{
    CANCELLED, DEVICE_LOST, Fault, INTERNAL, OK, OUT_OF_MEMORY, Status, chiaro_error_json, chiaro_error_message,
    chiaro_error_release,
};
use crate::structs::{Request, zeroed};
use crate::text::c_text;

/// The processor, until a network is compiled for it.
struct Panics(HostBackend);

impl Backend for Panics {
    fn caps(&self) -> &Caps {
        self.0.caps()
    }

    fn compile(&self, _: Recording) -> chiaro_core::Result<Box<dyn Program>> {
        panic!("an op that is wrong")
    }
}

fn on_gpu(fault: Option<DriverFault>) -> Device {
    let adapter = adapters().into_iter().next().expect("a GPU driver");
    let options = GpuOptions { fault, ..GpuOptions::default() };
    let backend = GpuBackend::open(&adapter, DType::F32, options).expect("it opens");
    Device::new(Arc::new(backend), Precision::F32).expect("f32")
}

fn loaded(device: Device) -> *mut Handle<Model> {
    let engine = Arc::into_raw(Engine::on(device)).cast_mut();
    let mut model = null_mut();
    // SAFETY: what is given is alive.
    unsafe {
        assert_eq!(chiaro_model_load(engine, std::ptr::null(), &mut model, null_mut()), OK);
        crate::engine::chiaro_engine_release(engine);
    }
    model
}

fn begun(model: *mut Handle<Model>) -> *mut Handle<Job> {
    let prompt = c_text("a red ball");
    let request = Request {
        struct_size: size_of::<Request>() as u32,
        width: 64,
        height: 64,
        steps: 2,
        prompt: prompt.as_ptr(),
        guidance: -1.0,
        oms_guidance: -1.0,
        ..zeroed()
    };
    let mut job = null_mut();
    // SAFETY: what is given is alive.
    assert_eq!(unsafe { chiaro_job_new(model, &request, &mut job, null_mut()) }, OK);
    job
}

/// Status and message of a job that is run.
fn run(job: *mut Handle<Job>) -> (Status, String) {
    let mut error: *mut Handle<Fault> = null_mut();
    // SAFETY: what is given is alive, texts are read before their error is released.
    unsafe {
        let status = chiaro_job_run(job, &mut error);
        let text = std::ffi::CStr::from_ptr(chiaro_error_message(error)).to_string_lossy().into_owned();
        let json = std::ffi::CStr::from_ptr(chiaro_error_json(error)).to_string_lossy().into_owned();
        assert!(status == OK || json.contains(&format!("\"status\":{status}")), "{json}");
        chiaro_error_release(error);
        (status, text)
    }
}

#[test]
fn a_panic_in_an_op_is_a_status() {
    let model = loaded(Device::new(Arc::new(Panics(HostBackend::default())), Precision::F32).expect("f32"));
    let job = begun(model);
    let (status, message) = run(job);
    assert_eq!(status, INTERNAL);
    assert!(message.contains("an op that is wrong"), "{message}");
    // The job is of no use any more; the process and the model are.
    let (status, message) = run(job);
    assert!(status == INTERNAL && message.contains("release it"), "{message}");
    let other = begun(model);
    // SAFETY: what is given is alive.
    unsafe {
        assert_eq!(chiaro_job_start(other, None, null_mut(), null_mut()), OK);
        assert_eq!(chiaro_job_wait(other, -1, null_mut()), OK);
        assert_eq!(chiaro_job_status(other, null_mut()), INTERNAL);
        chiaro_job_release(other);
        chiaro_job_release(job);
        chiaro_model_release(model);
    }
}

#[test]
fn a_driver_s_faults_are_statuses_and_the_next_job_is_right() {
    for (fault, wanted) in [(DriverFault::Memory as fn(u64) -> _, OUT_OF_MEMORY), (DriverFault::Loss, DEVICE_LOST)] {
        let mut times = 0;
        for call in (4..80).step_by(12) {
            let model = loaded(on_gpu(Some(fault(call))));
            let job = begun(model);
            let (status, message) = run(job);
            // What memory ends for may be done in smaller parts.
            assert!(status == wanted || status == OK && wanted == OUT_OF_MEMORY, "call {call}: {message}");
            times += u32::from(status == wanted);
            // SAFETY: what is given is alive.
            unsafe {
                assert_eq!(chiaro_job_status(job, null_mut()), status);
                assert_eq!(chiaro_job_step(job, null_mut(), null_mut()), status);
                chiaro_job_release(job);
                if status == OUT_OF_MEMORY {
                    let again = begun(model);
                    assert_eq!(run(again), (OK, String::new()));
                    chiaro_job_release(again);
                }
                chiaro_model_release(model);
            }
        }
        assert!(times > 2, "{times}");
    }
}

#[test]
fn a_job_that_is_cancelled_before_it_runs_says_so() {
    let model = loaded(Device::new(Arc::new(HostBackend::default()), Precision::F32).expect("f32"));
    let job = begun(model);
    // SAFETY: what is given is alive.
    unsafe {
        chiaro_job_cancel(job);
        assert_eq!(run(job).0, CANCELLED);
        chiaro_job_release(job);
        chiaro_model_release(model);
    }
}
