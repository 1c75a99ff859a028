//! `chiaro samplers`.

use chiaro::Result;
use chiaro::sampling::{SigmaSchedule, SolverKind};
use serde_json::json;

use super::{SamplersArgs, print_json, print_line, print_lines};

pub(super) fn run(args: &SamplersArgs) -> Result<()> {
    if args.json {
        let samplers: Vec<_> = SolverKind::all()
            .map(|(kind, name, about)| {
                json!({
                    "name": name, "label": kind.label(), "about": about, "eta": kind.eta(), "sigmas": kind.takes_sigmas(),
                    "steps": kind.default_steps(),
                })
            })
            .collect();
        let sigmas: Vec<_> =
            SigmaSchedule::ALL.iter().map(|(name, _, about)| json!({ "name": name, "about": about })).collect();
        return print_json(&json!({ "samplers": samplers, "sigmas": sigmas }));
    }
    print_line("Samplers (--sampler):")?;
    for (kind, name, about) in SolverKind::all() {
        let eta = kind.eta().map_or(String::new(), |eta| format!("; eta {eta}"));
        print_line(&format!("  {name:19} {:18} {about}{eta}", kind.label()))?;
    }
    print_lines(
        "\nSigma schedules (--sigmas, or behind a sampler: \"DPM++ 2M Karras\"); not for ddim, ddpm, pndm, lcm, tcd:",
    )?;
    for (name, schedule, about) in SigmaSchedule::ALL {
        print_line(&format!("  {name:19} {:18} {about}", schedule.label()))?;
    }
    Ok(())
}
