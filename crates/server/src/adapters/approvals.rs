//! Approvals over the store. One transaction finds, makes and uses them, so that two calls never get the same one.
//!
//! The records of approvals are in the tenant's ledger and not in the chain of the run: an approval may be answered
//! while its run ends. They name the run, and the decision that used one names the approval.

use cogward_evidence::Evidence;
use cogward_gateway::approvals::{ApprovalAsk, ApprovalState, Approvals, ApprovalsDown, Asking};
use cogward_identity::Secrets;
use cogward_journal::{Journal, JournalEvent, Severity};
use cogward_model::{
    RunId, SystemClock, SystemEntropy, Timestamp,
    decision::ApprovalRef,
    event::{Attribution, Event, EventType},
    id::{ApprovalId, Id},
};
use cogward_store::{ApprovalRow, ApprovalState as Stored, Store, StoreError, Tx};

/// Approvals of one run that may wait at once: more is no question to a person but a flood.
pub(crate) const RUN_PENDING_MAX: u64 = 32;
/// Approvals of one tenant that may wait at once.
pub(crate) const TENANT_PENDING_MAX: u64 = 1_000;
/// Approvals that one run may ask for altogether.
pub(crate) const RUN_ASKED_MAX: u64 = 1_000;
/// Ended in one step of a sweep.
const SWEPT_AT_ONCE: u32 = 200;

/// The approvals of a plane.
#[derive(Clone)]
pub(crate) struct StoredApprovals {
    pub(crate) store: Store,
    pub(crate) evidence: Evidence,
    pub(crate) journal: Journal,
    pub(crate) secrets: Secrets,
}

/// Why one is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// Its time.
    Time,
    /// Its run has ended.
    RunEnded,
}

impl Over {
    fn as_str(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::RunEnded => "run_ended",
        }
    }
}

/// The name of the sealed arguments.
pub(crate) fn secret_name(id: ApprovalId) -> String {
    format!("approval/{}", id.to_string().to_ascii_lowercase())
}

/// How an agent is told of one.
fn reference(row: &ApprovalRow) -> ApprovalRef {
    ApprovalRef { id: row.id, role: row.role.clone(), expires: row.expires }
}

/// A record about one.
pub(crate) fn event(kind: EventType, row: &ApprovalRow, by: Attribution) -> Event {
    let event = Event::new(kind, row.tenant.clone(), by)
        .public("approval", row.id.to_string())
        .public("of_run", row.run.to_string())
        .public("action", row.action.clone())
        .public("policy_level", row.level.clone())
        .public("role", row.role.clone())
        .confidential("request", row.request.to_string());
    match names_business(&row.object) {
        true => event.confidential("object", row.object.clone()),
        false => event.public("object", row.object.clone()),
    }
}

/// Whether what an action is on says more than which tool, model or host: the path of a request and the address of a
/// resource name persons and business.
fn names_business(object: &str) -> bool {
    object.contains(' ') || object.contains("://")
}

/// Whoever watches the plane.
pub(crate) fn told(kind: &'static str, row: &ApprovalRow) -> JournalEvent {
    // The journal is kept in clear, and read by whoever watches the plane.
    let object = Some(&row.object).filter(|object| !names_business(object));
    let detail = serde_json::json!({
        "approval": row.id, "agent": row.agent, "action": row.action, "object": object, "role": row.role,
        "expires": row.expires,
    });
    JournalEvent::run(kind, row.tenant.clone(), row.run).detail(detail)
}

fn by_plane(kind: EventType, row: &ApprovalRow) -> Event {
    event(kind, row, Attribution::plane()).public("basis", vec!["plane"])
}

fn agent_of(row: &ApprovalRow) -> Attribution {
    Attribution { agent: Some((row.agent.clone(), row.version.clone())), subject: row.subject.clone() }
}

/// What is kept for the person who reads it: the beginning, cut at a letter.
fn preview(arguments: &[u8]) -> Option<String> {
    let cut = arguments.get(..cogward_api::types::approvals::PREVIEW_BYTES_MAX).unwrap_or(arguments);
    let text = String::from_utf8_lossy(cut);
    let whole = text.trim_end_matches('\u{fffd}');
    (!whole.is_empty()).then(|| whole.to_owned())
}

