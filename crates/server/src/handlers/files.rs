//! Files into runs and out of them.
//!
//! What is sent for an input lies in the staging directory until a run takes it over, an hour passes, or the plane
//! starts again. Nothing follows from it before: the start of a run names it, checks it and records its digest.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use axum::{
    Json as Answer,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use cogward_api::{BYTES, Page, ProblemCode, RunInput, TAR, Upload, UploadQuery};
use cogward_engine::{StartInput, UPLOADED};
use cogward_model::{
    AgentName, ContentName, Id, RunId, TenantName,
    content::{Artifact, ContentKind, NotKept, TreeLimits},
    id::UploadId,
    limits::{CONTENT_ENTRIES_MAX, DISK_RESERVE_BYTES},
    manifest::Manifest,
};
use cogward_registry::content::{self, ReceiveError};
use cogward_sandbox::storage::ARTIFACTS_DIR;
use cogward_store::VersionRow;
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;

use super::{archive, run_view::nofollow, runs, upload::upload};
use crate::{
    extract::{Asked, Params},
    failure::Failure,
    plane::{App, Plane},
};

const RULE: &str = "spec.sandbox.inputs";
const DESCRIPTION: &str = "upload.json";
/// How long an upload waits for its run.
const KEPT_FOR: Duration = Duration::from_secs(3_600);
/// Uploads that wait at once.
const WAITING_MAX: usize = 64;
/// Far more than a supervisor writes about the end of a run.
const EXIT_BYTES_MAX: u64 = 1024 * 1024;

/// Removes the directory of an upload that did not come to its end.
struct Unfinished(Option<PathBuf>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(directory) = &self.0 {
            // What stays is removed by the next start.
            let _ = fs::remove_dir_all(directory);
        }
    }
}

