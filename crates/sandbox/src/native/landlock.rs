//! The Landlock rules: a hard requirement, never best effort.
//!
//! They are written for the ABI of the profile exactly (4, Linux 6.7, or 6, Linux 6.12), so that the same launch means the same on every kernel.
//! A rule that cannot be added, such as for a path that is missing, fails the launch.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::Stage;
use crate::profile::Controls;

/// What is granted; everything else that Landlock knows is refused.
#[derive(Debug, Default)]
pub struct Grants {
    /// Trees that can be read and executed from.
    pub execute: Vec<String>,
    /// Trees that can be read.
    pub read: Vec<String>,
    /// Trees in which everything can be made but device nodes, and nothing executed.
    pub write: Vec<String>,
    /// Single files that can be read and written.
    pub nodes: Vec<String>,
    /// TCP ports that can be connected to.
    pub connect: Vec<u16>,
    /// Whether ports have no rule at all: the network is the host's.
    pub any_port: bool,
}

/// Restricts this thread for good.
pub fn restrict(grants: &Grants, controls: &Controls) -> Result<(), Stage> {
    let failed = |e: &dyn std::fmt::Display| Stage::new("landlock", e);
    let abi = match controls.landlock_abi {
        4 => ABI::V4,
        6 => ABI::V6,
        _ => return Err(Stage::new("landlock", &"there are no rules for this version")),
    };
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write =
        AccessFs::from_all(abi) & !(AccessFs::Execute | AccessFs::MakeBlock | AccessFs::MakeChar | AccessFs::IoctlDev);
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))
        .and_then(|r| if grants.any_port { Ok(r) } else { r.handle_access(AccessNet::from_all(abi)) })
        .and_then(|r| if controls.scopes() { r.scope(Scope::from_all(abi)) } else { Ok(r) })
        .and_then(Ruleset::create)
        .map_err(|e| failed(&e))?;
    let groups: [(&[String], BitFlags<AccessFs>); 4] = [
        (&grants.execute, read | AccessFs::Execute),
        (&grants.read, read),
        (&grants.write, write),
        (&grants.nodes, AccessFs::ReadFile | AccessFs::WriteFile),
    ];
    for (paths, access) in groups {
        for path in paths {
            let fd = PathFd::new(path).map_err(|e| failed(&e))?;
            // A single file takes only the rights that a file can have.
            let access = if std::path::Path::new(path).is_dir() { access } else { access & AccessFs::from_file(abi) };
            rules = rules.add_rule(PathBeneath::new(fd, access)).map_err(|e| failed(&e))?;
        }
    }
    for port in &grants.connect {
        rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp)).map_err(|e| failed(&e))?;
    }
    let status = rules.restrict_self().map_err(|e| failed(&e))?;
    if status.ruleset != RulesetStatus::FullyEnforced || !status.no_new_privs {
        return Err(Stage::new("landlock", &"the rules are not fully enforced"));
    }
    Ok(())
}
