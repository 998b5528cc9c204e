//! Which witnesses must have seen a checkpoint: C2SP tlog-policy files.
//!
//! A policy is data of whoever verifies. Evidence below its quorum is said to be so; it is not refused.

use std::collections::{BTreeSet, HashMap};

use crate::{
    cosign::WitnessKey,
    note::{Note, VerifyingKey},
};

/// Longest policy file.
pub const POLICY_BYTES_MAX: usize = 256 * 1024;
/// Logs, witnesses and groups of one policy, each.
const ENTRIES_MAX: usize = 256;

/// Why a text is not a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct PolicyError {
    /// The line, from 1; 0 for the whole file.
    pub line: usize,
    /// What is wrong with it.
    pub why: &'static str,
}

/// A witness of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// Its name in the policy.
    pub name: String,
    /// Its key.
    pub key: WitnessKey,
    /// Where it takes checkpoints, when the policy says so.
    pub url: Option<String>,
}

#[derive(Debug, Clone)]
enum Rule {
    Witness(usize),
    Group { least: usize, of: Vec<String> },
}

/// A set of witnesses and the rule of how many are enough.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    logs: Vec<VerifyingKey>,
    witnesses: Vec<Witness>,
    rules: HashMap<String, Rule>,
    /// `None` when none are needed.
    quorum: Option<String>,
}

/// What the witnesses of a policy say of a note.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Witnessed {
    /// Who saw it, by the policy's names, and when: seconds since 1970.
    pub by: Vec<(String, u64)>,
    /// Whether that is enough.
    pub quorum: bool,
}

impl Policy {
    /// Any `least` of these witnesses, named by their keys.
    ///
    /// # Errors
    /// One is there twice, or more are wanted than there are.
    pub fn of(witnesses: Vec<(WitnessKey, Option<String>)>, least: usize) -> Result<Self, PolicyError> {
        let mut policy = Self::default();
        let mut names = Vec::new();
        for (line, (key, url)) in witnesses.into_iter().enumerate() {
            let name = key.name().to_owned();
            names.push(name.clone());
            policy.add_witness(line + 1, Witness { name, key, url })?;
        }
        if least > names.len() {
            return Err(PolicyError { line: 0, why: "the quorum is larger than the number of witnesses" });
        }
        if least > 0 {
            // No witness has this name: names have no white space.
            let name = "the quorum".to_owned();
            policy.rules.insert(name.clone(), Rule::Group { least, of: names });
            policy.quorum = Some(name);
        }
        Ok(policy)
    }

