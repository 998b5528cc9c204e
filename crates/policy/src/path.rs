//! Paths into JSON documents (`arguments.customer.name`) and sets of them.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// The most steps of a path.
pub const STEPS_MAX: usize = 16;

/// The longest step.
const STEP_BYTES_MAX: usize = 256;

/// A path of member names. A list on the way stands for each of its elements.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Path(Vec<String>);

/// Why a text is no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a path: write member names with dots between them, at most {STEPS_MAX}")]
pub struct PathError(String);

impl Path {
    /// Reads `a.b.c`.
    ///
    /// # Errors
    /// When a step is empty or too long, or there are too many.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let steps: Vec<String> = text.split('.').take(STEPS_MAX + 1).map(str::to_owned).collect();
        let good = |step: &String| {
            !step.is_empty()
                && step.len() <= STEP_BYTES_MAX
                && !step.chars().any(|c| c.is_control() || c.is_whitespace())
        };
        if steps.len() > STEPS_MAX || !steps.iter().all(good) {
            return Err(PathError(text.chars().take(80).collect()));
        }
        Ok(Self(steps))
    }

    /// The member names.
    #[must_use]
    pub fn steps(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// The parts of a document that are read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Paths {
    /// Everything below is read.
    whole: bool,
    /// Whether it is there at all is asked, and nothing else of it.
    asked: bool,
    below: BTreeMap<String, Paths>,
}

impl Paths {
    /// Whether nothing is read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.whole && !self.asked && self.below.is_empty()
    }

    /// Whether everything is read.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// What is read below a member, if anything.
    #[must_use]
    pub fn below(&self, name: &str) -> Option<&Paths> {
        self.below.get(name)
    }

    /// Whether all that another reads is read here too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let below = |(name, inner): (&String, &Self)| self.below.get(name).is_some_and(|own| own.covers(inner));
        self.whole || (!other.whole && other.below.iter().all(below))
    }

    /// Every path that is read to its end.
    pub(crate) fn ends(&self) -> Vec<Vec<String>> {
        let mut all = Vec::new();
        for (name, below) in &self.below {
            let mut inner = below.ends();
            if below.whole || inner.is_empty() {
                inner = vec![Vec::new()];
            }
            all.extend(inner.into_iter().map(|rest| [vec![name.clone()], rest].concat()));
        }
        all
    }

    /// Adds the question whether it is there.
    pub fn ask(&mut self) {
        self.asked = true;
    }

    /// Adds a path; the empty one is everything.
    pub fn add<'a>(&mut self, steps: impl IntoIterator<Item = &'a str>) {
        let mut here = self;
        for step in steps {
            if here.whole {
                return;
            }
            here = here.below.entry(step.to_owned()).or_default();
        }
        here.whole = true;
        here.below.clear();
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        self.asked |= other.asked;
        if self.whole {
            return;
        }
        if other.whole {
            self.whole = true;
            self.below.clear();
            return;
        }
        for (name, below) in &other.below {
            self.below.entry(name.clone()).or_default().merge(below);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_covers_what_is_below_it() {
        let mut paths = Paths::default();
        paths.add(["a", "b"]);
        paths.add(["a", "c", "d"]);
        assert!(paths.below("a").unwrap().below("b").unwrap().is_whole());
        paths.add(["a"]);
        assert!(paths.below("a").unwrap().is_whole() && paths.below("a").unwrap().below("b").is_none());
        paths.add(["a", "b"]);
        assert!(paths.below("a").unwrap().is_whole());
        assert!(Path::parse("a..b").is_err() && Path::parse("").is_err() && Path::parse(&"a.".repeat(40)).is_err());
        assert_eq!(Path::parse("a.b").unwrap().to_string(), "a.b");
        let (mut wide, mut narrow) = (Paths::default(), Paths::default());
        wide.add(["a"]);
        narrow.add(["a", "b"]);
        assert!(wide.covers(&narrow) && !narrow.covers(&wide) && narrow.covers(&Paths::default()));
        assert_eq!(narrow.ends(), [["a", "b"]]);
    }
}
