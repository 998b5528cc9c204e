//! What a sandbox or the proxy refused: how grave it is, what follows, and counts that a flood cannot blur.
//!
//! An agent can provoke refusals without end, and writing each of them down would be an attack on the record.
//! [`Tally`] reports the first ones of a kind one by one and then at powers of two; the number of kinds is bounded
//! too. What it loses is the moment of a single refusal, never the count: every report carries the total so far.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Kinds that are told apart beside those that [`CLASSES`] names; further ones are counted as [`OTHER`].
pub const KINDS_MAX: usize = 128;
/// Refusals of one kind that are reported one by one.
pub const SINGLY: u64 = 50;
/// Reports of single refusals over all kinds; from then on every kind is reported at powers of two.
pub const SINGLY_ALL: u64 = 1_000;
/// The object of every kind beyond [`KINDS_MAX`].
pub const OTHER: &str = "other";

/// Refused system calls.
pub const SECCOMP: &str = "seccomp";
/// Limits that were reached.
pub const CGROUP: &str = "cgroup";
/// Connections that the proxy refused.
pub const EGRESS: &str = "egress";

/// Something that was refused, or a limit that was reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Violation {
    /// `seccomp`, `cgroup` or `egress`.
    pub layer: String,
    /// What was done about it (`deny`, `kill`); for a connection, what was wrong with it.
    pub action: String,
    /// The system call, the limit, or the host and port.
    pub object: String,
    /// How often since the last report of the same kind.
    pub count: u64,
    /// How often in the whole run; 0 from a supervisor of an earlier build, which does not say.
    #[serde(default)]
    pub total: u64,
}

impl Violation {
    /// How grave it is.
    #[must_use]
    pub fn severity(&self) -> Severity {
        severity(&self.layer, &self.action, &self.object)
    }
}

/// How often one kind of refusal happened in a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ViolationTotal {
    /// `seccomp`, `cgroup` or `egress`.
    pub layer: String,
    /// What was done about it; for a connection, what was wrong with it.
    pub action: String,
    /// The system call, the limit, or the host and port.
    pub object: String,
    /// How grave it is.
    pub severity: Severity,
    /// How often.
    pub total: u64,
}

/// How grave a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Libraries and language runtimes do it by themselves.
    Info,
    /// Not usual, and not known as a step of an attack.
    Warning,
    /// A known step of an attack, which no agent needs.
    High,
}

impl Severity {
    /// The word used in the ledger and in events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::High => "high",
        }
    }
}

/// What happens to a run that did something of severity `high`. It was refused in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reaction {
    /// Nothing more: it was refused, and goes on.
    Deny,
    /// It is suspended until an operator resumes or ends it.
    Suspend,
    /// It is killed.
    Kill,
}

impl Reaction {
    /// The word used in the manifest.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Suspend => "suspend",
            Self::Kill => "kill",
        }
    }

    /// What the evidence says became of the run.
    #[must_use]
    pub fn verdict(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Suspend => "suspended",
            Self::Kill => "killed",
        }
    }
}

/// A line of the table of severities.
#[derive(Debug, Clone, Copy)]
pub struct Class {
    /// The layer it is about.
    pub layer: &'static str,
    /// The objects it is about; for [`EGRESS`] the actions. None: everything of the layer.
    pub of: &'static [&'static str],
    /// How grave it is.
    pub severity: Severity,
    /// What it is, for people.
    pub what: &'static str,
}