    /// Reads a policy file.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let whole = |why| PolicyError { line: 0, why };
        if text.len() > POLICY_BYTES_MAX {
            return Err(whole("the policy is too long"));
        }
        if !text.is_empty() && !text.ends_with('\n') {
            return Err(whole("the last line has no end"));
        }
        let (mut policy, mut has_quorum) = (Self::default(), false);
        for (at, line) in text.lines().enumerate() {
            let wrong = |why| PolicyError { line: at + 1, why };
            if line.bytes().any(|b| (b < b' ' && b != b'\t') || b == 0x7f) {
                return Err(wrong("a control character"));
            }
            let words: Vec<&str> = line.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
            match *words.as_slice() {
                [] => {}
                [first, ..] if first.starts_with('#') => {}
                ["log", key] | ["log", key, _] => {
                    let key: VerifyingKey = key.parse().map_err(|_| wrong("not the key of a log"))?;
                    if policy.logs.iter().any(|log| log.ed25519_only() == key) || policy.logs.len() == ENTRIES_MAX {
                        return Err(wrong("a log that is there twice, or too many"));
                    }
                    policy.logs.push(key);
                }
                ["witness", name, key] => policy.witness(at + 1, name, key, None)?,
                ["witness", name, key, url] => policy.witness(at + 1, name, key, Some(url))?,
                ["group", name, least, ref of @ ..] => policy.group(at + 1, name, least, of)?,
                ["quorum", name] if !has_quorum => {
                    has_quorum = true;
                    if name != "none" {
                        if !policy.rules.contains_key(name) {
                            return Err(wrong("the quorum names nothing that is defined above"));
                        }
                        policy.quorum = Some(name.to_owned());
                    }
                }
                ["quorum", ..] => return Err(wrong("one quorum, with one name")),
                _ => return Err(wrong("not a line of a policy")),
            }
        }
        if has_quorum { Ok(policy) } else { Err(whole("there is no quorum")) }
    }

    fn witness(&mut self, line: usize, name: &str, key: &str, url: Option<&str>) -> Result<(), PolicyError> {
        let key = key.parse().map_err(|_| PolicyError { line, why: "not the key of a witness" })?;
        self.add_witness(line, Witness { name: name.to_owned(), key, url: url.map(ToOwned::to_owned) })
    }

    fn add_witness(&mut self, line: usize, witness: Witness) -> Result<(), PolicyError> {
        if self.witnesses.iter().any(|other| other.key.public() == witness.key.public()) {
            return Err(PolicyError { line, why: "this key is that of another witness already" });
        }
        self.define(line, &witness.name.clone(), Rule::Witness(self.witnesses.len()))?;
        self.witnesses.push(witness);
        Ok(())
    }

    fn group(&mut self, line: usize, name: &str, least: &str, of: &[&str]) -> Result<(), PolicyError> {
        let wrong = |why| PolicyError { line, why };
        let unique: BTreeSet<&str> = of.iter().copied().collect();
        if of.is_empty() || unique.len() != of.len() || of.iter().any(|name| !self.rules.contains_key(*name)) {
            return Err(wrong("a group of members that are defined above, each once"));
        }
        // A witness that counts in two groups would count twice for the quorum.
        let taken = self.rules.values().any(|rule| match rule {
            Rule::Group { of: members, .. } => members.iter().any(|member| unique.contains(member.as_str())),
            Rule::Witness(_) => false,
        });
        if taken {
            return Err(wrong("a member that is in another group already"));
        }
        let least = match least {
            "any" => 1,
            "all" => of.len(),
            number => number.parse().ok().filter(|n: &usize| n.to_string() == number).unwrap_or(0),
        };
        if least == 0 || least > of.len() {
            return Err(wrong("a threshold of `any`, `all` or a number from 1 to the number of members"));
        }
        let of = of.iter().map(|name| (*name).to_owned()).collect();
        self.define(line, name, Rule::Group { least, of })
    }

    fn define(&mut self, line: usize, name: &str, rule: Rule) -> Result<(), PolicyError> {
        if name == "none" || self.rules.len() >= 2 * ENTRIES_MAX || self.rules.contains_key(name) {
            return Err(PolicyError { line, why: "a name that is taken, or too many" });
        }
        self.rules.insert(name.to_owned(), rule);
        Ok(())
    }

    /// The logs that it is for; none when it is for any.
    #[must_use]
    pub fn logs(&self) -> &[VerifyingKey] {
        &self.logs
    }

    /// The witnesses.
    #[must_use]
    pub fn witnesses(&self) -> &[Witness] {
        &self.witnesses
    }

    /// Whether any witness is needed.
    #[must_use]
    pub fn needs_witnesses(&self) -> bool {
        self.quorum.is_some()
    }

    /// Who of the policy's witnesses saw a note, and whether they are enough.
    #[must_use]
    pub fn judge(&self, note: &Note<'_>) -> Witnessed {
        let seen: Vec<Option<u64>> = self.witnesses.iter().map(|witness| witness.key.saw(note)).collect();
        let named = self.witnesses.iter().zip(&seen);
        let by = named.filter_map(|(witness, time)| Some((witness.name.clone(), (*time)?))).collect();
        Witnessed { by, quorum: self.quorum.as_ref().is_none_or(|name| self.holds(name, &seen)) }
    }

    fn holds(&self, name: &str, seen: &[Option<u64>]) -> bool {
        // Groups name only what stands above them: this ends.
        match self.rules.get(name) {
            Some(Rule::Witness(at)) => seen.get(*at).is_some_and(Option::is_some),
            Some(Rule::Group { least, of }) => of.iter().filter(|name| self.holds(name, seen)).count() >= *least,
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cosign::WitnessSigner,
        note::{Checkpoint, SigningKey},
    };

    fn signer(n: u8) -> WitnessSigner {
        WitnessSigner::from_seeds(&format!("w{n}.example"), &[n; 32], &[n + 100; 32]).unwrap()
    }

    fn key(n: u8) -> WitnessKey {
        let [key, _] = signer(n).keys();
        key
    }

    fn note(witnesses: &[u8]) -> String {
        let log = SigningKey::from_seed("log.example", &[7; 32]).unwrap();
        let note = log.checkpoint(5, &[1; 32]);
        let checkpoint = Checkpoint::open(&note, log.verifying()).unwrap();
        let text = note.split_inclusive('\n').take(3).collect::<String>();
        witnesses.iter().fold(note, |note, n| note + &signer(*n).cosign(&text, &checkpoint, 1_000 + u64::from(*n)))
    }

    #[test]
    fn groups_and_thresholds_are_those_of_the_specification() {
        let text = format!(
            "# two houses\nlog {}\nwitness X1 {}\n\twitness X2 {} https://w2.example/\nwitness X3 {}\n\
             group X 2 X1 X2 X3\nwitness Y1 {}\ngroup Y any Y1\ngroup both all X Y\nquorum both\n",
            SigningKey::from_seed("log.example", &[7; 32]).unwrap().verifying(),
            key(1),
            key(2),
            key(3),
            key(4)
        );
        let policy = Policy::parse(&text).unwrap();
        assert_eq!(policy.witnesses()[1].url.as_deref(), Some("https://w2.example/"));
        for (by, quorum) in [
            (&[][..], false),
            (&[1, 2], false),
            (&[1, 4], false),
            (&[1, 1, 4], false),
            (&[1, 2, 3], false),
            (&[1, 3, 4], true),
            (&[1, 2, 3, 4, 5], true),
        ] {
            let note = note(by);
            let judged = policy.judge(&Note::parse(&note).unwrap());
            assert_eq!(judged.quorum, quorum, "{by:?}");
        }
        let noted = note(&[2]);
        assert_eq!(policy.judge(&Note::parse(&noted).unwrap()).by, [("X2".to_owned(), 1_002)]);
    }

    #[test]
    fn what_is_not_a_policy_is_refused() {
        let w = key(1);
        let other = WitnessSigner::from_seeds("else", &[1; 32], &[9; 32]).unwrap().keys()[0].clone();
        for (text, line) in [
            (String::new(), 0),
            (format!("witness a {w}\n"), 0),
            (format!("witness a {w}\nquorum b\n"), 2),
            (format!("witness a {w}\nquorum a\nquorum a\n"), 3),
            (format!("witness a {w}\nquorum a"), 0),
            (format!("witness a {w}\nwitness b {other}\nquorum a\n"), 2),
            (format!("witness none {w}\nquorum none\n"), 1),
            (format!("witness a {w}\ngroup g 2 a\nquorum g\n"), 2),
            (format!("witness a {w}\ngroup g 0 a\nquorum g\n"), 2),
            (format!("witness a {w}\ngroup g 01 a\nquorum g\n"), 2),
            (format!("witness a {w}\ngroup g any a a\nquorum g\n"), 2),
            (format!("witness a {w}\ngroup g any\nquorum g\n"), 2),
            (format!("group g any g\nwitness a {w}\nquorum g\n"), 1),
            (format!("witness a {w}\ngroup g any a\ngroup h any a\nquorum g\n"), 3),
            ("quorum none\r\n\0".to_owned(), 0),
            ("quorum none\u{b}\n".to_owned(), 1),
            ("log x\nquorum none\n".to_owned(), 1),
        ] {
            assert_eq!(Policy::parse(&text).map_err(|error| error.line).err(), Some(line), "{text:?}");
        }
        assert!(Policy::parse("quorum none\n").unwrap().judge(&Note::parse(&note(&[])).unwrap()).quorum);
        assert!(Policy::of(vec![(key(1), None)], 2).is_err());
        assert!(Policy::of(vec![(key(1), None), (key(1), None)], 1).is_err());
        let two = Policy::of(vec![(key(1), None), (key(2), None), (key(3), None)], 2).unwrap();
        assert!(!two.judge(&Note::parse(&note(&[3])).unwrap()).quorum);
        assert!(two.judge(&Note::parse(&note(&[3, 1])).unwrap()).quorum);
    }
}
