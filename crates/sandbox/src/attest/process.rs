//! One process or thread, as the host's `/proc` tells of it.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read},
    mem::MaybeUninit,
    path::Path,
};

use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};

/// Most bytes that are read of one file: `mountinfo` is the largest, and ours has some dozens of lines.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A bounded file of `/proc/<pid>`.
pub fn read(pid: i32, file: &str) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(format!("/proc/{pid}/{file}"))?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// The inode that names a namespace of a process.
pub fn namespace(pid: i32, name: &str) -> io::Result<u64> {
    let link = fs::read_link(format!("/proc/{pid}/ns/{name}"))?;
    let number = link.to_str().and_then(|text| text.split_once(":[")?.1.strip_suffix(']')?.parse().ok());
    number.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// The processes of the host that can be seen.
pub fn all() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Processes of the host that one look takes in which are not the run's. A host full of runs has thousands, and every
/// run is looked at every minute.
pub const WINDOW: usize = 256;

/// Goes round all processes of the host, some at each look.
#[derive(Debug, Default)]
pub struct Window {
    /// Where the next turn begins, in the words of the kernel.
    next: Cell<u64>,
}

impl Window {
    /// The next of them; from the beginning again once all have been seen.
    pub fn turn(&self) -> Vec<i32> {
        let (found, next) = Self::from(self.next.get()).unwrap_or_default();
        self.next.set(next);
        found
    }

    fn from(place: u64) -> rustix::io::Result<(Vec<i32>, u64)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open("/proc", flags, Mode::empty())?;
        rustix::fs::seek(&directory, SeekFrom::Start(place))?;
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut entries = RawDir::new(&directory, &mut buffer);
        let mut found = Vec::with_capacity(WINDOW);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            if let Some(pid) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) {
                found.push(pid);
            }
            if found.len() == WINDOW {
                return Ok((found, entry.next_entry_cookie()));
            }
        }
        Ok((found, 0))
    }
}

