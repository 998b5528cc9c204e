//! What is killed while a sandbox is made: at no step of the supervisor, of init or of the agent's process is anything
//! of the run left alive, and nothing has run.

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use cogward_sandbox::{Adopted, ExitCause, adopt};
use nix::{
    errno::Errno,
    libc,
    sys::{
        ptrace::{self, Event, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::rig::{Rig, exe, python, run};

pub const TESTS: &[crate::Test] = &[
    ("a_supervisor_killed_at_any_step_leaves_nothing_alive", supervisor),
    ("an_init_killed_at_any_step_leaves_nothing_alive", init),
    ("an_agent_killed_at_any_step_before_it_runs_leaves_nothing_alive", agent),
];

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Supervisor,
    Init,
    Agent,
}

/// How a launch that was watched ended.
#[derive(Debug, PartialEq, Eq)]
enum Watched {
    /// The victim was killed at the step.
    Killed,
    /// It makes fewer steps than that, so many, and then waits for the start.
    Ready(usize),
}

fn supervisor() {
    sweep(Victim::Supervisor);
}

fn init() {
    sweep(Victim::Init);
}

fn agent() {
    sweep(Victim::Agent);
}

/// A step is the entry of a system call or its return. `COGWARD_EVERY_STEP=1` takes them all; otherwise about forty.
fn sweep(victim: Victim) {
    let rig = python("print('ran')");
    let Watched::Ready(steps) = launch_and_kill(&rig, victim, usize::MAX) else { panic!("{victim:?} never waited") };
    assert!(steps > 60, "{victim:?}: {steps}");
    let stride = if std::env::var_os("COGWARD_EVERY_STEP").is_some() { 1 } else { steps / 40 };
    let mut killed = 0;
    for step in (1..=steps).step_by(stride) {
        let rig = python("print('ran')");
        let watched = launch_and_kill(&rig, victim, step);
        killed += usize::from(watched == Watched::Killed);
        run(async {
            match adopt(&rig.spec.run_dir).await.unwrap() {
                Adopted::Lost if victim == Victim::Supervisor || watched != Watched::Killed => {}
                // In its last steps it is complete and held, so that its end is the end of a run that never began.
                Adopted::Ended(exit) => assert!(
                    victim != Victim::Supervisor
                        && exit.empty
                        && matches!(exit.cause, ExitCause::LaunchFailed | ExitCause::Signalled),
                    "{victim:?} {step}: {exit:?}"
                ),
                other => panic!("{victim:?} {step}: {other:?}"),
            }
        });
        assert_eq!(rig.groups_left(), Vec::<std::path::PathBuf>::new(), "{victim:?} {step}");
        let said = fs::read(rig.spec.run_dir.join("stdout.log")).unwrap_or_default();
        assert!(said.is_empty(), "{victim:?} {step}: it ran");
    }
    println!("{victim:?}: {killed} launches ended at one of {steps} steps");
    // The number of steps varies a little, so the last ones may not be there each time.
    assert!(killed >= 25, "{victim:?}: {killed}");
}

/// Launches without a plane, kills the victim at a step, and sees all processes of the launch end.
///
/// They are traced, as a debugger does, so that none of them can be missed: the end is when there is no one left to trace.
fn launch_and_kill(rig: &Rig, victim: Victim, step: usize) -> Watched {
    fs::write(rig.spec.run_dir.join("spec.json"), serde_json::to_vec(&rig.spec).unwrap()).unwrap();
    let mut child = Command::new("/bin/sh")
        .args(["-c", "kill -STOP $$; exec \"$0\" supervise \"$1\""])
        .arg(exe())
        .arg(&rig.spec.run_dir)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let first = Pid::from_raw(i32::try_from(child.id()).unwrap());
    waitpid(first, Some(WaitPidFlag::WUNTRACED)).unwrap();
    ptrace::attach(first).unwrap();
    waitpid(first, None).unwrap();
    let all = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(first, all).unwrap();
    ptrace::syscall(first, None).unwrap();
    kill(first, Signal::SIGCONT).unwrap();

    let (mut init, mut agent, mut begun) = (None, None, false);
    let (mut steps, mut moved, mut outcome) = (0, Instant::now(), None);
    let mut deadline = Instant::now() + Duration::from_secs(30);
    loop {
        assert!(Instant::now() < deadline, "{victim:?} at {step}: something is left alive after {steps} steps");
        let resume = |pid, signal| match ptrace::syscall(pid, signal) {
            // It may have been killed meanwhile.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => panic!("{error}"),
        };
        match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
            Ok(WaitStatus::StillAlive)
                if outcome.is_none()
                    && moved.elapsed() > Duration::from_millis(300)
                    && [Some(first), init, agent].into_iter().all(|pid| pid.is_some_and(sleeps)) =>
            {
                // It waits for its start. The end of the supervisor is the end of all of it.
                outcome = Some(Watched::Ready(steps));
                kill(first, Signal::SIGKILL).unwrap();
                deadline = Instant::now() + Duration::from_secs(10);
            }
            Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_micros(200)),
            Ok(WaitStatus::PtraceEvent(pid, _, event)) => {
                if event == Event::PTRACE_EVENT_EXEC as i32 {
                    begun = true;
                } else if let Ok(new) = ptrace::getevent(pid) {
                    let new = Pid::from_raw(i32::try_from(new).unwrap());
                    match pid {
                        pid if pid == first => init = init.or(Some(new)),
                        pid if Some(pid) == init => agent = agent.or(Some(new)),
                        _ => {}
                    }
                }
                resume(pid, None);
            }
            Ok(WaitStatus::PtraceSyscall(pid)) => {
                let whom = match victim {
                    Victim::Supervisor => Some(first),
                    Victim::Init => init,
                    Victim::Agent => agent,
                };
                if begun && Some(pid) == whom && outcome.is_none() {
                    (steps, moved) = (steps + 1, Instant::now());
                    if steps == step {
                        outcome = Some(Watched::Killed);
                        kill(pid, Signal::SIGKILL).unwrap();
                        deadline = Instant::now() + Duration::from_secs(10);
                    }
                }
                resume(pid, None);
            }
            // The first stop of a new process, and that of the shell, are for the tracer; other signals are for them.
            Ok(WaitStatus::Stopped(pid, Signal::SIGSTOP | Signal::SIGCONT | Signal::SIGTRAP)) => resume(pid, None),
            Ok(WaitStatus::Stopped(pid, signal)) => resume(pid, Some(signal)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => break,
            Err(error) => panic!("{error}"),
        }
    }
    // Its status was taken above.
    let _ = child.try_wait();
    assert_eq!(unreaped(), 0);
    outcome.unwrap_or_else(|| panic!("{victim:?}: the launch failed by itself after {steps} steps"))
}

/// Whether a process waits for something, neither running nor stopped by its tracer.
fn sleeps(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
}

/// Children of this process.
fn unreaped() -> usize {
    fs::read_to_string(format!("/proc/self/task/{}/children", nix::unistd::gettid()))
        .map_or(0, |children| children.split_whitespace().count())
}

const _: () = assert!(libc::PTRACE_EVENT_EXEC == Event::PTRACE_EVENT_EXEC as i32);
