//! The list of system calls that a container is given, in the words of the OCI runtime specification.
//!
//! It is the list of `standard`, but a runtime's filter compares whole registers where the kernel looks at half of
//! one. A condition is therefore only ever "these bits are that value": a list of what is let through, never of what is
//! not. Where `standard` lets through all but some values, the rest of all values is taken apart into groups that have
//! some bits in common ([`all_but`]). What is refused is answered with `EPERM` and reported to nobody.

use nix::libc;
use serde_json::{Value, json};

use crate::native::{
    seccomp::{IOCTLS, SOCKET_PROGRAMS},
    syscalls,
};

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

/// Every value of an `int` at this place but some: as many conditions as there are groups, any of which must hold.
fn all_but(place: u32, excepted: &[u64]) -> Vec<Is> {
    let mut groups = Vec::new();
    // From all values on: a group with an exception in it is halved by its next bit, and one that is nothing else goes.
    let mut open = vec![(0_u64, 0_u64, 32_u32)];
    while let Some((mask, value, bits)) = open.pop() {
        if !excepted.iter().any(|except| except & mask == value) {
            groups.push(Is(place, mask, value));
        } else if let Some(left) = bits.checked_sub(1) {
            let bit = 1 << left;
            open.extend([(mask | bit, value, left), (mask | bit, value | bit, left)]);
        }
    }
    groups
}

/// No programs on sockets, and no protocol of the kernel over TCP, by level and option.
fn options_of_sockets() -> Vec<Vec<Is>> {
    let word = |value: i32| u64::from(value.unsigned_abs());
    let (socket, tcp) = (word(libc::SOL_SOCKET), word(libc::IPPROTO_TCP));
    let programs: Vec<u64> = SOCKET_PROGRAMS.iter().map(|option| word(*option)).collect();
    let of = |level: u64, excepted: &[u64]| {
        all_but(2, excepted).into_iter().map(|option| vec![Is(1, INT, level), option]).collect::<Vec<_>>()
    };
    let mut ways: Vec<Vec<Is>> = all_but(1, &[socket, tcp]).into_iter().map(|level| vec![level]).collect();
    ways.extend(of(socket, &programs));
    ways.extend(of(tcp, &[word(libc::TCP_ULP)]));
    ways
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
        ("setsockopt", options_of_sockets()),
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
    fn all_but_some_values_is_exactly_that() {
        let holds = |groups: &[Is], value: u64| groups.iter().any(|Is(_, mask, wanted)| value & mask == *wanted);
        for excepted in [&[26_u64, 50, 51, 52][..], &[31], &[1, 6], &[0], &[0xffff_ffff]] {
            let groups = all_but(2, excepted);
            assert!(groups.len() <= 32 * excepted.len(), "{}", groups.len());
            let near = excepted.iter().flat_map(|e| (0..32).map(move |bit| e ^ (1 << bit)));
            for value in (0..4_096).chain(near).chain([0x8000_0000, 0xffff_fffe]) {
                // What the kernel does not look at makes no difference.
                for value in [value, value | 1 << 32, value | 0xffff_ffff << 32] {
                    assert_eq!(holds(&groups, value), !excepted.contains(&(value & INT)), "{value:x}");
                }
            }
        }
    }

    #[test]
    fn options_of_sockets_are_refused_as_in_standard() {
        let ways = options_of_sockets();
        let passes = |level: u64, option: u64| {
            let registers = [0, level, option];
            ways.iter().any(|way| way.iter().all(|Is(place, mask, value)| registers[*place as usize] & mask == *value))
        };
        for (level, option) in [(1, 26), (1, 50), (1, 51), (1, 52), (6, 31), (1, 26 | 1 << 32), (1 << 32 | 6, 31)] {
            assert!(!passes(level, option), "{level:x} {option:x}");
        }
        for (level, option) in [(1, 2), (1, 15), (1, 27), (6, 1), (6, 26), (6, 50), (41, 26), (0, 31), (0, 1)] {
            assert!(passes(level, option), "{level} {option}");
        }
        // One condition for each register: a runtime takes two as "one or the other".
        for way in conditional().into_iter().flat_map(|(_, ways)| ways) {
            let mut places: Vec<u32> = way.iter().map(|Is(place, ..)| *place).collect();
            places.sort_unstable();
            let count = places.len();
            places.dedup();
            assert_eq!(places.len(), count);
        }
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
