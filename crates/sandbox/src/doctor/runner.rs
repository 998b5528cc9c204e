//! Runs probes: each in a process of its own with a time limit. One that hangs is missing, and holds up nothing.

use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, WaitOptions, kill_process, set_parent_process_death_signal, waitpid},
};

use super::{Check, environment::Facts, reasons};
use crate::native::sys;

/// Time for one probe unless it says otherwise.
pub const ONE_MAX: Duration = Duration::from_secs(2);
/// Time for all probes together: what is not begun by then is missing.
const ALL_MAX: Duration = Duration::from_secs(40);
/// How long the end of a killed probe is waited for. One that the kernel holds on to is left behind.
const REAP_MAX: Duration = Duration::from_millis(200);

/// One mechanism, tried by doing it.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// Its name, which profiles name what they need by.
    pub mechanism: &'static str,
    /// What makes it work where nothing of this host says more.
    pub fix: &'static str,
    /// How long it may take.
    pub most: Duration,
    /// Does it. The process that it runs in is thrown away, so it may restrict itself for good.
    pub run: fn() -> Result<String, String>,
}

impl Probe {
    /// A probe that may take [`ONE_MAX`].
    pub const fn new(mechanism: &'static str, fix: &'static str, run: fn() -> Result<String, String>) -> Self {
        Self { mechanism, fix, most: ONE_MAX, run }
    }
}

/// Does every probe, one after the other.
pub fn all(probes: impl IntoIterator<Item = Probe>, facts: &Facts) -> Vec<Check> {
    let deadline = Instant::now() + ALL_MAX;
    probes
        .into_iter()
        .map(|probe| {
            let begin = Instant::now();
            let left = deadline.saturating_duration_since(begin).min(probe.most);
            let result = if left.is_zero() {
                Err("it was not tried: the probes before it took all the time".to_owned())
            } else {
                isolated(probe.run, left)
            };
            let micros = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
            check(&probe, result, micros, facts)
        })
        .collect()
}

fn check(probe: &Probe, result: Result<String, String>, micros: u64, facts: &Facts) -> Check {
    let mechanism = probe.mechanism.to_owned();
    match result {
        Ok(detail) => Check { mechanism, ok: true, detail, fix: None, micros },
        Err(answer) => match reasons::explain(probe.mechanism, &answer, facts) {
            Some(reason) => {
                let detail = format!("{answer}: {}", reason.because);
                Check { mechanism, ok: false, detail, fix: Some(reason.fix), micros }
            }
            None => Check { mechanism, ok: false, detail: answer, fix: Some(probe.fix.to_owned()), micros },
        },
    }
}

/// Runs a probe in a process of its own, at most so long.
fn isolated(probe: fn() -> Result<String, String>, most: Duration) -> Result<String, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| text(&e))?;
    let Some(child) = sys::fork().map_err(|e| text(&e))? else {
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
        let result = std::panic::catch_unwind(probe).unwrap_or_else(|_| Err("the probe panicked".to_owned()));
        let bytes = serde_json::to_vec(&result).unwrap_or_default();
        let _ = std::fs::File::from(write).write_all(&bytes);
        sys::exit_now(0);
    };
    drop(write);
    let mut fds = [PollFd::new(&read, PollFlags::IN)];
    let answered = poll(&mut fds, Timespec::try_from(most).ok().as_ref());
    let mut bytes = Vec::new();
    if matches!(answered, Ok(1)) {
        // The answer is one small write; more never follows.
        let mut chunk = [0; 4096];
        let n = std::fs::File::from(read).read(&mut chunk).unwrap_or_default();
        bytes.extend_from_slice(chunk.get(..n).unwrap_or_default());
    }
    if let Some(pid) = Pid::from_raw(child.as_raw()) {
        end(pid);
    }
    match answered {
        Ok(1) => serde_json::from_slice(&bytes).unwrap_or_else(|_| Err("the probe died".to_owned())),
        _ => Err(format!("the probe hung: it had not answered after {} ms", most.as_millis())),
    }
}

/// Kills a probe and reaps it, unless the kernel does not let go of it.
fn end(pid: Pid) {
    let _ = kill_process(pid, Signal::KILL);
    let deadline = Instant::now() + REAP_MAX;
    while let Ok(None) = waitpid(Some(pid), WaitOptions::NOHANG) {
        if Instant::now() >= deadline {
            return;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}
