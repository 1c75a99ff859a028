//! `chiaro profile`.

use std::path::Path;

use chiaro::image::{check_targets, write_file};
use chiaro::order::Order;
use chiaro::pipeline::{DispatchProfile, StageProfile};
use chiaro::{Error, Result};
use serde_json::{Value, json};

use super::{ProfileArgs, print_json, print_line, tell_remarks};

pub(super) fn run(args: &ProfileArgs) -> Result<()> {
    if let Some(path) = &args.trace {
        check_targets("--trace", std::slice::from_ref(path), args.overwrite)?;
    }
    let Order { load, request, .. } = args.model.order(|job| {
        args.shortcuts.put(&mut job.request)?;
        args.control.put(job)
    })?;
    let (pipeline, _) = load.open_lazily(&request)?;
    tell_remarks(&pipeline);
    let (width, height) = pipeline.size(&request)?;
    let profile = pipeline.profile(&request, &args.stage, args.runs.into())?;
    if let Some(path) = &args.trace {
        write(path, &trace(&profile), args.overwrite)?;
    }
    let device = pipeline.device();
    if args.model.json {
        return print_json(&json!({
            "device": device.name(), "storage": device.storage_name(), "width": width, "height": height, "stage": profile.stage,
            "runs": args.runs, "seconds": profile.seconds(), "opening_seconds": profile.opening,
            "run_seconds": profile.run, "limit_seconds": profile.limit(),
            "once": { "dispatches": profile.once.0, "seconds": profile.once.1 },
            "peaks": { "product_flops_per_second": profile.peaks.product, "bytes_per_second": profile.peaks.bandwidth },
            "dispatches": profile.dispatches.iter().map(described).collect::<Vec<_>>(),
        }));
    }
    print_line(&format!(
        "{}, {width}×{height} on {}, {} storage; medians of {} runs, each dispatch timed alone",
        profile.stage,
        device.name(),
        device.storage_name(),
        args.runs
    ))?;
    let peaks =
        profile.peaks.product.iter().map(|(input, rate)| format!("{:.1} GFLOP/s with {input} input", rate / 1e9));
    let peaks: Vec<String> = peaks.collect();
    print_line(&format!("peaks: products {}; {:.1} GB/s", peaks.join(", "), profile.peaks.bandwidth / 1e9))?;
    print_line("")?;
    table(&profile, "layer", |d| d.label.split('.').take(args.depth.into()).collect::<Vec<_>>().join("."), false)?;
    print_line("")?;
    table(&profile, "kernel", |d| format!("{} {} {}", d.kernel, d.input.name(), d.variant), true)?;
    print_line("")?;
    let (seconds, limit) = (profile.seconds(), profile.limit());
    print_line(&format!(
        "{} dispatches: {:.2} ms; {:.2} ms ({:.0} %) if each reached the device's peak. A run with its transfers: {:.2} ms.",
        profile.dispatches.len(),
        seconds * 1e3,
        limit * 1e3,
        100.0 * limit / seconds,
        profile.run * 1e3
    ))?;
    print_line(&format!("Opening it took {:.2} s: weights read and put in order, kernels compiled.", profile.opening))?;
    if profile.once.0 > 0 {
        print_line(&format!("{} more dispatches run once a picture: {:.2} ms.", profile.once.0, profile.once.1 * 1e3))?;
    }
    Ok(())
}

/// What dispatches of one group have in common.
struct Group {
    name: String,
    dispatches: usize,
    seconds: f64,
    flops: u64,
    moved: u64,
    limit: f64,
}

fn table(
    profile: &StageProfile,
    title: &str,
    name: impl Fn(&DispatchProfile) -> String,
    slowest_first: bool,
) -> Result<()> {
    let mut groups: Vec<Group> = Vec::new();
    for dispatch in &profile.dispatches {
        let name = name(dispatch);
        let known = groups.iter().position(|group| group.name == name).unwrap_or_else(|| {
            groups.push(Group { name, dispatches: 0, seconds: 0.0, flops: 0, moved: 0, limit: 0.0 });
            groups.len() - 1
        });
        let group = &mut groups[known];
        group.dispatches += 1;
        group.seconds += dispatch.seconds;
        group.flops += dispatch.flops;
        group.moved += dispatch.moved;
        group.limit += dispatch.limit;
    }
    if slowest_first {
        groups.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    }
    print_line("      ms  share  dispatches     GFLOP   GFLOP/s       MiB    GB/s  of limit  ")?;
    for Group { name, dispatches, seconds, flops, moved, limit } in groups {
        let rate = |amount: u64| if seconds > 0.0 { amount as f64 / seconds / 1e9 } else { 0.0 };
        print_line(&format!(
            "{:>8.3} {:>5.1}% {dispatches:>11} {:>9.3} {:>9.1} {:>9.1} {:>7.2} {:>8.0}%  {name}",
            seconds * 1e3,
            100.0 * seconds / profile.seconds().max(f64::MIN_POSITIVE),
            flops as f64 / 1e9,
            rate(flops),
            moved as f64 / f64::from(1 << 20),
            rate(moved),
            100.0 * limit / seconds.max(f64::MIN_POSITIVE),
            name = name.trim_end(),
        ))?;
    }
    print_line(&format!("by {title}; of limit: the time at the device's peaks, of the time it took"))
}

fn described(d: &DispatchProfile) -> Value {
    json!({
        "label": d.label, "kernel": d.kernel, "variant": d.variant, "input": d.input.name(), "seconds": d.seconds, "flops": d.flops,
        "moved_bytes": d.moved, "limit_seconds": d.limit,
    })
}

/// Events as Chrome's tracing and Perfetto read them: one after the other, microseconds.
fn trace(profile: &StageProfile) -> Value {
    let mut start = 0.0;
    let events = profile.dispatches.iter().map(|d| {
        let (begin, micros) = (start, d.seconds * 1e6);
        start += micros;
        json!({
            "name": d.label, "cat": d.kernel, "ph": "X", "ts": begin, "dur": micros, "pid": 1, "tid": 1, "args": described(d),
        })
    });
    json!({ "displayTimeUnit": "ms", "traceEvents": events.collect::<Vec<_>>() })
}

fn write(path: &Path, value: &Value, overwrite: bool) -> Result<()> {
    let text = serde_json::to_vec(value).map_err(|e| Error::refused(format!("--trace: {e}")))?;
    write_file(path, &text, overwrite)
}
