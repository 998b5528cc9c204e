//! Room in the plane's memory for what agents send and have not yet read.
//!
//! Bodies and answers are bounded for a run, for a tenant and for the plane. Whoever wants room takes it of its run
//! first and then of the plane, the whole of what is wanted at each, so there is no circle of waiting. A run that does
//! not read its answers fills its own room and then waits for itself.
//!
//! A tenant may hold at most half as much as it leaves free: alone that is a third of the plane. Each tenant that holds
//! what it can, for as long as it can, leaves two thirds of what it found, so it takes many of them to starve the next.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use cogward_model::{
    TenantName,
    limits::{
        FREE_ANSWER_BYTES_MAX, MEMORY_SHARE, PLANE_ANSWER_BYTES_MAX, PLANE_BODY_BYTES_MAX, RESPONSE_BYTES_MAX,
        RUN_ANSWER_BYTES_MAX, RUN_BODY_BYTES_MAX,
    },
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// What is counted at once, in bytes.
const UNIT: usize = 1024;

/// The room of a plane.
#[derive(Debug)]
pub(crate) struct Rooms {
    /// For request bodies.
    pub(crate) bodies: House,
    /// For answers.
    pub(crate) answers: House,
}

impl Default for Rooms {
    fn default() -> Self {
        let share = memory().map_or(usize::MAX, |bytes| bytes / MEMORY_SHARE);
        Self {
            bodies: House::new(PLANE_BODY_BYTES_MAX.min(share), RUN_BODY_BYTES_MAX),
            answers: House::new(PLANE_ANSWER_BYTES_MAX.min(share), RUN_ANSWER_BYTES_MAX),
        }
    }
}

/// Room for one kind of bytes.
#[derive(Debug)]
pub(crate) struct House {
    plane: Arc<Plane>,
    tenants: Mutex<HashMap<TenantName, Weak<Tenant>>>,
    run: usize,
}

/// What all tenants share, in units.
#[derive(Debug)]
struct Plane {
    free: Mutex<usize>,
    given_back: Notify,
}

/// What one tenant holds, in units.
#[derive(Debug, Default)]
struct Tenant {
    /// Changed only with the plane's lock held.
    held: AtomicUsize,
    /// Whoever has to wait does so in turn: a large answer is not overtaken by small ones without end.
    turn: tokio::sync::Mutex<()>,
}

impl House {
    /// `plane` bytes in all; a run may have `run` of them. However small the memory, a run has its share.
    pub(crate) fn new(plane: usize, run: usize) -> Self {
        let units = |bytes: usize| (bytes / UNIT).min(Semaphore::MAX_PERMITS / 4);
        Self {
            plane: Arc::new(Plane { free: Mutex::new(units(plane.max(3 * run))), given_back: Notify::new() }),
            tenants: Mutex::default(),
            run: units(run),
        }
    }

    /// The room of a new run of a tenant.
    pub(crate) fn of(&self, tenant: &TenantName) -> Room {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = tenants.get(tenant).and_then(Weak::upgrade).unwrap_or_else(|| {
            // The names of tenants without runs are forgotten.
            tenants.retain(|_, shared| shared.strong_count() > 0);
            let shared = Arc::new(Tenant::default());
            tenants.insert(tenant.clone(), Arc::downgrade(&shared));
            shared
        });
        Room { run: Arc::new(Semaphore::new(self.run)), tenant: shared, plane: Arc::clone(&self.plane), most: self.run }
    }

    /// Bytes that nobody holds.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        *self.plane.free() * UNIT
    }
}

impl Plane {
    fn free(&self) -> std::sync::MutexGuard<'_, usize> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The room of one run: its own, and what it may take of the plane's.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    run: Arc<Semaphore>,
    tenant: Arc<Tenant>,
    plane: Arc<Plane>,
    most: usize,
}

/// Room that is taken; given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    run: OwnedSemaphorePermit,
    share: Share,
}

/// A part of the plane's room.
#[derive(Debug)]
struct Share {
    plane: Arc<Plane>,
    tenant: Arc<Tenant>,
    units: usize,
}

impl Share {
    fn give_back(&mut self, units: usize) {
        let units = units.min(self.units);
        if units == 0 {
            return;
        }
        self.units -= units;
        {
            let mut free = self.plane.free();
            *free += units;
            self.tenant.held.fetch_sub(units, Ordering::Relaxed);
        }
        self.plane.given_back.notify_waiters();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back(self.units);
    }
}

