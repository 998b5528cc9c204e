//! The role inside the sandbox: this program as the attacker, by raw system calls.

use std::process::ExitCode;

use super::plan::{Answer, Task, Value};
use crate::native::{
    AGENT_UID,
    sys::{self, Attempted},
};

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
        let Some(number) = task.number else { continue };
        let mut words = [0_i64; 6];
        // The kernel may write to what it is given; nothing that it is asked here writes more than this.
        let mut room: Vec<Vec<u8>> = Vec::new();
        for (word, value) in words.iter_mut().zip(task.args) {
            match value {
                Value::Word(value) => *word = value,
                Value::Text(text) => {
                    let mut bytes = text.into_bytes();
                    bytes.resize(bytes.len() + 4096, 0);
                    *word = sys::address(&bytes);
                    room.push(bytes);
                }
            }
        }
        let (errno, said) = match sys::attempt(number, words) {
            Ok(Attempted::Succeeded) => (Some(0), String::new()),
            Ok(Attempted::Refused(errno)) => (Some(errno), String::new()),
            Ok(Attempted::Died) => (None, "the process died or hung".to_owned()),
            Err(error) => (None, format!("could not be tried: {error}")),
        };
        drop(room);
        let answer = Answer { id: task.id, errno, said, absent: false };
        println!("{}", serde_json::to_string(&answer).unwrap_or_default());
    }
    ExitCode::SUCCESS
}
