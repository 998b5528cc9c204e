//! The agent's process before it is the agent: restrict, check from inside, wait, execute.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
};

use crate::{AGENT_UID, At, Failed, check, config::Config, records::encode, sys};

/// What the agent's process is given.
#[derive(Debug)]
pub struct Ends {
    /// What it says to the guest, until its `execve`.
    pub report: OwnedFd,
    /// One byte here lets it execute.
    pub start: OwnedFd,
    /// Standard input, output and error; what it was started with where there is none.
    pub standard: [Option<OwnedFd>; 3],
}

/// Everything up to the `execve`. Never returns: this is a copy of the guest.
pub fn main(config: &Config, ends: Ends) -> ! {
    let mut report = File::from(ends.report);
    let outcome = restrict(config, &report, &ends.start, &ends.standard).and_then(|()| check::of_the_agent(config));
    match outcome {
        Ok(checks) => {
            let _ = report.write_all(&encode("held", checks.join("\0").as_bytes()));
        }
        Err(failed) => {
            let _ = report.write_all(&encode("failed", &failed.payload()));
            sys::exit_now(1);
        }
    }
    let mut byte = [0];
    if !matches!(File::from(ends.start).read(&mut byte), Ok(1)) {
        // The guest is gone before it said so: the agent never runs.
        sys::exit_now(1);
    }
    let error = execute(config);
    let _ = report.write_all(&encode("not-executable", error.to_string().as_bytes()));
    sys::exit_now(127)
}

fn restrict(config: &Config, report: &File, start: &OwnedFd, standard: &[Option<OwnedFd>; 3]) -> Result<(), Failed> {
    sys::new_session().at("session")?;
    for (fd, target) in standard.iter().zip(0..) {
        if let Some(fd) = fd {
            sys::make_standard(fd.as_fd(), target).at("standard streams")?;
        }
    }
    // Among those closed are the control connection and the listeners.
    sys::close_all_but(&[report.as_fd(), start.as_fd()]).at("descriptors")?;
    sys::reset_signals().at("signals")?;
    for (resource, most) in &config.limits {
        sys::limit(*resource, *most).at("resource limits")?;
    }
    sys::plain_umask();
    sys::empty_bounding_set().at("bounding set")?;
    if sys::is_root() {
        sys::become_for_good(AGENT_UID).at("uid of the agent")?;
    }
    sys::keep_capabilities(&[]).at("capabilities")?;
    sys::set_no_new_privileges().at("no_new_privs")?;
    std::env::set_current_dir(&config.cwd).at("working directory")
}

fn execute(config: &Config) -> io::Error {
    let program = config.argv.first().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    if program.contains('/') {
        return sys::execute(&program, &config.argv, &config.env);
    }
    let path = config.env.iter().map(|e| e.to_string_lossy()).find(|e| e.starts_with("PATH="));
    let path = path.as_deref().and_then(|e| e.strip_prefix("PATH=")).unwrap_or("/usr/local/bin:/usr/bin:/bin");
    let mut worst = io::Error::from(io::ErrorKind::NotFound);
    for directory in path.split(':').filter(|d| d.starts_with('/')) {
        let error = sys::execute(&format!("{directory}/{program}"), &config.argv, &config.env);
        if error.kind() != io::ErrorKind::NotFound {
            worst = error;
        }
    }
    worst
}
