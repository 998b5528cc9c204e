//! `cogward evidence archive`, and what `serve` makes of its flags.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use cogward_api::{EvidenceStatus, paths};
use cogward_ledger::note::{KEYS_BYTES_MAX, NOTE_BYTES_MAX, VerifyingKey};
use cogward_server::{
    ArchiveCheck, ArchiveOptions, ArchivePlace, Lock, LockMode, RestoreError, S3Options, restore_archive,
};

use super::{Session, read_text};
use crate::{
    args::{ArchiveCommand, ArchiveFlags, LockWord, StoreFlags},
    exit::{Exit, Failure},
};

/// A kept manifest has a line for each log with leaves in its segment.
const KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Where the archive is.
fn place(text: &str, store: StoreFlags, lock: Option<Lock>) -> Result<ArchivePlace, Failure> {
    let StoreFlags { s3_credentials, s3_endpoint, s3_region } = store;
    if !text.contains("://") {
        if s3_credentials.is_some() || s3_endpoint.is_some() {
            return Err(Failure::usage(format!("`{text}` is a directory, which needs no --s3-… flags")));
        }
        return Ok(ArchivePlace::Directory(PathBuf::from(text)));
    }
    let (bucket, prefix) = S3Options::split(text).ok_or_else(|| {
        Failure::usage(format!("`{text}` is no place for an archive")).next("write a directory, or s3://BUCKET/PREFIX")
    })?;
    let credentials = s3_credentials.ok_or_else(|| {
        Failure::usage("a store needs credentials").next("--s3-credentials FILE, in the form of ~/.aws/credentials")
    })?;
    Ok(ArchivePlace::S3(S3Options { bucket, prefix, endpoint: s3_endpoint, region: s3_region, credentials, lock }))
}

/// What `serve` archives where.
pub fn options(flags: ArchiveFlags) -> Result<ArchiveOptions, Failure> {
    let mode = match flags.archive_lock {
        LockWord::Compliance => Some(LockMode::Compliance),
        LockWord::Governance => Some(LockMode::Governance),
        LockWord::None => None,
    };
    let lock = mode.map(|mode| Lock { mode, days: flags.archive_lock_days });
    let place = flags.archive.map(|text| place(&text, flags.store, lock)).transpose()?;
    // A relative path would be another one for whoever reads the evidence.
    let place = match place {
        Some(ArchivePlace::Directory(dir)) => {
            let whole = std::path::absolute(&dir);
            Some(ArchivePlace::Directory(whole.map_err(|e| Failure::local("the archive's directory has no path", e))?))
        }
        other => other,
    };
    Ok(ArchiveOptions {
        place,
        alarm_after: Duration::from_secs(flags.archive_alarm_after.into()),
        keep_local: flags.archive_keep_local.map(|days| Duration::from_secs(u64::from(days) * 86_400)),
        segment_bytes: flags.evidence_segment_kib.map(|kib| kib * 1_024),
    })
}

pub fn run(command: ArchiveCommand, session: &mut Session<'_>) -> Result<Exit, Failure> {
    match command {
        ArchiveCommand::Status => {
            let status: EvidenceStatus = session.client()?.get(paths::EVIDENCE_STATUS)?;
            let archive = status.archive.ok_or_else(|| {
                Failure::new(Exit::NotFound, "the plane archives nowhere").next("start it with --archive DIR|S3")
            })?;
            session.output.one(&archive)?;
            // A script that watches the archive needs no JSON.
            Ok(if archive.alarm { Exit::Failed } else { Exit::Done })
        }
        ArchiveCommand::Restore { from, key, against, store, directory } => {
            let place = place(&from, store, None)?;
            restore(&place, key.as_deref(), against.as_deref(), &directory, session)
        }
    }
}

fn keys(text: &str) -> Result<VerifyingKey, Failure> {
    if let Ok(key) = text.parse() {
        return Ok(key);
    }
    let keys = read_text(Path::new(text), "the keys of the plane log", KEYS_BYTES_MAX)?;
    keys.trim_end().parse().map_err(|error| Failure::usage(format!("{text}: {error}")))
}

fn restore(
    place: &ArchivePlace,
    key: Option<&str>,
    against: Option<&Path>,
    directory: &Path,
    session: &mut Session<'_>,
) -> Result<Exit, Failure> {
    let key = key.map(keys).transpose()?;
    let against =
        against.map(|file| read_text(file, "what was kept", KEPT_BYTES_MAX.max(NOTE_BYTES_MAX))).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::local("cannot start the runtime", error))?;
    let entered = runtime.enter();
    let objects = place.objects().map_err(|error| Failure::usage(error.to_string()))?;
    drop(entered);
    let options = ArchiveCheck { key: key.as_ref(), against: against.as_deref() };
    let restored = restore_archive(&*objects, &options, directory).map_err(|error| match error {
        RestoreError::NotEmpty(path) => Failure::new(Exit::Conflict, format!("{} is not empty", path.display()))
            .next("name a directory that is empty or not there"),
        RestoreError::Archive(finding) => {
            Failure::new(Exit::Unverified, format!("the archive: {finding}")).next("nothing was left behind")
        }
        error @ RestoreError::Io(_) => Failure::local(format!("cannot restore into {}", directory.display()), error)
            .next("nothing was left behind"),
    })?;
    session.output.say(&format!(
        "{} segments with {} leaves of {} logs: verified, and restored.",
        restored.segments,
        restored.leaves,
        restored.logs.len()
    ));
    if !restored.key_pinned {
        session.output.say("The keys came with the archive. Compare them with the ones that you know, or give --key:");
        session.output.say(&format!("  {}", restored.key));
    }
    if !restored.compared {
        session
            .output
            .say("No archive can show that its newest part is there. With --against a kept checkpoint is compared.");
    }
    session.output.line(&directory.display().to_string())?;
    Ok(Exit::Done)
}
