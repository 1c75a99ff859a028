//! `--control` and what goes with it.

use std::path::PathBuf;

use chiaro::order::{ControlJob, Job};
use chiaro::pipeline::Program;
use chiaro::{Error, Result};
use clap::Args;

/// Options of ControlNets. Of each but --control there may be one for all nets, or one for each, in the same order.
#[derive(Debug, Clone, Default, Args)]
#[command(
    next_help_heading = "ControlNet (of each option but --control: one for all nets, or one for each, in the same order)"
)]
pub(crate) struct ControlArgs {
    #[arg(long)]
    pub(crate) control: Vec<String>,
    #[arg(long)]
    pub(crate) control_image: Vec<PathBuf>,
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) control_weight: Vec<f64>,
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) control_start: Vec<f64>,
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) control_end: Vec<f64>,
    #[arg(long)]
    pub(crate) control_guess: bool,
}

/// What leaves controls out.
const OFF: &str = "off";

impl ControlArgs {
    /// Puts what was typed into a job. Without --control the other options are for the job's nets, or a repeated picture's.
    pub(super) fn put(&self, job: &mut Job) -> Result<()> {
        let lists = [self.control_weight.len(), self.control_start.len(), self.control_end.len()];
        let others = self.control_guess || !self.control_image.is_empty() || lists.iter().any(|count| *count > 0);
        let mut all = match (self.control.as_slice(), job.controls.take()) {
            ([], own) if !others => {
                job.controls = own;
                return Ok(());
            }
            ([], Some(own)) => own,
            ([], None) => vec![ControlJob::default(); repeated(job)?],
            ([off], _) if off == OFF => Vec::new(),
            (typed, _) => {
                typed.iter().map(|net| ControlJob { net: Some(net.clone()), ..ControlJob::default() }).collect()
            }
        };
        let count = all.len();
        let images = each("--control-image", &self.control_image, count)?;
        let weights = each("--control-weight", &self.control_weight, count)?;
        let starts = each("--control-start", &self.control_start, count)?;
        let ends = each("--control-end", &self.control_end, count)?;
        if count == 0 && self.control_guess {
            return Err(Error::refused("--control-guess: has no meaning without --control"));
        }
        for (i, own) in all.iter_mut().enumerate() {
            own.image = images[i].map(|path| path.clone().into()).or(own.image.take());
            own.weight = weights[i].copied().or(own.weight);
            own.start = starts[i].copied().or(own.start);
            own.end = ends[i].copied().or(own.end);
            own.guess_mode = self.control_guess.then_some(true).or(own.guess_mode);
        }
        job.controls = Some(all);
        Ok(())
    }
}

/// How many nets the picture to repeat was drawn with, where it is one of this program: other programs' are named anew.
fn repeated(job: &Job) -> Result<usize> {
    let Some(like) = &job.like else { return Ok(0) };
    let recipe = like.recipe()?;
    Ok(if recipe.program == Program::Chiaro { recipe.controls.len() } else { 0 })
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
