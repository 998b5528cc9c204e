//! Calls that newer and older kernels have: each is code of the kernel that no agent needs.

use nix::libc;

use super::{
    Arg::{Bytes, Text, Word},
    Attack, call, hardened, refused_with,
};

/// `struct clone_args` that asks for a user namespace.
const CLONE_USER: &[u8] = &[0, 0, 0, 0x10, 0, 0, 0, 0];

/// The attacks. The numbers are those of every architecture since Linux 5.0.
#[rustfmt::skip]
pub const ATTACKS: &[Attack] = &[
    call("newer.quotactl-fd", "change quotas by a descriptor", 443, &[Word(0), Word(0), Word(0), Word(0)]),
    call("newer.home-node", "bind memory to a node", 450, &[Word(0), Word(0), Word(0), Word(0)]),
    call("newer.cachestat", "see what the host has read lately", 451, &[Word(0), Word(0), Word(0), Word(0)]),
    call("newer.shadow-stack", "a shadow stack of its own", 453, &[Word(0), Word(4096), Word(0)]),
    call("newer.futex-wake", "the newer futexes", 454, &[Word(0), Word(0), Word(0), Word(0)]),
    call("newer.futex-wait", "the newer futexes, waiting", 455, &[Word(0), Word(0), Word(0), Word(0), Word(0), Word(0)]),
    call("newer.futex-requeue", "the newer futexes, moving", 456, &[Word(0), Word(0), Word(0), Word(0)]),
    call("newer.statmount", "what is mounted, and from where", 457, &[Word(0), Word(0), Word(0), Word(0)]),
    call("newer.listmount", "which mounts there are", 458, &[Word(0), Word(0), Word(0), Word(0)]),
    call("newer.lsm-get", "the labels of security modules", 459, &[Word(100), Word(0), Word(0), Word(0)]),
    call("newer.lsm-set", "another label of a security module", 460, &[Word(100), Word(0), Word(0), Word(0)]),
    call("newer.lsm-list", "which security modules there are", 461, &[Word(0), Word(0), Word(0)]),
    call("newer.setxattrat", "attributes of files, the newer way", 463, &[Word(-100), Text("/work"), Word(0), Text("user.x"), Word(0), Word(0)]),
    call("newer.getxattrat", "read attributes of files, the newer way", 464, &[Word(-100), Text("/work"), Word(0), Text("user.x"), Word(0), Word(0)]),
    call("newer.listxattrat", "list attributes of files, the newer way", 465, &[Word(-100), Text("/work"), Word(0), Word(0), Word(0)]),
    call("newer.removexattrat", "remove attributes of files, the newer way", 466, &[Word(-100), Text("/work"), Word(0), Text("user.x")]),
    call("newer.open-tree-attr", "clone a tree of mounts with other attributes", 467, &[Word(-100), Text("/"), Word(1), Word(0), Word(0)]),
    call("newer.file-getattr", "attributes of the file system", 468, &[Word(-100), Text("/work"), Word(0), Word(0), Word(0)]),
    call("newer.file-setattr", "make a file immutable", 469, &[Word(-100), Text("/work"), Word(0), Word(0), Word(0)]),
    call("newer.next", "the call that the next kernel brings", 470, &[Word(0), Word(0), Word(0), Word(0)]),
    call("newer.memfd-secret-flag", "secret memory, closed at execution", libc::SYS_memfd_secret, &[Word(0x80000)]),
    refused_with(call("newer.clone3-user", "a process in a user namespace, by clone3", libc::SYS_clone3, &[Bytes(CLONE_USER), Word(88)]), &[libc::ENOSYS]),
    refused_with(call("newer.clone3-short", "clone3 with the shortest arguments", libc::SYS_clone3, &[Bytes(CLONE_USER), Word(64)]), &[libc::ENOSYS]),
    call("newer.io-uring-register-blind", "an operation of io_uring that needs no ring", libc::SYS_io_uring_register, &[Word(-1), Word(31), Word(0), Word(0)]),
    call("newer.sched-setattr", "a deadline of the scheduler", libc::SYS_sched_setattr, &[Word(0), Word(0), Word(0)]),
    call("newer.kexec-crash", "a kernel for crashes", libc::SYS_kexec_file_load, &[Word(-1), Word(-1), Word(0), Word(0), Word(2)]),
    call("newer.bpf-unprivileged", "a program of the kind that once needed no privilege", libc::SYS_bpf, &[Word(5), Bytes(&[1]), Word(120)]),
    call("newer.perf-own", "count its own events", libc::SYS_perf_event_open, &[Bytes(&[1, 0, 0, 0, 128]), Word(0), Word(-1), Word(-1), Word(8)]),
    call("newer.seccomp-sizes", "ask for the sizes of a listener's notices", libc::SYS_seccomp, &[Word(3), Word(0), Word(0)]),
    call("newer.seccomp-listener", "a filter with a listener, to answer for itself", libc::SYS_seccomp, &[Word(1), Word(8), Word(0)]),
    call("newer.userfaultfd-minor", "user faults, closed at execution", libc::SYS_userfaultfd, &[Word(0x80801)]),
    call("newer.remap-file-pages", "mappings out of order", libc::SYS_remap_file_pages, &[Word(0), Word(4096), Word(0), Word(0), Word(0)]),
    call("newer.nfsservctl", "the old server of files", libc::SYS_nfsservctl, &[Word(0), Word(0), Word(0)]),
    call("newer.lookup-dcookie", "names of the kernel's profiler", libc::SYS_lookup_dcookie, &[Word(0), Word(0), Word(0)]),
    call("newer.clock-adjust", "adjust a clock", libc::SYS_clock_adjtime, &[Word(0), Word(0)]),
    call("newer.memory-policy", "a policy of memory", libc::SYS_set_mempolicy, &[Word(0), Word(0), Word(0)]),
    call("newer.memory-policy-of", "read the policy of an address", libc::SYS_get_mempolicy, &[Word(0), Word(0), Word(0), Word(0), Word(0)]),
    call("newer.fanotify-mark", "mark what to watch", libc::SYS_fanotify_mark, &[Word(0), Word(1), Word(1), Word(-100), Text("/")]),
    call("newer.aio-submit", "submit old asynchronous input", libc::SYS_io_submit, &[Word(0), Word(1), Word(0)]),
    hardened(call("newer.landlock-add", "rules in a set of its own", 445, &[Word(0), Word(1), Word(0), Word(0)])),
    hardened(call("newer.landlock-restrict", "restrict itself again", 446, &[Word(0), Word(0)])),
    hardened(call("newer.landlock-quiet", "restrict itself without a trace", 446, &[Word(-1), Word(2)])),
    hardened(call("newer.mrelease", "take memory from a process that ends", libc::SYS_process_mrelease, &[Word(0), Word(0)])),
    hardened(call("newer.execveat", "execute by a descriptor", libc::SYS_execveat, &[Word(-1), Text(""), Word(0), Word(0), Word(0x1000)])),
    hardened(call("newer.execveat-check", "ask whether a file may be executed", libc::SYS_execveat, &[Word(-100), Text("/work"), Word(0), Word(0), Word(0x10000)])),
    hardened(call("newer.prctl-dispatch", "have its own calls sent elsewhere", libc::SYS_prctl, &[Word(59), Word(1), Word(0), Word(0), Word(0)])),
    hardened(call("newer.prctl-speculation", "allow speculation", libc::SYS_prctl, &[Word(53), Word(0), Word(2), Word(0), Word(0)])),
    hardened(call("newer.prctl-core", "share a core", libc::SYS_prctl, &[Word(62), Word(1), Word(0), Word(0), Word(0)])),
    hardened(call("newer.prctl-tracer", "name who may trace it", libc::SYS_prctl, &[Word(0x59616d61), Word(-1), Word(0), Word(0), Word(0)])),
    hardened(call("newer.prctl-capabilities", "keep capabilities", libc::SYS_prctl, &[Word(8), Word(1), Word(0), Word(0), Word(0)])),
    hardened(call("newer.prctl-hash", "the hash of its futexes", libc::SYS_prctl, &[Word(78), Word(1), Word(16), Word(0), Word(0)])),
];

