//! `--control` and what goes with it.

use std::path::PathBuf;
use std::sync::Arc;

use chiaro::image::open_photo;
use chiaro::pipeline::{ControlRequest, Places, RecipeControl};
use chiaro::{Error, Result};
use clap::Args;

use super::ModelArgs;
use super::models::with_remedy;
use super::start::colours;

/// Options of ControlNets. Of each but --control there may be one for all nets, or one for each, in the same order.
#[derive(Debug, Clone, Default, Args)]
#[command(
    next_help_heading = "ControlNet (of each option but --control: one for all nets, or one for each, in the same order)"
)]
pub(crate) struct ControlArgs {
    /// ControlNet of the model's family: a folder, a single .safetensors file, or its name in the folder controlnet/ of CHIARO_MODELS or in
    /// the Hugging Face cache; several add up. "off" leaves a repeated picture's out
    #[arg(long, value_name = "DIR|FILE|NAME")]
    pub(crate) control: Vec<String>,
    /// What the net sees (PNG, JPEG, WebP): edges, depths, poses as it was trained on. Nothing is made of it but its size: it is stretched
    /// to the picture's [default size of the picture: that of the first one, as for --image]
    #[arg(long, value_name = "FILE")]
    pub(crate) control_image: Vec<PathBuf>,
    /// How strongly the net acts [default: 1]
    #[arg(long, value_name = "WEIGHT", allow_negative_numbers = true)]
    pub(crate) control_weight: Vec<f64>,
    /// Share of the steps before which the net does not run, 0 to 1 [default: 0]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub(crate) control_start: Vec<f64>,
    /// Share of the steps after which the net does not run, 0 to 1 [default: 1]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub(crate) control_end: Vec<f64>,
    /// Let the nets lead where the prompt says little: they act on the prompt's row alone, less on details (diffusers' guess mode)
    #[arg(long)]
    pub(crate) control_guess: bool,
}

/// What leaves controls out.
const OFF: &str = "off";

impl ControlArgs {
    /// Puts the nets into the model's options, and gives the requests for them. `repeated` is what a repeated picture says of its
    /// controls, `base` their numbers.
    pub(super) fn apply(
        &self,
        model: &mut ModelArgs,
        repeated: &[RecipeControl],
        base: &[ControlRequest],
        notes: &mut Vec<String>,
    ) -> Result<Vec<ControlRequest>> {
        let paths = self.nets(repeated)?;
        let count = paths.len();
        let (nets, places) = distinct_nets(&paths);
        model.controls = nets;
        let mut open = |path| Ok(Arc::new(colours("--control-image", open_photo(path)?, notes)));
        let images = self.control_image.iter().map(|path: &PathBuf| open(path)).collect::<Result<Vec<_>>>()?;
        let images = each("--control-image", &images, count)?;
        let weights = each("--control-weight", &self.control_weight, count)?;
        let starts = each("--control-start", &self.control_start, count)?;
        let ends = each("--control-end", &self.control_end, count)?;
        if count == 0 && self.control_guess {
            return Err(Error::refused("--control-guess: has no meaning without --control"));
        }
        if let (Some(first), true) = (repeated.first(), self.control_image.is_empty() && count > 0) {
            return Err(Error::refused(format!(
                "--like: the picture was drawn with one that its ControlNet {} saw, name that with --control-image, or leave it out with \
                 --control off",
                first.name
            )));
        }
        let one = |i: usize| {
            let base = base.get(i).filter(|_| base.len() == count).cloned().unwrap_or_default();
            ControlRequest {
                net: places[i],
                image: images[i].cloned(),
                weight: weights[i].copied().unwrap_or(base.weight),
                start: starts[i].copied().unwrap_or(base.start),
                end: ends[i].copied().unwrap_or(base.end),
                guess_mode: self.control_guess || base.guess_mode,
            }
        };
        Ok((0..count).map(one).collect())
    }

    /// The nets' files: those that are typed, or a repeated picture's by their names.
    fn nets(&self, repeated: &[RecipeControl]) -> Result<Vec<PathBuf>> {
        let places = Places::from_env();
        match self.control.as_slice() {
            [] => repeated
                .iter()
                .map(|control| {
                    places.find_control(&control.name).map_err(|error| {
                        Error::refused(format!(
                            "--like: the picture's ControlNet {} is needed, name it with --control, or leave it out with --control off \
                             ({error})",
                            control.name
                        ))
                    })
                })
                .collect(),
            [off] if off == OFF => Ok(Vec::new()),
            typed => typed
                .iter()
                .map(|name| places.find_control(name).map_err(|error| with_remedy(error, name)))
                .collect(),
        }
    }
}

/// Distinct paths, and for each of the given ones which of them it is: a net that is named twice is loaded once.
fn distinct_nets(paths: &[PathBuf]) -> (Vec<PathBuf>, Vec<usize>) {
    let mut distinct: Vec<PathBuf> = Vec::new();
    let places = paths.iter().map(|path| {
        distinct.iter().position(|known| known == path).unwrap_or_else(|| {
            distinct.push(path.clone());
            distinct.len() - 1
        })
    });
    let places = places.collect();
    (distinct, places)
}

/// For each of `count` nets its value, if there are any.
fn each<'a, T>(option: &str, values: &'a [T], count: usize) -> Result<Vec<Option<&'a T>>> {
    match values {
        [] => Ok(vec![None; count]),
        _ if count == 0 => Err(Error::refused(format!("{option}: has no meaning without --control"))),
        [one] => Ok(vec![Some(one); count]),
        several if several.len() == count => Ok(several.iter().map(Some).collect()),
        several => {
            Err(Error::refused(format!("{option}: expected one, or {count} as of --control, got {}", several.len())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_for_all_or_one_for_each() {
        assert_eq!(each("x", &[], 2).expect("none"), [None::<&u8>, None]);
        assert_eq!(each("x", &[7], 2).expect("one"), [Some(&7), Some(&7)]);
        assert_eq!(each("x", &[7, 8], 2).expect("two"), [Some(&7), Some(&8)]);
        assert!(each("x", &[7, 8], 3).is_err() && each("x", &[7], 0).is_err());
    }
}
