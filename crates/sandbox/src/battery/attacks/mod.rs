//! The attacks, as data.

mod boundaries;
mod calls;
mod escapes;
mod files;
mod kernel;
mod memory;
mod network;
pub mod package;
mod process;
mod shell;

use cogward_model::manifest::Profile;
use nix::libc;

/// Stands for a directory of the host in an attack: the plane's data as this run could name it.
pub const HOST: &str = "HOST-DIRECTORY";

/// One attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attack {
    /// Its name, of a technique and what tells it apart: `network.tcp-metadata`.
    pub id: &'static str,
    /// What it tries, in words.
    pub tries: &'static str,
    /// How.
    pub means: Means,
    /// The errors with which it must be refused; any when there are none. A negative number is the signal that must end
    /// the process.
    pub refusal: &'static [i32],
    /// Whether `standard` does not claim to refuse it.
    pub hardened_only: bool,
}

impl Attack {
    /// Whether a profile claims to refuse it.
    #[must_use]
    pub fn holds_in(&self, profile: Profile) -> bool {
        self.refusal_in(profile).is_some()
    }

    /// The errors with which a profile must refuse it, any when there are none; `None` when it does not claim to.
    #[must_use]
    pub fn refusal_in(&self, profile: Profile) -> Option<Vec<i32>> {
        boundaries::refusal(self, profile)
    }

    /// The technique: what stands before the dot.
    #[must_use]
    pub fn technique(&self) -> &'static str {
        self.id.split('.').next().unwrap_or_default()
    }
}

/// How an attack is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// One system call, from the binary, the static program and Python.
    Call(i64, &'static [Arg]),
    /// System calls, each made when the one before succeeded; the same programs. The first refusal is the answer.
    Calls(&'static [(i64, &'static [Arg])]),
    /// A system call of the machine's older instruction set, from the static program alone.
    Legacy(i64),
    /// Statements of Python. `call`, `connect` and `found` (which refuses what is empty) are defined for them.
    Python(&'static str),
    /// Commands of a shell; they succeed when their status is 0, and their tool is missing when it is 127.
    Shell(&'static str),
}

/// An argument of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arg {
    /// As it is.
    Word(i64),
    /// By its address, with room behind it.
    Text(&'static str),
    /// The same, for a structure.
    Bytes(&'static [u8]),
    /// What an earlier call of the same attack answered, counted from 0.
    Answer(usize),
}

/// Every attack.
pub fn all() -> impl Iterator<Item = &'static Attack> {
    [
        network::ATTACKS,
        package::ATTACKS,
        kernel::ATTACKS,
        kernel::ATTACKS_HERE,
        calls::ATTACKS,
        calls::ATTACKS_HERE,
        memory::ATTACKS,
        files::ATTACKS,
        process::ATTACKS,
        escapes::ATTACKS,
        escapes::AT_A_PROMPT,
        shell::ATTACKS,
    ]
    .into_iter()
    .flatten()
}

/// What a technique is about and which controls must refuse it, for reports.
#[must_use]
pub fn help(technique: &str) -> &'static str {
    match technique {
        "network" => {
            "The sandbox has a network namespace with loopback alone and no route; Landlock refuses every TCP port but the \
             plane's three and every bind."
        }
        "socket" => {
            "Only listed families, kinds and protocols of sockets pass the system-call filter; each other is code of the \
             kernel that no agent needs."
        }
        "kernel" | "newer" | "older" => {
            "Only listed system calls pass the filter; what is not listed, newer than the list or of an older instruction \
             set is refused and reported."
        }
        "namespace" => {
            "No process makes or enters a namespace or changes what is mounted: the filter refuses these calls."
        }
        "memory" => {
            "Memory that is written is not executed in profile `hardened` (PR_SET_MDWE, no memory files); no profile gives \
             access to the memory of others."
        }
        "read" => {
            "The root is made from nothing: what is of the host, of the plane or of other processes is not in it, and \
             Landlock refuses what is in it without a grant."
        }
        "write" => {
            "All but the workspace and the temporary places is mounted read-only, and Landlock grants no write to it."
        }
        "identity" => {
            "The agent is a uid of its own without capabilities, with `no_new_privs`, and its environment and descriptors \
             are made from nothing."
        }
        "process" => {
            "No other process is visible, and none of init or of another uid can be traced, read or signalled."
        }
        "package" => {
            "The package is mounted from an image of its own: no path of the host is in the table of mounts, and no file of \
             it is one of the host's."
        }
        "execute" => {
            "Only programs of the root and the package are executed: the writable places are mounted `noexec`, and Landlock \
             grants execution on nothing else."
        }
        "escape" => {
            "Known ways out of containers, each as its advisory tells it; several controls stand in the way of each, and \
             the first must refuse it."
        }
        "shell" => "The same controls, as a person at a prompt meets them.",
        _ => "One of the controls that the page of the sandbox lists must refuse it.",
    }
}

const DENIED: &[i32] = &[libc::EPERM];
const ACCESS: &[i32] = &[libc::EACCES];
const ANY: &[i32] = &[];

/// A call that the filter must refuse.
const fn call(id: &'static str, tries: &'static str, number: i64, args: &'static [Arg]) -> Attack {
    Attack { id, tries, means: Means::Call(number, args), refusal: DENIED, hardened_only: false }
}

/// Calls one after the other, of which one must be refused.
const fn calls(
    id: &'static str,
    tries: &'static str,
    calls: &'static [(i64, &'static [Arg])],
    refusal: &'static [i32],
) -> Attack {
    Attack { id, tries, means: Means::Calls(calls), refusal, hardened_only: false }
}

const fn python(id: &'static str, tries: &'static str, code: &'static str, refusal: &'static [i32]) -> Attack {
    Attack { id, tries, means: Means::Python(code), refusal, hardened_only: false }
}

const fn shell(id: &'static str, tries: &'static str, code: &'static str) -> Attack {
    Attack { id, tries, means: Means::Shell(code), refusal: ANY, hardened_only: false }
}

const fn refused_with(attack: Attack, refusal: &'static [i32]) -> Attack {
    Attack { refusal, ..attack }
}

const fn hardened(attack: Attack) -> Attack {
    Attack { hardened_only: true, ..attack }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn there_are_enough_and_each_has_a_name_of_its_own() {
        let ids: BTreeSet<_> = all().map(|a| a.id).collect();
        assert_eq!(ids.len(), all().count());
        let standard = all().filter(|a| a.holds_in(Profile::Standard)).count();
        assert!(standard >= 500 && all().count() >= standard + 50, "{standard} of {}", all().count());
        let mut techniques: BTreeMap<&str, usize> = BTreeMap::new();
        for attack in all() {
            assert!(attack.id.split('.').count() == 2 && !attack.tries.is_empty(), "{}", attack.id);
            assert_ne!(help(attack.technique()), help("?"), "{}", attack.id);
            *techniques.entry(attack.technique()).or_default() += 1;
        }
        assert!(techniques.len() >= 12 && techniques.values().all(|n| *n >= 5), "{techniques:?}");
        assert!(all().filter(|a| matches!(a.means, Means::Call(..))).count() >= 400);
    }
}
