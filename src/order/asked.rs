//! The fields of a request that a job says.
//!
//! Not a struct beside [`Request`]: what is not said has to be told from what is said to be the default, since a repeated picture, a preset or the
//! model fill it in; and a struct of options would list every field a second time. Here the rows of [`REQUEST`] are the list.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::pipeline::{DeepCache, Field, Hires, OmsRequest, REQUEST, Request, TokenMerging, Upscale};
use crate::sampling::{Sampler, Variation};
use crate::{Error, Result};

/// Values by the keys of [`REQUEST`], each of its kind and in its range.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Asked(BTreeMap<&'static str, Value>);

impl Asked {
    /// Asks for a value: of what the row's kind says, such as a number, a text, or a type that serde writes so. A sampler's name may have its
    /// schedule behind it ("DPM++ 2M Karras"), which counts where none is asked for by itself.
    ///
    /// # Errors
    /// [`Error::Request`] when there is no such key, or the value is of another kind or out of range.
    pub fn set(&mut self, key: &str, value: impl Serialize) -> Result<()> {
        let field = row(key).ok_or_else(|| Error::request(key.to_owned(), "no field of a request"))?;
        // JSON has no number for NaN and infinities; they are out of every range.
        let value = serde_json::to_value(value).map_err(|e| Error::request(key.to_owned(), e.to_string()))?;
        let told = |why: String| Error::request(key.to_owned(), why.replace("got null", "got no finite number"));
        field.kind.check(&value).map_err(told)?;
        self.insert(field, value);
        Ok(())
    }

    /// [`set`](Self::set), where there is a value.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn set_some(&mut self, key: &str, value: Option<impl Serialize>) -> Result<()> {
        value.map_or(Ok(()), |value| self.set(key, value))
    }

    /// Asks for it no more.
    pub fn unset(&mut self, key: &str) {
        self.0.remove(key);
    }

    /// Whether a value is asked for.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A text that is asked for.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.as_str()
    }

    /// All that a request says beside the defaults. Its pictures and its noise are not asked for here.
    pub fn of(request: &Request) -> Asked {
        let mut asked = Asked::default();
        let (own, default) = (written(request), written(&Request::default()));
        for field in REQUEST {
            let value = at(&own, field.key).filter(|value| !value.is_null() && field.kind.check(value).is_ok());
            if let Some(value) = value.filter(|value| at(&default, field.key) != Some(value)) {
                asked.0.insert(field.key, value.clone());
            }
        }
        asked
    }

    /// A checked object.
    pub(super) fn read(value: &Value) -> Result<Asked> {
        let mut asked = Asked::default();
        for field in REQUEST {
            let value = at(value, field.key).filter(|value| field.kind.check(value).is_ok());
            if let Some(value) = value {
                asked.insert(field, value.clone());
            }
        }
        Ok(asked)
    }

    fn insert(&mut self, field: &'static Field, value: Value) {
        let sampler = value.as_str().filter(|_| field.key == "sampler").and_then(|name| name.parse::<Sampler>().ok());
        let Some(Sampler { kind, sigmas }) = sampler else {
            self.0.insert(field.key, value);
            return;
        };
        self.0.insert("sampler", kind.to_string().into());
        if let Some(sigmas) = sigmas.filter(|_| !self.has("sigmas")) {
            self.0.insert("sigmas", sigmas.to_string().into());
        }
    }

    /// `base` with what is asked in its place. `repeats`: the base is a picture's, so that its steps stay with another sampler.
    pub(super) fn over(&self, base: Request, repeats: bool) -> Result<Request> {
        let kept = base.clone();
        let mut value = written(&self.prepared(base, repeats)?);
        for (key, asked) in &self.0 {
            put(&mut value, key, asked.clone());
        }
        let read: Request = serde_json::from_value(value).map_err(|e| Error::request("request", e.to_string()))?;
        let pictures = kept.controls.into_iter().map(|control| control.image).chain(std::iter::repeat(None));
        let controls = read.controls.into_iter().zip(pictures);
        let controls = controls.map(|(control, image)| crate::pipeline::ControlRequest { image, ..control }).collect();
        Ok(Request { controls, image: kept.image, latents: kept.latents, previews: kept.previews, ..read })
    }

    /// `base` with what some fields that are asked for bring with them.
    fn prepared(&self, mut base: Request, repeats: bool) -> Result<Request> {
        let any =
            |object: &str| self.0.keys().any(|key| key.strip_prefix(object).is_some_and(|rest| rest.starts_with('.')));
        let needs = |object: &str, key: &str| {
            (any(object) && !self.has(key))
                .then(|| Error::request(self.first_of(object), format!("says nothing without `{key}`")))
        };
        if let Some(name) = self.text("sampler") {
            base.sigmas = None;
            if !repeats {
                base.num_inference_steps = name.parse::<Sampler>()?.kind.default_steps();
            }
        }
        // Another seed, count or kind of numbers leaves the repeated picture's place in its batch.
        if ["seed", "count", "rng"].iter().any(|key| self.has(key)) {
            base.place = None;
        }
        // These are asked for as a whole: no part of a repeated picture's stays.
        if any("variation") {
            needs("variation", "variation.strength").map_or(Ok(()), Err)?;
            base.variation = Some(Variation { seed: 0, strength: 0.0 });
        }
        if any("deep_cache") {
            needs("deep_cache", "deep_cache.interval").map_or(Ok(()), Err)?;
            base.deep_cache = Some(DeepCache { interval: 1, depth: DeepCache::DEPTH });
        }
        if any("token_merging") {
            needs("token_merging", "token_merging.ratio").map_or(Ok(()), Err)?;
            base.token_merging = Some(TokenMerging { ratio: 0.0, levels: 1 });
        }
        if any("hires") && base.hires.is_none() {
            if !self.has("hires.scale") {
                return Err(Error::refused(
                    "`hires.strength`, `hires.steps`, `hires.upscale`: say how much larger with `hires.scale`",
                ));
            }
            base.hires = Some(Hires { scale: 0.0, strength: 0.7, steps: None, upscale: Upscale::Latent });
        }
        if any("oms") && base.oms.is_none() {
            base.oms = Some(OmsRequest::default());
        }
        Ok(base)
    }

    /// The first key of an object's that is asked for.
    pub(super) fn first_of(&self, object: &str) -> &'static str {
        let inside = |key: &&str| key.strip_prefix(object).is_some_and(|rest| rest.starts_with('.'));
        REQUEST.iter().map(|field| field.key).filter(|key| self.has(key)).find(inside).unwrap_or_default()
    }
}

impl Serialize for Asked {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut value = Value::Object(Map::new());
        for (key, asked) in &self.0 {
            put(&mut value, key, asked.clone());
        }
        value.serialize(serializer)
    }
}

fn row(key: &str) -> Option<&'static Field> {
    REQUEST.iter().find(|field| field.key == key)
}

fn written(request: &Request) -> Value {
    serde_json::to_value(request).expect("a request is texts and numbers")
}

fn at<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    key.split('.').try_fold(value, |value, name| value.get(name))
}

/// Puts a value at a key; what is no object on the way becomes one.
fn put(value: &mut Value, key: &str, new: Value) {
    let mut place = value;
    for name in key.split('.') {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[name];
    }
    *place = new;
}
