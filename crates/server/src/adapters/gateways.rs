//! The gateways as the engine sees them, with the budgets of what they open.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cogward_budget::{Budgets, Scope};
use cogward_engine::RunFiles;
use cogward_engine::ports::{Fence, Gateways, Grant, Listeners, Pending, PortError, RunUsed};
use cogward_gateway::{FenceState, Gateway, Notice, Notices, RunGrant, RunListeners, Tally, telemetry};
use cogward_journal::{Journal, JournalEvent, Severity};
use cogward_model::{RunId, manifest::Telemetry};

use super::{approvals::StoredApprovals, skills};

/// How long the last outcomes of a run may take to be recorded after it was cut.
const SETTLE_WAIT: Duration = Duration::from_secs(5);
const SETTLE_LOOK: Duration = Duration::from_millis(5);

/// Opens and closes runs on the gateways.
pub(crate) struct RunGateways {
    pub(crate) gateway: Gateway,
    pub(crate) budgets: Arc<Budgets>,
    /// What its runs wait for people for.
    pub(crate) approvals: StoredApprovals,
    /// Where packages are.
    pub(crate) packages: PathBuf,
    /// Where runs have their files.
    pub(crate) files: RunFiles,
    /// What runs that live on did under earlier planes, until they are opened again.
    pub(crate) earlier: Mutex<HashMap<RunId, Tally>>,
}

impl Gateways for RunGateways {
    fn authority(&self, grant: &Grant) -> Result<Option<String>, PortError> {
        let run = RunGrant::new(grant.run, &grant.manifest, grant.version_digest, grant.subject.clone(), Vec::new());
        self.gateway.authority_pem(&run).map_err(|e| PortError::from_error(&e))
    }

    fn open_run(&self, grant: Grant, listeners: Listeners) -> Result<(), PortError> {
        let manifest = &grant.manifest;
        let limits = &manifest.spec.budgets;
        let mut scopes = vec![Scope::run(grant.run)];
        self.budgets.open(Scope::run(grant.run), limits.run.limits());
        if let Some(agent) = &limits.agent {
            let scope = Scope::agent(&manifest.metadata.tenant, &manifest.metadata.name);
            self.budgets.open(scope.clone(), agent.limits());
            scopes.push(scope);
        }
        let mut run = RunGrant::new(grant.run, manifest, grant.version_digest, grant.subject, scopes);
        run = run.with_skills(skills::of(self.packages.clone(), grant.package, manifest));
        if manifest.spec.telemetry == Telemetry::Accept {
            run = run.with_telemetry(self.files.dir(grant.run).join(telemetry::FILE));
        }
        let listeners = RunListeners { model: listeners.model, mcp: listeners.mcp, proxy: listeners.proxy };
        self.gateway.open_run(run, listeners).map_err(|e| PortError::from_error(&e))?;
        if let Some(tally) = self.earlier.lock().unwrap_or_else(PoisonError::into_inner).remove(&grant.run) {
            self.gateway.count_earlier(grant.run, tally);
        }
        Ok(())
    }

    fn fence(&self, run: RunId, fence: Fence) {
        let state = match fence {
            Fence::Open => FenceState::Open,
            Fence::Held => FenceState::Held,
            Fence::Closed => FenceState::Closed,
        };
        // A run that is not open has no listener a call could come in on.
        self.gateway.fence(run, state);
    }

    fn cut(&self, run: RunId) -> usize {
        self.gateway.cut(run).calls
    }

    fn close_run(&self, run: RunId) -> Pending<'_, RunUsed> {
        Box::pin(async move {
            self.gateway.cut(run);
            let settled = async {
                while self.gateway.in_flight(run) > 0 {
                    tokio::time::sleep(SETTLE_LOOK).await;
                }
            };
            if tokio::time::timeout(SETTLE_WAIT, settled).await.is_err() {
                tracing::warn!(%run, "calls of a run that was cut are not settled yet");
            }
            let tally = self.gateway.tally(run);
            let telemetry = self.gateway.telemetry(run);
            self.gateway.close_run(run);
            self.approvals.run_ended(run).await;
            RunUsed {
                amounts: self.budgets.close(&Scope::run(run)),
                model_calls: tally.model_calls,
                connections: tally.connections,
                refusals: tally.refusals,
                telemetry: telemetry.map(|count| (count.exports, count.items)),
            }
        })
    }
}

/// Findings of the gateways, for whoever watches the plane.
pub(crate) struct JournalNotices(pub(crate) Journal);

impl std::fmt::Debug for JournalNotices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JournalNotices")
    }
}

impl Notices for JournalNotices {
    fn notice(&self, notice: Notice) {
        let severity = if notice.kind.is_high() { Severity::Error } else { Severity::Warning };
        let detail = serde_json::json!({
            "agent": notice.agent, "host": notice.host, "port": notice.port, "detail": notice.detail,
        });
        let event = JournalEvent::run(notice.kind.as_str(), notice.tenant, notice.run);
        self.0.publish(event.severity(severity).detail(detail));
    }
}
