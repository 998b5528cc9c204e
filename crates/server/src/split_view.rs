//! What is recorded of two histories that one key signed.
//!
//! The notes themselves are kept in a file. What whoever shows them appended, up to 64 KiB of lines of strangers, must
//! not make the finding too long for a leaf: the leaf has the digest of that file, its name, and of either note only
//! how many leaves it is over and their root.

use std::{io, path::PathBuf};

use cogward_evidence::Evidence;
use cogward_ledger::{
    archive::{hex, sha256},
    note::{Checkpoint, Note},
    text::base64_hash,
};
use cogward_model::event::{Event, EventType};

use crate::events::by_plane;

/// The longest text in words of ours that goes along.
const DETAIL_CHARS_MAX: usize = 500;

/// Two histories, as far as both are known.
pub(crate) struct SplitView<'a> {
    /// What is kept: both notes, or what is known of the other one.
    pub(crate) both: &'a str,
    /// The note of this plane.
    pub(crate) ours: &'a str,
    /// The other one, where it was shown.
    pub(crate) theirs: Option<&'a str>,
    /// What happened, in words of ours.
    pub(crate) detail: &'a str,
}

/// The size and the root that a note is of; nothing of what else is in it.
fn state_of(note: &str) -> Option<String> {
    let checkpoint = Checkpoint::from_text(Note::parse(note).ok()?.text).ok()?;
    Some(format!("{} {}", checkpoint.size, base64_hash(&checkpoint.root)))
}

impl SplitView<'_> {
    /// Keeps what is known, raises the alarm, and makes what is to be recorded.
    pub(crate) fn keep(&self, evidence: &Evidence) -> Event {
        let kept = evidence.keep_split_view(self.both);
        if let Err(error) = &kept {
            tracing::error!(%error, "the notes of two histories are not kept");
        }
        self.finding(kept)
    }

    fn finding(&self, kept: io::Result<PathBuf>) -> Event {
        let file = kept.as_ref().ok().and_then(|path| path.file_name()?.to_str());
        let detail: String = self.detail.chars().take(DETAIL_CHARS_MAX).collect();
        by_plane(EventType::SecurityFinding)
            .public("finding", "split_view")
            .public("ours", state_of(self.ours))
            .public("theirs", self.theirs.and_then(state_of))
            .public("digest", hex(&sha256(self.both.as_bytes())))
            .public("file", file.map(|name| format!("plane/split-view/{name}")))
            .public("detail", detail)
    }
}

#[cfg(test)]
mod tests {
    use cogward_ledger::{
        leaf::{Place, encode, mint_id},
        note::{NOTE_BYTES_MAX, SigningKey},
    };
    use cogward_model::{SystemClock, SystemEntropy, limits::LEAF_BYTES_MAX};

    use super::*;

    #[test]
    fn the_longest_notes_that_somebody_can_bring_fit_into_a_leaf_by_what_they_say() {
        let key = SigningKey::from_seed("cogward.dev/ledger/test/_plane", &[3; 32]).unwrap();
        // Lines of strangers below a note that our own key signed, as many and as long as a note may have.
        let padded = |size: u64, root: u8| {
            let mut note = key.checkpoint(size, &[root; 32]);
            let lines = note.lines().count() - 4;
            let each = (NOTE_BYTES_MAX - note.len()) / (64 - lines);
            for n in lines..64 {
                let name = format!("\u{2014} stranger.example/{n:03} ");
                note.push_str(&format!("{name}{}\n", "A".repeat((each - name.len() - 1) / 4 * 4)));
            }
            assert!(note.len() > NOTE_BYTES_MAX - 512 && Note::parse(&note).is_ok(), "{}", note.len());
            note
        };
        // A thief of the key may sign any size.
        let (ours, theirs) = (padded(1_000, 1), padded(u64::MAX, 2));
        let both = format!("--- this plane\n{ours}\n--- the other\n{theirs}\n");
        let detail = "\u{e9}\"\\\u{1}".repeat(NOTE_BYTES_MAX);
        let split = SplitView { both: &both, ours: &ours, theirs: Some(&theirs), detail: &detail };
        let event = split.finding(Ok(PathBuf::from("/somewhere/evidence/plane/split-view/0123456789abcdef.txt")));
        let body = encode(&event, &mint_id(&SystemClock, &SystemEntropy), &SystemEntropy).unwrap();
        let (time, mut leaf) = ("2026-11-22T10:11:12.123456Z", Vec::new());
        body.assemble(&Place { seq: 7, prev: Some([1; 32]), time, run_seq: 0, run_prev: None }, &mut leaf);
        let text = String::from_utf8(leaf).unwrap();
        assert!(text.len() < 8_192 && text.len() < LEAF_BYTES_MAX, "{}", text.len());
        assert!(text.contains("\"ours\":\"1000 AQEB") && text.contains(&format!("\"theirs\":\"{} AgIC", u64::MAX)));
        assert!(text.contains("\"file\":\"plane/split-view/0123456789abcdef.txt\""), "{text}");
        assert!(text.contains(&hex(&sha256(both.as_bytes()))) && !text.contains("stranger"), "{text}");
        // What nobody can read, or keep, is no reason to say nothing.
        let split = SplitView { both: "", ours: "", theirs: Some("no note"), detail: "" };
        let event = split.finding(Err(io::ErrorKind::StorageFull.into()));
        assert!(encode(&event, &mint_id(&SystemClock, &SystemEntropy), &SystemEntropy).is_ok());
    }
}
