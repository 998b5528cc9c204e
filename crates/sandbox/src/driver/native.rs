//! The native driver: the supervisor is the parent of a sandbox that is made with the kernel's own means.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use cogward_model::Digest;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Signal, pidfd_send_signal},
};

use super::{Carried, Driver, Event, Order, Overhead, Watched};
use crate::{
    attest::{self, Attestation, Facts, Window},
    cgroup::Cgroup,
    image::Backing,
    native::{
        self, Begun, Stage, Uids,
        control::{self, FromSandbox, ToInit},
        network, seccomp, sys,
    },
    service::{self, Network},
    spec::{Enforcement, LateInput, PACKAGE_DIRECTORY, Root},
};

/// Time from the clone to the held agent, at most. Far above what a loaded host needs.
const LAUNCH_MAX: Duration = Duration::from_secs(20);
/// Time for a killed init to be dead once its groups are empty.
const INIT_END_MAX: Duration = Duration::from_secs(5);
/// Refused calls answered in one turn of the loop: commands must not wait behind a flood.
const REFUSALS_PER_TURN: usize = 64;

const CONTROL: u32 = 0;
const INIT: u32 = 1;
const REFUSALS: u32 = 2;

/// Programs that the agent's process gives itself; see [`seccomp`].
const FILTERS: u32 = 2;

/// Makes sandboxes by itself.
#[derive(Debug)]
pub struct Native;

/// Its sandbox.
#[derive(Debug)]
struct Sandbox {
    begun: Begun,
    listeners: Option<[OwnedFd; 3]>,
    work: OwnedFd,
    refusals: OwnedFd,
    /// Where an input that is still to come is written to: the file, and standard input.
    late: Option<[OwnedFd; 2]>,
    enforcement: Enforcement,
    /// What of it comes from the package, and where from.
    package: attest::Declared,
    uids: Uids,
    /// Digest of the system-call filter, and of how many programs it is.
    filter: (Digest, u32),
    first: Option<Facts>,
    window: Window,
    hosts_network: bool,
}

impl Driver for Native {
    fn overhead(&self) -> Overhead {
        // Init is one process of the run.
        Overhead { memory_mib: 0, pids: 1 }
    }

    fn takes_late_input(&self) -> bool {
        true
    }

    fn launch(&self, order: &Order<'_>) -> Result<Box<dyn Carried>, Stage> {
        let target = order.cgroup.clone_target().map_err(|e| Stage::new("cgroups", &e))?;
        let begun = native::begin(order.spec, order.controls, order.uids, target.as_ref().map(AsFd::as_fd))?;
        // Init builds its root meanwhile; it forks the agent only after this.
        if let Err(error) = order.cgroup.attach(begun.pid) {
            // Of an init that has died, the reason it gave is the better one.
            let soon = Instant::now() + Duration::from_millis(100);
            return Err(match next(&begun, None, soon) {
                Ok((FromSandbox::Failed { stage, why }, _)) => Stage { stage, why },
                _ => Stage::new("cgroups", &error),
            });
        }
        let _ = control::send(begun.control.as_fd(), &ToInit::Limited, &[]);
        complete(order, begun).map(|sandbox| Box::new(sandbox) as Box<dyn Carried>)
    }
}

