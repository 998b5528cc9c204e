//! Proves from inside that what is promised holds. What fails here stops the run before its first instruction.

use std::{fs::OpenOptions, io};

use crate::{AGENT_UID, Failed, config::Config, sockets, sys};

/// By the guest itself, while it may still do everything that it ever may.
pub fn before_the_agent() -> Result<(), Failed> {
    let probe = "/cogward-probe";
    match OpenOptions::new().write(true).create_new(true).open(probe) {
        Ok(_) => {
            let _ = std::fs::remove_file(probe);
            Err(Failed::new("self-check", &"not in force: the root cannot be written to"))
        }
        Err(e) if e.raw_os_error() == Some(sys::READ_ONLY) => Ok(()),
        // Without root's rights this is all that can be seen, and all that the agent could see.
        Err(e) if !sys::is_root() && e.raw_os_error() == Some(sys::ACCESS) => Ok(()),
        Err(e) => Err(Failed::new("self-check", &format!("the root answers a write with: {e}"))),
    }
}

/// By the agent's process, after everything that is put on it is on it.
pub fn of_the_agent(config: &Config) -> Result<Vec<String>, Failed> {
    let mut passed = Vec::new();
    let mut must = |holds: bool, what: &str| {
        passed.push(what.to_owned());
        if holds { Ok(()) } else { Err(Failed::new("self-check", &format!("not in force: {what}"))) }
    };
    let failed = |e: io::Error| Failed::new("self-check", &e);
    must(sys::no_new_privileges(), "no_new_privs")?;
    must(
        sys::has_no_capabilities().map_err(failed)? && sys::bounding_set_is_empty(),
        "no capabilities, bounding set empty",
    )?;
    must(sys::is_only(AGENT_UID), "the agent's own uid, no other groups")?;
    if config.filtered {
        must(sys::is_filtered(), "system-call filter")?;
    }
    let up: Vec<_> = sockets::interfaces().map_err(failed)?.into_iter().filter(|i| i.up).map(|i| i.name).collect();
    must(up == ["lo"], "only the loopback interface is up")?;
    let unreachable = [Some(sockets::NET_UNREACHABLE), Some(sockets::HOST_UNREACHABLE)];
    // An address that no host has, on a port that the agent may use.
    let routed = sockets::connect_answer([192, 0, 2, 1], 3128);
    must(routed.is_err_and(|e| unreachable.contains(&e.raw_os_error())), "no route leaves the sandbox")?;
    must(
        OpenOptions::new().write(true).create_new(true).open("/cogward-probe").is_err(),
        "the root cannot be written to",
    )?;
    must(std::fs::File::open("/proc/1/mem").is_err(), "the memory of the first process cannot be opened")?;
    for path in &config.refused {
        must(is_refused(path), &format!("{path} cannot be opened"))?;
    }
    Ok(passed)
}

/// A path that is not there proves nothing: it must be there and be refused.
fn is_refused(path: &str) -> bool {
    std::fs::File::open(path).is_err_and(|e| e.raw_os_error() == Some(sys::ACCESS))
}
