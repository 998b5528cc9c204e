//! Sandboxes that are made before they are asked for: spares.
//!
//! A spare is complete. It has the id of the run that will use it, host uids of its own, the version's package,
//! limits and filters, all of it proven, and an agent that is held before its first instruction. Only the input is
//! missing. Nothing of it is reachable: no gateway is open, no row of the store names it. The run that uses it is the
//! one whose id it has; it is used once or thrown away.
//!
//! What a start checks is checked when the run starts, spare or not: the fence, the profile, the evidence. A plane
//! that ends throws its spares away; one that was killed leaves supervisors without a run, which the next one kills.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cogward_model::{
    AgentName, RunId, TenantName, VersionLabel,
    event::{Attribution, Event, EventType},
    id::{Id, OperatorId},
    manifest::Profile,
    run::RunState,
};
use cogward_store::{RunRow, StoreError, VersionRow};
use tokio::{sync::Notify, time::Instant};

use crate::{
    engine::{Engine, Inner, Recorded, Version},
    errors::WarmError,
    ports::{PortError, Sandbox},
};

/// Most spares of one version.
pub const WARM_MAX: u32 = 32;
/// Spares of one plane that exist at once; their host identities follow those of runs that start without one.
const SPARES_MAX: u32 = 256;
/// A spare is not older when it is used: what was verified when it was made is not verified again.
const SPARE_AGE_MAX: Duration = Duration::from_secs(600);
/// How often spares are looked at when nothing happens.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The version that a spare is of.
type Key = (TenantName, AgentName, VersionLabel);

/// A sandbox that waits for its run.
pub(crate) struct Spare {
    pub(crate) run: RunId,
    pub(crate) slot: u32,
    pub(crate) sandbox: Arc<dyn Sandbox>,
    made: Instant,
}

/// The spares of a plane.
#[derive(Default)]
pub(crate) struct Spares {
    table: Mutex<Table>,
    /// Something was taken, or is wanted differently.
    changed: Notify,
}

#[derive(Default)]
struct Table {
    ready: HashMap<Key, Vec<Spare>>,
    /// Ids and host identities in use, from before a spare is made until its run is in the store or it is gone.
    reserved: HashMap<RunId, u32>,
}

impl Spares {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Only map operations happen under this lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the oldest one that is young enough. It stays reserved: [`Spares::release`] comes later.
    pub(crate) fn take(&self, key: &Key) -> Option<Spare> {
        let mut table = self.table();
        let ready = table.ready.get_mut(key)?;
        let place = ready.iter().position(|spare| spare.made.elapsed() < SPARE_AGE_MAX)?;
        let spare = ready.remove(place);
        drop(table);
        self.changed.notify_one();
        Some(spare)
    }

    /// The run is in the store, or nothing of the spare is left.
    pub(crate) fn release(&self, run: RunId) {
        self.table().reserved.remove(&run);
    }

    /// Whether the run is one of a spare, so that its supervisor is no orphan.
    pub(crate) fn holds(&self, run: RunId) -> bool {
        self.table().reserved.contains_key(&run)
    }

    /// How many of a version are ready.
    fn ready(&self, key: &Key) -> u32 {
        self.table().ready.get(key).map_or(0, |ready| u32::try_from(ready.len()).unwrap_or(u32::MAX))
    }

    fn reserve(&self, run: RunId, first: u32, taken: &[u32]) -> Option<u32> {
        let mut table = self.table();
        let in_use = |slot: &u32| taken.contains(slot) || table.reserved.values().any(|other| other == slot);
        let slot = (first..first.saturating_add(SPARES_MAX)).find(|slot| !in_use(slot))?;
        table.reserved.insert(run, slot);
        Some(slot)
    }

