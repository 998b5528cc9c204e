//! Why a mechanism does not work here, and what to do: the same refusal has other causes on a restricted host, in a
//! container and for an ordinary user, and another fix for each.

use nix::libc::{EACCES, EBUSY, EINVAL, ENOSPC, ENOSYS, EOPNOTSUPP, EPERM, EROFS, EUSERS};

use super::environment::{Facts, shortened};

/// What is known of a failure beyond what the system answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The cause, in half a sentence.
    pub because: String,
    /// What makes it work.
    pub fix: String,
}

/// The cause of a failed probe, where the place explains it.
pub fn explain(mechanism: &str, answer: &str, facts: &Facts) -> Option<Reason> {
    let denied = is(answer, EPERM) || is(answer, EACCES);
    let why = |because: &str, fix: &str| Some(Reason { because: because.to_owned(), fix: fix.to_owned() });
    // What happens in namespaces fails with them, and for their reason.
    let without_namespaces = answer.starts_with("new user,");
    let mechanism = if without_namespaces { "namespaces" } else { mechanism };
    match mechanism {
        _ if answer.contains("the uid map") && denied && facts.root && !facts.may_map_ranges() => why(
            "this root lacks the capabilities to give a run uids of its own, as in a container",
            "give the plane CAP_SETUID and CAP_SETGID (deploy/systemd/cogward.service has all that it needs), or run it \
             as an ordinary user",
        ),
        "namespaces" | "mounts" | "loopback" if facts.namespaces_max == Some(0) => why(
            "user namespaces are switched off",
            "sysctl -w user.max_user_namespaces=28633, and the same line in /etc/sysctl.d",
        ),
        "namespaces" if is(answer, ENOSPC) || is(answer, EUSERS) => why(
            "the limit of user namespaces, or of their depth, is reached",
            "raise user.max_user_namespaces; at most 32 may be nested",
        ),
        "namespaces" | "mounts" | "loopback" if denied && facts.apparmor_restricts_us() => why(
            "this host's AppArmor takes the capabilities of user namespaces from programs without a profile (Ubuntu \
             23.10 and later)",
            "install an AppArmor profile for this program that has `userns,` (docs/sandbox.md has it), or run the plane \
             as root, or set kernel.apparmor_restrict_unprivileged_userns=0 for the whole host",
        ),
        "namespaces" if denied && facts.namespaces_unprivileged == Some(0) && !facts.root => why(
            "user namespaces are for privileged processes only on this host",
            "sysctl -w kernel.unprivileged_userns_clone=1, or run the plane as root",
        ),
        "namespaces" | "mounts" | "loopback" | "proc" | "landlock" | "landlock-scopes" | "seccomp"
            if facts.filtered && (denied || is(answer, ENOSYS)) && !(mechanism == "proc" && masks(facts)) =>
        {
            Some(Reason {
                because: "a system-call filter that surrounds this process refuses it, as containers have one"
                    .to_owned(),
                fix: format!(
                    "run the plane on the host, or give its container a system-call profile that lets through what {} \
                     needs (Docker: --security-opt seccomp=FILE; Kubernetes: seccompProfile of type Localhost)",
                    match mechanism {
                        "landlock" | "landlock-scopes" => "Landlock",
                        "seccomp" => "a filter of one's own",
                        _ => "clone3, unshare and mount",
                    }
                ),
            })
        }
        "proc" if denied && masks(facts) => Some(Reason {
            because: format!("parts of /proc are masked, as in a container: {}", shortened(&facts.masked_proc)),
            fix: "run the plane on the host, or in a container whose /proc is not masked (Docker: --security-opt \
                  systempaths=unconfined; Podman: --security-opt unmask=ALL; Kubernetes: procMount: Unmasked with \
                  hostUsers: false)"
                .to_owned(),
        }),
        "mounts" | "proc" | "loopback" if denied && facts.apparmor.is_some() => Some(Reason {
            because: format!("AppArmor confines this process: {}", facts.apparmor.as_deref().unwrap_or_default()),
            fix:
                "give the plane an AppArmor profile that permits mounts in its user namespaces (Docker: --security-opt \
                  apparmor=PROFILE)"
                    .to_owned(),
        }),
        "mounts" if is(answer, EINVAL) && !facts.root_is_mount => why(
            "the root directory is no mount of its own, as in a chroot",
            "start the plane with a root that is mounted (pivot_root), or outside of the chroot",
        ),
        "landlock" | "landlock-scopes" if is(answer, EOPNOTSUPP) => why(
            "Landlock is in this kernel and was not switched on when it was booted",
            "add `landlock` to the list of security modules on the kernel's command line: lsm=landlock,...",
        ),
        "landlock" | "landlock-scopes" if is(answer, ENOSYS) => {
            why("this kernel was built without Landlock", "use a kernel with CONFIG_SECURITY_LANDLOCK=y")
        }
        "seccomp" if is(answer, EBUSY) => why(
            "something else answers the refused calls of this process already, as LXD and some container runtimes do",
            "run the plane on the host, or in a container without user notification of system calls",
        ),
        "cgroups" | "io-read" | "io-write" if facts.cgroups_read_only || is(answer, EROFS) => why(
            "control groups are mounted read-only, as in a container",
            "run the plane on the host, or in a container that may write its own control groups (cgroup namespace of its \
             own with /sys/fs/cgroup mounted writable)",
        ),
        _ => None,
    }
}

