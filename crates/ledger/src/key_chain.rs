//! The keys that a log had one after the other, and the statements that lead from each to the next.
//!
//! A key is replaced by a statement that the old one and the new one sign, and that is itself a leaf. Whoever
//! knows any key of the log gets from there to the present one. A statement of a past key that was stolen
//! says up to which size its signatures count.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::note::{Checkpoint, Note, NoteError, SignError, SigningKey, VerifyingKey};

/// In a pack: the statements, a line each, in the order of the log.
pub const KEYS_FILE: &str = "keys.jsonl";
/// Longest file of statements.
pub const KEYS_FILE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Statements about one log. A key that is replaced every week has this many in twenty years.
pub const STATEMENTS_MAX: usize = 1_024;
/// The event of a rotation.
pub const ROTATED: &str = "ledger.key.rotated";
/// The event of a revocation.
pub const REVOKED: &str = "ledger.key.revoked";

const ROTATION_FORM: &str = "cogward.dev/key-rotation@v1";
const REVOCATION_FORM: &str = "cogward.dev/key-revocation@v1";

/// Why a statement, or what it would make of a chain, is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// It is not a statement about keys.
    #[error("not a statement about the keys of a log")]
    Form,
    /// Of another log.
    #[error("it is a statement about the keys of `{0}`")]
    Origin(String),
    /// It does not follow from what stands before.
    #[error("it does not follow from the keys before: {0}")]
    Order(&'static str),
    /// A signature that is needed is not there, or does not hold.
    #[error("{who}: {source}")]
    Signature {
        /// Whose.
        who: &'static str,
        /// Why.
        #[source]
        source: NoteError,
    },
}

/// Why the signatures of a key do not count any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Somebody else has it, or may have.
    Compromised,
    /// Nobody can say any more where it was.
    Lost,
    /// Another key took its place.
    Superseded,
}

impl Why {
    /// The word in statements.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Compromised => "compromised",
            Self::Lost => "lost",
            Self::Superseded => "superseded",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Compromised, Self::Lost, Self::Superseded].into_iter().find(|why| why.as_str() == word)
    }
}

/// What a statement says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// A new key.
    Rotation {
        /// The new key's number; the log's first key is 0.
        generation: u64,
        /// The key before.
        old: VerifyingKey,
        /// The new key.
        new: VerifyingKey,
        /// The largest size that the old key signed without the new one.
        size: u64,
        /// When.
        time: String,
    },
    /// A past key whose signatures count up to a size and no further.
    Revocation {
        /// The key's number.
        generation: u64,
        /// The key.
        key: VerifyingKey,
        /// Up to this size its signature alone is enough.
        size: u64,
        /// Why.
        why: Why,
        /// When.
        time: String,
    },
}

fn keys_of(word: &str, key: &VerifyingKey) -> String {
    key.lines().lines().map(|line| format!("{word} {line}\n")).collect()
}

/// Reads lines that all begin with a word.
struct Lines<'a>(std::iter::Peekable<std::str::Split<'a, char>>);

impl<'a> Lines<'a> {
    fn value(&mut self, word: &str) -> Option<&'a str> {
        let value = self.0.peek()?.strip_prefix(word)?.strip_prefix(' ')?;
        self.0.next();
        Some(value)
    }

    fn number(&mut self, word: &str) -> Option<u64> {
        self.value(word)?.parse().ok()
    }

    fn key(&mut self, word: &str) -> Option<VerifyingKey> {
        let mut lines = vec![self.value(word)?];
        lines.extend(std::iter::from_fn(|| self.value(word)).take(3));
        lines.join("\n").parse().ok()
    }
}

impl Statement {
    /// The log.
    #[must_use]
    pub fn origin(&self) -> &str {
        let (Self::Rotation { new: key, .. } | Self::Revocation { key, .. }) = self;
        key.origin()
    }

    /// What is signed.
    #[must_use]
    pub fn text(&self) -> String {
        let origin = self.origin();
        match self {
            Self::Rotation { generation, old, new, size, time } => format!(
                "{ROTATION_FORM}\nlog {origin}\ngeneration {generation}\n{}{}size {size}\ntime {time}\n",
                keys_of("old", old),
                keys_of("new", new)
            ),
            Self::Revocation { generation, key, size, why, time } => format!(
                "{REVOCATION_FORM}\nlog {origin}\ngeneration {generation}\n{}size {size}\nwhy {}\ntime {time}\n",
                keys_of("key", key),
                why.as_str()
            ),
        }
    }

