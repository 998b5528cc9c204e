//! What a program inside is given and what it says: plain data in both directions.

use std::path::Path;

use cogward_model::manifest::Profile;
use nix::{errno::Errno, sys::signal::Signal};
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
    /// The system calls, each made when the one before succeeded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<Call>,
}

/// One system call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Call {
    /// Its number.
    pub number: i64,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Value>,
    /// Whether it is made by the machine's older instruction set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub legacy: bool,
}

/// An argument of a system call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Value {
    /// As it is.
    Word(i64),
    /// By its address, followed by a zero byte and room.
    Text(String),
    /// The same.
    Bytes {
        /// What is there.
        bytes: Vec<u8>,
    },
    /// What an earlier call of the same task answered.
    Answer {
        /// Which, from 0.
        answer: usize,
    },
}

/// What a program inside says of one attack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    /// The attack.
    pub id: String,
    /// The error that the system answered; 0 when the attack succeeded, negative for the signal that ended the process,
    /// absent when it ended in another way.
    pub errno: Option<i32>,
    /// More, for people.
    #[serde(default)]
    pub said: String,
    /// Whether its tool is not there.
    #[serde(default)]
    pub absent: bool,
}

/// The attacks that a program carries out on a profile, and on packages that come from images where they do.
pub(super) fn attacks_of(program: Program, profile: Profile, images: bool) -> Vec<&'static Attack> {
    let fits = |means: &Means| match program {
        Program::Binary => matches!(means, Means::Call(..) | Means::Calls(_)),
        Program::Static => matches!(means, Means::Call(..) | Means::Calls(_) | Means::Legacy(_)),
        Program::Python => matches!(means, Means::Call(..) | Means::Calls(_) | Means::Python(_)),
        Program::Shell => matches!(means, Means::Shell(_)),
    };
    let claimed = |a: &&Attack| images || a.technique() != attacks::package::TECHNIQUE;
    attacks::all().filter(claimed).filter(|a| a.holds_in(profile) && fits(&a.means)).collect()
}

/// The tasks of a program, its controls first. `host` are files of the host that exist and must not be reached.
pub(super) fn tasks(program: Program, attacks: &[&Attack], host: &Path) -> Vec<Task> {
    let code = |id: &str, code: &str| Task { id: id.to_owned(), code: Some(code.to_owned()), calls: Vec::new() };
    let calls = |id: &str, calls: Vec<Call>| Task { id: id.to_owned(), code: None, calls };
    let call = |number, args| Call { number, args, legacy: false };
    let [succeeds, otherwise] = CONTROLS;
    let mut tasks = match program {
        Program::Shell => vec![code(succeeds, "true"), code(otherwise, "exit 0")],
        Program::Binary | Program::Static | Program::Python => {
            let nowhere = vec![Value::Word(-100), Value::Text("/nowhere".into()), Value::Word(0)];
            vec![
                calls(succeeds, vec![call(nix::libc::SYS_getpid, vec![])]),
                // In two steps, so that a program which makes only the first does not pass.
                calls(otherwise, vec![call(nix::libc::SYS_getpid, vec![]), call(nix::libc::SYS_openat, nowhere)]),
            ]
        }
    };
    let placed = |text: &str| text.replace(attacks::HOST, &host.to_string_lossy());
    let value = |arg: &Arg| match *arg {
        Arg::Word(word) => Value::Word(word),
        Arg::Text(text) => Value::Text(placed(text)),
        Arg::Bytes(bytes) => Value::Bytes { bytes: bytes.to_vec() },
        Arg::Answer(answer) => Value::Answer { answer },
    };
    tasks.extend(attacks.iter().map(|attack| match attack.means {
        Means::Call(number, args) => calls(attack.id, vec![call(number, args.iter().map(value).collect())]),
        Means::Calls(list) => {
            let list = list.iter().map(|(number, args)| call(*number, args.iter().map(value).collect()));
            calls(attack.id, list.collect())
        }
        Means::Legacy(number) => calls(attack.id, vec![Call { number, args: Vec::new(), legacy: true }]),
        Means::Python(text) | Means::Shell(text) => code(attack.id, &placed(text)),
    }));
    tasks
}

