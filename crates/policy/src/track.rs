//! `@track("NAME = …")`: what a set wants counted or summed over earlier calls. Here is the grammar; the gateway counts.
//!
//! ```text
//! NAME = (count | sum(arguments.PATH)) of PATTERN per (run | user | agent | tenant) [within DURATION] [completed]
//! PATTERN = tool_call | tool:SERVER/TOOL | tool:SERVER/* | model_call | egress | memory | resource_read | …
//! ```

use std::fmt;

use cogward_model::{ToolName, UpstreamName};

use crate::{
    ask::Deed,
    escalation,
    path::Path,
    value::{Record, Value},
};

/// The longest window: thirty days.
pub const WINDOW_MAX_S: u64 = 30 * 24 * 60 * 60;

/// One thing that is counted or summed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tracker {
    /// The name under `context.history`.
    pub name: String,
    /// What each call adds.
    pub measure: Measure,
    /// Which calls add.
    pub of: Pattern,
    /// Over whose calls.
    pub per: Per,
    /// Only calls of the last so many seconds; none is all.
    pub within_s: Option<u64>,
    /// Only calls that ended well before this one was asked for. Without it, calls in flight and the one that is
    /// being decided are in the value.
    pub completed: bool,
}

/// What a call adds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Measure {
    /// One.
    Count,
    /// The value of an argument.
    Sum(Path),
}

/// Which calls add.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// Every call of an action.
    Action(&'static str),
    /// Every tool of a server.
    Server(UpstreamName),
    /// One tool.
    Tool(UpstreamName, ToolName),
}

/// Over whose calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Per {
    /// The run.
    Run,
    /// The user for whom the run acts. A run without a user counts for itself.
    User,
    /// The agent, in all of its runs.
    Agent,
    /// The tenant.
    Tenant,
}

/// Why a text is no tracker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrackError {
    /// The text is not as the grammar says.
    #[error(
        "`{0}` does not fit `NAME = count|sum(arguments.PATH) of PATTERN per run|user|agent|tenant [within 1h] [completed]`"
    )]
    Grammar(String),
    /// The name cannot stand after `context.history.`.
    #[error("`{0}` is not a name of a tracker: use a letter, then letters, digits and `_`, at most 63")]
    Name(String),
    /// No such pattern.
    #[error(
        "`{0}` is not a pattern of calls: write an action such as `tool_call`, or `tool:SERVER/TOOL`, or `tool:SERVER/*`"
    )]
    Pattern(String),
    /// Only arguments of tool calls can be summed.
    #[error("a sum needs calls of tools, whose arguments it can read")]
    SumOfNoTool,
    /// The window is no duration, or too long.
    #[error("`{0}` is not a window of at most thirty days: write `15m`, `1h` or `7d`")]
    Window(String),
}

impl Tracker {
    /// Reads one.
    ///
    /// # Errors
    /// Which part does not fit.
    pub fn parse(text: &str) -> Result<Self, TrackError> {
        let grammar = || TrackError::Grammar(text.chars().take(120).collect());
        if text.len() > 1024 {
            return Err(grammar());
        }
        let (name, rest) = text.split_once('=').ok_or_else(grammar)?;
        let name = name.trim();
        if !is_name(name) {
            return Err(TrackError::Name(name.chars().take(80).collect()));
        }
        let mut words = rest.split_ascii_whitespace();
        let mut word = || words.next();
        let measure = match word().ok_or_else(grammar)? {
            "count" => Measure::Count,
            sum => {
                let path = sum.strip_prefix("sum(arguments.").and_then(|rest| rest.strip_suffix(')'));
                Measure::Sum(Path::parse(path.ok_or_else(grammar)?).map_err(|_| grammar())?)
            }
        };
        if word() != Some("of") {
            return Err(grammar());
        }
        let of = Pattern::parse(word().ok_or_else(grammar)?)?;
        if word() != Some("per") {
            return Err(grammar());
        }
        let per = match word() {
            Some("run") => Per::Run,
            Some("user") => Per::User,
            Some("agent") => Per::Agent,
            Some("tenant") => Per::Tenant,
            _ => return Err(grammar()),
        };
        let mut next = word();
        let mut within_s = None;
        if next == Some("within") {
            let window = word().ok_or_else(grammar)?;
            let seconds = escalation::duration(window).filter(|seconds| (1..=WINDOW_MAX_S).contains(seconds));
            within_s = Some(seconds.ok_or_else(|| TrackError::Window(window.chars().take(40).collect()))?);
            next = word();
        }
        let completed = next == Some("completed");
        if completed {
            next = word();
        }
        if next.is_some() {
            return Err(grammar());
        }
        if matches!(measure, Measure::Sum(_)) && !of.is_tool() {
            return Err(TrackError::SumOfNoTool);
        }
        Ok(Self { name: name.to_owned(), measure, of, per, within_s, completed })
    }