    /// Reads the text of a statement; who signed it is another question.
    ///
    /// # Errors
    /// It is none, or not written as it would be written here.
    pub fn from_text(text: &str) -> Result<Self, ChainError> {
        let read = || {
            let mut lines = Lines(text.strip_suffix('\n')?.split('\n').peekable());
            let form = lines.0.next()?;
            let origin = lines.value("log")?;
            let generation = lines.number("generation")?;
            let statement = match form {
                ROTATION_FORM => {
                    let (old, new) = (lines.key("old")?, lines.key("new")?);
                    let (size, time) = (lines.number("size")?, lines.value("time")?.to_owned());
                    (old.origin() == origin).then_some(Self::Rotation { generation, old, new, size, time })?
                }
                REVOCATION_FORM => {
                    let (key, size) = (lines.key("key")?, lines.number("size")?);
                    let (why, time) = (Why::parse(lines.value("why")?)?, lines.value("time")?.to_owned());
                    Self::Revocation { generation, key, size, why, time }
                }
                _ => return None,
            };
            (statement.text() == text && statement.origin() == origin).then_some(statement)
        };
        read().ok_or(ChainError::Form)
    }

    /// The statement as a signed note: of a rotation by the old and the new key, of a revocation by the present one.
    ///
    /// # Errors
    /// A key does not sign it.
    pub fn signed(&self, by: &[&SigningKey]) -> Result<String, SignError> {
        let text = self.text();
        let lines: Result<String, SignError> = by.iter().map(|key| key.statement_lines(&text)).collect();
        Ok(format!("{text}\n{}", lines?))
    }
}

/// One line of [`KEYS_FILE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The leaf with the statement.
    pub leaf: u64,
    /// The signed note.
    pub statement: String,
}

#[derive(Debug, Clone)]
struct Link {
    /// The largest size that the key before signed alone.
    alone: u64,
    /// The leaf with the statement, where it is in the log itself.
    leaf: Option<u64>,
    key: VerifyingKey,
}

/// The keys of a log in their order.
#[derive(Debug, Clone)]
pub struct KeyChain {
    first: VerifyingKey,
    links: Vec<Link>,
    /// By generation: up to which size.
    revoked: BTreeMap<u64, u64>,
    statements: usize,
    last: Option<String>,
}

impl KeyChain {
    /// A log that has had one key.
    #[must_use]
    pub fn new(first: VerifyingKey) -> Self {
        Self { first, links: Vec::new(), revoked: BTreeMap::new(), statements: 0, last: None }
    }

    /// The key that a first statement leads away from, which begins a chain.
    ///
    /// # Errors
    /// It is not a rotation of the first key.
    pub fn starting_at(note: &str) -> Result<Self, ChainError> {
        let parsed = Note::parse(note).map_err(|_| ChainError::Form)?;
        match Statement::from_text(parsed.text)? {
            Statement::Rotation { generation: 1, old, .. } => Ok(Self::new(old)),
            _ => Err(ChainError::Order("the first statement is not the rotation of the first key")),
        }
    }

    /// Goes on by a statement that stands in the leaf with this number; `None` when that is in another log.
    ///
    /// # Errors
    /// See [`ChainError`].
    pub fn push(&mut self, leaf: Option<u64>, note: &str) -> Result<(), ChainError> {
        // A crash between a leaf and the record of it leaves the same statement twice. It says nothing new.
        if self.last.as_deref() == Some(note) {
            return Ok(());
        }
        if self.statements >= STATEMENTS_MAX {
            return Err(ChainError::Order("there are too many"));
        }
        let parsed = Note::parse(note).map_err(|_| ChainError::Form)?;
        let statement = Statement::from_text(parsed.text)?;
        if statement.origin() != self.first.origin() {
            return Err(ChainError::Origin(statement.origin().chars().take(255).collect()));
        }
        let by = |who, key: &VerifyingKey| {
            key.signed_statement(&parsed).map_err(|source| ChainError::Signature { who, source })
        };
        match statement {
            Statement::Rotation { generation, old, new, size, .. } => {
                if generation != self.generation() + 1 || old != *self.present() {
                    return Err(ChainError::Order("it does not replace the present key"));
                }
                if self.keys().any(|(_, key)| key.ed25519_only() == new.ed25519_only()) {
                    return Err(ChainError::Order("the new key is an old one"));
                }
                let before = self.links.last().map_or((0, None), |link| (link.alone, link.leaf));
                if size < before.0 || leaf < before.1 || leaf.is_some_and(|leaf| leaf < size) {
                    return Err(ChainError::Order("its size or its place is not possible"));
                }
                by("the old key", &old)?;
                by("the new key", &new)?;
                self.links.push(Link { alone: size, leaf, key: new });
            }
            Statement::Revocation { generation, key, size, .. } => {
                if generation >= self.generation() || self.key(generation) != Some(&key) {
                    return Err(ChainError::Order("it revokes a key that is not a past one"));
                }
                if self.counts_up_to(generation).is_some_and(|most| size > most) {
                    return Err(ChainError::Order("it makes the key count for more than before"));
                }
                by("the present key", self.present())?;
                self.revoked.insert(generation, size);
            }
        }
        self.statements += 1;
        self.last = Some(note.to_owned());
        Ok(())
    }

