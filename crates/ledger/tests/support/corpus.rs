//! The corpus: good and damaged logs, always the same bytes, each with the verdict that it must have.
//!
//! `cargo run -p cogward-ledger --example corpus DIR` writes it for whoever brings a verifier of their own.

#[path = "anchored.rs"]
mod anchored;
#[path = "archives.rs"]
pub mod archives;
#[path = "readers.rs"]
mod readers;
#[path = "rotated.rs"]
mod rotated;
#[path = "stamped.rs"]
mod stamped;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use cogward_ledger::{
    Hash,
    leaf::{Place, encode, leaf_hash, mint_id},
    note::SigningKey,
    tiles::{EntryBundles, HashTiles, TileSink},
    tree::Frontier,
};
use cogward_model::{
    Clock, Entropy, Id, RunId, Timestamp,
    event::{Attribution, Event, EventType},
};

/// The log that all cases are of.
pub const ORIGIN: &str = "cogward.dev/ledger/corpus/acme";

/// The files of a pack.
pub type Pack = BTreeMap<String, Vec<u8>>;

/// One log and what every verifier must say of it.
pub struct Case {
    pub name: String,
    pub files: BTreeMap<String, Vec<u8>>,
    /// The key that the reader brings along.
    pub key: Option<String>,
    /// The older checkpoint that the reader kept.
    pub against: Option<String>,
    /// `ok` and the number of leaves, or the word for what is wrong and the leaf.
    pub verdict: (&'static str, Option<u64>),
    /// What tooling for any log has to say of the log in the pack, where that does not follow from the verdict: it knows
    /// nothing of statements about keys, of the plane log and of time stamps.
    pub public: Option<bool>,
}

/// Time and randomness that are always the same.
struct Fixed(AtomicU64);

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_micros(1_795_000_000_000_000 + self.0.fetch_add(1_000, Ordering::Relaxed))
    }
}

impl Entropy for Fixed {
    fn fill(&self, buffer: &mut [u8]) {
        for byte in buffer {
            // SplitMix64: any sequence would do, as long as it is this one.
            let mut z = self.0.fetch_add(0x9e37_79b9, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            *byte = (z ^ (z >> 27)).to_le_bytes()[3];
        }
    }
}

pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(ORIGIN, &[seed; 32]).unwrap()
}

/// Leaves of two runs and of none in turn; the last one of the first run closes it.
pub fn leaves(count: u64) -> Vec<Vec<u8>> {
    leaves_about(count, &BTreeMap::new())
}

/// The same, with statements about the log's keys in some of the leaves.
pub fn leaves_about(count: u64, statements: &BTreeMap<u64, Event>) -> Vec<Vec<u8>> {
    leaves_of("acme", count, statements)
}

/// The same of a tenant.
pub fn leaves_of(tenant: &str, count: u64, statements: &BTreeMap<u64, Event>) -> Vec<Vec<u8>> {
    let (clock, entropy) = (Fixed(AtomicU64::new(0)), Fixed(AtomicU64::new(7)));
    let runs: [RunId; 2] = [Id::new(&clock, &entropy), Id::new(&clock, &entropy)];
    let mut ends: [(u64, Option<Hash>); 3] = Default::default();
    let mut prev = None;
    (0..count)
        .map(|seq| {
            let about = statements.get(&seq).cloned();
            let which = if about.is_some() { 2 } else { usize::try_from(seq % 3).unwrap() };
            let last = which == 0 && seq + 3 >= count;
            let kind = if last { EventType::RunClosed } else { EventType::ToolCallDecided };
            let by = Attribution {
                agent: Some(("claims".parse().unwrap(), "1.0.0".parse().unwrap())),
                subject: Some("anna@example.org".into()),
            };
            let event =
                Event::new(kind, tenant.parse().unwrap(), by).public("decision", "permit").personal("args", seq);
            let event = match (about, runs.get(which)) {
                (Some(about), _) => about,
                (None, Some(run)) => event.run(*run),
                (None, None) => event,
            };
            let body = encode(&event, &mint_id(&clock, &entropy), &entropy).unwrap();
            let (run_seq, run_prev) = ends[which];
            let time = &Timestamp::from_unix_micros(1_795_000_000_000_000 + seq / 2).to_string();
            let mut leaf = Vec::new();
            body.assemble(&Place { seq, prev, time, run_seq: run_seq + 1, run_prev }, &mut leaf);
            prev = Some(leaf_hash(&leaf));
            ends[which] = (run_seq + 1, prev);
            leaf
        })
        .collect()
}

