//! Retention: values whose time is over, by the day that they were sealed and the run that they are of.

use std::collections::{BTreeMap, BTreeSet};

use cogward_model::{RunId, TenantName};

use crate::{
    data_keys::day,
    read::on_a_thread,
    record::Evidence,
    redact::{EraseError, Erasure, plan_of},
};

/// Keys that are destroyed at once; the next ones take the next step.
const KEYS_MAX: usize = 2_000;

impl Evidence {
    /// The runs that have values whose day ended more than so many days ago.
    ///
    /// # Errors
    /// See [`EraseError`].
    pub async fn runs_with_values(&self, tenant: &TenantName, older_than: u32) -> Result<BTreeSet<RunId>, EraseError> {
        let (evidence, tenant, today) = (self.clone(), tenant.clone(), day(self.shared.clock.now()));
        on_a_thread(move || {
            let keys = evidence.shared.keyring.tenant(&tenant)?;
            let found =
                keys.data.select(&mut |key| key.run.is_some() && key.day().saturating_add(older_than) < today)?;
            Ok(found.into_iter().filter_map(|key| key.run).collect())
        })
        .await
    }

    /// What is older than the days that its run's values are kept, the oldest first, without the first `skip` keys. A value
    /// counts from the end of its day. What is sealed later has other keys. Says whether there is more than one step has.
    ///
    /// # Errors
    /// [`EraseError::Nothing`] when nothing is due.
    pub async fn prepare_expired(
        &self,
        tenant: &TenantName,
        kept_days: BTreeMap<RunId, u32>,
        skip: usize,
    ) -> Result<(Erasure, bool), EraseError> {
        let (evidence, of, today) = (self.clone(), tenant.clone(), day(self.shared.clock.now()));
        let (plan, more) = on_a_thread(move || {
            let keys = evidence.shared.keyring.tenant(&of)?;
            let mut due = keys.data.select(&mut |key| {
                let kept = key.run.and_then(|run| kept_days.get(&run));
                kept.is_some_and(|kept| key.day().saturating_add(*kept) < today)
            })?;
            due.drain(..skip.min(due.len()));
            let more = due.len() > KEYS_MAX;
            due.truncate(KEYS_MAX);
            if due.is_empty() {
                return Err(EraseError::Nothing);
            }
            Ok((evidence.retired(&keys, |_| Ok(plan_of(due)))?, more))
        })
        .await?;
        Ok((self.settled(tenant, plan).await?, more))
    }
}