pub(crate) async fn receive(
    State(app): State<App>,
    Params((tenant, agent, input)): Params<(TenantName, AgentName, ContentName)>,
    Asked(query): Asked<UploadQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<impl IntoResponse, Failure> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    if !kind.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case(TAR) {
        return Err(Failure::new(ProblemCode::UnsupportedMediaType, format!("what is sent must be {TAR}")));
    }
    let version = match &query.version {
        Some(label) => app.store.version(&tenant, &agent, label).await?,
        None => app.store.version_latest(&tenant, &agent).await?,
    };
    let most = declared(version.ok_or_else(|| Failure::missing("agent", &agent))?, &input)?;
    let limits = TreeLimits { entries: CONTENT_ENTRIES_MAX, bytes: u64::from(most) * 1024 * 1024 };
    let id: UploadId = Id::new(&*app.clock, &*app.entropy);
    let staging = app.data.join("staging");
    let stream = upload(body);
    let received = tokio::task::spawn_blocking(move || {
        make_room(&staging).map_err(Refused::Store)?;
        let disk = rustix::fs::statvfs(&staging).map_err(|e| Refused::Store(e.into()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < limits.bytes.saturating_add(DISK_RESERVE_BYTES) {
            return Err(Refused::Store(io::ErrorKind::StorageFull.into()));
        }
        let directory = staging.join(id.to_string());
        DirBuilder::new().mode(0o700).create(&directory).map_err(Refused::Store)?;
        let mut unfinished = Unfinished(Some(directory.clone()));
        let content = content::receive(stream, &directory.join(UPLOADED), limits)?;
        let upload = Upload { id, tenant, agent, input, content };
        let text = serde_json::to_vec(&upload).map_err(|e| Refused::Store(e.into()))?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(directory.join(DESCRIPTION));
        file.and_then(|mut file| file.write_all(&text)).map_err(Refused::Store)?;
        // One flush for all files: before the run that takes it over is recorded.
        let handle = File::open(&directory).map_err(Refused::Store)?;
        rustix::fs::syncfs(&handle).map_err(|e| Refused::Store(e.into()))?;
        unfinished.0 = None;
        Ok::<_, Refused>(upload)
    });
    let upload = received.await.map_err(|e| Failure::internal("the input cannot be received", &e))??;
    Ok((StatusCode::CREATED, Answer(upload)))
}

/// Why an upload was not taken.
enum Refused {
    Stream(ReceiveError),
    Store(io::Error),
}

impl From<ReceiveError> for Refused {
    fn from(error: ReceiveError) -> Self {
        Self::Stream(error)
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Stream(ReceiveError::Store(error)) => Failure::internal("the input cannot be stored", &error),
            Refused::Store(error) if error.kind() == io::ErrorKind::QuotaExceeded => {
                Failure::new(ProblemCode::Throttled, format!("{WAITING_MAX} inputs wait for their runs already"))
                    .next_step("start the runs that they are for, or wait until they are dropped, within an hour")
            }
            Refused::Store(error) if error.kind() == io::ErrorKind::StorageFull => Failure::new(
                ProblemCode::EvidenceUnavailable,
                "the plane's disk has no room for it beside the evidence",
            )
            .next_step("free space on the plane's disk, then look at `cogward plane show`"),
            Refused::Store(error) => Failure::internal("the input cannot be stored", &error),
            Refused::Stream(error) if error.is_too_large() => {
                Failure::new(ProblemCode::PayloadTooLarge, error.to_string()).rule(RULE)
            }
            Refused::Stream(error) => Failure::invalid(error.to_string())
                .rule(RULE)
                .next_step("send it with `cogward run start AGENT --input-file NAME=PATH`"),
        }
    }
}

/// How many MiB the version takes of the input.
fn declared(version: VersionRow, input: &ContentName) -> Result<u32, Failure> {
    let manifest: Manifest = serde_json::from_str(&version.manifest_json)
        .map_err(|e| Failure::internal("a stored manifest cannot be read", &e))?;
    let inputs = &manifest.spec.sandbox.inputs;
    let found = inputs.iter().find(|declared| declared.name == *input);
    found.map(|declared| declared.max_mib).ok_or_else(|| {
        let names: Vec<_> = inputs.iter().map(|declared| format!("`{}`", declared.name)).collect();
        let step = match names.as_slice() {
            [] => "the version declares no inputs: add them to `spec.sandbox.inputs` and register it".to_owned(),
            _ => format!("use one of {}", names.join(", ")),
        };
        let problem = format!("version {} of `{}` declares no input `{input}`", version.label, version.agent);
        Failure::new(ProblemCode::RunRefused, problem).rule(RULE).next_step(step)
    })
}

/// Drops what has waited too long, and refuses what would be one too many.
fn make_room(staging: &Path) -> io::Result<()> {
    let mut waiting = 0;
    for entry in fs::read_dir(staging)? {
        let entry = entry?;
        if entry.file_name().to_str().is_none_or(|name| name.parse::<UploadId>().is_err()) {
            continue;
        }
        if !entry.path().join(DESCRIPTION).exists() {
            // It is still arriving; whoever receives it removes what breaks off.
            waiting += 1;
            continue;
        }
        let made = entry.metadata().and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        if made.elapsed().is_ok_and(|age| age > KEPT_FOR) {
            // Somebody else may be dropping it as well, or a run is taking it over.
            let _ = fs::remove_dir_all(entry.path());
        } else {
            waiting += 1;
        }
    }
    if waiting >= WAITING_MAX { Err(io::ErrorKind::QuotaExceeded.into()) } else { Ok(()) }
}

/// What was uploaded for a run that is asked for.
pub(crate) async fn uploaded(
    plane: &Plane,
    tenant: &TenantName,
    agent: &AgentName,
    inputs: Vec<RunInput>,
) -> Result<Vec<StartInput>, Failure> {
    let mut found = Vec::with_capacity(inputs.len());
    for RunInput { name, upload } in inputs {
        let directory = plane.data.join("staging").join(upload.to_string());
        let description = directory.join(DESCRIPTION);
        let read = tokio::task::spawn_blocking(move || fs::read(description)).await;
        let text = read.map_err(|e| Failure::internal("an upload cannot be read", &e))?;
        let known = text.ok().and_then(|text| serde_json::from_slice::<Upload>(&text).ok());
        let known = known.filter(|u| u.tenant == *tenant && u.agent == *agent && u.input == name);
        let Some(known) = known else {
            let problem = format!("there is no upload `{upload}` for the input `{name}` of `{agent}`");
            return Err(Failure::new(ProblemCode::RunRefused, problem)
                .rule(RULE)
                .next_step("send it again: an upload is for one run, and for an hour"));
        };
        found.push(StartInput { name, upload: directory, content: known.content });
    }
    Ok(found)
}

/// What a supervisor wrote about the files of a run.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Left {
    pub(crate) artifacts: Vec<Artifact>,
    pub(crate) output_refused: Option<NotKept>,
}

