//! A call that was let through, until it is settled.

use std::sync::{Arc, atomic::Ordering};

use cogward_budget::{Budgets, Reservation};
use cogward_model::{
    Clock, Digest, Timestamp,
    action::{Action, Amounts, Outcome},
    event::{Event, EventType, Field},
    id::EventId,
};
use cogward_policy::Obligation;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    First, Records,
    record::{amounts, bounded},
};
use crate::{
    policy::{self, Added, Ended, Policies},
    run::RunContext,
};

/// Proof that a call was decided, reserved and durably recorded. Must be settled.
pub struct Admitted<A> {
    pub(super) target: A,
    pub(super) action: Action,
    pub(super) redacted: Vec<Obligation>,
    pub(super) approved: Option<Digest>,
    pub(super) ticket: Ticket,
}

/// The part of an admitted call that settles it, whatever its type.
pub(super) struct Ticket {
    pub(super) gate: Arc<Settlement>,
    pub(super) run: Arc<RunContext>,
    pub(super) decision: EventId,
    pub(super) kind: EventType,
    pub(super) reservation: Option<Reservation>,
    pub(super) admitted: Timestamp,
    pub(super) added: Added,
    /// Held, and given back with it.
    pub(super) slot: Option<OwnedSemaphorePermit>,
}

/// What settling needs of the gate.
pub(super) struct Settlement {
    pub(super) records: Arc<dyn Records>,
    pub(super) budgets: Arc<Budgets>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) policies: Arc<Policies>,
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

    /// What more for it refers to.
    #[must_use]
    pub fn first(&self) -> First {
        First { decision: self.ticket.decision, approved: self.approved }
    }

    /// Whether policy takes parts out of the answer: then the agent may see nothing of it but what
    /// [`Self::redact`] gave.
    #[must_use]
    pub fn redacts(&self) -> bool {
        !self.redacted.is_empty()
    }

    /// The answer (of a tool, in JSON) without what policy takes out of it; `None` when it is to be given as it is.
    ///
    /// # Errors
    /// Nothing of the answer may be given to the agent.
    pub fn redact(&self, answer: &[u8]) -> Result<Option<String>, policy::Withheld> {
        policy::redacted(answer, &self.redacted)
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

impl Settlement {
    fn settle(&self, ticket: &mut Ticket, outcome: &Outcome, fields: Vec<Field>) {
        let Some(reservation) = ticket.reservation.take() else { return };
        let (used, estimated, word, ended) = match outcome {
            Outcome::Completed { used, estimated, upstream_error: true, .. } => {
                (*used, *estimated, "error", Ended::Otherwise)
            }
            Outcome::Completed { used, estimated, .. } => (*used, *estimated, "ok", Ended::Well),
            // Nothing is charged for what certainly was not carried out, and nothing else; of what costs nothing (a
            // question of a tool server) that cannot be told.
            Outcome::Broken { used, .. }
                if *used == Amounts::default() && reservation.amounts() != Amounts::default() =>
            {
                (*used, true, "unknown", Ended::WithoutEffect)
            }
            Outcome::Broken { used, .. } => (*used, true, "unknown", Ended::Otherwise),
        };
        let now = self.clock.now();
        self.budgets.settle(reservation, used);
        self.policies.history().ended(&ticket.run.who, &ticket.added, ended, now);
        ticket.run.calls_in_flight.fetch_sub(1, Ordering::AcqRel);
        let grant = &ticket.run.grant;
        let mut event = Event::new(ticket.kind, grant.tenant.clone(), grant.attribution())
            .run(grant.run)
            .public("basis", vec!["gateway"])
            .public("refs", vec![ticket.decision.to_string()])
            .public("outcome", word)
            .public("used", amounts(used))
            .public("estimated", estimated)
            .public("latency_us", now.micros_since(ticket.admitted));
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
