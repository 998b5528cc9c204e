//! Logs whose key was replaced: what the statements have to say, and what others try to make of them.

use std::{collections::BTreeMap, sync::LazyLock};

use cogward_ledger::{
    key_chain::{Entry, Statement, Why},
    note::SigningKey,
};
use cogward_model::event::{Attribution, Event, EventType};

use super::{Case, ORIGIN, leaves_about, root, signed};

type Files = BTreeMap<String, Vec<u8>>;

/// A key of both kinds.
pub(super) fn both(seed: u8) -> SigningKey {
    super::key(seed).with_ml_dsa(&[seed + 100; 32]).unwrap()
}

fn rotation(generation: u64, old: &SigningKey, new: &SigningKey, size: u64) -> Statement {
    let (old, new) = (old.verifying().clone(), new.verifying().clone());
    Statement::Rotation { generation, old, new, size, time: "2026-11-22T10:11:12.123456Z".to_owned() }
}

fn revocation(generation: u64, key: &SigningKey, size: u64) -> Statement {
    let (key, why) = (key.verifying().clone(), Why::Compromised);
    Statement::Revocation { generation, key, size, why, time: "2026-11-22T10:11:12.123456Z".to_owned() }
}

/// A rotation as it must be: signed by both keys.
pub(super) fn rotated(generation: u64, old: &SigningKey, new: &SigningKey, size: u64) -> String {
    rotation(generation, old, new, size).signed(&[old, new]).unwrap()
}

fn revoked(generation: u64, key: &SigningKey, size: u64, by: &SigningKey) -> String {
    revocation(generation, key, size).signed(&[by]).unwrap()
}

fn about(log: &str, statement: &str) -> Event {
    let is_rotation = statement.starts_with("cogward.dev/key-rotation@");
    let kind = if is_rotation { EventType::LedgerKeyRotated } else { EventType::LedgerKeyRevoked };
    Event::new(kind, "acme".parse().unwrap(), Attribution::plane())
        .public("log", log.to_owned())
        .public("statement", statement.to_owned())
}

/// The lines of `keys.jsonl`.
pub(super) fn told(entries: &[(u64, String)]) -> Vec<u8> {
    let line = |(leaf, statement): &(u64, String)| {
        serde_json::to_string(&Entry { leaf: *leaf, statement: statement.clone() }).unwrap() + "\n"
    };
    entries.iter().map(line).collect::<String>().into_bytes()
}

/// A log and what its pack says of its keys.
#[derive(Clone)]
struct Log {
    size: u64,
    leaves: Vec<(u64, String)>,
    told: Vec<(u64, String)>,
    /// The seed of the key that signs the checkpoint.
    by: u8,
}

impl Log {
    /// Key 31 was replaced by 32 and that by 33, which then said that 32 counts up to 6 leaves only.
    fn whole() -> Self {
        // Signatures of ML-DSA-44 are others each time: one log of them for all cases.
        static WHOLE: LazyLock<Log> = LazyLock::new(Log::made);
        WHOLE.clone()
    }

    fn made() -> Self {
        let [first, second, third] = [both(31), both(32), both(33)];
        let leaves = vec![
            (4, rotated(1, &first, &second, 4)),
            (8, rotated(2, &second, &third, 7)),
            (10, revoked(1, &second, 6, &third)),
        ];
        Self { size: 12, told: leaves.clone(), leaves, by: 33 }
    }

    /// The first key was replaced by another, by this statement, in leaf 4.
    fn once(statement: String) -> Self {
        let leaves = vec![(4, statement)];
        Self { size: 6, told: leaves.clone(), leaves, by: 32 }
    }

    fn leaves(&self) -> Vec<Vec<u8>> {
        let events = self.leaves.iter().map(|(leaf, text)| (*leaf, about(ORIGIN, text)));
        leaves_about(self.size, &events.collect())
    }

    fn files(&self) -> Files {
        self.with(&self.leaves(), &both(self.by))
    }

    fn with(&self, leaves: &[Vec<u8>], by: &SigningKey) -> Files {
        let mut files = signed(leaves, by);
        files.insert("log.vkey".to_owned(), by.verifying().lines().into_bytes());
        files.insert("keys.jsonl".to_owned(), told(&self.told));
        files
    }

    /// A third statement behind the two rotations, in the last leaf but one.
    fn then(statement: String) -> Self {
        let mut log = Self::whole();
        log.leaves[2].1 = statement;
        log.told = log.leaves.clone();
        log
    }
}

fn case(name: impl std::fmt::Display, files: Files, what: &'static str, leaf: Option<u64>) -> Case {
    let (name, verdict) = (format!("keys-{name}"), (what, leaf));
    Case { name, files, key: None, against: None, verdict, public: Some(true) }
}