struct Files(BTreeMap<String, Vec<u8>>);

impl TileSink for Files {
    type Error = Infallible;
    fn tile(&mut self, path: &str, bytes: &[u8]) -> Result<(), Infallible> {
        self.0.insert(path.to_owned(), bytes.to_vec());
        Ok(())
    }
}

fn root(leaves: &[Vec<u8>]) -> Hash {
    let mut tree = Frontier::default();
    leaves.iter().for_each(|leaf| tree.push(leaf_hash(leaf)));
    tree.root()
}

/// The checkpoint that the log's own key signs over these leaves.
pub fn checkpoint(leaves: &[Vec<u8>]) -> String {
    key(3).checkpoint(leaves.len() as u64, &root(leaves))
}

/// All files of a log, signed by that key.
pub fn signed(leaves: &[Vec<u8>], key: &SigningKey) -> BTreeMap<String, Vec<u8>> {
    let (mut files, mut tiles, mut bundles) = (Files(BTreeMap::new()), HashTiles::default(), EntryBundles::default());
    for leaf in leaves {
        let Ok(()) = tiles.push(leaf_hash(leaf), &mut files);
        let Ok(()) = bundles.push(leaf, &mut files);
    }
    let Ok(()) = tiles.finish(&mut files);
    let Ok(()) = bundles.finish(&mut files);
    let note = key.checkpoint(leaves.len() as u64, &root(leaves));
    files.0.insert("checkpoint".to_owned(), note.into_bytes());
    files.0.insert("log.vkey".to_owned(), format!("{}\n", key.verifying()).into_bytes());
    files.0
}

