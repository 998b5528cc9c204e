//! The attacks, as data.

mod files;
mod kernel;
mod network;
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
    /// The errors with which it must be refused; any when there are none.
    pub refusal: &'static [i32],
    /// Whether `standard` does not claim to refuse it.
    pub hardened_only: bool,
}

impl Attack {
    /// Whether a profile claims to refuse it.
    #[must_use]
    pub fn holds_in(&self, profile: Profile) -> bool {
        match profile {
            Profile::Standard => !self.hardened_only,
            Profile::Hardened => true,
            // Another boundary answers there, with other words.
            Profile::Container | Profile::Gvisor | Profile::Microvm => false,
        }
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
    /// One system call, from the binary and from Python.
    Call(i64, &'static [Arg]),
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
}

/// Every attack.
pub fn all() -> impl Iterator<Item = &'static Attack> {
    [network::ATTACKS, kernel::ATTACKS, kernel::ATTACKS_HERE, files::ATTACKS, process::ATTACKS, shell::ATTACKS]
        .into_iter()
        .flatten()
}

const DENIED: &[i32] = &[libc::EPERM];
const ACCESS: &[i32] = &[libc::EACCES];
const ANY: &[i32] = &[];

/// A call that the filter must refuse.
const fn call(id: &'static str, tries: &'static str, number: i64, args: &'static [Arg]) -> Attack {
    Attack { id, tries, means: Means::Call(number, args), refusal: DENIED, hardened_only: false }
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
        assert!(standard >= 160 && all().count() >= standard + 15, "{standard} of {}", all().count());
        let mut techniques: BTreeMap<&str, usize> = BTreeMap::new();
        for attack in all() {
            assert!(attack.id.split('.').count() == 2 && !attack.tries.is_empty(), "{}", attack.id);
            *techniques.entry(attack.technique()).or_default() += 1;
        }
        assert!(techniques.len() >= 6 && techniques.values().all(|n| *n >= 5), "{techniques:?}");
        assert!(all().filter(|a| matches!(a.means, Means::Call(..))).count() >= 110);
    }
}
