//! The history as a text, so that a start need not read all records again.
//!
//! Users are not named in it: for each there is what the name can be read from again, which the caller gives and
//! opens. Whose name does not open any more has no counts any more, as after a start that reads all records.

use std::{collections::HashMap, sync::Arc, time::Duration};

use cogward_model::{AgentName, RunId, TenantName, Timestamp, id::EventId};
use cogward_policy::Tracker as Declared;
use serde::{Deserialize, Serialize};

use super::{
    active::tracker,
    history::{Added, History, Kept, Mark, Tenant, Tracker, Who, Whose},
    restore::{Open, Restoring},
    window::Sum,
};

/// A call that has not ended after so long will not be told to have ended.
pub const OPEN_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// What was counted and read up to some record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryImage {
    tenants: Vec<TenantImage>,
    open: Vec<OpenImage>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TenantImage {
    name: TenantName,
    now: u64,
    unknown: bool,
    kept: Vec<KeptImage>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptImage {
    whose: WhoseImage,
    labels: Vec<String>,
    sums: Vec<SumImage>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WhoseImage {
    Run(RunId),
    /// What the name can be read from.
    User(Arc<str>),
    Agent(AgentName),
    Tenant,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SumImage {
    key: String,
    total: i128,
    buckets: Vec<(u64, i128)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenImage {
    decision: EventId,
    tenant: TenantName,
    run: RunId,
    user: Option<Arc<str>>,
    agent: AgentName,
    time: Timestamp,
    /// Whose, of which tracker, how much, in which bucket.
    added: Vec<(WhoseImage, String, i64, u64)>,
}

/// The text is not one that this plane wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what was carried of the history is not understood")]
pub struct NotUnderstood;

/// Opens what a user's name can be read from.
pub type Names<'a> = &'a mut dyn FnMut(&TenantName, &str) -> Option<String>;

impl Restoring<'_> {
    /// What is known now, of runs that live and of calls that may still end.
    #[must_use]
    pub fn image(&self, lives: &dyn Fn(RunId) -> bool, now: Timestamp) -> HistoryImage {
        let mut tenants: Vec<_> = self.history.each(|name, tenant| {
            let kept = tenant.kept.iter().filter_map(|(whose, kept)| {
                let whose = self.whose(name, whose, lives)?;
                let sum = |(key, sum): (&Arc<str>, &Sum)| {
                    let (total, buckets) = sum.parts();
                    SumImage { key: key.to_string(), total, buckets: buckets.collect() }
                };
                let labels = kept.labels.iter().cloned().collect();
                Some(KeptImage { whose, labels, sums: kept.sums.iter().map(sum).collect() })
            });
            TenantImage { name: name.clone(), now: tenant.now, unknown: tenant.unknown, kept: kept.collect() }
        });
        tenants.sort_by(|a, b| a.name.cmp(&b.name));
        let late = now.unix_millis().saturating_sub(OPEN_FOR.as_millis().try_into().unwrap_or(u64::MAX));
        let open = self.open.iter().filter(|(_, open)| lives(open.who.run) || open.time.unix_millis() >= late);
        let open = open.map(|(decision, Open { who, added, time })| OpenImage {
            decision: *decision,
            tenant: who.tenant.clone(),
            run: who.run,
            user: who.user.as_ref().and_then(|user| self.name(&who.tenant, user)),
            agent: who.agent.clone(),
            time: *time,
            added: added
                .0
                .iter()
                .filter_map(|mark| {
                    let whose = self.whose(&who.tenant, &mark.whose, lives)?;
                    Some((whose, mark.tracker.key.to_string(), mark.amount, mark.bucket))
                })
                .collect(),
        });
        HistoryImage { tenants, open: open.collect() }
    }

    fn name(&self, tenant: &TenantName, user: &Arc<str>) -> Option<Arc<str>> {
        self.names.get(&(tenant.clone(), Arc::clone(user))).cloned()
    }

    fn whose(&self, tenant: &TenantName, whose: &Whose, lives: &dyn Fn(RunId) -> bool) -> Option<WhoseImage> {
        match whose {
            Whose::Run(run) => lives(*run).then_some(WhoseImage::Run(*run)),
            Whose::User(user) => self.name(tenant, user).map(WhoseImage::User),
            Whose::Agent(agent) => Some(WhoseImage::Agent(agent.clone())),
            Whose::Tenant => Some(WhoseImage::Tenant),
        }
    }
}

impl History {
    /// Goes on where an image was made. The history must be empty.
    ///
    /// # Errors
    /// [`NotUnderstood`]; what is in the history by then must not be used.
    pub fn resuming(
        &self,
        image: HistoryImage,
        lives: &dyn Fn(RunId) -> bool,
        names: Names<'_>,
    ) -> Result<Restoring<'_>, NotUnderstood> {
        let mut restoring = self.restoring();
        let mut opened: HashMap<(TenantName, Arc<str>), Option<Arc<str>>> = HashMap::new();
        let mut user = |restoring: &mut Restoring<'_>, tenant: &TenantName, name: Arc<str>| {
            let key = (tenant.clone(), Arc::clone(&name));
            let user = opened.entry(key).or_insert_with(|| names(tenant, &name).map(Arc::from)).clone()?;
            restoring.names.insert((tenant.clone(), Arc::clone(&user)), name);
            Some(user)
        };
        let mut whose = |restoring: &mut Restoring<'_>, tenant: &TenantName, image| match image {
            WhoseImage::Run(run) => lives(run).then_some(Whose::Run(run)),
            WhoseImage::User(name) => user(restoring, tenant, name).map(Whose::User),
            WhoseImage::Agent(agent) => Some(Whose::Agent(agent)),
            WhoseImage::Tenant => Some(Whose::Tenant),
        };
        for TenantImage { name, now, unknown, kept: images } in image.tenants {
            let mut kept = HashMap::with_capacity(images.len());
            for image in images {
                let mut sums = HashMap::with_capacity(image.sums.len());
                for SumImage { key, total, buckets } in image.sums {
                    let tracker = declared(&key)?;
                    let sum = Sum::of_parts(tracker.within, total, buckets).ok_or(NotUnderstood)?;
                    sums.insert(tracker.key, sum);
                }
                if let Some(whose) = whose(&mut restoring, &name, image.whose) {
                    kept.insert(whose, Kept { sums, labels: image.labels.into_iter().collect() });
                }
            }
            let sums = kept.values().map(|kept| kept.sums.len()).sum();
            self.put(name, Tenant { kept, sums, now, unknown });
        }
        for image in image.open {
            let OpenImage { decision, tenant, run, user: name, agent, time, added: images } = image;
            let mut added = Vec::with_capacity(images.len());
            for (image, key, amount, bucket) in images {
                let tracker = declared(&key)?;
                if let Some(whose) = whose(&mut restoring, &tenant, image) {
                    added.push(Mark { whose, tracker, amount, bucket });
                }
            }
            let user = match name.map(|name| whose(&mut restoring, &tenant, WhoseImage::User(name))) {
                Some(Some(Whose::User(user))) => Some(user),
                _ => None,
            };
            let who = Who { tenant, run, user, agent };
            restoring.open.insert(decision, Open { who, added: Added(added), time });
        }
        Ok(restoring)
    }
}

fn declared(key: &str) -> Result<Tracker, NotUnderstood> {
    Ok(tracker(&Declared::parse(&format!("t = {key}")).map_err(|_| NotUnderstood)?))
}

#[cfg(test)]
mod tests;
