//! The one gate: attribute, authorise, ask policy, reserve, record, then forward, settle, record.
//!
//! A protocol builds a [`Call`] and gets an [`Admitted`] or a [`Refusal`], both of them already on
//! disk. Upstream clients take `&Admitted<_>`, which only this module can make. An admitted call must
//! be settled; one that is dropped (a panic, a cut connection) is recorded as an unknown outcome and
//! charged in full, because its effect may have happened.

mod admitted;
mod record;

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use cogward_budget::{Budgets, Reservation, ReserveError};
use cogward_model::{
    Clock, Digest, Timestamp,
    action::{Action, Amounts, Outcome},
    decision::{Refusal, RefusalCode},
    event::{Event, EventType, Field},
    id::{ApprovalId, EventId},
};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

pub use self::{
    admitted::Admitted,
    record::{confidential, public},
};
use self::{
    admitted::{Settlement, Ticket},
    record::{amounts, decision},
};
use crate::{
    fence::{Fence, FenceState},
    policy::{Adds, Cleared, Content, InHand, Judgement, Policies, Question},
    run::RunContext,
};

/// How long a call waits for one of the run's slots before it is throttled.
const SLOT_WAIT: Duration = Duration::from_secs(2);
/// How often one call asks for approvals: policies may change in between, but not for ever.
const ASKS_MAX: usize = 3;
/// How often it is looked again at what one call rests on: that may change while the call waits, but not for ever.
const RENEWALS_MAX: usize = 4;

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

/// A second look at what a call rests on. The refusal says why it does not any more.
pub type Renewal<'a> = Pin<Box<dyn Future<Output = Result<(), Refusal>> + Send + 'a>>;

/// A typed request for an effect; each protocol has one.
pub trait Governed: Send {
    /// The vocabulary of decisions.
    fn action(&self) -> Action;

    /// What would be forwarded, as far as it is known now.
    fn content(&self) -> Content<'_> {
        Content::default()
    }

    /// Takes what policy made of the arguments. What is forwarded is this.
    fn set_arguments(&mut self, _arguments: Bytes) {}

    /// Looks again at what the call was examined against (the definition of a tool), where that may have changed while
    /// the call waited. Asked after every wait, before what is decided. `None` when all of it still holds.
    fn renew<'a>(&'a mut self, _run: &'a RunContext) -> Option<Renewal<'a>> {
        None
    }

    /// The last look, when the call has been decided and is about to be forwarded: now nothing may be changed any more,
    /// what it rests on is the same or the call is not forwarded. `None` when it certainly is the same.
    fn stands<'a>(&'a self, _run: &'a RunContext) -> Option<Renewal<'a>> {
        None
    }

    /// The approval that the call waits for, where its client says so: with another one it does not take place.
    fn awaits(&self) -> Option<ApprovalId> {
        None
    }

    /// What the record says of the arguments as they are now.
    fn fields(&self, _run: &RunContext) -> Vec<Field> {
        Vec::new()
    }
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

/// The admitted call that another one goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct First {
    /// Its decision.
    pub decision: EventId,
    /// What a person approved with it: the action, and who had to say yes.
    pub approved: Option<Digest>,
}

/// Decides, reserves and records.
pub struct Gate {
    records: Arc<dyn Records>,
    budgets: Arc<Budgets>,
    clock: Arc<dyn Clock>,
    policies: Arc<Policies>,
    settlement: Arc<Settlement>,
    plane: Fence,
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

/// Everything that a permit consists of before it is recorded.
struct Permit {
    reservation: Reservation,
    rule: &'static str,
    slot: Option<OwnedSemaphorePermit>,
    cleared: Cleared,
    in_hand: InHand,
}

/// A refusal with what the policies said, for the record.
struct Refused {
    refusal: Refusal,
    fields: Vec<Field>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, fields: Vec::new() }
    }
}

impl Gate {
    pub(crate) fn new(records: Arc<dyn Records>, budgets: Arc<Budgets>, clock: Arc<dyn Clock>) -> Self {
        let policies = Arc::new(Policies::default());
        let settlement = Arc::new(Settlement {
            records: Arc::clone(&records),
            budgets: Arc::clone(&budgets),
            clock: Arc::clone(&clock),
            policies: Arc::clone(&policies),
        });
        Self { records, budgets, clock, policies, settlement, plane: Fence::closed("plane") }
    }

    /// The fence around everything.
    #[must_use]
    pub fn plane_fence(&self) -> &Fence {
        &self.plane
    }

