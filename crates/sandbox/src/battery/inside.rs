//! The role inside the sandbox: this program as the attacker, by raw system calls.

use std::process::ExitCode;

use super::plan::{Answer, Call, Task, Value};
use crate::native::{
    AGENT_UID,
    sys::{self, Attempted, Word},
};

/// Bytes behind each argument that is passed by address, for a kernel that writes to it.
const ROOM: usize = 4096;

/// Argument that stands in the place of the run directory: `cogward supervise --attack`.
pub(crate) const ATTACK_ROLE: &str = "--attack";
/// The tasks inside.
pub(super) const TASKS_FILE: &str = "attacks.json";

/// Tries every task and says what became of it, a line of JSON each.
///
/// Some of what it tries would end a host on which it succeeds, so it is tried in a sandbox or not at all.
pub(crate) fn main() -> ExitCode {
    let inside = rustix::system::uname().nodename().to_bytes() == b"cogward"
        && rustix::process::getuid().as_raw() == AGENT_UID
        && rustix::thread::no_new_privs().unwrap_or(false);
    if !inside {
        eprintln!("cogward: the attacks are only for the inside of a sandbox");
        return ExitCode::FAILURE;
    }
    let tasks = std::fs::read(format!("/run/cogward/{TASKS_FILE}")).map_err(serde_json::Error::io);
    let tasks: Vec<Task> = match tasks.and_then(|bytes| serde_json::from_slice(&bytes)) {
        Ok(tasks) => tasks,
        Err(error) => {
            eprintln!("cogward: the attacks cannot be read: {error}");
            return ExitCode::FAILURE;
        }
    };
    for task in tasks {
        // The kernel may write to what it is given; nothing that it is asked here writes more than this.
        let mut room: Vec<Vec<u8>> = Vec::new();
        let calls: Vec<sys::Call> = task.calls.into_iter().map(|call| prepare(call, &mut room)).collect();
        if calls.is_empty() {
            continue;
        }
        let (errno, said) = match sys::attempt(&calls) {
            Ok(Attempted::Succeeded) => (Some(0), String::new()),
            Ok(Attempted::Refused(errno)) => (Some(errno), String::new()),
            Ok(Attempted::Died(signal)) => (Some(-signal), String::new()),
            Ok(Attempted::Hung) => (None, "the process hung".to_owned()),
            Err(error) => (None, format!("could not be tried: {error}")),
        };
        drop(room);
        let answer = Answer { id: task.id, errno, said, absent: false };
        println!("{}", serde_json::to_string(&answer).unwrap_or_default());
    }
    ExitCode::SUCCESS
}

/// A call with its arguments in place; what they point to stays in `room`.
fn prepare(call: Call, room: &mut Vec<Vec<u8>>) -> sys::Call {
    let mut args = [Word::Value(0); 6];
    for (arg, value) in args.iter_mut().zip(call.args) {
        let mut bytes = match value {
            Value::Word(value) => {
                *arg = Word::Value(value);
                continue;
            }
            Value::Answer { answer } => {
                *arg = Word::Answer(answer);
                continue;
            }
            Value::Text(text) => text.into_bytes(),
            Value::Bytes { bytes } => bytes,
        };
        bytes.resize(bytes.len() + ROOM, 0);
        *arg = Word::Value(sys::address(&bytes));
        room.push(bytes);
    }
    sys::Call { number: call.number, args }
}
