//! What is kept here of a released segment, because every start needs it: erasures, and what was reserved and used.
//!
//! A start carries out again what the log says was erased, and books again what it says was spent. Of a segment
//! that is only in the archive the leaves for that lie beside its release, without all that a start does not look at, a
//! line of JSON each. Values in them are sealed as they are in the log, so what is erased is erased here, too.
//! The release names the digest. What is damaged is not used: then the segment itself is read.

use std::{path::Path, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use cogward_ledger::{archive, leaf::Parsed};
use cogward_model::event::EventType;
use cogward_wal::Position;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    durable, frames,
    read::{ReadError, Walked, walk_on},
    released::{Release, kept_file},
    segments::Segments,
    vault::Sealed,
};

/// Largest file: the lines of a segment, of which each is shorter than its leaf.
const KEPT_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// What is kept of the body of a decision or an outcome.
const FIELDS: [&str; 17] = [
    "act",
    "budget",
    "decision",
    "history",
    "id",
    "labels_read",
    "outcome",
    "refs",
    "reserved",
    "run",
    "run_prev",
    "run_seq",
    "sub",
    "tenant",
    "type",
    "used",
    "v",
];
/// The values that a start opens.
const OPENED: [&str; 2] = ["sub", "history"];

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// The whole leaf of an erasure, a part of others; nothing in the last line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leaf: Option<Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sealed: Vec<String>,
    /// In the last line, what is sealed at the end of the segment for a leaf in the next one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ahead: Vec<String>,
}

/// Makes what is kept of a segment while its frames are gone over.
#[derive(Default)]
pub(crate) struct Keeping {
    lines: Vec<u8>,
    sealed: Vec<Vec<u8>>,
    /// The time of the last leaf.
    pub(crate) time: Option<String>,
}

impl Keeping {
    /// Behind what the segment before had at its end.
    pub(crate) fn after(ahead: Vec<Vec<u8>>) -> Self {
        Self { sealed: ahead, ..Self::default() }
    }

    /// Takes a frame; `None` when it is none of the ledger.
    pub(crate) fn frame(&mut self, kind: u8, payload: &[u8]) -> Option<()> {
        match kind {
            frames::SEALED => self.sealed.push(frames::split_text(payload)?.1.to_vec()),
            frames::LEAF => self.leaf(frames::split_text(payload)?.1)?,
            _ => {}
        }
        Some(())
    }

    fn leaf(&mut self, leaf: &[u8]) -> Option<()> {
        let sealed = std::mem::take(&mut self.sealed);
        let parsed = Parsed::from_bytes(leaf).ok()?;
        self.time = Some(parsed.chain.time.to_owned());
        let kind = parsed.body.kind;
        let is_erasure =
            [EventType::RedactionExecuted, EventType::RetentionExecuted].iter().any(|of| of.as_str() == kind);
        let (decided, completed) = (kind.ends_with(".decided"), kind.ends_with(".completed"));
        if !is_erasure && !decided && !completed {
            return Some(());
        }
        let mut whole: Value = serde_json::from_slice(leaf).ok()?;
        if is_erasure {
            return self.line(&Line { leaf: Some(whole), sealed: Vec::new(), ahead: Vec::new() });
        }
        let body = whole.get_mut("body")?.as_object_mut()?;
        if completed && !body.contains_key("used") {
            return Some(());
        }
        body.retain(|field, _| FIELDS.contains(&field.as_str()));
        let opened =
            sealed.iter().filter(|frame| Sealed::peek(frame).is_some_and(|(_, field)| OPENED.contains(&field)));
        let sealed = opened.map(|frame| STANDARD.encode(frame)).collect();
        self.line(&Line { leaf: Some(whole), sealed, ahead: Vec::new() })
    }

    fn line(&mut self, line: &Line) -> Option<()> {
        serde_json::to_writer(&mut self.lines, line).ok()?;
        self.lines.push(b'\n');
        Some(())
    }

    /// The bytes of the file.
    pub(crate) fn finish(mut self) -> Option<Vec<u8>> {
        let ahead = self.sealed.iter().map(|frame| STANDARD.encode(frame)).collect();
        self.line(&Line { leaf: None, sealed: Vec::new(), ahead })?;
        Some(self.lines)
    }
}

/// What is kept of a segment, when it is what the release says.
fn read(dir: &Path, release: &Release) -> Option<Vec<u8>> {
    let bytes = durable::read(&kept_file(dir, release.segment), KEPT_BYTES_MAX).ok()??;
    (archive::sha256(&bytes) == release.kept).then_some(bytes)
}