/// All cases about keys that were replaced.
pub(super) fn cases(all: &mut Vec<Case>) {
    readers(all);
    files_damaged(all);
    not_as_the_leaves(all);
    not_a_chain(all);
    not_signed(all);
    thieves(all);
    how_they_are_written(all);
    many(all);
    second_kind(all);
}

/// The log of the flips: a rotation and a revocation, with keys of one kind, so that it is small. And its leaves.
pub(super) fn small() -> (Files, Vec<Vec<u8>>) {
    let [old, new] = [super::key(31), super::key(32)];
    let leaves = vec![(2, rotated(1, &old, &new, 2)), (3, revoked(0, &old, 1, &new))];
    let log = Log { size: 5, told: leaves.clone(), leaves, by: 32 };
    (log.one_kind(), log.leaves())
}

impl Log {
    fn one_kind(&self) -> Files {
        self.with(&self.leaves(), &super::key(self.by))
    }
}

/// The log of the flips with keys of both kinds.
pub(super) fn small_both() -> Files {
    Log::once(rotated(1, &both(31), &both(32), 4)).files()
}

/// Who knows which key, and who kept which checkpoint.
fn readers(all: &mut Vec<Case>) {
    let (log, leaves) = (Log::whole(), Log::whole().leaves());
    let files = log.files();
    let at = |seed: u8, size: usize| both(seed).checkpoint(size as u64, &root(&leaves[..size]));
    all.push(case("as-they-must-be", files.clone(), "ok", Some(12)));
    for (name, seed, what, leaf) in [
        ("first", 31, "ok", Some(12)),
        ("revoked-one", 32, "ok", Some(12)),
        ("present", 33, "ok", Some(12)),
        ("none-of-them", 34, "signature", None),
    ] {
        let with = |name: String, key: String| Case {
            key: Some(key),
            public: Some(true),
            ..case(name, files.clone(), what, leaf)
        };
        all.push(with(format!("known-{name}"), both(seed).verifying().lines().trim_end().to_owned()));
        all.push(with(format!("known-{name}-of-one-kind"), both(seed).verifying().to_string()));
    }
    let elsewhere = SigningKey::from_seed("cogward.dev/ledger/corpus/evil", &[31; 32]).unwrap();
    let key = Some(elsewhere.verifying().to_string());
    all.push(Case { key, ..case("known-of-another-log", files.clone(), "signature", None) });

    let older = |note: String| {
        let (text, lines) = note.split_once("\n\n").unwrap();
        (text.to_owned(), lines.lines().map(str::to_owned).collect::<Vec<_>>())
    };
    let one_kind = {
        let (text, lines) = older(at(31, 4));
        (format!("{text}\n\n{}\n", lines[0]), format!("{text}\n\n{}\n\u{2014} witness.example/w1 AAAAAAAA\n", lines[0]))
    };
    for (name, note, holds) in [
        ("of-the-first-key", at(31, 4), true),
        ("of-the-first-key-earlier", at(31, 3), true),
        ("of-the-first-key-before-anything", both(31).checkpoint(0, &root(&[])), true),
        ("of-the-first-key-when-it-was-replaced", at(31, 5), false),
        ("of-the-first-key-another-history", both(31).checkpoint(4, &[7; 32]), false),
        ("of-the-revoked-key", at(32, 6), true),
        ("of-the-revoked-key-before-its-own-time", at(32, 2), true),
        ("of-the-revoked-key-later", at(32, 7), false),
        ("of-the-present-key", at(33, 10), true),
        ("of-the-present-key-and-longer", both(33).checkpoint(13, &[7; 32]), false),
        ("of-both-at-once", both(33).along_with(Some(both(32))).checkpoint(9, &root(&leaves[..9])), true),
        ("of-a-stranger", at(34, 4), false),
        ("of-the-time-before-the-second-kind", one_kind.0, true),
        ("whose-second-kind-was-taken-off", one_kind.1, false),
    ] {
        let (what, leaf) = if holds { ("ok", Some(12)) } else { ("against", None) };
        all.push(Case { against: Some(note), ..case(format!("kept-{name}"), files.clone(), what, leaf) });
    }
    // Signed wrongly by one is not signed by none.
    let note = both(33).along_with(Some(both(32))).checkpoint(5, &root(&leaves[..5]));
    let (text, mut lines) = older(note);
    let mut forged = super::base64_of(lines[0].rsplit(' ').next().unwrap());
    *forged.last_mut().unwrap() ^= 1;
    lines[0] = format!("\u{2014} {ORIGIN} {}", super::base64(&forged));
    let note = format!("{text}\n\n{}\n", lines.join("\n"));
    all.push(Case { against: Some(note), ..case("kept-of-both-and-one-is-wrong", files.clone(), "against", None) });
    // Who gave a key that the pack leads on from is not asked for the other.
    let key = Some(both(31).verifying().to_string());
    all.push(Case { key, against: Some(at(32, 6)), ..case("known-and-kept", files.clone(), "ok", Some(12)) });

    let mut along = files.clone();
    let note = both(33).along_with(Some(both(32))).checkpoint(12, &root(&leaves));
    along.insert("checkpoint".to_owned(), note.into_bytes());
    all.push(case("the-one-before-signs-along", along, "ok", Some(12)));
}