fn complete(order: &Order<'_>, begun: Begun) -> Result<Sandbox, Stage> {
    let deadline = Instant::now() + LAUNCH_MAX;
    let (mut listeners, mut work, mut refusals, mut late) = (Vec::new(), None, None::<OwnedFd>, None);
    let (mut held, mut dropped) = (None, false);
    let (checks, instructions, allowed, filter) = loop {
        if let Some(held) = held.take_if(|_| dropped) {
            break held;
        }
        let (message, descriptors) = next(&begun, refusals.as_ref(), deadline)?;
        match message {
            FromSandbox::Failed { stage, why } => return Err(Stage { stage, why }),
            FromSandbox::Listeners => {
                let mut descriptors = descriptors.into_iter();
                let doors = if order.spec.service.is_some() { 0 } else { network::PORTS.len() };
                listeners = descriptors.by_ref().take(doors).collect();
                work = descriptors.next();
                late = descriptors.next().zip(descriptors.next()).map(|(file, stdin)| [file, stdin]);
            }
            FromSandbox::Refusals => refusals = descriptors.into_iter().next(),
            FromSandbox::Held { checks, instructions, allowed, filter } => {
                held = Some((checks, instructions, allowed, filter));
            }
            FromSandbox::Dropped => dropped = true,
            FromSandbox::NotExecutable { .. } | FromSandbox::AgentEnded { .. } => {
                return Err(Stage::new("init", &"the agent's process ended before it was ready"));
            }
        }
    };
    let listeners = <[OwnedFd; 3]>::try_from(listeners).ok();
    let (Some(work), Some(refusals), true) = (work, refusals, listeners.is_some() != order.spec.service.is_some())
    else {
        return Err(Stage::new("init", &"the sandbox did not hand over all its descriptors"));
    };
    let (spec, controls) = (order.spec, order.controls);
    if spec.late_input != late.is_some() {
        return Err(Stage::new("init", &"the sandbox did not say where its input goes"));
    }
    let (uids, uid_base) = order.uids.describe();
    let hosts_network = spec.service.as_ref().is_some_and(|service| service.network == Network::Host);
    let enforcement = Enforcement {
        profile: spec.profile,
        driver: "native".to_owned(),
        runtime: None,
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        namespaces: native::NAMESPACE_NAMES
            .iter()
            .filter(|name| !hosts_network || **name != "net")
            .map(|n| (*n).to_owned())
            .collect(),
        uids: uids.to_owned(),
        uid_base,
        landlock_abi: Some(controls.landlock_abi),
        connect_ports: if spec.service.is_some() { Vec::new() } else { network::PORTS.to_vec() },
        seccomp_instructions: Some(instructions),
        seccomp_allowed: Some(allowed),
        cgroup: order.cgroup.kind().to_owned(),
        resources: spec.resources,
        root: match spec.root {
            Root::HostUsr => "host-usr",
            Root::Image { .. } => "image",
        }
        .to_owned(),
        package: begun.package.map_or(PACKAGE_DIRECTORY, Backing::as_str).to_owned(),
        workspace: spec.storage.medium,
        self_checks: checks,
    };
    let (filter, package) = ((filter, FILTERS), attest::Declared::of(spec));
    let (uids, window) = (order.uids, Window::default());
    Ok(Sandbox {
        begun,
        listeners,
        work,
        refusals,
        late,
        enforcement,
        package,
        uids,
        filter,
        first: None,
        window,
        hosts_network,
    })
}

/// What the sandbox says next. The calls that it makes to see them refused are refused meanwhile.
fn next(begun: &Begun, refusals: Option<&OwnedFd>, deadline: Instant) -> Result<(FromSandbox, Vec<OwnedFd>), Stage> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = vec![PollFd::new(&begun.control, PollFlags::IN)];
        fds.extend(refusals.map(|fd| PollFd::new(fd, PollFlags::IN)));
        match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
            Ok(0) => return Err(Stage::new("init", &"the sandbox was not ready in time")),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(Stage::new("init", &e)),
        }
        if fds.first().is_some_and(|fd| !fd.revents().is_empty()) {
            break;
        }
        if let Some(fd) = refusals {
            let refused = sys::seccomp_receive(fd.as_fd()).map_err(|e| Stage::new("refused calls", &e))?;
            if let Some(refused) = refused {
                sys::seccomp_refuse(fd.as_fd(), refused).map_err(|e| Stage::new("refused calls", &e))?;
            }
        }
    }
    match control::receive(begun.control.as_fd()).map_err(|e| Stage::new("init", &e))? {
        Some(message) => Ok(message),
        None => Err(Stage::new("init", &"the sandbox's init died")),
    }
}

/// Whether there is input to be read at once.
fn has_input(fd: BorrowedFd<'_>, only: bool) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let nothing = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut fds, Some(&nothing)), Ok(1)) && (!only || fds.iter().all(|f| f.revents() == PollFlags::IN))
}

impl Sandbox {
    /// Every message of the sandbox that is there.
    fn hear(&mut self, events: &mut Vec<Event>) {
        while has_input(self.begun.control.as_fd(), false) {
            match control::receive::<FromSandbox>(self.begun.control.as_fd()) {
                Ok(Some((FromSandbox::AgentEnded { code, signal }, _))) => events.push(Event::Ended { code, signal }),
                Ok(Some((FromSandbox::NotExecutable { why }, _))) => events.push(Event::NotExecutable { why }),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    events.push(Event::Gone);
                    return;
                }
            }
        }
    }

    fn refuse(&mut self, events: &mut Vec<Event>) {
        let listener = self.refusals.as_fd();
        for _ in 0..REFUSALS_PER_TURN {
            if !has_input(listener, true) {
                break;
            }
            match sys::seccomp_receive(listener) {
                Ok(Some(refused)) => {
                    let _ = sys::seccomp_refuse(listener, refused);
                    let object = seccomp::object(refused.number, &refused.args);
                    events.push(Event::Refused { layer: "seccomp", object, count: 1 });
                }
                Ok(None) => {}
                Err(_) => break,
            }
        }
    }
}