    /// Takes out what is too many, too old, or of a version that is not wanted any more.
    fn surplus(&self, wanted: &HashMap<Key, u32>) -> Vec<Spare> {
        let mut out = Vec::new();
        for (key, ready) in &mut self.table().ready {
            let wanted = wanted.get(key).copied().unwrap_or(0) as usize;
            let (keep, old): (Vec<_>, Vec<_>) = ready.drain(..).partition(|spare| spare.made.elapsed() < SPARE_AGE_MAX);
            out.extend(old);
            *ready = keep;
            if ready.len() > wanted {
                out.extend(ready.split_off(wanted));
            }
        }
        out
    }
}

impl Engine {
    /// Says how many sandboxes of a version are to be ready; they are made in the background, one at a time.
    ///
    /// # Errors
    /// [`WarmError`]; nothing was changed then, but where the evidence could not be written.
    pub async fn set_warm(
        &self,
        (tenant, agent, label): (&TenantName, &AgentName, &VersionLabel),
        count: u32,
        (actor, operator): (&str, OperatorId),
        reason: Option<&str>,
    ) -> Result<(), WarmError> {
        if count > WARM_MAX {
            return Err(WarmError::TooMany { max: WARM_MAX });
        }
        let unknown = || StoreError::Missing { noun: cogward_store::Noun::Version, key: label.to_string() };
        let row = self.with.store.version(tenant, agent, label).await?.ok_or_else(unknown)?;
        let version = Version::read(&row).map_err(|e| WarmError::Manifest(agent.clone(), e))?;
        let sandbox = &version.manifest.spec.sandbox;
        if count > 0 && !sandbox.inputs.is_empty() {
            return Err(WarmError::Inputs);
        }
        if count > 0 && !matches!(sandbox.profile, Profile::Standard | Profile::Hardened) {
            return Err(WarmError::Profile(sandbox.profile));
        }
        let before = self.with.store.warm_of(tenant, agent, label).await?;
        let mut tx = self.with.store.begin().await?;
        tx.warm_put(tenant, agent, label, count).await?;
        let by = Attribution { agent: Some((agent.clone(), label.clone())), subject: None };
        let event = Event::new(EventType::AgentWarmSet, tenant.clone(), by)
            .public("operator", operator.to_string())
            .public("before", u64::from(before))
            .public("count", u64::from(count))
            .personal("actor", actor)
            .personal("reason", reason.map(str::to_owned));
        let committed = tx.commit(vec![event]).await?;
        if let Recorded::No(error) = self.publish(committed).await {
            return Err(WarmError::Evidence(error));
        }
        self.spares.changed.notify_one();
        Ok(())
    }

    /// How many sandboxes of a version are wanted, and how many are ready now.
    ///
    /// # Errors
    /// [`StoreError`] when the database failed.
    pub async fn warm(
        &self,
        tenant: &TenantName,
        agent: &AgentName,
        label: &VersionLabel,
    ) -> Result<(u32, u32), StoreError> {
        let wanted = self.with.store.warm_of(tenant, agent, label).await?;
        Ok((wanted, self.spares.ready(&(tenant.clone(), agent.clone(), label.clone()))))
    }