/// Somebody without any key changes files.
fn files_damaged(all: &mut Vec<Case>) {
    let log = Log::whole();
    let whole = log.files();
    let with = |bytes: Option<Vec<u8>>| {
        let mut files = whole.clone();
        match bytes {
            Some(bytes) => drop(files.insert("keys.jsonl".to_owned(), bytes)),
            None => drop(files.remove("keys.jsonl")),
        }
        files
    };
    let text = whole["keys.jsonl"].clone();
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    // The present key alone: the leaves tell that it replaced another.
    all.push(case("file-left-out", with(None), "key", Some(4)));
    let key = Some(both(31).verifying().to_string());
    all.push(Case { key, ..case("file-left-out-for-the-reader-of-the-first", with(None), "signature", None) });
    for (name, bytes, what, leaf) in [
        ("file-empty", vec![], "key", None),
        ("file-of-one-empty-line", b"\n".to_vec(), "key", None),
        ("file-cut", text[..text.len() - 1].to_vec(), "key", None),
        ("file-longer", [&text[..], b"\n"].concat(), "key", None),
        ("file-not-text", [&text[..], b"\xff\n"].concat(), "key", None),
        ("file-with-a-mark-in-front", [b"\xef\xbb\xbf", &text[..]].concat(), "key", None),
        ("file-too-long", vec![b'\n'; 16 * 1024 * 1024 + 1], "form", None),
        ("line-1-left-out", lines[1..].concat(), "key", None),
        ("line-2-left-out", [lines[0], lines[2]].concat(), "key", None),
        // It would leave a revoked key in force: the leaves know better.
        ("line-3-left-out", lines[..2].concat(), "key", Some(10)),
        ("lines-1-and-2-exchanged", [lines[1], lines[0], lines[2]].concat(), "key", None),
        ("lines-2-and-3-exchanged", [lines[0], lines[2], lines[1]].concat(), "key", None),
        ("line-3-twice", [&text[..], lines[2]].concat(), "key", Some(10)),
        ("line-1-twice-apart", [&text[..], lines[0]].concat(), "key", None),
    ] {
        all.push(case(name, with(Some(bytes)), what, leaf));
    }
    for (name, keys) in [
        ("second-kind-of-key-taken-out", both(33).verifying().to_string() + "\n"),
        ("key-of-the-time-before", both(32).verifying().lines()),
    ] {
        let mut files = whole.clone();
        files.insert("log.vkey".to_owned(), keys.into_bytes());
        // Any tool sees that it is not the key of the checkpoint, or that the first of two is.
        let public = Some(name.starts_with("second"));
        all.push(Case { public, ..case(name, files, "key", None) });
    }
    let mut files = whole.clone();
    let note = both(32).checkpoint(12, &root(&log.leaves()));
    files.insert("checkpoint".to_owned(), note.into_bytes());
    all.push(Case { public: Some(false), ..case("signed-by-the-one-before-alone", files, "signature", None) });
}

