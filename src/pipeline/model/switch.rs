//! The same model with other adapters, without loading it again.

use std::sync::Arc;

use crate::Result;
use crate::models::Network;
use crate::pipeline::device::residency::Numbered;
use crate::pipeline::device::weight_types::Part;
use crate::pipeline::files::source::{Component, Source};
use crate::pipeline::model::adapters::{Adapter, Adapters};
use crate::pipeline::model::embeddings::Embeddings;
use crate::pipeline::model::encoders::load_text_encoders;
use crate::pipeline::model::load::load_unet;
use crate::pipeline::model::pipeline::Pipeline;
use crate::weights::Pool;

/// What a model's networks were loaded from.
pub(crate) struct Plain {
    pub(crate) texts: Source,
    pub(crate) embeddings: Arc<Embeddings>,
    pub(crate) unet_files: Component,
    /// What of them no adapter changed.
    pub(crate) pool: Pool,
}

impl Pipeline {
    /// The same model with these adapters in place of those that it has (LoRA and its relatives). It shares with this one all that they leave as it is,
    /// on the device too: where networks stay there ([`Residency`](crate::pipeline::Residency)), only the tensors that differ are uploaded.
    ///
    /// # Errors
    /// When an adapter's file is missing, damaged or no adapter, or nothing of it fits the model.
    pub fn with_adapters(&self, wanted: &[Adapter]) -> Result<Pipeline> {
        let Plain { texts, embeddings, unet_files, pool } = &*self.plain;
        let stored = |part| self.device.weight_type(part);
        let mut adapters = Adapters::open(wanted, pool)?;
        let unet = load_unet(unet_files, "unet", stored(Part::Unet), |w| adapters.patch(Network::Unet, w))?;
        let mut encoders = load_text_encoders(texts, self.kind.reading, stored(Part::Text), &mut adapters)?;
        embeddings.add_to(&mut encoders)?;
        let had = |network: fn(&Network) -> bool| self.adapters.iter().any(|a| a.applied.keys().any(network));
        let mut switched = self.clone();
        // What neither these nor those before change stays the network that it is, with all that was compiled of it.
        if adapters.touch(Network::Unet) || had(|network| *network == Network::Unet) {
            switched.unet = Numbered::new(unet, &self.device);
        }
        let touches_text = adapters.touch_text();
        if touches_text || had(|network| *network != Network::Unet) {
            switched.text_encoders = encoders.into_iter().map(|encoder| Numbered::new(encoder, &self.device)).collect();
        }
        switched.plain_texts = touches_text.then(|| (texts.clone(), Arc::clone(embeddings)));
        switched.adapters = adapters.finish(&self.label)?;
        if let Some(module) = self.oms_module().cloned() {
            switched.attach_oms(module)?;
        }
        Ok(switched)
    }
}
