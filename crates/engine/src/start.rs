//! Starting a run: refused with its reason, or recorded and then launched.

use std::sync::Arc;

use cogward_model::{
    AgentName, Digest, RunId, TenantName, VersionLabel,
    content::GivenInput,
    floor::Floor,
    id::{Id, OperationId},
    limits::{REASON_BYTES_MAX, RUN_INPUT_BYTES_MAX},
    manifest::AutonomyClass,
    run::RunState,
};
use cogward_store::{IdempotencyRow, RunRow};
use serde_json::json;

use crate::{
    engine::{Engine, Recorded, Version},
    errors::StartError,
    events,
    given::{self, StartInput},
    outside::{self, Outside},
    ports::{LedgerHealth, PortError},
    run_task::Begin,
    warm::Spare,
};

/// Longest name of a user that a run acts for.
const USER_BYTES_MAX: usize = 256;

/// A run that is asked for.
#[derive(Debug, Clone)]
pub struct StartRun {
    /// The tenant.
    pub tenant: TenantName,
    /// The agent.
    pub agent: AgentName,
    /// The version; the one that was registered last when there is none.
    pub version: Option<VersionLabel>,
    /// What the agent reads.
    pub input: Vec<u8>,
    /// The files that it is given.
    pub inputs: Vec<StartInput>,
    /// The user for whom it acts.
    pub as_user: Option<String>,
    /// The operator who asks.
    pub actor: String,
    /// Why.
    pub reason: Option<String>,
    /// The key under which the answer is kept, so that the same request starts one run.
    pub claim: Option<Claim>,
    /// The client outside that is to act in it, in the place of the agent's code.
    pub outside: Option<Outside>,
}

/// An idempotency key that a command is made under.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Whose key it is.
    pub operator: String,
    /// The key.
    pub key: String,
    /// The digest of the request.
    pub request_digest: Digest,
}

impl Claim {
    /// The row that is committed with the command. Its answer names the operation: the receipt is
    /// only known later and is read from there.
    pub(crate) fn row(&self, run: RunId, operation: OperationId, created: cogward_model::Timestamp) -> IdempotencyRow {
        IdempotencyRow {
            operator: self.operator.clone(),
            key: self.key.clone(),
            request_digest: self.request_digest,
            status: 202,
            response: json!({ "run": run, "operation": operation }).to_string(),
            created,
        }
    }
}

/// A run that was accepted; its sandbox is being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// The run.
    pub run: RunId,
    /// The operation that starts it.
    pub operation: OperationId,
}

impl Engine {
    /// Accepts a run or refuses it; both are recorded. The sandbox is made after this returns.
    ///
    /// # Errors
    /// [`StartError`]; then no agent process exists and none will.
    pub async fn start_run(&self, request: StartRun) -> Result<Started, StartError> {
        let engine = self.clone();
        // Of its own task: a caller that goes away does not leave half a start.
        let task = tokio::spawn(async move {
            let outcome = engine.accept(&request).await;
            if let Err(error) = &outcome {
                engine.record_refusal(&request, error).await;
            }
            outcome
        });
        task.await.unwrap_or_else(|_| Err(StartError::Stopping))
    }

    async fn record_refusal(&self, request: &StartRun, error: &StartError) {
        // A client that comes by itself comes again and again: who lets it in counts what was refused.
        if request.outside.as_ref().is_some_and(|outside| outside.by_itself) {
            return;
        }
        let Some(rule) = error.rule() else { return };
        let tenant_known = !matches!(error, StartError::UnknownTenant(_));
        let event = events::refused(request, tenant_known, error, rule);
        if let Err(error) = self.with.ledger.record(event).await {
            tracing::error!(%error, "a refused start is not recorded");
        }
        self.with.journal.publish(
            cogward_journal::JournalEvent::tenant("run.refused", request.tenant.clone())
                .severity(cogward_journal::Severity::Warning)
                .detail(json!({ "agent": request.agent, "rule": rule })),
        );
    }

