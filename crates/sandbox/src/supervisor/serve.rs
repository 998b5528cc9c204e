//! The life of a supervised run: one poll, one turn for whatever is ready, until the end.

use std::{
    fs::File,
    io::Write,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::Signal,
};

use super::{
    clients::Clients,
    launch::{Sandbox, reap_all},
    logs::Log,
    record,
    violations::Violations,
};
use crate::{
    cgroup::Counters,
    native::{
        control::{self, FromSandbox},
        seccomp, sys,
    },
    protocol::{Answer, Command, Frame, Hello, PROTOCOL, Phase, SOCKET},
    spec::{Exit, ExitCause, KillReport, LaunchSpec, Usage},
};

/// Refused calls answered in one turn of the loop: commands must not wait behind a flood.
const REFUSALS_PER_TURN: usize = 64;
/// Time for the last frames to reach a plane that reads slowly.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// How often limits are looked at that do not announce themselves.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// Time that the plane has to end a run whose wall clock is over, in its own orderly way, before this does.
const PLANE_FIRST: Duration = Duration::from_secs(10);

/// How long a held agent waits without any plane. A launch that nobody remembers ends then; it never ran.
const UNCLAIMED_MAX: Duration = Duration::from_secs(600);

/// A descriptor that was ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ready {
    Control,
    Init,
    Refusals,
    Limits,
    Stdout,
    Stderr,
    Connection,
    Client,
}

/// How the agent's main process ended.
#[derive(Debug, Clone, Copy, Default)]
struct Ended {
    code: Option<i32>,
    signal: Option<i32>,
}

/// One run and everything about it.
#[derive(Debug)]
pub struct Supervisor {
    run_dir: PathBuf,
    output_name: String,
    grace: Duration,
    sandbox: Sandbox,
    clients: Clients,
    stdout: Option<Log>,
    stderr: Option<Log>,
    violations: Violations,
    counted: Counters,
    phase: Phase,
    started: Option<Instant>,
    deadline: Option<Instant>,
    wall_clock: Duration,
    expires: Option<Instant>,
    next_count: Option<Instant>,
    unclaimed: Option<Instant>,
    ended: Option<Ended>,
    cause: Option<ExitCause>,
    detail: Option<String>,
    killed: Option<KillReport>,
}

impl Supervisor {
    /// Takes over a complete sandbox.
    pub fn new(spec: &LaunchSpec, sandbox: Sandbox, clients: Clients) -> Self {
        let log = |pipe, name: &str, last| Log::new(pipe, &spec.run_dir.join(name), last).ok();
        Self {
            stdout: log(&sandbox.begun.stdout, "stdout.log", true),
            stderr: log(&sandbox.begun.stderr, "stderr.log", false),
            run_dir: spec.run_dir.clone(),
            output_name: spec.output_name().to_owned(),
            grace: spec.grace,
            sandbox,
            clients,
            violations: Violations::default(),
            counted: Counters::default(),
            phase: Phase::Held,
            started: None,
            deadline: None,
            wall_clock: spec.wall_clock,
            expires: None,
            next_count: None,
            unclaimed: None,
            ended: None,
            cause: None,
            detail: None,
            killed: None,
        }
    }

