//! The life of the guest: one poll, one turn for whatever is ready, until the supervisor is gone.

use std::{
    ffi::c_int,
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use crate::{
    AGENT_UID, At, Failed, agent,
    carrier::{Carrier, Line},
    check,
    config::Config,
    forward::{Flow, Forwarder},
    records::{Records, encode},
    sockets,
    sys::{self, End, GONE, IN, OUT, PollFd},
};

/// Largest output file, as the supervisor takes it.
const OUTPUT_BYTES_MAX: u64 = 1024 * 1024;
/// Longest message of the agent's process, before it is the agent.
const REPORT_BYTES_MAX: usize = 16 * 1024;
/// Time for what the agent left behind to die, and for what it sent to leave.
const END_MAX: Duration = Duration::from_secs(2);
/// Pause between two looks at what is dying.
const LOOK_EVERY: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The agent's process restricts and checks itself.
    Preparing,
    /// It waits to be let go.
    Held,
    /// It runs, or is about to.
    Running,
    /// Its first process has ended; the rest is ended and what it sent leaves.
    Ending(End, Instant),
    /// All is said; the supervisor closes the connection.
    Over,
}

/// A pipe of the agent's that a machine carries to the host.
#[derive(Debug)]
struct Stream {
    pipe: File,
    /// Closed when all is said: a machine monitor does not carry on the end of one direction.
    host: Option<File>,
    flow: Flow,
}

/// The guest, once the agent's process is there.
#[derive(Debug)]
pub struct Guest<'a> {
    control: &'a mut File,
    orders: Records,
    signals: File,
    report: Option<File>,
    reports: Records,
    start: Option<File>,
    streams: Vec<Stream>,
    forwarder: Forwarder,
    agent: c_int,
    output: Option<String>,
    phase: Phase,
}

impl<'a> Guest<'a> {
    /// Makes the listeners and the agent's process, and gives up every right that is no longer needed.
    pub fn begin(
        config: &Config,
        carrier: Carrier,
        control: &'a mut File,
        is_machine: bool,
        stdin: Option<OwnedFd>,
    ) -> Result<Self, Failed> {
        if !sockets::interfaces().at("loopback")?.iter().any(|i| i.name == "lo" && i.up) {
            sockets::loopback_up().at("loopback")?;
        }
        check::before_the_agent()?;
        let mut streams = Vec::new();
        let mut standard = [stdin, None, None];
        if is_machine {
            for (line, place) in [(Line::Stdout, 1), (Line::Stderr, 2)] {
                let (read, write) = sys::pipe().at("standard streams")?;
                let host = carrier.line(line).at("standard streams")?;
                for fd in [read.as_fd(), host.as_fd()] {
                    sys::set_nonblocking(fd).at("standard streams")?;
                }
                std::os::unix::fs::fchown(&write, Some(AGENT_UID), Some(AGENT_UID)).at("standard streams")?;
                if let Some(end) = standard.get_mut(place) {
                    *end = Some(write);
                }
                streams.push(Stream { pipe: read.into(), host: Some(host.into()), flow: Flow::new() });
            }
        }
        let forwarder = Forwarder::listen(carrier).at("listeners")?;
        let signals = sys::child_signals().at("signals")?;
        let (report, report_end) = sys::pipe().at("pipe")?;
        let (start_end, start) = sys::pipe().at("pipe")?;
        let Some(agent) = sys::copy().at("fork of the agent")? else {
            agent::main(config, agent::Ends { report: report_end, start: start_end, standard })
        };
        drop((report_end, start_end, standard));
        sys::set_nonblocking(report.as_fd()).at("pipe")?;
        give_up_rights(is_machine).at("rights of the guest")?;
        Ok(Self {
            control,
            orders: Records::default(),
            signals: signals.into(),
            report: Some(report.into()),
            reports: Records::default(),
            start: Some(start.into()),
            streams,
            forwarder,
            agent,
            output: config.output.clone(),
            phase: Phase::Preparing,
        })
    }

    /// Serves until the supervisor is gone.
    pub fn serve(mut self) -> io::Result<()> {
        loop {
            self.reap()?;
            self.finish()?;
            let mut fds = vec![
                PollFd { fd: self.control.as_raw_fd(), events: IN, revents: 0 },
                PollFd { fd: self.signals.as_raw_fd(), events: IN, revents: 0 },
                PollFd { fd: self.report.as_ref().map_or(-1, AsRawFd::as_raw_fd), events: IN, revents: 0 },
            ];
            for stream in &self.streams {
                let (reads, writes) = (stream.host.is_some() && stream.flow.reads(), stream.flow.writes());
                fds.push(PollFd { fd: if reads { stream.pipe.as_raw_fd() } else { -1 }, events: IN, revents: 0 });
                let host = stream.host.as_ref().filter(|_| writes).map_or(-1, AsRawFd::as_raw_fd);
                fds.push(PollFd { fd: host, events: OUT, revents: 0 });
            }
            let streams = fds.len();
            let retry = self.forwarder.watch(&mut fds);
            let look = matches!(self.phase, Phase::Ending(..)).then_some(LOOK_EVERY);
            sys::wait(&mut fds, [retry, look].into_iter().flatten().min())?;

            let (own, forwarded) = fds.split_at_checked(streams).unwrap_or_default();
            let ready = |place: usize| own.get(place).is_some_and(|fd| fd.revents & (IN | OUT | GONE) != 0);
            if ready(0) && !self.hear()? {
                return Ok(());
            }
            if ready(1) {
                let mut drained = [0; 1024];
                while matches!(self.signals.read(&mut drained), Ok(n) if n > 0) {}
            }
            if ready(2) {
                self.relay()?;
            }
            let mut place = 3;
            for stream in &mut self.streams {
                if let Some(host) = &stream.host
                    && (stream.flow.step(&stream.pipe, host, ready(place)).is_err() || stream.flow.is_over())
                {
                    // The end, or a host that is gone: which is noticed at the control connection.
                    stream.host = None;
                }
                place += 2;
            }
            self.forwarder.turn(forwarded);
        }
    }

