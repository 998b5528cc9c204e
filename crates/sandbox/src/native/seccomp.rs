//! The system-call filter: a list of what is let through, everything else is refused. Profiles differ in the list.
//!
//! Two programs are stacked. The first answers `clone3` with `ENOSYS`: its flags are behind a pointer that a
//! filter cannot read, and C libraries then fall back to `clone`, whose flags it can. The second lets the listed
//! calls through and reports any other to the supervisor, which answers `EPERM`; when there is no supervisor the
//! kernel answers `ENOSYS`. Calls of another architecture end the process; x32 numbers are not on the list.

use std::collections::BTreeMap;

use cogward_model::Digest;
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::{Stage, sys::Instruction, syscalls};
use crate::{attest::sha256, profile::Controls};

/// The two programs.
#[derive(Debug)]
pub struct Filter {
    /// `clone3` is not there.
    pub clone3: BpfProgram,
    /// The list; what is not on it is reported.
    pub list: BpfProgram,
    /// Calls on the list.
    pub allowed: usize,
}

impl Filter {
    /// The digest of both programs, byte for byte as the kernel is given them.
    pub fn digest(&self) -> Digest {
        let instructions = self.clone3.iter().chain(&self.list);
        let bytes: Vec<u8> = instructions
            .flat_map(|i| i.code.to_ne_bytes().into_iter().chain([i.jt, i.jf]).chain(i.k.to_ne_bytes()))
            .collect();
        sha256(&bytes)
    }
}

/// The data of the placeholder that becomes a report.
const REPORT: u32 = 0x7fff;
/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;

/// Flags of `clone` that make namespaces.
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP
    | 0x80; // CLONE_NEWTIME

/// `MFD_NOEXEC_SEAL`: Landlock does not see the execution of a memory file, so one that could be executed is refused.
const MFD_NOEXEC_SEAL: u64 = 8;

fn arch() -> Result<TargetArch, Stage> {
    TargetArch::try_from(std::env::consts::ARCH).map_err(|e| Stage::new("seccomp", &e))
}

/// Compiles the filter of a profile.
pub fn compile(controls: &Controls) -> Result<Filter, Stage> {
    let failed = |e: &dyn std::fmt::Display| Stage::new("seccomp", e);
    let clone3: BpfProgram = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_clone3, vec![])]),
        SeccompAction::Allow,
        SeccompAction::Errno(u32::try_from(libc::ENOSYS).unwrap_or(38)),
        arch()?,
    )
    .and_then(TryInto::try_into)
    .map_err(|e| failed(&e))?;
    let rules = rules(controls).map_err(|e| failed(&e))?;
    let allowed = rules.len();
    let mut list: BpfProgram = SeccompFilter::new(rules, SeccompAction::Trace(REPORT), SeccompAction::Allow, arch()?)
        .and_then(TryInto::try_into)
        .map_err(|e| failed(&e))?;
    report_the_rest(&mut list)?;
    if !controls.seccomp_holds() {
        // A test's sandbox. It is complete but for this, so that what it lets happen is due to this alone.
        let everything =
            |program: &BpfProgram| program.last().map(|i| Instruction { k: libc::SECCOMP_RET_ALLOW, ..*i });
        list = everything(&list).into_iter().collect();
        return Ok(Filter { clone3: list.clone(), list, allowed });
    }
    Ok(Filter { clone3, list, allowed })
}

