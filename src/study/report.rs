//! `report.md` with its figures and tables. Everything is written to a temporary name first; an earlier report is replaced.

use std::path::Path;

use super::job::Form;
use super::{Measured, Reference, Settings, figures};
use crate::image::{write_file, write_png};
use crate::{Error, Result};

/// Prompts in the report's table; `means.csv` has all.
const LISTED: usize = 40;

/// Writes all that is made of the pictures.
pub(super) fn write(
    settings: &Settings,
    folder: &Path,
    measured: &Measured,
    reference: Option<&Reference>,
    command: &str,
) -> Result<()> {
    let place = folder.join("figures");
    std::fs::create_dir_all(&place).map_err(|e| Error::io(&place, e))?;
    let chart = figures::means(measured)?;
    chart.write(&place.join("means.svg"), true)?;
    chart.write(&place.join("means.png"), true)?;
    write_png(&place.join("pairs.png"), &figures::pairs(settings, measured)?, &[], true)?;
    if !settings.oms_prompts.is_empty() {
        let heading = |form| match form {
            Form::GridWithout => Some("without".to_owned()),
            Form::GridPrompt(i) => Some(settings.oms_prompts[i].clone()),
            _ => None,
        };
        write_png(&place.join("oms-prompts.png"), &figures::grid(measured, &heading)?, &[], true)?;
    }
    if !settings.oms_guidance_scales.is_empty() {
        let heading = |form| match form {
            Form::GridWithout => Some("without".to_owned()),
            Form::GridGuidance(i) => Some(settings.oms_guidance_scales[i].to_string()),
            _ => None,
        };
        write_png(&place.join("oms-guidances.png"), &figures::grid(measured, &heading)?, &[], true)?;
    }
    write_file(&folder.join("means.csv"), measured.csv(settings).as_bytes(), true)?;
    let summary = format!("{:#}\n", measured.summary());
    write_file(&folder.join("summary.json"), summary.as_bytes(), true)?;
    let page = page(settings, measured, reference, command);
    write_file(&folder.join("report.md"), page.as_bytes(), true)
}

/// The page, section by section.
fn page(settings: &Settings, measured: &Measured, reference: Option<&Reference>, command: &str) -> String {
    let mut page = String::from("# Without and with One More Step\n\n");
    page += &format!(
        "Model `{}`, OMS module `{}`: {} of {} each, drawn without and with the module from the same seeds. All means and distances are on \
         the scale of pixels, 0 (black) to 255 (white).\n\n```sh\n{command}\n```\n\n",
        settings.model,
        settings.oms,
        counted(settings.prompts.len(), "prompt"),
        counted(settings.count, "picture"),
    );
    page += &distributions(measured, reference);
    page += &average_pixels(settings, measured);
    page += &grids(settings);
    page += &made(settings);
    page
}

fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A text with Markdown's signs disarmed.
fn plain(text: &str) -> String {
    let signs = |c: char| matches!(c, '\\' | '|' | '[' | ']' | '<' | '>' | '*' | '_' | '`');
    text.chars().flat_map(|c| signs(c).then_some('\\').into_iter().chain([c])).collect()
}

/// Figure 6 and the last column of Table 2.
fn distributions(measured: &Measured, reference: Option<&Reference>) -> String {
    let mut text = String::from("## Distributions of means\n\n| | pictures | mean | standard deviation |");
    let distance = |d: Option<f64>| d.map_or(String::new(), |d| format!(" {d:.2} |"));
    text += if reference.is_some() {
        " distance to the reference |\n| --- | --- | --- | --- | --- |\n"
    } else {
        "\n| --- | --- | --- | --- |\n"
    };
    for (name, side) in [("without OMS", &measured.without), ("with OMS", &measured.with)] {
        text += &format!(
            "| {name} | {} | {:.2} | {:.2} |{}\n",
            side.means.len(),
            side.mean,
            side.deviation,
            distance(side.distance)
        );
    }
    if let (Some(side), Some(reference)) = (&measured.reference, reference) {
        let name = reference.name.replace('|', "\\|");
        text +=
            &format!("| reference, `{name}` | {} | {:.2} | {:.2} | 0 |\n", side.means.len(), side.mean, side.deviation);
    }
    text += &format!(
        "\nDistances are Wasserstein-1 between distributions of means, as in the last column of the paper's Table 2. Between without and \
         with OMS: {:.2}.",
        measured.between
    );
    if let (Some(without), Some(with)) = (measured.without.distance, measured.with.distance) {
        text += &format!(
            " The distance to the reference with OMS is {:.2} times that without. Samples of few pictures are some way from their own \
             source too, so small distances say little.",
            with / without
        );
    }
    let alt = format!(
        "Three outlines over means from 0 to 255: without OMS mean {:.0}, standard deviation {:.0}; with OMS mean {:.0}, standard deviation {:.0}{}",
        measured.without.mean,
        measured.without.deviation,
        measured.with.mean,
        measured.with.deviation,
        measured.reference.as_ref().map_or(String::new(), |r| format!(
            "; reference mean {:.0}, standard deviation {:.0}",
            r.mean, r.deviation
        )),
    );
    let alt = if measured.reference.is_some() { alt } else { alt.replacen("Three", "Two", 1) };
    text += &format!(
        "\n\n![{alt}](figures/means.png)\n\nThe histogram of means with a logarithmic height (Figure 6 of the paper), in parts of 8 values; parts without \
         a picture lie on the floor. [As SVG](figures/means.svg). Each picture's mean is in [means.csv](means.csv).\n\n"
    );
    text
}

