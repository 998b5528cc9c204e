//! The report for build servers.

use super::{Report, Verdict};

pub(super) fn write(report: &Report) -> String {
    let failures = report.failures().count();
    let (tests, skipped) = (report.attempts.len(), report.count(Verdict::Skipped));
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"cogward verify sandbox {}\" tests=\"{tests}\" \
         failures=\"{failures}\" skipped=\"{skipped}\">\n",
        report.profile.as_str()
    );
    for attempt in &report.attempts {
        let said = format!("{}: {}, expected {}", attempt.verdict.as_str(), attempt.answer, attempt.expected);
        let inner = match attempt.verdict {
            verdict if verdict.failed() => format!("<failure message=\"{}\"/>", escaped(&said)),
            Verdict::Skipped => "<skipped/>".to_owned(),
            _ => format!("<system-out>{}</system-out>", escaped(&said)),
        };
        text.push_str(&format!(
            "  <testcase classname=\"{}\" name=\"{}: {}\">{inner}</testcase>\n",
            attempt.program.as_str(),
            escaped(&attempt.id),
            escaped(&attempt.tries)
        ));
    }
    text.push_str("</testsuite>\n");
    text
}

/// `text` for an attribute or an element. What XML cannot hold at all becomes a replacement character.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use cogward_model::manifest::Profile;

    use super::*;
    use crate::battery::{Attempt, Program};

    #[test]
    fn an_answer_of_the_sandbox_cannot_write_xml() {
        let attempt = |verdict| Attempt {
            id: "x.y".into(),
            tries: "a & b".into(),
            program: Program::Shell,
            verdict,
            answer: "\"/></testcase>\u{1b}".into(),
            expected: "EPERM".into(),
        };
        let report = Report {
            profile: Profile::Standard,
            kernel: "6".into(),
            attacks: 1,
            package: "erofs".into(),
            absent: vec![],
            reported: 0,
            attempts: [Verdict::Allowed, Verdict::Refused, Verdict::Skipped].map(attempt).to_vec(),
        };
        let text = write(&report);
        assert!(text.contains("tests=\"3\" failures=\"1\" skipped=\"1\"") && text.contains("a &amp; b"));
        assert_eq!((text.matches("</testcase>").count(), text.matches("<failure").count()), (3, 1), "{text}");
        assert!(!text.contains('\u{1b}') && !report.holds());
    }
}
