//! What is left of a run: its output and `exit.json`, on disk before the supervisor goes.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::Path,
};

use cogward_model::limits;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};

use super::clients::Clients;
use crate::{
    protocol::{Frame, Hello, LaunchFailure, PROTOCOL},
    spec::{Exit, ExitCause, LATE_FILE_BYTES_MAX, LateInput, OUTPUT_BYTES_MAX, Usage},
};

/// The end of a run, in its directory.
pub const EXIT_FILE: &str = "exit.json";
/// The output of a run, in its directory.
pub const OUTPUT_FILE: &str = "output";
/// File of the run directory that an input which comes late is in until it is taken.
pub const LATE_INPUT_FILE: &str = "late-input.json";
/// Largest of these files: base64 takes a third more.
const LATE_INPUT_BYTES_MAX: u64 = 2 * (LATE_FILE_BYTES_MAX + limits::RUN_INPUT_BYTES_MAX) as u64;

/// Reads the output file out of the workspace. Only once no process of the run is left, so nothing changes below.
///
/// The agent made this tree: no link of it is followed, no pipe or device of it is opened for good.
pub fn collect(work: &OwnedFd, name: &str) -> io::Result<Option<Vec<u8>>> {
    let inside =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = match openat2(work, name, flags, Mode::empty(), inside) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    if FileType::from_raw_mode(fstat(&fd)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    let most = u64::try_from(OUTPUT_BYTES_MAX).unwrap_or(u64::MAX);
    File::from(fd).take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() > OUTPUT_BYTES_MAX {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(Some(bytes))
}

/// Writes the output and the end so that both survive a power cut. The end is last: where it is, all is there.
pub fn write_exit(run_dir: &Path, exit: &Exit) -> io::Result<()> {
    if let Some(output) = &exit.output {
        durable(run_dir, OUTPUT_FILE, output)?;
    }
    durable(run_dir, EXIT_FILE, &serde_json::to_vec_pretty(exit)?)
}

fn durable(run_dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = run_dir.join(format!(".{name}.new"));
    let mut file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, run_dir.join(name))?;
    File::open(run_dir)?.sync_all()
}

/// Records a launch that failed and tells who waits for it.
pub fn launch_failed(run_dir: &Path, clients: &mut Clients, failure: &LaunchFailure) {
    let exit = Exit {
        code: None,
        signal: None,
        cause: ExitCause::LaunchFailed,
        usage: Usage::default(),
        output: None,
        empty: true,
        detail: Some(failure.to_string()),
    };
    if let Err(error) = write_exit(run_dir, &exit) {
        eprintln!("cogward supervise: {EXIT_FILE}: {error}");
    }
    let hello = Hello {
        protocol: PROTOCOL,
        supervisor: std::process::id(),
        outcome: Err(failure.clone()),
        enforcement: None,
        listeners: false,
    };
    clients.accept();
    clients.greet(usize::MAX, &Frame::Hello(Box::new(hello)), &[]);
}

/// Reads the input that came late, and removes its file.
pub fn late_input(run_dir: &Path) -> io::Result<LateInput> {
    let path = run_dir.join(LATE_INPUT_FILE);
    let mut bytes = Vec::new();
    File::open(&path)?.take(LATE_INPUT_BYTES_MAX).read_to_end(&mut bytes)?;
    fs::remove_file(&path)?;
    let input: LateInput = serde_json::from_slice(&bytes)?;
    input.validate().map_err(io::Error::other)?;
    Ok(input)
}