fn opened(sealed: &[String]) -> Option<Vec<Vec<u8>>> {
    sealed.iter().map(|frame| STANDARD.decode(frame).ok()).collect()
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = Option<Line>> {
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).ok())
}

/// What is sealed at the end of a released segment for the next leaf.
pub(crate) fn ahead(dir: &Path, release: &Release) -> Option<Vec<Vec<u8>>> {
    let bytes = read(dir, release)?;
    opened(&lines(&bytes).last()??.ahead)
}

/// Walks what a start needs, from a place on or from the beginning of the log: what is kept of the segments that are
/// not here any more, then everything in the others.
pub(crate) fn walk_needed<E: From<ReadError>>(
    dir: &Path,
    segments: &Arc<Segments>,
    (from, to): (Option<Position>, Position),
    mut visit: impl FnMut(Position, &str, &[u8], &mut Vec<Vec<u8>>) -> Result<bool, E>,
) -> Result<(), E> {
    let (first, mut sealed) = (segments.first(), Vec::new());
    if let Some(from) = from {
        return walk_on(segments, (from, to), &mut sealed, &mut visit).map(drop);
    }
    for segment in 0..first {
        let (at, next) = (Position { segment, offset: 0 }, Position { segment: segment + 1, offset: 0 });
        let Some(bytes) = segments.gone(segment).and_then(|release| read(dir, &release)) else {
            tracing::warn!(segment, "what was kept of a released segment is damaged: the segment is read");
            if walk_on(segments, (at, next), &mut sealed, &mut visit)? == Walked::Enough {
                return Ok(());
            }
            continue;
        };
        for line in lines(&bytes) {
            let damaged = || E::from(ReadError::Damaged(at));
            let Line { leaf, sealed: own, ahead } = line.ok_or_else(damaged)?;
            let Some(leaf) = leaf else {
                sealed = opened(&ahead).ok_or_else(damaged)?;
                continue;
            };
            let mut own = opened(&own).ok_or_else(damaged)?;
            let text = leaf.to_string();
            let tenant = leaf.get("body").and_then(|body| body.get("tenant")).and_then(Value::as_str);
            if !visit(at, tenant.ok_or_else(damaged)?, text.as_bytes(), &mut own)? {
                return Ok(());
            }
        }
    }
    let here = (Position { segment: first, offset: 0 }, to);
    walk_on(segments, here, &mut sealed, &mut visit).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(tenant: &str, rest: &[u8]) -> Vec<u8> {
        [&frames::tenant_prefix(tenant)[..], rest].concat()
    }

    #[test]
    fn what_a_start_does_not_look_at_is_not_kept() {
        let mut keeping = Keeping::default();
        let leaf = |kind: &str, more: &str| {
            let text = format!(
                r#"{{"body":{{"args":{{"$c":"x"}},"decision":"permit","id":"evt_1","tenant":"acme","type":"{kind}","v":1{more}}},"chain":{{"prev":null,"seq":0,"time":"2026-01-01T00:00:00.000000Z"}}}}"#
            );
            frame("acme", text.as_bytes())
        };
        for (kind, more) in [
            ("run.started", ""),
            ("tool.call.decided", ""),
            ("tool.call.completed", ""),
            ("redaction.executed", r#","keys":["k"]"#),
        ] {
            keeping.frame(frames::LEAF, &leaf(kind, more)).unwrap();
        }
        keeping.frame(frames::SEALED, &frame("acme", b"sealed for the next leaf")).unwrap();
        assert_eq!(keeping.time.as_deref(), Some("2026-01-01T00:00:00.000000Z"));
        let bytes = keeping.finish().unwrap();
        let found: Vec<Line> = lines(&bytes).map(Option::unwrap).collect();
        assert_eq!(found.len(), 3, "a decision, an erasure, and what is ahead");
        let decided = found[0].leaf.as_ref().unwrap();
        assert_eq!(decided["body"]["decision"], "permit");
        assert!(decided["body"].get("args").is_none());
        assert!(Parsed::from_bytes(decided.to_string().as_bytes()).is_ok());
        assert_eq!(found[1].leaf.as_ref().unwrap()["body"]["keys"][0], "k", "the whole leaf of an erasure");
        assert_eq!(opened(&found[2].ahead).unwrap(), [b"sealed for the next leaf"]);
        assert!(Keeping::default().frame(frames::LEAF, b"").is_none());
    }
}