/// The tasks for a program that reads no JSON: a line for each, words separated by a space. First its name; then for
/// each call `C` or `L` (by the older instruction set) and the number, and its arguments: `W` and a number, `T` and
/// bytes as hexadecimal digits, `A` and the place of an earlier answer.
pub(super) fn lines(tasks: &[Task]) -> String {
    let mut text = String::new();
    for task in tasks {
        text.push_str(&task.id);
        for call in &task.calls {
            text.push_str(&format!(" {}{}", if call.legacy { 'L' } else { 'C' }, call.number));
            for value in &call.args {
                match value {
                    Value::Word(word) => text.push_str(&format!(" W{word}")),
                    Value::Text(bytes) => text.push_str(&hexadecimal(bytes.as_bytes())),
                    Value::Bytes { bytes } => text.push_str(&hexadecimal(bytes)),
                    Value::Answer { answer } => text.push_str(&format!(" A{answer}")),
                }
            }
        }
        text.push('\n');
    }
    text
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(" T".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// Judges what a program said. `None` when it did not notice its own controls: then nothing it says counts.
pub(super) fn judge(
    (program, profile): (Program, Profile),
    attacks: &[&Attack],
    answers: &[Answer],
) -> Option<Vec<Attempt>> {
    let find = |id: &str| answers.iter().find(|a| a.id == id);
    let [succeeds, otherwise] = CONTROLS;
    let noticed = find(succeeds).is_some_and(|a| a.errno == Some(0))
        && find(otherwise).is_some_and(|a| match program {
            Program::Shell => a.errno == Some(0),
            Program::Binary | Program::Static | Program::Python => a.errno == Some(Errno::ENOENT as i32),
        });
    if !noticed {
        return None;
    }
    let attempts = attacks.iter().map(|attack| {
        let answer = find(attack.id);
        let refusal = attack.refusal_in(profile).unwrap_or_default();
        let verdict = match answer {
            None => Verdict::NotRun,
            Some(a) if a.absent => Verdict::Skipped,
            Some(Answer { errno: Some(0), .. }) => Verdict::Allowed,
            Some(Answer { errno: Some(n), .. }) if refusal.contains(n) || (refusal.is_empty() && *n > 0) => {
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
        let expected = if program == Program::Shell { "a refusal".to_owned() } else { expected(&refusal) };
        Attempt { id: attack.id.to_owned(), tries: attack.tries.to_owned(), program, verdict, answer, expected }
    });
    Some(attempts.collect())
}

/// How an attack must be refused, in words.
pub(super) fn expected(refusal: &[i32]) -> String {
    match refusal {
        [] => "a refusal".to_owned(),
        listed => listed.iter().map(|n| name(*n)).collect::<Vec<_>>().join(" or "),
    }
}

fn name(errno: i32) -> String {
    if errno < 0 {
        return Signal::try_from(-errno).map_or_else(|_| format!("signal {}", -errno), |s| s.as_str().to_owned());
    }
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
        let attacks = attacks_of(Program::Binary, Profile::Standard, true);
        let mut answers: Vec<_> =
            attacks.iter().map(|a| answer(a.id, a.refusal.first().copied().or(Some(1)))).collect();
        assert_eq!(
            judge((Program::Binary, Profile::Standard), &attacks, &answers),
            None,
            "a program that is blind proves nothing"
        );
        answers.extend([answer(CONTROLS[0], Some(0)), answer(CONTROLS[1], Some(Errno::ENOENT as i32))]);
        let judged = |answers: &[Answer]| judge((Program::Binary, Profile::Standard), &attacks, answers).unwrap();
        assert!(judged(&answers).iter().all(|a| a.verdict == Verdict::Refused));
        let at = attacks.iter().position(|a| !a.refusal.is_empty()).unwrap();
        for (errno, verdict) in [
            (Some(0), Verdict::Allowed),
            (Some(Errno::EFAULT as i32), Verdict::Unexpected),
            (Some(-9), Verdict::Unexpected),
            (None, Verdict::Unexpected),
        ] {
            let mut other = answers.clone();
            other[at].errno = errno;
            assert_eq!(judged(&other)[at].verdict, verdict);
        }
        answers.remove(at);
        assert_eq!(judged(&answers)[at].verdict, Verdict::NotRun);
    }

    #[test]
    fn a_program_that_died_was_not_refused_unless_that_is_how() {
        let attacks = attacks_of(Program::Static, Profile::Standard, true);
        let any = attacks.iter().position(|a| a.refusal.is_empty()).unwrap();
        let mut answers: Vec<_> =
            attacks.iter().map(|a| answer(a.id, a.refusal.first().copied().or(Some(-11)))).collect();
        answers.extend([answer(CONTROLS[0], Some(0)), answer(CONTROLS[1], Some(Errno::ENOENT as i32))]);
        let judged = judge((Program::Static, Profile::Standard), &attacks, &answers).unwrap();
        assert_eq!((judged[any].verdict, judged[any].answer.as_str()), (Verdict::Unexpected, "SIGSEGV"));
        let legacy = judged.iter().find(|a| a.expected == "SIGSYS");
        assert!(cfg!(not(target_arch = "x86_64")) || legacy.is_some_and(|a| a.verdict == Verdict::Refused));
    }

    #[test]
    fn a_line_carries_what_a_task_holds() {
        let call = |number, args, legacy| Call { number, args, legacy };
        let open = vec![Value::Word(-100), Value::Text("/é".into()), Value::Bytes { bytes: vec![0, 255] }];
        let calls = vec![call(257, open, false), call(26, vec![Value::Answer { answer: 0 }], true)];
        let task = Task { id: "a.b".into(), code: None, calls };
        assert_eq!(lines(&[task]), "a.b C257 W-100 T2fc3a9 T00ff L26 A0\n");
    }
}
