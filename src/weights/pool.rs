//! Constants that several loadings of one network have in common.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::record::Constant;

/// What was loaded of the files of a model, but for what adapters change. A network that is loaded again, with other adapters, takes its constants
/// from here: backends know constants by their identity, so that only those that differ go to the device.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<HashMap<String, Arc<Constant>>>>);

impl Pool {
    pub(super) fn find(&self, key: &str) -> Option<Arc<Constant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    pub(super) fn keep(&self, key: String, constant: &Arc<Constant>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::clone(constant));
    }
}