    /// The number of the present key.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.links.len() as u64
    }

    /// The present key.
    #[must_use]
    pub fn present(&self) -> &VerifyingKey {
        self.links.last().map_or(&self.first, |link| &link.key)
    }

    /// The key of a generation.
    #[must_use]
    pub fn key(&self, generation: u64) -> Option<&VerifyingKey> {
        let at = usize::try_from(generation).ok()?;
        if at == 0 { Some(&self.first) } else { self.links.get(at - 1).map(|link| &link.key) }
    }

    /// All keys with their generations, the present one first.
    pub fn keys(&self) -> impl Iterator<Item = (u64, &VerifyingKey)> {
        (0..=self.generation()).rev().filter_map(|generation| Some((generation, self.key(generation)?)))
    }

    /// Which of the log's keys this is.
    #[must_use]
    pub fn generation_of(&self, known: &VerifyingKey) -> Option<u64> {
        self.keys().find(|(_, key)| key.includes(known)).map(|(generation, _)| generation)
    }

    /// Up to which size the signature of a past key alone is enough; `None` for the present one.
    #[must_use]
    pub fn counts_up_to(&self, generation: u64) -> Option<u64> {
        let next = self.links.get(usize::try_from(generation).ok()?)?;
        Some(self.revoked.get(&generation).copied().unwrap_or(next.alone))
    }

    /// Whether a past key was revoked.
    #[must_use]
    pub fn is_revoked(&self, generation: u64) -> bool {
        self.revoked.contains_key(&generation)
    }

    /// Opens a checkpoint: signed by the present key, or by a past one when it is from its time.
    ///
    /// # Errors
    /// See [`NoteError`].
    pub fn open(&self, note: &str) -> Result<Checkpoint, NoteError> {
        self.open_by(note, Checkpoint::open)
    }

    /// The same for one that was kept, which may be older than the second kind of key.
    ///
    /// # Errors
    /// See [`NoteError`].
    pub fn open_kept(&self, note: &str) -> Result<Checkpoint, NoteError> {
        self.open_by(note, Checkpoint::open_older)
    }

    fn open_by(
        &self,
        note: &str,
        open: impl Fn(&str, &VerifyingKey) -> Result<Checkpoint, NoteError>,
    ) -> Result<Checkpoint, NoteError> {
        let mut wrong = None;
        for (generation, key) in self.keys() {
            match open(note, key) {
                Ok(checkpoint) => match self.counts_up_to(generation) {
                    Some(most) if checkpoint.size > most => {
                        return Err(NoteError::Past { origin: checkpoint.origin, size: checkpoint.size, most });
                    }
                    _ => return Ok(checkpoint),
                },
                // Not signed by this one: perhaps by the one before. What is signed wrongly is wrong.
                Err(error @ NoteError::Unsigned(_)) => drop(wrong.get_or_insert(error)),
                Err(error) => return Err(error),
            }
        }
        Err(wrong.unwrap_or_else(|| NoteError::Unsigned(self.first.origin().to_owned())))
    }

    /// Whether a note has a signature in the log's name that is of none of its keys: somebody knows a later key.
    #[must_use]
    pub fn is_behind(&self, note: &str) -> bool {
        let Ok(note) = Note::parse(note) else { return false };
        let own = note.signatures.iter().filter(|line| line.name == self.first.origin());
        own.into_iter().any(|line| self.keys().all(|(_, key)| !key.wrote(line)))
    }
}

/// The log and the statement in a leaf about keys; `None` for every other leaf.
#[must_use]
pub fn statement_of(leaf: &[u8]) -> Option<(String, String)> {
    let leaf: serde_json::Value = serde_json::from_slice(leaf).ok()?;
    let body = leaf.get("body")?;
    let text = |name: &str| body.get(name).and_then(|found| found.as_str());
    // A leaf of this type without a statement is one that no chain can name.
    let statement = || text("statement").unwrap_or_default().to_owned();
    matches!(text("type"), Some(ROTATED | REVOKED)).then(|| Some((text("log")?.to_owned(), statement())))?
}