    async fn accept(&self, request: &StartRun) -> Result<Started, StartError> {
        if self.is_stopping() {
            return Err(StartError::Stopping);
        }
        bounds(request)?;
        let version = self.registered(request).await?;
        let manifest = &version.1.manifest;
        if manifest.spec.autonomy == AutonomyClass::UserDelegated && request.as_user.is_none() {
            return Err(StartError::UserRequired(request.agent.clone()));
        }
        let profile = manifest.spec.sandbox.profile;
        let missing = match &request.outside {
            Some(outside) => outside::check(manifest, outside, request).map(|()| Vec::new())?,
            None => {
                given::check(&manifest.spec.sandbox.inputs, &request.inputs)?;
                self.missing(&manifest.spec.sandbox)
            }
        };
        if !missing.is_empty() {
            return Err(StartError::ProfileUnenforceable { profile: profile.as_str(), missing });
        }
        match &*self.with.ledger.health().borrow() {
            LedgerHealth::Ok => {}
            LedgerHealth::LowSpace => {
                return Err(StartError::Evidence(PortError("the disk is nearly full".to_owned())));
            }
            LedgerHealth::Unsigned(why) | LedgerHealth::Failed(why) => {
                return Err(StartError::Evidence(PortError(why.clone())));
            }
        }
        let key = (request.tenant.clone(), request.agent.clone(), version.0.clone());
        if request.outside.is_none()
            && let Some(spare) = self.spares.take(&key)
        {
            return self.start_with(spare, request, version).await;
        }
        let run: RunId = Id::new(&*self.with.clock, &*self.with.entropy);
        self.with.files.create(run, &request.input).map_err(StartError::Directory)?;
        let taken = self.with.files.take_inputs(run, &request.inputs).map_err(|error| {
            self.remove_files(run);
            match (error.kind(), request.inputs.first()) {
                (std::io::ErrorKind::NotFound, Some(input)) => {
                    let why = "what was sent for it is gone: it was used by another run, or lay too long".to_owned();
                    StartError::Input { name: input.name.clone(), why }
                }
                _ => StartError::Directory(error),
            }
        })?;
        match self.record_start(run, request, version, &taken, None).await {
            Ok(started) => Ok(started),
            Err(error) => {
                self.remove_files(run);
                Err(error)
            }
        }
    }

    /// Starts the run whose sandbox was made before it.
    async fn start_with(
        &self,
        spare: Spare,
        request: &StartRun,
        version: (VersionLabel, Version),
    ) -> Result<Started, StartError> {
        let given = self.with.files.give_input(spare.run, &request.input).map_err(StartError::Directory);
        let started = match given {
            Ok(()) => self.record_start(spare.run, request, version, &[], Some(&spare)).await,
            Err(error) => Err(error),
        };
        match started {
            Ok(started) => {
                self.spares.release(spare.run);
                Ok(started)
            }
            Err(error) => {
                self.discard(spare).await;
                Err(error)
            }
        }
    }

    fn remove_files(&self, run: RunId) {
        if let Err(error) = self.with.files.remove(run) {
            tracing::warn!(%run, %error, "the directory of a run that was not started stays");
        }
    }

    async fn registered(&self, request: &StartRun) -> Result<(VersionLabel, Version), StartError> {
        let store = &self.with.store;
        let (tenant, agent) = (&request.tenant, &request.agent);
        if store.tenant(tenant).await?.is_none() {
            return Err(StartError::UnknownTenant(tenant.clone()));
        }
        let unknown_agent = || StartError::UnknownAgent { tenant: tenant.clone(), agent: agent.clone() };
        if store.agent(tenant, agent).await?.is_none() {
            return Err(unknown_agent());
        }
        let row = match &request.version {
            Some(label) => store
                .version(tenant, agent, label)
                .await?
                .ok_or_else(|| StartError::UnknownVersion { agent: agent.clone(), version: label.clone() })?,
            None => store.version_latest(tenant, agent).await?.ok_or_else(unknown_agent)?,
        };
        let version = Version::read(&row).map_err(|e| StartError::Manifest(agent.clone(), e))?;
        Ok((row.label, version))
    }

