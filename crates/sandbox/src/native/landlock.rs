//! The Landlock rules of profile `standard`: a hard requirement, never best effort.
//!
//! The rules are written for ABI 4 (Linux 6.7) exactly, so that the same launch means the same on every kernel.
//! A rule that cannot be added, such as for a path that is missing, fails the launch.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus,
};

use super::Stage;

/// Version of Landlock that the rules are written for.
pub const RULES_ABI: u32 = 4;

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
}

/// Restricts this thread for good.
pub fn restrict(grants: &Grants) -> Result<(), Stage> {
    let failed = |e: &dyn std::fmt::Display| Stage::new("landlock", e);
    let abi = ABI::V4;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = AccessFs::from_all(abi) & !(AccessFs::Execute | AccessFs::MakeBlock | AccessFs::MakeChar);
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))
        .and_then(|r| r.handle_access(AccessNet::from_all(abi)))
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
