//! The driver port: what carries a run's sandbox, as its supervisor sees it.
//!
//! The supervisor owns every sandbox, whatever carries it. Adoption, the death of the plane, the wall clock, the grace
//! period, the logs, the record of the end and the frames to the plane are its own, and so are the control groups: it
//! makes them, and limits, freezes, kills, counts and proves empty through them. A [`Driver`] makes a sandbox whose
//! every process is in those groups and holds its agent before the first instruction; [`Carried`] is that sandbox.
//!
//! Synchronous and of one thread: a driver hands out descriptors to be polled and is given a turn when one is ready.

pub mod firecracker;
pub mod guest;
pub mod native;
pub mod oci;

use std::{
    fmt, io,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::event::PollFlags;

use crate::{
    attest::Attestation,
    cgroup::Cgroup,
    native::{Stage, Uids},
    profile::Controls,
    spec::{DriverSettings, Enforcement, LateInput, LaunchSpec},
};

/// What is to be made.
#[derive(Debug)]
pub struct Order<'a> {
    /// The launch, valid.
    pub spec: &'a LaunchSpec,
    /// What its profile enforces.
    pub controls: &'a Controls,
    /// The uids of the host that are the run's own.
    pub uids: Uids,
    /// The run's groups, with their limits. Every process of the sandbox must be in all of them.
    pub cgroup: &'a Cgroup,
}

/// What the run's groups must have room for beside the agent's own processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overhead {
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// Processes and threads.
    pub pids: u32,
}

/// Makes sandboxes of one kind.
pub trait Driver: fmt::Debug {
    /// What its own processes need while the agent runs.
    fn overhead(&self) -> Overhead;

    /// What they need while the sandbox is made, when no code of the agent runs yet.
    fn overhead_of_launch(&self) -> Overhead {
        self.overhead()
    }

    /// Whether it makes sandboxes before their input is known.
    fn takes_late_input(&self) -> bool {
        false
    }

    /// Makes a sandbox whose agent waits before its first instruction, with its controls in force and checked.
    ///
    /// # Errors
    /// The step that failed. The caller then kills what is in the groups and removes them.
    fn launch(&self, order: &Order<'_>) -> Result<Box<dyn Carried>, Stage>;
}

/// The driver that a launch names.
pub fn of(spec: &LaunchSpec) -> Box<dyn Driver> {
    match &spec.driver {
        DriverSettings::Native => Box::new(native::Native),
        DriverSettings::Oci { runtime, kind, platform } => {
            Box::new(oci::Oci { runtime: runtime.clone(), kind: *kind, platform: platform.clone() })
        }
        DriverSettings::Firecracker(settings) => Box::new(firecracker::Firecracker::new(settings.clone())),
    }
}

/// Something that a sandbox tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The agent's main process has ended.
    Ended {
        /// Its exit code.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
    },
    /// Its program could not be executed; the end follows.
    NotExecutable {
        /// What the system answered.
        why: String,
    },
    /// The sandbox is gone. What became of the agent is what was told before, if anything was.
    Gone,
    /// Something was refused, so often.
    Refused {
        /// What refused it, such as `seccomp`.
        layer: &'static str,
        /// What was refused, such as the name of a system call.
        object: String,
        /// How often.
        count: u64,
    },
}

/// A descriptor that a poll must watch.
#[derive(Debug, Clone, Copy)]
pub struct Watched<'a> {
    /// Names it in [`Carried::turn`].
    pub token: u32,
    /// The descriptor.
    pub fd: BorrowedFd<'a>,
    /// What it is watched for.
    pub flags: PollFlags,
    /// Whether a hang-up is worth a turn as well. A descriptor of which only its input matters may hang up long before
    /// the end of the sandbox is told.
    pub hang_up: bool,
}

/// A complete sandbox. Dropping it ends nothing; [`Carried::kill`] does.
pub trait Carried: fmt::Debug {
    /// What is in force, as it was checked.
    fn enforcement(&self) -> &Enforcement;

    /// The listeners for model, MCP and proxy, each a socket that listens, on a port or on a path. Only this sandbox
    /// can connect to them. `None` for a program of the operator's, which has no door.
    fn listeners(&self) -> Option<[BorrowedFd<'_>; 3]>;

    /// Standard input, output and error of a program of the operator's, for the plane that has launched it; once.
    fn hand_over(&mut self) -> Option<[OwnedFd; 3]> {
        None
    }

    /// Where the agent's standard output and error are read: pipes or connected sockets.
    fn streams(&self) -> [&OwnedFd; 2];

    /// What a poll must watch now.
    fn watched(&self) -> Vec<Watched<'_>>;

    /// One bounded turn for a descriptor that is ready. Must not block.
    fn turn(&mut self, token: u32, events: &mut Vec<Event>);

    /// What was told and not heard yet. Called once no process of the run is left, so that its last words count.
    fn last_words(&mut self, events: &mut Vec<Event>);

    /// Looks from outside at what is in force. The first look is taken when the sandbox is complete, and what it finds
    /// is what later ones are held against. `None` when the sandbox is at its end.
    fn attest(&mut self, cgroup: &Cgroup) -> Option<Attestation>;

    /// Gives the input to a sandbox that was made before it was known. Once; an agent whose input is not whole is not
    /// let go.
    ///
    /// # Errors
    /// When it cannot be given, or this driver makes no sandboxes before their input.
    fn give_input(&mut self, _input: &LateInput) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    /// Lets the agent execute.
    ///
    /// # Errors
    /// When it is gone.
    fn start(&mut self) -> io::Result<()>;

    /// Lets a program of the operator's execute, with a secret in a variable of its environment if it has one.
    ///
    /// # Errors
    /// When it is gone, or the secret cannot stand there.
    fn start_with(&mut self, _secret: Option<&(String, String)>) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    /// Freezes everything, and answers when it is.
    ///
    /// # Errors
    /// When it is not; it runs then.
    fn suspend(&mut self, cgroup: &mut Cgroup) -> io::Result<()> {
        cgroup.freeze().map_err(io::Error::other)
    }

    /// Lets everything go on.
    ///
    /// # Errors
    /// What the system answers.
    fn resume(&mut self, cgroup: &mut Cgroup) -> io::Result<()> {
        cgroup.thaw().map_err(io::Error::other)
    }

    /// Asks every process of the agent to end (SIGTERM), frozen or not.
    ///
    /// # Errors
    /// When they cannot be asked; they are killed after the grace period in any case.
    fn terminate(&mut self, cgroup: &mut Cgroup) -> io::Result<()>;

    /// Kills everything. Answers with the processes that there were and whether every group was seen empty.
    fn kill(&mut self, cgroup: &mut Cgroup, reap: &mut dyn FnMut()) -> (u32, bool) {
        cgroup.kill(reap)
    }

    /// Processor time in microseconds and the largest memory in bytes.
    fn usage(&self, cgroup: &Cgroup) -> (Option<u64>, Option<u64>) {
        cgroup.usage()
    }

    /// The workspace, where it can be read from outside. What is below it was made by the agent.
    fn workspace(&self) -> Option<BorrowedFd<'_>>;

    /// The output file, where the workspace cannot be read from outside. Asked once, when no process of the run is left.
    ///
    /// # Errors
    /// Why it was not taken.
    fn output(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }

    /// Removes what the sandbox has left outside of itself, once it is gone.
    fn remove(&mut self) {}
}
