//! What stays on a device between runs: compiled programs with their weights, and whose turn it is to run one.
//!
//! A program is lent for one run and given back, so that jobs which run the same network at the same shapes share it, and what is not running can
//! make room for what is. Least recently used goes first, what a job holds after what nobody holds.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::residency::Residency;
use crate::Result;
use crate::record::{Backend, Cancel, Program};

/// The programs of a device.
#[derive(Default)]
pub(crate) struct Programs {
    pool: Mutex<Pool>,
    queue: Mutex<Queue>,
    called: Condvar,
}

#[derive(Default)]
struct Pool {
    entries: HashMap<String, Entry>,
    clock: u64,
    residency: Residency,
    room: Option<u64>,
    hits: u64,
    evictions: u64,
    /// What was worked out of networks at fixed shapes, by the keys of their programs.
    known: HashMap<String, (Vec<u64>, Arc<dyn Any + Send + Sync>)>,
}

struct Entry {
    /// `None` while it is lent, and once it was evicted from under its holders.
    program: Option<Box<dyn Program>>,
    /// Open stages that will run it again.
    holders: usize,
    used: u64,
    /// The networks that it was compiled of.
    networks: Vec<u64>,
    /// Whether it keeps what one job made from run to run, so that it cannot be compiled anew in between.
    keeps_features: bool,
    /// Whether a network of it is no more, so that nobody will ask for it after those who hold it.
    is_orphan: bool,
}

/// A right to a program, for as long as a stage is open.
pub(crate) struct Lease {
    programs: Arc<Programs>,
    key: String,
}

/// What was evicted for a program that has the same weights; they stay until it is dropped.
pub(crate) type Weights = Vec<Box<dyn Send>>;

/// Sizes and options of a network of which something is remembered.
const MOST_KNOWN: usize = 512;

/// Waiting jobs look so often whether they were cancelled.
const LOOK: Duration = Duration::from_millis(5);

impl Programs {
    /// `room` is what the host can spare, where it is the host's memory.
    pub(crate) fn set_residency(&self, residency: Residency, room: Option<u64>) {
        let mut pool = self.lock();
        (pool.residency, pool.room) = (residency, room);
        drop(pool);
        if residency == Residency::Off {
            self.clear();
        }
    }

    pub(crate) fn residency(&self) -> Residency {
        self.lock().residency
    }

    pub(crate) fn room(&self) -> Option<u64> {
        self.lock().room
    }

    /// Hits and evictions.
    pub(crate) fn counts(&self) -> [u64; 2] {
        let pool = self.lock();
        [pool.hits, pool.evictions]
    }

    /// A lease of the program, which may be there or not.
    pub(crate) fn lease(self: &Arc<Self>, key: String, networks: &[u64], keeps_features: bool) -> Lease {
        let mut pool = self.lock();
        pool.clock += 1;
        let used = pool.clock;
        let new =
            || Entry { program: None, holders: 0, used, networks: networks.to_vec(), keeps_features, is_orphan: false };
        let entry = pool.entries.entry(key.clone()).or_insert_with(new);
        (entry.holders, entry.used) = (entry.holders + 1, used);
        pool.hits += u64::from(entry.program.is_some());
        Lease { programs: Arc::clone(self), key }
    }

    /// Evicts until `needed` more bytes keep the backend within `limit`, or nothing is left to evict. What has weights in common with `networks`
    /// leaves them.
    pub(crate) fn make_room(&self, backend: &dyn Backend, needed: u64, limit: u64, networks: &[u64]) -> Weights {
        let mut weights = Weights::new();
        while backend.allocated_bytes() + needed > limit {
            let Some((program, of)) = self.evict(false) else { break };
            if of.iter().any(|network| networks.contains(network)) {
                weights.push(program.weights());
            }
        }
        weights
    }

    /// Evicts the least recently used program; of those that stages hold only where there is no other, and none of them if `idle` alone may go.
    pub(crate) fn evict(&self, idle: bool) -> Option<(Box<dyn Program>, Vec<u64>)> {
        let mut pool = self.lock();
        let may_go = |entry: &Entry| entry.program.is_some() && !((idle || entry.keeps_features) && entry.holders > 0);
        let oldest = pool.entries.iter().filter(|(_, entry)| may_go(entry));
        let key = oldest.min_by_key(|(_, entry)| (entry.holders > 0, entry.used))?.0.clone();
        let entry = pool.entries.get_mut(&key)?;
        let (program, networks) = (entry.program.take()?, entry.networks.clone());
        if entry.holders == 0 {
            pool.entries.remove(&key);
        }
        pool.evictions += 1;
        Some((program, networks))
    }

    /// Gives up what nobody holds.
    pub(crate) fn clear(&self) {
        let gone = self.extract(|entry| entry.holders == 0);
        drop(gone);
    }

    /// Gives up everything, what stages hold too: of a device that is lost.
    pub(crate) fn abandon(&self) {
        let mut pool = self.lock();
        let gone: Vec<_> = pool.entries.values_mut().filter_map(|entry| entry.program.take()).collect();
        drop(pool);
        drop(gone);
    }

    /// Gives up what was compiled of a network that is no more; what a stage still holds, with the last who does.
    pub(crate) fn forget(&self, network: u64) {
        let mut pool = self.lock();
        pool.known.retain(|_, (networks, _)| !networks.contains(&network));
        let of_it = pool.entries.values_mut().filter(|entry| entry.networks.contains(&network));
        of_it.for_each(|entry| entry.is_orphan = true);
        drop(pool);
        let gone = self.extract(|entry| entry.holders == 0 && entry.is_orphan);
        drop(gone);
    }

