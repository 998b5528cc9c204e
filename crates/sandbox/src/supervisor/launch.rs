//! The supervisor's side of making a sandbox: the groups first, then whatever the driver puts into them.

use crate::{
    cgroup::{self, Cgroup, Hosts},
    driver::{self, Carried, Order},
    native::{Stage, Uids},
    profile::Controls,
    spec::LaunchSpec,
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
    let (at_launch, running) = (driver.overhead_of_launch(), driver.overhead());
    let mut cgroup = Cgroup::create(&hosts, &name, &spec.resources, at_launch).map_err(|e| failed(&e))?;
    let order = Order { spec, controls, uids: Uids::of(spec.uid_slot), cgroup: &cgroup };
    let made = driver.launch(&order).and_then(|carried| {
        if at_launch != running {
            cgroup.limit(&spec.resources, running).map_err(|e| failed(&e))?;
        }
        Ok(carried)
    });
    match made {
        Ok(carried) => Ok(Sandbox { carried, cgroup }),
        Err(stage) => {
            cgroup.kill(reap_all);
            cgroup.remove();
            Err(stage)
        }
    }
}

/// Takes the status of every child that has ended.
pub fn reap_all() {
    while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
}
