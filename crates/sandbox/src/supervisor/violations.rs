//! What was refused, counted by kind: the first ones one by one, then at powers of two.
//!
//! An agent can provoke refusals without end; flooding the record with them would be an attack of its own. The sum
//! of the counts that are reported is always the number of refusals, once the run has ended.

use std::collections::BTreeMap;

use crate::spec::Violation;

/// Kinds that are told apart; further ones are counted as `other`.
const KINDS_MAX: usize = 128;
/// Refusals of one kind that are reported one by one.
const SINGLY: u64 = 50;

/// The counts of one kind.
#[derive(Debug, Default)]
struct Count {
    total: u64,
    reported: u64,
}

/// All counts.
#[derive(Debug, Default)]
pub struct Violations {
    counts: BTreeMap<(&'static str, &'static str, String), Count>,
}

impl Violations {
    /// Counts `more` refusals of a kind.
    pub fn add(&mut self, layer: &'static str, action: &'static str, object: &str, more: u64) {
        let mut key = (layer, action, object.to_owned());
        if self.counts.len() >= KINDS_MAX && !self.counts.contains_key(&key) {
            key.2 = "other".to_owned();
        }
        self.counts.entry(key).or_default().total += more;
    }

    /// What is due to be reported. With `all`, everything that has not been.
    pub fn due(&mut self, all: bool) -> Vec<Violation> {
        let mut due = Vec::new();
        for ((layer, action, object), count) in &mut self.counts {
            let next =
                if count.reported < SINGLY { count.reported + 1 } else { count.reported.next_power_of_two() * 2 };
            if count.total > count.reported && (all || count.total >= next) {
                due.push(Violation {
                    layer: (*layer).to_owned(),
                    action: (*action).to_owned(),
                    object: object.clone(),
                    count: count.total - count.reported,
                });
                count.reported = count.total;
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_few_reports_and_no_refusal_is_lost() {
        let mut violations = Violations::default();
        let (mut reports, mut sum) = (0, 0);
        for _ in 0..1_000_000_u32 {
            violations.add("seccomp", "deny", "mount", 1);
            for v in violations.due(false) {
                reports += 1;
                sum += v.count;
            }
        }
        sum += violations.due(true).iter().map(|v| v.count).sum::<u64>();
        assert_eq!(sum, 1_000_000);
        assert!(reports < 80, "{reports}");
    }

    #[test]
    fn kinds_are_bounded() {
        let mut violations = Violations::default();
        for n in 0..10_000 {
            violations.add("seccomp", "deny", &format!("syscall_{n}"), 1);
        }
        assert!(violations.counts.len() <= KINDS_MAX + 1);
        assert_eq!(violations.due(true).iter().map(|v| v.count).sum::<u64>(), 10_000);
    }
}
