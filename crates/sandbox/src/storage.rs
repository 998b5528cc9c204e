//! The files of a run: what its workspace is made of, what it is given, what is kept of it.

use std::{collections::BTreeSet, path::PathBuf};

use cogward_model::{
    ContentName,
    limits::{CONTENT_MIB_MAX, CONTENTS_MAX},
    manifest::{Medium, Output},
};
use serde::{Deserialize, Serialize};

/// The directory of inputs in the sandbox.
pub const INPUTS: &str = "inputs";
/// The directory of skills in the sandbox.
pub const SKILLS: &str = "skills";
/// The directory of kept outputs, in the run's directory.
pub const ARTIFACTS_DIR: &str = "artifacts";

/// The files of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// Where the bytes of `/work` are.
    pub medium: Medium,
    /// A directory whose files are copied into `/work`, and belong to the agent there.
    pub from: Option<PathBuf>,
    /// What appears at `/inputs`, read-only.
    pub inputs: Vec<InputMount>,
    /// What is kept when the run has ended.
    pub outputs: Vec<Output>,
}

/// A file or a directory of the host that is visible read-only at `/inputs/<name>`; nothing in it can be executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputMount {
    /// Its name inside.
    pub name: ContentName,
    /// Where it is on the host.
    pub source: PathBuf,
}

impl Storage {
    /// What is out of bounds, if something is.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        if self.from.as_ref().is_some_and(|from| !from.is_absolute()) {
            return Some("has a folder for the workspace that is not absolute");
        }
        if self.inputs.len() > CONTENTS_MAX || self.outputs.len() > CONTENTS_MAX {
            return Some("has more than 16 inputs or outputs");
        }
        if self.inputs.iter().any(|input| !input.source.is_absolute()) {
            return Some("has an input whose source is not absolute");
        }
        let names: BTreeSet<_> = self.inputs.iter().map(|input| &input.name).collect();
        let kept: BTreeSet<_> = self.outputs.iter().map(|output| &output.name).collect();
        if names.len() != self.inputs.len() || kept.len() != self.outputs.len() {
            return Some("names an input or an output twice");
        }
        if self.outputs.iter().any(|output| output.below_work().is_none()) {
            return Some("has an output that is not at a plain path under /work");
        }
        if !self.outputs.iter().all(|output| (1..=CONTENT_MIB_MAX).contains(&output.max_mib)) {
            return Some("has an output whose size is out of bounds");
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(name: &str, path: &str) -> Output {
        Output { name: name.parse().unwrap(), path: path.to_owned(), max_mib: 1, required: false }
    }

    #[test]
    fn what_could_leave_its_place_or_is_there_twice_is_refused() {
        let fine = Storage {
            inputs: vec![InputMount { name: "a".parse().unwrap(), source: "/srv/a".into() }],
            outputs: vec![output("a", "/work/a"), output("b", "/work/b")],
            ..Storage::default()
        };
        assert_eq!(fine.fault(), None);
        let input = |name: &str, source: &str| InputMount { name: name.parse().unwrap(), source: source.into() };
        let many = |n: u32| (0..n).map(|n| output(&format!("o{n}"), "/work/o")).collect::<Vec<_>>();
        for bad in [
            Storage { from: Some("template".into()), ..fine.clone() },
            Storage { inputs: vec![input("a", "srv")], ..fine.clone() },
            Storage { inputs: vec![input("a", "/a"), input("a", "/b")], ..fine.clone() },
            Storage { outputs: vec![output("a", "/work/a"), output("a", "/work/b")], ..fine.clone() },
            Storage { outputs: vec![output("a", "/work/../etc/passwd")], ..fine.clone() },
            Storage { outputs: vec![output("a", "/etc/passwd")], ..fine.clone() },
            Storage { outputs: vec![Output { max_mib: 0, ..output("a", "/work/a") }], ..fine.clone() },
            Storage { outputs: many(17), ..fine.clone() },
        ] {
            assert!(bad.fault().is_some(), "{bad:?}");
        }
    }

    /// A launch that was written before there were such files.
    #[test]
    fn nothing_said_is_an_empty_workspace_in_memory() {
        assert_eq!(serde_json::from_str::<Storage>("{}").unwrap(), Storage::default());
        assert!(Storage::default().fault().is_none() && Storage::default().medium == Medium::Memory);
    }
}
