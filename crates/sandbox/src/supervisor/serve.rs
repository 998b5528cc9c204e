//! The life of a supervised run: one poll, one turn for whatever is ready, until the end.

use std::{
    io,
    os::fd::AsFd,
    path::PathBuf,
    time::{Duration, Instant},
};

use cogward_model::{
    content::{Artifact, NotKept},
    manifest::Output,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::Signal,
};

use super::{
    artifacts,
    clients::Clients,
    launch::{Sandbox, reap_all},
    logs::Log,
    record,
    violations::Violations,
};
use crate::{
    attest::Attestation,
    cgroup::Counters,
    driver::Event,
    protocol::{Answer, Command, Frame, Hello, PROTOCOL, Phase, SOCKET},
    spec::{Exit, ExitCause, KillReport, LaunchSpec, OUTPUT_BYTES_MAX, Usage},
};

/// Time for the last frames to reach a plane that reads slowly.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// How often clients are looked at while outputs are kept.
const ATTEND_EVERY: Duration = Duration::from_millis(20);

/// How often limits are looked at that do not announce themselves.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// Time that the plane has to end a run whose wall clock is over, in its own orderly way, before this does.
const PLANE_FIRST: Duration = Duration::from_secs(10);

/// How long a held agent waits without any plane. A launch that nobody remembers ends then; it never ran.
const UNCLAIMED_MAX: Duration = Duration::from_secs(600);

