//! The one gate: attribute, authorise, reserve, record, then forward, settle, record.
//!
//! A protocol builds a [`Call`] and gets an [`Admitted`] or a [`Refusal`], both of them already on
//! disk. Upstream clients take `&Admitted<_>`, which only this module can make. An admitted call must
//! be settled; one that is dropped (a panic, a cut connection) is recorded as an unknown outcome and
//! charged in full, because its effect may have happened.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use cogward_budget::{Budgets, Reservation, ReserveError};
use cogward_model::{
    Clock, Timestamp,
    action::{Action, Amounts, Outcome},
    decision::{Refusal, RefusalCode},
    event::{Event, EventType, Field, FieldClass, Value},
    id::EventId,
};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use crate::{fence::Fence, run::RunContext};

/// How long a call waits for one of the run's slots before it is throttled.
const SLOT_WAIT: Duration = Duration::from_secs(2);

/// Where decisions and outcomes are recorded: the evidence of the plane.
pub trait Records: Send + Sync {
    /// Resolves when the event is durable.
    fn record(&self, event: Event) -> Pin<Box<dyn Future<Output = Result<EventId, Unrecorded>> + Send + '_>>;

    /// Takes the event in order behind everything before it; any later durable event implies it.
    ///
    /// # Errors
    /// When the ledger takes no more events.
    fn note(&self, event: Event) -> Result<EventId, Unrecorded>;

    /// Why decisions may not take effect at the moment although events are still taken (the disk is
    /// nearly full), or `None`.
    fn stopped(&self) -> Option<String>;
}

/// The event is not recorded. No effect may follow.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the decision could not be recorded: {0}")]
pub struct Unrecorded(pub String);

/// A typed request for an effect; each protocol has one.
pub trait Governed: Send {
    /// The vocabulary of decisions.
    fn action(&self) -> Action;
}

/// A call before it is decided.
#[derive(Debug)]
pub struct Call<A> {
    /// What is asked for.
    pub target: A,
    /// The most that it may use up.
    pub worst: Amounts,
    /// What the protocol itself holds against it (a broken schema, a refused address). Looked at only
    /// after the fence and the declared scope, so that it reveals nothing of what is not declared.
    pub objection: Option<Refusal>,
    /// More fields of the decision record: digests, commitments of arguments.
    pub fields: Vec<Field>,
}

/// Decides, reserves and records.
pub struct Gate {
    records: Arc<dyn Records>,
    budgets: Arc<Budgets>,
    clock: Arc<dyn Clock>,
    plane: Fence,
}

/// Proof that a call was decided, reserved and durably recorded. Must be settled.
pub struct Admitted<A> {
    target: A,
    action: Action,
    ticket: Ticket,
}

/// The part of an admitted call that settles it, whatever its type.
struct Ticket {
    gate: Arc<dyn Settles>,
    run: Arc<RunContext>,
    decision: EventId,
    kind: EventType,
    reservation: Option<Reservation>,
    admitted: Timestamp,
    _slot: Option<OwnedSemaphorePermit>,
}

/// A reservation whose decision is not yet on disk.
struct Held<'a> {
    budgets: &'a Budgets,
    reservation: Option<Reservation>,
}

impl Held<'_> {
    fn keep(mut self) -> Option<Reservation> {
        self.reservation.take()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            self.budgets.settle(reservation, Amounts::default());
        }
    }
}

trait Settles: Send + Sync {
    fn settle(&self, ticket: &mut Ticket, outcome: &Outcome, fields: Vec<Field>);
}

struct Settlement {
    records: Arc<dyn Records>,
    budgets: Arc<Budgets>,
    clock: Arc<dyn Clock>,
}

impl Gate {
    pub(crate) fn new(records: Arc<dyn Records>, budgets: Arc<Budgets>, clock: Arc<dyn Clock>) -> Self {
        Self { records, budgets, clock, plane: Fence::closed("plane") }
    }

    /// The fence around everything.
    #[must_use]
    pub fn plane_fence(&self) -> &Fence {
        &self.plane
    }