/// The compiler knows no "report" action; it is put in place of "trace", which is compiled for nothing else.
fn report_the_rest(program: &mut BpfProgram) -> Result<(), Stage> {
    let mut changed = 0_usize;
    for instruction in program.iter_mut() {
        if instruction.code == RETURN && instruction.k == libc::SECCOMP_RET_TRACE | REPORT {
            instruction.k = libc::SECCOMP_RET_USER_NOTIF;
            changed += 1;
        }
    }
    // The default at the end of the program is one of them; without it nothing would be refused.
    match program.last() {
        Some(last) if last.code == RETURN && last.k == libc::SECCOMP_RET_USER_NOTIF && changed > 0 => Ok(()),
        _ => Err(Stage::new("seccomp", &"the compiled filter does not refuse by default")),
    }
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn rules(controls: &Controls) -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = syscalls::ALLOWED.iter().chain(syscalls::ALLOWED_HERE).map(|(n, _)| (*n, vec![])).collect();
    let when = |conditions: &[(u8, Width, Op, u64)]| {
        let conditions = conditions
            .iter()
            .map(|(arg, width, op, value)| SeccompCondition::new(*arg, width.clone(), op.clone(), *value))
            .collect::<Result<Vec<_>, _>>()?;
        SeccompRule::new(conditions)
    };
    let word = |value: i32| u64::from(value.unsigned_abs());
    // `clone3` passes here and is refused by the other program, whose answer then is the one that counts.
    rules.insert(libc::SYS_clone3, vec![]);
    rules.insert(libc::SYS_clone, vec![when(&[(0, Width::Qword, Op::MaskedEq(word(NAMESPACES)), 0)])?]);
    let mut sockets = Vec::new();
    if controls.unix_sockets {
        sockets.push(when(&[(0, Width::Dword, Op::Eq, word(libc::AF_UNIX))])?);
    }
    for family in [libc::AF_INET, libc::AF_INET6] {
        // By name or as the default of the kind. Landlock's rules are for TCP and do not hold for MPTCP, and asking for
        // another protocol (SCTP, L2TP, UDP-Lite) would have the kernel load code for it.
        let mut kinds = vec![(libc::SOCK_STREAM, 0), (libc::SOCK_STREAM, libc::IPPROTO_TCP)];
        if controls.datagrams {
            kinds.extend([(libc::SOCK_DGRAM, 0), (libc::SOCK_DGRAM, libc::IPPROTO_UDP)]);
        }
        for (kind, protocol) in kinds {
            sockets.push(when(&[
                (0, Width::Dword, Op::Eq, word(family)),
                (1, Width::Dword, Op::MaskedEq(0xf), word(kind)),
                (2, Width::Dword, Op::Eq, word(protocol)),
            ])?);
        }
    }
    if controls.netlink {
        sockets.push(when(&[
            (0, Width::Dword, Op::Eq, word(libc::AF_NETLINK)),
            (2, Width::Dword, Op::Eq, word(libc::NETLINK_ROUTE)),
        ])?);
    }
    rules.insert(libc::SYS_socket, sockets);
    // A connection that begins with its first data does not pass the check of a connection. Urgent data of AF_UNIX is
    // code of the kernel with a history, and no agent sends any.
    let urgent = if controls.listed_operations { word(libc::MSG_OOB) } else { 0 };
    let fast_open = word(libc::MSG_FASTOPEN);
    for (number, arg, flags) in [
        (libc::SYS_sendto, 3, fast_open | urgent),
        (libc::SYS_sendmsg, 2, fast_open | urgent),
        (libc::SYS_sendmmsg, 3, fast_open | urgent),
        (libc::SYS_recvfrom, 3, urgent),
        (libc::SYS_recvmsg, 2, urgent),
    ] {
        if flags != 0 {
            rules.insert(number, vec![when(&[(arg, Width::Dword, Op::MaskedEq(flags), 0)])?]);
        }
    }
    // No programs on sockets, and no protocol of the kernel over TCP.
    let level = |op: fn() -> Op, value: i32| (1, Width::Dword, op(), word(value));
    let mut no_programs = vec![level(|| Op::Eq, libc::SOL_SOCKET)];
    no_programs.extend(SOCKET_PROGRAMS.iter().map(|option| (2, Width::Dword, Op::Ne, word(*option))));
    rules.insert(
        libc::SYS_setsockopt,
        vec![
            when(&[level(|| Op::Ne, libc::SOL_SOCKET), level(|| Op::Ne, libc::IPPROTO_TCP)])?,
            when(&no_programs)?,
            when(&[level(|| Op::Eq, libc::IPPROTO_TCP), (2, Width::Dword, Op::Ne, word(libc::TCP_ULP))])?,
        ],
    );
    // The limit of core files stays what it is: at any other value than 1 a host whose core files go to a program
    // executes it, as root, for every agent that crashes.
    let core = u64::from(libc::RLIMIT_CORE);
    let not_init = |arg: u8| (arg, Width::Dword, Op::Ne, INIT);
    rules.insert(
        libc::SYS_prlimit64,
        vec![
            when(&[not_init(0), (1, Width::Dword, Op::Ne, core)])?,
            when(&[not_init(0), (2, Width::Qword, Op::Eq, 0)])?,
        ],
    );
    for (number, arg) in OF_ANOTHER_PROCESS {
        rules.insert(*number, vec![when(&[not_init(*arg)])?]);
    }
    rules.insert(libc::SYS_setrlimit, vec![when(&[(0, Width::Dword, Op::Ne, core)])?]);
    rules.insert(libc::SYS_socketpair, vec![when(&[(0, Width::Dword, Op::Eq, word(libc::AF_UNIX))])?]);
    // Pushing input into a terminal, and Linux console selection, which can do the same.
    rules.insert(
        libc::SYS_ioctl,
        vec![when(&[(1, Width::Dword, Op::Ne, TIOCSTI), (1, Width::Dword, Op::Ne, TIOCLINUX)])?],
    );
    let personalities = [0, 0xffff_ffff];
    rules.insert(
        libc::SYS_personality,
        personalities.iter().map(|p| when(&[(0, Width::Dword, Op::Eq, *p)])).collect::<Result<_, _>>()?,
    );
    rules.insert(
        libc::SYS_memfd_create,
        vec![when(&[(1, Width::Dword, Op::MaskedEq(MFD_NOEXEC_SEAL), MFD_NOEXEC_SEAL)])?],
    );
    for (number, arg) in syscalls::MAKE_NODE {
        let kinds = [libc::S_IFIFO, libc::S_IFREG, 0];
        let kinds = kinds
            .iter()
            .map(|kind| when(&[(*arg, Width::Dword, Op::MaskedEq(u64::from(libc::S_IFMT)), u64::from(*kind))]));
        rules.insert(*number, kinds.collect::<Result<_, _>>()?);
    }
    if controls.listed_operations {
        // Notices of what others open in a directory, which `inotify` would be refused for.
        rules.insert(libc::SYS_fcntl, vec![when(&[(1, Width::Dword, Op::Ne, word(libc::F_NOTIFY))])?]);
        for (number, arg, operations) in [(libc::SYS_ioctl, 1, IOCTLS), (libc::SYS_prctl, 0, PRCTLS)] {
            let listed = operations.iter().map(|operation| when(&[(arg, Width::Dword, Op::Eq, *operation)]));
            rules.insert(number, listed.collect::<Result<_, _>>()?);
        }
    }
    for number in controls.without {
        rules.remove(number);
    }
    if controls.write_or_execute {
        // A memory file is written by one mapping and executed by another.
        rules.remove(&libc::SYS_memfd_create);
    }
    Ok(rules)
}