const fn seccomp(severity: Severity, what: &'static str, of: &'static [&'static str]) -> Class {
    Class { layer: SECCOMP, of, severity, what }
}

const fn egress(severity: Severity, what: &'static str, of: &'static [&'static str]) -> Class {
    Class { layer: EGRESS, of, severity, what }
}

/// The table of severities. What no line names is [`Severity::Warning`].
#[rustfmt::skip]
pub const CLASSES: &[Class] = &[
    seccomp(Severity::High, "Changing the mount table or the root", &[
        "mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount",
        "fspick", "mount_setattr",
    ]),
    seccomp(Severity::High, "Making or entering namespaces", &["unshare", "setns", "clone"]),
    seccomp(Severity::High, "Reading or steering other processes", &[
        "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd",
    ]),
    seccomp(Severity::High, "Interfaces that kernels were often broken by", &[
        "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register",
    ]),
    seccomp(Severity::High, "The kernel's keyrings", &["keyctl", "add_key", "request_key"]),
    seccomp(Severity::High, "Kernel modules, another kernel, the machine itself", &[
        "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff",
        "acct", "iopl", "ioperm", "syslog", "settimeofday", "clock_settime", "sethostname", "setdomainname",
    ]),
    seccomp(Severity::High, "Files by handle, device nodes, watching the whole file system, terminal input", &[
        "open_by_handle_at", "mknod", "mknodat", "fanotify_init", "fanotify_mark", "ioctl:terminal-input",
    ]),
    seccomp(Severity::High, "Sockets that reach around the plane or deep into the kernel", &[
        "socket:alg", "socket:packet", "socket:vsock", "socket:raw", "socket:key", "socket:xdp",
        "socket:netlink-other", "socket:other",
    ]),
    seccomp(Severity::Info, "Sockets that libraries try by themselves", &[
        "socket:netlink", "socket:datagram", "socket:unix", "socket:mptcp",
    ]),
    seccomp(Severity::Info, "Placement of memory, asynchronous files, the program's own filter", &[
        "mbind", "set_mempolicy", "get_mempolicy", "migrate_pages", "move_pages", "io_setup", "io_submit", "seccomp",
    ]),
    seccomp(Severity::Info, "What `standard` lets through and `hardened` does not", &[
        "shmget", "shmat", "shmctl", "shmdt", "semget", "semop", "semctl", "semtimedop", "msgget", "msgsnd", "msgrcv",
        "msgctl", "mq_open", "mq_unlink", "mq_timedsend", "mq_timedreceive", "mq_notify", "mq_getsetattr", "bind",
        "listen", "accept", "accept4", "recvmmsg", "sendmmsg", "splice", "tee", "execveat", "setuid", "setgid",
        "setreuid", "setregid", "setgroups", "setresuid", "setresgid", "setfsuid", "setfsgid", "capset", "setxattr",
        "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr", "inotify_add_watch",
        "inotify_rm_watch", "inotify_init", "inotify_init1", "sched_setparam", "sched_setscheduler", "ioprio_set",
        "ioprio_get", "mlockall", "munlockall", "sync", "syncfs", "sync_file_range", "readahead", "get_robust_list",
        "process_mrelease", "rt_tgsigqueueinfo", "pkey_mprotect", "pkey_alloc", "pkey_free",
        "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "ioctl", "prctl",
    ]),
    Class { layer: CGROUP, of: &[], severity: Severity::Warning, what: "A limit of memory or processes that was reached" },
    egress(Severity::High, "A connection to this host, its network or its metadata, or to an address that is spelled to \
        hide it", &["inside-address"]),
    egress(Severity::High, "The placeholder of a credential where it does not belong", &["misused-credential"]),
    egress(Severity::Warning, "A connection to a public address by number, to a host that the manifest does not declare, \
        under another name or without TLS, or a malformed one", &["address", "undeclared", "disguised", "malformed"]),
];

/// How grave a refusal is.
#[must_use]
pub fn severity(layer: &str, action: &str, object: &str) -> Severity {
    let named = if layer == EGRESS { action } else { object };
    let class = CLASSES.iter().find(|class| class.layer == layer && (class.of.is_empty() || class.of.contains(&named)));
    class.map_or(Severity::Warning, |class| class.severity)
}

/// What is counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    layer: String,
    action: String,
    object: String,
}

impl Kind {
    /// Whether the table names its object: of those there are a few, and an agent that made up kinds until the bound
    /// was reached must not hide a grave one among the others.
    fn is_named(&self) -> bool {
        CLASSES.iter().any(|class| class.layer == self.layer && class.of.contains(&self.object.as_str()))
    }

    /// The kind to count this one as, where `known` kinds are told apart already.
    fn within<T>(mut self, known: &BTreeMap<Self, T>, most: usize) -> Self {
        if known.len() >= most && !known.contains_key(&self) && !self.is_named() {
            // Layers and actions are our own few words; only objects can be without end.
            self.object = OTHER.to_owned();
        }
        self
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    total: u64,
    reported: u64,
}

/// Counts refusals where they happen, and says which are due to be reported.
#[derive(Debug, Default)]
pub struct Tally {
    counts: BTreeMap<Kind, Count>,
    singly: u64,
}

impl Tally {
    /// Counts `more` refusals of a kind.
    pub fn add(&mut self, layer: &str, action: &str, object: &str, more: u64) {
        let kind = Kind { layer: layer.to_owned(), action: action.to_owned(), object: object.to_owned() };
        let count = self.counts.entry(kind.within(&self.counts, KINDS_MAX)).or_default();
        count.total = count.total.saturating_add(more);
    }

    /// What is due to be reported. With `all`, everything that has not been.
    pub fn due(&mut self, all: bool) -> Vec<Violation> {
        let mut due = Vec::new();
        for (kind, count) in &mut self.counts {
            let single = count.reported < SINGLY && self.singly < SINGLY_ALL;
            let next = if single { count.reported + 1 } else { count.reported.saturating_add(1).next_power_of_two() };
            if count.total > count.reported && (all || count.total >= next) {
                due.push(Violation {
                    layer: kind.layer.clone(),
                    action: kind.action.clone(),
                    object: kind.object.clone(),
                    count: count.total - count.reported,
                    total: count.total,
                });
                count.reported = count.total;
                self.singly += u64::from(single);
            }
        }
        due
    }

    /// Every kind with its total, and a count of nothing new.
    #[must_use]
    pub fn totals(&self) -> Vec<Violation> {
        let totals = self.counts.iter().map(|(kind, count)| Violation {
            layer: kind.layer.clone(),
            action: kind.action.clone(),
            object: kind.object.clone(),
            count: 0,
            total: count.total,
        });
        totals.collect()
    }
}

/// The totals of a run as they are told by those who count: reports may be repeated, come late or be lost.
#[derive(Debug, Clone, Default)]
pub struct Totals(BTreeMap<Kind, u64>);

impl Totals {
    /// Takes a report. Answers with how many refusals it brings that were not known.
    pub fn absorb(&mut self, report: &Violation) -> u64 {
        let kind = Kind { layer: report.layer.clone(), action: report.action.clone(), object: report.object.clone() };
        // More than all who count tell apart: the sandbox and the proxy.
        let known = self.0.entry(kind.within(&self.0, 4 * KINDS_MAX)).or_default();
        let total = if report.total > 0 { report.total.max(*known) } else { known.saturating_add(report.count) };
        let new = total - *known;
        *known = total;
        new
    }

    /// All of them, the gravest and most frequent first.
    #[must_use]
    pub fn list(&self) -> Vec<ViolationTotal> {
        let mut list: Vec<ViolationTotal> = self
            .0
            .iter()
            .filter(|(_, total)| **total > 0)
            .map(|(kind, total)| ViolationTotal {
                severity: severity(&kind.layer, &kind.action, &kind.object),
                layer: kind.layer.clone(),
                action: kind.action.clone(),
                object: kind.object.clone(),
                total: *total,
            })
            .collect();
        list.sort_by_key(|total| (std::cmp::Reverse(total.severity), std::cmp::Reverse(total.total)));
        list
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(tally: &mut Tally, object: &str) -> Vec<Violation> {
        tally.add(SECCOMP, "deny", object, 1);
        tally.due(false)
    }

    #[test]
    fn a_flood_is_few_reports_and_no_refusal_is_lost() {
        let mut tally = Tally::default();
        let (mut reports, mut sum) = (0, 0);
        for _ in 0..10_000 {
            for violation in one(&mut tally, "mount") {
                reports += 1;
                sum += violation.count;
                assert_eq!(violation.total, sum);
            }
        }
        sum += tally.due(true).iter().map(|v| v.count).sum::<u64>();
        assert_eq!(sum, 10_000);
        // 1 to 50, then 64, 128 … 8,192.
        assert_eq!(reports, 50 + 8);
        assert!(tally.due(true).is_empty());
    }

    #[test]
    fn a_flood_of_kinds_is_few_reports_too() {
        let mut tally = Tally::default();
        let mut reports = 0;
        for n in 0..200_000 {
            reports += one(&mut tally, &format!("syscall_{}", n % 5_000)).len() as u64;
        }
        assert!(tally.counts.len() <= KINDS_MAX + 1);
        let hidden = one(&mut tally, "mount");
        assert_eq!(hidden.first().map(|v| (v.object.as_str(), v.severity())), Some(("mount", Severity::High)));
        assert!(reports <= SINGLY_ALL + 32 * (KINDS_MAX as u64 + 1), "{reports}");
        assert_eq!(tally.totals().iter().map(|v| v.total).sum::<u64>(), 200_001);
    }

    proptest! {
        /// Whatever is refused, in whatever order it is reported, repeated or lost: the totals are exact in the end.
        #[test]
        fn totals_are_exact(steps in proptest::collection::vec((0..300_u16, 1..5_u64, 0..4_u8), 0..600)) {
            let (mut tally, mut totals) = (Tally::default(), Totals::default());
            let mut wanted: BTreeMap<u16, u64> = BTreeMap::new();
            let mut lost = None;
            for (object, more, fate) in steps {
                *wanted.entry(object).or_default() += more;
                tally.add(SECCOMP, "deny", &object.to_string(), more);
                for report in tally.due(fate == 1) {
                    match fate {
                        2 => lost = Some(report),
                        3 => {
                            let first = totals.absorb(&report);
                            prop_assert!(first <= report.total);
                            prop_assert_eq!(totals.absorb(&report), 0, "a repeated report counts nothing");
                        }
                        _ => { totals.absorb(&report); }
                    }
                }
            }
            // One that comes late, behind newer ones.
            if let Some(late) = lost { totals.absorb(&late); }
            for report in tally.totals() { totals.absorb(&report); }
            let list = totals.list();
            prop_assert_eq!(list.iter().map(|t| t.total).sum::<u64>(), wanted.values().sum::<u64>());
            if wanted.len() <= KINDS_MAX {
                for (object, total) in wanted {
                    let object = object.to_string();
                    prop_assert_eq!(list.iter().find(|t| t.object == object).map(|t| t.total), Some(total));
                }
            }
        }
    }

    #[test]
    fn the_severities() {
        for (layer, action, object, wanted) in [
            (SECCOMP, "deny", "mount", Severity::High),
            (SECCOMP, "deny", "bpf", Severity::High),
            (SECCOMP, "deny", "socket:alg", Severity::High),
            (SECCOMP, "deny", "socket:netlink", Severity::Info),
            (SECCOMP, "deny", "inotify_init1", Severity::Info),
            (SECCOMP, "deny", "syscall_462", Severity::Warning),
            (SECCOMP, "deny", OTHER, Severity::Warning),
            (CGROUP, "kill", "memory", Severity::Warning),
            (EGRESS, "inside-address", "169.254.169.254:80", Severity::High),
            (EGRESS, "misused-credential", "api.example.com:443", Severity::High),
            (EGRESS, "undeclared", "mount", Severity::Warning),
            ("landlock", "deny", "mount", Severity::Warning),
        ] {
            assert_eq!(severity(layer, action, object), wanted, "{layer} {action} {object}");
        }
    }

    #[test]
    fn no_object_has_two_severities() {
        let mut seen = BTreeMap::new();
        for class in CLASSES {
            for object in class.of {
                assert_eq!(seen.insert((class.layer, *object), class.severity), None, "{object} is there twice");
            }
        }
    }

    #[test]
    fn the_page_says_what_the_table_says() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/sandbox.md")).unwrap();
        let mut wanted = String::from("| severity | what | by name |\n|---|---|---|\n");
        for class in CLASSES {
            let names = class.of.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(" ");
            wanted.push_str(&format!("| `{}` | {} | {names} |\n", class.severity.as_str(), class.what));
        }
        assert!(page.contains(&wanted), "docs/sandbox.md must contain:\n{wanted}");
    }
}