/// Statements that are signed as they must be, and leaves that do not say the same.
fn not_as_the_leaves(all: &mut Vec<Case>) {
    let whole = Log::whole();
    let told_with = |change: &dyn Fn(&mut Log)| {
        let mut log = whole.clone();
        change(&mut log);
        log
    };
    let mut add = |name: &str, log: &Log, what, leaf| all.push(case(name, log.files(), what, leaf));
    add("told-of-a-later-leaf", &told_with(&|log| log.told[0].0 = 5), "key", Some(4));
    add("told-of-an-earlier-leaf", &told_with(&|log| log.told[0].0 = 3), "key", None);
    add("revocation-told-of-an-earlier-leaf", &told_with(&|log| log.told[2].0 = 9), "key", Some(9));
    add("revocation-told-of-no-leaf", &told_with(&|log| log.told[2].0 = 99), "key", Some(10));
    let further = revoked(0, &both(31), 3, &both(33));
    add("told-what-no-leaf-says", &told_with(&|log| log.told.push((11, further.clone()))), "key", Some(11));
    add("told-what-no-leaf-says-earlier", &told_with(&|log| log.told.insert(2, (9, further.clone()))), "key", Some(9));
    add("a-leaf-says-what-is-not-told", &told_with(&|log| log.leaves.push((11, further.clone()))), "key", Some(11));
    let fork = rotated(2, &both(32), &both(35), 7);
    add("a-leaf-says-another-key", &told_with(&|log| log.leaves[1].1.clone_from(&fork)), "key", Some(8));
    // A crash between a leaf and the record of it: the statement stands twice, and is told once or twice.
    let mut twice = Log::once(rotated(1, &both(31), &both(32), 4));
    twice.leaves.push((5, twice.leaves[0].1.clone()));
    add("a-statement-in-two-leaves", &twice, "ok", Some(6));
    let mut both_told = twice.clone();
    both_told.told = both_told.leaves.clone();
    add("a-statement-in-two-leaves-told-twice", &both_told, "ok", Some(6));
    twice.told[0].0 = 5;
    add("a-statement-in-two-leaves-told-of-the-second", &twice, "key", Some(4));
    let again = told_with(&|log| log.leaves.push((11, log.leaves[0].1.clone())));
    add("the-first-statement-again-at-the-end", &again, "key", Some(11));

    let statement = |text: &str| about(ORIGIN, text);
    let plain = |event: Event| leaves_about(6, &BTreeMap::from([(4, event)]));
    let by = &both(32);
    let alone = |leaves: Vec<Vec<u8>>| {
        let mut files = signed(&leaves, by);
        files.insert("log.vkey".to_owned(), by.verifying().lines().into_bytes());
        files
    };
    let note = rotated(1, &both(31), &both(32), 4);
    let kind = |kind| Event::new(kind, "acme".parse().unwrap(), Attribution::plane());
    let bare = kind(EventType::LedgerKeyRotated);
    for (name, event, what, leaf) in [
        // The statements about the plane log are leaves of the tenant `default`.
        ("of-another-log", about("cogward.dev/ledger/corpus", &note), "ok", 6),
        ("of-no-log", bare.clone().public("statement", note.clone()), "ok", 6),
        ("without-a-statement", bare.clone().public("log", ORIGIN.to_owned()), "key", 4),
        ("with-a-number", bare.public("log", ORIGIN.to_owned()).public("statement", 7_u64), "key", 4),
        ("with-nonsense", statement("nonsense"), "key", 4),
        ("of-another-type", kind(EventType::LedgerKeyRetired).public("log", ORIGIN.to_owned()), "ok", 6),
    ] {
        all.push(case(format!("leaf-{name}"), alone(plain(event)), what, Some(leaf)));
    }
}

/// Signed by those who say it, and it does not follow.
fn not_a_chain(all: &mut Vec<Case>) {
    let [a, b, c] = [both(31), both(32), both(33)];
    let mut add = |name: &str, log: &Log, what, leaf| all.push(case(name, log.files(), what, leaf));
    for (name, statement) in [
        ("number-0", rotated(0, &a, &b, 4)),
        ("number-2-first", rotated(2, &a, &b, 4)),
        ("size-behind-its-leaf", rotated(1, &a, &b, 5)),
        ("size-much-too-large", rotated(1, &a, &b, u64::MAX)),
        ("new-is-the-old-one", rotated(1, &b, &b, 4)),
        ("first-is-a-revocation", revoked(0, &a, 4, &b)),
    ] {
        add(name, &Log::once(statement), "key", None);
    }
    for size in [0, 3, 4] {
        add(&format!("size-{size}"), &Log::once(rotated(1, &a, &b, size)), "ok", Some(6));
    }
    let second = |statement: String| {
        let mut log = Log::whole();
        log.leaves.truncate(2);
        log.leaves[1].1 = statement;
        log.told = log.leaves.clone();
        log
    };
    for (name, statement) in [
        ("number-1-twice", rotated(1, &b, &c, 7)),
        ("number-3-after-1", rotated(3, &b, &c, 7)),
        ("smaller-than-the-one-before", rotated(2, &b, &c, 3)),
        ("from-the-first-key-again", rotated(2, &a, &c, 7)),
        ("not-to-the-present-key", rotated(2, &b, &both(34), 7)),
    ] {
        add(name, &second(statement), "key", None);
    }
    let mut back = second(rotated(2, &b, &a, 7));
    back.by = 31;
    add("back-to-the-first-key", &back, "key", None);
    // The Ed25519 key of before with another ML-DSA key beside it is the key of before.
    let mixed = super::key(31).with_ml_dsa(&[200; 32]).unwrap();
    let mut log = second(rotated(2, &b, &mixed, 7));
    let leaves = log.leaves();
    add("smallest-size-of-all", &second(rotated(2, &b, &c, 4)), "ok", Some(12));
    log.by = 33;
    all.push(case("half-of-an-old-key", log.with(&leaves, &mixed), "key", None));

    let mut add = |name: &str, log: &Log, what, leaf| all.push(case(name, log.files(), what, leaf));
    for (name, statement) in [
        ("revoked-is-the-present-one", revoked(2, &c, 6, &c)),
        ("revoked-is-none", revoked(9, &both(39), 6, &c)),
        ("revoked-is-another-than-its-number", revoked(1, &a, 4, &c)),
        ("revoked-for-more-than-before", revoked(1, &b, 8, &c)),
        ("revoked-by-itself", revoked(1, &b, 6, &b)),
        ("revoked-by-the-first", revoked(1, &b, 6, &a)),
        ("revoked-by-a-stranger", revoked(1, &b, 6, &both(34))),
    ] {
        add(name, &Log::then(statement), "key", None);
    }
    add("revoked-for-as-much-as-before", &Log::then(revoked(1, &b, 7, &c)), "ok", Some(12));
    add("revoked-for-nothing", &Log::then(revoked(0, &a, 0, &c)), "ok", Some(12));
    let then = |size| {
        let mut log = Log::whole();
        log.leaves.push((11, revoked(1, &b, size, &c)));
        log.told = log.leaves.clone();
        log
    };
    add("revoked-twice-for-less", &then(5), "ok", Some(12));
    add("revoked-twice-for-more", &then(7), "key", None);
    // In turned order they are not as a log grows, whatever their sizes say.
    let [second, third] = [rotated(1, &a, &b, 4), rotated(2, &b, &c, 4)];
    let leaves = vec![(8, second), (10, third)];
    let mut log = Log { size: 12, told: leaves.clone(), leaves, by: 33 };
    log.told[1].0 = 5;
    add("a-later-one-in-an-earlier-leaf-behind-both-sizes", &log, "key", None);
    let mut turned = Log::whole();
    turned.told[1].0 = 3;
    add("a-later-one-in-an-earlier-leaf", &turned, "key", None);
}

