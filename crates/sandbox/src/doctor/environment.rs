//! What kind of place this is: a host or the inside of a container, who else restricts it, how control groups are.
//!
//! These are signs, read from what the kernel shows, and prove nothing by themselves: no profile is refused or accepted
//! for them. They turn "operation not permitted" into a reason and a fix.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use super::kernels::{self, KnownBad};

/// What a place looks like from inside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Whether the probes ran as root.
    pub root: bool,
    /// What says that this is the inside of a container; empty on a host.
    pub container_signs: Vec<String>,
    /// The virtual machine that this is, as far as it shows.
    pub virtualisation: Option<String>,
    /// The security modules that are on, as far as they can be seen.
    pub security_modules: Vec<String>,
    /// `v1`, `v1+v2`, `v2` or `none`.
    pub cgroups: String,
    /// What the place withholds, each in a sentence.
    pub restrictions: Vec<String>,
    /// Flaws whose range this kernel's number is in.
    pub known_bad: Vec<KnownBad>,
}

/// What was read, for reasons and fixes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Whether the effective uid is 0.
    pub root: bool,
    /// The effective capabilities.
    pub capabilities: u64,
    /// Whether a system-call filter of somebody else holds.
    pub filtered: bool,
    /// What is mounted over parts of `/proc`.
    pub masked_proc: Vec<String>,
    /// The label that AppArmor has put on this process, when it is confined.
    pub apparmor: Option<String>,
    /// Whether AppArmor takes the capabilities of user namespaces away.
    pub apparmor_restricts: bool,
    /// `user.max_user_namespaces`.
    pub namespaces_max: Option<u64>,
    /// `kernel.unprivileged_userns_clone`, where Debian's kernels have it.
    pub namespaces_unprivileged: Option<u64>,
    /// Whether every hierarchy of control groups is mounted read-only.
    pub cgroups_read_only: bool,
    /// Whether the root directory is a mount of its own; it is not in a `chroot`.
    pub root_is_mount: bool,
    /// What says that this is a container.
    pub container_signs: Vec<String>,
}

/// Bit of `CAP_SETUID`, without which a range of uids cannot be mapped.
const CAP_SETUID: u32 = 7;
/// Bit of `CAP_SYS_ADMIN`.
const CAP_SYS_ADMIN: u32 = 21;

impl Facts {
    /// Reads them.
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let number = |path: &str| text(path).trim().parse().ok();
        let (status, mounts) = (text("/proc/self/status"), text("/proc/self/mountinfo"));
        let masked_proc = masked(&mounts);
        let signs = Signs {
            docker: Path::new("/.dockerenv").exists(),
            podman: Path::new("/run/.containerenv").exists(),
            kubernetes: Path::new("/var/run/secrets/kubernetes.io").exists(),
            named: text("/run/systemd/container").trim().to_owned(),
            environment: fs::read("/proc/1/environ").unwrap_or_default(),
            cgroup: text("/proc/self/cgroup"),
            uid_map: text("/proc/self/uid_map"),
        };
        let label = text("/proc/self/attr/apparmor/current");
        let label = if label.is_empty() { text("/proc/self/attr/current") } else { label };
        let label = label.trim_end_matches(['\n', '\0']);
        // SELinux labels, in the same file, have colons.
        let apparmor = !label.is_empty() && label != "unconfined" && !label.contains(':');
        Self {
            root: rustix::process::geteuid().is_root(),
            capabilities: u64::from_str_radix(status_of(&status, "CapEff"), 16).unwrap_or(0),
            filtered: status_of(&status, "Seccomp") == "2",
            container_signs: signs.found(&mounts, &masked_proc),
            masked_proc,
            apparmor: apparmor.then(|| label.chars().take(100).collect()),
            apparmor_restricts: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1),
            namespaces_max: number("/proc/sys/user/max_user_namespaces"),
            namespaces_unprivileged: number("/proc/sys/kernel/unprivileged_userns_clone"),
            cgroups_read_only: cgroups_read_only(&mounts),
            root_is_mount: mount_lines(&mounts).any(|mount| mount.point == "/"),
        }
    }

    /// Whether this process has a capability.
    pub fn may(&self, capability: u32) -> bool {
        self.capabilities & (1 << capability) != 0
    }

    /// Whether a range of uids can be given to a run.
    pub fn may_map_ranges(&self) -> bool {
        self.may(CAP_SETUID)
    }

    /// Whether AppArmor's restriction of user namespaces is for a process like this.
    pub fn apparmor_restricts_us(&self) -> bool {
        self.apparmor_restricts && !self.may(CAP_SYS_ADMIN)
    }

    /// Whether this is the inside of a container, as far as anything says so.
    pub fn in_container(&self) -> bool {
        !self.container_signs.is_empty()
    }
}

