//! The supervisor's side of the guest: the program of ours that is the first process of a sandbox which the
//! supervisor is not the parent of (`guest/main.rs`).
//!
//! The guest reaches the host through four sockets: one for what is said here, and a door for each listener of the
//! agent. In a machine the guest may have been taken over by the agent, so what it says is bounded in size, in number
//! and in time, is believed only in its order, and is never more than how the agent ended and what it leaves.

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, chown},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    net::{RecvFlags, SendFlags, recv, send},
};

use super::Event;
use crate::{
    native::{At, Stage},
    spec::{LaunchSpec, OUTPUT_BYTES_MAX},
};

#[path = "../../guest/records.rs"]
mod records;

use records::{Record, Records, encode};

/// The guest itself: a static program that needs nothing of the root it is started in.
pub const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest"));

/// Name of the control socket.
const CONTROL: &str = "control.sock";
/// Names of the doors, in the order of [`crate::native::network::PORTS`].
const DOORS: [&str; 3] = ["model.sock", "mcp.sock", "proxy.sock"];
/// Longest text that is taken from a guest.
const TEXT_BYTES_MAX: usize = 4096;
/// Most bytes of the checks.
const CHECKS_BYTES_MAX: usize = 16 * 1024;
/// Most characters of a text that are kept.
const TEXT_CHARS_MAX: usize = 500;
/// Bytes read in one turn: commands of the plane must not wait behind a guest.
const TURN_BYTES_MAX: usize = 256 * 1024;

/// The carrier: a directory with the sockets through which a guest in a container reaches the host.
#[derive(Debug)]
pub struct Doors {
    directory: PathBuf,
    control: UnixListener,
    /// The listeners of the plane: model, MCP, proxy.
    pub listeners: [OwnedFd; 3],
}

impl Doors {
    /// Makes the directory, which must not be there, for `owner` alone: the first uid of the run, or one's own.
    pub fn make(directory: &Path, owner: (u32, u32)) -> io::Result<Self> {
        fs::DirBuilder::new().mode(0o700).create(directory)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(directory, flags, Mode::empty())?;
        // A socket path is at most 108 bytes, a data directory not.
        let bind = |name: &str| -> io::Result<UnixListener> {
            let path = format!("/proc/self/fd/{}/{name}", std::os::fd::AsRawFd::as_raw_fd(&opened));
            let listener = UnixListener::bind(&path)?;
            listener.set_nonblocking(true)?;
            chown(&path, Some(owner.0), Some(owner.1))?;
            Ok(listener)
        };
        let control = bind(CONTROL)?;
        let [model, mcp, proxy] = DOORS;
        let listeners = [bind(model)?.into(), bind(mcp)?.into(), bind(proxy)?.into()];
        chown(directory, Some(owner.0), Some(owner.1))?;
        Ok(Self { directory: directory.to_owned(), control, listeners })
    }

    /// Waits for the guest, once: afterwards there is no way to become it.
    ///
    /// `alive` is watched meanwhile, for example the pidfd of what starts the guest: input there ends the wait.
    pub fn accept(&self, alive: Option<BorrowedFd<'_>>, deadline: Instant) -> Result<Link, Stage> {
        let stream = accept(&self.control, alive, deadline)?;
        fs::remove_file(self.directory.join(CONTROL)).at("control socket")?;
        Ok(Link::new(stream))
    }

    /// Removes the directory, once the sandbox is gone.
    pub fn remove(&self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The first connection to a listener.
pub fn accept(listener: &UnixListener, alive: Option<BorrowedFd<'_>>, deadline: Instant) -> Result<UnixStream, Stage> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true).at("control socket")?;
                return Ok(stream);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(Stage::new("control socket", &e)),
        }
        let mut fds = vec![PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)];
        fds.extend(alive.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        wait(&mut fds, deadline)?;
        let [listening, others @ ..] = fds.as_slice() else { continue };
        if listening.revents().is_empty() && others.iter().any(|fd| !fd.revents().is_empty()) {
            return Err(Stage::new("guest", &"what was to start it ended before it spoke"));
        }
    }
}