fn masks(facts: &Facts) -> bool {
    !facts.masked_proc.is_empty()
}

/// Whether an answer of the system is this error. Every text of a probe ends with the number.
fn is(answer: &str, error: i32) -> bool {
    answer.contains(&format!("(os error {error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENIED: &str = "a mount: Operation not permitted (os error 1)";

    fn host() -> Facts {
        Facts { root_is_mount: true, ..Facts::default() }
    }

    fn because(mechanism: &str, answer: &str, facts: &Facts) -> String {
        let reason = explain(mechanism, answer, facts);
        reason.map(|reason| format!("{} | {}", reason.because, reason.fix)).unwrap_or_default()
    }

    #[test]
    fn a_restricted_host_and_a_container_are_told_apart() {
        let ubuntu = Facts { apparmor_restricts: true, ..host() };
        let told = because("mounts", DENIED, &ubuntu);
        assert!(told.contains("AppArmor") && told.contains("userns,") && !told.contains("container"), "{told}");
        let masked = Facts { masked_proc: vec!["/proc/kcore".into()], ..host() };
        let told = because("proc", DENIED, &masked);
        assert!(told.contains("/proc/kcore") && told.contains("systempaths=unconfined"), "{told}");
        let filtered = Facts { filtered: true, ..host() };
        let told = because("namespaces", "clone3: Function not implemented (os error 38)", &filtered);
        assert!(told.contains("system-call filter") && told.contains("seccomp=FILE"), "{told}");
        // Of a masked /proc inside a filter, the mask is the cause: the same filter let the other mounts through.
        let both = Facts { filtered: true, ..masked };
        assert!(because("proc", "new user, mount namespaces: x (os error 38)", &both).contains("system-call filter"));
        assert!(because("proc", DENIED, &both).contains("masked"));
        assert!(because("landlock", DENIED, &both).contains("Landlock"));
    }

    #[test]
    fn a_root_without_capabilities_is_told_which_it_needs() {
        let root = Facts { root: true, ..host() };
        let answer = "the uid map: Operation not permitted (os error 1)";
        assert!(because("namespaces", answer, &root).contains("CAP_SETUID"));
        // Whatever was to be done in the namespaces failed for the same reason.
        let masked = Facts { masked_proc: vec!["/proc/kcore".into()], ..root.clone() };
        assert!(because("proc", answer, &masked).contains("CAP_SETUID"));
        let able = Facts { capabilities: 1 << 7, ..root };
        assert_eq!(because("namespaces", answer, &able), "");
    }

    #[test]
    fn switches_of_the_host_are_named() {
        let off = Facts { namespaces_max: Some(0), ..host() };
        assert!(because("namespaces", "x (os error 28)", &off).contains("sysctl"));
        let debian = Facts { namespaces_unprivileged: Some(0), ..host() };
        assert!(because("namespaces", DENIED, &debian).contains("unprivileged_userns_clone"));
        let boot = because("landlock", "no Landlock: Operation not supported (os error 95)", &host());
        assert!(boot.contains("lsm=landlock"), "{boot}");
        assert!(because("seccomp", "x (os error 16)", &host()).contains("already"));
        let ro = Facts { cgroups_read_only: true, ..host() };
        assert!(because("cgroups", DENIED, &ro).contains("read-only"));
        let chroot = Facts { root_is_mount: false, ..host() };
        assert!(because("mounts", "private mounts: Invalid argument (os error 22)", &chroot).contains("chroot"));
    }

    #[test]
    fn where_nothing_explains_it_nothing_is_made_up() {
        for mechanism in ["namespaces", "mounts", "proc", "landlock", "seccomp", "cgroups", "kernel"] {
            assert_eq!(explain(mechanism, DENIED, &host()), None, "{mechanism}");
        }
    }
}
