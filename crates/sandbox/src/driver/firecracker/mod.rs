//! The driver for machines of their own: Firecracker, started by its jailer.
//!
//! The boundary is the processor's: the agent has a kernel of its own, and the host sees a monitor in a jail, without
//! a network device. The machine's first process is the guest (`guest/`), whose sockets become Unix sockets of the
//! jail. What the host learns about the agent, it learns from inside of the machine, where an agent that has taken
//! its kernel over may say what it likes: it can then lie about its own end and output, and about nothing else. The
//! limits, the kill and its proof, and the doors do not depend on it.

mod api;
mod http;
mod images;
mod jail;
mod kept;
pub mod probe;
mod version;

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use cogward_model::{RunId, manifest::Medium};
use rustix::{
    event::PollFlags,
    net::{RecvFlags, recv},
};
use serde::{Deserialize, Serialize};

use self::{
    api::{Plan, PlannedDrive},
    http::Client,
    jail::{Jail, Keeper},
};
use super::{
    Carried, Driver, Event, Order, Overhead, Watched,
    guest::{self, Drive, Link, Mount},
};
use crate::{
    attest::{
        self, Attestation, Window,
        keeper::{First, Kept, Others},
    },
    cgroup::Cgroup,
    native::{At, Stage, Uids, network},
    spec::{Enforcement, LaunchSpec, Root, Runtime},
    storage::INPUTS,
};

/// Time from the start of the jailer to the held agent, at most. Drives that are not there yet are made before.
const BOOT_MAX: Duration = Duration::from_secs(20);
/// Time for the drives, at most. With the boot it is less than what the plane waits for.
const FURNISH_MAX: Duration = Duration::from_secs(8);
/// Most drives of a machine: what its interrupts suffice for, beside its other devices.
const DRIVES_MAX: usize = 14;
/// Memory of a machine for its kernel and the guest, in MiB: what the run may use comes on top.
const KERNEL_MIB: u32 = 64;
/// Memory of the monitor itself, in MiB.
const MONITOR_MIB: u32 = 64;
/// The keeper, the jailer, and the threads of the monitor, of which there is one for each processor.
const MONITOR_TASKS: u32 = 48;
/// Most processors of a machine.
const PROCESSORS_MAX: u32 = 32;
/// The Unix socket whose name, `_` and a port are the host's end of the machine's vsock.
const VSOCK: &str = "v.sock";
/// Ports of the machine's vsock, beside the doors: what the guest says, and the agent's standard output and error.
const LINES: [u16; 3] = [28470, 28473, 28474];

const LINK: u32 = 0;
const KEEPER: u32 = 1;
const LOG: u32 = 2;
const STREAMS: u32 = 3;

/// Where the programs of the monitor are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirecrackerSettings {
    /// The monitor; the name of the file must contain `firecracker`, which its jailer demands.
    pub firecracker: PathBuf,
    /// Its jailer, of the same version.
    pub jailer: PathBuf,
    /// An uncompressed kernel with virtio-mmio, virtio-blk, virtio-vsock, ext4, tmpfs, devtmpfs and initial archives
    /// built in.
    pub kernel: PathBuf,
    /// Where drives are kept that were made of packages: best on the file system of the run directories, and `images`
    /// beside them unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<PathBuf>,
}

impl FirecrackerSettings {
    /// What is wrong with them, before anything is looked at.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub fn validate(&self) -> Result<(), String> {
        let programs = [("firecracker", &self.firecracker), ("jailer", &self.jailer), ("kernel", &self.kernel)];
        for (name, path) in programs.into_iter().chain(self.images.as_ref().map(|images| ("images", images))) {
            if !path.is_absolute() || path.as_os_str().as_encoded_bytes().contains(&0) {
                return Err(format!("microvm.{name} is not an absolute path"));
            }
        }
        let named = self.firecracker.file_name().is_some_and(|n| n.to_string_lossy().contains("firecracker"));
        if named { Ok(()) } else { Err("microvm.firecracker has a file name without `firecracker` in it".to_owned()) }
    }

    /// Whether what is named is there and nobody but root can change it: it is what every machine relies on.
    fn are_roots(&self) -> Result<(), String> {
        for path in [&self.firecracker, &self.jailer, &self.kernel] {
            let found = path.metadata().map_err(|e| format!("{}: {e}", path.display()))?;
            if !found.is_file() || found.uid() != 0 || found.mode() & 0o022 != 0 {
                let must = "must be a file that belongs to root and is writable by nobody else";
                return Err(format!("{} {must}", path.display()));
            }
        }
        Ok(())
    }
}

/// Makes machines.
#[derive(Debug)]
pub struct Firecracker {
    settings: FirecrackerSettings,
    boot_max: Duration,
}

