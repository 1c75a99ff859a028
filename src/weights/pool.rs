//! Constants that several loadings of one network have in common.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::record::Constant;

/// What was loaded of the files of a model, but for what adapters change. A network that is loaded again, with other adapters, takes its constants
/// from here: backends know constants by their identity, so that only those that differ go to the device.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<Pooled>>);

#[derive(Default)]
struct Pooled {
    by_key: HashMap<String, Arc<Constant>>,
    /// What was made of a constant, by that constant (which lives as long as what was made of it) and by how.
    made_of: HashMap<(usize, String), Arc<Constant>>,
}

impl Pool {
    pub(super) fn find(&self, key: &str) -> Option<Arc<Constant>> {
        self.lock().by_key.get(key).cloned()
    }

    pub(super) fn keep(&self, key: String, constant: &Arc<Constant>) {
        self.lock().by_key.insert(key, Arc::clone(constant));
    }

    /// `make` of `base`, or what was made so of it before, where `base` itself is kept here.
    pub(super) fn made_of(
        &self,
        base: Arc<Constant>,
        how: &str,
        make: impl FnOnce(Arc<Constant>) -> Arc<Constant>,
    ) -> Arc<Constant> {
        let mut pooled = self.lock();
        let key = (Arc::as_ptr(&base) as usize, how.to_owned());
        if let Some(known) = pooled.made_of.get(&key) {
            return Arc::clone(known);
        }
        let is_kept = pooled.by_key.values().chain(pooled.made_of.values()).any(|kept| Arc::ptr_eq(kept, &base));
        let made = make(base);
        if is_kept {
            pooled.made_of.insert(key, Arc::clone(&made));
        }
        made
    }

    fn lock(&self) -> MutexGuard<'_, Pooled> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