/// Figure 1.
fn average_pixels(settings: &Settings, measured: &Measured) -> String {
    let shown = measured.pairs.len();
    let alt =
        format!("{} as columns of two small pictures, without OMS above, with OMS below", counted(shown, "prompt"));
    let mut text = format!(
        "## Pictures and their average pixels\n\n![{alt}](figures/pairs.png)\n\nThe first {} of the file, first seed each, without OMS above \
         and with OMS below.\n\n",
        counted(shown, "prompt")
    );
    text += "The average pixel (red, green, blue) over a prompt's pictures, as in the paper's Figure 1";
    let listed = settings.prompts.len().min(LISTED);
    if listed < settings.prompts.len() {
        text += &format!(", for the first {listed} prompts");
    }
    text += ":\n\n| prompt | without OMS | with OMS |\n| --- | --- | --- |\n";
    let cell = |prompt, oms| {
        measured.average_pixel(prompt, oms).map_or(String::new(), |[r, g, b]| format!("{r:.0}, {g:.0}, {b:.0}"))
    };
    for (prompt, words) in settings.prompts.iter().enumerate().take(listed) {
        text += &format!("| {} | {} | {} |\n", plain(words), cell(prompt, false), cell(prompt, true));
    }
    text + "\n"
}

/// Figures 7 and 8.
fn grids(settings: &Settings) -> String {
    let rows = settings.grid_prompts.iter().map(|p| format!("\"{}\"", plain(p))).collect::<Vec<_>>().join(", ");
    let seeds = "One seed a row; the first column is without OMS.";
    let mut text = String::new();
    if !settings.oms_prompts.is_empty() {
        let columns = settings.oms_prompts.iter().map(|p| format!("\"{}\"", plain(p))).collect::<Vec<_>>().join(", ");
        text += &format!(
            "## The module's own prompt\n\n![A grid of pictures: rows {rows}; columns without OMS, then OMS prompts {columns}](figures/oms-prompts.png)\n\n\
             The picture's prompt (rows: {rows}) stays, the module's prompt (columns: {columns}) changes, as in the paper's Figure 7. {seeds}\n\n",
        );
    }
    if !settings.oms_guidance_scales.is_empty() {
        let columns = settings.oms_guidance_scales.iter().map(f64::to_string).collect::<Vec<_>>().join(", ");
        text += &format!(
            "## The module's guidance\n\n![A grid of pictures: rows {rows}; columns without OMS, then OMS guidance {columns}](figures/oms-guidances.png)\n\n\
             The weight of the module's prompt (ω_ψ of eq. 21; columns: {columns}), as in the paper's Figure 8. Rows: {rows}. {seeds}\n\n",
        );
    }
    text
}

/// The settings.
fn made(settings: &Settings) -> String {
    let own = |side: Option<usize>| side.map_or_else(|| "the model's own".to_owned(), |s| s.to_string());
    format!(
        "## How it was made\n\n| setting | value |\n| --- | --- |\n| chiaro | {} |\n| sampler | {} |\n| steps | {} |\n| guidance ω_θ | {} |\n\
         | OMS guidance ω_ψ | {} |\n| η | {} |\n| width, height | {}, {} |\n| negative prompt | \"{}\" |\n\
         | seeds | {} + {} × prompt + picture, both counted from 0 |\n\nThe settings are also in [study.json](study.json), the numbers in \
         [summary.json](summary.json).\n",
        env!("CARGO_PKG_VERSION"),
        settings.sampler.as_deref().unwrap_or("the model's own"),
        settings.steps,
        settings.guidance_scale,
        settings.oms_guidance_scale,
        settings.eta.map_or("the sampler's own".into(), |eta| eta.to_string()),
        own(settings.width),
        own(settings.height),
        plain(&settings.negative_prompt),
        settings.seed,
        settings.count,
    )
}