    /// What was worked out under this key, and is made now where nothing was.
    ///
    /// # Errors
    /// As `make`.
    pub(crate) fn known<T: Any + Send + Sync>(
        &self,
        key: String,
        networks: &[u64],
        make: impl FnOnce() -> Result<T>,
    ) -> Result<Arc<T>> {
        let found = self.lock().known.get(&key).map(|(_, known)| Arc::clone(known));
        if let Some(known) = found.and_then(|known| known.downcast().ok()) {
            return Ok(known);
        }
        let made = Arc::new(make()?);
        let mut pool = self.lock();
        if pool.known.len() >= MOST_KNOWN {
            pool.known.clear();
        }
        pool.known.insert(key, (networks.to_vec(), Arc::clone(&made) as Arc<dyn Any + Send + Sync>));
        Ok(made)
    }

    /// Taken out under the lock, to be dropped without it.
    fn extract(&self, of: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let mut pool = self.lock();
        let keys: Vec<String> =
            pool.entries.iter().filter(|(_, entry)| of(entry)).map(|(key, _)| key.clone()).collect();
        keys.iter().filter_map(|key| pool.entries.remove(key)).collect()
    }

    /// Waits until no other job runs on the device. Jobs get their turns in the order in which they asked.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled) when that is asked meanwhile.
    pub(crate) fn turn(self: &Arc<Self>, cancel: &Cancel) -> Result<Turn> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = queue.next;
        queue.next += 1;
        queue.waiting.push(ticket);
        loop {
            if let Err(cancelled) = cancel.check() {
                queue.waiting.retain(|waiting| *waiting != ticket);
                self.called.notify_all();
                return Err(cancelled);
            }
            if !queue.busy && queue.waiting.first() == Some(&ticket) {
                queue.waiting.remove(0);
                queue.busy = true;
                return Ok(Turn(Arc::clone(self)));
            }
            queue = self.called.wait_timeout(queue, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// The program, until it is given back; `None` where it has to be compiled.
    pub(crate) fn take(&self) -> Option<Box<dyn Program>> {
        let mut pool = self.programs.lock();
        pool.clock += 1;
        let used = pool.clock;
        let entry = pool.entries.get_mut(&self.key)?;
        entry.used = used;
        entry.program.take()
    }

    /// Gives the program back, or a new one.
    pub(crate) fn give(&self, program: Box<dyn Program>) {
        if let Some(entry) = self.programs.lock().entries.get_mut(&self.key) {
            entry.program = Some(program);
        }
    }

    /// Whether the program is not there.
    pub(crate) fn is_vacant(&self) -> bool {
        self.programs.lock().entries.get(&self.key).is_none_or(|entry| entry.program.is_none())
    }

    /// Ends the lease; the weights of a program that would not stay, for the one that follows.
    pub(crate) fn exchange(self) -> Option<Box<dyn Send>> {
        let stays = self.programs.residency() != Residency::Off;
        let alone = self.programs.lock().entries.get(&self.key).is_some_and(|entry| entry.holders == 1);
        if stays || !alone {
            return None;
        }
        Some(self.take()?.weights())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut pool = self.programs.lock();
        let stays = pool.residency != Residency::Off;
        let Some(entry) = pool.entries.get_mut(&self.key) else { return };
        entry.holders -= 1;
        if entry.holders > 0 || (stays && !entry.is_orphan && entry.program.is_some()) {
            return;
        }
        let gone = pool.entries.remove(&self.key);
        drop(pool);
        drop(gone);
    }
}

/// Who runs on a device.
#[derive(Default)]
struct Queue {
    next: u64,
    waiting: Vec<u64>,
    busy: bool,
}

/// A job's turn on a device, until it is dropped.
pub(crate) struct Turn(Arc<Programs>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner).busy = false;
        self.0.called.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn turns_come_in_the_order_in_which_they_were_asked_for() {
        let programs = Arc::new(Programs::default());
        let (order, never) = (Arc::new(Mutex::new(Vec::new())), Cancel::default());
        let first = programs.turn(&never).expect("nobody else");
        let waiting: Vec<_> = (0..4)
            .map(|i| {
                let (programs, order, never) = (Arc::clone(&programs), Arc::clone(&order), never.clone());
                let asked = programs.queue.lock().expect("sound").next;
                let thread = std::thread::spawn({
                    let programs = Arc::clone(&programs);
                    move || {
                        let turn = programs.turn(&never).expect("its turn");
                        order.lock().expect("sound").push(i);
                        drop(turn);
                    }
                });
                while programs.queue.lock().expect("sound").next == asked {
                    std::thread::yield_now();
                }
                thread
            })
            .collect();
        drop(first);
        waiting.into_iter().for_each(|thread| thread.join().expect("it ends"));
        assert_eq!(*order.lock().expect("sound"), [0, 1, 2, 3]);
    }

    #[test]
    fn who_is_cancelled_while_waiting_leaves_the_queue() {
        let programs = Arc::new(Programs::default());
        let first = programs.turn(&Cancel::default()).expect("nobody else");
        let cancel = Cancel::default();
        let waiting = std::thread::spawn({
            let (programs, cancel) = (Arc::clone(&programs), cancel.clone());
            move || programs.turn(&cancel).map(drop)
        });
        cancel.cancel();
        assert!(matches!(waiting.join().expect("it ends"), Err(Error::Cancelled)));
        drop(first);
        assert!(programs.turn(&Cancel::default()).is_ok());
    }
}