/// The statement about this log in a leaf; `None` for every other leaf.
#[must_use]
pub fn statement_in(leaf: &[u8], origin: &str) -> Option<String> {
    statement_of(leaf).filter(|(log, _)| log == origin).map(|(_, statement)| statement)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: &str = "cogward.dev/ledger/x/acme";

    fn key_of(origin: &str, n: u8) -> SigningKey {
        SigningKey::from_seed(origin, &[n; 32]).unwrap().with_ml_dsa(&[n + 100; 32]).unwrap()
    }

    fn key(n: u8) -> SigningKey {
        key_of(ORIGIN, n)
    }

    fn rotation(generation: u64, old: &SigningKey, new: &SigningKey) -> Statement {
        Statement::Rotation {
            generation,
            old: old.verifying().clone(),
            new: new.verifying().clone(),
            size: generation * 10,
            time: "2026-11-23T10:11:12.123456Z".to_owned(),
        }
    }

    fn rotated(generation: u64, old: &SigningKey, new: &SigningKey) -> String {
        rotation(generation, old, new).signed(&[old, new]).unwrap()
    }

    fn revoked(generation: u64, of: &SigningKey, size: u64, by: &SigningKey) -> String {
        let statement = Statement::Revocation {
            generation,
            key: of.verifying().clone(),
            size,
            why: Why::Compromised,
            time: "2026-11-23T10:11:12.123456Z".to_owned(),
        };
        statement.signed(&[by]).unwrap()
    }

    /// Three generations; the statements stand in the leaves 11 and 22.
    fn chain() -> KeyChain {
        let first = rotated(1, &key(1), &key(2));
        let mut chain = KeyChain::starting_at(&first).unwrap();
        chain.push(Some(11), &first).unwrap();
        chain.push(Some(22), &rotated(2, &key(2), &key(3))).unwrap();
        chain
    }

    #[test]
    fn from_any_key_a_reader_gets_to_the_present_one() {
        let mut chain = chain();
        assert_eq!((chain.generation(), chain.present()), (2, key(3).verifying()));
        for (n, generation) in [(1, 0), (2, 1), (3, 2)] {
            assert_eq!(chain.generation_of(&key(n).verifying().ed25519_only()), Some(generation));
        }
        assert_eq!(chain.generation_of(key(4).verifying()), None);
        assert_eq!(chain.generation_of(key_of("else", 1).verifying()), None);
        assert_eq!([0, 1, 2].map(|n| chain.counts_up_to(n)), [Some(10), Some(20), None]);
        // The same twice, as a crash leaves it, is nothing new; a third time elsewhere is.
        let again = rotated(3, &key(3), &key(4));
        chain.push(Some(30), &again).unwrap();
        chain.push(Some(31), &again).unwrap();
        assert_eq!(chain.counts_up_to(2), Some(30));
        assert_eq!(chain.keys().count(), 4);
        chain.push(Some(40), &rotated(4, &key(4), &key(5))).unwrap();
        assert!(chain.push(Some(41), &again).is_err());
    }

    #[test]
    fn a_statement_needs_both_kinds_of_both_keys() {
        let (old, new) = (key(3), key(4));
        let good = rotated(3, &old, &new);
        assert_eq!(chain().push(Some(30), &good), Ok(()));
        let at = good.find("\n\n").unwrap() + 2;
        let lines: Vec<&str> = good[at..].lines().collect();
        assert_eq!(lines.len(), 4);
        for without in 0..lines.len() {
            let kept = lines.iter().enumerate().filter(|(n, _)| *n != without).map(|(_, line)| format!("{line}\n"));
            let note = good[..at].to_owned() + &kept.collect::<String>();
            let refused = chain().push(Some(30), &note);
            assert!(matches!(refused, Err(ChainError::Signature { source: NoteError::Unsigned(_), .. })), "{without}");
        }
        let statement = rotation(3, &old, &new);
        // A thief of the old key alone, and one who has the new name alone.
        for by in [vec![&old], vec![&new], vec![&old, &old], vec![]] {
            assert!(chain().push(Some(30), &statement.signed(&by).unwrap()).is_err());
        }
        // A signature of another statement, under this one.
        let other = rotated(3, &old, &key(5));
        let mixed = good[..at].to_owned() + &other[other.find("\n\n").unwrap() + 2..];
        assert!(matches!(
            chain().push(Some(30), &mixed),
            Err(ChainError::Signature { source: NoteError::Signature, .. })
        ));
    }

    #[test]
    fn statements_do_not_fit_elsewhere() {
        let (old, new) = (key(3), key(4));
        for generation in [0, 1, 2, 4, 1 << 50] {
            let moved = rotation(generation, &old, &new).signed(&[&old, &new]).unwrap();
            assert!(
                matches!(chain().push(Some(30), &moved), Err(ChainError::Order(_) | ChainError::Form)),
                "{generation}"
            );
        }
        // The same seeds under another name are keys of another log.
        let elsewhere = rotated(3, &key_of("cogward.dev/ledger/x/rival", 3), &key_of("cogward.dev/ledger/x/rival", 4));
        assert!(matches!(chain().push(Some(30), &elsewhere), Err(ChainError::Origin(_))));
        // A fork: the key before has signed two successors.
        assert!(matches!(chain().push(Some(30), &rotated(3, &key(2), &new)), Err(ChainError::Order(_))));
        assert!(matches!(chain().push(Some(30), &rotated(3, &old, &key(1))), Err(ChainError::Order(_))));
        // A leaf before those before, and one before the size that it speaks of.
        for leaf in [0, 21, 29] {
            assert!(matches!(chain().push(Some(leaf), &rotated(3, &old, &new)), Err(ChainError::Order(_))), "{leaf}");
        }
        assert!(KeyChain::starting_at(&rotated(2, &key(1), &key(2))).is_err());
        assert!(KeyChain::starting_at(&revoked(0, &key(1), 1, &key(2))).is_err());
    }

    #[test]
    fn what_a_past_key_signed_counts_from_its_time_only() {
        let mut chain = chain();
        let at = |n: u8, size| key(n).checkpoint(size, &[7; 32]);
        assert_eq!(chain.open_kept(&at(1, 10)).unwrap().size, 10);
        assert_eq!(chain.open_kept(&at(3, 4_000)).unwrap().size, 4_000);
        assert!(matches!(chain.open_kept(&at(1, 11)), Err(NoteError::Past { most: 10, .. })));
        assert!(matches!(chain.open_kept(&at(2, 21)), Err(NoteError::Past { most: 20, .. })));
        assert!(matches!(chain.open_kept(&at(4, 5)), Err(NoteError::Unsigned(_))));
        let both = key(3).along_with(Some(key(2))).checkpoint(4_000, &[7; 32]);
        assert_eq!(chain.open_kept(&both).unwrap().size, 4_000);
        for reader in [key(2), key(3)] {
            assert_eq!(Checkpoint::open(&both, reader.verifying()).unwrap().size, 4_000);
        }
        // Revoked by who has the present key, never by the thief, never for more than before.
        for wrong in [
            revoked(1, &key(2), 15, &key(2)),
            revoked(1, &key(2), 21, &key(3)),
            revoked(1, &key(1), 15, &key(3)),
            revoked(2, &key(3), 15, &key(3)),
            revoked(9, &key(9), 15, &key(3)),
        ] {
            assert!(chain.push(Some(40), &wrong).is_err());
        }
        chain.push(Some(40), &revoked(1, &key(2), 15, &key(3))).unwrap();
        assert!(chain.is_revoked(1) && !chain.is_revoked(0));
        assert!(matches!(chain.open_kept(&at(2, 16)), Err(NoteError::Past { most: 15, .. })));
        assert_eq!(chain.open_kept(&at(2, 15)).unwrap().size, 15);
        assert!(chain.push(Some(41), &revoked(1, &key(2), 16, &key(3))).is_err());
    }

    #[test]
    fn one_text_for_each_statement() {
        let text = rotation(3, &key(3), &key(4)).text();
        assert_eq!(Statement::from_text(&text).unwrap().text(), text);
        for (from, to) in
            [("generation 3", "generation 03"), ("size 30", "size +30"), ("time ", "time  x\ntime "), ("log ", "log  ")]
        {
            assert_eq!(Statement::from_text(&text.replacen(from, to, 1)), Err(ChainError::Form), "{from}");
        }
        for cut in 0..text.len() {
            assert_eq!(Statement::from_text(&text[..cut]), Err(ChainError::Form));
        }
        // Nothing that could be a checkpoint, and no checkpoint is a statement.
        assert!(Checkpoint::from_text(&text).is_err());
        assert!(Statement::from_text(&format!("{ORIGIN}\n5\nAAAA\n")).is_err());
    }
}