impl Environment {
    /// From what was read, and some more that only people need.
    pub fn of(facts: &Facts, release: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let kinds = |kind: &str| mount_lines(&mounts).any(|mount| mount.kind == kind);
        Self {
            root: facts.root,
            container_signs: facts.container_signs.clone(),
            virtualisation: virtualisation(),
            security_modules: security_modules(),
            cgroups: match (kinds("cgroup"), kinds("cgroup2")) {
                (true, true) => "v1+v2",
                (true, false) => "v1",
                (false, true) => "v2",
                (false, false) => "none",
            }
            .to_owned(),
            restrictions: restrictions(facts),
            known_bad: kernels::known_bad(release),
        }
    }
}

fn restrictions(facts: &Facts) -> Vec<String> {
    let mut all = Vec::new();
    let mut say = |holds: bool, what: String| {
        if holds {
            all.push(what);
        }
    };
    say(
        facts.apparmor_restricts_us(),
        "AppArmor takes the capabilities of user namespaces from programs without a profile of their own \
         (kernel.apparmor_restrict_unprivileged_userns=1)"
            .to_owned(),
    );
    if let Some(label) = &facts.apparmor {
        say(true, format!("AppArmor confines this process: {label}"));
    }
    say(facts.namespaces_max == Some(0), "user namespaces are switched off (user.max_user_namespaces=0)".to_owned());
    say(
        facts.namespaces_unprivileged == Some(0) && !facts.may(CAP_SYS_ADMIN),
        "user namespaces are for privileged processes only (kernel.unprivileged_userns_clone=0)".to_owned(),
    );
    say(facts.filtered, "a system-call filter of somebody else holds for this process".to_owned());
    say(facts.root && facts.capabilities == 0, "root has no capabilities here".to_owned());
    say(
        facts.root && facts.capabilities != 0 && !facts.may(CAP_SYS_ADMIN),
        "root has no CAP_SYS_ADMIN here".to_owned(),
    );
    say(!facts.masked_proc.is_empty(), format!("parts of /proc are masked: {}", shortened(&facts.masked_proc)));
    say(facts.cgroups_read_only, "control groups are mounted read-only".to_owned());
    say(!facts.root_is_mount, "the root directory is no mount of its own, as in a chroot".to_owned());
    all
}

/// The first few, and how many more there are.
pub fn shortened(all: &[String]) -> String {
    let shown = all.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(3) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn status_of<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map_or("", str::trim)
}

struct Mount<'a> {
    point: &'a str,
    options: &'a str,
    kind: &'a str,
}

fn mount_lines(mounts: &str) -> impl Iterator<Item = Mount<'_>> {
    mounts.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(4);
        Some(Mount { point: left.next()?, options: left.next()?, kind: right.split(' ').next()? })
    })
}

/// Whatever is mounted below `/proc`, but for what systemd mounts there on every host. The kernel refuses a fresh
/// `/proc` in a user namespace as long as there is one of them: it would show what is hidden.
fn masked(mounts: &str) -> Vec<String> {
    mount_lines(mounts)
        .filter(|mount| mount.point.starts_with("/proc/") && mount.point != "/proc/sys/fs/binfmt_misc")
        .map(|mount| mount.point.chars().take(100).collect())
        .collect()
}

fn cgroups_read_only(mounts: &str) -> bool {
    let mut hierarchies = mount_lines(mounts).filter(|mount| mount.kind.starts_with("cgroup")).peekable();
    hierarchies.peek().is_some() && hierarchies.all(|mount| mount.options.split(',').any(|option| option == "ro"))
}

/// What a container leaves behind.
struct Signs {
    docker: bool,
    podman: bool,
    kubernetes: bool,
    named: String,
    environment: Vec<u8>,
    cgroup: String,
    uid_map: String,
}

impl Signs {
    fn found(&self, mounts: &str, masked_proc: &[String]) -> Vec<String> {
        let mut found = Vec::new();
        let mut sign = |there: bool, what: String| {
            if there {
                found.push(what);
            }
        };
        sign(self.docker, "/.dockerenv is there, which Docker makes".to_owned());
        sign(self.podman, "/run/.containerenv is there, which Podman makes".to_owned());
        sign(self.kubernetes, "/var/run/secrets/kubernetes.io is there, which Kubernetes makes".to_owned());
        let named = plain(&self.named);
        sign(!named.is_empty(), format!("/run/systemd/container says `{named}`"));
        let variable = self.environment.split(|b| *b == 0).find_map(|v| v.strip_prefix(b"container="));
        let variable = variable.map(|v| plain(&String::from_utf8_lossy(v))).unwrap_or_default();
        sign(!variable.is_empty(), format!("the environment of process 1 says `container={variable}`"));
        let words = ["docker", "kubepods", "libpod", "crio-", "lxc", "containerd", "machine.slice/machine-"];
        let word = words.into_iter().find(|word| self.cgroup.contains(word));
        sign(word.is_some(), format!("the control group has `{}` in its name", word.unwrap_or_default()));
        let whole = self.uid_map.split_whitespace().eq(["0", "0", "4294967295"]);
        sign(!whole && !self.uid_map.is_empty(), "uids are mapped: this is a user namespace".to_owned());
        sign(!masked_proc.is_empty(), format!("parts of /proc are masked: {}", shortened(masked_proc)));
        let overlay = mount_lines(mounts).filter(|mount| mount.point == "/").last();
        sign(overlay.is_some_and(|mount| mount.kind == "overlay"), "the root is an overlay".to_owned());
        found
    }
}