/// Writes a log's files below a directory.
pub fn write(files: &BTreeMap<String, Vec<u8>>, dir: &Path) {
    for (path, bytes) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn edited(leaves: &[Vec<u8>], at: usize, from: &str, to: &str) -> Vec<Vec<u8>> {
    let mut all = leaves.to_vec();
    let text = String::from_utf8(all[at].clone()).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    all[at] = text.replacen(from, to, 1).into_bytes();
    all
}

/// Every case but the flips of single bytes, which a test makes from [`small`].
pub fn cases() -> Vec<Case> {
    [of_logs(), of_rotated_logs(), of_anchored_logs(), of_stamped_logs()].into_iter().flatten().collect()
}

/// Those about the log itself.
pub fn of_logs() -> Vec<Case> {
    let mut all = Vec::new();
    good(&mut all);
    files_damaged(&mut all);
    signed_anew(&mut all);
    notes(&mut all);
    kept(&mut all);
    readers::cases(&mut all);
    all
}

/// Those about keys that were replaced.
pub fn of_rotated_logs() -> Vec<Case> {
    let mut all = Vec::new();
    rotated::cases(&mut all);
    all
}

/// Those about the place in the plane log.
pub fn of_anchored_logs() -> Vec<Case> {
    let mut all = Vec::new();
    anchored::cases(&mut all);
    all
}

/// Those about time stamps.
pub fn of_stamped_logs() -> Vec<Case> {
    let mut all = Vec::new();
    stamped::cases(&mut all);
    all
}

/// A log whose bytes are flipped one by one.
pub fn small() -> BTreeMap<String, Vec<u8>> {
    signed(&leaves(4), &key(3))
}

/// A log with keys of one kind, of which one was replaced and revoked, in a pack that is anchored and stamped.
pub fn small_stamped() -> BTreeMap<String, Vec<u8>> {
    stamped::small()
}

/// A small log with keys of one kind, its leaves, and its first and its present key.
pub fn rotated_of_one_kind() -> (Pack, Vec<Vec<u8>>, [SigningKey; 2]) {
    let (files, leaves) = rotated::small();
    (files, leaves, [key(31), key(32)])
}

/// A log with keys of both kinds, of which one was replaced.
pub fn small_both() -> BTreeMap<String, Vec<u8>> {
    rotated::small_both()
}

fn push(
    all: &mut Vec<Case>,
    name: impl Into<String>,
    files: BTreeMap<String, Vec<u8>>,
    verdict: (&'static str, Option<u64>),
) {
    all.push(Case { name: name.into(), files, key: None, against: None, verdict, public: None });
}

fn good(all: &mut Vec<Case>) {
    for size in [0, 1, 2, 3, 4, 255, 256, 257, 511, 512, 513, 700] {
        push(all, format!("good-{size}"), signed(&leaves(size), &key(3)), ("ok", Some(size)));
    }
    let mut files = signed(&leaves(3), &key(3));
    files.get_mut("checkpoint").unwrap().extend_from_slice("\u{2014} witness.example/w1 AAAAAAAA\n".as_bytes());
    push(all, "good-with-the-line-of-an-unknown-witness", files, ("ok", Some(3)));
}

/// Somebody without the key changes files.
fn files_damaged(all: &mut Vec<Case>) {
    let whole = signed(&leaves(600), &key(3));
    for (path, bytes) in &whole {
        let word = path.replace('/', "-");
        // A log that lost its key, its checkpoint, a bundle or a tile.
        let mut files = whole.clone();
        files.remove(path);
        push(all, format!("missing-{word}"), files, ("missing", None));
        let kind = match path.as_str() {
            "log.vkey" => "key",
            "checkpoint" => "signature",
            path if path.starts_with("tile/entries") => "bytes",
            _ => "tile",
        };
        let bundle = path.strip_prefix("tile/entries/").map(|n| n.get(..3).unwrap().parse::<u64>().unwrap());
        let ends = |bundle: u64| if bundle == 2 { 599 } else { bundle * 256 + 255 };
        let mut files = whole.clone();
        files.insert(path.clone(), Vec::new());
        push(all, format!("empty-{word}"), files, (kind, bundle.map(|bundle| bundle * 256)));
        let mut files = whole.clone();
        files.insert(path.clone(), bytes[..bytes.len() - 1].to_vec());
        push(all, format!("cut-{word}"), files, (kind, bundle.map(ends)));
        let mut files = whole.clone();
        files.get_mut(path).unwrap().push(b'\n');
        // A hash tile may not be longer than a full one: that is said before its hashes are counted.
        let full_tile = kind == "tile" && bytes.len() == 256 * 32;
        push(all, format!("longer-{word}"), files, (if full_tile { "form" } else { kind }, None));
    }
    // Leaves and their hashes change together; the tiles above and the signature do not.
    let other = edited(&leaves(600), 599, "permit", "forbid");
    let theirs = signed(&other, &key(3));
    let mut files = whole.clone();
    for path in ["tile/entries/002.p/88", "tile/0/002.p/88"] {
        files.insert(path.to_owned(), theirs[path].clone());
    }
    push(all, "last-leaf-and-its-hash-replaced", files, ("root", None));
    let mut files = whole.clone();
    files.get_mut("tile/1/000.p/2").unwrap()[40] ^= 1;
    push(all, "tile-above-changed", files, ("tile", None));
    let mut files = whole.clone();
    files.get_mut("tile/0/001").unwrap()[32 * 17] ^= 1;
    push(all, "hash-of-a-leaf-changed", files, ("bytes", Some(256 + 17)));
    let mut files = whole.clone();
    files.insert("checkpoint".to_owned(), checkpoint(&other).into_bytes());
    push(all, "checkpoint-of-another-history", files, ("root", None));
    let longer = leaves(601);
    let mut files = whole.clone();
    files.insert("checkpoint".to_owned(), checkpoint(&longer).into_bytes());
    push(all, "tail-cut-under-its-checkpoint", files, ("missing", None));
    let mut files = whole;
    files.insert("checkpoint".to_owned(), checkpoint(&leaves(599)).into_bytes());
    push(all, "checkpoint-of-fewer-leaves-than-the-bundle", files, ("missing", None));
}

/// The holder of the key changes leaves and makes everything else fit.
fn signed_anew(all: &mut Vec<Case>) {
    let base = leaves(300);
    let mut add =
        |name: &str, leaves: &[Vec<u8>], what, leaf| push(all, name, signed(leaves, &key(3)), (what, Some(leaf)));
    let with = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut leaves = base.clone();
        change(&mut leaves);
        leaves
    };
    add("first-removed", &with(&|l| drop(l.remove(0))), "seq", 0);
    add("one-removed", &with(&|l| drop(l.remove(7))), "seq", 7);
    add("one-removed-at-a-seam", &with(&|l| drop(l.remove(256))), "seq", 256);
    add("two-swapped", &with(&|l| l.swap(4, 5)), "seq", 4);
    add("two-swapped-over-a-seam", &with(&|l| l.swap(255, 256)), "seq", 255);
    add("one-doubled", &with(&|l| l.insert(9, l[8].clone())), "seq", 9);
    add("one-changed", &edited(&base, 6, "permit", "forbid"), "prev", 7);
    add("one-changed-at-a-seam", &edited(&base, 255, "permit", "forbid"), "prev", 256);
    // The last leaf has no other behind it that names its hash: each rule stands by itself.
    let last = 299;
    add("back-dated", &edited(&base, last, "2026-", "2025-"), "time", 299);
    add("back-dated-by-a-microsecond", &edited(&base, last, "000149Z", "000148Z"), "time", 299);
    add("no-time", &edited(&base, last, "2026-", "2O26-"), "time", 299);
    add("another-tenant", &edited(&base, last, "\"tenant\":\"acme\"", "\"tenant\":\"evil\""), "tenant", 299);
    add("another-version", &edited(&base, last, "\"v\":1", "\"v\":2"), "form", 299);
    add("another-predecessor", &edited(&base, last, "\"prev\":\"", "\"prev\":\"A"), "prev", 299);
    add("no-predecessor", &edited(&base, last, &prev_of(&base[last]), "\"prev\":null"), "prev", 299);
    add("first-with-a-predecessor", &edited(&base[..1], 0, "\"prev\":null", "\"prev\":\"AA\""), "prev", 0);
    add("predecessor-left-out", &edited(&base[..1], 0, "\"prev\":null,", ""), "form", 0);
    add("run-number-skipped", &edited(&base, 298, "\"run_seq\":100", "\"run_seq\":101"), "run_chain", 298);
    add("run-number-repeated", &edited(&base, 298, "\"run_seq\":100", "\"run_seq\":99"), "run_chain", 298);
    add("run-number-left-out", &edited(&base, 298, ",\"run_seq\":100", ""), "run_chain", 298);
    add("run-predecessor-of-another", &edited(&base, 298, "\"run_prev\":\"", "\"run_prev\":\"A"), "run_chain", 298);
    let seam = &base[..257];
    add("run-number-skipped-at-a-seam", &edited(seam, 256, "\"run_seq\":86", "\"run_seq\":87"), "run_chain", 256);
    add(
        "run-predecessor-of-another-at-a-seam",
        &edited(seam, 256, "\"run_prev\":\"", "\"run_prev\":\"A"),
        "run_chain",
        256,
    );
    add("back-dated-at-a-seam", &edited(seam, 256, "2026-", "2025-"), "time", 256);
    // All of them agree with each other, and not with the name of the log.
    add("every-leaf-of-another-tenant", &leaves_of("evil", 300, &BTreeMap::new()), "tenant", 0);
    add("one-leaf-of-another-tenant", &leaves_of("evil", 1, &BTreeMap::new()), "tenant", 0);
    add("tenant-whose-name-the-log-ends-with", &leaves_of("me", 3, &BTreeMap::new()), "tenant", 0);
    add("another-tenant-at-a-seam", &edited(seam, 256, "\"tenant\":\"acme\"", "\"tenant\":\"evil\""), "tenant", 256);
    add("run-number-without-a-run", &edited(&base, last - 1, &run_of(&base[298]), ""), "run_chain", 298);
    add("run-begins-in-the-middle", &edited(&base[..1], 0, "\"run_seq\":1", "\"run_seq\":2"), "run_chain", 0);
    add(
        "run-begins-with-a-predecessor",
        &edited(&base[..1], 0, "\"run_prev\":null", "\"run_prev\":\"AA\""),
        "run_chain",
        0,
    );
    add("leaf-without-bytes", &with(&|l| l[299].clear()), "form", 299);
    let long = "x".repeat(65_535 - base[0].len());
    let mut full = edited(&base[..1], 0, "\"permit\"", &format!("\"permit{long}\""));
    assert_eq!(full[0].len(), 65_535);
    add("leaf-of-the-greatest-length", &full, "ok", 1);
    full[0].truncate(65_534);
    add("leaf-of-almost-the-greatest-length-cut", &full, "form", 0);
    // Two at once: the earlier one is the verdict.
    let two = edited(&edited(&base, 299, "\"v\":1", "\"v\":2"), 256, "\"tenant\":\"acme\"", "\"tenant\":\"evil\"");
    add("two-at-once", &two, "tenant", 256);
}

fn prev_of(leaf: &[u8]) -> String {
    let text = std::str::from_utf8(leaf).unwrap();
    let start = text.find("\"prev\":").unwrap();
    text[start..start + 7 + 45].to_owned()
}

fn run_of(leaf: &[u8]) -> String {
    let text = std::str::from_utf8(leaf).unwrap();
    let start = text.find("\"run\":").unwrap();
    let end = text.find("\"run_prev\"").unwrap();
    text[start..end].to_owned()
}

/// The checkpoint and the key as files.
fn notes(all: &mut Vec<Case>) {
    let leaves = leaves(3);
    let (whole, thief) = (signed(&leaves, &key(3)), key(4));
    let note = checkpoint(&leaves);
    let mut add = |name: &str, note: String, what| {
        let mut files = whole.clone();
        files.insert("checkpoint".to_owned(), note.into_bytes());
        push(all, name, files, (what, None));
    };
    let (text, signature) = note.split_once("\n\n").unwrap();
    let lines: Vec<&str> = text.split('\n').collect();
    add("unsigned", format!("{text}\n"), "signature");
    add("no-signature-lines", format!("{text}\n\n"), "signature");
    add("only-a-witness", format!("{text}\n\n\u{2014} witness.example/w1 AAAAAAAA\n"), "signature");
    add("signed-by-another-key-of-that-name", thief.checkpoint(3, &root(&leaves)), "signature");
    let other = SigningKey::from_seed("cogward.dev/ledger/corpus/evil", &[3; 32]).unwrap();
    add("of-another-log", other.checkpoint(3, &root(&leaves)), "signature");
    add("another-size-under-the-signature", note.replacen("\n3\n", "\n2\n", 1), "signature");
    for size in ["03", "+3", " 3", "3 ", "-3", "0x3", "18446744073709551616", ""] {
        add(
            &format!("size-{size:?}").replace(['"', ' '], "_"),
            note.replacen("\n3\n", &format!("\n{size}\n"), 1),
            "signature",
        );
    }
    add("root-too-short", note.replacen(lines[2], &lines[2][4..], 1), "signature");
    add("lines-end-as-on-windows", note.replace('\n', "\r\n"), "signature");
    add("no-last-line-feed", note.trim_end().to_owned(), "signature");
    add("text-behind-the-signature", format!("{note}more\n"), "signature");
    add(
        "signature-of-another-checkpoint",
        format!("{text}\n\n{}", key(3).checkpoint(2, &[0; 32]).split_once("\n\n").unwrap().1),
        "signature",
    );
    add("signature-not-base64", format!("{text}\n\n{}", signature.replace('=', "")), "signature");
    // The holder of the key signs texts that are not checkpoints of this log, or not in their one form.
    for (name, from, to) in [
        ("signed-for-another-log", "corpus/acme", "corpus/evil"),
        ("signed-size-with-a-zero-in-front", "\n3\n", "\n03\n"),
        ("signed-size-with-a-plus", "\n3\n", "\n+3\n"),
        ("signed-size-as-a-fraction", "\n3\n", "\n3.0\n"),
        ("signed-root-too-short", lines[2], &lines[2][4..]),
        ("signed-root-not-base64", lines[2], "not base64"),
        ("signed-without-a-root", &format!("\n{}", lines[2]), ""),
    ] {
        add(name, signed_text(&format!("{text}\n").replacen(from, to, 1)), "signature");
    }
    // All is signed by another key, which lies in the pack: it is whole, and it is not the operator's.
    push(all, "whole-under-another-key", signed(&leaves, &thief), ("ok", Some(3)));
    let own = key(3).verifying().to_string();
    all.push(Case {
        name: "another-key-than-the-reader-has".to_owned(),
        files: signed(&leaves, &thief),
        key: Some(own.clone()),
        against: None,
        verdict: ("signature", None),
        public: None,
    });
    let mut files = whole.clone();
    files.insert("log.vkey".to_owned(), format!("{}\n", thief.verifying()).into_bytes());
    all.push(Case {
        name: "another-key-beside-a-log-of-the-readers".to_owned(),
        files,
        key: Some(own.clone()),
        against: None,
        verdict: ("key", None),
        public: None,
    });
    all.push(Case {
        name: "the-key-that-the-reader-has".to_owned(),
        files: whole,
        key: Some(own),
        against: None,
        verdict: ("ok", Some(3)),
        public: None,
    });
}

/// A note of any text under the log's own key.
fn signed_text(text: &str) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let pair = aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap();
    let vkey = key(3).verifying().to_string();
    let hash = u32::from_str_radix(vkey.split('+').nth(1).unwrap(), 16).unwrap().to_be_bytes();
    let signature = [&hash[..], pair.sign(text.as_bytes()).as_ref()].concat();
    format!("{text}\n\u{2014} {ORIGIN} {}\n", STANDARD.encode(signature))
}

