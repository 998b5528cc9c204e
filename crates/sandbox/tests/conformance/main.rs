//! One list of checks that every driver passes: what a run can rely on, whatever carries its sandbox.
//!
//! As in `tests/launch`, the executable is its own supervisor, and needs a small harness of its own for that.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, dead_code, reason = "a test")]

mod attacks;
mod ends;
mod files;
mod limits;
mod runs;

#[path = "../launch/rig.rs"]
mod rig;
#[path = "../machine/world.rs"]
mod world;

use std::{path::Path, process::ExitCode};

use cogward_model::manifest::Profile;
use cogward_sandbox::{DriverSettings, Root, RuntimeKind};

use rig::Rig;

/// What carries the sandboxes of a round.
#[derive(Debug, Clone)]
pub struct Carrier {
    name: &'static str,
    profile: Profile,
    driver: DriverSettings,
    /// Whether the package comes from an image of its own.
    imaged: bool,
}

impl Carrier {
    /// A rig for a Python program in it.
    pub fn python(&self, program: &str) -> Rig {
        let mut rig = rig::python(program);
        rig.spec.profile = self.profile;
        rig.spec.driver = self.driver.clone();
        if self.imaged {
            rig::imaged(&mut rig);
        }
        if self.profile == Profile::Microvm {
            // A monitor of its own for each, and an image in the place of the host's /usr.
            rig.spec.driver = DriverSettings::Firecracker(world::settings(rig.data.path(), world::WELL));
            rig.spec.root = Root::Image { dir: world::image() };
        }
        rig
    }

    /// Whether it is a machine of its own: its vsock knows the end of whole connections only, and its workspace is not
    /// read from outside.
    pub fn is_machine(&self) -> bool {
        self.profile == Profile::Microvm
    }

    /// Whether the agent's system calls are answered by the host's kernel.
    pub fn shares_the_kernel(&self) -> bool {
        self.profile < Profile::Gvisor
    }
}

fn carriers() -> Vec<Carrier> {
    let oci = |runtime: &str, kind| DriverSettings::Oci { runtime: runtime.into(), kind, platform: None };
    let native = |name, profile| Carrier { name, profile, driver: DriverSettings::Native, imaged: false };
    let of = |name, profile, driver| Carrier { name, profile, driver, imaged: false };
    vec![
        native("native_standard", Profile::Standard),
        native("native_hardened", Profile::Hardened),
        Carrier { imaged: true, ..native("native_standard_of_an_image", Profile::Standard) },
        Carrier { imaged: true, ..native("native_hardened_of_an_image", Profile::Hardened) },
        of("oci_runsc", Profile::Gvisor, oci("/usr/bin/runsc", RuntimeKind::Runsc)),
        of("oci_runc", Profile::Container, oci("/usr/sbin/runc", RuntimeKind::Runc)),
        of("oci_crun", Profile::Container, oci("/usr/bin/crun", RuntimeKind::Crun)),
        // Over the monitor of `tests/machine`, which makes namespaces in the place of a machine.
        of("firecracker", Profile::Microvm, DriverSettings::Firecracker(world::nothing())),
    ]
}

/// A check: its name and what it does with a carrier.
type Check = (&'static str, fn(&Carrier));

fn checks() -> Vec<Check> {
    [runs::CHECKS, ends::CHECKS, files::CHECKS, limits::CHECKS, attacks::CHECKS].concat()
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [role, dir] = args.as_slice()
        && role == "supervise"
    {
        return cogward_sandbox::supervisor_main(Path::new(dir));
    }
    if args.iter().any(|a| a == "--list") {
        if !args.iter().any(|a| a == "--ignored") {
            for carrier in carriers() {
                checks().iter().for_each(|(name, _)| println!("{}::{name}: test", carrier.name));
            }
        }
        return ExitCode::SUCCESS;
    }
    let exact = args.iter().any(|a| a == "--exact");
    let filters: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| {
        filters.is_empty() || filters.iter().any(|f| if exact { name == f.as_str() } else { name.contains(f.as_str()) })
    };
    let mut failed = 0;
    for carrier in carriers() {
        for (check, test) in checks() {
            let name = format!("{}::{check}", carrier.name);
            if !wanted(&name) {
                continue;
            }
            if let DriverSettings::Oci { runtime, .. } = &carrier.driver {
                assert!(runtime.exists(), "{} is missing: scripts/setup-tests.sh installs it", runtime.display());
            }
            let passed = std::panic::catch_unwind(|| test(&carrier)).is_ok();
            println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
            failed += u32::from(!passed);
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