/// What a transaction leaves to be told once it is committed.
#[derive(Default)]
struct Changes {
    events: Vec<Event>,
    notices: Vec<JournalEvent>,
}

/// Why an answer cannot be given.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Sealed(#[from] cogward_identity::SecretError),
    #[error("the record of it cannot be written: {0}")]
    Record(String),
}

impl StoredApprovals {
    async fn publish(&self, tx: Tx, changes: Changes) -> Result<(), AskError> {
        let committed = tx.commit(changes.events).await?;
        let published = self.evidence.publish(&self.store, committed).await;
        published.map_err(|error| AskError::Record(error.to_string()))?;
        for notice in changes.notices {
            self.journal.publish(notice);
        }
        Ok(())
    }

    async fn expire(&self, tx: &mut Tx, row: &ApprovalRow, why: Over, to: &mut Changes) -> Result<bool, AskError> {
        if !tx.approval_expire(row.id).await? {
            return Ok(false);
        }
        self.secrets.delete(tx, &secret_name(row.id)).await?;
        to.events.push(
            by_plane(EventType::ApprovalExpired, row).public("was", row.state.as_str()).public("why", why.as_str()),
        );
        to.notices.push(told("approval.expired", row));
        Ok(true)
    }

    async fn request(&self, tx: &mut Tx, ask: &ApprovalAsk, to: &mut Changes) -> Result<ApprovalRow, AskError> {
        let at = tx.now();
        let until = at.unix_micros().saturating_add(u64::try_from(ask.expires.as_micros()).unwrap_or(u64::MAX));
        let row = ApprovalRow {
            id: Id::new(&SystemClock, &SystemEntropy),
            tenant: ask.tenant.clone(),
            run: ask.run,
            agent: ask.agent.clone(),
            version: ask.version.clone(),
            subject: ask.subject.clone(),
            request: ask.request,
            action: ask.action.noun().to_owned(),
            object: ask.action.object(),
            arguments_bytes: ask.arguments.as_ref().map(|bytes| bytes.len() as u64),
            level: ask.level.clone(),
            rules: ask.rules.clone(),
            policy: ask.policy.clone(),
            role: ask.role.clone(),
            four_eyes: ask.four_eyes,
            reason: ask.reason.clone(),
            state: Stored::Pending,
            requested: at,
            expires: Timestamp::from_unix_micros(until),
            decided: None,
            consumed: None,
        };
        tx.approval_insert(&row).await?;
        if let Some(text) = ask.arguments.as_deref().and_then(preview) {
            self.secrets.put(tx, &secret_name(row.id), text.as_bytes()).await?;
        }
        let event = event(EventType::ApprovalRequested, &row, agent_of(&row))
            .public("basis", vec!["gateway"])
            .public("policy", row.policy.clone())
            .public("policy_rules", row.rules.clone())
            .public("four_eyes", row.four_eyes)
            .public("expires", row.expires.to_string());
        to.events.push(event);
        to.notices.push(told("approval.requested", &row).severity(Severity::Warning));
        Ok(row)
    }

