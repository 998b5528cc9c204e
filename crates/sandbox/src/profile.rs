//! What each profile enforces: one table, from which the launcher, the doctor and `docs/sandbox.md` are fed.
//!
//! A profile is its [`Controls`]. Nothing in the launcher asks for a profile by name; it asks which control holds.
//! The page is tested against [`table`], so what it promises is what is put in place.

use cogward_model::manifest::Profile;

use crate::native::{network, seccomp, syscalls};

/// Every profile, from the weakest to the strongest.
pub const PROFILES: [Profile; 5] = Profile::ALL;
/// Those that the plane enforces with the kernel's own means.
pub const NATIVE: [Profile; 2] = [Profile::Standard, Profile::Hardened];

/// What the probes of the host must have shown for `standard`.
const STANDARD_NEEDS: [&str; 8] =
    ["kernel", "namespaces", "mounts", "proc", "loopback", "landlock", "seccomp", "cgroups"];
/// The same for `hardened`.
const HARDENED_NEEDS: [&str; 9] =
    ["kernel", "namespaces", "mounts", "proc", "loopback", "landlock", "seccomp", "cgroups", "landlock-scopes"];

/// The controls of one profile. All that are not named here hold in every profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Controls {
    /// The version of Landlock that the rules are written for: a requirement, never best effort.
    pub landlock_abi: u32,
    /// Whether `socket` makes AF_UNIX sockets; pairs are always let through.
    pub unix_sockets: bool,
    /// Whether there are UDP sockets.
    pub datagrams: bool,
    /// Whether there are AF_NETLINK sockets (of the protocol `route`, read only: nothing has the capability to write).
    pub netlink: bool,
    /// Whether only the listed `ioctl` and `prctl` operations are let through.
    pub listed_operations: bool,
    /// Whether memory that was written can never be executed, and memory files cannot be made.
    pub write_or_execute: bool,
    /// System calls that are let through in `standard` and not here.
    pub without: &'static [i64],
    /// The mechanisms that the host must have.
    pub needs: &'static [&'static str],
    /// A control that a test has left out to see that its absence is found. None in every profile.
    pub(crate) left_out: Option<LeftOut>,
}

/// What a test may leave out.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftOut {
    /// The system-call filter lets everything through.
    Seccomp,
    /// There are no Landlock rules.
    Landlock,
    /// Memory that was written can be executed.
    Memory,
}

impl Controls {
    /// The controls of a profile.
    #[must_use]
    pub const fn of(profile: Profile) -> Self {
        match profile {
            Profile::Standard => Self {
                landlock_abi: 4,
                unix_sockets: true,
                datagrams: true,
                netlink: true,
                listed_operations: false,
                write_or_execute: false,
                without: &[],
                needs: &STANDARD_NEEDS,
                left_out: None,
            },
            // What holds in these is the driver's: of what is said here, `container` takes the list of system calls and
            // the others nothing. Each needs its driver configured, probed by a sandbox of it.
            Profile::Container => Self { needs: &["container"], ..Self::of(Profile::Standard) },
            Profile::Gvisor => Self { needs: &["gvisor"], ..Self::of(Profile::Standard) },
            Profile::Microvm => Self { needs: &["microvm"], ..Self::of(Profile::Standard) },
            Profile::Hardened => Self {
                landlock_abi: 6,
                unix_sockets: false,
                datagrams: false,
                netlink: false,
                listed_operations: true,
                write_or_execute: true,
                without: syscalls::NOT_IN_HARDENED,
                needs: &HARDENED_NEEDS,
                left_out: None,
            },
        }
    }

    pub(crate) fn seccomp_holds(&self) -> bool {
        self.left_out != Some(LeftOut::Seccomp)
    }

    pub(crate) fn landlock_holds(&self) -> bool {
        self.left_out != Some(LeftOut::Landlock)
    }

    pub(crate) fn write_or_execute_holds(&self) -> bool {
        self.write_or_execute && self.left_out != Some(LeftOut::Memory)
    }

    /// Whether Landlock also keeps signals and abstract sockets inside.
    pub(crate) fn scopes(&self) -> bool {
        self.landlock_abi >= 6
    }
}