/// What a reader sees who kept a checkpoint.
fn kept(all: &mut Vec<Case>) {
    let (base, now) = (leaves(600), leaves(530));
    // The same events with one of them told otherwise, every hash and place behind it made to fit.
    let rewritten = chained_anew(&base, 5);
    let mut add = |name: &str, leaves: &[Vec<u8>], kept: Option<String>, verdict| {
        let files = signed(leaves, &key(3));
        all.push(Case { name: name.to_owned(), files, key: None, against: kept, verdict, public: None });
    };
    add("rewritten-by-the-keys-holder-alone", &rewritten, None, ("ok", Some(600)));
    for size in [0, 1, 5] {
        let name = format!("rewritten-behind-a-kept-checkpoint-of-{size}");
        add(&name, &rewritten, Some(checkpoint(&base[..size])), ("ok", Some(600)));
    }
    for size in [6, 128, 255, 256, 257, 512, 599, 600] {
        let name = format!("rewritten-before-a-kept-checkpoint-of-{size}");
        add(&name, &rewritten, Some(checkpoint(&base[..size])), ("against", None));
        add(
            &format!("grown-from-a-kept-checkpoint-of-{size}"),
            &base,
            Some(checkpoint(&base[..size])),
            ("ok", Some(600)),
        );
    }
    add("tail-cut-with-a-checkpoint-of-its-own", &base[..530], None, ("ok", Some(530)));
    add("tail-cut-before-a-kept-checkpoint", &base[..530], Some(checkpoint(&base)), ("against", None));
    add("no-leaf-left", &[], Some(checkpoint(&base[..1])), ("against", None));
    // Ends otherwise than the longer one, because its run is closed earlier.
    add("another-end", &now, Some(checkpoint(&base[..530])), ("against", None));
    add("kept-is-no-checkpoint", &base[..3], Some("nonsense\n".to_owned()), ("against", None));
    add("kept-is-of-another-key", &base[..3], Some(key(4).checkpoint(3, &root(&base[..3]))), ("against", None));
    let other = SigningKey::from_seed("cogward.dev/ledger/corpus/evil", &[3; 32]).unwrap();
    add("kept-is-of-another-log", &base[..3], Some(other.checkpoint(3, &root(&base[..3]))), ("against", None));
    add("kept-is-of-another-root", &base[..3], Some(key(3).checkpoint(3, &[7; 32])), ("against", None));
    let mut damaged = base[..3].to_vec();
    damaged[1] = b"{}".to_vec();
    add("damaged-and-contradicted", &damaged, Some(checkpoint(&base)), ("form", Some(1)));
}

