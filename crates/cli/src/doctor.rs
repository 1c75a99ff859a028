//! `chiaro doctor`. Each adapter is examined by a process of its own: a driver that crashes or hangs takes that one down.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use chiaro::doctor::{Examination, Progress, TierReport, Verdict, examine};
use chiaro::gpu::{AdapterInfo, DriverFault, GpuOptions, adapters, dxc, find_adapter};
use chiaro::pipeline::{check_findings_place, findings_path, save_findings};
use chiaro::record::AdapterKind;
use chiaro::{Error, Result, Tier, Tiers};
use serde_json::{Value, json};

use super::shown::shown_json;
use super::{DoctorArgs, print_json, print_line, print_lines, print_text};

pub(super) fn run(args: &DoctorArgs) -> Result<()> {
    if let Some(index) = args.examine {
        return examine_here(index, args.pretend, &args.without);
    }
    let chosen = match &args.device {
        Some(name) => vec![find_adapter(name)?],
        None => adapters(),
    };
    if args.forget {
        return forget(&chosen);
    }
    let human = !args.json;
    if human {
        print_line(&format!("chiaro {}, {}", env!("CARGO_PKG_VERSION"), system()))?;
        if chosen.is_empty() {
            print_line("No graphics adapter found: pictures are made on the processor.")?;
        }
    }
    let (mut reports, mut faulty) = (Vec::new(), 0);
    for adapter in &chosen {
        if human {
            print_line(&format!("{adapter}, {}", adapter.driver))?;
            print_line(&format!("   {}", offered(adapter)))?;
        }
        if args.pretend.is_none() {
            check_findings_place(adapter)?;
        }
        let started = Instant::now();
        let told = |report: &TierReport| if human { print_lines(&line(report)) } else { Ok(()) };
        let examination = examine_apart(adapter, args.pretend, told)?;
        faulty += usize::from(examination.has_faults());
        let kept = match args.pretend {
            Some(_) => None,
            None => Some(save_findings(adapter, &examination.findings())?),
        };
        let seconds = started.elapsed().as_secs_f64();
        if human {
            for line in closing(&examination, seconds) {
                print_line(&line)?;
            }
            if let Some(path) = kept {
                print_line(&format!("   kept in {}", path.display()))?;
            }
        } else {
            reports.push(report(adapter, &examination, seconds));
        }
    }
    if args.json {
        print_json(&json!({ "version": env!("CARGO_PKG_VERSION"), "system": system(), "adapters": reports }))?;
    }
    match faulty {
        0 => Ok(()),
        _ => Err(Error::Device(format!(
            "doctor: {faulty} of {} adapters have faults; what is wrong is not used from now on",
            chosen.len()
        ))),
    }
}

fn forget(adapters: &[AdapterInfo]) -> Result<()> {
    for adapter in adapters {
        let Some(path) = findings_path(adapter) else { continue };
        match std::fs::remove_file(&path) {
            Ok(()) => print_line(&format!("{}: removed", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                print_line(&format!("{}: nothing was kept", adapter.name))?;
            }
            Err(error) => return Err(Error::io(&path, error)),
        }
    }
    Ok(())
}

/// What the process of one adapter does: each step as a line of JSON.
fn examine_here(index: usize, fault: Option<DriverFault>, without: &[Tier]) -> Result<()> {
    let adapter = adapters().into_iter().nth(index);
    let adapter = adapter.ok_or_else(|| Error::refused(format!("--examine {index}: there is no such adapter")))?;
    let tell = |progress: &Progress| {
        let line = serde_json::to_string(progress).map_err(|e| Error::Device(e.to_string()))?;
        print_text(&format!("{}\n", shown_json(&line)))
    };
    let mut failed = None;
    let examination = examine(&adapter, options(fault, without), |progress| {
        failed = failed.take().or(tell(progress).err());
    });
    failed.map_or_else(|| tell(&Progress::Done(examination)), Err)
}

fn options(fault: Option<DriverFault>, without: &[Tier]) -> GpuOptions {
    let tiers = without.iter().fold(Tiers::default(), |tiers, &tier| tiers.without(tier));
    GpuOptions { fault, tiers, ..GpuOptions::default() }
}

/// How long a tier may take without a word. Software adapters compile kernels for seconds each.
fn patience(adapter: &AdapterInfo) -> Duration {
    Duration::from_secs(if adapter.kind == AdapterKind::Software { 600 } else { 180 })
}

/// Examines an adapter in processes of its own: after one that a tier took down, another goes on without that tier.
fn examine_apart(
    adapter: &AdapterInfo,
    fault: Option<DriverFault>,
    mut told: impl FnMut(&TierReport) -> Result<()>,
) -> Result<Examination> {
    let mut fatal: Vec<TierReport> = Vec::new();
    let mut heard = BTreeSet::new();
    loop {
        let without: Vec<Tier> = fatal.iter().map(|report| report.tier).collect();
        let (mut examination, end) =
            listen(adapter, fault, &without, |report| if heard.insert(report.tier) { told(report) } else { Ok(()) })?;
        if let Some((tier, what)) = end {
            let report = TierReport { tier, verdict: Verdict::Wrong(vec![what]), seconds: 0.0 };
            heard.insert(tier);
            told(&report)?;
            fatal.push(report);
            if tier != Tier::Single && !without.contains(&tier) {
                continue;
            }
        }
        examination.tiers.retain(|report| fatal.iter().all(|fatal| fatal.tier != report.tier));
        examination.tiers.append(&mut fatal);
        examination.tiers.sort_by_key(|report| report.tier);
        return Ok(examination);
    }
}

/// What one process says of an adapter; and, where it did not come to its end, the tier whose fault that is.
fn listen(
    adapter: &AdapterInfo,
    fault: Option<DriverFault>,
    without: &[Tier],
    mut told: impl FnMut(&TierReport) -> Result<()>,
) -> Result<(Examination, Option<(Tier, String)>)> {
    let program = std::env::current_exe().map_err(|e| Error::io("this program", e))?;
    let mut command = Command::new(&program);
    command.args(["doctor", "--examine", &adapter.index.to_string()]);
    command.args(fault.map(|fault| format!("--pretend={fault}")));
    command.args(without.iter().map(|tier| format!("--without={tier}")));
    // Drivers talk on standard error.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = Ended(command.spawn().map_err(|e| Error::io(&program, e))?);
    let Some(output) = child.0.stdout.take() else {
        return Err(Error::Device("doctor: the process for an adapter has no output".into()));
    };
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let mut examination = Examination::default();
    let mut tried = None;
    let what = loop {
        match receiver.recv_timeout(patience(adapter)) {
            // A driver may print on standard output, too.
            Ok(line) => match serde_json::from_str::<Progress>(&line) {
                Ok(Progress::Tries(tier)) => tried = Some(tier),
                Ok(Progress::Tier(report)) => {
                    told(&report)?;
                    examination.tiers.push(report);
                }
                Ok(Progress::Done(examination)) => return Ok((examination, None)),
                Ok(_) | Err(_) => {}
            },
            Err(RecvTimeoutError::Timeout) => break format!("no answer for {} s", patience(adapter).as_secs()),
            Err(RecvTimeoutError::Disconnected) => match child.0.wait() {
                Ok(status) => break format!("the driver ended the process ({status})"),
                Err(error) => break format!("the driver ended the process ({error})"),
            },
        }
    };
    let Some(tried) = tried else {
        // It never began: this program was started by another one (a loader), which was started again in its place.
        let mut failed = None;
        let examination = examine(adapter, options(fault, without), |progress| {
            if let Progress::Tier(report) = progress {
                failed = failed.take().or(told(report).err());
            }
        });
        return failed.map_or(Ok((examination, None)), Err);
    };
    // After the last tier come limits and the picture, for which all are used.
    let is_over = examination.tiers.iter().any(|report| report.tier == tried);
    Ok((examination, Some((if is_over { Tier::Single } else { tried }, what))))
}

/// A process that does not outlive its value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn system() -> String {
    let compiler = match dxc() {
        Some(path) => format!(", {}", path.display()),
        None if cfg!(windows) => ", no dxcompiler.dll beside the program: DX12 has f32 alone".into(),
        None => String::new(),
    };
    format!("{} {}{compiler}", std::env::consts::OS, std::env::consts::ARCH)
}