/// Init's number inside. Without root it has the agent's uid, and would have to let the agent do this to it.
const INIT: u64 = 1;
/// Calls that do something to a process by its number, and the argument that has it.
const OF_ANOTHER_PROCESS: &[(i64, u8)] = &[
    (libc::SYS_kill, 0),
    (libc::SYS_tkill, 0),
    (libc::SYS_tgkill, 0),
    (libc::SYS_rt_sigqueueinfo, 0),
    (libc::SYS_rt_tgsigqueueinfo, 0),
    (libc::SYS_pidfd_open, 0),
    (libc::SYS_sched_setaffinity, 0),
    (libc::SYS_sched_setscheduler, 0),
    (libc::SYS_sched_setparam, 0),
    (libc::SYS_setpriority, 1),
    (libc::SYS_ioprio_set, 1),
];

/// Options of sockets that put a program into the kernel: a filter, a loaded one, and those that choose a listener.
pub const SOCKET_PROGRAMS: &[i32] =
    &[libc::SO_ATTACH_FILTER, libc::SO_ATTACH_BPF, libc::SO_ATTACH_REUSEPORT_CBPF, libc::SO_ATTACH_REUSEPORT_EBPF];
const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541C;

/// Operations on descriptors that `hardened` lets through: whether it is a terminal and how large, what waits to be
/// read, without blocking, close on execution.
pub const IOCTLS: &[u64] = &[0x5401, 0x802c_542a, 0x5413, 0x540f, 0x541b, 0x5421, 0x5450, 0x5451];
/// Operations on itself that `hardened` lets a process do: death signal, dumpable, name, seccomp state, bounding set,
/// timer slack, subreaper, no_new_privs, transparent huge pages, names of mappings.
const PRCTLS: &[u64] = &[1, 2, 3, 4, 15, 16, 21, 23, 29, 30, 36, 37, 38, 39, 41, 42, 0x5356_4d41];

/// The name of a system call for people; its number when it has none here.
pub fn name(number: i32) -> String {
    let wanted = i64::from(number);
    syscalls::ALLOWED
        .iter()
        .chain(syscalls::ALLOWED_HERE)
        .chain(syscalls::NAMED)
        .chain(syscalls::NAMED_HERE)
        .find(|(n, _)| *n == wanted)
        .map_or_else(|| format!("syscall_{number}"), |(_, name)| (*name).to_owned())
}

