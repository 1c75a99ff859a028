//! Asking a run to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};

/// A request to stop, shared by its clones: who runs something looks at it, anybody may make it, from any thread and also from a signal
/// handler (there is no lock). It stays made.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks to stop; again changes nothing.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether somebody asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// # Errors
    /// [`Error::Cancelled`] when somebody asked.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_clone_hears_of_it() {
        let cancel = Cancel::default();
        let clone = cancel.clone();
        assert!(cancel.check().is_ok() && !clone.is_cancelled());
        std::thread::scope(|scope| scope.spawn(|| clone.cancel()).join()).expect("it does not panic");
        cancel.cancel();
        assert!(matches!(cancel.check(), Err(Error::Cancelled)) && clone.is_cancelled());
        assert!(Cancel::default().check().is_ok());
    }
}
