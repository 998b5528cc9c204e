//! What is left of a run: its output and `exit.json`, on disk before the supervisor goes.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use cogward_model::limits;

use super::clients::Clients;
use crate::{
    protocol::{Frame, Hello, LaunchFailure, PROTOCOL},
    spec::{Exit, ExitCause, LATE_FILE_BYTES_MAX, LateInput, Usage},
};

/// The end of a run, in its directory.
pub const EXIT_FILE: &str = "exit.json";
/// The output of a run, in its directory.
pub const OUTPUT_FILE: &str = "output";
/// File of the run directory that an input which comes late is in until it is taken.
pub const LATE_INPUT_FILE: &str = "late-input.json";
/// Largest of these files: base64 takes a third more.
const LATE_INPUT_BYTES_MAX: u64 = 2 * (LATE_FILE_BYTES_MAX + limits::RUN_INPUT_BYTES_MAX) as u64;

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
        output_refused: None,
        artifacts: Vec::new(),
        violations: Vec::new(),
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
        proof: None,
        listeners: false,
        streams: false,
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
