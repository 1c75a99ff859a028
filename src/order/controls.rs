//! ControlNets of a job: which nets, what each sees, how strongly it acts.

use std::path::PathBuf;
use std::sync::Arc;

use crate::order::job::{ControlJob, Job};
use crate::order::start::colours;
use crate::pipeline::{ControlRequest, Places, RecipeControl};
use crate::{Error, Result};

impl Job {
    /// The nets' files, and the requests for them. `repeated` is what a repeated picture says of its controls, `base` their numbers.
    pub(super) fn controls(
        &self,
        repeated: &[RecipeControl],
        base: &[ControlRequest],
        places: &Places,
        notes: &mut Vec<String>,
    ) -> Result<(Vec<PathBuf>, Vec<ControlRequest>)> {
        let all: Vec<ControlJob> = match &self.controls {
            Some(own) => own.clone(),
            None => vec![ControlJob::default(); repeated.len()],
        };
        let count = all.len();
        let find = |(i, own): (usize, &ControlJob)| net(i, own, repeated, places);
        let paths = all.iter().enumerate().map(find).collect::<Result<Vec<_>>>()?;
        let (nets, which) = distinct(&paths);
        if let (Some(first), true) = (repeated.first(), count > 0 && all.iter().all(|own| own.image.is_none())) {
            return Err(Error::request(
                "like",
                format!(
                    "the picture was drawn with one that its ControlNet {} saw, name that with `controls[].image`, or leave it out with \
                 `controls[].net` off",
                    first.name
                ),
            ));
        }
        let mut requests: Vec<ControlRequest> = Vec::with_capacity(count);
        for (i, own) in all.iter().enumerate() {
            let base = base.get(i).filter(|_| base.len() == count).cloned().unwrap_or_default();
            // One picture for all of them is decoded, kept and told of once.
            let same = (0..i).find(|&j| own.image.is_some() && all[j].image == own.image);
            let image = match (same, &own.image) {
                (Some(j), _) => requests[j].image.clone(),
                (None, Some(file)) => Some(Arc::new(colours("controls[].image", file.photo()?, notes))),
                (None, None) => None,
            };
            requests.push(ControlRequest {
                net: which[i],
                image,
                weight: own.weight.unwrap_or(base.weight),
                start: own.start.unwrap_or(base.start),
                end: own.end.unwrap_or(base.end),
                guess_mode: own.guess_mode.unwrap_or(base.guess_mode),
            });
        }
        Ok((nets, requests))
    }
}

/// A net's files: as named, or the repeated picture's at the same place by its name.
fn net(i: usize, own: &ControlJob, repeated: &[RecipeControl], places: &Places) -> Result<PathBuf> {
    if let Some(name) = &own.net {
        return places.find_control(name);
    }
    let Some(wanted) = repeated.get(i) else {
        return Err(Error::request(format!("controls[{i}].net"), "expected a net's path or name, got none"));
    };
    places.find_control(&wanted.name).map_err(|error| {
        Error::request("like", format!(
            "the picture's ControlNet {} is needed, name it with `controls[].net`, or leave it out with `controls[].net` off ({error})",
            wanted.name
        ))
    })
}

/// Distinct paths, and for each of the given ones which of them it is: a net that is named twice is loaded once.
fn distinct(paths: &[PathBuf]) -> (Vec<PathBuf>, Vec<usize>) {
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