impl Firecracker {
    /// With the programs of this host.
    #[must_use]
    pub fn new(settings: FirecrackerSettings) -> Self {
        Self { settings, boot_max: BOOT_MAX }
    }

    fn plan(&self, spec: &LaunchSpec, drives: Vec<PlannedDrive>) -> Plan {
        Plan {
            processors: spec.resources.cpu_millis.div_ceil(1000).clamp(1, PROCESSORS_MAX),
            memory_mib: spec.resources.memory_mib + KERNEL_MIB,
            drives,
            vsock: VSOCK,
        }
    }
}

/// A machine with its agent.
#[derive(Debug)]
struct Machine {
    link: Link,
    keeper: Keeper,
    listeners: [OwnedFd; 3],
    streams: [OwnedFd; 2],
    /// The end of the agent, until everything that it printed has arrived.
    ended: Option<Event>,
    enforcement: Enforcement,
    jail: Jail,
    uids: Uids,
    first: Option<First>,
    window: Window,
}

impl Driver for Firecracker {
    fn overhead(&self) -> Overhead {
        Overhead { memory_mib: KERNEL_MIB + MONITOR_MIB, pids: MONITOR_TASKS }
    }

    fn launch(&self, order: &Order<'_>) -> Result<Box<dyn Carried>, Stage> {
        let spec = order.spec;
        let fit = self.settings.validate().and_then(|()| self.settings.are_roots());
        fit.map_err(|why| Stage::new("configuration", &why))?;
        let Uids::OwnRange { base: uid } = order.uids else {
            return Err(Stage::new("jailer", &"only root can start it"));
        };
        version::of(&self.settings.jailer, "jailer").map_err(|e| Stage::new("version of the jailer", &e))?;
        let id = id_of(spec.run);
        let jail = Jail::make(&self.settings, &spec.run_dir, &id, uid)?;
        let begun = Instant::now();
        let furnished = self.furnish(&jail, spec)?;
        if begun.elapsed() > FURNISH_MAX {
            let why = "making them took longer than a launch may; they are there for the next one";
            return Err(Stage::new("drives of the machine", &why));
        }
        let mut keeper = jail.start(&self.settings, furnished.largest_file, order.cgroup)?;
        match self.boot(order, &jail, &mut keeper, furnished) {
            Ok(parts) => Ok(Box::new(parts.into_machine(keeper, jail, order.uids))),
            Err(stage) => {
                // Before the jail goes, so that nothing writes into what is being removed.
                keeper.kill();
                Err(stage)
            }
        }
    }
}

/// What is in the jail before the jailer is started.
struct Furnished {
    drives: Vec<PlannedDrive>,
    mounts: Vec<Mount>,
    largest_file: u64,
    doors: [OwnedFd; 3],
    lines: [std::os::unix::net::UnixListener; 3],
}

/// What a booted machine consists of.
struct Parts {
    link: Link,
    listeners: [OwnedFd; 3],
    streams: [OwnedFd; 2],
    enforcement: Enforcement,
}

impl Parts {
    fn into_machine(self, keeper: Keeper, jail: Jail, uids: Uids) -> Machine {
        let Self { link, listeners, streams, enforcement } = self;
        let window = Window::default();
        Machine { link, keeper, listeners, streams, ended: None, enforcement, jail, uids, first: None, window }
    }
}

impl Firecracker {
    /// Puts the kernel, the archive, the drives and the sockets into the jail.
    fn furnish(&self, jail: &Jail, spec: &LaunchSpec) -> Result<Furnished, Stage> {
        let Root::Image { dir } = &spec.root else {
            return Err(Stage::new(
                "drive of the image",
                &"the package has no root of its own: the host's /usr is not shown to machines",
            ));
        };
        let kept = match &self.settings.images {
            Some(directory) => directory.clone(),
            // The run directories have a directory to themselves.
            None => spec.run_dir.ancestors().nth(2).unwrap_or(&spec.run_dir).join("images"),
        };
        let kernel = images::keep(&self.settings.kernel, &kept)?;
        jail.link(&kernel, &jail.path(api::KERNEL)).at("kernel")?;
        let archive = jail.path(api::ARCHIVE);
        std::fs::write(&archive, images::archive(guest::PROGRAM)).at("archive")?;
        jail.give(&archive).at("archive")?;

        let mut drives = Drives { jail, kept: &kept, planned: Vec::new(), mounts: Vec::new() };
        drives.of_directory(dir, "image", Mount::Root)?;
        for (n, mount) in spec.mounts.iter().enumerate() {
            drives
                .of_directory(&mount.source, &format!("package{n}"), |drive| Mount::Package(drive, mount.at.clone()))?;
        }
        drives.inputs(spec)?;
        let largest_file = drives.workspace(spec)?;
        let Drives { planned: drives, mut mounts, .. } = drives;
        let small = spec.resources.workspace_mib.min(64);
        mounts.extend(["/tmp", "/dev/shm"].map(|at| Mount::Memory(small, at.to_owned())));

        let listen = |port: u16| jail.listen(&format!("{VSOCK}_{port}")).at("sockets of the jail");
        let [model, mcp, proxy] = network::PORTS;
        let [control, stdout, stderr] = LINES;
        let doors = [listen(model)?.into(), listen(mcp)?.into(), listen(proxy)?.into()];
        let lines = [listen(control)?, listen(stdout)?, listen(stderr)?];
        Ok(Furnished { drives, mounts, largest_file, doors, lines })
    }