    /// Time, as the gate sees it.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Takes a call through the gate. Waits while the run is suspended. Whatever it answers is recorded.
    ///
    /// # Errors
    /// The refusal, already in the ledger, unless the ledger itself is what fails.
    pub async fn admit<A: Governed>(&self, run: &Arc<RunContext>, call: Call<A>) -> Result<Admitted<A>, Refusal> {
        self.take(run, call, None).await
    }

    /// Takes more for a call that goes on. It is decided, reserved, recorded and settled like a call of its own, and
    /// runs in the slot of the `first`.
    ///
    /// # Errors
    /// As [`Self::admit`].
    pub async fn admit_more<A: Governed>(
        &self,
        run: &Arc<RunContext>,
        first: EventId,
        call: Call<A>,
    ) -> Result<Admitted<A>, Refusal> {
        self.take(run, call, Some(first)).await
    }

    /// Whether a budget of the run limits the bytes that it exchanges with hosts outside.
    #[must_use]
    pub fn limits_egress_bytes(&self, run: &RunContext) -> bool {
        let limited = |scope| self.budgets.balance(scope).limit.is_none_or(|limit| limit.egress_bytes != u64::MAX);
        run.grant.budgets.iter().any(limited)
    }

    async fn take<A: Governed>(
        &self,
        run: &Arc<RunContext>,
        mut call: Call<A>,
        first: Option<EventId>,
    ) -> Result<Admitted<A>, Refusal> {
        let action = call.target.action();
        call.fields.extend(first.map(|first| public("refs", vec![first.to_string()])));
        let decided = self.decide(run, &action, call.worst, call.objection, first.is_none()).await;
        let (reservation, rule, slot) = match decided {
            Ok(permit) => permit,
            Err(refusal) => return Err(self.refuse(run, &action, refusal, call.fields).await),
        };
        let mut event = self
            .decision(run, &action, "permit", rule)
            .public("reserved", amounts(reservation.amounts()))
            .public("budget", reservation.scopes().iter().map(|s| s.as_str().to_owned()).collect::<Vec<_>>());
        event.fields.extend(call.fields);
        // Until the record is durable nothing is forwarded, so whatever ends the wait (an error, an agent
        // that goes away) gives the reservation back.
        let held = Held { budgets: &self.budgets, reservation: Some(reservation) };
        let decision = self.records.record(event).await.map_err(|error| unrecorded(&error))?;
        let reservation = held.keep();
        run.calls_in_flight.fetch_add(1, Ordering::AcqRel);
        if first.is_none() {
            run.counters.admitted(&action);
        }
        let admitted = Admitted {
            ticket: Ticket {
                gate: Arc::new(Settlement {
                    records: Arc::clone(&self.records),
                    budgets: Arc::clone(&self.budgets),
                    clock: Arc::clone(&self.clock),
                }),
                run: Arc::clone(run),
                decision,
                kind: EventType::completed(&action),
                reservation,
                admitted: self.clock.now(),
                _slot: slot,
            },
            target: call.target,
            action,
        };
        // The record took a disk flush: a kill may have come in between, and it must hold.
        if run.fence.state() == crate::FenceState::Closed || self.plane.state() == crate::FenceState::Closed {
            admitted
                .settle(&Outcome::Broken { used: Amounts::default(), cause: "stopped before it was forwarded".into() });
            return Err(Refusal::new(
                RefusalCode::LifecycleFence,
                "lifecycle.run",
                "the run was stopped while the call was being decided",
                "Only an operator can let it act again",
            ));
        }
        Ok(admitted)
    }

    async fn decide(
        &self,
        run: &Arc<RunContext>,
        action: &Action,
        worst: Amounts,
        objection: Option<Refusal>,
        takes_slot: bool,
    ) -> Result<(Reservation, &'static str, Option<OwnedSemaphorePermit>), Refusal> {
        self.plane.pass().await?;
        run.fence.pass().await?;
        if let Some(why) = self.records.stopped() {
            return Err(Refusal::new(
                RefusalCode::EvidenceUnavailable,
                "evidence.durable",
                why,
                "Agents act again when evidence can be written; nothing was lost",
            ));
        }
        let rule = run.grant.permits(action)?;
        if let Some(refusal) = objection {
            return Err(refusal);
        }
        let slot = if takes_slot { Some(slot(run).await?) } else { None };
        // A suspend may have come while the call waited for its slot.
        run.fence.pass().await?;
        let reservation = self.budgets.reserve(&run.grant.budgets, worst).map_err(|error| over_budget(&error))?;
        Ok((reservation, rule, slot))
    }