/// Changes one leaf and makes every chain behind it fit.
fn chained_anew(base: &[Vec<u8>], at: usize) -> Vec<Vec<u8>> {
    let mut all = edited(base, at, "permit", "forbid");
    let mut renamed: Vec<(String, String)> = Vec::new();
    for (n, leaf) in all.iter_mut().enumerate() {
        let mut text = String::from_utf8(leaf.clone()).unwrap();
        for (from, to) in renamed.iter().rev().take(4) {
            text = text.replace(from, to);
        }
        *leaf = text.into_bytes();
        let name = |leaf: &[u8]| cogward_ledger::leaf::hash_text(&leaf_hash(leaf));
        renamed.push((name(&base[n]), name(leaf)));
    }
    all
}

fn base64(bytes: &[u8]) -> String {
    cogward_ledger::text::base64_bytes(bytes)
}

fn base64_of(text: &str) -> Vec<u8> {
    cogward_ledger::text::bytes_from_base64(text).unwrap()
}

/// A key of a kind that nobody knows yet.
fn vkey_of_kind(kind: u8) -> String {
    let public = [&[kind][..], &[5; 32]].concat();
    let digest = cogward_ledger::archive::sha256(&[ORIGIN.as_bytes(), b"\n", &public].concat());
    let id: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{ORIGIN}+{id}+{}", base64(&public))
}