    /// What it counts, without its name. Trackers of the same key are one count, so it goes on when a new version
    /// declares it again.
    #[must_use]
    pub fn key(&self) -> String {
        let measure = match &self.measure {
            Measure::Count => "count".to_owned(),
            Measure::Sum(path) => format!("sum(arguments.{path})"),
        };
        let within = self.within_s.map(|seconds| format!(" within {seconds}s")).unwrap_or_default();
        let completed = if self.completed { " completed" } else { "" };
        format!("{measure} of {} per {}{within}{completed}", self.of, self.per.as_str())
    }

    /// Whether a call adds to it.
    #[must_use]
    pub fn counts(&self, deed: &Deed) -> bool {
        match (&self.of, deed) {
            // A call of a memory is one of a tool, too.
            (Pattern::Action("tool_call"), deed) => deed.tool().is_some(),
            (Pattern::Action(action), deed) => deed.action() == *action,
            (Pattern::Server(wanted), deed) => deed.tool().is_some_and(|(server, _)| wanted == server),
            (Pattern::Tool(wanted, name), deed) => {
                deed.tool().is_some_and(|(server, tool)| wanted == server && name == tool)
            }
        }
    }

    /// What a call adds. A negative value adds nothing, so that no call can take back what others added; a decimal is
    /// rounded up; an argument that is not there adds nothing.
    #[must_use]
    pub fn adds(&self, arguments: Option<&Record>) -> i64 {
        let Measure::Sum(path) = &self.measure else { return 1 };
        let mut record = arguments;
        let mut found = None;
        for step in path.steps() {
            found = record.and_then(|record| record.get(step));
            record = match found {
                Some(Value::Record(inner)) => Some(inner),
                _ => None,
            };
        }
        match found {
            Some(Value::Long(value)) => (*value).max(0),
            Some(Value::Decimal(value)) => {
                let units = value.ten_thousandths().max(0);
                units / 10_000 + i64::from(units % 10_000 != 0)
            }
            _ => 0,
        }
    }
}

impl Per {
    /// The word of the grammar.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::User => "user",
            Self::Agent => "agent",
            Self::Tenant => "tenant",
        }
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, TrackError> {
        let refuse = || TrackError::Pattern(text.chars().take(120).collect());
        if let Some(target) = text.strip_prefix("tool:") {
            let (server, tool) = target.split_once('/').ok_or_else(refuse)?;
            let server = server.parse().map_err(|_| refuse())?;
            if tool == "*" {
                return Ok(Self::Server(server));
            }
            return tool.parse().map(|tool| Self::Tool(server, tool)).map_err(|_| refuse());
        }
        Deed::ACTIONS.into_iter().find(|action| *action == text).map(Self::Action).ok_or_else(refuse)
    }

    fn is_tool(&self) -> bool {
        !matches!(self, Self::Action(action) if !matches!(*action, "tool_call" | "memory"))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Action(action) => f.write_str(action),
            Self::Server(server) => write!(f, "tool:{server}/*"),
            Self::Tool(server, tool) => write!(f, "tool:{server}/{tool}"),
        }
    }
}

fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::value::Decimal;

    #[test]
    fn the_grammar_and_its_key() {
        for (text, key) in [
            ("calls = count of tool_call per run", "count of tool_call per run"),
            ("a=count of tool:bank/* per agent within 1h", "count of tool:bank/* per agent within 3600s"),
            (
                "total =  sum(arguments.amount.value)  of tool:bank/pay per user within 90s completed",
                "sum(arguments.amount.value) of tool:bank/pay per user within 90s completed",
            ),
            ("m = count of model_call per tenant completed", "count of model_call per tenant completed"),
        ] {
            assert_eq!(Tracker::parse(text).unwrap().key(), key);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for text in [
            "",
            "x",
            "x =",
            "x = count",
            "x = count of",
            "x = count of tool_call",
            "x = count of tool_call per",
            "x = count of tool_call per planet",
            "x = count of tool_call per run within",
            "x = count of tool_call per run within 1y",
            "x = count of tool_call per run within 0s",
            "x = count of tool_call per run within 31d",
            "x = count of tool_call per run completed within 1h",
            "x = count of tool_call per run and more",
            "1x = count of tool_call per run",
            "x.y = count of tool_call per run",
            "x = sum(amount) of tool_call per run",
            "x = sum(arguments.) of tool_call per run",
            "x = sum(arguments.a) of egress per run",
            "x = count of tool:bank per run",
            "x = count of tool:Bank/pay per run",
            "x = count of nothing per run",
        ] {
            assert!(Tracker::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_a_call_adds_never_takes_back() {
        let tracker = Tracker::parse("x = sum(arguments.a.b) of tool:bank/pay per run").unwrap();
        let with = |value| Record::from([("a".to_owned(), Value::Record(Record::from([("b".to_owned(), value)])))]);
        assert_eq!(tracker.adds(Some(&with(Value::Long(7)))), 7);
        assert_eq!(tracker.adds(Some(&with(Value::Long(-7)))), 0);
        assert_eq!(tracker.adds(Some(&with(Value::Decimal(Decimal::from_ten_thousandths(10_001))))), 2);
        assert_eq!(tracker.adds(Some(&with(Value::Text("7".into())))), 0);
        assert_eq!(tracker.adds(None), 0);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,200}") {
            let _ = Tracker::parse(&text);
        }
    }
}