/// A rotation needs every kind of both keys, a revocation every kind of the present one.
fn not_signed(all: &mut Vec<Case>) {
    let [a, b, c] = [both(31), both(32), both(33)];
    let good = rotated(1, &a, &b, 4);
    let (text, lines) = good.split_once("\n\n").unwrap();
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 4);
    let note =
        |lines: &[&str]| format!("{text}\n\n{}", lines.iter().map(|line| format!("{line}\n")).collect::<String>());
    let mut add = |name: &str, log: &Log, what, leaf| all.push(case(name, log.files(), what, leaf));
    for (without, name) in ["old-ed25519", "old-ml-dsa", "new-ed25519", "new-ml-dsa"].into_iter().enumerate() {
        let mut kept = lines.clone();
        let taken = kept.remove(without);
        add(&format!("not-signed-by-{name}"), &Log::once(note(&kept)), "key", None);
        let mut forged = super::base64_of(taken.rsplit(' ').next().unwrap());
        *forged.last_mut().unwrap() ^= 1;
        let line = format!("\u{2014} {ORIGIN} {}", super::base64(&forged));
        let mut wrong = lines.clone();
        wrong[without] = &line;
        add(&format!("signed-wrongly-by-{name}"), &Log::once(note(&wrong)), "key", None);
        let short = format!("\u{2014} {ORIGIN} {}", super::base64(&forged[..forged.len() - 3]));
        wrong[without] = &short;
        add(&format!("signed-too-shortly-by-{name}"), &Log::once(note(&wrong)), "key", None);
    }
    add("not-signed", &Log::once(format!("{text}\n\n")), "key", None);
    add("no-place-for-signatures", &Log::once(format!("{text}\n")), "key", None);
    let mut turned = lines.clone();
    turned.reverse();
    add("signed-in-another-order", &Log::once(note(&turned)), "ok", Some(6));
    let witness = "\u{2014} witness.example/w1 AAAAAAAA";
    add("signed-by-a-witness-as-well", &Log::once(note(&[&lines[..], &[witness]].concat())), "ok", Some(6));
    add("signed-by-60-witnesses-as-well", &Log::once(note(&[&lines[..], &[witness; 60]].concat())), "ok", Some(6));
    add("signed-by-61-witnesses-as-well", &Log::once(note(&[&lines[..], &[witness; 61]].concat())), "key", None);
    // The signatures of one statement under another.
    let (_, others) = rotated(1, &a, &c, 4).split_once("\n\n").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    add("signatures-of-another-statement", &Log::once(format!("{text}\n\n{others}")), "key", None);
    for (name, by) in [("old-one-alone", vec![&a]), ("new-one-alone", vec![&b]), ("old-one-twice", vec![&a, &a])] {
        let statement = rotation(1, &a, &b, 4).signed(&by).unwrap();
        add(&format!("signed-by-the-{name}"), &Log::once(statement), "key", None);
    }
    let good = revoked(1, &b, 6, &c);
    let (text, lines) = good.split_once("\n\n").unwrap();
    for (n, line) in lines.lines().enumerate() {
        add(&format!("revoked-with-signature-{n}-alone"), &Log::then(format!("{text}\n\n{line}\n")), "key", None);
    }
}

