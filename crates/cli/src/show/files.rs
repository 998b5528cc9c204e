//! How files look that go into a run and come out of it.

use cogward_api::Run;
use cogward_model::content::{Artifact, Content, NotKept};

use crate::output::{Cell, Show, Tone};

fn content(content: &Content) -> String {
    let below = match content.entries {
        1 => String::new(),
        entries => format!(", {entries} entries"),
    };
    format!("{} of {} bytes{below}, {}", content.kind.as_str(), content.bytes, content.digest)
}

fn why(artifact: &Artifact) -> String {
    let word = artifact.refused.map_or("missing", NotKept::as_str);
    artifact.detail.as_ref().map_or_else(|| word.to_owned(), |detail| format!("{word}: {detail}"))
}

impl Show for Artifact {
    const PLURAL: &'static str = "artifacts";
    const HEAD: &'static [&'static str] = &["NAME", "KEPT", "KIND", "BYTES", "ENTRIES", "DIGEST", "WHY NOT"];
    fn row(&self) -> Vec<Cell> {
        let number =
            |of: fn(&Content) -> u64| self.content.as_ref().map(of).map_or_else(String::new, |n| n.to_string());
        let kept = match (&self.content, self.required) {
            (Some(_), _) => Cell::toned("yes", Tone::Good),
            (None, true) => Cell::toned("no", Tone::Bad),
            (None, false) => Cell::toned("no", Tone::Warn),
        };
        vec![
            Cell::from(&self.name),
            kept,
            self.content.map_or("", |content| content.kind.as_str()).into(),
            number(|content| content.bytes).into(),
            number(|content| content.entries).into(),
            self.content.map(|content| content.digest.to_string()).unwrap_or_default().into(),
            if self.content.is_some() { String::new() } else { why(self) }.into(),
        ]
    }
    fn name(&self) -> String {
        self.name.to_string()
    }
}

/// The lines of a run.
pub(super) fn of_run(run: &Run) -> Vec<(&'static str, Cell)> {
    let mut all = Vec::new();
    for input in &run.inputs {
        all.push(("INPUT", format!("{}: {}", input.name, content(&input.content)).into()));
    }
    for artifact in &run.artifacts {
        all.push(match &artifact.content {
            Some(kept) => ("ARTIFACT", format!("{}: {}", artifact.name, content(kept)).into()),
            None => ("NOT KEPT", Cell::toned(format!("{}: {}", artifact.name, why(artifact)), Tone::Warn)),
        });
    }
    if let Some(reason) = run.output_refused {
        let text = format!("the output file was not taken: {}", reason.as_str());
        all.push(("NOT KEPT", Cell::toned(text, Tone::Warn)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_kept_says_why() {
        let artifact = |json: serde_json::Value| serde_json::from_value::<Artifact>(json).unwrap();
        let kept = artifact(serde_json::json!({
            "name": "report", "required": true,
            "content": { "kind": "file", "digest": format!("sha256:{}", "a".repeat(64)), "bytes": 5, "entries": 1 },
        }));
        let not = artifact(serde_json::json!({
            "name": "tree", "required": false, "refused": "link", "detail": "`a/b`",
        }));
        let cells = |a: &Artifact| a.row().iter().map(Cell::text).collect::<Vec<_>>().join("|");
        assert_eq!(cells(&kept), format!("report|yes|file|5|1|sha256:{}|", "a".repeat(64)));
        assert_eq!(cells(&not), "tree|no|||||link: `a/b`");
    }
}
