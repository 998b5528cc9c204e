//! The list of system calls that a container is given, in the words of the OCI runtime specification.
//!
//! It is the list of `standard`, but a runtime's filter compares whole registers where the kernel looks at half of
//! one. A condition is therefore only ever "these bits are that value": a list of what is let through, never of what is
//! not. What is refused is answered with `EPERM` and reported to nobody.

use nix::libc;
use serde_json::{Value, json};

use crate::native::{seccomp::IOCTLS, syscalls};

/// The bits of a register that the kernel looks at where an argument is an `int`.
const INT: u64 = 0xffff_ffff;

/// Flags of `clone` that make namespaces.
const NAMESPACES: u64 = 0x7e02_0080;
/// Reading the name and the flags of a network interface, which the guest does to check that there is only one.
const INTERFACES: [u64; 2] = [0x8910, 0x8913];

/// These bits of the argument at this place are this value.
#[derive(Debug, Clone, Copy)]
struct Is(u32, u64, u64);

fn int(place: u32, value: impl TryInto<u64>) -> Is {
    Is(place, INT, value.try_into().unwrap_or(INT))
}

/// The calls that are let through only with some arguments: any one of the lists, all of whose conditions hold.
fn conditional() -> Vec<(&'static str, Vec<Vec<Is>>)> {
    let mut sockets = vec![vec![int(0, libc::AF_UNIX)], vec![int(0, libc::AF_NETLINK), int(2, libc::NETLINK_ROUTE)]];
    for family in [libc::AF_INET, libc::AF_INET6] {
        for (kind, protocol) in [(libc::SOCK_STREAM, libc::IPPROTO_TCP), (libc::SOCK_DGRAM, libc::IPPROTO_UDP)] {
            for protocol in [0, protocol] {
                let kind = Is(1, 0xf, u64::from(kind.unsigned_abs()));
                sockets.push(vec![int(0, family), kind, int(2, protocol)]);
            }
        }
    }
    let without = |place, bits: i32| vec![vec![Is(place, u64::from(bits.unsigned_abs()), 0)]];
    let node = |place| {
        let kinds = [libc::S_IFIFO, libc::S_IFREG, 0];
        kinds.iter().map(|kind| vec![Is(place, u64::from(libc::S_IFMT), u64::from(*kind))]).collect::<Vec<_>>()
    };
    // All but that of core files: at any other value than it has, a host whose core files go to a program executes it
    // for every agent that crashes.
    let limits = |place| {
        let all = (0..16_u64).filter(|limit| *limit != u64::from(libc::RLIMIT_CORE));
        all.map(|limit| vec![Is(place, INT, limit)]).collect::<Vec<_>>()
    };
    let mut read_limits = limits(1);
    read_limits.push(vec![Is(2, u64::MAX, 0)]);
    vec![
        ("clone", vec![vec![Is(0, NAMESPACES, 0)]]),
        ("socket", sockets),
        ("socketpair", vec![vec![int(0, libc::AF_UNIX)]]),
        ("sendto", without(3, libc::MSG_FASTOPEN)),
        ("sendmsg", without(2, libc::MSG_FASTOPEN)),
        ("sendmmsg", without(3, libc::MSG_FASTOPEN)),
        ("ioctl", IOCTLS.iter().chain(&INTERFACES).map(|operation| vec![int(1, *operation)]).collect()),
        ("personality", vec![vec![int(0, 0)], vec![int(0, INT)]]),
        // One that could be executed is refused.
        ("memfd_create", vec![vec![Is(1, 8, 8)]]),
        ("mknod", node(1)),
        ("mknodat", node(2)),
        ("prlimit64", read_limits),
        ("setrlimit", limits(0)),
    ]
}

/// The architecture in the words of the specification. Calls of any other end the process.
fn architecture() -> Option<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Some("SCMP_ARCH_X86_64"),
        "aarch64" => Some("SCMP_ARCH_AARCH64"),
        _ => None,
    }
}

/// The member `seccomp` of a bundle, and how many calls are let through. `None` where there is no list.
pub fn filter() -> Option<(Value, usize)> {
    let conditional = conditional();
    let has_condition = |name: &str| conditional.iter().any(|(n, _)| *n == name);
    let names: Vec<&str> = syscalls::ALLOWED
        .iter()
        .chain(syscalls::ALLOWED_HERE)
        .map(|(_, name)| *name)
        .filter(|name| !has_condition(name))
        .collect();
    let allowed = names.len() + conditional.len();
    let mut calls = vec![
        json!({ "names": names, "action": "SCMP_ACT_ALLOW" }),
        // Its flags are behind a pointer; C libraries then fall back to `clone`.
        json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS }),
    ];
    for (name, ways) in &conditional {
        calls.extend(ways.iter().map(|conditions| {
            let args: Vec<Value> = conditions
                .iter()
                .map(|Is(place, mask, value)| {
                    json!({ "index": place, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ" })
                })
                .collect();
            json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": args })
        }));
    }
    let filter = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": [architecture()?],
        "syscalls": calls,
    });
    Some((filter, allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_dangerous_is_let_through_whole() {
        let (filter, allowed) = filter().unwrap();
        let calls = filter["syscalls"].as_array().unwrap();
        let whole: Vec<&str> = calls
            .iter()
            .filter(|c| c["action"] == "SCMP_ACT_ALLOW" && c.get("args").is_none())
            .flat_map(|c| c["names"].as_array().unwrap())
            .filter_map(Value::as_str)
            .collect();
        for (_, name) in syscalls::NAMED.iter().chain(syscalls::NAMED_HERE) {
            assert!(!whole.contains(name), "{name}");
        }
        assert!(allowed > 200 && !whole.contains(&"clone3"));
        assert_eq!(filter["defaultAction"], "SCMP_ACT_ERRNO");
    }

    #[test]
    fn every_condition_looks_at_the_bits_that_the_kernel_looks_at() {
        for (name, ways) in conditional() {
            assert!(!ways.is_empty() && ways.iter().all(|way| !way.is_empty()), "{name}");
            for Is(_, mask, value) in ways.into_iter().flatten() {
                assert_eq!(value & !mask, 0, "{name}: a value outside of its mask never holds");
            }
        }
    }
}
