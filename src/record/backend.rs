//! What an executor offers.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Cancel, Caps, Counters, DevicePicture, DispatchTime, PixelRange, Recording, Workers};
use crate::{Error, Result};

/// Results of a run by name, as f32, channels last.
pub type Outputs = BTreeMap<String, Vec<f32>>;

/// Something that can execute recordings: a GPU, or the host.
pub trait Backend: Send + Sync {
    /// What the backend can do; recordings for it are made with these.
    fn caps(&self) -> &Caps;

    /// Plans memory, builds pipelines and uploads constants.
    ///
    /// # Errors
    /// When the plan exceeds the device's limits or memory, or a kernel does not compile.
    fn compile(&self, recording: Recording) -> Result<Box<dyn Program>>;

    /// Builds the pipelines of a recording, which [`compile`](Self::compile) then finds built, and nothing else. Does nothing where there are none.
    ///
    /// # Errors
    /// [`Error::Kernel`] when a kernel does not compile.
    fn prepare(&self, recording: &Recording) -> Result<()> {
        let _ = recording;
        Ok(())
    }

    /// What it has done so far. Zeros where nothing is counted.
    fn counters(&self) -> Counters {
        Counters::default()
    }

    /// Bytes that are allocated for it now, each buffer counted once: what its programs hold (constants that several of them share once), constants
    /// that outlived their programs ([`Program::weights`]), and what is on its way to the device. 0 where nothing is counted.
    fn allocated_bytes(&self) -> u64 {
        0
    }

    /// Bytes of the recording's constants that [`compile`](Self::compile) would bring to the device: those that no program holds, but for those that
    /// pass through in every run. 0 where nothing is counted.
    fn missing_constant_bytes(&self, recording: &Recording) -> u64 {
        let _ = recording;
        0
    }

    /// Another backend on the same device, opened anew: what is left to do with one whose device was lost.
    ///
    /// # Errors
    /// When the device does not open again, or it is not this backend's to open.
    fn reopen(&self) -> Result<Arc<dyn Backend>> {
        Err(Error::unsupported(&self.caps().name, "expected a device that can be opened again, got one that cannot"))
    }

    /// The threads that it computes on; `None` where it has none of its own.
    fn workers(&self) -> Option<&Workers> {
        None
    }
}

impl dyn Backend + '_ {
    /// Runs `work` on the backend's [`workers`](Backend::workers), so that what it does with rayon is no task of another pool; on the caller's where
    /// there are none.
    pub fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match self.workers() {
            Some(workers) => workers.install(work),
            None => work(),
        }
    }
}

/// How a program is executed. The default is a whole run that nobody stops.
#[derive(Debug, Clone, Copy, Default)]
pub struct Run<'a> {
    /// Without the dispatches of [`Recording::deep`]: what they wrote in the last whole run is read again.
    pub reuse: bool,
    /// Ends the run early when it is asked to.
    pub cancel: Option<&'a Cancel>,
    /// Gives no outputs: they stay on the device, for [`Program::picture`]. A program that makes no pictures there gives them all the same.
    pub keep_on_device: bool,
}

impl Run<'_> {
    /// # Errors
    /// [`Error::Cancelled`] when the run was asked to end.
    pub fn check(&self) -> Result<()> {
        self.cancel.map_or(Ok(()), Cancel::check)
    }
}

/// A compiled recording. It holds all that it needs of its [`Backend`], and may outlive it.
pub trait Program: Send {
    /// Executes the recording once. Every input must be given, as f32, channels last.
    ///
    /// After an error, a later run is whole and right again, unless the device was lost.
    ///
    /// # Errors
    /// When an input is missing, unknown or of another length, or the device fails; with [`Run::reuse`], when no whole run ended well before or
    /// the program keeps nothing; [`Error::Cancelled`] soon after [`Run::cancel`] asks: a GPU ends the at most two submissions that it was given,
    /// the host the blocks that its threads are at.
    fn execute(&mut self, inputs: &[(&str, &[f32])], how: Run<'_>) -> Result<Outputs>;

    /// [`execute`](Self::execute), whole and to its end.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    fn run(&mut self, inputs: &[(&str, &[f32])]) -> Result<Outputs> {
        self.execute(inputs, Run::default())
    }

    /// [`execute`](Self::execute) with [`Run::reuse`].
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    fn run_reusing(&mut self, inputs: &[(&str, &[f32])]) -> Result<Outputs> {
        self.execute(inputs, Run { reuse: true, ..Run::default() })
    }

    /// An output of the last run, `[1, h, w, 3]` or with a fourth channel that is not seen, as a picture on the device.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the results are in host memory anyway; when no run ended well before, when there is no such output, and when it
    /// is no picture.
    fn picture(&mut self, output: &str, range: PixelRange) -> Result<DevicePicture> {
        let _ = range;
        Err(Error::unsupported(
            output,
            "expected a program that keeps results on a device, got one that gives them to the host",
        ))
    }

    /// Like [`run`](Self::run), with the time of each dispatch that the run takes, in order; on a GPU the device's own. Slower, since each is timed
    /// alone.
    ///
    /// # Errors
    /// As [`run`](Self::run), when the device has no timestamps, and when the program is more than one recording. Where it is not overridden, always.
    fn run_profiled(&mut self, _inputs: &[(&str, &[f32])]) -> Result<(Outputs, Vec<DispatchTime>)> {
        Err(Error::unsupported(
            "profile",
            "expected a program that times its dispatches, got one of several recordings or none",
        ))
    }

    /// Bytes that the program holds on the device: tensors, constants and parameters. Constants shared with another
    /// program count in both.
    fn allocated_bytes(&self) -> u64;

    /// Gives everything up but the uploaded constants, which stay on the device until what is returned is dropped: a program
    /// compiled meanwhile from the same ones does not upload them again.
    fn weights(self: Box<Self>) -> Box<dyn Send>;
}
