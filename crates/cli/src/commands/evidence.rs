//! `cogward evidence`.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Component, Path, PathBuf},
};

use cogward_api::{
    ConsistencyQuery, Cosignatures, EvidenceFound, EvidenceIndex, EvidenceLeaf, EvidenceQuery, EvidenceStatus,
    ExportQuery, PageQuery, Reason, SampleCommitted, SampleQuery, TAR, WitnessRequestQuery, paths,
};
use cogward_ledger::note::NOTE_BYTES_MAX;

use super::{Session, archive, keys, redactions, timestamps};
use crate::{
    args,
    exit::{Exit, Failure},
};

/// Largest signed checkpoint, in bytes: a note has a few lines per witness.
const CHECKPOINT_BYTES_MAX: u64 = 1024 * 1024;
/// Largest proof, in bytes: a long run with a proof for each leaf.
const PROOF_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Leaves that a search shows when nobody says how many.
const FOUND_DEFAULT: usize = 1_000;

pub fn run(command: args::Evidence, session: &mut Session<'_>) -> Result<Exit, Failure> {
    match command {
        args::Evidence::Show { run, limit } => {
            let path = paths::run_evidence(run);
            let leaves: Vec<EvidenceLeaf> = session.client()?.list(&path, &PageQuery::default(), limit.count())?;
            session.output.list(&leaves)?;
        }
        args::Evidence::Search(search) => return found(*search, session),
        args::Evidence::Prove(prove) => return proof(prove, session),
        args::Evidence::Sample(args::Sample::Commit { commitment, tenant }) => {
            let path = with_query(&paths::evidence_sample(&tenant.tenant), &SampleQuery { commitment })?;
            let committed: SampleCommitted = session.client()?.get(&path)?;
            session.output.say(&format!("Committed in leaf {}. Keep this checkpoint; draw with:", committed.leaf));
            session.output.say(&format!(
                "  cogward evidence sample draw DIRECTORY --nonce NONCE --count N --size {}",
                committed.size
            ));
            session.output.data(committed.checkpoint.as_bytes())?;
        }
        args::Evidence::Sample(args::Sample::Draw { directory, nonce, count, size, disclose, reason, tenant }) => {
            let (nonce, count, size) = (Some(nonce), Some(count), Some(size));
            let (disclose, reason) = (disclose.then_some(true), reason.reason);
            let query = ExportQuery { nonce, count, size, disclose, reason, ..ExportQuery::default() };
            exported(&directory, &with_query(&paths::evidence_export(&tenant.tenant), &query)?, session)?;
        }
        args::Evidence::Reindex { reason } => {
            let asked: EvidenceIndex =
                session.client()?.post(paths::EVIDENCE_REINDEX, &Reason { reason: reason.reason })?;
            if asked.rebuilding {
                session.output.say("The index is being made anew. `cogward evidence search` says how far it is.");
            }
        }
        args::Evidence::Export { directory, part, tenant } => {
            let query = part_query(*part);
            exported(&directory, &with_query(&paths::evidence_export(&tenant.tenant), &query)?, session)?;
        }
        args::Evidence::Archive(command) => return archive::run(command, session),
        args::Evidence::Redact(command) => return redactions::redact(command, session),
        args::Evidence::Keys(command) => return keys::run(command, session),
        args::Evidence::Hold(command) => return redactions::hold(command, session),
        args::Evidence::Retain { dry_run, tenant, reason } => {
            return redactions::retain(dry_run, &tenant, reason.reason, session);
        }
        args::Evidence::Status => {
            let status: EvidenceStatus = session.client()?.get(paths::EVIDENCE_STATUS)?;
            session.output.one(&status)?;
        }
        args::Evidence::Checkpoint { exchange: Some(args::Exchange::Export { old }), .. } => {
            let query = WitnessRequestQuery { old };
            let path = paths::with_query(paths::WITNESS_REQUEST, &query);
            let path = path.map_err(|error| Failure::usage(error.to_string()))?;
            let text = whole(session.client()?.read(&path, "text/plain")?)?;
            session.output.data(&text)?;
        }
        args::Evidence::Checkpoint { exchange: Some(args::Exchange::Import { file }), .. } => {
            let note = super::read_text(&file, "the cosigned checkpoint", NOTE_BYTES_MAX)?;
            let status: EvidenceStatus = session.client()?.post(paths::COSIGNATURES, &Cosignatures { note })?;
            session.output.one(&status)?;
        }
        args::Evidence::Timestamp(command) => return timestamps::run(command, session),
        args::Evidence::Checkpoint { tenant, exchange: None } => {
            let text = whole(session.client()?.read(&paths::evidence_checkpoint(&tenant.tenant), "text/plain")?)?;
            session.output.data(&text)?;
        }
    }
    Ok(Exit::Done)
}