    /// Records a refusal that a protocol found by itself (a request that names no declared thing at all),
    /// and hands it back. An agent that provokes many waits for them.
    pub async fn refuse(&self, run: &RunContext, action: &Action, refusal: Refusal, fields: Vec<Field>) -> Refusal {
        run.counters.refused();
        tokio::select! {
            biased;
            () = run.cut_signal().cancelled() => {}
            () = tokio::time::sleep_until(run.refusals.next(Instant::now())) => {}
        }
        let mut event = self
            .decision(run, action, "block", &refusal.rule)
            .public("code", refusal.code.as_str())
            .public("reserved", amounts(Amounts::default()));
        event.fields.extend(fields);
        match self.records.record(event).await {
            Ok(_) => refusal,
            Err(error) => unrecorded(&error),
        }
    }

    /// Records what a run is shown, before it is shown.
    ///
    /// # Errors
    /// The refusal when it cannot be recorded.
    pub(crate) async fn record(&self, event: Event) -> Result<(), Refusal> {
        self.records.record(event).await.map(|_| ()).map_err(|error| unrecorded(&error))
    }

    fn decision(&self, run: &RunContext, action: &Action, verdict: &'static str, rule: &str) -> Event {
        let grant = &run.grant;
        let event = Event::new(EventType::decided(action), grant.tenant.clone(), grant.attribution())
            .run(grant.run)
            .public("basis", vec!["gateway"])
            .public("decision", verdict)
            .public("rule", rule)
            .public("policy", grant.version_digest.to_string())
            .public("autonomy", grant.autonomy.as_str())
            .public("tier", grant.tier.as_str());
        match action {
            Action::ToolCall { server, tool } => event.public("tool", format!("{server}/{tool}")),
            Action::ModelCall { provider, model, wire, streaming } => event
                .public("provider", provider.as_str())
                .public("model", bounded(model))
                .public("wire", wire.as_str())
                .public("streaming", *streaming),
            Action::Egress { host, port } => event.public("host", bounded(host)).public("port", u64::from(*port)),
            // A path may name persons and business: committed, not shown.
            Action::Request { host, port, method, path } => event
                .public("host", bounded(host))
                .public("port", u64::from(*port))
                .public("method", bounded(method))
                .confidential("path", bounded(path)),
            // So may the name of a resource.
            Action::ResourceRead { server, uri } => {
                event.public("server", server.as_str()).confidential("uri", bounded(uri))
            }
            Action::PromptGet { server, prompt } => event.public("prompt", format!("{server}/{}", bounded(prompt))),
            Action::Sampling { server } | Action::Elicitation { server } => event.public("server", server.as_str()),
        }
    }
}

impl<A> Admitted<A> {
    /// What was admitted.
    #[must_use]
    pub fn target(&self) -> &A {
        &self.target
    }

    /// The action as it was decided.
    #[must_use]
    pub fn action(&self) -> &Action {
        &self.action
    }

    /// The decision's id in the ledger.
    #[must_use]
    pub fn decision(&self) -> EventId {
        self.ticket.decision
    }

    /// The worst case that is held.
    #[must_use]
    pub fn reserved(&self) -> Amounts {
        self.ticket.reservation.as_ref().map(Reservation::amounts).unwrap_or_default()
    }

    /// The run that it belongs to.
    #[must_use]
    pub fn run(&self) -> &Arc<RunContext> {
        &self.ticket.run
    }

    /// Ends the call: the actual replaces the reservation, the outcome is recorded.
    pub fn settle(self, outcome: &Outcome) {
        self.settle_with(outcome, Vec::new());
    }

    /// Like [`Self::settle`], with more fields of the outcome record.
    pub fn settle_with(mut self, outcome: &Outcome, fields: Vec<Field>) {
        self.ticket.end(outcome, fields);
    }
}

impl Ticket {
    fn end(&mut self, outcome: &Outcome, fields: Vec<Field>) {
        let gate = Arc::clone(&self.gate);
        gate.settle(self, outcome, fields);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(reservation) = &self.reservation {
            let used = reservation.amounts();
            self.end(&Outcome::Broken { used, cause: "broken off before it was settled".into() }, Vec::new());
        }
    }
}