    async fn answer(&self, asks: &[ApprovalAsk]) -> Result<ApprovalState, AskError> {
        let mut tx = self.store.begin().await?;
        let (now, mut changes) = (tx.now(), Changes::default());
        let mut found = Vec::with_capacity(asks.len());
        for ask in asks {
            let mut row = tx.approval_for(ask.run, ask.request, &ask.role, ask.four_eyes).await?;
            if let Some(open) = row.as_mut()
                && matches!(open.state, Stored::Pending | Stored::Approved)
                && open.expires <= now
                && self.expire(&mut tx, open, Over::Time, &mut changes).await?
            {
                open.state = Stored::Expired;
            }
            found.push((ask, row));
        }
        let rows = || found.iter().filter_map(|(_, row)| row.as_ref());
        if let Some(awaited) = asks.iter().find_map(|ask| ask.awaits).filter(|id| !rows().any(|row| row.id == *id)) {
            self.publish(tx, changes).await?;
            return Ok(ApprovalState::Gone(awaited));
        }
        if let Some(denied) = rows().find(|row| row.state == Stored::Denied) {
            let answer = ApprovalState::Denied(reference(denied));
            self.publish(tx, changes).await?;
            return Ok(answer);
        }
        if let Some(expired) = rows().find(|row| row.state == Stored::Expired) {
            // Told once: whoever calls again asks anew.
            tx.approval_told(expired.id).await?;
            let answer = ApprovalState::Expired(reference(expired));
            self.publish(tx, changes).await?;
            return Ok(answer);
        }
        if let Some(full) = self.full(&mut tx, &found).await? {
            return Ok(full);
        }
        let mut waiting = None;
        for (ask, row) in &found {
            let row = match row {
                Some(row) if row.state == Stored::Approved => continue,
                Some(row) => reference(row),
                None => reference(&self.request(&mut tx, ask, &mut changes).await?),
            };
            waiting.get_or_insert(row);
        }
        if let Some(waiting) = waiting {
            self.publish(tx, changes).await?;
            return Ok(ApprovalState::Pending(waiting));
        }
        let mut used = Vec::with_capacity(found.len());
        for row in found.iter().filter_map(|(_, row)| row.as_ref()) {
            if !tx.approval_consume(row.id, now).await? {
                return Err(AskError::Record(format!("`{}` is not approved any more", row.id)));
            }
            self.secrets.delete(&mut tx, &secret_name(row.id)).await?;
            let by = row.decided.as_ref().map(|d| d.id.to_string());
            let event = event(EventType::ApprovalConsumed, row, agent_of(row));
            changes.events.push(event.public("basis", vec!["gateway", "operator"]).public("operator", by));
            changes.notices.push(told("approval.consumed", row));
            used.push(reference(row));
        }
        self.publish(tx, changes).await?;
        Ok(ApprovalState::Approved(used))
    }

    /// Whether a new question would be one too many.
    async fn full(
        &self,
        tx: &mut Tx,
        found: &[(&ApprovalAsk, Option<ApprovalRow>)],
    ) -> Result<Option<ApprovalState>, AskError> {
        let new = found.iter().filter(|(_, row)| row.is_none()).count() as u64;
        let Some((ask, _)) = found.first().filter(|_| new > 0) else { return Ok(None) };
        let (of_run, of_tenant) = tx.approvals_waiting(&ask.tenant, ask.run).await?;
        let asked = tx.approvals_asked(ask.run).await?;
        let told = if of_run + new > RUN_PENDING_MAX {
            format!("{of_run} calls of this run wait for a person already; the most is {RUN_PENDING_MAX}")
        } else if of_tenant + new > TENANT_PENDING_MAX {
            format!("{of_tenant} calls of this tenant wait for a person already; the most is {TENANT_PENDING_MAX}")
        } else if asked + new > RUN_ASKED_MAX {
            format!("this run has asked for {asked} approvals; the most is {RUN_ASKED_MAX}")
        } else {
            return Ok(None);
        };
        Ok(Some(ApprovalState::TooMany(told)))
    }

    async fn end(&self, rows: Vec<ApprovalRow>, now: Timestamp) -> Result<usize, AskError> {
        if rows.is_empty() {
            return Ok(0);
        }
        let mut tx = self.store.begin().await?;
        let (mut ended, mut changes) = (0, Changes::default());
        for row in rows {
            let why = if row.expires <= now { Over::Time } else { Over::RunEnded };
            ended += usize::from(self.expire(&mut tx, &row, why, &mut changes).await?);
        }
        self.publish(tx, changes).await?;
        Ok(ended)
    }