/// What a run has left; nothing as long as it has not ended.
pub(crate) async fn left(plane: &Plane, run: RunId) -> Left {
    let path = plane.files.dir(run).join("exit.json");
    let read = move || {
        let file = OpenOptions::new().read(true).custom_flags(nofollow()).open(path).ok()?;
        let mut text = Vec::new();
        file.take(EXIT_BYTES_MAX).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    };
    tokio::task::spawn_blocking(read).await.ok().flatten().unwrap_or_default()
}

pub(crate) async fn list(
    State(app): State<App>,
    Params(run): Params<RunId>,
) -> Result<Answer<Page<Artifact>>, Failure> {
    let row = runs::found(&app, run).await?;
    let items = if row.ended.is_some() { left(&app, run).await.artifacts } else { Vec::new() };
    Ok(Answer(Page { items, next_cursor: None }))
}

pub(crate) async fn download(
    State(app): State<App>,
    Params((run, name)): Params<(RunId, ContentName)>,
) -> Result<Response, Failure> {
    let row = runs::found(&app, run).await?;
    if row.ended.is_none() {
        return Err(Failure::missing("artifact", &name).next_step("outputs are kept when the run has ended"));
    }
    let artifact = left(&app, run).await.artifacts.into_iter().find(|artifact| artifact.name == name);
    let artifact = artifact.ok_or_else(|| Failure::missing("artifact", &name))?;
    let Some(content) = artifact.content else {
        let why = artifact.refused.map_or("missing", NotKept::as_str);
        return Err(Failure::new(ProblemCode::NotFound, format!("`{name}` was not kept: {why}")));
    };
    let path = app.files.dir(run).join(ARTIFACTS_DIR).join(name.as_str());
    let (kind, body) = match content.kind {
        ContentKind::File => {
            let opened =
                tokio::task::spawn_blocking(move || OpenOptions::new().read(true).custom_flags(nofollow()).open(path));
            let opened = opened.await.map_err(|e| Failure::internal("the artifact cannot be read", &e))?;
            let mut file = opened.map_err(|e| Failure::internal("the artifact cannot be read", &e))?;
            (BYTES, Body::from_stream(archive::written(move |out| io::copy(&mut file, out).map(drop))))
        }
        ContentKind::Directory => {
            let limits = TreeLimits { entries: content.entries, bytes: content.bytes };
            let pack = move |out: &mut dyn Write| content::pack(&path, limits, out).map(drop).map_err(io::Error::other);
            (TAR, Body::from_stream(archive::written(pack)))
        }
    };
    Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
}

#[cfg(test)]
mod tests {
    use cogward_model::{SystemClock, SystemEntropy};

    use super::*;

    #[test]
    fn what_waits_is_bounded_and_what_waited_too_long_is_dropped() {
        let staging = tempfile::tempdir().unwrap();
        let wait = |described: bool| {
            let id: UploadId = Id::new(&SystemClock, &SystemEntropy);
            let directory = staging.path().join(id.to_string());
            fs::create_dir(&directory).unwrap();
            if described {
                fs::write(directory.join(DESCRIPTION), "{}").unwrap();
            }
            directory
        };
        let age = |directory: &Path| {
            File::open(directory).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        };
        fs::create_dir(staging.path().join("something-else")).unwrap();
        let old = wait(true);
        age(&old);
        // One that arrives slowly is not taken away under whoever receives it.
        let arriving = wait(false);
        age(&arriving);
        for _ in 2..WAITING_MAX {
            wait(true);
        }
        make_room(staging.path()).unwrap();
        assert!(!old.exists() && arriving.exists() && staging.path().join("something-else").exists());
        wait(true);
        assert_eq!(make_room(staging.path()).unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
    }
}