    /// From the started jailer to the held agent.
    fn boot(&self, order: &Order<'_>, jail: &Jail, keeper: &mut Keeper, furnished: Furnished) -> Result<Parts, Stage> {
        let (spec, until) = (order.spec, Instant::now() + self.boot_max);
        let Furnished { drives, mounts, doors, lines, .. } = furnished;
        let mut client = Client::new(jail.connect(keeper, until)?).at("socket of firecracker")?;
        let plan = self.plan(spec, drives);
        let version = api::start(&mut client, &plan, until)?;
        // Nothing is asked of the monitor once its machine runs.
        drop(client);

        let [control, stdout, stderr] = lines;
        let mut link = guest::accept(&control, Some(keeper.ended()), until)
            .map(Link::new)
            .map_err(|stage| Stage { stage: stage.stage, why: keeper.last_line(&stage.why) })?;
        let mut config =
            guest::Config { mounts, files: spec.files.clone(), stdin: spec.stdin.clone(), ..guest::Config::of(spec) };
        // There are no control groups in the machine, and the first process must stay able to do its duty.
        config.limits.push(("nproc", spec.resources.pids.into()));
        let self_checks = link.prepare(&config, Some(keeper.ended()), until)?;
        let ended = Some(keeper.ended());
        let streams = [guest::accept(&stdout, ended, until)?.into(), guest::accept(&stderr, ended, until)?.into()];
        for port in LINES {
            // Each was for one connection.
            let _ = std::fs::remove_file(jail.path(&format!("{VSOCK}_{port}")));
        }
        let (uids, uid_base) = order.uids.describe();
        let enforcement = Enforcement {
            profile: spec.profile,
            driver: spec.driver.name().to_owned(),
            runtime: Some(Runtime {
                name: "firecracker".to_owned(),
                version: version.to_string(),
                platform: Some("kvm".to_owned()),
            }),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            namespaces: jail::NAMESPACE_NAMES.map(str::to_owned).to_vec(),
            uids: uids.to_owned(),
            uid_base,
            landlock_abi: None,
            connect_ports: network::PORTS.to_vec(),
            seccomp_instructions: None,
            seccomp_allowed: None,
            cgroup: order.cgroup.kind().to_owned(),
            resources: spec.resources,
            root: "image".to_owned(),
            package: "drive".to_owned(),
            workspace: Medium::Disk,
            self_checks,
        };
        Ok(Parts { link, listeners: doors, streams, enforcement })
    }
}

/// The drives of a machine while they are made, in the order of their devices: `vda`, `vdb` and so on.
struct Drives<'a> {
    jail: &'a Jail,
    kept: &'a Path,
    planned: Vec<PlannedDrive>,
    mounts: Vec<Mount>,
}

impl Drives<'_> {
    /// The next one.
    fn add(&mut self, name: &str, writable: bool, mount: impl FnOnce(Drive) -> Mount) -> Result<PathBuf, Stage> {
        let letter = u8::try_from(self.planned.len()).ok().filter(|n| usize::from(*n) < DRIVES_MAX);
        let Some(letter) = letter.map(|n| char::from(b'a' + n)) else {
            return Err(Stage::new("drives of the machine", &format!("there are more than {DRIVES_MAX}")));
        };
        let file = format!("{name}.{}", images::KIND);
        let path = self.jail.path(&file);
        self.planned.push(PlannedDrive { file, writable });
        self.mounts.push(mount(Drive { device: format!("vd{letter}"), kind: images::KIND }));
        Ok(path)
    }

    /// A kept one, which other runs share.
    fn of_directory(&mut self, source: &Path, name: &str, mount: impl FnOnce(Drive) -> Mount) -> Result<(), Stage> {
        let image = images::of_directory(source, self.kept)?;
        let path = self.add(name, false, mount)?;
        self.jail.link(&image, &path).at("drive of a package")
    }

    /// One for all inputs that are files, and one for each that is a directory.
    fn inputs(&mut self, spec: &LaunchSpec) -> Result<(), Stage> {
        let inputs = &spec.storage.inputs;
        if inputs.is_empty() {
            return Ok(());
        }
        let path = self.add("inputs", false, |drive| Mount::Input(drive, format!("/{INPUTS}")))?;
        images::of_inputs(&path, &spec.run_dir.join("inputs.staged"), inputs)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444)).at("drive of the inputs")?;
        for (n, input) in inputs.iter().enumerate().filter(|(_, input)| input.source.is_dir()) {
            let at = format!("/{INPUTS}/{}", input.name);
            self.of_directory(&input.source, &format!("input{n}"), |drive| Mount::Input(drive, at))?;
        }
        Ok(())
    }

    /// The only one that is written to. Answers with its size.
    fn workspace(&mut self, spec: &LaunchSpec) -> Result<u64, Stage> {
        let path = self.add("work", true, Mount::Work)?;
        let size = (spec.resources.workspace_mib, spec.resources.inodes());
        images::workspace(&path, size, spec.storage.from.as_deref(), &spec.run_dir.join("workspace.staged"))?;
        self.jail.give(&path).at("drive of the workspace")?;
        Ok(path.metadata().at("drive of the workspace")?.len())
    }
}

