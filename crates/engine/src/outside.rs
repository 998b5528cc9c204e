//! Runs of clients outside: the same life as every run, without a sandbox.
//!
//! A client comes by itself the first time. Once its run was ended by an operator, or by a rule, it does not come back
//! by itself: otherwise a kill would last until the next request.

use std::sync::Arc;

use cogward_model::{
    manifest::{Manifest, Tier},
    outside::OutsideClient,
    run::RunState,
};
use cogward_store::{RunRow, Tx};

use crate::{
    engine::{Engine, Version},
    errors::StartError,
    ports::{AttachRequest, PortError, Sandbox},
    run_task::WALL_CLOCK,
    start::StartRun,
};

pub(crate) use cogward_model::outside::PROFILE;

/// Runs of clients outside that are not closed, of one agent.
const OF_AGENT_MAX: u64 = 64;
/// The same of the whole plane: the other host identities are for sandboxes.
const OF_PLANE_MAX: u64 = 256;

/// A client outside that is to act in a run.
#[derive(Debug, Clone)]
pub struct Outside {
    /// Who.
    pub client: OutsideClient,
    /// No operator asks for it: the client came by itself.
    pub by_itself: bool,
}

/// What can be said before the state is looked at.
pub(crate) fn check(manifest: &Manifest, outside: &Outside, request: &StartRun) -> Result<(), StartError> {
    let OutsideClient { issuer, client, subject, .. } = &outside.client;
    if !manifest.spec.access.admits(issuer, client, subject) {
        return Err(StartError::NotAdmitted {
            agent: request.agent.clone(),
            issuer: issuer.clone(),
            client: client.clone(),
        });
    }
    // A floor demands a sandbox of each tier. Only in development may there be none.
    if manifest.spec.tier != Tier::Development {
        return Err(StartError::OutsideTier(manifest.spec.tier));
    }
    if !request.inputs.is_empty() {
        return Err(StartError::OutsideGiven("it has no files"));
    }
    if !request.input.is_empty() {
        return Err(StartError::OutsideGiven("it has no input"));
    }
    Ok(())
}

/// In the transaction of the start: two requests of one client do not make two runs.
pub(crate) async fn admits(tx: &mut Tx, request: &StartRun, outside: &Outside) -> Result<(), StartError> {
    if let Some(last) = tx.run_last_of(&request.tenant, &request.agent, &outside.client).await? {
        // A killed run is final before it is closed; its client waits for nothing.
        if !last.state.is_final() {
            return Err(StartError::Attached(last.id));
        }
        if outside.by_itself && !comes_back(&last) {
            return Err(StartError::Stopped(last.id));
        }
    }
    let there = tx.runs_outside(&request.tenant, &request.agent).await?;
    if there.of_agent >= OF_AGENT_MAX {
        return Err(StartError::TooManyOutside(there.of_agent));
    }
    if there.of_plane >= OF_PLANE_MAX {
        return Err(StartError::TooManyOutside(there.of_plane));
    }
    if !leaves_room(there.of_tenant, there.of_plane) {
        return Err(StartError::TooManyOutside(there.of_tenant));
    }
    Ok(())
}

/// Whether one more of a tenant leaves twice as many places free as the tenant then has: no tenant shuts out the next.
fn leaves_room(of_tenant: u64, of_plane: u64) -> bool {
    let free = OF_PLANE_MAX.saturating_sub(of_plane + 1);
    of_tenant < free / 2
}

/// Whether the client of a run that is over may open the next one: it left, or its time was over.
fn comes_back(last: &RunRow) -> bool {
    match last.state {
        RunState::Succeeded => true,
        RunState::Failed => last.fail_cause.as_ref().is_some_and(|cause| cause.starts_with(WALL_CLOCK)),
        _ => false,
    }
}

/// What evidence says in the place of the sandbox profile.
pub(crate) fn profile_of(row: &RunRow, version: &Version) -> &'static str {
    if row.outside.is_some() { PROFILE } else { version.manifest.spec.sandbox.profile.as_str() }
}

impl Engine {
    pub(crate) async fn attach(&self, row: &RunRow, client: &OutsideClient) -> Result<Arc<dyn Sandbox>, PortError> {
        let run_dir = self.with.files.dir(row.id);
        let (tenant, agent, version) = (&row.tenant, &row.agent, &row.version);
        let request = AttachRequest { run: row.id, tenant, agent, version, run_dir: &run_dir, client };
        self.with.sandboxes.attach(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_alone_has_a_third_and_the_next_finds_places() {
        let mut all = 0;
        for wanted in [85, 57, 38] {
            let mut own = 0;
            while leaves_room(own, all) {
                (own, all) = (own + 1, all + 1);
            }
            assert_eq!(own, wanted, "of {all}");
        }
    }
}
