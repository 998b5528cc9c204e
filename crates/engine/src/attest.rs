//! The proof of a run: recorded before its agent's first instruction, and looked for again as long as it runs.
//!
//! A sandbox is examined by its supervisor, from outside. What it found in force is the first leaf of the run after its
//! request. On a timer, after a change of policy and when a plane takes a run over it is examined again; a control that
//! is gone ends the run, and so does a supervisor that does not answer, asked three times: what is not proven is not
//! there.

use std::{sync::Arc, time::Duration};

use cogward_journal::Severity;
use cogward_model::{Digest, attestation::Attested, event::Event, run::RunState};
use serde_json::json;

use crate::{
    engine::Engine,
    events,
    live::Live,
    ports::{AttestError, Attestation, PortError, Sandbox},
};

/// The rule of a control that is not in force.
pub(crate) const ATTESTATION: &str = "sandbox.attestation";
/// A look that failed because the run was ending is not held against it; its end follows within this.
const END_MAX: Duration = Duration::from_secs(2);
/// How often a supervisor is asked that does not answer: a host under load answers late, and no run is ended for the
/// load of another one.
const ASKED_MAX: u32 = 3;

/// How often the sandboxes of runs are examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attesting {
    /// Time between two looks at a run.
    pub every: Duration,
    /// Time for a supervisor to answer.
    pub within: Duration,
}

impl Default for Attesting {
    fn default() -> Self {
        Self { every: Duration::from_secs(60), within: Duration::from_secs(10) }
    }
}

/// What a run's attestations are under.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Basis {
    /// The version that runs: its manifest and its package.
    pub(crate) policy: Digest,
    /// The profile that must be in force; of a run outside, the word that says that there is none.
    pub(crate) profile: &'static str,
}

/// Why a sandbox is examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    Launch,
    Timer,
    Policy,
    Adopted,
}

impl Occasion {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Launch => "launch",
            Self::Timer => "timer",
            Self::Policy => "policy",
            Self::Adopted => "adopted",
        }
    }
}

impl Engine {
    /// Examines the sandbox of every run now, as after a change of policy. Answers with how many are in force; those
    /// that are not are ended.
    pub async fn attest_all(&self) -> usize {
        let mut looks = tokio::task::JoinSet::new();
        for live in self.live_all() {
            let engine = self.clone();
            looks.spawn(async move { engine.attest(&live, Occasion::Policy).await });
        }
        let mut held = 0;
        while let Some(look) = looks.join_next().await {
            held += usize::from(look.unwrap_or(false));
        }
        held
    }

    /// The proof that a launch gave.
    ///
    /// # Errors
    /// [`PortError`] names the control that is not proven; the run must not begin.
    pub(crate) fn proven(&self, live: &Live, proof: Option<Attestation>) -> Result<Event, PortError> {
        let found = proof.ok_or_else(|| PortError(format!("{ATTESTATION}: its sandbox gave no proof")))?;
        self.keep(live, &found);
        match gone(&found) {
            None => Ok(events::attested(live, Occasion::Launch, &found, false)),
            Some(gone) => {
                self.note(events::attested(live, Occasion::Launch, &found, false));
                Err(PortError(format!("{ATTESTATION}: {gone}")))
            }
        }
    }

    /// Examines a run's sandbox again and again, until the run or the plane ends.
    pub(crate) fn spawn_attestations(&self, live: &Arc<Live>, adopted: bool) {
        let (engine, live) = (self.clone(), Arc::clone(live));
        tokio::spawn(async move {
            let mut closed = live.closed.subscribe();
            let mut occasion = if adopted { Occasion::Adopted } else { Occasion::Timer };
            if adopted {
                engine.attest(&live, occasion).await;
                occasion = Occasion::Timer;
            }
            loop {
                tokio::select! {
                    () = engine.stopped() => return,
                    _ = closed.wait_for(|closed| *closed) => return,
                    () = tokio::time::sleep(engine.with.attesting.every) => {}
                }
                engine.attest(&live, occasion).await;
            }
        });
    }

    /// One look. False when it ended the run.
    pub(crate) async fn attest(&self, live: &Arc<Live>, occasion: Occasion) -> bool {
        // One at a time: what is unchanged is so since the look before.
        let _turn = live.attesting.lock().await;
        let Some(sandbox) = live.sandbox() else { return true };
        if live.goal.borrow().is_final() || *live.goal.borrow() == RunState::Starting {
            return true;
        }
        let mut answer = tokio::time::timeout(self.with.attesting.within, sandbox.attest()).await;
        for _ in 1..ASKED_MAX {
            if answer.is_ok() || *live.closed.borrow() {
                break;
            }
            tracing::warn!(run = %live.run, "the supervisor has not answered in time and is asked for its proof again");
            answer = tokio::time::timeout(self.with.attesting.within, sandbox.attest()).await;
        }
        let found = match answer {
            Ok(Ok(found)) => found,
            Ok(Err(AttestError::Unsupported)) => {
                tracing::info!(run = %live.run, "the supervisor is of an earlier build and cannot be asked for a proof");
                return true;
            }
            Ok(Err(AttestError::Failed(error))) => return self.unanswered(live, &*sandbox, &error.0).await,
            Err(_) => return self.unanswered(live, &*sandbox, "its supervisor does not answer").await,
        };
        if *live.closed.borrow() {
            return true;
        }
        let last = live.watched(|watched| watched.attested.as_ref().map(|attested| attested.proof));
        let last = last.or_else(|| sandbox.proof().map(|proof| proof.proof));
        let gone = gone(&found);
        let unchanged = gone.is_none() && last == Some(found.proof);
        live.watched(|watched| watched.absorb(&found.violations));
        self.keep(live, &found);
        self.note(events::attested(live, occasion, &found, unchanged));
        match gone {
            None => true,
            Some(gone) => {
                self.end_unproven(live, &gone).await;
                false
            }
        }
    }

    fn keep(&self, live: &Live, found: &Attestation) {
        let attested = Attested {
            at: self.with.clock.now(),
            proof: found.proof,
            holds: found.checks.iter().all(|check| check.holds),
            gone: found.checks.iter().filter(|check| !check.holds).cloned().collect(),
            checks: found.checks.len() as u64,
            processes: found.processes,
            took_us: found.took_us,
        };
        live.watched(|watched| watched.attested = Some(attested));
    }

    async fn unanswered(&self, live: &Arc<Live>, sandbox: &dyn Sandbox, why: &str) -> bool {
        // A run that ends while it is looked at has nobody to answer for it.
        if tokio::time::timeout(END_MAX, sandbox.wait()).await.is_ok() {
            return true;
        }
        self.end_unproven(live, why).await;
        false
    }

    async fn end_unproven(&self, live: &Arc<Live>, why: &str) {
        tracing::warn!(run = %live.run, why, "a run whose sandbox is not proven is ended");
        self.with.journal.publish(
            events::journal("sandbox.unproven", live)
                .severity(Severity::Error)
                .detail(json!({ "rule": ATTESTATION, "cause": why })),
        );
        self.end_by_rule(live, RunState::Killed, ATTESTATION, &format!("{ATTESTATION}: {why}")).await;
    }
}

/// The controls that are not in force, in words.
fn gone(found: &Attestation) -> Option<String> {
    let gone: Vec<String> = found
        .checks
        .iter()
        .filter(|check| !check.holds)
        .map(|check| match &check.detail {
            Some(detail) => format!("not in force: {}: {detail}", check.name),
            None => format!("not in force: {}", check.name),
        })
        .collect();
    (!gone.is_empty()).then(|| gone.join("; ").chars().take(500).collect())
}
