//! `cogward run start --input-file`, `cogward run artifacts` and `cogward run artifact`: files into runs and out of them.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Seek},
    path::{Path, PathBuf},
};

use cogward_api::{Page, RunInput, Upload, UploadQuery, paths};
use cogward_model::{
    AgentName, ContentName, RunId, TenantName, VersionLabel,
    content::{Artifact, Content, ContentKind, NotKept, TreeLimits},
    limits::{CONTENT_ENTRIES_MAX, CONTENT_MIB_MAX},
};
use cogward_registry::content;

use super::Session;
use crate::{
    args::InputFile,
    client::Client,
    exit::{Exit, Failure},
};

const ACCEPTED: &str = "application/octet-stream, application/x-tar";

/// Sends what a run is to be given.
pub fn send(
    client: &Client,
    (tenant, agent, version): (&TenantName, &AgentName, Option<&VersionLabel>),
    files: &[InputFile],
) -> Result<Vec<RunInput>, Failure> {
    let mut inputs = Vec::with_capacity(files.len());
    for InputFile { name, path } in files {
        // On disk, not in memory: an input may be large, and its size must be known before it is sent.
        let mut packed = tempfile::tempfile().map_err(|error| Failure::local("cannot make a temporary file", error))?;
        let limits = TreeLimits { entries: CONTENT_ENTRIES_MAX, bytes: u64::from(CONTENT_MIB_MAX) << 20 };
        let buffered = io::BufWriter::new(&mut packed);
        let sent = content::pack(path, limits, buffered).map_err(|error| {
            Failure::usage(format!("{} cannot be given as input `{name}`: {}", path.display(), causes(&error)))
        })?;
        packed.rewind().map_err(|error| Failure::local("cannot read the input back", error))?;
        let query = UploadQuery { version: version.cloned() };
        let path = paths::with_query(&paths::input(tenant, agent, name), &query)
            .map_err(|error| Failure::local("cannot make the request", error))?;
        let upload: Upload = client.post_tar(&path, &mut packed)?;
        if upload.content != sent {
            return Err(Failure::new(Exit::Unverified, format!("the plane took something else than input `{name}`"))
                .next("start the run again"));
        }
        inputs.push(RunInput { name: name.clone(), upload: upload.id });
    }
    Ok(inputs)
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

/// What became of a run's declared outputs.
pub fn list(run: RunId, session: &mut Session<'_>) -> Result<Exit, Failure> {
    let page: Page<Artifact> = session.client()?.get(&paths::run_artifacts(run))?;
    session.output.list(&page.items).map(|()| Exit::Done)
}

/// Downloads an output and checks that it is what its digest says.
pub fn fetch(run: RunId, name: &ContentName, to: Option<PathBuf>, session: &mut Session<'_>) -> Result<Exit, Failure> {
    let target = to.unwrap_or_else(|| PathBuf::from(name.as_str()));
    if target.symlink_metadata().is_ok() {
        return Err(Failure::new(Exit::Conflict, format!("{} exists already", target.display()))
            .next("name a place that is free, with --to"));
    }
    let client = session.client()?;
    let page: Page<Artifact> = client.get(&paths::run_artifacts(run))?;
    let missing = |why: &str| {
        Failure::new(Exit::NotFound, format!("{run} has no artifact `{name}`{why}"))
            .next(format!("cogward run artifacts {run}"))
    };
    let artifact = page.items.into_iter().find(|a| a.name == *name).ok_or_else(|| missing(""))?;
    let Some(wanted) = artifact.content else {
        return Err(missing(&format!(": it was not kept ({})", artifact.refused.map_or("missing", NotKept::as_str))));
    };
    let stream = client.read(&paths::run_artifact(run, name), ACCEPTED)?;
    let unfinished = unfinished(&target)?;
    let done = take(stream, &unfinished, &wanted)
        .and_then(|()| fs::rename(&unfinished, &target).map_err(|error| Failure::local("cannot keep it", error)));
    if let Err(failure) = done {
        // Nothing that was not checked is left behind under any name.
        let _gone = fs::remove_dir_all(&unfinished).or_else(|_| fs::remove_file(&unfinished));
        return Err(failure);
    }
    session.output.say(&format!("{} of {} bytes, checked: {}", wanted.kind.as_str(), wanted.bytes, wanted.digest));
    session.output.line(&target.display().to_string()).map(|()| Exit::Done)
}

/// A place beside the target, so that what broke off never looks whole.
fn unfinished(target: &Path) -> Result<PathBuf, Failure> {
    let name = target.file_name().ok_or_else(|| Failure::usage(format!("{} has no name", target.display())))?;
    let mut unfinished = name.to_owned();
    unfinished.push(format!(".unfinished-{}", std::process::id()));
    Ok(target.with_file_name(unfinished))
}

fn take(stream: impl Read, place: &Path, wanted: &Content) -> Result<(), Failure> {
    let limits = TreeLimits { entries: wanted.entries.max(1), bytes: wanted.bytes };
    let broken = |error: &dyn std::error::Error| {
        Failure::new(Exit::Unverified, format!("what the plane sent cannot be taken: {}", causes(error)))
            .next("repeat the command")
    };
    match wanted.kind {
        ContentKind::File => {
            let opened = OpenOptions::new().write(true).create_new(true).open(place);
            let mut file = opened.map_err(|e| Failure::local(format!("cannot write {}", place.display()), e))?;
            io::copy(&mut stream.take(wanted.bytes.saturating_add(1)), &mut file).map_err(|error| broken(&error))?;
        }
        ContentKind::Directory => {
            content::receive(stream, place, limits).map_err(|error| broken(&error))?;
        }
    }
    // What lies there now, read again: not what was said to be sent.
    match content::pack(place, limits, io::sink()) {
        Ok(found) if found == *wanted => Ok(()),
        _ => Err(Failure::new(Exit::Unverified, format!("what the plane sent is not {}", wanted.digest))
            .next("compare the digest with the evidence: `cogward evidence show --run RUN -o json`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_what_its_digest_says_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "hello").unwrap();
        let limits = TreeLimits { entries: 9, bytes: 99 };
        let wanted = content::pack(&dir.path().join("f"), limits, io::sink()).unwrap();
        assert!(take(&b"hello"[..], &dir.path().join("a"), &wanted).is_ok());
        for (n, sent) in [&b"hellp"[..], b"hell", b"hello!", b""].into_iter().enumerate() {
            let failure = take(sent, &dir.path().join(format!("b{n}")), &wanted).unwrap_err();
            assert_eq!(failure.exit, Exit::Unverified);
        }
        fs::create_dir(dir.path().join("tree")).unwrap();
        fs::write(dir.path().join("tree/f"), "hello").unwrap();
        let mut stream = Vec::new();
        let wanted = content::pack(&dir.path().join("tree"), limits, &mut stream).unwrap();
        assert!(take(stream.as_slice(), &dir.path().join("c"), &wanted).is_ok());
        let at = stream.windows(5).position(|w| w == b"hello").unwrap();
        stream[at] = b'j';
        assert!(take(stream.as_slice(), &dir.path().join("d"), &wanted).is_err());
        assert!(take(&stream[..700], &dir.path().join("e"), &wanted).is_err());
    }
}
