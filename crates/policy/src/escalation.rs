//! `@escalate("role")`, `@reason("…")`, `@expires("15m")` and `@four_eyes` on a permit: a person has to approve first.

use serde::{Deserialize, Serialize};

/// How long an approval may take when a rule does not say.
pub const EXPIRES_DEFAULT_S: u64 = 60 * 60;

/// The longest that a rule may say: thirty days.
pub const EXPIRES_MAX_S: u64 = 30 * 24 * 60 * 60;

/// What has to be approved, by whom, by when.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Escalation {
    /// The role whose holders can approve.
    pub role: String,
    /// Why, for the person who approves.
    pub reason: Option<String>,
    /// After how many seconds the question is void.
    pub expires_s: u64,
    /// `@four_eyes`: whoever started the run, or is the user for whom it acts, cannot approve.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub four_eyes: bool,
}

/// A role: a letter, then letters, digits, `.`, `_` and `-`, at most 63.
pub(crate) fn is_role(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'))
}

/// `90s`, `15m`, `2h`, `3d` in seconds.
pub(crate) fn duration(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return None,
    };
    if digits.is_empty() || digits.len() > 9 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_one_number_and_one_unit() {
        for (text, want) in [("90s", Some(90)), ("15m", Some(900)), ("2h", Some(7200)), ("3d", Some(259_200))] {
            assert_eq!(duration(text), want);
        }
        for text in ["", "s", "15", "-1m", "1.5h", "1w", "1h30m", "9999999999s", "١h", "é"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