/// The same, of this architecture alone.
#[rustfmt::skip]
#[cfg(target_arch = "x86_64")]
pub const ATTACKS_HERE: &[Attack] = &[
    call("older.sysctl", "settings of the kernel by the old call", 156, &[Word(0)]),
    call("older.create-module", "the old way to a module", 174, &[Word(0), Word(0)]),
    call("older.kernel-symbols", "the old list of symbols", 177, &[Word(0)]),
    call("older.query-module", "the old question about modules", 178, &[Word(0), Word(0), Word(0), Word(0), Word(0)]),
    call("older.stream-message", "messages of streams", 181, &[Word(0), Word(0), Word(0), Word(0), Word(0)]),
    call("older.file-system-of-andrew", "a call of another file system", 183, &[Word(0), Word(0), Word(0), Word(0), Word(0)]),
    call("older.security", "the call that security modules once had", 185, &[Word(0), Word(0), Word(0)]),
    call("older.thread-area", "a segment for a thread", 205, &[Word(0)]),
    call("older.epoll-control", "the old control of epoll", 214, &[Word(0), Word(0), Word(0), Word(0)]),
    call("older.virtual-server", "a call of virtual servers", 236, &[Word(0), Word(0), Word(0), Word(0), Word(0)]),
    // The kernel lets these two past every filter, and refuses them itself where there is no probe.
    refused_with(call("older.return-of-probe", "the return of a probe", 335, &[]), &[-libc::SIGILL, libc::EPERM, libc::ENOSYS]),
    refused_with(call("older.probe", "a probe in its own code", 336, &[]), &[libc::ENXIO, libc::EPERM, libc::ENOSYS]),
    call("older.x32-execve", "execute by the x32 number", 0x4000_0208, &[Word(0), Word(0), Word(0)]),
    call("older.x32-ioctl", "an operation on a descriptor by the x32 number", 0x4000_0202, &[Word(0), Word(0x5412), Word(0)]),
    call("older.negative", "a negative number", -1, &[]),
    call("older.high-bits", "bpf with bits that the kernel ignores", 0x1_0000_0141, &[Word(0), Word(0), Word(0)]),
    Attack { means: super::Means::Legacy(20), refusal: &[-libc::SIGSYS], ..call("older.legacy-getpid", "a harmless call in the way of 32-bit programs", 0, &[]) },
    Attack { means: super::Means::Legacy(26), refusal: &[-libc::SIGSYS], ..call("older.legacy-ptrace", "ptrace in the way of 32-bit programs", 0, &[]) },
    Attack { means: super::Means::Legacy(310), refusal: &[-libc::SIGSYS], ..call("older.legacy-unshare", "namespaces in the way of 32-bit programs", 0, &[]) },
    Attack { means: super::Means::Legacy(357), refusal: &[-libc::SIGSYS], ..call("older.legacy-bpf", "bpf in the way of 32-bit programs", 0, &[]) },
    Attack { means: super::Means::Legacy(425), refusal: &[-libc::SIGSYS], ..call("older.legacy-io-uring", "io_uring in the way of 32-bit programs", 0, &[]) },
];

/// The same, of this architecture alone.
#[cfg(not(target_arch = "x86_64"))]
pub const ATTACKS_HERE: &[Attack] = &[];
