//! What each boundary claims to refuse, and with which words it does.
//!
//! The native profiles answer as the table of the attacks says. In a container there is no Landlock, and the runtime
//! brings its own answers. Behind gVisor, and in a machine, the agent talks to a kernel of its own: what that kernel lets
//! it do to that kernel's own objects is no escape. Claimed is there what would reach the host, its files and devices, its
//! network, the plane or another run, and what the agent may not do in its own root; any refusal counts.

use cogward_model::manifest::Profile;
use nix::libc;

use super::Attack;

/// The refusals of an attack in a profile, any when empty; `None` when the profile does not claim to refuse it.
pub(super) fn refusal(attack: &Attack, profile: Profile) -> Option<Vec<i32>> {
    let table = || Some(attack.refusal.to_vec());
    match profile {
        Profile::Hardened => table(),
        _ if attack.hardened_only => None,
        Profile::Standard => table(),
        Profile::Container if is_of(attack.id, NATIVE_ALONE) => None,
        Profile::Container => {
            let mut refusal = attack.refusal.to_vec();
            if !refusal.is_empty() {
                refusal.extend_from_slice(container_answers(attack.technique()));
            }
            Some(refusal)
        }
        Profile::Gvisor | Profile::Microvm if is_of(attack.id, OF_ITS_OWN_KERNEL) => None,
        Profile::Gvisor | Profile::Microvm => Some(Vec::new()),
    }
}

/// What a container's runtime and its network answer beside what the table says.
fn container_answers(technique: &str) -> &'static [i32] {
    match technique {
        // Without Landlock the connection is tried, and there is no route, or nobody who listens.
        "network" => &[libc::ENETUNREACH, libc::ECONNREFUSED, libc::EADDRINUSE],
        // Calls that are newer than the runtime are not there; those of another architecture end the process.
        "kernel" | "newer" | "older" => &[libc::ENOSYS, -libc::SIGSYS],
        // Its `/proc` is read-only.
        "memory" => &[libc::EROFS],
        _ => &[],
    }
}

/// Whether a name is in a list; what ends in `*` stands for all that begin so.
fn is_of(id: &str, list: &[&str]) -> bool {
    list.iter().any(|entry| entry.strip_suffix('*').map_or(id == *entry, |start| id.starts_with(start)))
}

/// Refused by Landlock alone, to a process that could only do it to itself: a port is behind a pointer, which the filter
/// of a runtime cannot read, and is one of the sandbox's own namespace.
const NATIVE_ALONE: &[&str] = &["network.bind", "network.bind-any", "network.bind-ipv6", "network.bind-unspecified"];

/// Answered by the kernel that the sandbox has for itself, about nothing but itself.
#[rustfmt::skip]
const OF_ITS_OWN_KERNEL: &[&str] = &[
    // Its calls, its memory, its namespaces and mounts.
    "kernel.add-key", "kernel.aio", "kernel.clone3", "kernel.file-handle", "kernel.inotify", "kernel.io-uring*",
    "kernel.keyctl", "kernel.mbind", "kernel.memfd*", "kernel.personality", "kernel.process-madvise", "kernel.request-key",
    "kernel.seccomp", "kernel.syslog", "kernel.userfaultfd*", "kernel.vmsplice", "kernel.hostname", "kernel.domainname",
    "memory.*", "namespace.*", "newer.*", "older.*", "escape.chroot-twice", "escape.mount-*", "escape.namespace*",
    "escape.next-namespace", "escape.open-cgroup2", "escape.parent-*", "escape.unshare-cgroup",
    // Its processes and what they may set of themselves.
    "escape.advise-init", "escape.core-limit*", "escape.limits-of-init", "escape.processors-of-init",
    "escape.program-of-init", "escape.working-directory-of-init", "execute.library-*", "execute.map", "identity.core",
    "identity.new-privileges", "identity.no-filter", "identity.oom", "process.input-of-init", "process.kcmp",
    "process.limits-of-init", "process.nice*", "process.schedule-init", "process.others",
    "process.ptrace", "process.real-time", "shell.environ-init", "shell.maps-init", "shell.oom", "shell.renice",
    "shell.limits", "shell.core", "shell.unshare", "escape.user-namespace-root", "write.proc-self-*",
    // Its files of the kernel and its devices.
    "read.dev-fuse", "read.dev-net-tun", "read.dev-ptmx", "read.dev-pts-ptmx", "read.dev-tty", "read.proc-*",
    "read.root-list", "read.sys-*", "shell.connections", "shell.dmesg", "shell.list-root", "shell.hostname",
    // Its network, which has no way out but the plane's doors.
    "escape.layered-protocol", "escape.packet-filter*", "escape.priority", "escape.receive-buffer", "escape.repair",
    "escape.reuseport-*", "escape.send-buffer", "escape.socket-*", "escape.host-interfaces", "escape.host-connections",
    "network.bind*", "network.mark", "network.transparent", "network.take-port*", "socket.netlink-*", "socket.ping",
    "socket.unix-raw-kind",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::all, *};

    #[test]
    fn a_list_names_only_attacks_that_there_are() {
        for entry in NATIVE_ALONE.iter().chain(OF_ITS_OWN_KERNEL) {
            let there = all().any(|attack| is_of(attack.id, &[entry]));
            // These are of one architecture.
            assert!(there || cfg!(not(target_arch = "x86_64")) && *entry == "older.*", "{entry}");
        }
    }

    #[test]
    fn every_boundary_claims_what_would_reach_the_host() {
        for profile in [Profile::Container, Profile::Gvisor, Profile::Microvm] {
            let claimed: BTreeSet<&str> = all().filter(|a| a.holds_in(profile)).map(|a| a.id).collect();
            for id in [
                "network.tcp-metadata",
                "network.tcp-internet",
                "network.udp-internet",
                "network.supervisor-socket",
                "read.plane-secret",
                "read.etc-shadow",
                "read.dev-mem",
                "read.dev-kvm",
                "write.usr-bin-python3",
                "escape.leaked-descriptor",
                "escape.shocker",
                "escape.core-pattern",
                "execute.dropped-work",
                "identity.root",
                "identity.capabilities",
                "identity.environment",
                "kernel.bpf",
                "kernel.reboot",
                "process.kill-init",
                "socket.alg",
                "socket.packet",
                "socket.vsock",
                "shell.shadow",
                "shell.core-pattern",
            ] {
                assert!(claimed.contains(id), "{profile:?} {id}");
            }
            assert!(claimed.len() > 300, "{profile:?}: {}", claimed.len());
        }
    }

    #[test]
    fn native_profiles_accept_no_other_answer() {
        for attack in all() {
            assert_eq!(refusal(attack, Profile::Hardened).as_deref(), Some(attack.refusal));
            assert_eq!(refusal(attack, Profile::Standard).is_some(), !attack.hardened_only);
        }
    }
}
