//! The files of a run: its workspace, what it is given, what is kept of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ContentName;

/// What the workspace `/work` is made of. How large it is: `resources.workspaceMib` and `workspaceInodes`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Workspace {
    /// Where its bytes are.
    pub medium: Medium,
    /// A folder of the package whose files a run finds in its workspace, as its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

impl Workspace {
    /// Whether it is an empty one in memory.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// Where the bytes of a workspace are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Medium {
    /// In memory; they count as memory of the run.
    #[default]
    Memory,
    /// On the plane's disk, in a file system of the run's own. Needs a plane that runs as root.
    Disk,
}

impl Medium {
    /// The word used in the manifest and the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }
}

/// A file or a directory that a run is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Input {
    /// What it is called; it appears at `/inputs/<name>`.
    pub name: ContentName,
    /// The most that it may have, in MiB, 1 to 4,096.
    pub max_mib: u32,
    /// Whether a run is refused without it.
    #[serde(default)]
    pub required: bool,
}

/// A file or a directory that is kept of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Output {
    /// What it is called when it is fetched.
    pub name: ContentName,
    /// Where the agent leaves it: a path under `/work`.
    pub path: String,
    /// The most that it may have, in MiB, 1 to 4,096.
    pub max_mib: u32,
    /// Whether a run fails without it.
    #[serde(default)]
    pub required: bool,
}

impl Output {
    /// Its path below `/work`; `None` when it is not a plain one.
    #[must_use]
    pub fn below_work(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("/work/")?;
        let plain =
            |part: &str| !matches!(part, "" | "." | "..") && part.len() <= 255 && !part.contains(char::is_control);
        (rest.len() <= 1_024 && rest.split('/').all(plain)).then_some(rest)
    }
}

/// The name of a skill: the last part of its path. It is at `/skills/<name>` in the sandbox.
#[must_use]
pub fn skill_name(path: &str) -> &str {
    let path = path.strip_suffix('/').unwrap_or(path);
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_under_work_by_a_plain_path() {
        let output =
            |path: &str| Output { name: "report".parse().unwrap(), path: path.to_owned(), max_mib: 1, required: false };
        assert_eq!(output("/work/a/b.pdf").below_work(), Some("a/b.pdf"));
        for bad in [
            "",
            "/work",
            "/work/",
            "work/a",
            "/tmp/a",
            "/work/../etc",
            "/work/a//b",
            "/work/./a",
            "/work/a\n",
            "/workx/a",
        ] {
            assert_eq!(output(bad).below_work(), None, "{bad:?}");
        }
    }

    #[test]
    fn a_skill_is_called_like_its_folder() {
        assert_eq!(["skills/pdf", "skills/pdf/", "pdf"].map(skill_name), ["pdf"; 3]);
    }
}
