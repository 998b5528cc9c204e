//! What a program inside is given and what it says: plain data in both directions.

use std::path::Path;

use cogward_model::manifest::Profile;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::{
    Attempt, Program, Verdict,
    attacks::{self, Arg, Attack, Means},
};

/// The controls: two things that every program must report as not refused.
pub(super) const CONTROLS: [&str; 2] = ["control.succeeds", "control.refused-otherwise"];

/// One attack as a program inside reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Task {
    /// The attack.
    pub id: String,
    /// The statements, for an interpreter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The system call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<i64>,
    /// Its arguments: numbers, and texts that are passed by address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Value>,
}

/// An argument of a system call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Value {
    /// As it is.
    Word(i64),
    /// By its address, followed by a zero byte and room.
    Text(String),
}

/// What a program inside says of one attack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    /// The attack.
    pub id: String,
    /// The error that the system answered; 0 when the attack succeeded, absent when it ended in another way.
    pub errno: Option<i32>,
    /// More, for people.
    #[serde(default)]
    pub said: String,
    /// Whether its tool is not there.
    #[serde(default)]
    pub absent: bool,
}

/// The attacks that a program carries out on a profile.
pub(super) fn attacks_of(program: Program, profile: Profile) -> Vec<&'static Attack> {
    let fits = |means: &Means| match program {
        Program::Binary => matches!(means, Means::Call(..)),
        Program::Python => matches!(means, Means::Call(..) | Means::Python(_)),
        Program::Shell => matches!(means, Means::Shell(_)),
    };
    attacks::all().filter(|a| a.holds_in(profile) && fits(&a.means)).collect()
}

/// The tasks of a program, its controls first. `host` are files of the host that exist and must not be reached.
pub(super) fn tasks(program: Program, attacks: &[&Attack], host: &Path) -> Vec<Task> {
    let task = |id: &str, code: Option<&str>, number, args| Task {
        id: id.to_owned(),
        code: code.map(str::to_owned),
        number,
        args,
    };
    let (getpid, openat) = (Some(nix::libc::SYS_getpid), Some(nix::libc::SYS_openat));
    let [succeeds, otherwise] = CONTROLS;
    let mut tasks = match program {
        Program::Shell => {
            vec![task(succeeds, Some("true"), None, vec![]), task(otherwise, Some("exit 0"), None, vec![])]
        }
        Program::Binary | Program::Python => vec![
            task(succeeds, None, getpid, vec![]),
            task(otherwise, None, openat, vec![Value::Word(-100), Value::Text("/nowhere".into()), Value::Word(0)]),
        ],
    };
    let placed = |text: &str| text.replace(attacks::HOST, &host.to_string_lossy());
    tasks.extend(attacks.iter().map(|attack| match &attack.means {
        Means::Call(number, args) => {
            let args = args.iter().map(|arg| match arg {
                Arg::Word(word) => Value::Word(*word),
                Arg::Text(text) => Value::Text(placed(text)),
            });
            task(attack.id, None, Some(*number), args.collect())
        }
        Means::Python(code) | Means::Shell(code) => task(attack.id, Some(&placed(code)), None, vec![]),
    }));
    tasks
}

/// Judges what a program said. `None` when it did not notice its own controls: then nothing it says counts.
pub(super) fn judge(program: Program, attacks: &[&Attack], answers: &[Answer]) -> Option<Vec<Attempt>> {
    let find = |id: &str| answers.iter().find(|a| a.id == id);
    let [succeeds, otherwise] = CONTROLS;
    let noticed = find(succeeds).is_some_and(|a| a.errno == Some(0))
        && find(otherwise).is_some_and(|a| match program {
            Program::Shell => a.errno == Some(0),
            Program::Binary | Program::Python => a.errno == Some(Errno::ENOENT as i32),
        });
    if !noticed {
        return None;
    }
    let attempts = attacks.iter().map(|attack| {
        let answer = find(attack.id);
        let verdict = match answer {
            None => Verdict::NotRun,
            Some(a) if a.absent => Verdict::Skipped,
            Some(Answer { errno: Some(0), .. }) => Verdict::Allowed,
            Some(Answer { errno: Some(n), .. }) if attack.refusal.is_empty() || attack.refusal.contains(n) => {
                Verdict::Refused
            }
            Some(_) => Verdict::Unexpected,
        };
        let answer = match answer {
            None => "nothing".to_owned(),
            Some(a) => match a.errno {
                Some(0) => format!("success {}", a.said).trim().to_owned(),
                Some(n) if program != Program::Shell => name(n),
                _ => a.said.clone(),
            },
        };
        let expected = match (attack.refusal, program) {
            ([], _) | (_, Program::Shell) => "a refusal".to_owned(),
            (listed, _) => listed.iter().map(|n| name(*n)).collect::<Vec<_>>().join(" or "),
        };
        Attempt { id: attack.id.to_owned(), tries: attack.tries.to_owned(), program, verdict, answer, expected }
    });
    Some(attempts.collect())
}

fn name(errno: i32) -> String {
    match Errno::from_raw(errno) {
        Errno::UnknownErrno => format!("error {errno}"),
        known => format!("{known:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: &str, errno: Option<i32>) -> Answer {
        Answer { id: id.into(), errno, said: String::new(), absent: false }
    }

    #[test]
    fn only_the_expected_refusal_counts() {
        let attacks = attacks_of(Program::Binary, Profile::Standard);
        let mut answers: Vec<_> =
            attacks.iter().map(|a| answer(a.id, a.refusal.first().copied().or(Some(1)))).collect();
        assert_eq!(judge(Program::Binary, &attacks, &answers), None, "a program that is blind proves nothing");
        answers.extend([answer(CONTROLS[0], Some(0)), answer(CONTROLS[1], Some(Errno::ENOENT as i32))]);
        let judged = |answers: &[Answer]| judge(Program::Binary, &attacks, answers).unwrap();
        assert!(judged(&answers).iter().all(|a| a.verdict == Verdict::Refused));
        let at = attacks.iter().position(|a| !a.refusal.is_empty()).unwrap();
        for (errno, verdict) in [
            (Some(0), Verdict::Allowed),
            (Some(Errno::EFAULT as i32), Verdict::Unexpected),
            (None, Verdict::Unexpected),
        ] {
            let mut other = answers.clone();
            other[at].errno = errno;
            assert_eq!(judged(&other)[at].verdict, verdict);
        }
        answers.remove(at);
        assert_eq!(judged(&answers)[at].verdict, Verdict::NotRun);
    }
}