    /// What the policies say, and what they look back on.
    #[must_use]
    pub fn policies(&self) -> &Policies {
        &self.policies
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
    /// runs in the slot of the `first`. It adds nothing to what policies count, unless it is an action of its own, and
    /// needs no approval where the first was approved: the same action, by everybody who would have to approve it.
    ///
    /// # Errors
    /// As [`Self::admit`].
    pub async fn admit_more<A: Governed>(
        &self,
        run: &Arc<RunContext>,
        first: First,
        call: Call<A>,
    ) -> Result<Admitted<A>, Refusal> {
        self.take(run, call, Some(first)).await
    }

    /// Like [`Self::admit_more`], for a request of its own about a call whose own request is over. It takes its turn
    /// and a slot.
    ///
    /// # Errors
    /// As [`Self::admit`].
    pub(crate) async fn admit_later<A: Governed>(
        &self,
        run: &Arc<RunContext>,
        first: First,
        call: Call<A>,
    ) -> Result<Admitted<A>, Refusal> {
        tokio::select! {
            biased;
            () = run.cut_signal().cancelled() => {}
            () = tokio::time::sleep_until(run.asked_again.next(Instant::now())) => {}
        }
        let slot = match slot(run).await {
            Ok(slot) => slot,
            Err(refusal) => return Err(self.refuse(run, &call.target.action(), refusal, call.fields).await),
        };
        let mut admitted = self.take(run, call, Some(first)).await?;
        admitted.ticket.slot = Some(slot);
        Ok(admitted)
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
        first: Option<First>,
    ) -> Result<Admitted<A>, Refusal> {
        let action = call.target.action();
        call.fields.extend(first.map(|first| public("refs", vec![first.decision.to_string()])));
        let permit = match self.decide(run, &action, &mut call, first).await {
            Ok(permit) => permit,
            Err(Refused { refusal, fields }) => {
                call.fields.extend(call.target.fields(run));
                call.fields.extend(fields);
                return Err(self.refuse(run, &action, refusal, call.fields).await);
            }
        };
        let Permit { reservation, rule, slot, mut cleared, in_hand } = permit;
        if let Some(arguments) = cleared.arguments.take() {
            call.target.set_arguments(arguments);
        }
        let mut event = decision(run, &action, "permit", rule)
            .public("reserved", amounts(reservation.amounts()))
            .public("budget", reservation.scopes().iter().map(|s| s.as_str().to_owned()).collect::<Vec<_>>());
        event.fields.extend(call.fields);
        event.fields.extend(call.target.fields(run));
        event.fields.append(&mut cleared.fields);
        event.fields.extend(cleared.lasting());
        event.fields.extend(in_hand.field());
        // Until the record is durable nothing is forwarded, so whatever ends the wait (an error, an agent
        // that goes away) gives the reservation back, and what the call added to counts. An approval stays
        // used: the record may be there, and a second one must not name it.
        let held = Held { budgets: &self.budgets, reservation: Some(reservation) };
        in_hand.used();
        let decision = self.records.record(event).await.map_err(|error| unrecorded(&error))?;
        let reservation = held.keep();
        run.calls_in_flight.fetch_add(1, Ordering::AcqRel);
        if first.is_none() {
            run.counters.admitted(&action);
        }
        let approved = cleared.approved;
        let (added, redacted) = cleared.keep(&self.policies, run);
        let admitted = Admitted {
            ticket: Ticket {
                gate: Arc::clone(&self.settlement),
                run: Arc::clone(run),
                decision,
                kind: EventType::completed(&action),
                reservation,
                admitted: self.clock.now(),
                added,
                slot,
            },
            target: call.target,
            redacted,
            approved,
            action,
        };
        // The record took a disk flush: a kill may have come in between, and it must hold.
        if run.fence.state() == FenceState::Closed || self.plane.state() == FenceState::Closed {
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

    async fn decide<A: Governed>(
        &self,
        run: &Arc<RunContext>,
        action: &Action,
        call: &mut Call<A>,
        first: Option<First>,
    ) -> Result<Permit, Refused> {
        self.plane.pass().await?;
        run.fence.pass().await?;
        if let Some(why) = self.records.stopped() {
            return Err(Refused::from(Refusal::new(
                RefusalCode::EvidenceUnavailable,
                "evidence.durable",
                why,
                "Agents act again when evidence can be written; nothing was lost",
            )));
        }
        let rule = run.grant.permits(action)?;
        if let Some(refusal) = call.objection.take() {
            return Err(refusal.into());
        }
        let slot = if first.is_none() { Some(slot(run).await?) } else { None };
        let mut in_hand = InHand::default();
        for _ in 0..=ASKS_MAX {
            // A suspend or a kill may have come while the call waited for its slot or for an approval.
            self.pass(run, &mut call.target).await?;
            // From here to the reservation nothing waits: what is decided is how things are.
            let asked = Asked::of(action, &call.target, call.worst, first);
            match self.judge(run, &asked, &in_hand, Adds::WhenPermitted) {
                Judgement::Permit(cleared) => match self.budgets.reserve(&run.grant.budgets, call.worst) {
                    Ok(reservation) => return Ok(Permit { reservation, rule, slot, cleared: *cleared, in_hand }),
                    Err(error) => return Err(Refused { refusal: over_budget(&error), fields: cleared.fields }),
                },
                Judgement::Block { refusal, fields } => return Err(Refused { refusal, fields }),
                Judgement::Escalate { asks, fields } => {
                    // What was approved before is not what is asked for now.
                    in_hand = InHand::default();
                    let asking = self.policies.approve(&asks);
                    let answer = tokio::select! {
                        biased;
                        () = run.cut_signal().cancelled() => continue,
                        answer = asking => answer,
                    };
                    in_hand = answer.map_err(|refusal| Refused { refusal, fields })?;
                }
            }
        }
        let detail = "the policies changed again and again while the call was being decided";
        let refusal = Refusal::new(RefusalCode::Throttled, "policy.changing", detail, "Make the call again");
        Err(refusal.into())
    }

    /// Waits until the run may act, and what the call rests on is known as it is then.
    async fn pass<A: Governed>(&self, run: &RunContext, target: &mut A) -> Result<(), Refusal> {
        for _ in 0..=RENEWALS_MAX {
            self.plane.pass().await?;
            run.fence.pass().await?;
            let Some(renewal) = target.renew(run) else { return Ok(()) };
            tokio::select! {
                biased;
                () = run.cut_signal().cancelled() => {}
                renewed = renewal => renewed?,
            }
        }
        let detail = "what the call is made of changed again and again while it was being decided";
        Err(Refusal::new(RefusalCode::Throttled, "tool.pin", detail, "Make the call again"))
    }

    fn judge(&self, run: &RunContext, asked: &Asked<'_>, in_hand: &InHand, adds: Adds) -> Judgement {
        let left = || self.left(run);
        let Asked { action, content, worst, first, awaits } = *asked;
        let now = self.clock.now();
        let question = Question { run, action, content, worst, first, awaits, left: &left, now, adds };
        self.policies.judge(&question, in_hand)
    }

    /// Whether policy blocks what is asked, as things are: it need not be prepared then. It is decided for good, and
    /// recorded, when it is admitted.
    pub(crate) fn would_block<A: Governed>(&self, run: &RunContext, target: &A) -> bool {
        let action = target.action();
        let asked = Asked::of(&action, target, Amounts::default(), None);
        matches!(self.judge(run, &asked, &InHand::default(), Adds::Nothing), Judgement::Block { .. })
    }

    /// What is left of the budgets of a run: the least of each part over all of them.
    fn left(&self, run: &RunContext) -> Amounts {
        let most = Amounts {
            tokens: u64::MAX,
            cost: cogward_model::NanoUsd::MAX,
            tool_calls: u64::MAX,
            connections: u64::MAX,
            egress_bytes: u64::MAX,
        };
        run.grant.budgets.iter().fold(most, |least, scope| {
            let balance = self.budgets.balance(scope);
            let left = balance.limit.unwrap_or_default().saturating_sub(balance.used.saturating_add(balance.held));
            Amounts {
                tokens: least.tokens.min(left.tokens),
                cost: least.cost.min(left.cost),
                tool_calls: least.tool_calls.min(left.tool_calls),
                connections: least.connections.min(left.connections),
                egress_bytes: least.egress_bytes.min(left.egress_bytes),
            }
        })
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
        let word = if refusal.code == RefusalCode::ApprovalRequired { "escalate" } else { "block" };
        let mut event = decision(run, action, word, &refusal.rule)
            .public("code", refusal.code.as_str())
            .public("reserved", amounts(Amounts::default()));
        event.fields.extend(refusal.approval.iter().map(|approval| public("approval", vec![approval.id.to_string()])));
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
}

/// What is asked for, whatever its type.
#[derive(Clone, Copy)]
struct Asked<'a> {
    action: &'a Action,
    content: Content<'a>,
    worst: Amounts,
    first: Option<First>,
    awaits: Option<ApprovalId>,
}

impl<'a> Asked<'a> {
    fn of<A: Governed>(action: &'a Action, target: &'a A, worst: Amounts, first: Option<First>) -> Self {
        Self { action, content: target.content(), worst, first, awaits: target.awaits() }
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
