//! `chiaro schedule`.

use chiaro::Result;
use chiaro::image::check_targets;
use chiaro::order::source;
use chiaro::pipeline::{Places, Source};
use chiaro::sampling::NoiseSchedule;
use chiaro::sampling::analysis::{PaperSchedule, TableRow, Terminal, log10_snr, table_1};
use chiaro::study::{Chart, Curve};
use serde_json::{Value, json};

use super::{ScheduleArgs, print_json, print_line, print_lines};

/// A model's own schedule: where from, and ᾱ_1 … ᾱ_T.
struct Own {
    name: String,
    alpha_bars: Vec<f64>,
}

impl Own {
    fn read(source: &Source) -> Result<Own> {
        let schedule = NoiseSchedule::new(&source.scheduler()?)?;
        let alpha_bars = schedule.alphas_cumprod.iter().map(|a| f64::from(*a)).collect();
        Ok(Own { name: source.to_string(), alpha_bars })
    }

    fn terminal(&self) -> Terminal {
        let alpha_bar = self.alpha_bars[self.alpha_bars.len() - 1];
        Terminal { alpha_bar, dimension: 4 * 64 * 64, data_variance: 1.0 }
    }
}

pub(super) fn run(args: &ScheduleArgs) -> Result<()> {
    if let Some(plot) = &args.plot {
        Chart::check_name(plot)?;
        check_targets("--plot", std::slice::from_ref(plot), args.overwrite)?;
    }
    let own = match args.model.as_deref() {
        Some("demo") => Some(Own::read(&Source::DemoModel)?),
        Some(name) => Some(Own::read(&source(Some(name), &Places::from_env())?)?),
        None => None,
    };
    let rows = table_1();
    if let Some(plot) = &args.plot {
        chart(own.as_ref())?.write(plot, args.overwrite)?;
    }
    if args.json {
        let own = own.as_ref().map(|own| {
            json!({ "model": own.name, "num_train_timesteps": own.alpha_bars.len(), "recomputed": values(&own.terminal()) })
        });
        return print_json(&json!({
            "table_1": rows.iter().map(row_json).collect::<Vec<_>>(), "own": own, "plot": args.plot.as_ref().map(|plot| plot.display().to_string()),
        }));
    }
    print_line("Table 1 of \"One More Step\" (arXiv 2311.15744), recomputed; T = 1000")?;
    for row in &rows {
        print_row(row)?;
    }
    if let Some(own) = &own {
        print_lines(&format!("\n{}, 4×64×64 latents of unit variance; T = {}", own.name, own.alpha_bars.len()))?;
        for (name, value) in lines(&own.terminal()) {
            print_line(format!("  {} {value}", pad(name)).trim_end())?;
        }
    }
    if let Some(plot) = &args.plot {
        print_lines(&format!("\n{}", plot.display()))?;
    }
    Ok(())
}

/// Names of the table's columns, with a value each.
fn lines(t: &Terminal) -> [(&'static str, String); 7] {
    [
        ("ᾱ_T", format!("{:<12.6e}", t.alpha_bar)),
        ("SNR(T)", format!("{:<12.6e}", t.snr())),
        ("√ᾱ_T", format!("{:<12.6}", t.signal())),
        ("√(1-ᾱ_T)", format!("{:<12.6}", t.noise())),
        ("r^T", format!("{:<12.6}", t.training_radius())),
        ("r^S", format!("{:<12.6}", t.sampling_radius())),
        ("Δr", format!("{:<12.4e}", t.gap())),
    ]
}

fn print_row(row: &TableRow) -> Result<()> {
    let (terminal, printed) = (&row.terminal, &row.printed);
    print_lines(&format!("\n{}, {}", row.schedule.name(), row.data))?;
    let sampled = "the mean of 20 000 sampled norms, ± 0.005";
    let snr = if format!("{:.3e}", terminal.snr()) == format!("{:.3e}", printed.snr) { "" } else { "cut, not rounded" };
    let beside: [Option<(String, &str)>; 7] = [
        None,
        Some((format!("{:.3e}", printed.snr), snr)),
        printed.signal_and_noise.map(|(signal, _)| (format!("{signal}"), "")),
        printed.signal_and_noise.map(|(_, noise)| (format!("{noise}"), "")),
        Some((format!("{}", printed.training_radius), sampled)),
        Some((format!("{}", printed.sampling_radius), sampled)),
        Some((format!("{:.4e}", printed.gap), row.gap_remark)),
    ];
    for ((name, value), beside) in lines(terminal).into_iter().zip(beside) {
        let beside = beside.map_or_else(String::new, |(printed, remark)| format!(" printed {printed:<11} {remark}"));
        print_line(format!("  {} {value}{beside}", pad(name)).trim_end())?;
    }
    Ok(())
}

/// Width of the names' column; combining marks take no room.
fn pad(name: &str) -> String {
    let wide = name.chars().filter(|c| *c != '\u{304}').count();
    format!("{name}{}", " ".repeat(9usize.saturating_sub(wide)))
}

fn values(t: &Terminal) -> Value {
    json!({
        "alpha_bar": t.alpha_bar, "snr": t.snr(), "sqrt_alpha_bar": t.signal(), "sqrt_one_minus_alpha_bar": t.noise(),
        "r_training": t.training_radius(), "r_sampling": t.sampling_radius(), "gap": t.gap(),
        "dimension": t.dimension, "data_variance": t.data_variance,
    })
}

fn row_json(row: &TableRow) -> Value {
    let printed = &row.printed;
    json!({
        "schedule": row.schedule.name(), "data": row.data, "num_train_timesteps": 1000, "recomputed": values(&row.terminal),
        "printed": {
            "snr": printed.snr, "sqrt_alpha_bar": printed.signal_and_noise.map(|p| p.0),
            "sqrt_one_minus_alpha_bar": printed.signal_and_noise.map(|p| p.1),
            "r_training": printed.training_radius, "r_sampling": printed.sampling_radius, "gap": printed.gap,
            "implied_data_variance": printed.implied_variance(row.terminal.alpha_bar),
        },
        "gap_remark": row.gap_remark,
    })
}

/// log10 SNR(t) of the paper's schedules and of the model's own.
fn chart(own: Option<&Own>) -> Result<Chart> {
    let curve = |label: &str, alpha_bars: &[f64], dashed| {
        let logs = log10_snr(alpha_bars).into_iter().enumerate();
        // A step at zero SNR lies infinitely low: the curve ends before it.
        let points: Vec<_> = logs.filter_map(|(i, y)| y.map(|y| ((i + 1) as f64, y))).collect();
        Curve { label: label.into(), points, dashed }
    };
    let mut curves: Vec<Curve> = PaperSchedule::ALL.iter().map(|s| curve(s.name(), &s.alpha_bars(), false)).collect();
    curves.extend(own.map(|own| curve(&format!("own: {}", own.name), &own.alpha_bars, true)));
    let points = || curves.iter().flat_map(|c| &c.points);
    let most = points().fold(1000.0f64, |most, p| most.max(p.0));
    let (low, high) = points().fold((0.0f64, 0.0f64), |(low, high), p| (low.min(p.1), high.max(p.1)));
    Ok(Chart {
        title: "What is left of the picture: log10 SNR(t)".into(),
        x_label: "t".into(),
        y_label: "log10 SNR(t)".into(),
        x: (0.0, most),
        y: (low.floor(), high.ceil()),
        curves,
    })
}