fn wait(fds: &mut [PollFd<'_>], deadline: Instant) -> Result<(), Stage> {
    let left = deadline.saturating_duration_since(Instant::now());
    match poll(fds, Timespec::try_from(left).ok().as_ref()) {
        Ok(0) if left.is_zero() => Err(Stage::new("guest", &"the sandbox was not ready in time")),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(Stage::new("guest", &e)),
    }
}

/// What the guest is told before there is an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// The working directory.
    pub cwd: String,
    /// Bounds of `setrlimit`, by name: `nofile`, `core`, `fsize`, `msgqueue`, `memlock`, `rtprio`, `nproc`.
    pub limits: Vec<(&'static str, u64)>,
    /// Paths that must be there and that the agent must not be able to open.
    pub refused: Vec<String>,
    /// Whether a system-call filter must be in force.
    pub seccomp: bool,
    /// The output file below `/work`, when the guest is to collect it.
    pub output: Option<String>,
    /// In a machine: what it attaches.
    pub mounts: Vec<Mount>,
    /// In a machine: read-only files under `/run/cogward`.
    pub files: Vec<(String, Vec<u8>)>,
    /// In a machine: what the agent reads from its standard input.
    pub stdin: Vec<u8>,
}

/// What a machine attaches. Drives are named as the machine's kernel names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// The drive of the image, read-only.
    Root(Drive),
    /// The drive of a package, read-only, and its place.
    Package(Drive, String),
    /// The drive of an input, read-only and without execution, and its place.
    Input(Drive, String),
    /// The drive of the workspace.
    Work(Drive),
    /// Memory of so many MiB that can be written to, and its place.
    Memory(u32, String),
}

/// A drive of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drive {
    /// Its device, such as `vda`.
    pub device: String,
    /// The kind of its file system, such as `ext4`.
    pub kind: &'static str,
}

impl Config {
    /// What a launch asks for, in a container: files, mounts and standard input are the runtime's.
    #[must_use]
    pub fn of(spec: &LaunchSpec) -> Self {
        let limits = vec![
            ("nofile", u64::from(spec.resources.open_files)),
            ("core", 0),
            ("fsize", u64::from(spec.resources.workspace_mib) * 1024 * 1024),
            ("msgqueue", 64 * 1024),
            ("memlock", 1024 * 1024),
            ("rtprio", 0),
        ];
        Self {
            argv: spec.argv.clone(),
            env: spec.env.clone(),
            cwd: spec.cwd.clone(),
            limits,
            output: Some(spec.output_name().to_owned()),
            ..Self::default()
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut say = |name: &str, payload: &[u8]| bytes.extend_from_slice(&encode(name, payload));
        for argument in &self.argv {
            say("argv", argument.as_bytes());
        }
        for (name, value) in &self.env {
            say("env", format!("{name}={value}").as_bytes());
        }
        say("cwd", self.cwd.as_bytes());
        for (resource, most) in &self.limits {
            say("limit", format!("{resource} {most}").as_bytes());
        }
        for path in &self.refused {
            say("refused", path.as_bytes());
        }
        if self.seccomp {
            say("seccomp", b"");
        }
        if let Some(name) = &self.output {
            say("output", name.as_bytes());
        }
        for mount in &self.mounts {
            let text = match mount {
                Mount::Root(Drive { device, kind }) => format!("root {device} {kind}"),
                Mount::Package(Drive { device, kind }, at) => format!("package {device} {kind} {at}"),
                Mount::Input(Drive { device, kind }, at) => format!("input {device} {kind} {at}"),
                Mount::Work(Drive { device, kind }) => format!("work {device} {kind}"),
                Mount::Memory(mebibytes, at) => format!("memory {mebibytes} {at}"),
            };
            say("mount", text.as_bytes());
        }
        for (name, content) in &self.files {
            let mut payload = name.clone().into_bytes();
            payload.push(0);
            payload.extend_from_slice(content);
            say("file", &payload);
        }
        if !self.stdin.is_empty() {
            say("stdin", &self.stdin);
        }
        say("configured", b"");
        bytes
    }
}

/// Where a guest is, as far as its supervisor knows. It is believed only what it may say there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    Preparing,
    Held,
    Started,
    Ended,
}

