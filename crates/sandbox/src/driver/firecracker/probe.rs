//! Whether machines can be made here: by making one.
//!
//! That `/dev/kvm` is there and makes virtual machines proves little: on some hosts no guest ever gets to its first
//! process. So the probe makes a machine as a run would, up to the checks of the guest, and a machine that is not
//! there in time is one that cannot be made.

use std::{
    fs,
    os::{fd::AsFd, unix::fs::DirBuilderExt},
    path::Path,
    time::{Duration, Instant},
};

use cogward_model::{
    RunId,
    manifest::{Profile, Resources},
};
use rustix::fs::{Mode, OFlags};

use super::{Firecracker, FirecrackerSettings, images, version};
use crate::{
    cgroup::{self, Cgroup, Hosts},
    driver::{Driver, Order},
    native::{Stage, Uids, sys},
    profile::Controls,
    spec::{DriverSettings, LaunchSpec, Root},
};

/// Time for the machine of the probe to reach its checks.
pub const BOOT_MAX: Duration = Duration::from_secs(8);

/// Makes a machine below `directory`, which must be there and be the caller's alone, and ends it. Says what was seen.
///
/// Should this process be ended meanwhile, what is left is in the control groups of `run`.
///
/// # Errors
/// Why there was none, for people.
pub fn probe(settings: &FirecrackerSettings, run: RunId, directory: &Path) -> Result<String, String> {
    settings.validate()?;
    settings.are_roots()?;
    kvm()?;
    let said = |program: &Path, name| version::of(program, name).map_err(|e| format!("{}: {e}", program.display()));
    let (monitor, jailer) = (said(&settings.firecracker, "firecracker")?, said(&settings.jailer, "jailer")?);
    if monitor != jailer {
        return Err(format!("firecracker is of version {monitor} and its jailer of version {jailer}"));
    }
    images::maker().map_err(|e| e.to_string())?;
    let begin = Instant::now();
    machine(settings, run, directory).map_err(|Stage { stage, why }| format!("no machine starts: {stage}: {why}"))?;
    Ok(format!("version {monitor}: a machine reached its checks in {} ms", begin.elapsed().as_millis()))
}

fn kvm() -> Result<(), String> {
    let open = rustix::fs::open("/dev/kvm", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let fd = open.map_err(|e| format!("/dev/kvm: {e}"))?;
    match sys::kvm_version(fd.as_fd()) {
        Ok(12) => Ok(()),
        Ok(other) => Err(format!("/dev/kvm is of version {other}")),
        Err(e) => Err(format!("/dev/kvm: {e}")),
    }
}

fn machine(settings: &FirecrackerSettings, run: RunId, directory: &Path) -> Result<(), Stage> {
    let failed = |e: &dyn std::fmt::Display| Stage::new("probe", e);
    let (run_dir, image) = (directory.join("run"), directory.join("image"));
    for made in [&run_dir, &image] {
        fs::DirBuilder::new().mode(0o755).create(made).map_err(|e| failed(&e))?;
    }
    let spec = LaunchSpec {
        run,
        run_dir,
        profile: Profile::Microvm,
        driver: DriverSettings::Firecracker(settings.clone()),
        resources: Resources { memory_mib: 64, workspace_mib: 1, ..Resources::default() },
        root: Root::Image { dir: image },
        mounts: Vec::new(),
        package_image: None,
        // It is held before this and never gets there.
        argv: vec!["/nothing".to_owned()],
        env: Vec::new(),
        storage: crate::storage::Storage::default(),
        cwd: "/".to_owned(),
        files: Vec::new(),
        stdin: Vec::new(),
        late_input: false,
        uid_slot: crate::spec::UID_SLOTS - 1,
        grace: Duration::ZERO,
        wall_clock: BOOT_MAX,
        service: None,
    };
    let settings = FirecrackerSettings { images: Some(directory.join("images")), ..settings.clone() };
    let driver = Firecracker { settings, boot_max: BOOT_MAX };
    let hosts = Hosts::read().map_err(|e| failed(&e))?;
    let name = cgroup::name_of(run);
    let mut cgroup = Cgroup::create(&hosts, &name, &spec.resources, driver.overhead()).map_err(|e| failed(&e))?;
    let controls = Controls::of(spec.profile);
    let order = Order { spec: &spec, controls: &controls, uids: Uids::of(spec.uid_slot), cgroup: &cgroup };
    let made = driver.launch(&order);
    cgroup.kill(|| while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {});
    cgroup.remove();
    made.map(|mut machine| machine.remove())
}