impl Settles for Settlement {
    fn settle(&self, ticket: &mut Ticket, outcome: &Outcome, fields: Vec<Field>) {
        let Some(reservation) = ticket.reservation.take() else { return };
        let (used, estimated, word) = match outcome {
            Outcome::Completed { used, estimated, upstream_error, .. } => {
                (*used, *estimated, if *upstream_error { "error" } else { "ok" })
            }
            Outcome::Broken { used, .. } => (*used, true, "unknown"),
        };
        self.budgets.settle(reservation, used);
        ticket.run.calls_in_flight.fetch_sub(1, Ordering::AcqRel);
        let grant = &ticket.run.grant;
        let mut event = Event::new(ticket.kind, grant.tenant.clone(), grant.attribution())
            .run(grant.run)
            .public("basis", vec!["gateway"])
            .public("refs", vec![ticket.decision.to_string()])
            .public("outcome", word)
            .public("used", amounts(used))
            .public("estimated", estimated)
            .public("latency_us", self.clock.now().micros_since(ticket.admitted));
        match outcome {
            Outcome::Completed { result: Some(digest), .. } => event = event.confidential("result", digest.to_string()),
            Outcome::Completed { result: None, .. } => {}
            Outcome::Broken { cause, .. } => event = event.public("cause", bounded(cause)),
        }
        event.fields.extend(fields);
        // An outcome that the ledger no longer takes stays visible as a decision without one; the
        // ledger has then stopped, and with it every further decision.
        if let Err(error) = self.records.note(event) {
            tracing::error!(run = %grant.run, decision = %ticket.decision, %error, "outcome not recorded");
        }
    }
}

/// One of the slots for calls in flight.
async fn slot(run: &RunContext) -> Result<OwnedSemaphorePermit, Refusal> {
    let slot = tokio::time::timeout(SLOT_WAIT, Arc::clone(&run.calls).acquire_owned()).await;
    if let Ok(Ok(slot)) = slot {
        return Ok(slot);
    }
    let mut refusal = Refusal::new(
        RefusalCode::Throttled,
        "limits.callsInFlight",
        "the run has too many calls in flight",
        "Wait for some of them to end",
    );
    refusal.retry_after = Some(Duration::from_secs(1));
    Err(refusal)
}

/// A field of the customer's business.
#[must_use]
pub fn confidential(name: &'static str, value: impl Into<Value>) -> Field {
    Field { name: name.into(), class: FieldClass::Confidential, value: value.into() }
}

/// A field that everyone may read.
#[must_use]
pub fn public(name: &'static str, value: impl Into<Value>) -> Field {
    Field { name: name.into(), class: FieldClass::Public, value: value.into() }
}

fn amounts(amounts: Amounts) -> Value {
    Value::Map(BTreeMap::from([
        ("connections".to_owned(), amounts.connections.into()),
        ("cost_nano".to_owned(), amounts.cost.nanos().into()),
        ("egress_bytes".to_owned(), amounts.egress_bytes.into()),
        ("tokens".to_owned(), amounts.tokens.into()),
        ("tool_calls".to_owned(), amounts.tool_calls.into()),
    ]))
}

/// What an agent sent is shown in clear only up to a bound, and without control characters.
fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(256).collect()
}

fn over_budget(error: &ReserveError) -> Refusal {
    let rule = match error {
        ReserveError::Exceeded { scope, part, .. } => format!("budgets.{}.{}", scope.kind(), part.field()),
        ReserveError::UnknownScope(scope) => format!("budgets.{}", scope.kind()),
        _ => "budgets".to_owned(),
    };
    Refusal::new(
        RefusalCode::BudgetExceeded,
        rule,
        error.to_string(),
        "Finish with what there is; the agent's owner can register a version with a larger budget",
    )
}

fn unrecorded(error: &Unrecorded) -> Refusal {
    Refusal::new(
        RefusalCode::EvidenceUnavailable,
        "evidence.durable",
        error.to_string(),
        "Nothing was forwarded; an operator must restore the ledger's disk",
    )
}

#[cfg(test)]
mod tests;