    /// Ends those whose time is over or whose run has ended. They are also looked at when they are asked about; this is
    /// for those that nobody asks about any more.
    pub(crate) async fn sweep(&self, now: Timestamp) {
        loop {
            let swept = async {
                let over = self.store.approvals_over(now, SWEPT_AT_ONCE).await?;
                let all = over.len() < SWEPT_AT_ONCE as usize;
                self.end(over, now).await.map(|ended| all || ended == 0)
            };
            match swept.await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "approvals that are over are not ended yet");
                    return;
                }
            }
        }
    }

    /// Ends what a run still waited for. What fails is done by the next sweep.
    pub(crate) async fn run_ended(&self, run: RunId) {
        let ended = async {
            let open = self.store.approvals_open(run).await?;
            self.end(open, Timestamp::from_unix_micros(0)).await
        };
        if let Err(error) = ended.await {
            tracing::warn!(%run, %error, "the approvals of a run that ended are not ended yet");
        }
    }

    /// Ends one that somebody answered too late.
    pub(crate) async fn expire_late(&self, row: &ApprovalRow) {
        if let Err(error) = self.end(vec![row.clone()], row.expires).await {
            tracing::warn!(approval = %row.id, %error, "an approval that is over is not ended yet");
        }
    }

    async fn stand_again(&self, approvals: &[ApprovalRef]) -> Result<(), AskError> {
        let mut rows = Vec::with_capacity(approvals.len());
        for approval in approvals {
            rows.extend(self.store.approval_of_any(approval.id).await?);
        }
        let mut tx = self.store.begin().await?;
        let (now, mut changes) = (tx.now(), Changes::default());
        for row in rows.iter().filter(|row| row.expires > now) {
            if tx.approval_give_back(row).await? {
                changes.events.push(by_plane(EventType::ApprovalReturned, row));
                changes.notices.push(told("approval.returned", row));
            }
        }
        self.publish(tx, changes).await
    }
}

impl Approvals for StoredApprovals {
    fn ask<'a>(&'a self, asks: &'a [ApprovalAsk]) -> Asking<'a> {
        Box::pin(async move {
            self.answer(asks).await.map_err(|error| {
                tracing::error!(cause = %cogward_engine::ports::PortError::from_error(&error), "approvals");
                ApprovalsDown("the plane cannot keep them now".to_owned())
            })
        })
    }

    fn give_back(&self, approvals: &[ApprovalRef]) {
        let (own, approvals) = (self.clone(), approvals.to_vec());
        tokio::spawn(async move {
            if let Err(error) = own.stand_again(&approvals).await {
                tracing::warn!(%error, "an approval that was not used stays used");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use cogward_model::action::Action;

    use super::*;

    fn row(action: &Action) -> ApprovalRow {
        ApprovalRow {
            four_eyes: false,
            id: Id::new(&SystemClock, &SystemEntropy),
            tenant: cogward_model::TenantName::default_tenant(),
            run: Id::new(&SystemClock, &SystemEntropy),
            agent: "clerk".parse().unwrap(),
            version: "1".parse().unwrap(),
            subject: None,
            request: cogward_model::Digest::from_bytes([7; 32]),
            action: action.noun().to_owned(),
            object: action.object(),
            arguments_bytes: None,
            level: "plane".to_owned(),
            rules: vec![],
            policy: vec![],
            role: "boss".to_owned(),
            reason: None,
            state: Stored::Pending,
            requested: Timestamp::from_unix_micros(1),
            expires: Timestamp::from_unix_micros(2),
            decided: None,
            consumed: None,
        }
    }

    #[test]
    fn the_journal_says_nothing_of_the_business_that_an_approval_is_about() {
        let host = || "api.example.com".to_owned();
        for action in [
            Action::Request { host: host(), port: 443, method: "GET".into(), path: "/customers/lovelace".into() },
            Action::ResourceRead { server: "files".parse().unwrap(), uri: "file:///customers/lovelace".into() },
        ] {
            let told = told("approval.requested", &row(&action));
            assert!(!format!("{told:?}").contains("lovelace"), "{told:?}");
        }
        let tool = Action::ToolCall { server: "bank".parse().unwrap(), tool: "transfer".parse().unwrap() };
        assert!(format!("{:?}", told("approval.requested", &row(&tool))).contains("bank/transfer"));
        let connection = Action::Egress { host: host(), port: 443 };
        assert!(format!("{:?}", told("approval.requested", &row(&connection))).contains("api.example.com:443"));
    }
}