/// A descriptor that was ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ready {
    /// One of the driver's, by its token.
    Carried(u32),
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
    outputs: Vec<Output>,
    /// The size of the workspace, which all outputs together do not exceed.
    workspace_bytes: u64,
    grace: Duration,
    /// The agent is not let go before its input has come.
    awaits_input: bool,
    /// It ends with the plane that has launched it.
    ends_with_plane: bool,
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
        let [out, err] = sandbox.carried.streams();
        // What a program of the operator's says is the plane's to read.
        let kept = spec.service.is_none();
        let log = |pipe, name: &str, last| kept.then(|| Log::new(pipe, &spec.run_dir.join(name), last).ok()).flatten();
        Self {
            stdout: log(out, "stdout.log", true),
            stderr: log(err, "stderr.log", false),
            run_dir: spec.run_dir.clone(),
            output_name: spec.output_name().to_owned(),
            outputs: spec.storage.outputs.clone(),
            workspace_bytes: u64::from(spec.resources.workspace_mib) * 1024 * 1024,
            grace: spec.grace,
            awaits_input: spec.late_input,
            ends_with_plane: spec.service.is_some(),
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
        if self.ends_with_plane && !self.clients.any() {
            self.cause = Some(ExitCause::Killed);
            self.kill();
            return;
        }
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
        let mut deaf = Vec::new();
        for watched in self.sandbox.carried.watched() {
            add(Ready::Carried(watched.token), watched.fd, watched.flags);
            if !watched.hang_up {
                deaf.push((watched.token, watched.flags));
            }
        }
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
            let matters = match deaf.iter().find(|(token, _)| *name == Ready::Carried(*token)) {
                Some((_, flags)) => fd.revents().intersects(*flags),
                None => !fd.revents().is_empty(),
            };
            if matters && !ready.contains(name) {
                ready.push(*name);
            }
        }
        if ready.is_empty() && fds.iter().any(|fd| !fd.revents().is_empty()) {
            // Only hang-ups that nothing follows from; the end of the sandbox is about to be reported.
            std::thread::sleep(Duration::from_millis(1));
        }
        ready
    }

    fn turn(&mut self, ready: Ready) {
        match ready {
            Ready::Carried(token) => {
                let mut events = Vec::new();
                self.sandbox.carried.turn(token, &mut events);
                self.take(events);
            }
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
        let streams = self.sandbox.carried.hand_over();
        let listeners = self.sandbox.carried.listeners();
        let hello = Hello {
            protocol: PROTOCOL,
            supervisor: std::process::id(),
            outcome: Ok(self.phase),
            enforcement: Some(self.sandbox.carried.enforcement().clone()),
            proof: Some(self.sandbox.proof.clone()),
            listeners: listeners.is_some(),
            streams: streams.is_some(),
        };
        let hello = Frame::Hello(Box::new(hello));
        match (&streams, &listeners) {
            (Some(streams), _) => self.clients.greet(count, &hello, &streams.each_ref().map(AsFd::as_fd)),
            (None, Some(listeners)) => self.clients.greet(count, &hello, listeners),
            (None, None) => self.clients.greet(count, &hello, &[]),
        }
        self.report(false);
    }

    /// What the sandbox told.
    fn take(&mut self, events: Vec<Event>) {
        let mut refused = false;
        for event in events {
            match event {
                Event::Ended { code, signal } => self.ended = Some(Ended { code, signal }),
                Event::NotExecutable { why } => {
                    self.cause = Some(ExitCause::NotExecutable);
                    self.detail = Some(why);
                }
                Event::Gone => {
                    reap_all();
                    self.ended.get_or_insert_default();
                }
                Event::Refused { layer, object, count } => {
                    self.violations.add(layer, "deny", &object, count);
                    refused = true;
                }
            }
        }
        if refused {
            self.report(false);
        }
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
            (Command::TakeInput, Phase::Held) => self.take_input(),
            (Command::Start, Phase::Held) if self.awaits_input => {
                Answer::Refused("the agent has not been given its input".to_owned())
            }
            (Command::Start, Phase::Held) => {
                let started = self.sandbox.carried.start();
                self.started(started)
            }
            (Command::StartWith(secret), Phase::Held) => {
                let started = self.sandbox.carried.start_with(secret.as_ref());
                self.started(started)
            }
            // Again as well: whoever asks a second time wants to be sure.
            (Command::Suspend, Phase::Running | Phase::Suspended) => {
                let begin = Instant::now();
                match self.sandbox.carried.suspend(&mut self.sandbox.cgroup) {
                    Ok(()) => {
                        self.phase = Phase::Suspended;
                        Answer::Frozen(micros(begin))
                    }
                    Err(e) => {
                        // What could not be frozen runs, and must be able to be frozen again.
                        self.phase = Phase::Running;
                        Answer::Refused(e.to_string())
                    }
                }
            }
            (Command::Resume, Phase::Suspended) => match self.sandbox.carried.resume(&mut self.sandbox.cgroup) {
                Ok(()) => {
                    self.phase = Phase::Running;
                    Answer::Done
                }
                Err(e) => {
                    // Half of it may run: it is as frozen as it is said to be, or it is said to run.
                    if self.sandbox.carried.suspend(&mut self.sandbox.cgroup).is_err() {
                        self.phase = Phase::Running;
                    }
                    Answer::Refused(e.to_string())
                }
            },
            (Command::Terminate, Phase::Held | Phase::Running | Phase::Suspended) => {
                // The grace period runs even when the signal could not be sent.
                self.phase = Phase::Stopping;
                self.cause = Some(ExitCause::Terminated);
                self.deadline = Some(Instant::now() + self.grace);
                match self.sandbox.carried.terminate(&mut self.sandbox.cgroup) {
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
            (Command::Attest, _) => match self.sandbox.carried.attest(&self.sandbox.cgroup) {
                Some(found) => {
                    Answer::Attested(Box::new(Attestation { violations: self.violations.totals(), ..found }))
                }
                None => Answer::Refused("the run is at its end".to_owned()),
            },
            (Command::Unknown, _) => Answer::Refused("this supervisor does not know the command".to_owned()),
            (_, phase) => refused(phase),
        }
    }

    fn started(&mut self, started: io::Result<()>) -> Answer {
        if let Err(error) = started {
            return Answer::Refused(error.to_string());
        }
        self.phase = Phase::Running;
        self.started = Some(Instant::now());
        self.expires = Instant::now().checked_add(self.wall_clock.saturating_add(PLANE_FIRST));
        self.next_count = self.sandbox.cgroup.counts_silently().then(|| Instant::now() + COUNT_EVERY);
        Answer::Done
    }

    /// Gives the agent the input that was put into the run directory. Once: an agent whose input is not whole is not
    /// let go any more.
    fn take_input(&mut self) -> Answer {
        if !std::mem::take(&mut self.awaits_input) {
            return Answer::Refused("the agent has its input".to_owned());
        }
        let given = record::late_input(&self.run_dir).and_then(|input| self.sandbox.carried.give_input(&input));
        let Err(error) = given else { return Answer::Done };
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
        let Sandbox { carried, cgroup, .. } = &mut self.sandbox;
        let (processes, empty) = carried.kill(cgroup, &mut reap_all);
        let report = KillReport { processes, micros: micros(begin), empty };
        self.killed = Some(report);
        let mut events = Vec::new();
        self.sandbox.carried.last_words(&mut events);
        self.take(events);
        self.ended.get_or_insert(Ended { code: None, signal: Some(Signal::KILL.as_raw()) });
        report
    }

    fn usage(&self) -> Usage {
        let (cpu, peak) = self.sandbox.carried.usage(&self.sandbox.cgroup);
        let (io_read_bytes, io_write_bytes) = self.sandbox.cgroup.io();
        let logs = || [&self.stdout, &self.stderr].into_iter().flatten();
        Usage {
            cpu_micros: cpu.unwrap_or_default(),
            memory_peak_bytes: peak.unwrap_or_default(),
            io_read_bytes,
            io_write_bytes,
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
        let taken = match self.sandbox.carried.workspace() {
            Some(work) => artifacts::read_small(work, &self.output_name, OUTPUT_BYTES_MAX),
            None => self.sandbox.carried.output().map_err(|error| {
                detail.get_or_insert(format!("the output file was not taken: {error}"));
                NotKept::Unreadable
            }),
        };
        let (from_file, output_refused) = match taken {
            Ok(output) => (output, None),
            Err(reason) => (None, Some(reason)),
        };
        let output = from_file.or_else(|| self.stdout.as_mut().and_then(Log::last_line));
        let artifacts = self.collect();
        let (code, signal, empty) = (ended.code, ended.signal, report.empty);
        let violations = self.violations.totals();
        let exit = Exit { code, signal, cause, usage, output, output_refused, artifacts, violations, empty, detail };
        if let Err(error) = record::write_exit(&self.run_dir, &exit) {
            eprintln!("cogward supervise: {}: {error}", record::EXIT_FILE);
        }
        self.sandbox.carried.remove();
        self.sandbox.cgroup.remove();
        self.clients.accept();
        // An answer that waits, such as to the kill, is before this frame on the same connection.
        self.report(true);
        self.clients.broadcast(&Frame::Exit(Box::new(exit)));
        self.farewell();
        let _ = std::fs::remove_file(self.run_dir.join(SOCKET));
    }

    /// Keeps the declared outputs, and goes on to answer: a large one takes a while.
    fn collect(&mut self) -> Vec<Artifact> {
        let (outputs, run_dir) = (std::mem::take(&mut self.outputs), self.run_dir.clone());
        let work = self.sandbox.carried.workspace().and_then(|work| work.try_clone_to_owned().ok());
        let Some(work) = work else { return artifacts::none(&outputs) };
        let mut next = Instant::now();
        artifacts::collect(&work, &outputs, self.workspace_bytes, &run_dir, &mut || {
            if Instant::now() >= next {
                self.attend();
                next = Instant::now() + ATTEND_EVERY;
            }
        })
    }

    /// One turn for whoever asks while the run is over and not yet recorded.
    fn attend(&mut self) {
        self.turn(Ready::Connection);
        self.turn(Ready::Client);
        self.clients.flush();
        self.clients.forget_gone();
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