fn whole(answer: impl Read) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let read = answer.take(CHECKPOINT_BYTES_MAX).read_to_end(&mut text);
    read.map_err(|error| Failure::new(Exit::Unreachable, format!("the plane broke off: {error}")))?;
    Ok(text)
}

/// Asks for a pack and unpacks it.
fn exported(directory: &Path, path: &str, session: &mut Session<'_>) -> Result<(), Failure> {
    // Refused before anything is asked: the request itself goes into the evidence.
    not_there(directory)?;
    let pack = session.client()?.read(path, TAR)?;
    let files = unpack_whole(pack, directory).map_err(|error| {
        Failure::local(format!("cannot export into {}", directory.display()), error)
            .next("nothing was left behind; repeat the command")
    })?;
    session.output.say(&format!("{files} files. Verify them, offline, with:"));
    session.output.say(&format!("  cogward-verify {} --key KEY", directory.display()));
    session.output.say("KEY is the log's public key, kept elsewhere than in the pack: docs/evidence.md");
    // Said of the plane, not proven by it: the proof is in the pack, which is here by now.
    if let Ok(status) = session.client()?.get::<EvidenceStatus>(paths::EVIDENCE_STATUS) {
        session.output.say(&crate::show::witnessed(&status));
    }
    session.output.line(&directory.display().to_string())
}

fn not_there(path: &Path) -> Result<(), Failure> {
    if path.symlink_metadata().is_ok() {
        return Err(Failure::new(Exit::Conflict, format!("{} exists already", path.display()))
            .next("name one that does not exist yet"));
    }
    Ok(())
}

fn part_query(part: args::EvidencePart) -> ExportQuery {
    let args::EvidencePart {
        run,
        agent,
        tool,
        tool_server,
        approval,
        kind,
        user,
        pseudonym,
        from,
        to,
        disclose,
        reason,
    } = part;
    let (since, until) = (from, to);
    let (disclose, reason) = (disclose.then_some(true), reason.reason);
    ExportQuery {
        run,
        since,
        until,
        agent,
        tool,
        tool_server,
        approval,
        kind,
        user,
        pseudonym,
        disclose,
        reason,
        ..ExportQuery::default()
    }
}

/// Searches to the end, or to the limit. Where it stopped goes to standard error, so that it can be gone on with.
fn found(search: args::EvidenceSearch, session: &mut Session<'_>) -> Result<Exit, Failure> {
    let (wanted, tenant) = (search.limit.count().unwrap_or(FOUND_DEFAULT), search.tenant.tenant);
    let mut query = EvidenceQuery {
        agent: search.agent,
        version: search.version,
        user: search.user,
        pseudonym: search.pseudonym,
        run: search.run,
        tool: search.tool,
        tool_server: search.tool_server,
        kind: search.kind,
        decision: search.decision,
        policy: search.policy,
        approval: search.approval,
        since: search.from,
        until: search.to,
        limit: None,
        cursor: search.cursor,
    };
    let mut leaves: Vec<EvidenceLeaf> = Vec::new();
    let current = loop {
        let left = wanted.saturating_sub(leaves.len()).min(cogward_api::PAGE_ITEMS_MAX as usize);
        query.limit = u32::try_from(left).ok();
        let path = with_query(&paths::evidence_search(&tenant), &query)?;
        let page: EvidenceFound = session.client()?.get(&path)?;
        leaves.extend(page.items);
        // A cursor that does not move would be followed for ever.
        let moves = page.next_cursor.is_some() && page.next_cursor != query.cursor;
        query.cursor = page.next_cursor;
        if leaves.len() >= wanted || !moves {
            break page.current;
        }
    };
    session.output.list(&leaves)?;
    let more = query.cursor.map(|cursor| format!("; there may be more: --cursor {cursor}")).unwrap_or_default();
    session.output.say(&format!("{} found; the index is current up to {current} leaves{more}", leaves.len()));
    Ok(Exit::Done)
}

fn proof(prove: args::Prove, session: &mut Session<'_>) -> Result<Exit, Failure> {
    let (path, to) = match prove {
        args::Prove::Inclusion { leaf, to, tenant } => (paths::leaf_proof(&tenant.tenant, leaf), to.file),
        args::Prove::Consistency { old, new, to, tenant } => {
            (with_query(&paths::consistency_proof(&tenant.tenant), &ConsistencyQuery { old, new })?, to.file)
        }
        args::Prove::Run { run, to } => (paths::run_proof(run), to.file),
    };
    if let Some(file) = &to {
        not_there(file)?;
    }
    let mut text = Vec::new();
    let read = session.client()?.read(&path, "text/plain")?.take(PROOF_BYTES_MAX).read_to_end(&mut text);
    read.map_err(|error| Failure::new(Exit::Unreachable, format!("the plane broke off: {error}")))?;
    let Some(file) = to else {
        session.output.data(&text)?;
        return Ok(Exit::Done);
    };
    let write = || {
        let mut made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
        made.write_all(&text)?;
        made.sync_all()
    };
    write().map_err(|error| Failure::local(format!("cannot write {}", file.display()), error))?;
    session.output.say(&format!("Verify it, offline, with: cogward-verify proof {} --key KEY", file.display()));
    session.output.line(&file.display().to_string())?;
    Ok(Exit::Done)
}