/// What somebody can do who stole a key, and to whom.
fn thieves(all: &mut Vec<Case>) {
    let whole = Log::whole();
    let kept = |seed: u8, size: usize| both(seed).checkpoint(size as u64, &root(&whole.leaves()[..size]));
    let lines = |seed: u8| Some(both(seed).verifying().lines().trim_end().to_owned());
    // The first key goes on alone, as if it had never been replaced.
    let alone = Log { size: 14, leaves: vec![], told: vec![], by: 31 };
    let mut files = alone.files();
    files.remove("keys.jsonl");
    let add = |name: &str, key, against, what, leaf| Case { key, against, ..case(name, files.clone(), what, leaf) };
    // Who knows nothing newer cannot tell: that is why the present key, or a checkpoint, has to be kept.
    all.push(add("past-key-goes-on-for-who-knows-no-other", lines(31), None, "ok", Some(14)));
    all.push(add("past-key-goes-on-for-who-knows-the-present", lines(33), None, "signature", None));
    all.push(add("past-key-goes-on-for-who-kept-a-checkpoint", lines(31), Some(kept(33, 12)), "against", None));
    // The first key leads to a key of the thief's, on another way.
    let leaves = vec![(4, rotated(1, &both(31), &both(41), 4))];
    let fork = Log { size: 14, told: leaves.clone(), leaves, by: 41 };
    let files = fork.files();
    let add = |name: &str, key, against, what, leaf| Case { key, against, ..case(name, files.clone(), what, leaf) };
    all.push(add("past-key-leads-elsewhere-who-knows-no-other", lines(31), None, "ok", Some(14)));
    all.push(add("past-key-leads-elsewhere-who-knows-the-present", lines(33), None, "signature", None));
    all.push(add("past-key-leads-elsewhere-who-kept-one-of-it", lines(31), Some(kept(31, 4)), "ok", Some(14)));
    all.push(add("past-key-leads-elsewhere-who-kept-one-of-the-next", lines(31), Some(kept(32, 5)), "against", None));
    // Under the pack of the log that was led on.
    let mut files = whole.files();
    files.insert("checkpoint".to_owned(), both(31).checkpoint(12, &root(&whole.leaves())).into_bytes());
    all.push(Case { public: Some(false), ..case("past-key-signs-the-checkpoint", files, "signature", None) });
    let mut longer = whole.clone();
    longer.leaves.push((11, rotated(3, &both(32), &both(41), 11)));
    longer.told = longer.leaves.clone();
    longer.by = 41;
    all.push(case("past-key-replaces-the-present-one", longer.files(), "key", None));
}