/// What the jailer takes for a name: letters, digits and hyphens.
fn id_of(run: RunId) -> String {
    run.to_string().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(64).collect()
}

impl Machine {
    fn hear(&mut self, events: &mut Vec<Event>) {
        let mut heard = Vec::new();
        self.link.turn(&mut heard);
        for event in heard {
            match event {
                Event::Ended { .. } => self.ended = Some(event),
                Event::Gone => {
                    events.extend(self.ended.take());
                    events.push(Event::Gone);
                }
                other => events.push(other),
            }
        }
        self.tell_end(events);
    }

    /// What the agent has printed is before its end, and travels on connections of its own.
    fn tell_end(&mut self, events: &mut Vec<Event>) {
        if self.ended.is_some() && self.streams.iter().all(is_over) {
            events.extend(self.ended.take());
        }
    }
}

/// Whether everything of a stream was read and nothing follows.
fn is_over(stream: &OwnedFd) -> bool {
    match recv(stream, &mut [0_u8][..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((waiting, _)) => waiting == 0,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => false,
        Err(_) => true,
    }
}

impl Carried for Machine {
    fn enforcement(&self) -> &Enforcement {
        &self.enforcement
    }

    fn listeners(&self) -> Option<[BorrowedFd<'_>; 3]> {
        let [model, mcp, proxy] = &self.listeners;
        Some([model.as_fd(), mcp.as_fd(), proxy.as_fd()])
    }

    fn streams(&self) -> [&OwnedFd; 2] {
        let [stdout, stderr] = &self.streams;
        [stdout, stderr]
    }

    fn watched(&self) -> Vec<Watched<'_>> {
        let input = |token, fd, hang_up| Watched { token, fd, flags: PollFlags::IN, hang_up };
        let mut watched = vec![
            input(LINK, self.link.as_fd(), true),
            input(KEEPER, self.keeper.ended(), true),
            input(LOG, self.keeper.log(), false),
        ];
        if self.ended.is_some() {
            watched.extend(self.streams.iter().map(|stream| input(STREAMS, stream.as_fd(), true)));
        }
        watched
    }

    fn turn(&mut self, token: u32, events: &mut Vec<Event>) {
        match token {
            LINK => self.hear(events),
            LOG => self.keeper.drain(),
            STREAMS => self.tell_end(events),
            _ => {
                self.last_words(events);
                events.push(Event::Gone);
            }
        }
    }

    fn last_words(&mut self, events: &mut Vec<Event>) {
        self.hear(events);
        events.extend(self.ended.take());
    }

    fn attest(&mut self, cgroup: &Cgroup) -> Option<Attestation> {
        let subject = Kept {
            cgroup,
            uids: self.uids,
            keeper: self.keeper.pid(),
            own: &["mnt", "pid", "ipc", "uts", "net"],
            others: Others::None,
            first: self.first.as_ref(),
            window: &self.window,
        };
        let (found, first) = attest::keeper::look(&subject)?;
        self.first.get_or_insert(first);
        Some(found)
    }

    fn start(&mut self) -> io::Result<()> {
        self.link.start()
    }

    fn terminate(&mut self, cgroup: &mut Cgroup) -> io::Result<()> {
        // The control group alone suspends a machine, and a frozen one hears nothing.
        cgroup.thaw().map_err(io::Error::other)?;
        self.link.terminate()
    }

    fn workspace(&self) -> Option<BorrowedFd<'_>> {
        // Its file system is the machine's: the host does not attach it.
        None
    }

    fn output(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.link.output()
    }

    fn remove(&mut self) {
        self.jail.remove();
    }
}
