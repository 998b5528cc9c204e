//! `cogward evidence timestamp`: requests and answers of RFC 3161 as files.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use cogward_api::{EvidenceStatus, TimestampAnswer, TimestampRequest, paths};
use cogward_ledger::{
    text::{base64_bytes, bytes_from_base64},
    timestamp::TIMESTAMP_BYTES_MAX,
};

use super::Session;
use crate::{
    args::Timestamps,
    exit::{Exit, Failure},
};

/// Carries a command out.
pub fn run(command: Timestamps, session: &mut Session<'_>) -> Result<Exit, Failure> {
    match command {
        Timestamps::Request { file } => request(&file, session),
        Timestamps::Import { file } => {
            let status: EvidenceStatus = session.client()?.post(paths::TIMESTAMPS, &answer_in(&file)?)?;
            session.output.one(&status)?;
            Ok(Exit::Done)
        }
    }
}

fn request(file: &Path, session: &mut Session<'_>) -> Result<Exit, Failure> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".checkpoint");
    let beside = PathBuf::from(beside);
    // Refused before anything is asked: the plane remembers the request.
    for path in [file, &beside] {
        if path.symlink_metadata().is_ok() {
            return Err(Failure::new(Exit::Conflict, format!("{} exists already", path.display()))
                .next("name one that does not exist yet"));
        }
    }
    let made: TimestampRequest = session.client()?.post(paths::TIMESTAMP_REQUESTS, &serde_json::json!({}))?;
    let request = bytes_from_base64(&made.request);
    let request = request.ok_or_else(|| Failure::new(Exit::Failed, "the plane sent no request"))?;
    let write = |path: &Path, bytes: &[u8]| {
        let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        made.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
            .map_err(|error| Failure::local(format!("cannot write {}", path.display()), error))
    };
    write(&beside, made.checkpoint.as_bytes())?;
    write(file, &request)?;
    session.output.say(&format!("A request for a time stamp over {} leaves; bring the answer back with:", made.size));
    session.output.say("  cogward evidence timestamp import ANSWER.tsr");
    session.output.line(&file.display().to_string())?;
    Ok(Exit::Done)
}

fn answer_in(file: &Path) -> Result<TimestampAnswer, Failure> {
    let mut bytes = Vec::new();
    let read: io::Result<usize> =
        fs::File::open(file).and_then(|opened| opened.take(TIMESTAMP_BYTES_MAX as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|error| Failure::local(format!("cannot read {}", file.display()), error))?;
    if bytes.len() > TIMESTAMP_BYTES_MAX {
        return Err(Failure::usage(format!("{} is longer than any time stamp", file.display())));
    }
    Ok(TimestampAnswer { answer: base64_bytes(&bytes) })
}
