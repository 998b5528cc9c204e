//! A policy text before it is parsed: its bounds, its positions, and how the parser's errors are told.

use cedar_policy::ParseErrors;
use miette::Diagnostic;

use crate::{
    finding::{FINDINGS_MAX, Finding, Findings, Severity},
    version::TEXT_BYTES_MAX,
};

/// The deepest brackets.
const BRACKETS_MAX: usize = 128;

/// The most operators of a rule, as marks of which `&&` has two.
const OPERATORS_MAX: usize = 3_000;

/// The stack on which texts are read. Only what is used of it takes memory.
const STACK_BYTES: usize = 256 * 1024 * 1024;

/// A text within its bounds.
pub(crate) struct Source<'a> {
    text: &'a str,
    lines: Vec<usize>,
}

/// Runs on a stack on which no text within the bounds can overflow. What panics there is a finding.
pub(crate) fn on_large_stack<T: Send>(read: impl FnOnce() -> Result<T, Findings> + Send) -> Result<T, Findings> {
    let told = |what: &str| {
        Findings(vec![Finding {
            severity: Severity::Error,
            line: 0,
            column: 0,
            rule: None,
            what: what.to_owned(),
            next_step: "Simplify it, and report this text as a defect".to_owned(),
        }])
    };
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name("policy".into()).stack_size(STACK_BYTES).spawn_scoped(scope, read);
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(read)) => read,
            Ok(Err(_)) => Err(told("the text could not be read")),
            Err(_) => Err(told("there is no thread to read the text on")),
        }
    })
}

impl<'a> Source<'a> {
    pub(crate) fn new(text: &'a str) -> Result<Self, Findings> {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let source = Self { text, lines };
        if text.len() > TEXT_BYTES_MAX {
            let what = format!("it has {} bytes; the most is {TEXT_BYTES_MAX}", text.len());
            return Err(Findings(vec![source.finding(Severity::Error, None, None, &what, "Split it over levels")]));
        }
        source.bounds()?;
        Ok(source)
    }

    /// Refuses what is nested too deeply or has too many operators, before any parser recurses into it. A tree is no
    /// deeper than the brackets and the operators of its rule; lists of values are flat, so they are not counted.
    fn bounds(&self) -> Result<(), Findings> {
        let mut depth = 0_usize;
        let mut operators = 0_usize;
        let mut word_from: Option<usize> = None;
        let mut bytes = self.text.bytes().enumerate().peekable();
        while let Some((at, byte)) = bytes.next() {
            if byte.is_ascii_alphanumeric() || byte == b'_' {
                word_from.get_or_insert(at);
                continue;
            }
            let word = word_from.take().and_then(|from| self.text.get(from..at)).unwrap_or_default();
            operators += usize::from(matches!(word, "if" | "then" | "else" | "in" | "is" | "has" | "like"));
            match byte {
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' => depth = depth.saturating_sub(1),
                b';' if depth == 0 => operators = 0,
                b'"' => {
                    while let Some((_, inner)) = bytes.next() {
                        match inner {
                            b'\\' => drop(bytes.next()),
                            b'"' => break,
                            _ => {}
                        }
                    }
                }
                b'/' if bytes.peek().is_some_and(|(_, next)| *next == b'/') => {
                    for (_, inner) in bytes.by_ref() {
                        if inner == b'\n' {
                            break;
                        }
                    }
                }
                b',' | b';' | b':' => {}
                _ => operators += usize::from(!byte.is_ascii_whitespace()),
            }
            let wrong = if depth > BRACKETS_MAX {
                format!("brackets are nested more than {BRACKETS_MAX} deep")
            } else if operators > OPERATORS_MAX {
                format!("one rule has more than {OPERATORS_MAX} operators")
            } else {
                continue;
            };
            let next = "Split it into several rules, or use a set: `[…].contains(…)`";
            return Err(Findings(vec![self.finding(Severity::Error, Some(at), None, &wrong, next)]));
        }
        Ok(())
    }

    /// Line and column, from 1; the column counts characters.
    pub(crate) fn position(&self, at: usize) -> (u32, u32) {
        let line = self.lines.partition_point(|start| *start <= at);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let column = self.text.get(start..at).map_or(0, |before| before.chars().count()) + 1;
        (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
    }

    pub(crate) fn finding(
        &self,
        severity: Severity,
        at: Option<usize>,
        rule: Option<&str>,
        what: &str,
        next_step: &str,
    ) -> Finding {
        let (line, column) = at.map_or((0, 0), |at| self.position(at));
        Finding {
            severity,
            line,
            column,
            rule: rule.map(str::to_owned),
            what: what.into(),
            next_step: next_step.into(),
        }
    }

    /// Every error of the parser, as findings.
    pub(crate) fn parse_errors(&self, errors: &ParseErrors) -> Findings {
        let all = errors.iter().take(FINDINGS_MAX).map(|error| self.diagnostic(Severity::Error, None, error));
        Findings(all.collect())
    }

    /// One message of Cedar as a finding.
    pub(crate) fn diagnostic(&self, severity: Severity, rule: Option<&str>, told: &dyn Diagnostic) -> Finding {
        let at = told.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
        let what = sentence(&told.to_string());
        // The rule is told beside it.
        let what = what
            .strip_prefix("for policy `")
            .and_then(|rest| rest.split_once("`, "))
            .map_or(what.as_str(), |(_, rest)| rest);
        let help = told.help().map(|help| sentence(&help.to_string()));
        let next_step = help.unwrap_or_else(|| "Correct it; docs/policy.md shows the language".into());
        self.finding(severity, at, rule, what, &next_step)
    }
}

/// One line without a full stop.
fn sentence(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.trim_end_matches('.').chars().take(500).collect()
}
