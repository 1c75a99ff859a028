//! What a request will take, as JSON: what `chiaro plan --json` and `chiaro_plan` tell.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::Result;
use crate::pipeline::model::pipeline::Pipeline;
use crate::pipeline::request::Request;
use crate::pipeline::run::stage::StagePlan;
use crate::record::StreamPlan;

impl StagePlan {
    /// Its work (floating-point operations, dispatches, bytes moved) and its memory in bytes.
    pub fn to_json(&self) -> Value {
        let by_type: BTreeMap<_, _> = self.weights.iter().map(|(dtype, bytes)| (dtype.name(), *bytes)).collect();
        let once = |stream: &StreamPlan| stream.bytes_of_first_run() - stream.bytes_per_run();
        json!({
            "stage": self.name, "runs": self.runs, "flops_per_run": self.flops, "dispatches": self.dispatches,
            "moved_bytes_per_run": self.traffic.moved, "least_bytes_per_run": self.traffic.least,
            "reusing_runs": self.reusing_runs,
            "reusing": {
                "flops": self.reusing.flops, "dispatches": self.reusing.dispatches, "moved_bytes": self.reusing.moved,
            },
            "once": { "flops": self.once.flops, "dispatches": self.once.dispatches, "moved_bytes": self.once.moved },
            "peak_bytes": self.peak_bytes(), "weight_bytes": self.weight_bytes(),
            "resident_weight_bytes": self.memory.constant_bytes, "streamed_bytes_per_run": self.streamed_bytes_per_run(),
            "streamed_bytes_once": self.memory.stream.as_ref().map_or(0, once),
            "stream_buffer_bytes": self.memory.stream.as_ref().map_or(0, StreamPlan::allocated_bytes),
            "weight_bytes_by_type": by_type,
            "tensor_bytes": self.memory.lanes.iter().sum::<usize>(), "unshared_tensor_bytes": self.memory.unshared_bytes,
            "bands": self.bands,
        })
    }
}

impl Pipeline {
    /// [`plan`](Self::plan) with what it was made for, as JSON: `device`, `storage`, `weights`, `vae_tiling`, `width`, `height`, `stages`,
    /// `peak_bytes` (of the stage that takes most), `flops` (of all).
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn plan_json(&self, request: &Request) -> Result<Value> {
        let (width, height) = self.size(request)?;
        let stages = self.plan(request)?;
        let device = self.device();
        Ok(json!({
            "device": device.name(), "storage": device.storage_name(), "width": width, "height": height,
            "weights": device.weights().to_string(), "vae_tiling": device.vae_tiling().to_string(),
            "stages": stages.iter().map(StagePlan::to_json).collect::<Vec<_>>(),
            "peak_bytes": stages.iter().map(StagePlan::peak_bytes).max().unwrap_or(0),
            "flops": stages.iter().map(StagePlan::total_flops).sum::<u64>(),
        }))
    }
}