/// What a refused call was about: its name, and where the name says too little to judge it, what was asked for.
pub fn object(number: i32, args: &[u64; 6]) -> String {
    let word = |place: usize| args.get(place).map_or(0, |arg| *arg & 0xffff_ffff);
    let is = |value: i32, word: u64| word == u64::from(value.unsigned_abs());
    match i64::from(number) {
        libc::SYS_socket | libc::SYS_socketpair => {
            let kind = word(1) & 0xf;
            let known = [
                (libc::AF_UNIX, "unix"),
                (libc::AF_ALG, "alg"),
                (libc::AF_PACKET, "packet"),
                (libc::AF_VSOCK, "vsock"),
                (libc::AF_KEY, "key"),
                (libc::AF_XDP, "xdp"),
            ];
            let ordinary = [libc::NETLINK_ROUTE, libc::NETLINK_KOBJECT_UEVENT, libc::NETLINK_GENERIC];
            let internet = is(libc::AF_INET, word(0)) || is(libc::AF_INET6, word(0));
            let what = match known.iter().find(|(family, _)| is(*family, word(0))) {
                Some((_, name)) => name,
                None if is(libc::AF_NETLINK, word(0)) && ordinary.iter().any(|p| is(*p, word(2))) => "netlink",
                None if is(libc::AF_NETLINK, word(0)) => "netlink-other",
                None if is(libc::SOCK_RAW, kind) => "raw",
                None if internet && is(libc::SOCK_DGRAM, kind) => "datagram",
                None if internet && is(libc::IPPROTO_MPTCP, word(2)) => "mptcp",
                None if internet => "stream",
                None => "other",
            };
            format!("socket:{what}")
        }
        libc::SYS_ioctl if [TIOCSTI, TIOCLINUX].contains(&word(1)) => "ioctl:terminal-input".to_owned(),
        _ => name(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{NATIVE, PROFILES};

    #[test]
    fn nothing_dangerous_is_on_the_list() {
        for profile in PROFILES {
            let listed = rules(&Controls::of(profile)).unwrap();
            for (number, name) in syscalls::NAMED.iter().chain(syscalls::NAMED_HERE) {
                let conditional = listed.get(number).is_some_and(|rules| !rules.is_empty());
                assert!(!listed.contains_key(number) || conditional || *number == libc::SYS_clone3, "{name}");
            }
        }
    }

    #[test]
    fn both_programs_compile_and_refuse_by_default() {
        for profile in PROFILES {
            let filter = compile(&Controls::of(profile)).unwrap();
            assert!(filter.allowed > 180 && filter.list.len() < 4096);
            assert!(!filter.list.iter().any(|i| i.code == RETURN && i.k & 0xffff_0000 == libc::SECCOMP_RET_TRACE));
        }
    }

    #[test]
    fn a_socket_is_named_by_what_it_would_be() {
        let socket = i32::try_from(libc::SYS_socket).unwrap();
        let int = |value: i32| u64::from(value.unsigned_abs());
        for (family, kind, protocol, wanted) in [
            (libc::AF_ALG, libc::SOCK_SEQPACKET, 0, "socket:alg"),
            (libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE, "socket:netlink"),
            (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER, "socket:netlink-other"),
            (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP, "socket:raw"),
            (libc::AF_INET6, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, 0, "socket:datagram"),
            (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP, "socket:mptcp"),
            (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP, "socket:stream"),
            (libc::AF_UNIX, libc::SOCK_STREAM, 0, "socket:unix"),
            (libc::AF_BLUETOOTH, libc::SOCK_STREAM, 0, "socket:other"),
        ] {
            assert_eq!(object(socket, &[int(family), int(kind), int(protocol), 0, 0, 0]), wanted);
        }
        let ioctl = i32::try_from(libc::SYS_ioctl).unwrap();
        // The kernel looks at 32 bits of the operation, whatever is above.
        assert_eq!(object(ioctl, &[0, TIOCSTI | 1 << 40, 0, 0, 0, 0]), "ioctl:terminal-input");
        assert_eq!(object(ioctl, &[0, 0x5402, 0, 0, 0, 0]), "ioctl");
        assert_eq!(object(i32::try_from(libc::SYS_mount).unwrap(), &[0; 6]), "mount");
    }

    #[test]
    fn hardened_is_a_smaller_list() {
        let [standard, hardened] = NATIVE.map(|p| rules(&Controls::of(p)).unwrap());
        assert!(hardened.keys().all(|number| standard.contains_key(number)));
        // And memory files.
        assert_eq!(standard.len() - hardened.len(), syscalls::NOT_IN_HARDENED.len() + 1);
    }
}
