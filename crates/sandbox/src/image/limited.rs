//! A program of the host that reads an agent's files: with a limit for everything that it could use too much of.
#![expect(unsafe_code, reason = "what a child does between fork and exec has no safe interface")]

use std::{
    io::{self, Read},
    os::{fd::AsFd, unix::process::CommandExt},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit},
};

/// What is kept of what the program that makes images says.
const SAID_MAX: usize = 4 * 1024;
/// How long its end is waited for once it has closed its last stream.
const END_MAX: Duration = Duration::from_secs(5);
/// More than it needs for its own libraries and files.
const OPEN_FILES: u64 = 256;

/// What a program may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Time, by the clock and of the processor.
    pub time: Duration,
    /// Memory, in bytes.
    pub memory: u64,
    /// The largest file that it may write, in bytes.
    pub file: u64,
}

/// Runs it to its end. Answers with the last line that it said when it failed.
pub fn run(mut command: Command, limits: Limits) -> io::Result<()> {
    command.env_clear().current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: the closure runs in the child between fork and exec. It makes system calls alone (prctl, setrlimit): it
    // takes no lock, allocates nothing, and what it has captured is a copy of plain numbers.
    unsafe { command.pre_exec(move || bound(limits)) };
    let mut child = command.spawn()?;
    let said = listen(&mut child, Instant::now() + limits.time);
    if said.is_err() {
        let _gone = child.kill();
    }
    let ended = end(&mut child)?;
    let said = said?;
    if ended.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it failed without a word");
    let line: String = line.trim().chars().filter(|c| !c.is_control()).take(300).collect();
    Err(io::Error::other(format!("{ended}: {line}")))
}

fn bound(limits: Limits) -> io::Result<()> {
    // When the plane ends, so does what it has begun. What was written is swept at the next start.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let seconds = limits.time.as_secs().max(1);
    for (resource, limit) in [
        (Resource::Cpu, seconds),
        (Resource::As, limits.memory),
        (Resource::Fsize, limits.file),
        (Resource::Nofile, OPEN_FILES),
    ] {
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
    }
    // Where core files go to a program, that would run as the host's root.
    crate::native::crash::limit()
}

/// What it says until it closes its stream, the end of it at most.
fn listen(child: &mut Child, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut stream = child.stderr.take().ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?;
    let (mut said, mut chunk) = (Vec::new(), [0_u8; 1024]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::other("it was not done in time"));
        }
        let mut fds = [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(said),
            Ok(count) => {
                said.extend_from_slice(chunk.get(..count).unwrap_or_default());
                let over = said.len().saturating_sub(SAID_MAX);
                said.drain(..over);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reaps it. One that has closed its stream and goes on is killed.
fn end(child: &mut Child) -> io::Result<std::process::ExitStatus> {
    let deadline = Instant::now() + END_MAX;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            child.kill()?;
            return child.wait();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;
    const LIMITS: Limits = Limits { time: Duration::from_secs(20), memory: 512 * MIB, file: MIB };

    fn shell(script: &str, limits: Limits) -> String {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        run(command, limits).map_or_else(|e| e.to_string(), |()| "done".to_owned())
    }

    #[test]
    fn a_program_is_bounded_in_time_memory_and_what_it_writes() {
        assert_eq!(shell("exit 0", LIMITS), "done");
        assert!(shell("echo one >&2; echo last words >&2; exit 3", LIMITS).contains("3: last words"));
        let soon = Limits { time: Duration::from_millis(200), ..LIMITS };
        let begin = Instant::now();
        assert!(shell("sleep 60", soon).contains("in time"));
        assert!(shell("exec 2>&-; sleep 60", soon).contains("signal"), "it has closed its stream and goes on");
        assert!(begin.elapsed() < Duration::from_secs(30));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("large");
        let script = format!("exec head -c 3000000 /dev/zero > {}", file.display());
        assert_ne!(shell(&script, LIMITS), "done");
        assert!(file.metadata().unwrap().len() <= MIB);
        let program = "import sys\nx = bytearray(900 << 20)\n";
        assert_ne!(shell(&format!("exec /usr/bin/python3 -c '{program}'"), LIMITS), "done");
        assert!(
            shell("yes flood | head -c 3000000 >&2; exit 1", LIMITS).contains("flood"),
            "a flood does not block it"
        );
    }

    #[test]
    fn a_program_has_nothing_of_the_environment() {
        assert_eq!(shell("[ -z \"$HOME$CARGO\" ] && [ \"$(pwd)\" = / ]", LIMITS), "done");
    }
}