/// Each statement, and each line of the file, has one writing.
fn how_they_are_written(all: &mut Vec<Case>) {
    let [a, b] = [both(31), both(32)];
    let good = rotation(1, &a, &b, 4).text();
    let mut add = |name: &str, log: &Log, what, leaf| all.push(case(name, log.files(), what, leaf));
    let unknown = super::vkey_of_kind(9);
    for (name, from, to) in [
        ("form-of-version-2", "rotation@v1", "rotation@v2"),
        ("number-with-a-zero", "generation 1", "generation 01"),
        ("number-with-a-sign", "generation 1", "generation +1"),
        ("number-of-other-digits", "generation 1", "generation \u{661}"),
        ("number-of-65-bits", "generation 1", "generation 18446744073709551617"),
        ("size-with-a-zero", "size 4", "size 04"),
        ("size-of-65-bits", "size 4", "size 18446744073709551616"),
        ("size-left-out", "size 4\n", ""),
        ("time-left-out", "time 2026-11-22T10:11:12.123456Z\n", ""),
        ("time-twice", "size 4\n", "size 4\ntime 2026-11-22T10:11:12.123456Z\n"),
        ("log-of-another-name", "log cogward.dev/ledger/corpus/acme\n", "log cogward.dev/ledger/corpus/evil\n"),
        ("line-end-of-another-kind", "size 4\n", "size 4\r\n"),
        ("line-more", "size 4\n", "more\nsize 4\n"),
        ("space-more", "size 4", "size  4"),
        ("key-of-an-unknown-kind", "size 4\n", &format!("new {unknown}\nsize 4\n")),
        ("keys-exchanged", "size 4\n", "old x\nsize 4\n"),
    ] {
        assert!(good.contains(from), "{name}");
        let text = good.replacen(from, to, 1);
        let lines: String = [&a, &b].iter().map(|key| key.statement_lines(&text).unwrap()).collect();
        add(&format!("written-{name}"), &Log::once(format!("{text}\n{lines}")), "key", None);
    }
    // The time is for readers; nothing is concluded from it.
    let text = good.replacen("time 2026-11-22T10:11:12.123456Z", "time at noon", 1);
    let lines: String = [&a, &b].iter().map(|key| key.statement_lines(&text).unwrap()).collect();
    add("written-time-in-words", &Log::once(format!("{text}\n{lines}")), "ok", Some(6));
    let good = revocation(1, &b, 6).text();
    for (name, from, to) in [
        ("why-in-other-words", "why compromised", "why stolen"),
        ("why-left-out", "why compromised\n", ""),
        ("why-in-capitals", "why compromised", "why Compromised"),
    ] {
        let text = good.replacen(from, to, 1);
        let lines = both(33).statement_lines(&text).unwrap();
        add(&format!("written-{name}"), &Log::then(format!("{text}\n{lines}")), "key", None);
    }
    let [elsewhere, there] = [31, 32].map(|seed: u8| {
        let key = SigningKey::from_seed("cogward.dev/ledger/corpus/evil", &[seed; 32]).unwrap();
        key.with_ml_dsa(&[seed + 100; 32]).unwrap()
    });
    add("of-another-log", &Log::once(rotated(1, &elsewhere, &there, 4)), "key", None);
    add("to-a-key-of-another-log", &Log::once(rotated(1, &a, &there, 4)), "key", None);
    add("from-a-key-of-another-log", &Log::once(rotated(1, &elsewhere, &b, 4)), "key", None);

    let log = Log::once(rotated(1, &a, &b, 4));
    let files = log.files();
    let line = String::from_utf8(files["keys.jsonl"].clone()).unwrap();
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    for (name, from, to, holds) in [
        ("spaces", "{\"leaf\":4", " { \"leaf\" :\t4", true),
        ("escapes", "\u{2014}", "\\u2014", true),
        ("leaf-twice", "\"leaf\":4", "\"leaf\":4,\"leaf\":4", false),
        ("leaf-twice-by-an-escape", "\"leaf\":4", "\"leaf\":4,\"\\u006ceaf\":4", false),
        ("leaf-left-out", "\"leaf\":4,", "", false),
        ("leaf-with-a-fraction", "\"leaf\":4", "\"leaf\":4.0", false),
        ("leaf-with-an-exponent", "\"leaf\":4", "\"leaf\":4e0", false),
        ("leaf-negative", "\"leaf\":4", "\"leaf\":-4", false),
        ("leaf-minus-zero", "\"leaf\":4", "\"leaf\":-0", false),
        ("leaf-of-64-bits", "\"leaf\":4", "\"leaf\":18446744073709551615", false),
        ("leaf-of-65-bits", "\"leaf\":4", "\"leaf\":18446744073709551616", false),
        ("leaf-with-a-zero", "\"leaf\":4", "\"leaf\":04", false),
        ("leaf-a-text", "\"leaf\":4", "\"leaf\":\"4\"", false),
        ("leaf-true", "\"leaf\":4", "\"leaf\":true", false),
        ("leaf-nothing", "\"leaf\":4", "\"leaf\":null", false),
        ("leaf-not-a-number", "\"leaf\":4", "\"leaf\":NaN", false),
        ("more", "\"leaf\":4", "\"leaf\":4,\"more\":1", false),
        ("much-deeper", "\"leaf\":4", &format!("\"leaf\":4,\"more\":{deep}"), false),
        ("statement-left-out", "\"statement\"", "\"statements\"", false),
        ("lone-surrogate", "\u{2014}", "\\ud800", false),
        ("control-character", "\\n", "\n", false),
        ("more-behind", "}\n", "} {}\n", false),
        ("a-list", "{\"leaf\":4", "[{\"leaf\":4", false),
    ] {
        assert!(line.contains(from), "{name}");
        let mut files = files.clone();
        files.insert("keys.jsonl".to_owned(), line.replacen(from, to, 1).into_bytes());
        // Another leaf that it can read, and that does not say it.
        let leaf = (name == "leaf-of-64-bits").then_some(4);
        let (what, leaf) = if holds { ("ok", Some(6)) } else { ("key", leaf) };
        all.push(case(format!("line-{name}"), files, what, leaf));
    }
    let mut files = files.clone();
    let keys = both(32).verifying().lines() + &super::vkey_of_kind(9) + "\n";
    files.insert("log.vkey".to_owned(), keys.into_bytes());
    all.push(case("beside-a-key-of-an-unknown-kind", files, "ok", Some(6)));
}

