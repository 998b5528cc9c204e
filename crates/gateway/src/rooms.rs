//! Room in the plane's memory for what agents send and have not yet read.
//!
//! Bodies and answers are bounded for a run, for a tenant (half of the plane) and for the plane. Whoever wants room
//! takes it at these three, in that order, and the whole of what is wanted at each: nobody waits for a level that
//! comes before one it holds, so there is no circle of waiting. What waits for the plane holds room of its own run and
//! tenant meanwhile, and nobody else's. A run that does not read its answers fills its own room and then waits for itself.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use bytes::Bytes;
use cogward_model::{
    TenantName,
    limits::{
        FREE_ANSWER_BYTES_MAX, MEMORY_SHARE, PLANE_ANSWER_BYTES_MAX, PLANE_BODY_BYTES_MAX, RESPONSE_BYTES_MAX,
        RUN_ANSWER_BYTES_MAX, RUN_BODY_BYTES_MAX,
    },
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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
    plane: Arc<Semaphore>,
    tenants: Mutex<HashMap<TenantName, Weak<Semaphore>>>,
    tenant: usize,
    run: usize,
}

impl House {
    /// `plane` bytes in all; a tenant may have half of them, a run `run`. However small the memory, a run has its share.
    pub(crate) fn new(plane: usize, run: usize) -> Self {
        let plane = plane.max(2 * run);
        let units = |bytes: usize| (bytes / UNIT).min(Semaphore::MAX_PERMITS);
        Self {
            plane: Arc::new(Semaphore::new(units(plane))),
            tenants: Mutex::default(),
            tenant: units(plane / 2),
            run: units(run),
        }
    }

    /// The room of a new run of a tenant.
    pub(crate) fn of(&self, tenant: &TenantName) -> Room {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = tenants.get(tenant).and_then(Weak::upgrade).unwrap_or_else(|| {
            // The names of tenants without runs are forgotten.
            tenants.retain(|_, shared| shared.strong_count() > 0);
            let shared = Arc::new(Semaphore::new(self.tenant));
            tenants.insert(tenant.clone(), Arc::downgrade(&shared));
            shared
        });
        Room { levels: [Arc::new(Semaphore::new(self.run)), shared, Arc::clone(&self.plane)], most: self.run }
    }

    /// Bytes that nobody holds.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.plane.available_permits() * UNIT
    }
}

/// The room of one run: its own, its tenant's, the plane's.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    levels: [Arc<Semaphore>; 3],
    most: usize,
}

/// Room that is taken; given back when dropped.
#[derive(Debug)]
pub(crate) struct Held([OwnedSemaphorePermit; 3]);

impl Room {
    fn units(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT).clamp(1, self.most)).unwrap_or(u32::MAX)
    }

    /// Waits for room for `bytes`. `None` only when the plane ends.
    pub(crate) async fn take(&self, bytes: usize) -> Option<Held> {
        let units = self.units(bytes);
        let [run, tenant, plane] = self.levels.each_ref().map(Arc::clone);
        let run = run.acquire_many_owned(units).await.ok()?;
        let tenant = tenant.acquire_many_owned(units).await.ok()?;
        let plane = plane.acquire_many_owned(units).await.ok()?;
        Some(Held([run, tenant, plane]))
    }

    /// Takes room for `bytes` if it is there now.
    pub(crate) fn try_take(&self, bytes: usize) -> Option<Held> {
        let units = self.units(bytes);
        let [run, tenant, plane] = self.levels.each_ref().map(Arc::clone);
        let run = run.try_acquire_many_owned(units).ok()?;
        let tenant = tenant.try_acquire_many_owned(units).ok()?;
        let plane = plane.try_acquire_many_owned(units).ok()?;
        Some(Held([run, tenant, plane]))
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
        let [run, ..] = &self.levels;
        (self.most - run.available_permits()) * UNIT
    }
}

impl Held {
    /// Gives back what is not needed for `bytes`.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let needed = bytes.div_ceil(UNIT).max(1);
        for permit in &mut self.0 {
            drop(permit.split(permit.num_permits().saturating_sub(needed)));
        }
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