/// The connection to a guest.
#[derive(Debug)]
pub struct Link {
    stream: OwnedFd,
    records: Records,
    stand: Stand,
    not_executable: bool,
    output: Option<Result<Vec<u8>, String>>,
    gone: bool,
}

impl Link {
    /// Talks over a connection of a guest.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream: stream.into(),
            records: Records::default(),
            stand: Stand::Preparing,
            not_executable: false,
            output: None,
            gone: false,
        }
    }

    /// The descriptor to be polled for input.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Tells the guest everything, and waits until its agent is held: the checks that passed inside.
    pub fn prepare(
        &mut self,
        config: &Config,
        alive: Option<BorrowedFd<'_>>,
        deadline: Instant,
    ) -> Result<Vec<String>, Stage> {
        self.write(&config.encode(), deadline)?;
        loop {
            let next = self.records.next(longest).map_err(|why| Stage::new("guest", &why))?;
            match next {
                Some(Record { name, payload }) if name == "held" => {
                    self.stand = Stand::Held;
                    return Ok(payload.split(|b| *b == 0).take(64).map(text).collect());
                }
                Some(Record { name, payload }) if name == "failed" => {
                    let mut parts = payload.splitn(2, |b| *b == 0);
                    let (stage, why) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
                    return Err(Stage::new(text(stage), &text(why)));
                }
                Some(_) => return Err(Stage::new("guest", &"it spoke out of turn")),
                None => {}
            }
            let mut fds = vec![PollFd::from_borrowed_fd(self.stream.as_fd(), PollFlags::IN)];
            fds.extend(alive.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            wait(&mut fds, deadline)?;
            let [spoken, others @ ..] = fds.as_slice() else { continue };
            if !spoken.revents().is_empty() {
                if matches!(self.read(CHECKS_BYTES_MAX), Ok(0)) {
                    return Err(Stage::new("guest", &"it ended before the agent was held"));
                }
            } else if others.iter().any(|fd| !fd.revents().is_empty()) {
                return Err(Stage::new("guest", &"its sandbox ended before the agent was held"));
            }
        }
    }

    fn write(&mut self, mut bytes: &[u8], deadline: Instant) -> Result<(), Stage> {
        while !bytes.is_empty() {
            match send(&self.stream, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(rustix::io::Errno::AGAIN) => {
                    wait(&mut [PollFd::from_borrowed_fd(self.stream.as_fd(), PollFlags::OUT)], deadline)?;
                }
                Err(rustix::io::Errno::INTR) => {}
                // What it said before it went is read next.
                Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => return Ok(()),
                Err(e) => return Err(Stage::new("guest", &e)),
            }
        }
        Ok(())
    }

    /// Reads what is there, at most so much; `Ok(0)` is the end.
    fn read(&mut self, most: usize) -> io::Result<usize> {
        let mut chunk = [0_u8; 16 * 1024];
        let room = most.min(chunk.len());
        let (count, _) = match recv(&self.stream, chunk.get_mut(..room).unwrap_or_default(), RecvFlags::DONTWAIT) {
            Err(rustix::io::Errno::CONNRESET) => return Ok(0),
            other => other?,
        };
        self.records.push(chunk.get(..count).unwrap_or_default());
        Ok(count)
    }

    /// Lets the agent execute.
    ///
    /// # Errors
    /// When the guest is gone.
    pub fn start(&mut self) -> io::Result<()> {
        if self.stand != Stand::Held {
            return Err(io::Error::other("the agent is not held"));
        }
        self.order("start")?;
        self.stand = Stand::Started;
        Ok(())
    }

    /// Asks every process of the agent to end.
    ///
    /// # Errors
    /// When the guest is gone.
    pub fn terminate(&mut self) -> io::Result<()> {
        self.order("terminate")
    }

    /// A few bytes, for which there is always room unless the guest no longer reads.
    fn order(&mut self, name: &str) -> io::Result<()> {
        let bytes = encode(name, b"");
        match send(&self.stream, &bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)? {
            sent if sent == bytes.len() => Ok(()),
            _ => Err(io::Error::from(io::ErrorKind::WriteZero)),
        }
    }

    /// One bounded turn: what the guest has said. Never blocks.
    ///
    /// A guest that says what it may not say is a guest that is gone.
    pub fn turn(&mut self, events: &mut Vec<Event>) {
        let mut left = TURN_BYTES_MAX;
        while left > 0 && !self.gone {
            match self.read(left) {
                Ok(0) => self.gone = true,
                Ok(count) => left = left.saturating_sub(count),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => self.gone = true,
            }
            // Between two reads, so that what waits is never more than one message and one read.
            if !self.take(events) {
                self.gone = true;
            }
        }
        if self.gone {
            events.push(Event::Gone);
        }
    }

    /// Whether everything that was said may be said.
    fn take(&mut self, events: &mut Vec<Event>) -> bool {
        loop {
            let Record { name, payload } = match self.records.next(longest) {
                Ok(Some(record)) => record,
                Ok(None) => return true,
                Err(_) => return false,
            };
            match (name.as_str(), self.stand) {
                // Of the start that was sent nothing may have arrived yet when the agent is asked to end.
                ("not-executable", Stand::Started) if !self.not_executable => {
                    self.not_executable = true;
                    events.push(Event::NotExecutable { why: text(&payload) });
                }
                ("output", Stand::Held | Stand::Started) if self.output.is_none() => self.output = Some(Ok(payload)),
                ("output-refused", Stand::Held | Stand::Started) if self.output.is_none() => {
                    self.output = Some(Err(text(&payload)));
                }
                ("ended", Stand::Held | Stand::Started) => {
                    let Some((code, signal)) = end(&payload) else { return false };
                    self.stand = Stand::Ended;
                    events.push(Event::Ended { code, signal });
                }
                _ => return false,
            }
        }
    }

    /// The output file as the guest collected it, once.
    ///
    /// # Errors
    /// Why it was not taken.
    pub fn output(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.output.take().transpose().map_err(io::Error::other)
    }
}