fn plain(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic()).take(40).collect()
}

fn virtualisation() -> Option<String> {
    let text = |path: &str| plain_line(&fs::read_to_string(path).unwrap_or_default());
    let named = [text("/sys/class/dmi/id/sys_vendor"), text("/sys/class/dmi/id/product_name")];
    let named = named.into_iter().filter(|name| !name.is_empty()).collect::<Vec<_>>().join(" ");
    let hypervisor = text("/sys/hypervisor/type");
    let flag = fs::read_to_string("/proc/cpuinfo").unwrap_or_default().contains(" hypervisor");
    match (hypervisor.is_empty(), flag) {
        (false, _) => Some(hypervisor),
        (true, true) if named.is_empty() => Some("a virtual machine of no given name".to_owned()),
        (true, true) => Some(format!("a virtual machine: {named}")),
        (true, false) => None,
    }
}

fn plain_line(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(60).collect::<String>().trim().to_owned()
}

fn security_modules() -> Vec<String> {
    let listed = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    if !listed.trim().is_empty() {
        return listed.trim().split(',').map(plain).collect();
    }
    // The list is not mounted in containers; each of these shows elsewhere too.
    let mut found = Vec::new();
    if fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y") {
        found.push("apparmor".to_owned());
    }
    if Path::new("/sys/fs/selinux/enforce").exists() {
        found.push("selinux".to_owned());
    }
    if crate::native::sys::landlock_abi().is_ok() {
        found.push("landlock".to_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:21 / /proc rw - proc proc rw
24 23 0:22 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw
25 22 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
";
    const POD: &str = "\
22 1 0:40 / / rw,relatime - overlay overlay rw
23 22 0:21 / /proc rw - proc proc rw
24 23 0:22 /null /proc/kcore rw - tmpfs tmpfs rw
25 23 0:23 / /proc/acpi ro - tmpfs tmpfs ro
26 22 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup ro
";

    fn signs() -> Signs {
        Signs {
            docker: false,
            podman: false,
            kubernetes: false,
            named: String::new(),
            environment: b"PATH=/bin\0HOME=/\0".to_vec(),
            cgroup: "0::/user.slice\n".to_owned(),
            uid_map: "         0          0 4294967295\n".to_owned(),
        }
    }

    #[test]
    fn a_host_has_no_signs_of_a_container() {
        assert!(masked(HOST).is_empty() && !cgroups_read_only(HOST));
        assert_eq!(signs().found(HOST, &[]), Vec::<String>::new());
    }

    #[test]
    fn each_sign_of_a_container_is_seen_alone() {
        let changes: [fn(&mut Signs); 7] = [
            |s| s.docker = true,
            |s| s.podman = true,
            |s| s.kubernetes = true,
            |s| s.named = "lxc\n".to_owned(),
            |s| s.environment = b"A=b\0container=podman\0".to_vec(),
            |s| s.cgroup = "0::/kubepods/pod1\n".to_owned(),
            |s| s.uid_map = "0 100000 65536\n".to_owned(),
        ];
        for (n, change) in changes.iter().enumerate() {
            let mut signs = signs();
            change(&mut signs);
            assert_eq!(signs.found(HOST, &[]).len(), 1, "case {n}");
        }
        let masked = masked(POD);
        assert_eq!(masked, ["/proc/kcore", "/proc/acpi"]);
        assert_eq!(signs().found(POD, &masked).len(), 2);
        assert!(cgroups_read_only(POD));
    }

    #[test]
    fn what_a_container_says_of_itself_is_held_to_plain_text() {
        let hostile = Signs { environment: b"container=\x1b[31mx\ny\0".to_vec(), ..signs() };
        let [sign] = hostile.found(HOST, &[]).try_into().unwrap();
        assert!(!sign.contains('\x1b') && !sign.contains('\n'), "{sign}");
    }

    #[test]
    fn apparmor_restricts_only_who_has_no_capability_for_it() {
        let facts = Facts { apparmor_restricts: true, root_is_mount: true, ..Facts::default() };
        assert_eq!(restrictions(&facts).len(), 1);
        let root = Facts { capabilities: 1 << CAP_SYS_ADMIN, root: true, ..facts };
        assert!(!root.apparmor_restricts_us() && restrictions(&root).is_empty());
    }
}
