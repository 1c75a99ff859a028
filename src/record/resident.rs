//! Constants that programs share while one of them holds them, each made by one thread.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use crate::Result;

/// Values by key. No lock is held while one is made: another thread that wants it waits until it is there, and makes it itself where the first
/// one fails.
pub(crate) struct Resident<K, V> {
    slots: Mutex<HashMap<K, Slot<V>>>,
    changed: Condvar,
}

enum Slot<V> {
    /// Some thread makes it.
    Claimed,
    Made(Weak<V>),
}

impl<V> Slot<V> {
    fn is_claimed(&self) -> bool {
        matches!(self, Slot::Claimed)
    }

    fn value(&self) -> Option<Arc<V>> {
        match self {
            Slot::Made(made) => made.upgrade(),
            Slot::Claimed => None,
        }
    }
}

impl<K, V> Default for Resident<K, V> {
    fn default() -> Self {
        Resident { slots: Mutex::default(), changed: Condvar::new() }
    }
}

impl<K: Copy + Eq + Hash, V> Resident<K, V> {
    /// Whether some program holds the value.
    pub(crate) fn has(&self, key: K) -> bool {
        self.lock().get(&key).is_some_and(|slot| slot.value().is_some())
    }

    /// Those that some program holds.
    pub(crate) fn all(&self) -> Vec<Arc<V>> {
        self.lock().values().filter_map(Slot::value).collect()
    }

    /// The values of `keys`. `make` is called with those that nobody has or makes, and gives one for each in their order.
    ///
    /// With `may_wait`, what another thread makes is waited for, after what was this thread's to make; so threads never wait for each other. A
    /// thread that may have to go on for the other one to end (a worker of the same pool) must not wait: it makes its own, and one of both is
    /// dropped.
    ///
    /// # Errors
    /// As `make`.
    pub(crate) fn of(
        &self,
        keys: &[K],
        may_wait: bool,
        mut make: impl FnMut(&[K]) -> Result<Vec<V>>,
    ) -> Result<HashMap<K, Arc<V>>> {
        let mut found = HashMap::with_capacity(keys.len());
        loop {
            let (claim, others) = self.claim(keys, &mut found);
            if !claim.keys.is_empty() {
                let made = make(&claim.keys)?;
                claim.publish(made, &mut found);
            }
            match others.is_empty() {
                true => return Ok(found),
                false if may_wait => self.wait(&others),
                false => {
                    for (&key, made) in others.iter().zip(make(&others)?) {
                        let kept = insert(&mut self.lock(), key, made, false);
                        found.insert(key, kept);
                    }
                }
            }
        }
    }

    /// Puts what there is into `found`, and claims what there is not and nobody makes. Beside it, what others make.
    fn claim(&self, keys: &[K], found: &mut HashMap<K, Arc<V>>) -> (Claim<'_, K, V>, Vec<K>) {
        let mut slots = self.lock();
        slots.retain(|_, slot| slot.is_claimed() || slot.value().is_some());
        let (mut mine, mut others, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        for &key in keys.iter().filter(|key| seen.insert(**key)) {
            if found.contains_key(&key) {
                continue;
            }
            match slots.get(&key).map(|slot| (slot.is_claimed(), slot.value())) {
                Some((true, _)) => others.push(key),
                Some((false, Some(made))) => drop(found.insert(key, made)),
                _ => {
                    slots.insert(key, Slot::Claimed);
                    mine.push(key);
                }
            }
        }
        (Claim { resident: self, keys: mine }, others)
    }

    /// Until one of them is made or given up.
    fn wait(&self, others: &[K]) {
        let mut slots = self.lock();
        while others.iter().all(|key| slots.get(key).is_some_and(Slot::is_claimed)) {
            slots = self.changed.wait(slots).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Slot<V>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes a value that was made. Where another thread was quicker, that one's is kept; a claim of another thread is left for it to end.
fn insert<K: Copy + Eq + Hash, V>(slots: &mut HashMap<K, Slot<V>>, key: K, made: V, is_claimed: bool) -> Arc<V> {
    let made = Arc::new(made);
    if let Some(slot) = slots.get(&key) {
        if let Some(other) = slot.value() {
            return other;
        }
        if slot.is_claimed() && !is_claimed {
            return made;
        }
    }
    slots.insert(key, Slot::Made(Arc::downgrade(&made)));
    made
}

/// Keys that this thread makes the values of. Dropped, those that were not made are given up.
struct Claim<'r, K: Copy + Eq + Hash, V> {
    resident: &'r Resident<K, V>,
    keys: Vec<K>,
}

impl<K: Copy + Eq + Hash, V> Claim<'_, K, V> {
    fn publish(mut self, made: Vec<V>, found: &mut HashMap<K, Arc<V>>) {
        debug_assert_eq!(made.len(), self.keys.len(), "a value is made for each key");
        let mut slots = self.resident.lock();
        for (key, made) in self.keys.drain(..).zip(made) {
            found.insert(key, insert(&mut slots, key, made, true));
        }
        drop(slots);
        self.resident.changed.notify_all();
    }
}

impl<K: Copy + Eq + Hash, V> Drop for Claim<'_, K, V> {
    fn drop(&mut self) {
        if self.keys.is_empty() {
            return;
        }
        let mut slots = self.resident.lock();
        for key in &self.keys {
            slots.remove(key);
        }
        drop(slots);
        self.resident.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::Error;

    #[test]
    fn one_thread_makes_and_the_other_waits() {
        let (resident, made, barrier) = (Resident::<u32, u32>::default(), AtomicUsize::new(0), Barrier::new(2));
        let want = |keys: &[u32]| {
            barrier.wait();
            let make = |keys: &[u32]| {
                std::thread::sleep(Duration::from_millis(20));
                made.fetch_add(keys.len(), Ordering::Relaxed);
                Ok(keys.iter().map(|key| 10 * key).collect())
            };
            resident.of(keys, true, make).expect("it is made")
        };
        let (one, two) = std::thread::scope(|scope| {
            let one = scope.spawn(|| want(&[1, 2, 2, 3]));
            let two = scope.spawn(|| want(&[3, 4, 1]));
            (one.join().expect("no panic"), two.join().expect("no panic"))
        });
        assert_eq!((made.load(Ordering::Relaxed), one.len(), two.len()), (4, 3, 3));
        assert!(Arc::ptr_eq(&one[&3], &two[&3]) && *two[&4] == 40 && resident.has(4));
        drop((one, two));
        assert!(!resident.has(4) && resident.all().is_empty());
    }

    #[test]
    fn who_must_not_wait_makes_its_own() {
        let resident = Resident::<u32, u32>::default();
        let outer = resident.of(&[1], true, |_| {
            let inner = resident.of(&[1], false, |_| Ok(vec![2])).expect("it is made");
            assert_eq!(*inner[&1], 2);
            Ok(vec![1])
        });
        assert_eq!(*outer.expect("it is made")[&1], 1);
    }

    #[test]
    fn what_failed_is_made_by_the_next() {
        let resident = Resident::<u32, u32>::default();
        let failed = resident.of(&[1], true, |_| Err(Error::Cancelled));
        assert!(failed.is_err());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            resident.of(&[1], true, |_| panic!("a worker's")).map(drop)
        }));
        assert!(panicked.is_err());
        assert_eq!(*resident.of(&[1], true, |_| Ok(vec![7])).expect("it is made")[&1], 7);
    }
}
