//! `chiaro plan`.

use chiaro::Result;
use chiaro::order::Order;
use chiaro::pipeline::StagePlan;
use serde_json::json;

use super::{PlanArgs, print_json, print_line};

pub(super) fn run(args: &PlanArgs) -> Result<()> {
    let Order { load, request, .. } = args.model.order(|job| {
        args.shortcuts.put(&mut job.request)?;
        args.control.put(job)
    })?;
    let (pipeline, too_large) = load.open_lazily(&request)?;
    if args.model.json {
        let mut plan = pipeline.plan_json(&request)?;
        plan["vram"] = json!(args.model.vram.map(|size| size.0));
        let told = too_large.iter().map(|t| {
            json!({
                "stage": t.stage, "weights": t.weights, "streamed": t.streamed, "peak_bytes": t.peak_bytes,
            })
        });
        plan["too_large"] = told.collect();
        return print_json(&plan);
    }
    let (width, height) = pipeline.size(&request)?;
    let stages = pipeline.plan(&request)?;
    let peak = stages.iter().map(StagePlan::peak_bytes).max().unwrap_or(0);
    for remark in pipeline.device().remarks() {
        print_line(remark)?;
    }
    print_line(&format!(
        "{width}×{height} on {}, {} storage",
        pipeline.device().name(),
        pipeline.device().storage_name()
    ))?;
    print_line(
        "stage                   runs   GFLOP/run  dispatches    moved/run       least      weights  of type   streamed/run     tensors        peak",
    )?;
    for s in &stages {
        print_line(&format!(
            "{:<22} {:>5} {:>11.1} {:>11} {:>12} {:>11} {:>12}  {:<8} {:>13}  {:>10}  {:>10}",
            s.name,
            s.runs,
            s.flops as f64 / 1e9,
            s.dispatches,
            mebibytes(s.traffic.moved),
            mebibytes(s.traffic.least),
            mebibytes(s.memory.constant_bytes as u64),
            s.weights.first().map_or("none", |(dtype, _)| dtype.name()),
            if s.memory.stream.is_some() { mebibytes(s.streamed_bytes_per_run()) } else { "-".into() },
            mebibytes(s.memory.lanes.iter().sum::<usize>() as u64),
            mebibytes(s.peak_bytes()),
        ))?;
    }
    for s in stages.iter().filter(|s| s.once.dispatches > 0) {
        print_line(&format!(
            "{}: {} dispatches ({:.1} GFLOP, {} moved) run besides where text or control pictures are new.",
            s.name,
            s.once.dispatches,
            s.once.flops as f64 / 1e9,
            mebibytes(s.once.moved),
        ))?;
    }
    for s in stages.iter().filter(|s| s.reusing_runs > 0) {
        print_line(&format!(
            "{}: {} of its {} runs are on kept features: {} dispatches, {:.1} GFLOP, {} moved.",
            s.name,
            s.reusing_runs,
            s.runs,
            s.reusing.dispatches,
            s.reusing.flops as f64 / 1e9,
            mebibytes(s.reusing.moved),
        ))?;
    }
    for (stage, bands) in stages.iter().filter_map(|s| Some((s.name, s.bands.as_ref()?))) {
        print_line(&format!("{stage}: {bands}."))?;
    }
    for tried in &too_large {
        print_line(&format!("--vram: {tried}."))?;
    }
    if let Some(size) = args.model.vram {
        let streamed: Vec<&str> = stages.iter().filter(|s| s.memory.stream.is_some()).map(|s| s.name).collect();
        let streamed = match streamed.as_slice() {
            [] => String::new(),
            names => format!(", streamed: {}", names.join(", ")),
        };
        print_line(&format!("Within {}: --weights {}{streamed}.", mebibytes(size.0), pipeline.device().weights()))?;
    }
    let total: u64 = stages.iter().map(StagePlan::total_flops).sum();
    print_line(&format!(
        "A stage's memory is released before the next begins: peak {}, {:.2} TFLOP in all.",
        mebibytes(peak),
        total as f64 / 1e12
    ))
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