fn with_query(path: &str, query: &impl serde::Serialize) -> Result<String, Failure> {
    paths::with_query(path, query).map_err(|error| Failure::local("cannot make the request", error))
}

/// Unpacks into a directory beside `directory` and renames it at the end, so that a pack that broke
/// off never looks like one. Returns the number of files.
fn unpack_whole(pack: impl Read, directory: &Path) -> io::Result<u64> {
    let name = directory.file_name().ok_or_else(|| io::Error::other("it has no name"))?;
    let parent = directory.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let mut unfinished = name.to_owned();
    unfinished.push(format!(".unfinished-{}", std::process::id()));
    let unfinished = parent.join(unfinished);
    fs::DirBuilder::new().mode(0o700).create(&unfinished)?;
    let done = unpack(pack, &unfinished).and_then(|files| {
        if directory.symlink_metadata().is_ok() {
            return Err(io::Error::other("it has come into being meanwhile"));
        }
        fs::rename(&unfinished, directory).map(|()| files)
    });
    if done.is_err() {
        let _gone = fs::remove_dir_all(&unfinished);
    }
    done
}

/// Unpacks plain files and directories. A path that leaves the directory, a link, a device: refused,
/// for a pack is read by those who do not trust its sender.
fn unpack(pack: impl Read, directory: &Path) -> io::Result<u64> {
    let mut archive = tar::Archive::new(pack);
    let mut files = 0;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = inside(&entry.path()?)?;
        match entry.header().entry_type() {
            tar::EntryType::Directory => fs::create_dir_all(directory.join(path))?,
            tar::EntryType::Regular => {
                let target = directory.join(path);
                if let Some(parent) = target.parent() {
                    fs::create_dir_all(parent)?;
                }
                let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target)?;
                let wanted = entry.header().size()?;
                if io::copy(&mut entry, &mut file)? != wanted {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                }
                file.sync_all()?;
                files += 1;
            }
            other => return Err(io::Error::other(format!("the pack has an entry of kind {other:?}"))),
        }
    }
    if files == 0 {
        return Err(io::Error::other("the pack is empty"));
    }
    // What follows the last entry must come to its end too, or the pack broke off.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(files)
}

fn inside(path: &Path) -> io::Result<PathBuf> {
    let plain = path.components().filter(|part| *part != Component::CurDir);
    let mut clean = PathBuf::new();
    for part in plain {
        match part {
            Component::Normal(name) => clean.push(name),
            _ => return Err(io::Error::other(format!("the pack has a path that leaves it: {}", path.display()))),
        }
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, data) in entries {
            let mut header = tar::Header::new_ustar();
            // Written by hand: the library refuses to write the paths that this test is about.
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(data.len() as u64);
            header.set_cksum();
            builder.append(&header, data.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn a_pack_is_unpacked_whole_or_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let good =
            pack(&[("./checkpoint", tar::EntryType::Regular, "note"), ("tile/0/000", tar::EntryType::Regular, "x")]);
        let target = home.path().join("out");
        assert_eq!(unpack_whole(good.as_slice(), &target).unwrap(), 2);
        assert_eq!(fs::read_to_string(target.join("tile/0/000")).unwrap(), "x");

        for cut in [100, 600, 1300] {
            let target = home.path().join(format!("cut-{cut}"));
            assert!(unpack_whole(&good[..cut], &target).is_err(), "{cut}");
            assert!(!target.exists());
        }
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_pack_cannot_write_outside_or_bring_links() {
        let home = tempfile::tempdir().unwrap();
        for (path, kind) in [
            ("../escape", tar::EntryType::Regular),
            ("/tmp/escape", tar::EntryType::Regular),
            ("a/../../escape", tar::EntryType::Regular),
            ("link", tar::EntryType::Symlink),
            ("hard", tar::EntryType::Link),
            ("device", tar::EntryType::Char),
        ] {
            let bad = pack(&[("ok", tar::EntryType::Regular, "x"), (path, kind, "")]);
            assert!(unpack_whole(bad.as_slice(), &home.path().join("out")).is_err(), "{path}");
        }
        let twice = pack(&[("a", tar::EntryType::Regular, "x"), ("a", tar::EntryType::Regular, "y")]);
        assert!(unpack_whole(twice.as_slice(), &home.path().join("out")).is_err());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }
}
