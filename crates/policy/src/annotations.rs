//! The annotations of a rule. One that is not known is refused: a misspelt `@escalate` would otherwise be a permit.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    escalation::{self, EXPIRES_DEFAULT_S, EXPIRES_MAX_S, Escalation},
    obligation::{self, Obligation},
    track::Tracker,
};

/// Every annotation that is known.
pub const KNOWN: [&str; 11] =
    ["id", "doc", "advice", "escalate", "reason", "expires", "four_eyes", "redact", "cap", "require_label", "track"];

/// The longest value.
const VALUE_BYTES_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(crate) struct Annotations {
    pub id: Option<String>,
    pub doc: Option<String>,
    pub advice: Option<String>,
    pub escalation: Option<Escalation>,
    pub obligations: Vec<Obligation>,
    pub require_labels: Vec<String>,
    pub trackers: Vec<Arc<Tracker>>,
}

/// What is wrong with one, and what to do.
pub(crate) type Wrong = (String, String);

impl Annotations {
    /// Reads all of a rule; what is wrong goes into the list.
    pub(crate) fn read(
        all: &BTreeMap<String, String>,
        permits: bool,
        reads_result: bool,
        wrong: &mut Vec<Wrong>,
    ) -> Self {
        let mut read = Self::default();
        for (name, value) in all {
            if value.len() > VALUE_BYTES_MAX {
                wrong.push((
                    format!("the value of `@{name}` has more than {VALUE_BYTES_MAX} bytes"),
                    "Shorten it".into(),
                ));
                continue;
            }
            read.one(name, value, wrong);
        }
        if let Some(role) = all.get("escalate") {
            read.escalation = escalation_of(role, all, wrong);
        } else {
            for name in ["reason", "expires", "four_eyes"].into_iter().filter(|name| all.contains_key(*name)) {
                wrong.push((
                    format!("`@{name}` says something of an escalation, and there is none"),
                    "Add `@escalate(\"role\")`, or take it out".into(),
                ));
            }
        }
        if !permits {
            for name in
                ["escalate", "redact", "cap", "require_label"].into_iter().filter(|name| all.contains_key(*name))
            {
                wrong.push((
                    format!("`@{name}` on a `forbid` has no effect"),
                    "Put it on the `permit` that it is a condition of".into(),
                ));
            }
        } else if !reads_result {
            for name in ["redact", "cap"].into_iter().filter(|name| all.contains_key(*name)) {
                wrong.push((
                    format!("`@{name}` changes the calls of tools, and this rule permits other actions too"),
                    "Write `action in Cogward::Action::\"tool_call\"`, or the action of one tool, in its head".into(),
                ));
            }
        }
        read
    }

    fn one(&mut self, name: &str, value: &str, wrong: &mut Vec<Wrong>) {
        match name {
            "id" if is_id(value) => self.id = Some(value.to_owned()),
            "id" => wrong.push((
                format!("`{}` is not the id of a rule", short(value)),
                "Use 1 to 128 letters, digits, `.`, `_`, `-` and `/`".into(),
            )),
            "doc" => self.doc = Some(value.to_owned()),
            "advice" => self.advice = Some(value.to_owned()),
            // A word that is not known here would be read as a condition that is not kept.
            "four_eyes" if !value.is_empty() => wrong.push((
                format!("`@four_eyes` takes nothing, and `{}` is given", short(value)),
                "Write `@four_eyes`: whoever started the run, or is its user, cannot approve".into(),
            )),
            // These are read together.
            "escalate" | "reason" | "expires" | "four_eyes" => {}
            "redact" => match obligation::redactions(value) {
                Ok(all) => self.obligations.extend(all),
                Err(error) => wrong.push((error.to_string(), "Write `@redact(\"result.customer.iban\")`".into())),
            },
            "cap" => match obligation::caps(value) {
                Ok(all) => self.obligations.extend(all),
                Err(error) => wrong.push((error.to_string(), "Write `@cap(\"arguments.limit=100\")`".into())),
            },
            "require_label" => match obligation::labels(value) {
                Ok(all) => self.require_labels.extend(all),
                Err(error) => wrong.push((error.to_string(), "Write `@require_label(\"internal\")`".into())),
            },
            "track" => {
                for text in value.split(';').map(str::trim).filter(|text| !text.is_empty()) {
                    match Tracker::parse(text) {
                        Ok(tracker) => self.trackers.push(Arc::new(tracker)),
                        Err(error) => wrong.push((
                            error.to_string(),
                            "Write `@track(\"calls = count of tool_call per run within 1h\")`".into(),
                        )),
                    }
                }
            }
            other => wrong.push((
                format!("`@{}` is not an annotation that has a meaning", short(other)),
                match crate::nearest::nearest(other, KNOWN) {
                    Some(known) => format!("Did you mean `@{known}`? Remarks go into `@doc`"),
                    None => "Remarks go into `@doc`".into(),
                },
            )),
        }
    }
}

fn escalation_of(role: &str, all: &BTreeMap<String, String>, wrong: &mut Vec<Wrong>) -> Option<Escalation> {
    if !escalation::is_role(role) {
        wrong.push((
            format!("`{}` is not a role", short(role)),
            "Name the role that approves: lower-case letters, digits, `-`, `_` and `.`".into(),
        ));
        return None;
    }
    let expires_s = match all.get("expires") {
        None => EXPIRES_DEFAULT_S,
        Some(text) => match escalation::duration(text).filter(|seconds| (1..=EXPIRES_MAX_S).contains(seconds)) {
            Some(seconds) => seconds,
            None => {
                wrong.push((
                    format!("`{}` is not a time of at most thirty days", short(text)),
                    "Write `@expires(\"15m\")`, with `s`, `m`, `h` or `d`".into(),
                ));
                return None;
            }
        },
    };
    let four_eyes = all.contains_key("four_eyes");
    Some(Escalation { role: role.to_owned(), reason: all.get("reason").cloned(), expires_s, four_eyes })
}

fn is_id(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'))
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}