    /// Runs to the end of the run.
    pub fn run(mut self) {
        self.greet(usize::MAX);
        while self.ended.is_none() {
            for ready in self.wait() {
                self.turn(ready);
            }
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.deadline = None;
                self.cause = Some(ExitCause::GraceExpired);
                self.kill();
            }
            if self.expires.is_some_and(|expires| Instant::now() >= expires) {
                self.expires = None;
                self.cause = Some(ExitCause::TimeExpired);
                self.kill();
            }
            if self.next_count.is_some_and(|due| Instant::now() >= due) {
                self.count_limits();
                self.next_count = Some(Instant::now() + COUNT_EVERY);
            }
            self.clients.flush();
            self.clients.forget_gone();
            self.claim();
        }
        self.finish();
    }

    /// Ends a held run that no plane has been connected to for long.
    fn claim(&mut self) {
        if self.phase != Phase::Held || self.clients.any() {
            self.unclaimed = None;
        } else if Instant::now() >= *self.unclaimed.get_or_insert_with(|| Instant::now() + UNCLAIMED_MAX) {
            self.cause = Some(ExitCause::LaunchFailed);
            self.detail = Some("no plane let the agent start within ten minutes".to_owned());
            self.kill();
        }
    }

    fn wait(&self) -> Vec<Ready> {
        let now = Instant::now();
        let mut wake = [self.deadline, self.next_count, self.unclaimed, self.expires].into_iter().flatten().min();
        let mut fds = Vec::with_capacity(16);
        let mut names = Vec::with_capacity(16);
        let mut add = |name, fd, flags| {
            names.push(name);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        };
        let begun = &self.sandbox.begun;
        add(Ready::Control, begun.control.as_fd(), PollFlags::IN);
        add(Ready::Init, begun.pidfd.as_fd(), PollFlags::IN);
        add(Ready::Refusals, self.sandbox.refusals.as_fd(), PollFlags::IN);
        for (fd, flags) in self.sandbox.cgroup.watched() {
            add(Ready::Limits, fd, flags);
        }
        for (name, log) in [(Ready::Stdout, &self.stdout), (Ready::Stderr, &self.stderr)] {
            match log.as_ref().map(|log| log.watched(now)) {
                Some(Ok(fd)) => add(name, fd, PollFlags::IN),
                Some(Err(Some(time))) => wake = Some(wake.map_or(time, |w| w.min(time))),
                _ => {}
            }
        }
        let (listener, clients) = self.clients.watched();
        add(Ready::Connection, listener, PollFlags::IN);
        for (fd, writing) in clients {
            add(Ready::Client, fd, if writing { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN });
        }
        let timeout = wake.and_then(|w| Timespec::try_from(w.saturating_duration_since(now)).ok());
        if poll(&mut fds, timeout.as_ref()).is_err() {
            return Vec::new();
        }
        let mut ready = Vec::new();
        for (name, fd) in names.iter().zip(&fds) {
            // The filter's descriptor hangs up when nobody is under it any more; only its input matters.
            let matters = match name {
                Ready::Refusals => fd.revents().contains(PollFlags::IN),
                _ => !fd.revents().is_empty(),
            };
            if matters && !ready.contains(name) {
                ready.push(*name);
            }
        }
        if ready.is_empty() && fds.iter().any(|fd| !fd.revents().is_empty()) {
            // Only hang-ups that nothing follows from; the end of init is about to be reported.
            std::thread::sleep(Duration::from_millis(1));
        }
        ready
    }

    fn turn(&mut self, ready: Ready) {
        match ready {
            Ready::Control => self.hear(),
            Ready::Init => {
                reap_all();
                // What init said before it died still counts, such as how the agent ended.
                self.hear();
                self.ended.get_or_insert_default();
            }
            Ready::Refusals => self.refuse(),
            Ready::Limits => self.count_limits(),
            Ready::Stdout => self.stdout.iter_mut().for_each(Log::turn),
            Ready::Stderr => self.stderr.iter_mut().for_each(Log::turn),
            Ready::Connection => {
                let new = self.clients.accept();
                if new > 0 {
                    self.greet(new);
                }
            }
            Ready::Client => {
                for (place, request) in self.clients.requests() {
                    let answer = self.command(request.command);
                    self.clients.send(place, &Frame::Answer(request.id, answer));
                }
            }
        }
    }

    fn greet(&mut self, count: usize) {
        let hello = Hello {
            protocol: PROTOCOL,
            supervisor: std::process::id(),
            outcome: Ok(self.phase),
            enforcement: Some(self.sandbox.enforcement.clone()),
            listeners: true,
        };
        let listeners: Vec<_> = self.sandbox.listeners.iter().map(AsFd::as_fd).collect();
        self.clients.greet(count, &Frame::Hello(Box::new(hello)), &listeners);
        self.report(false);
    }

    /// One message of the sandbox, if there is one.
    fn hear(&mut self) {
        let mut fds = [PollFd::new(&self.sandbox.begun.control, PollFlags::IN)];
        let nothing = Timespec { tv_sec: 0, tv_nsec: 0 };
        while matches!(poll(&mut fds, Some(&nothing)), Ok(1)) {
            match control::receive::<FromSandbox>(self.sandbox.begun.control.as_fd()) {
                Ok(Some((FromSandbox::AgentEnded { code, signal }, _))) => self.ended = Some(Ended { code, signal }),
                Ok(Some((FromSandbox::NotExecutable { why }, _))) => {
                    self.cause = Some(ExitCause::NotExecutable);
                    self.detail = Some(why);
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    self.ended.get_or_insert_default();
                    return;
                }
            }
        }
    }

    fn refuse(&mut self) {
        let listener = self.sandbox.refusals.as_fd();
        for _ in 0..REFUSALS_PER_TURN {
            let mut fds = [PollFd::from_borrowed_fd(listener, PollFlags::IN)];
            let nothing = Timespec { tv_sec: 0, tv_nsec: 0 };
            if !matches!(poll(&mut fds, Some(&nothing)), Ok(1)) || !fds.iter().any(|f| f.revents() == PollFlags::IN) {
                break;
            }
            match sys::seccomp_receive(listener) {
                Ok(Some(refused)) => {
                    let _ = sys::seccomp_refuse(listener, refused);
                    self.violations.add("seccomp", "deny", &seccomp::name(refused.number), 1);
                }
                Ok(None) => {}
                Err(_) => break,
            }
        }
        self.report(false);
    }

    fn count_limits(&mut self) {
        let now = self.sandbox.cgroup.counters();
        let more = |new: u64, old: u64| new.saturating_sub(old);
        match more(now.out_of_memory, self.counted.out_of_memory) {
            0 => {}
            n => self.violations.add("cgroup", "kill", "memory", n),
        }
        match more(now.forks_refused, self.counted.forks_refused) {
            0 => {}
            n => self.violations.add("cgroup", "deny", "pids", n),
        }
        self.counted = now;
        self.report(false);
    }

    /// Reports what is due, if anyone listens; otherwise it stays due.
    fn report(&mut self, all: bool) {
        if self.clients.any() {
            for violation in self.violations.due(all) {
                self.clients.broadcast(&Frame::Violation(violation));
            }
        }
    }

    fn command(&mut self, command: Command) -> Answer {
        let refused = |phase: Phase| Answer::Refused(format!("the run is {phase:?}").to_lowercase());
        if self.ended.is_some() && !matches!(command, Command::Usage | Command::Kill) {
            return Answer::Refused("the run has ended".to_owned());
        }
        match (command, self.phase) {
            (Command::TakeInput, Phase::Held) => match self.sandbox.late.take() {
                Some(places) => self.take_input(places),
                None => Answer::Refused("the agent has its input".to_owned()),
            },
            (Command::Start, Phase::Held) if self.sandbox.late.is_some() => {
                Answer::Refused("the agent has not been given its input".to_owned())
            }
            (Command::Start, Phase::Held) => match rustix::io::write(&self.sandbox.begun.start, b"1") {
                Ok(1) => {
                    self.phase = Phase::Running;
                    self.started = Some(Instant::now());
                    self.expires = Instant::now().checked_add(self.wall_clock.saturating_add(PLANE_FIRST));
                    self.next_count = self.sandbox.cgroup.counts_silently().then(|| Instant::now() + COUNT_EVERY);
                    Answer::Done
                }
                _ => Answer::Refused("the agent's process is gone".to_owned()),
            },
            (Command::Suspend, Phase::Running) => {
                let begin = Instant::now();
                match self.sandbox.cgroup.freeze() {
                    Ok(()) => {
                        self.phase = Phase::Suspended;
                        Answer::Frozen(micros(begin))
                    }
                    Err(e) => Answer::Refused(e.to_string()),
                }
            }
            (Command::Resume, Phase::Suspended) => match self.sandbox.cgroup.thaw() {
                Ok(()) => {
                    self.phase = Phase::Running;
                    Answer::Done
                }
                Err(e) => Answer::Refused(e.to_string()),
            },
            (Command::Terminate, Phase::Held | Phase::Running | Phase::Suspended) => {
                // The grace period runs even when the signal could not be sent.
                self.phase = Phase::Stopping;
                self.cause = Some(ExitCause::Terminated);
                self.deadline = Some(Instant::now() + self.grace);
                match self.sandbox.cgroup.signal_all(Signal::TERM, self.sandbox.begun.pid) {
                    Ok(()) => Answer::Done,
                    Err(e) => Answer::Refused(format!("{e}; it will be killed after its grace period")),
                }
            }
            (Command::Terminate, Phase::Stopping) => Answer::Done,
            (Command::Kill, _) => {
                if self.ended.is_none() {
                    self.cause = Some(ExitCause::Killed);
                }
                Answer::Killed(self.kill())
            }
            (Command::Usage, _) => Answer::Usage(self.usage()),
            (_, phase) => refused(phase),
        }
    }

    /// Writes the input that was put into the run directory to where the agent will read it. Once: an agent whose
    /// input is not whole is not let go any more.
    fn take_input(&mut self, [file, stdin]: [OwnedFd; 2]) -> Answer {
        let write = |to: OwnedFd, bytes: &[u8]| File::from(to).write_all(bytes);
        let taken = record::late_input(&self.run_dir)
            .and_then(|input| write(file, &input.file).and_then(|()| write(stdin, &input.stdin)));
        let Err(error) = taken else { return Answer::Done };
        let why = format!("its input was not taken: {error}");
        self.cause = Some(ExitCause::LaunchFailed);
        self.detail = Some(why.clone());
        self.kill();
        Answer::Refused(why)
    }

    /// Kills everything and proves it. Ends the loop.
    fn kill(&mut self) -> KillReport {
        if let Some(report) = self.killed {
            return report;
        }
        let begin = Instant::now();
        let (processes, empty) = self.sandbox.cgroup.kill(reap_all);
        let report = KillReport { processes, micros: micros(begin), empty };
        self.killed = Some(report);
        self.hear();
        self.ended.get_or_insert(Ended { code: None, signal: Some(Signal::KILL.as_raw()) });
        report
    }

    fn usage(&self) -> Usage {
        let (cpu, peak) = self.sandbox.cgroup.usage();
        let logs = || [&self.stdout, &self.stderr].into_iter().flatten();
        Usage {
            cpu_micros: cpu.unwrap_or_default(),
            memory_peak_bytes: peak.unwrap_or_default(),
            wall_micros: self.started.map(micros).unwrap_or_default(),
            stdout_bytes: self.stdout.as_ref().map_or(0, |log| log.total),
            stderr_bytes: self.stderr.as_ref().map_or(0, |log| log.total),
            log_bytes_dropped: logs().map(Log::dropped).sum(),
        }
    }

    /// Ends what is left, collects, records, tells, cleans up.
    fn finish(mut self) {
        let report = self.kill();
        self.stdout.iter_mut().chain(self.stderr.iter_mut()).for_each(Log::drain);
        self.count_limits();
        let usage = self.usage();
        let ended = self.ended.unwrap_or_default();
        let cause = self.cause.unwrap_or(match (ended.code, ended.signal) {
            (Some(_), _) => ExitCause::Exited,
            _ if self.counted.out_of_memory > 0 => ExitCause::OutOfMemory,
            _ => ExitCause::Signalled,
        });
        let mut detail = self.detail.take();
        let from_file = record::collect(&self.sandbox.work, &self.output_name).unwrap_or_else(|error| {
            detail.get_or_insert(format!("the output file was not taken: {error}"));
            None
        });
        let output = from_file.or_else(|| self.stdout.as_mut().and_then(Log::last_line));
        let exit = Exit { code: ended.code, signal: ended.signal, cause, usage, output, empty: report.empty, detail };
        if let Err(error) = record::write_exit(&self.run_dir, &exit) {
            eprintln!("cogward supervise: {}: {error}", record::EXIT_FILE);
        }
        self.sandbox.cgroup.remove();
        self.clients.accept();
        // An answer that waits, such as to the kill, is before this frame on the same connection.
        self.report(true);
        self.clients.broadcast(&Frame::Exit(Box::new(exit)));
        self.farewell();
        let _ = std::fs::remove_file(self.run_dir.join(SOCKET));
    }

    fn farewell(&mut self) {
        let deadline = Instant::now() + FAREWELL_MAX;
        loop {
            self.clients.flush();
            self.clients.forget_gone();
            let (_, clients) = self.clients.watched();
            let mut fds: Vec<_> = clients
                .into_iter()
                .filter(|(_, writing)| *writing)
                .map(|(fd, _)| PollFd::from_borrowed_fd(fd, PollFlags::OUT))
                .collect();
            let left = deadline.saturating_duration_since(Instant::now());
            if fds.is_empty() || left.is_zero() || poll(&mut fds, Timespec::try_from(left).ok().as_ref()).is_err() {
                return;
            }
        }
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