/// As many as there may be, and one more.
fn many(all: &mut Vec<Case>) {
    let [old, new] = [super::key(31), super::key(32)];
    let first = rotated(1, &old, &new, 0);
    let mut add = |name: &str, leaves: Vec<(u64, String)>, what, leaf| {
        let log = Log { size: leaves.len() as u64, told: leaves.clone(), leaves, by: 32 };
        all.push(case(name, log.one_kind(), what, leaf));
    };
    let revocations = (1..).map(|n: u64| {
        let (key, why, time) = (old.verifying().clone(), Why::Lost, format!("{n}"));
        let statement = Statement::Revocation { generation: 0, key, size: 0, why, time };
        (n, statement.signed(&[&new]).unwrap())
    });
    let statements: Vec<_> = std::iter::once((0, first.clone())).chain(revocations.take(1_024)).collect();
    add("as-many-statements-as-there-may-be", statements[..1_024].to_vec(), "ok", Some(1_024));
    add("one-statement-too-many", statements, "key", None);
    let doubled: Vec<_> = (0..2_049).map(|n| (n, first.clone())).collect();
    add("as-many-lines-as-there-may-be", doubled[..2_048].to_vec(), "ok", Some(2_048));
    add("one-line-too-many", doubled, "key", None);
    // Leaves about keys of other logs are kept as well until all are read.
    let elsewhere = about("cogward.dev/ledger/corpus", "nothing");
    for (count, what, leaf) in [(4_096, "ok", 4_096), (4_097, "key", 4_096)] {
        let events = (0..count).map(|n| (n, elsewhere.clone())).collect();
        let files = signed(&leaves_about(count, &events), &super::key(3));
        all.push(case(format!("{count}-leaves-about-other-logs"), files, what, Some(leaf)));
    }
}

/// The checkpoint itself under keys of both kinds.
fn second_kind(all: &mut Vec<Case>) {
    let log = Log { size: 3, leaves: vec![], told: vec![], by: 31 };
    let mut whole = log.files();
    whole.remove("keys.jsonl");
    let note = String::from_utf8(whole["checkpoint"].clone()).unwrap();
    let (text, lines) = note.split_once("\n\n").unwrap();
    let lines: Vec<&str> = lines.lines().collect();
    all.push(case("both-kinds", whole.clone(), "ok", Some(3)));
    let mut signature = super::base64_of(lines[1].rsplit(' ').next().unwrap());
    let line = |bytes: &[u8]| format!("\u{2014} {ORIGIN} {}\n", super::base64(bytes));
    let timed = |first: u8| {
        let mut bytes = signature.clone();
        bytes[4] = first;
        format!("{}\n{}", lines[0], line(&bytes))
    };
    let (late, later, short) = (timed(0x80), timed(0x7f), format!("{}\n{}", lines[0], line(&signature[..11])));
    let shorter = format!("{}\n{}", lines[0], line(&signature[..signature.len() - 3]));
    let last = signature.len() - 1;
    signature[last] ^= 1;
    let wrong = format!("{}\n{}", lines[0], line(&signature));
    for (name, lines, public) in [
        ("ed25519-alone", format!("{}\n", lines[0]), true),
        ("ml-dsa-alone", format!("{}\n", lines[1]), false),
        ("ml-dsa-wrong", wrong.clone(), true),
        ("ml-dsa-of-another-time", later, true),
        ("ml-dsa-of-no-time", late, true),
        ("ml-dsa-without-a-signature", short, true),
        ("ml-dsa-too-short", shorter, true),
    ] {
        let mut files = whole.clone();
        files.insert("checkpoint".to_owned(), format!("{text}\n\n{lines}").into_bytes());
        all.push(Case { public: Some(public), ..case(format!("signed-{name}"), files, "signature", None) });
    }
    // Who knows the first kind alone: the pack has the other, which has to hold as well. What was kept need not have it.
    let known = Some(both(31).verifying().to_string());
    for (name, lines, what) in [("missing", format!("{}\n", lines[0]), "signature"), ("wrong", wrong, "signature")] {
        let mut files = whole.clone();
        files.insert("checkpoint".to_owned(), format!("{text}\n\n{lines}").into_bytes());
        all.push(Case {
            key: known.clone(),
            ..case(format!("known-of-one-kind-and-the-other-{name}"), files, what, None)
        });
    }
    let kept = Some(format!("{text}\n\n{}\n\u{2014} witness.example/w1 AAAAAAAA\n", lines[0]));
    let one = case("known-of-one-kind-and-kept-of-one-kind", whole.clone(), "ok", Some(3));
    all.push(Case { key: known, against: kept.clone(), ..one });
    let one = case("kept-of-one-kind-with-a-witness", whole.clone(), "against", None);
    all.push(Case { against: kept, ..one });
    for (name, keys, what, leaf) in [
        ("of-an-unknown-kind", super::vkey_of_kind(9), "ok", Some(3)),
        ("of-the-same-kind", both(32).verifying().to_string(), "key", None),
        ("of-another-log", super::vkey_of_kind(9).replace("/acme", "/evil"), "key", None),
        ("of-nothing", String::new(), "key", None),
        ("with-another-hash", super::vkey_of_kind(9).replace("acme+", "acme+0"), "key", None),
    ] {
        let mut files = whole.clone();
        files.insert("log.vkey".to_owned(), (both(31).verifying().lines() + &keys + "\n").into_bytes());
        let public = Some(!keys.is_empty());
        all.push(Case { public, ..case(format!("a-further-key-{name}"), files, what, leaf) });
    }
}