    /// Keeps the spares as they are wanted until the plane is on its way down, then throws them away.
    pub(crate) async fn keep_warm(self) {
        loop {
            if let Err(error) = self.tend().await {
                tracing::warn!(%error, "the spare sandboxes are not as wanted; it is tried again");
            }
            tokio::select! {
                () = self.stopped() => break,
                () = self.spares.changed.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
        for spare in self.spares.surplus(&HashMap::new()) {
            self.discard(spare).await;
        }
    }

    async fn tend(&self) -> Result<(), PortError> {
        let versions = self.with.store.warm().await.map_err(|e| PortError::from_error(&e))?;
        let key = |row: &VersionRow| (row.tenant.clone(), row.agent.clone(), row.label.clone());
        let wanted = versions.iter().map(|(row, count)| (key(row), (*count).min(WARM_MAX))).collect();
        for spare in self.spares.surplus(&wanted) {
            self.discard(spare).await;
        }
        self.forget_ended().await;
        for (row, _) in versions {
            let key = key(&row);
            while self.spares.ready(&key) < wanted.get(&key).copied().unwrap_or(0) {
                // Neither while the plane ends nor while nothing may start.
                if self.is_stopping() || self.is_holding() {
                    return Ok(());
                }
                let spare = self.make(&row).await?;
                self.spares.table().ready.entry(key.clone()).or_default().push(spare);
            }
        }
        Ok(())
    }

    async fn make(&self, version_row: &VersionRow) -> Result<Spare, PortError> {
        let version = Version::read(version_row).map_err(|e| PortError::from_error(&e))?;
        let missing = self.missing(&version.manifest.spec.sandbox);
        if let Some(first) = missing.first() {
            return Err(PortError(format!("the host cannot enforce the profile: {first}")));
        }
        let unclosed = self.with.store.runs_unclosed().await.map_err(|e| PortError::from_error(&e))?;
        let taken: Vec<u32> = unclosed.iter().filter_map(|row| row.uid_slot).collect();
        let run: RunId = Id::new(&*self.with.clock, &*self.with.entropy);
        let slot = self.spares.reserve(run, self.with.run_slots, &taken);
        let slot = slot.ok_or_else(|| PortError(format!("there are {SPARES_MAX} spare sandboxes already")))?;
        let row = blank(run, slot, version_row, &version, self.with.clock.now());
        let made = async {
            self.with.files.create(run, b"").map_err(|e| PortError::from_error(&e))?;
            let mut request = self.launch_request(&row, &version)?;
            request.late_input = true;
            self.with.sandboxes.launch(request).await
        };
        match made.await {
            Ok(sandbox) => Ok(Spare { run, slot, sandbox, made: Instant::now() }),
            Err(error) => {
                self.forget_files(run);
                self.spares.release(run);
                Err(error)
            }
        }
    }

    /// Spares whose sandbox has ended: somebody killed it, or the host did.
    async fn forget_ended(&self) {
        let mut ready: Vec<(RunId, Arc<dyn Sandbox>)> = Vec::new();
        for spares in self.spares.table().ready.values() {
            ready.extend(spares.iter().map(|spare| (spare.run, Arc::clone(&spare.sandbox))));
        }
        for (run, sandbox) in ready {
            let ended = tokio::select! {
                biased;
                _ = sandbox.wait() => true,
                () = std::future::ready(()) => false,
            };
            if ended {
                tracing::warn!(%run, "a spare sandbox has ended by itself");
                self.spares.table().ready.values_mut().for_each(|spares| spares.retain(|spare| spare.run != run));
                self.forget_files(run);
                self.spares.release(run);
            }
        }
    }
}

impl Inner {
    /// Kills a spare that will not be used, and forgets it when nothing of it is left.
    pub(crate) async fn discard(&self, spare: Spare) {
        if let Err(error) = spare.sandbox.kill().await {
            // It stays reserved: its host identity is not given to anybody while it may live.
            tracing::error!(run = %spare.run, %error, "a spare sandbox cannot be killed");
            return;
        }
        spare.sandbox.wait().await;
        self.forget_files(spare.run);
        self.spares.release(spare.run);
    }

    fn forget_files(&self, run: RunId) {
        if let Err(error) = self.with.files.remove(run) {
            tracing::warn!(%run, %error, "the directory of a spare sandbox stays");
        }
    }
}

/// What a run's sandbox can be made from before the run exists: all that the version alone says.
fn blank(run: RunId, slot: u32, row: &VersionRow, version: &Version, created: cogward_model::Timestamp) -> RunRow {
    RunRow {
        id: run,
        tenant: row.tenant.clone(),
        agent: row.agent.clone(),
        version: row.label.clone(),
        digest: version.digest,
        goal: version.manifest.spec.goal.clone(),
        subject: None,
        created_by: crate::events::PLANE.to_owned(),
        reason: None,
        input_digest: None,
        created,
        outside: None,
        state: RunState::Starting,
        desired: RunState::Running,
        fence_epoch: 1,
        revision: 0,
        uid_slot: Some(slot),
        started: None,
        ended: None,
        exit_code: None,
        exit_signal: None,
        fail_cause: None,
        usage_json: None,
    }
}