/// How long the payload of a name may be.
fn longest(name: &str) -> Option<usize> {
    Some(match name {
        "held" => CHECKS_BYTES_MAX,
        "failed" | "not-executable" | "output-refused" => TEXT_BYTES_MAX,
        "output" => OUTPUT_BYTES_MAX,
        "ended" => 16,
        _ => return None,
    })
}

/// `code N` or `signal N`.
fn end(payload: &[u8]) -> Option<(Option<i32>, Option<i32>)> {
    let (what, number) = std::str::from_utf8(payload).ok()?.split_once(' ')?;
    let number: u8 = number.parse().ok()?;
    match (what, number) {
        ("code", code) => Some((Some(code.into()), None)),
        ("signal", signal @ 1..=64) => Some((None, Some(signal.into()))),
        _ => None,
    }
}

/// Text that people may be shown.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::process::CommandExt,
        process::{Child, Command, Stdio},
        time::Duration,
    };

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    fn linked() -> (Link, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Link::new(ours), theirs)
    }

    /// A link whose guest has said that its agent is held.
    fn held() -> (Link, UnixStream) {
        let (mut link, mut theirs) = linked();
        theirs.write_all(&encode("held", b"one\0two")).unwrap();
        assert_eq!(link.prepare(&Config::default(), None, soon()).unwrap(), ["one", "two"]);
        (link, theirs)
    }

    fn told(link: &mut Link) -> Vec<Event> {
        let mut events = Vec::new();
        link.turn(&mut events);
        events
    }

    #[test]
    fn what_a_guest_says_in_its_order_is_taken() {
        let (mut link, mut theirs) = held();
        assert_eq!(told(&mut link), []);
        link.start().unwrap();
        for (name, payload) in
            [("not-executable", &b"no\x1b[2J such file"[..]), ("output", b"\0x"), ("ended", b"code 127")]
        {
            theirs.write_all(&encode(name, payload)).unwrap();
        }
        let expected = [
            Event::NotExecutable { why: "no[2J such file".to_owned() },
            Event::Ended { code: Some(127), signal: None },
        ];
        assert_eq!(told(&mut link), expected);
        assert_eq!(link.output().unwrap().unwrap(), b"\0x");
        assert_eq!(link.output().unwrap(), None);
        drop(theirs);
        assert_eq!(told(&mut link), [Event::Gone]);
    }

    #[test]
    fn a_guest_that_speaks_out_of_turn_is_gone() {
        let ended = encode("ended", b"code 0");
        let start = |link: &mut Link| link.start().unwrap();
        let wait = |_: &mut Link| ();
        let twice = |name: &str| [encode(name, b"x"), encode(name, b"x")].concat();
        type Case = (&'static str, fn(&mut Link), Vec<u8>);
        let cases: [Case; 12] = [
            ("held again", start, encode("held", b"x")),
            ("failed after all", start, encode("failed", b"x\0y")),
            ("an execution before the start", wait, encode("not-executable", b"x")),
            ("an execution refused twice", start, twice("not-executable")),
            ("two outputs", start, twice("output")),
            ("an output after the end", start, [ended.clone(), encode("output", b"x")].concat()),
            ("a second end", start, [ended.clone(), ended].concat()),
            ("an end that is none", start, encode("ended", b"code 256")),
            ("a signal that is none", start, encode("ended", b"signal 0")),
            ("an order", start, encode("start", b"")),
            ("a long text", start, encode("not-executable", &[b'x'; TEXT_BYTES_MAX + 1])),
            ("no message", start, b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
        ];
        for (what, before, bytes) in cases {
            let (mut link, mut theirs) = held();
            before(&mut link);
            theirs.write_all(&bytes).unwrap();
            assert_eq!(told(&mut link).last(), Some(&Event::Gone), "{what}");
        }
    }

    #[test]
    fn a_guest_that_never_ends_costs_neither_memory_nor_the_loop() {
        let (mut link, mut theirs) = held();
        link.start().unwrap();
        theirs.set_nonblocking(true).unwrap();
        theirs.write_all(format!("output {}\n", OUTPUT_BYTES_MAX + 1).as_bytes()).unwrap();
        assert_eq!(told(&mut link), [Event::Gone], "refused by what it announces");

        let (mut link, mut theirs) = held();
        link.start().unwrap();
        let writer = std::thread::spawn(move || {
            let _ = theirs.write_all(&encode("output", &vec![b'x'; OUTPUT_BYTES_MAX]));
            theirs
        });
        while link.output.is_none() {
            assert_eq!(told(&mut link), []);
        }
        let mut theirs = writer.join().unwrap();
        assert_eq!(link.output().unwrap().map(|o| o.len()), Some(OUTPUT_BYTES_MAX));
        theirs.write_all(&encode("output", b"once more, now that the first was taken")).unwrap();
        assert_eq!(told(&mut link).len(), 0, "one at a time");
    }

    #[test]
    fn a_launch_does_not_wait_for_a_guest_for_ever() {
        let brief = || Instant::now() + Duration::from_millis(50);
        let (mut link, theirs) = linked();
        let error = link.prepare(&Config::default(), None, brief()).unwrap_err();
        assert_eq!(error.why, "the sandbox was not ready in time");
        drop(theirs);
        // One that does not read, while there is more to tell than fits on the way.
        let (mut link, _theirs) = linked();
        let config = Config { stdin: vec![0; 4 * 1024 * 1024], ..Config::default() };
        assert_eq!(link.prepare(&config, None, brief()).unwrap_err().why, "the sandbox was not ready in time");
        // One that is gone, one that says why, and one that babbles.
        for (said, why) in [
            (Vec::new(), "it ended before the agent was held"),
            (encode("failed", b"loopback\0not permitted"), "not permitted"),
            (encode("ended", b"code 0"), "it spoke out of turn"),
            (vec![b'x'; 100], "a message does not begin with a name and a length"),
            (b"held 99999\n".to_vec(), "a message is longer than it may be"),
        ] {
            let (mut link, mut theirs) = linked();
            theirs.write_all(&said).unwrap();
            drop(theirs);
            assert_eq!(link.prepare(&Config::default(), None, soon()).unwrap_err().why, why);
        }
    }

    /// The guest as pid 1 of new namespaces with a read-only root, as a container's runtime would start it.
    struct Container {
        child: Child,
        doors: Doors,
        _directory: tempfile::TempDir,
    }

    impl Container {
        fn start(before: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let at = |name: &str| directory.path().join(name);
            fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            let doors = Doors::make(&at("carrier"), (0, 0)).unwrap();
            fs::write(at("guest"), PROGRAM).unwrap();
            fs::set_permissions(at("guest"), std::os::unix::fs::PermissionsExt::from_mode(0o555)).unwrap();
            fs::create_dir(at("work")).unwrap();
            chown(at("work"), Some(1000), Some(1000)).unwrap();
            let script = format!(
                "set -e; mkdir -p /tmp/cogward-guest-root; mount -t tmpfs none /tmp/cogward-guest-root; \
                 cd /tmp/cogward-guest-root; mkdir usr proc work run tmp; mount --rbind /usr usr; \
                 for l in bin lib lib64 sbin; do ln -s usr/$l $l; done; mount -t proc proc proc; \
                 mount -t tmpfs -o uid=1000,gid=1000,mode=700 none work; mount --bind {0} run; \
                 mount -o remount,ro,bind .; {before} exec unshare --root=. -- /run/guest unix /run/carrier",
                directory.path().display()
            );
            let mut command = Command::new("unshare");
            command
                .args(["--mount", "--pid", "--fork", "--net", "--ipc", "--uts", "--kill-child=KILL", "--", "sh", "-c"])
                .arg(script)
                .env_clear()
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::inherit());
            let child = command.process_group(0).spawn().unwrap();
            Self { child, doors, _directory: directory }
        }

        fn link(&self, config: &Config) -> (Link, Result<Vec<String>, Stage>) {
            let mut link = self.doors.accept(None, soon()).unwrap();
            let held = link.prepare(config, None, soon());
            (link, held)
        }

        /// Everything up to the end of the agent, and its standard output.
        fn end(mut self, mut link: Link) -> (Vec<Event>, Option<Vec<u8>>, String) {
            let mut events = Vec::new();
            while !events.iter().any(|e| matches!(e, Event::Ended { .. } | Event::Gone)) {
                wait(&mut [PollFd::from_borrowed_fd(link.as_fd(), PollFlags::IN)], soon()).unwrap();
                link.turn(&mut events);
            }
            let output = link.output().unwrap();
            drop(link);
            // The end of the connection is the end of the guest, and so of everything.
            let mut stdout = String::new();
            self.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
            self.child.wait().unwrap();
            (events, output, stdout)
        }
    }

    fn shell(script: &str) -> Config {
        Config {
            argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
            cwd: "/work".to_owned(),
            limits: vec![("nofile", 64), ("core", 0)],
            refused: vec!["/run/carrier".to_owned()],
            output: Some("output".to_owned()),
            ..Config::default()
        }
    }

    #[test]
    fn the_guest_holds_checks_starts_and_tells_the_end() {
        let container = Container::start("");
        let script = "id -u; grep -E '^(CapEff|CapBnd|NoNewPrivs|SigIgn)' /proc/self/status; ulimit -n; ls /proc/self/fd; \
                      umask; pwd; cat /run/carrier/model.sock /proc/1/mem; kill -KILL 1; echo x > /probe; \
                      (setsid sleep 1000 &); printf answer > output; exit 3";
        let (mut link, held) = container.link(&shell(script));
        let checks = held.unwrap();
        assert!(checks.len() >= 8 && checks.iter().any(|c| c == "/run/carrier cannot be opened"), "{checks:?}");
        assert!(!container.doors.directory.join(CONTROL).exists(), "nobody becomes the guest afterwards");
        link.start().unwrap();
        let (events, output, stdout) = container.end(link);
        assert_eq!(events, [Event::Ended { code: Some(3), signal: None }]);
        assert_eq!(output.unwrap(), b"answer");
        let lines: Vec<&str> = stdout.lines().collect();
        let expected = [
            "1000",
            "SigIgn:\t0000000000000000",
            "CapEff:\t0000000000000000",
            "CapBnd:\t0000000000000000",
            "NoNewPrivs:\t1",
            "64",
            // What the shell of the agent has open, and the directory that is being listed.
            "0",
            "1",
            "2",
            "3",
            "0022",
            "/work",
        ];
        assert_eq!(lines, expected, "nothing of the refused was printed");
    }

    #[test]
    fn connections_of_the_agent_reach_their_door_and_no_other() {
        let container = Container::start("");
        let script = "python3 -c 'import socket\n\
                      for port in (28471, 28472, 3128):\n\
                      \x20 s = socket.create_connection((\"127.0.0.1\", port)); s.sendall(b\"x\" * 300000)\n\
                      \x20 s.shutdown(1); print(port, len(b\"\".join(iter(lambda: s.recv(65536), b\"\"))))\n\
                      try: socket.create_connection((\"127.0.0.1\", 28470), 1)\n\
                      except OSError as e: print(e.errno)'";
        let (mut link, held) = container.link(&shell(script));
        held.unwrap();
        let planes: Vec<_> = container
            .doors
            .listeners
            .iter()
            .zip(1..)
            .map(|(fd, times)| {
                let listener = UnixListener::from(fd.try_clone().unwrap());
                std::thread::spawn(move || {
                    let mut stream = accept(&listener, None, soon()).unwrap();
                    stream.set_nonblocking(false).unwrap();
                    let mut all = Vec::new();
                    stream.read_to_end(&mut all).unwrap();
                    stream.write_all(&all.repeat(times)).unwrap();
                })
            })
            .collect();
        link.start().unwrap();
        let (events, _, stdout) = container.end(link);
        assert_eq!(stdout, "28471 300000\n28472 600000\n3128 900000\n111\n");
        assert_eq!(events, [Event::Ended { code: Some(0), signal: None }]);
        planes.into_iter().for_each(|plane| plane.join().unwrap());
    }

    #[test]
    fn what_cannot_be_executed_and_what_is_asked_to_end_is_told() {
        let container = Container::start("");
        let (mut link, held) = container.link(&Config { argv: vec!["no-such-program".to_owned()], ..shell("") });
        held.unwrap();
        link.start().unwrap();
        let (events, ..) = container.end(link);
        assert!(
            matches!(events.as_slice(), [Event::NotExecutable { .. }, Event::Ended { code: Some(127), .. }]),
            "{events:?}"
        );

        let container = Container::start("");
        let (mut link, held) =
            container.link(&shell("trap 'echo asked; exit 5' TERM; echo up; while :; do sleep 0.05; done"));
        held.unwrap();
        link.start().unwrap();
        // Up when it has said so; the pipe is read to its end later.
        let mut up = [0; 3];
        let mut container = container;
        let mut stdout = container.child.stdout.take().unwrap();
        stdout.read_exact(&mut up).unwrap();
        container.child.stdout = Some(stdout);
        link.terminate().unwrap();
        let (events, _, stdout) = container.end(link);
        assert_eq!(
            (events.as_slice(), stdout.as_str()),
            (&[Event::Ended { code: Some(5), signal: None }][..], "asked\n")
        );
    }

    #[test]
    fn a_sandbox_that_is_not_what_it_should_be_runs_no_agent() {
        for (before, config, why) in [
            ("mount -o remount,rw,bind .;", shell(""), "not in force: the root cannot be written to"),
            (
                "ip link add cogward0 type veth peer name cogward1; ip link set cogward0 up;",
                shell(""),
                "not in force: only the loopback interface is up",
            ),
            ("", Config { refused: vec!["/usr".to_owned()], ..shell("") }, "not in force: /usr cannot be opened"),
            ("", Config { refused: vec!["/none".to_owned()], ..shell("") }, "not in force: /none cannot be opened"),
            ("", Config { seccomp: true, ..shell("") }, "not in force: system-call filter"),
            ("", Config { cwd: "/nowhere".to_owned(), ..shell("") }, "No such file or directory (os error 2)"),
        ] {
            let mut container = Container::start(before);
            let (link, held) = container.link(&config);
            assert_eq!(held.unwrap_err().why, why);
            drop(link);
            assert!(!container.child.wait().unwrap().success());
        }
    }

    #[test]
    fn the_end_of_the_supervisor_is_the_end_of_everything() {
        let mut container = Container::start("");
        let (mut link, held) = container.link(&shell("trap '' TERM HUP; (setsid sleep 1000 &) ; sleep 1000"));
        held.unwrap();
        link.start().unwrap();
        drop(link);
        // The pipe ends when the last process that holds it has.
        let mut rest = Vec::new();
        container.child.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
        assert!(!container.child.wait().unwrap().success());
    }
}
