//! `cogward evidence`.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Component, Path, PathBuf},
};

use cogward_api::{EvidenceLeaf, PageQuery, TAR, paths};

use super::{Session, redactions};
use crate::{
    args,
    exit::{Exit, Failure},
};

/// Largest signed checkpoint, in bytes: a note has a few lines per witness.
const CHECKPOINT_BYTES_MAX: u64 = 1024 * 1024;

pub fn run(command: args::Evidence, session: &mut Session<'_>) -> Result<Exit, Failure> {
    match command {
        args::Evidence::Show { run, limit } => {
            let path = paths::run_evidence(run);
            let leaves: Vec<EvidenceLeaf> = session.client()?.list(&path, &PageQuery::default(), limit.count())?;
            session.output.list(&leaves)?;
        }
        args::Evidence::Export { directory, tenant } => {
            // Refused before anything is asked: the request itself goes into the evidence.
            if directory.symlink_metadata().is_ok() {
                return Err(Failure::new(Exit::Conflict, format!("{} exists already", directory.display()))
                    .next("name a directory that does not exist yet"));
            }
            let pack = session.client()?.read(&paths::evidence_export(&tenant.tenant), TAR)?;
            let files = unpack_whole(pack, &directory).map_err(|error| {
                Failure::local(format!("cannot export into {}", directory.display()), error)
                    .next("nothing was left behind; repeat the command")
            })?;
            session.output.say(&format!("{files} files. Verify them, offline, with:"));
            session.output.say(&format!("  cogward-verify {}", directory.display()));
            session.output.line(&directory.display().to_string())?;
        }
        args::Evidence::Redact(command) => return redactions::redact(command, session),
        args::Evidence::Hold(command) => return redactions::hold(command, session),
        args::Evidence::Retain { dry_run, tenant, reason } => {
            return redactions::retain(dry_run, &tenant, reason.reason, session);
        }
        args::Evidence::Checkpoint { tenant } => {
            let note = session.client()?.read(&paths::evidence_checkpoint(&tenant.tenant), "text/plain")?;
            let mut text = Vec::new();
            let read = note.take(CHECKPOINT_BYTES_MAX).read_to_end(&mut text);
            read.map_err(|error| Failure::new(Exit::Unreachable, format!("the plane broke off: {error}")))?;
            session.output.data(&text)?;
        }
    }
    Ok(Exit::Done)
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