impl Carried for Sandbox {
    fn enforcement(&self) -> &Enforcement {
        &self.enforcement
    }

    fn listeners(&self) -> Option<[BorrowedFd<'_>; 3]> {
        self.listeners.as_ref().map(|listeners| listeners.each_ref().map(AsFd::as_fd))
    }

    fn hand_over(&mut self) -> Option<[OwnedFd; 3]> {
        let clone = |fd: &OwnedFd| fd.try_clone().ok();
        let (stdout, stderr) = (clone(&self.begun.stdout)?, clone(&self.begun.stderr)?);
        // Not kept here: its end of file is what tells the program to end.
        Some([self.begun.stdin.take()?, stdout, stderr])
    }

    fn streams(&self) -> [&OwnedFd; 2] {
        [&self.begun.stdout, &self.begun.stderr]
    }

    fn watched(&self) -> Vec<Watched<'_>> {
        let input = |token, fd, hang_up| Watched { token, fd, flags: PollFlags::IN, hang_up };
        vec![
            input(CONTROL, self.begun.control.as_fd(), true),
            input(INIT, self.begun.pidfd.as_fd(), true),
            // It hangs up when nobody is under the filter any more.
            input(REFUSALS, self.refusals.as_fd(), false),
        ]
    }

    fn turn(&mut self, token: u32, events: &mut Vec<Event>) {
        match token {
            CONTROL => self.hear(events),
            INIT => {
                // What init said before it died still counts, such as how the agent ended.
                self.hear(events);
                events.push(Event::Gone);
            }
            _ => self.refuse(events),
        }
    }

    fn last_words(&mut self, events: &mut Vec<Event>) {
        self.hear(events);
    }

    fn attest(&mut self, cgroup: &Cgroup) -> Option<Attestation> {
        let subject = attest::Subject {
            cgroup,
            uids: self.uids,
            init: self.begun.pid.as_raw_nonzero().get(),
            filter: self.filter,
            package: &self.package,
            first: self.first.as_ref(),
            window: &self.window,
            hosts_network: self.hosts_network,
        };
        let found = attest::look(&subject)?;
        self.first.get_or_insert_with(|| found.facts.clone());
        Some(found)
    }

    fn give_input(&mut self, input: &LateInput) -> io::Result<()> {
        let [file, stdin] = self.late.take().ok_or_else(|| io::Error::other("the agent has its input"))?;
        File::from(file).write_all(&input.file)?;
        File::from(stdin).write_all(&input.stdin)
    }

    fn start(&mut self) -> io::Result<()> {
        match rustix::io::write(&self.begun.start, b"1") {
            Ok(1) => Ok(()),
            _ => Err(io::Error::other("the agent's process is gone")),
        }
    }

    fn start_with(&mut self, secret: Option<&(String, String)>) -> io::Result<()> {
        let message = service::start_message(secret)?;
        // The pipe is empty and takes it whole.
        match rustix::io::write(&self.begun.start, &message) {
            Ok(written) if written == message.len() => Ok(()),
            _ => Err(io::Error::other("the program's process is gone")),
        }
    }

    fn terminate(&mut self, cgroup: &mut Cgroup) -> io::Result<()> {
        cgroup.signal_all(Signal::TERM, self.begun.pid).map_err(io::Error::other)
    }

    fn kill(&mut self, cgroup: &mut Cgroup, reap: &mut dyn FnMut()) -> (u32, bool) {
        let (processes, empty) = cgroup.kill(reap);
        // Init may have been moved out of the groups, or another process. Its end is the end of every process in its
        // namespace, wherever somebody may have put one, and it is not seen to be dead before they are.
        let _ = pidfd_send_signal(&self.begun.pidfd, Signal::KILL);
        let mut fds = [PollFd::new(&self.begun.pidfd, PollFlags::IN)];
        let most = Timespec::try_from(INIT_END_MAX).ok();
        let gone = matches!(poll(&mut fds, most.as_ref()), Ok(1..));
        (processes, empty && gone)
    }

    fn workspace(&self) -> Option<BorrowedFd<'_>> {
        Some(self.work.as_fd())
    }
}