    async fn record_start(
        &self,
        run: RunId,
        request: &StartRun,
        (label, version): (VersionLabel, Version),
        inputs: &[GivenInput],
        spare: Option<&Spare>,
    ) -> Result<Started, StartError> {
        let mut tx = self.with.store.begin().await?;
        // In the transaction of the start, so that no run begins after a floor that it does not meet was raised.
        let spec = &version.manifest.spec;
        let (tier, profile) = (spec.tier, spec.sandbox.profile);
        let floors = tx.floors(Some(&request.tenant)).await?;
        let (floor, _) = floors.effective(tier);
        if let Some(outside) = &request.outside {
            // An operator who raised the floor wants a sandbox, and here is none.
            if floor.profile > Floor::default_of(tier).profile {
                return Err(StartError::OutsideFloor { floor: floor.profile, tier, told: floors.told(tier) });
            }
            outside::admits(&mut tx, request, outside).await?;
        } else if !floor.admits(profile) {
            let told = floors.told(tier);
            return Err(StartError::ProfileTooWeak { profile, floor: floor.profile, tier, told });
        }
        let slots = self.with.run_slots;
        let slot = match spare {
            Some(spare) => spare.slot,
            None => tx.run_free_slot(slots).await?.ok_or(StartError::TooManyRuns(slots))?,
        };
        let row = RunRow {
            id: run,
            tenant: request.tenant.clone(),
            agent: request.agent.clone(),
            version: label,
            digest: version.digest,
            goal: version.manifest.spec.goal.clone(),
            subject: request.as_user.clone(),
            created_by: request.actor.clone(),
            reason: request.reason.clone(),
            input_digest: Some(events::sha256(&request.input)),
            created: tx.now(),
            outside: request.outside.as_ref().map(|outside| outside.client.clone()),
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
        };
        tx.run_insert(&row).await?;
        let operation = self.operation(run, "start", &request.actor, request.reason.as_deref());
        tx.operation_insert(&operation).await?;
        if let Some(claim) = &request.claim {
            tx.idempotency_insert(&claim.row(run, operation.id, tx.now())).await?;
        }
        let by_itself = request.outside.as_ref().is_some_and(|outside| outside.by_itself);
        let event = events::requested(&row, &version, operation.id, inputs, by_itself);
        let committed = tx.commit(vec![event]).await?;
        let recorded = self.publish(committed).await;
        let Some(live) = self.insert_live(&row) else {
            // The reconciler was faster: it found the row and has taken the run.
            return Ok(Started { run, operation: operation.id });
        };
        live.set_start_operation(operation.id);
        self.with.journal.publish(
            events::journal("run.requested", &live)
                .detail(json!({ "agent": row.agent, "version": row.version, "operation": operation.id })),
        );
        match recorded {
            Recorded::Yes(_) => {
                let prepared = spare.map(|spare| Arc::clone(&spare.sandbox));
                self.spawn_run(Arc::clone(&live), row, version, Begin::Launch(prepared));
                Ok(Started { run, operation: operation.id })
            }
            Recorded::No(error) => {
                live.set_cause("evidence.durable: the start could not be recorded");
                self.spawn_run(live, row, version, Begin::Abandon);
                Err(StartError::Evidence(error))
            }
        }
    }
}

fn bounds(request: &StartRun) -> Result<(), StartError> {
    let bounds = [
        ("the input", request.input.len(), RUN_INPUT_BYTES_MAX),
        ("the reason", request.reason.as_ref().map_or(0, String::len), REASON_BYTES_MAX),
        ("the user's name", request.as_user.as_ref().map_or(0, String::len), USER_BYTES_MAX),
    ];
    for (what, len, max) in bounds {
        if len > max {
            return Err(StartError::TooLong { what, max });
        }
    }
    Ok(())
}
