//! The supervisor's side of making a sandbox: the groups first, then whatever the driver puts into them.

use std::path::PathBuf;

use crate::{
    attest::Attestation,
    cgroup::{self, Cgroup, Hosts},
    driver::{self, Carried, Order, Overhead},
    native::{Stage, Uids},
    profile::Controls,
    spec::{LaunchSpec, Root},
};

/// File of the run directory that names the run's control groups, for whoever has to clean up after a lost run.
pub const GROUPS_FILE: &str = "cgroups.json";

/// A complete sandbox with a held agent.
#[derive(Debug)]
pub struct Sandbox {
    /// What carries it.
    pub carried: Box<dyn Carried>,
    /// Its limits.
    pub cgroup: Cgroup,
    /// What was found in force when it was complete.
    pub proof: Attestation,
}

/// Makes it, or says which step failed. Nothing is left behind then.
pub fn launch(spec: &LaunchSpec, controls: &Controls) -> Result<Sandbox, Stage> {
    let failed = |e: &dyn std::fmt::Display| Stage::new("cgroups", e);
    let hosts = Hosts::read().map_err(|e| failed(&e))?;
    let name = cgroup::name_of(spec.run);
    let groups = hosts.groups(&name).map_err(|e| failed(&e))?;
    let text = serde_json::to_vec(&groups).map_err(|e| failed(&e))?;
    std::fs::write(spec.run_dir.join(GROUPS_FILE), text).map_err(|e| Stage::new("run directory", &e))?;
    let driver = driver::of(spec);
    if spec.late_input && !driver.takes_late_input() {
        let why = format!("driver `{}` makes no sandbox before its input is known", spec.driver.name());
        return Err(Stage::new("late_input", &why));
    }
    let (at_launch, running) = (driver.overhead_of_launch(), driver.overhead());
    let places = disk_places(spec);
    let cgroup = Cgroup::create_for(&hosts, &name, &spec.resources, at_launch, &places);
    let mut cgroup = cgroup.map_err(|e| failed(&e))?;
    let order = Order { spec, controls, uids: Uids::of(spec.uid_slot), cgroup: &cgroup };
    let made = driver.launch(&order).and_then(|carried| {
        if at_launch != running {
            cgroup.limit(&spec.resources, running).map_err(|e| failed(&e))?;
        }
        Ok(carried)
    });
    let made = made.and_then(|mut carried| {
        let proof = prove(spec, &mut *carried, &cgroup, running)?;
        Ok((carried, proof))
    });
    match made {
        Ok((carried, proof)) => Ok(Sandbox { carried, cgroup, proof }),
        Err(stage) => {
            cgroup.kill(reap_all);
            cgroup.remove();
            Err(stage)
        }
    }
}

/// The first look at a complete sandbox. What is not found in force ends the launch.
fn prove(
    spec: &LaunchSpec,
    carried: &mut dyn Carried,
    cgroup: &Cgroup,
    running: Overhead,
) -> Result<Attestation, Stage> {
    let unproven = |why: &dyn std::fmt::Display| Stage::new("sandbox.attestation", why);
    let proof = carried.attest(cgroup).ok_or_else(|| unproven(&"the sandbox ended while it was looked at"))?;
    if let Some(check) = proof.gone() {
        let detail = check.detail.as_deref().unwrap_or("no more is known");
        return Err(unproven(&format!("not in force: {}: {detail}", check.name)));
    }
    match cgroup::not_as_asked(&proof.facts.limits, &spec.resources, running.memory_mib, running.pids) {
        Some(wrong) => Err(unproven(&format!("not in force: {wrong}"))),
        None => Ok(proof),
    }
}

/// The places on disks that a run reads from, and writes to.
fn disk_places(spec: &LaunchSpec) -> Vec<PathBuf> {
    let root = match &spec.root {
        Root::HostUsr => PathBuf::from("/usr"),
        Root::Image { dir } => dir.clone(),
    };
    let mounts = spec.mounts.iter().map(|mount| mount.source.clone());
    let inputs = spec.storage.inputs.iter().map(|input| input.source.clone());
    let workspace = (spec.storage.medium == cogward_model::manifest::Medium::Disk).then(|| spec.run_dir.clone());
    let image = spec.package_image.iter().map(|image| image.file.clone());
    mounts.chain(inputs).chain([root]).chain(workspace).chain(image).collect()
}

/// Takes the status of every child that has ended.
pub fn reap_all() {
    while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
}