fn offered(adapter: &AdapterInfo) -> String {
    let caps = &adapter.caps;
    let (least, most) = caps.subgroup_size;
    let subgroups = match caps.subgroups {
        false => "no subgroups".into(),
        true if least == most => format!("subgroups of {most}"),
        true => format!("subgroups of {least} to {most}"),
    };
    let matrices = caps.matrix_size().map_or("no matrices".into(), |size| format!("matrices of {size}×{size}"));
    let f16 = if caps.shader_f16 { "f16" } else { "no f16" };
    format!("offers {f16}, {subgroups}, {matrices}")
}

fn line(report: &TierReport) -> String {
    let what = match &report.verdict {
        Verdict::Right { checks, nmse } => {
            format!("right: {checks} checks, NMSE {nmse:.0e} at most, {:.1} s", report.seconds)
        }
        Verdict::Absent(why) => why.clone(),
        Verdict::Wrong(faults) => {
            let more =
                if faults.len() > 4 { format!("\n{:16}and {} more", "", faults.len() - 4) } else { String::new() };
            let shown: Vec<&str> = faults.iter().take(4).map(String::as_str).collect();
            format!("WRONG: {}{more}", shown.join(&format!("\n{:16}", "")))
        }
        other => format!("{other:?}"),
    };
    format!("   {:<13}{what}", report.tier)
}

fn closing(examination: &Examination, seconds: f64) -> Vec<String> {
    let mut lines: Vec<String> = examination.notes.iter().map(|note| format!("   {:<13}{note}", "limits")).collect();
    if let Some(decibels) = examination.picture {
        let likeness = if decibels >= 99.0 { "the same as".into() } else { format!("{decibels:.0} dB from") };
        lines.push(format!("   {:<13}{likeness} the processor's", "picture"));
    }
    let findings = examination.findings();
    let list = |tiers: &mut dyn Iterator<Item = &Tier>| tiers.map(Tier::to_string).collect::<Vec<_>>().join(", ");
    lines.push(match findings.refusal() {
        Some(_) => format!("   not used from now on by auto; {seconds:.0} s"),
        None => {
            let wrong = list(&mut findings.wrong.keys());
            let without = if wrong.is_empty() { String::new() } else { format!(", without {wrong}") };
            format!("   used with {}{without}; {seconds:.0} s", list(&mut findings.right.iter()))
        }
    });
    lines
}

fn report(adapter: &AdapterInfo, examination: &Examination, seconds: f64) -> Value {
    json!({
        "index": adapter.index, "gpu": adapter.gpu, "name": adapter.name, "backend": adapter.backend,
        "kind": format!("{:?}", adapter.kind).to_lowercase(), "driver": adapter.driver, "seconds": seconds,
        "examination": examination, "findings": examination.findings(),
    })
}
