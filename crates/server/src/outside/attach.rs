//! From a client that is known to the run that it acts in.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cogward_engine::{Outside, StartError, StartRun};
use cogward_model::{
    Digest, VersionLabel,
    event::{Attribution, Event, EventType},
    manifest::{Access, Manifest, Tier},
    outside::OutsideClient,
};

use super::{
    boxes::{InUse, OutsideRuns},
    place::Place,
};
use crate::plane::Plane;

/// How long a run is waited for that is being opened, or closed.
const OPENED_MAX: Duration = Duration::from_secs(10);
/// How often a run is asked for, when the one before is just ending.
const TRIES: u32 = 3;
/// Manifests that are remembered.
const KNOWN_MAX: usize = 1_024;

/// Why there is no run for a client.
#[derive(Debug)]
pub(super) enum NotAttached {
    /// The rule, for the count of refusals.
    Refused(&'static str),
    /// An operator, or a rule, ended the last one.
    Stopped,
    /// There are as many as there may be.
    Full,
    /// Not now.
    Unavailable(String),
}

/// What a manifest says of clients outside.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) version: VersionLabel,
    pub(super) tier: Tier,
    access: Access,
}

impl Opened {
    pub(super) fn admits(&self, client: &OutsideClient) -> bool {
        self.access.admits(&client.issuer, &client.client, &client.subject)
    }
}

/// What the newest versions of agents say of clients outside.
#[derive(Debug, Default)]
pub(super) struct Manifests(Mutex<HashMap<Digest, Arc<Opened>>>);

impl Manifests {
    /// The newest version of an agent; none where there is no such agent.
    pub(super) async fn newest(&self, plane: &Plane, place: &Place) -> Result<Option<Arc<Opened>>, String> {
        let row = plane.store.version_latest(&place.tenant, &place.agent).await.map_err(|e| e.to_string())?;
        let Some(row) = row else { return Ok(None) };
        // The digest is of the manifest with the label in it.
        if let Some(known) = self.table().get(&row.version_digest) {
            return Ok(Some(Arc::clone(known)));
        }
        let manifest: Manifest = serde_json::from_str(&row.manifest_json).map_err(|e| e.to_string())?;
        let opened = Arc::new(Opened { version: row.label, tier: manifest.spec.tier, access: manifest.spec.access });
        let mut table = self.table();
        if table.len() >= KNOWN_MAX {
            table.clear();
        }
        table.insert(row.version_digest, Arc::clone(&opened));
        Ok(Some(opened))
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<Opened>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The run that a client acts in: the one that it has, or a new one.
pub(super) async fn attach(
    plane: &Plane,
    runs: &OutsideRuns,
    place: &Place,
    version: &VersionLabel,
    client: &OutsideClient,
) -> Result<InUse, NotAttached> {
    for _ in 0..TRIES {
        if let Some(open) = runs.of(&place.tenant, &place.agent, client) {
            if open.version != *version || open.client.binding != client.binding {
                // What it was let in for is not what holds now: the next run is of the newest version.
                if plane_holds(plane, open.run).await {
                    return Err(NotAttached::Refused("outside.suspended"));
                }
                open.leave();
                ended(plane, open.run).await?;
            } else if usable(&open).await? {
                if let Some(using) = open.enter() {
                    return Ok(using);
                }
                ended(plane, open.run).await?;
            } else {
                ended(plane, open.run).await?;
            }
        }
        let request = StartRun {
            tenant: place.tenant.clone(),
            agent: place.agent.clone(),
            version: Some(version.clone()),
            input: Vec::new(),
            inputs: Vec::new(),
            as_user: client.user(),
            actor: client.actor(),
            operator: None,
            reason: None,
            claim: None,
            outside: Some(Outside { client: client.clone(), by_itself: true }),
        };
        let run = match plane.engine.start_run(request).await {
            Ok(started) => started.run,
            Err(StartError::Attached(run)) => run,
            Err(error) => return Err(refused(error)),
        };
        // It is in the table as soon as its launch has begun.
        let opened = async {
            loop {
                if runs.of(&place.tenant, &place.agent, client).is_some_and(|open| open.run == run) {
                    return true;
                }
                let closed = tokio::time::timeout(Duration::from_millis(5), plane.engine.closed(run)).await;
                if closed.is_ok() {
                    return false;
                }
            }
        };
        if tokio::time::timeout(OPENED_MAX, opened).await.is_err() {
            return Err(NotAttached::Unavailable("the run is not open yet".to_owned()));
        }
    }
    Err(NotAttached::Unavailable("the run ended again and again".to_owned()))
}

/// Whether a run is suspended: what an operator holds is not left by a new version, or by another token.
async fn plane_holds(plane: &Plane, run: cogward_model::RunId) -> bool {
    match plane.store.run(run).await {
        Ok(Some(row)) => row.state == cogward_model::run::RunState::Suspended,
        _ => true,
    }
}

async fn usable(open: &super::boxes::OutsideBox) -> Result<bool, NotAttached> {
    let usable = tokio::time::timeout(OPENED_MAX, open.usable()).await;
    usable.map_err(|_| NotAttached::Unavailable("the run is not open yet".to_owned()))
}

async fn ended(plane: &Plane, run: cogward_model::RunId) -> Result<(), NotAttached> {
    let closed = tokio::time::timeout(OPENED_MAX, plane.engine.closed(run)).await;
    closed.map_err(|_| NotAttached::Unavailable("the run before is not closed yet".to_owned()))
}

fn refused(error: StartError) -> NotAttached {
    match error {
        StartError::Stopped(_) => NotAttached::Stopped,
        StartError::TooManyOutside(_) | StartError::TooManyRuns(_) => NotAttached::Full,
        StartError::NotAdmitted { .. } => NotAttached::Refused("spec.access.outside"),
        StartError::OutsideTier(_) | StartError::OutsideFloor { .. } => NotAttached::Refused("outside.tier"),
        StartError::UserRequired(_) => NotAttached::Refused("spec.autonomy"),
        StartError::TooLong { .. } => NotAttached::Refused("limits.request"),
        StartError::UnknownTenant(_) | StartError::UnknownAgent { .. } | StartError::UnknownVersion { .. } => {
            NotAttached::Refused("registry.registered")
        }
        other => NotAttached::Unavailable(other.to_string()),
    }
}

/// Records that a client came with a token that was not seen before: its digest and what holds it, never the token.
pub(super) fn note_token(plane: &Plane, using: &InUse, token: [u8; 32], expires: u64) -> Result<(), NotAttached> {
    let open = &using.0;
    open.once(token, || record_token(plane, open, token, expires))
}

fn record_token(
    plane: &Plane,
    open: &super::boxes::OutsideBox,
    token: [u8; 32],
    expires: u64,
) -> Result<(), NotAttached> {
    let by = Attribution { agent: Some((open.agent.clone(), open.version.clone())), subject: open.client.user() };
    let event = Event::new(EventType::OutsideToken, open.tenant.clone(), by)
        .run(open.run)
        .public("basis", vec!["outside"])
        .public("issuer", open.client.issuer.to_string())
        .public("client", open.client.client.clone())
        .public("binding", open.client.binding.as_str())
        .public("token", Digest::from_bytes(token).to_string())
        .public("expires", expires);
    // Ordered: whatever is decided with it becomes durable after it.
    plane.evidence.note(event).map(drop).map_err(|error| NotAttached::Unavailable(error.to_string()))
}
