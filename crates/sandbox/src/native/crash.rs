//! What the host does when an agent crashes: nothing.
//!
//! Where core files go to a program (`|` or `@` in `core_pattern`, as crash reporters have it), the kernel executes that
//! program as the host's root, outside of every sandbox, whenever a process of the host crashes: at a limit of core
//! files of 0 as well, but not of 1 (core(5)). So an agent has the limit 1, and the filter lets nobody change it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Stage;

/// The limit of core files of every agent, and of every program that carries one, in bytes.
pub const CORE_LIMIT: u64 = 1;

/// Makes sure that agents can be given the limit. For the supervisor, before it makes the sandbox.
pub fn prepare() -> Result<(), Stage> {
    let now = getrlimit(Resource::Core);
    if now.maximum.is_none_or(|most| most >= CORE_LIMIT) {
        return Ok(());
    }
    // Only root may; in the namespace of the sandbox nobody is.
    let raised = Rlimit { current: now.current, maximum: Some(CORE_LIMIT) };
    if setrlimit(Resource::Core, raised).is_ok() {
        return Ok(());
    }
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_else(|_| "|".to_owned());
    if goes_to_a_program(&pattern) {
        let why = "the plane's hard limit of core files is 0, and core files of this host go to a program: with systemd, \
                   LimitCORE=0:1 for the plane; or a file in kernel.core_pattern";
        return Err(Stage::new("limit of core files", &why));
    }
    Ok(())
}

/// Gives the limit to this process and to all that it starts from here on.
pub fn limit() -> std::io::Result<()> {
    // Less only where `prepare` has seen that it does no harm.
    let limit = getrlimit(Resource::Core).maximum.map_or(CORE_LIMIT, |most| most.min(CORE_LIMIT));
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(limit), maximum: Some(limit) })?)
}

fn goes_to_a_program(pattern: &str) -> bool {
    pattern.starts_with(['|', '@'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_told_from_a_file() {
        for (pattern, program) in [
            ("core\n", false),
            ("/var/core/%e.%p\n", false),
            ("|/usr/lib/systemd/systemd-coredump %P %u\n", true),
            ("@/run/systemd/coredump.socket\n", true),
            ("@@/run/systemd/coredump.socket\n", true),
        ] {
            assert_eq!(goes_to_a_program(pattern), program, "{pattern}");
        }
    }
}