    /// What the supervisor says; `false` at its end.
    fn hear(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 1024];
        let count = self.control.read(&mut chunk)?;
        if count == 0 {
            return Ok(false);
        }
        self.orders.push(chunk.get(..count).unwrap_or_default());
        loop {
            let order = self.orders.next(|name| matches!(name, "start" | "terminate").then_some(0));
            match order.map_err(|why| io::Error::other(why.to_string()))? {
                None => return Ok(true),
                Some(order) if order.name == "terminate" => sys::signal_all(sys::TERM),
                Some(_) => {
                    if let (Phase::Held, Some(mut start)) = (self.phase, self.start.take()) {
                        start.write_all(b"1")?;
                        self.phase = Phase::Running;
                    }
                }
            }
        }
    }

    /// Passes on what the agent's process says before it is the agent.
    fn relay(&mut self) -> io::Result<()> {
        let Some(report) = &mut self.report else { return Ok(()) };
        let mut chunk = [0; 4096];
        match report.read(&mut chunk) {
            // It executes, or has died.
            Ok(0) => self.report = None,
            Ok(count) => self.reports.push(chunk.get(..count).unwrap_or_default()),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(e) => return Err(e),
        }
        let known = |name: &str| matches!(name, "held" | "failed" | "not-executable").then_some(REPORT_BYTES_MAX);
        while let Some(said) = self.reports.next(known).map_err(|why| io::Error::other(why.to_string()))? {
            if said.name == "held" {
                self.phase = Phase::Held;
            }
            self.control.write_all(&encode(&said.name, &said.payload))?;
        }
        Ok(())
    }

    fn reap(&mut self) -> io::Result<()> {
        while let Ok(Some((pid, end))) = sys::reap() {
            if pid != self.agent || matches!(self.phase, Phase::Ending(..) | Phase::Over) {
                continue;
            }
            self.relay()?;
            if self.phase == Phase::Preparing {
                // Said once more where it has said why; the supervisor takes the first.
                let said = Failed::new("agent", &"its process ended before it was ready");
                self.control.write_all(&encode("failed", &said.payload()))?;
                self.phase = Phase::Over;
            } else {
                self.phase = Phase::Ending(end, Instant::now() + END_MAX);
            }
        }
        Ok(())
    }

    /// Ends what the agent left behind; then says how it ended.
    fn finish(&mut self) -> io::Result<()> {
        let Phase::Ending(end, deadline) = self.phase else { return Ok(()) };
        let late = Instant::now() >= deadline;
        sys::signal_all(sys::KILL);
        while matches!(sys::reap(), Ok(Some(_))) {}
        let alone = sys::reap().is_err();
        let carried = self.streams.iter().all(|stream| stream.host.is_none());
        // Of a stream nothing is lost as long as the supervisor reads; of the rest the end is not waited for.
        if !alone && !late || alone && !(carried && (late || self.forwarder.is_sent())) {
            return Ok(());
        }
        if let Some(name) = self.output.take() {
            let said = match alone {
                true => collect(&name),
                false => Err(io::Error::other("processes of the agent were still there")),
            };
            match said {
                Ok(Some(bytes)) => self.control.write_all(&encode("output", &bytes))?,
                Ok(None) => {}
                Err(why) => self.control.write_all(&encode("output-refused", why.to_string().as_bytes()))?,
            }
        }
        let text = match end {
            End::Code(code) => format!("code {code}"),
            End::Signal(signal) => format!("signal {signal}"),
        };
        self.control.write_all(&encode("ended", text.as_bytes()))?;
        self.phase = Phase::Over;
        Ok(())
    }
}

/// From here on: root without a way to anything but to end and to read what is the agent's, and to end a machine.
fn give_up_rights(is_machine: bool) -> io::Result<()> {
    let keep = match (sys::is_root(), is_machine) {
        (true, true) => &[sys::CAP_KILL, sys::CAP_READ, sys::CAP_BOOT][..],
        (true, false) => &[sys::CAP_KILL, sys::CAP_READ],
        // The agent's own uid needs nothing.
        (false, _) => &[],
    };
    if sys::is_root() {
        sys::leave_groups()?;
    }
    sys::empty_bounding_set()?;
    sys::keep_capabilities(keep)?;
    sys::set_no_new_privileges()?;
    sys::set_not_dumpable()
}

/// The output file of the agent. Only once none of its processes is left: nothing changes below while it is read.
fn collect(name: &str) -> io::Result<Option<Vec<u8>>> {
    let mut path = std::path::PathBuf::from("/work");
    for part in name.split('/') {
        path.push(part);
        match path.symlink_metadata() {
            Ok(found) if found.is_symlink() => return Err(io::Error::other("a link leads to it")),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        }
    }
    if !path.symlink_metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(OUTPUT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > OUTPUT_BYTES_MAX {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(Some(bytes))
}