/// The process that made a process, or was given it.
fn parent(pid: i32) -> Option<i32> {
    let text = read(pid, "status").ok()?;
    text.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// A process and everything that has it for an ancestor. Of one that has ended meanwhile the children may be missing.
pub fn descendants(of: i32) -> BTreeSet<i32> {
    // Not every kernel is built to tell them.
    if !Path::new("/proc/thread-self/children").exists() {
        return descendants_of_all(of);
    }
    let mut found = BTreeSet::from([of]);
    let mut open = vec![of];
    while let Some(pid) = open.pop() {
        for thread in threads(pid) {
            let children = read(pid, &format!("task/{thread}/children")).unwrap_or_default();
            open.extend(
                children.split_whitespace().filter_map(|child| child.parse().ok()).filter(|c| found.insert(*c)),
            );
        }
    }
    found
}

/// Whether a process has another for an ancestor, or is at its end. Looked up from below: of a process with many
/// children that come and go, the kernel may leave some out.
pub fn is_below(pid: i32, top: i32) -> bool {
    // Whoever loses a parent meanwhile is given another one, which the next round finds.
    for _ in 0..4 {
        let mut at = Some(pid);
        while let Some(above) = at.filter(|above| *above > 1) {
            if above == top {
                return true;
            }
            at = parent(above);
        }
    }
    !lives(pid)
}

/// The same out of every process of the host.
fn descendants_of_all(of: i32) -> BTreeSet<i32> {
    let parents: BTreeMap<i32, i32> = all().into_iter().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut found = BTreeSet::from([of]);
    loop {
        let before = found.len();
        let next: Vec<i32> = parents.iter().filter(|(_, up)| found.contains(*up)).map(|(pid, _)| *pid).collect();
        found.extend(next);
        // As many rounds as there are generations.
        if found.len() == before {
            return found;
        }
    }
}

/// When a process began, in ticks since the host did: its number may be another's later, and this tells the two apart.
pub fn began(pid: i32) -> Option<u64> {
    let text = read(pid, "stat").ok()?;
    // The name is in parentheses and may hold whatever its process likes; the time is the 22nd field.
    text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The threads of a process.
pub fn threads(pid: i32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Whether a process is there and has not ended.
pub fn lives(pid: i32) -> bool {
    read(pid, "status").is_ok_and(|text| Status::parse(&text).is_some_and(|status| !status.ended))
}

/// What `status` says that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// It has ended and waits to be taken note of.
    pub ended: bool,
    /// The real, effective, saved and file-system uid.
    pub uids: Vec<u32>,
    /// `no_new_privs` is set.
    pub no_new_privs: bool,
    /// The mode of its system-call filter; 2 is a program.
    pub seccomp: u32,
    /// How many programs.
    pub filters: u32,
    /// Inheritable, permitted, effective, bounding and ambient capabilities, together.
    pub capabilities: u64,
}

impl Status {
    /// Reads the file. `None` when a line is missing: what is not told is not proven.
    pub fn parse(text: &str) -> Option<Self> {
        let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let number = |name: &str| line(name)?.parse::<u32>().ok();
        let mut capabilities = 0;
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            capabilities |= u64::from_str_radix(line(set)?, 16).ok()?;
        }
        let uids: Vec<u32> = line("Uid")?.split_whitespace().map_while(|uid| uid.parse().ok()).collect();
        (uids.len() == 4).then_some(())?;
        Some(Self {
            ended: line("State")?.starts_with(['Z', 'X']),
            uids,
            no_new_privs: number("NoNewPrivs")? == 1,
            seccomp: number("Seccomp")?,
            filters: number("Seccomp_filters")?,
            capabilities,
        })
    }

    /// The status of a thread; `None` when it is gone or has ended.
    pub fn of(pid: i32, thread: i32) -> Option<Result<Self, ()>> {
        let text = read(pid, &format!("task/{thread}/status")).ok()?;
        match Self::parse(&text) {
            Some(status) if status.ended => None,
            Some(status) => Some(Ok(status)),
            None => Some(Err(())),
        }
    }
}

/// The interfaces of `net/dev`.
pub fn interfaces(text: &str) -> Vec<String> {
    text.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

/// What the kernel's tunnels put into every new network namespace, where `net.core.fb_tunnels_only_for_init_net` is 0.
const FALLBACK_TUNNELS: [&str; 10] =
    ["tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip6tnl0", "ip6gre0", "ip6erspan0", "ip_vti0", "ip6_vti0"];

/// Whether nothing but the loopback interface can be used: beside it there are at most fallback tunnels, without an
/// address, and down. `read` gives the files of the namespace; where one that must say so is missing, nothing is held
/// to be down. Routes are looked at for themselves.
pub fn loopback_only(interfaces: &[String], read: impl Fn(&str) -> Option<String>) -> bool {
    let (own, others): (Vec<&String>, Vec<&String>) = interfaces.iter().partition(|name| *name == "lo");
    if own.len() != 1 || others.iter().any(|name| !FALLBACK_TUNNELS.contains(&name.as_str())) {
        return false;
    }
    if others.is_empty() {
        return true;
    }
    let (Some(groups), Some(addresses)) = (read("net/igmp"), read("net/fib_trie")) else { return false };
    // A kernel without IPv6 has no such file.
    let v6 = read("net/if_inet6").unwrap_or_default();
    // An interface that is up is in the group of all hosts, and has an address of its own where there is IPv6.
    let up = groups.lines().skip(1).filter(|line| !line.starts_with(char::is_whitespace));
    let up = up.filter_map(|line| line.split_once(':')?.0.split_whitespace().last());
    let addressed = v6.lines().filter_map(|line| line.split_whitespace().last());
    if up.chain(addressed).any(|name| name != "lo") {
        return false;
    }
    // An address is local while its interface is down as well.
    let mut last = "";
    addresses.lines().all(|line| {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address;
        }
        !line.ends_with("host LOCAL") || last.starts_with("127.")
    })
}

/// How many routes of `net/route` and `net/ipv6_route` leave by another interface than the loopback.
pub fn routes_out(v4: &str, v6: &str) -> usize {
    let v4 = v4.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    let v6 = v6.lines().filter_map(|line| line.split_whitespace().last());
    v4.chain(v6).filter(|interface| *interface != "lo").count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AGENT: &str = "Name:\tpython3\nState:\tS (sleeping)\nPid:\t7\nUid:\t1049576\t1049576\t1049576\t1049576\n\
        CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n\
        CapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t2\n";

    #[test]
    fn a_status_is_read_whole_or_not_at_all() {
        let status = Status::parse(AGENT).unwrap();
        assert_eq!(status.uids, [1_049_576; 4]);
        assert!(status.no_new_privs && status.capabilities == 0 && !status.ended);
        assert_eq!((status.seccomp, status.filters), (2, 2));
        for line in AGENT.lines().skip(1).filter(|line| !line.starts_with("Pid")) {
            assert_eq!(Status::parse(&AGENT.replace(line, "")), None, "{line}");
        }
        let ambient = AGENT.replace("CapAmb:\t0000000000000000", "CapAmb:\t0000000000000002");
        assert_eq!(Status::parse(&ambient).unwrap().capabilities, 2);
        assert!(Status::parse(&AGENT.replace("S (sleeping)", "Z (zombie)")).unwrap().ended);
    }

    #[test]
    fn an_interface_and_a_route_that_leave_are_found() {
        let dev = "Inter-|   Receive\n face |bytes\n    lo:  0 0\n  eth0: 12 3\n";
        assert_eq!(interfaces(dev), ["lo", "eth0"]);
        let v4 = "Iface\tDestination\tGateway\nlo\t0000007F\t0\neth0\t00000000\t0\n";
        let v6 = "0000 01 0000 00 0000 00000000 00000001 00000000 00200200       lo\nfe80 40 0 0 0 0 0 0 0 veth0\n";
        assert_eq!(routes_out(v4, v6), 2);
        assert_eq!(routes_out("Iface\tDestination\n", ""), 0);
    }

    #[test]
    fn fallback_tunnels_are_accepted_only_while_they_can_do_nothing() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let igmp = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n";
        let trie = "Local:\n  +-- 127.0.0.0/8 2 0 2\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        let inet6 = "00000000000000000000000000000001 01 80 10 80       lo\n";
        let look = |all: &[&str], igmp: Option<&str>, trie: Option<&str>, inet6: Option<&str>| {
            loopback_only(&names(all), |file| {
                match file {
                    "net/igmp" => igmp,
                    "net/fib_trie" => trie,
                    _ => inet6,
                }
                .map(str::to_owned)
            })
        };
        let with = ["tunl0", "lo", "sit0", "gre0", "gretap0", "erspan0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0"];
        assert!(look(&["lo"], None, None, None));
        assert!(look(&with, Some(igmp), Some(trie), Some(inet6)) && look(&with, Some(igmp), Some(trie), None));
        for others in [&["lo", "eth0"][..], &["lo", "tunl1"], &["tunl0"], &["lo", "lo"], &["lo", "sit0", "veth0"], &[]]
        {
            assert!(!look(others, Some(igmp), Some(trie), Some(inet6)), "{others:?}");
        }
        let up = format!("{igmp}2\ttunl0     :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n");
        assert!(!look(&with, Some(&up), Some(trie), Some(inet6)), "one is up");
        let address = format!("{trie}  |-- 192.0.2.1\n     /32 host LOCAL\n");
        assert!(!look(&with, Some(igmp), Some(&address), Some(inet6)), "one has an address");
        let address = format!("{inet6}fe80000000000000000000000a000001 02 40 20 80     sit0\n");
        assert!(!look(&with, Some(igmp), Some(trie), Some(&address)), "one has an address of version 6");
        assert!(!look(&with, None, Some(trie), Some(inet6)) && !look(&with, Some(igmp), None, Some(inet6)));
    }

    #[test]
    fn a_child_and_its_child_are_found_and_a_stranger_is_not() {
        let script = "sleep 60 & echo $!; wait";
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", script])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line).unwrap();
        let (first, second) = (i32::try_from(child.id()).unwrap(), line.trim().parse::<i32>().unwrap());
        for found in [descendants(first), descendants_of_all(first)] {
            assert_eq!(found, BTreeSet::from([first, second]));
        }
        assert!(began(first).unwrap() <= began(second).unwrap() && began(0).is_none());
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(is_below(second, first) && is_below(second, own) && !is_below(first, second) && !is_below(own, first));
        for pid in [second, first] {
            rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL)
                .unwrap();
        }
        child.wait().unwrap();
    }

    #[test]
    fn some_at_each_look_are_all_in_the_end() {
        let mut sleepers: Vec<_> =
            (0..300).map(|_| std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap()).collect();
        let (window, mut seen) = (Window::default(), BTreeSet::new());
        let rounds = all().len() / WINDOW + 2;
        for _ in 0..rounds {
            let turn = window.turn();
            assert!(turn.len() <= WINDOW);
            seen.extend(turn);
        }
        for sleeper in &mut sleepers {
            assert!(seen.contains(&i32::try_from(sleeper.id()).unwrap()));
            sleeper.kill().unwrap();
            sleeper.wait().unwrap();
        }
        assert!(rounds > 2);
    }

    #[test]
    fn this_process_can_be_read() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(lives(own) && all().contains(&own) && !threads(own).is_empty());
        assert!(namespace(own, "net").unwrap() > 0);
        assert!(Status::of(own, own).unwrap().is_ok());
        assert!(interfaces(&read(own, "net/dev").unwrap()).contains(&"lo".to_owned()));
    }

    proptest! {
        /// A name that an agent gives its process is on the first line and cannot pass for another one.
        #[test]
        fn no_text_is_taken_for_a_whole_status(text in ".{0,400}") {
            prop_assert!(Status::parse(&text).is_none());
            let _ = (interfaces(&text), routes_out(&text, &text));
        }
    }
}