/// Where the native profiles differ, and the bounds that are easily asked for: the control, and what each profile says.
#[must_use]
pub fn table() -> Vec<(&'static str, [String; 2])> {
    let each = |say: fn(&Controls) -> String| NATIVE.map(|profile| say(&Controls::of(profile)));
    let yes_no = |yes: bool| if yes { "yes" } else { "refused" }.to_owned();
    let ports = network::PORTS.map(|p| p.to_string()).join(", ");
    vec![
        ("Landlock rules, required", each(|c| format!("ABI {}", c.landlock_abi))),
        (
            "Landlock scopes: no signal to, no abstract socket of, anything outside",
            each(|c| if c.scopes() { "yes" } else { "by namespaces only" }.to_owned()),
        ),
        (
            "`ioctl` on devices",
            each(|c| if c.landlock_abi >= 5 { "refused" } else { "on the five of `/dev`" }.to_owned()),
        ),
        (
            "System calls let through",
            each(|c| seccomp::compile(c).map_or_else(|e| e.why, |filter| filter.allowed.to_string())),
        ),
        (
            "`ioctl` and `prctl` operations",
            each(|c| if c.listed_operations { "only listed ones" } else { "all but terminal input" }.to_owned()),
        ),
        ("TCP, to 127.0.0.1 alone, on ports", [ports.clone(), ports]),
        (
            "TCP listeners of the agent",
            each(|c| if c.without.is_empty() { "no bind" } else { "no bind, no listen" }.to_owned()),
        ),
        ("UDP sockets", each(|c| if c.datagrams { "yes, without a route" } else { "refused" }.to_owned())),
        ("AF_NETLINK sockets", each(|c| if c.netlink { "`route`, reading" } else { "refused" }.to_owned())),
        ("AF_UNIX sockets", each(|c| if c.unix_sockets { "yes" } else { "pairs only" }.to_owned())),
        ("Execution outside the root's programs and the package", ["refused".to_owned(), "refused".to_owned()]),
        (
            "Memory files (`memfd_create`)",
            each(|c| if c.write_or_execute { "refused" } else { "not as programs" }.to_owned()),
        ),
        (
            "Memory that is executed after it was written, as just-in-time compilers do",
            each(|c| if c.write_or_execute { "refused" } else { "yes" }.to_owned()),
        ),
        (
            "Code mapped from `/work`, `/tmp`, `/dev/shm`, as libraries are",
            ["refused".to_owned(), "refused".to_owned()],
        ),
        (
            "System V IPC, message queues, `inotify`, `splice`",
            NATIVE.map(|p| yes_no(Controls::of(p).without.is_empty())),
        ),
        ("Urgent data (`MSG_OOB`), notices of directories", NATIVE.map(|p| yes_no(!Controls::of(p).listed_operations))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_what_the_table_says() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/sandbox.md")).unwrap();
        let head = NATIVE.map(|p| format!("`{}`", p.as_str())).join(" | ");
        let mut wanted = format!("| | {head} |\n|---|---|---|\n");
        for (control, says) in table() {
            wanted.push_str(&format!("| {control} | {} |\n", says.join(" | ")));
        }
        // The number of calls differs between architectures; the page has those of the first.
        assert!(cfg!(not(target_arch = "x86_64")) || page.contains(&wanted), "docs/sandbox.md must contain:\n{wanted}");
    }

    #[test]
    fn hardened_never_permits_what_standard_refuses() {
        let (standard, hardened) = (Controls::of(Profile::Standard), Controls::of(Profile::Hardened));
        assert!(hardened.landlock_abi >= standard.landlock_abi);
        for (weak, strong) in [
            (standard.unix_sockets, hardened.unix_sockets),
            (standard.datagrams, hardened.datagrams),
            (standard.netlink, hardened.netlink),
            (hardened.listed_operations, standard.listed_operations),
            (hardened.write_or_execute, standard.write_or_execute),
        ] {
            assert!(weak || !strong);
        }
        assert!(standard.needs.iter().all(|need| hardened.needs.contains(need)));
        assert!(PROFILES.iter().all(|p| Controls::of(*p).left_out.is_none()));
    }
}