impl Room {
    fn units(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT).clamp(1, self.most)).unwrap_or(u32::MAX)
    }

    /// Waits for room for `bytes`. `None` only when the plane ends.
    pub(crate) async fn take(&self, bytes: usize) -> Option<Held> {
        let units = self.units(bytes);
        let run = Arc::clone(&self.run).acquire_many_owned(units).await.ok()?;
        let units = units as usize;
        if let Ok(_turn) = self.tenant.turn.try_lock()
            && let Some(share) = self.share(units)
        {
            return Some(Held { run, share });
        }
        let _turn = self.tenant.turn.lock().await;
        let mut given_back = std::pin::pin!(self.plane.given_back.notified());
        loop {
            // Listens before it looks: what is given back in between is not missed.
            given_back.as_mut().enable();
            if let Some(share) = self.share(units) {
                return Some(Held { run, share });
            }
            given_back.as_mut().await;
            given_back.set(self.plane.given_back.notified());
        }
    }

    /// Takes room for `bytes` if it is there now and nobody waits for it.
    pub(crate) fn try_take(&self, bytes: usize) -> Option<Held> {
        let units = self.units(bytes);
        let run = Arc::clone(&self.run).try_acquire_many_owned(units).ok()?;
        let _turn = self.tenant.turn.try_lock().ok()?;
        Some(Held { run, share: self.share(units as usize)? })
    }

    /// A part of the plane's room, if it leaves twice as much free as its tenant then holds.
    fn share(&self, units: usize) -> Option<Share> {
        let mut free = self.plane.free();
        let left = free.checked_sub(units)?;
        let held = self.tenant.held.load(Ordering::Relaxed) + units;
        if held > left / 2 {
            return None;
        }
        *free = left;
        self.tenant.held.store(held, Ordering::Relaxed);
        drop(free);
        Some(Share { plane: Arc::clone(&self.plane), tenant: Arc::clone(&self.tenant), units })
    }

    /// Begins to take in an answer; `length` if it is known beforehand.
    pub(crate) async fn answer(&self, length: Option<u64>) -> Option<Growing<'_>> {
        let mut growing = Growing { room: self, held: None };
        if let Some(length) = length.and_then(|length| usize::try_from(length).ok()) {
            growing.reserve(length, length.min(RESPONSE_BYTES_MAX)).await?;
        }
        Some(growing)
    }

    /// An answer that is there already, with room for as long as it is.
    pub(crate) async fn hold(&self, bytes: Bytes) -> Bytes {
        let held = self.take(bytes.len()).await;
        Held::bind(held, bytes)
    }

    /// Bytes that the run holds.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        (self.most - self.run.available_permits()) * UNIT
    }
}

impl Held {
    /// Gives back what is not needed for `bytes`.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let needed = bytes.div_ceil(UNIT).max(1);
        self.share.give_back(self.share.units.saturating_sub(needed));
        drop(self.run.split(self.run.num_permits().saturating_sub(needed)));
    }

    /// Bytes whose room is given back with the last of them.
    pub(crate) fn bind(held: Option<Self>, bytes: Bytes) -> Bytes {
        match held {
            Some(held) => Bytes::from_owner(Owned { bytes, _held: held }),
            None => bytes,
        }
    }
}

struct Owned {
    bytes: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// An answer on its way in. A small one is read first; one that outgrows that takes the room of the largest before
/// more of it is read, because it may not wait for more room while it holds some.
#[derive(Debug)]
pub(crate) struct Growing<'a> {
    room: &'a Room,
    held: Option<Held>,
}

impl Growing<'_> {
    async fn reserve(&mut self, length: usize, room: usize) -> Option<()> {
        if length > FREE_ANSWER_BYTES_MAX && self.held.is_none() {
            self.held = Some(self.room.take(room).await?);
        }
        Some(())
    }

    /// Waits until the answer may be so long.
    pub(crate) async fn reach(&mut self, length: usize) -> Option<()> {
        self.reserve(length, RESPONSE_BYTES_MAX).await
    }

    /// The answer is whole.
    pub(crate) async fn finish(self, length: usize) -> Option<Held> {
        match self.held {
            Some(mut held) => {
                held.shrink(length);
                Some(held)
            }
            None => self.room.take(length).await,
        }
    }
}

/// The memory that this process may use: of the machine, or of its control group if that is less.
fn memory() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix("kB")?.trim();
    let machine = kib.parse::<usize>().ok()?.saturating_mul(1024);
    let group = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<usize>().ok())
        .min();
    Some(group.map_or(machine, |group| group.min(machine)))
}

#[cfg(test)]
mod tests;
