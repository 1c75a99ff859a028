//! What an executor offers.

use std::collections::BTreeMap;

use super::{Caps, DispatchTime, Recording};
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
}

/// A compiled recording.
pub trait Program: Send {
    /// Executes the recording once. Every input must be given, as f32, channels last.
    ///
    /// # Errors
    /// When an input is missing, unknown or of another length, or the device fails.
    fn run(&mut self, inputs: &[(&str, &[f32])]) -> Result<Outputs>;

    /// As [`run`](Self::run), but without the dispatches of [`Recording::deep`]: what they wrote in the last whole run is read again.
    ///
    /// # Errors
    /// As [`run`](Self::run), and when no whole run ended well before, or the program keeps nothing.
    fn run_reusing(&mut self, inputs: &[(&str, &[f32])]) -> Result<Outputs> {
        let _ = inputs;
        Err(Error::shape("run", "expected a program that keeps features, got one that keeps none"))
    }

    /// Like [`run`](Self::run), with the time of each dispatch that the run takes, in order; on a GPU the device's own. Slower, since each is timed
    /// alone.
    ///
    /// # Errors
    /// As [`run`](Self::run), when the device has no timestamps, and when the program is more than one recording. Where it is not overridden, always.
    fn run_profiled(&mut self, _inputs: &[(&str, &[f32])]) -> Result<(Outputs, Vec<DispatchTime>)> {
        Err(Error::Device("expected a program that times its dispatches, got one of several recordings or none".into()))
    }

    /// Bytes that the program holds on the device: tensors, constants and parameters. Constants shared with another
    /// program count in both.
    fn allocated_bytes(&self) -> u64;

    /// Gives everything up but the uploaded constants, which stay on the device until what is returned is dropped: a program
    /// compiled meanwhile from the same ones does not upload them again.
    fn weights(self: Box<Self>) -> Box<dyn Send>;
}
