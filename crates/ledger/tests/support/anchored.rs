//! Packs that show where their checkpoint is in the plane log.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use cogward_ledger::{
    leaf::leaf_hash,
    note::SigningKey,
    plane::{Anchor, PlaneLeaf, checkpoint_digest, disclosure},
    proof::Tree,
};

use super::{Case, ORIGIN, base64, key, leaves, root, rotated::rotated, rotated::told, signed};

type Files = BTreeMap<String, Vec<u8>>;

/// The plane log.
pub(super) const PLANE: &str = "cogward.dev/ledger/corpus";
/// Leaves of the tenant's log.
pub(super) const SIZE: u64 = 20;

pub(super) fn plane_key(seed: u8) -> SigningKey {
    SigningKey::from_seed(PLANE, &[seed; 32]).unwrap().with_ml_dsa(&[seed + 100; 32]).unwrap()
}

/// A leaf of the plane log and where it is to be: in which place of a log of so many leaves.
#[derive(Clone)]
pub(super) struct Subject {
    pub leaf: Vec<u8>,
    pub disclosure: String,
    pub at: usize,
    pub of: usize,
}

impl Subject {
    /// The leaf for the first leaves of the tenant's log.
    pub(super) fn of(size: u64, at: usize, of: usize) -> Self {
        let leaf = said_of(size, at as u64);
        let disclosure = opens().as_str().to_owned();
        Self { leaf: leaf.to_bytes(), disclosure, at, of }
    }

    /// What shows it, in a plane log whose other leaves are others'.
    pub(super) fn shown(&self, by: &SigningKey) -> Anchor {
        let others = (0..self.of as u64).map(|seq| {
            let log = disclosure(&[seq as u8; 16], "cogward.dev/ledger/corpus/other").unwrap().commitment();
            PlaneLeaf { log, seq, ..said_of(1, seq) }.to_bytes()
        });
        let mut hashes: Vec<_> = others.map(|leaf| leaf_hash(&leaf)).collect();
        hashes[self.at] = leaf_hash(&self.leaf);
        let tree = Tree::new(hashes);
        Anchor {
            leaf: self.leaf.clone(),
            disclosure: self.disclosure.clone(),
            index: self.at as u64,
            proof: tree.inclusion(self.at, self.of).unwrap(),
            note: by.checkpoint(self.of as u64, &tree.root(self.of).unwrap()),
        }
    }

    /// The same with a disclosure of another text, to which the leaf is made to fit.
    fn disclosing(&self, text: &str) -> Self {
        let commitment = cogward_ledger::commitment::Disclosure::from_text(text.to_owned()).commitment();
        let leaf = PlaneLeaf { log: commitment, ..said_of(SIZE, self.at as u64) };
        Self { leaf: leaf.to_bytes(), disclosure: text.to_owned(), ..self.clone() }
    }
}

fn opens() -> cogward_ledger::commitment::Disclosure {
    disclosure(&[77; 16], ORIGIN).unwrap()
}

/// What the plane log says of the first leaves of the tenant's.
pub(super) fn said_of(size: u64, seq: u64) -> PlaneLeaf {
    let root = root(&leaves(SIZE)[..usize::try_from(size).unwrap()]);
    let checkpoint = checkpoint_digest(&key(3).checkpoint(size, &root));
    let time = "2026-11-23T10:11:12.123456Z".to_owned();
    PlaneLeaf { checkpoint, log: opens().commitment(), root, seq, size, time }
}

/// Puts the three files of an anchor into a directory.
pub(super) fn put(files: &mut Files, dir: &str, anchor: &Anchor) {
    files.insert(format!("{dir}/leaf.json"), anchor.leaf.clone());
    files.insert(format!("{dir}/disclosure"), anchor.disclosure.clone().into_bytes());
    files.insert(format!("{dir}/checkpoint.tlog-proof"), anchor.tlog_proof().into_bytes());
}

/// The tenant's log with this anchor.
pub(super) fn pack(anchor: &Anchor, plane: &SigningKey) -> Files {
    let mut files = signed(&leaves(SIZE), &key(3));
    files.insert("plane/log.vkey".to_owned(), plane.verifying().lines().into_bytes());
    put(&mut files, "plane", anchor);
    files
}

fn case(name: impl std::fmt::Display, files: Files, what: &'static str) -> Case {
    let verdict = (what, (what == "ok").then_some(SIZE));
    Case { name: format!("plane-{name}"), files, key: None, against: None, verdict, public: Some(true) }
}

/// All cases about the place in the plane log.
pub(super) fn cases(all: &mut Vec<Case>) {
    let (good, plane) = (Subject::of(SIZE, 9, 11), plane_key(51));
    let anchor = good.shown(&plane);
    let files = pack(&anchor, &plane);
    all.push(case("as-it-must-be", files.clone(), "ok"));
    for (at, of) in [(0, 1), (0, 2), (1, 2), (6, 7), (255, 256), (256, 257)] {
        all.push(case(format!("leaf-{at}-of-{of}"), pack(&Subject::of(SIZE, at, of).shown(&plane), &plane), "ok"));
    }
    let one_kind = SigningKey::from_seed(PLANE, &[51; 32]).unwrap();
    all.push(case("with-one-kind-of-key", pack(&good.shown(&one_kind), &one_kind), "ok"));
    // Nobody brings the plane's key: whose it is has to be compared by hand, and is in the report.
    let stranger = SigningKey::from_seed("evil.example/ledger", &[51; 32]).unwrap();
    all.push(case("of-a-stranger", pack(&good.shown(&stranger), &stranger), "ok"));

    files_damaged(all, &files);
    keys(all, &good);
    elsewhere(all, &good, &plane);
    leaf_written(all, &good, &plane);
    disclosure_written(all, &good, &plane);
    proof_written(all, &anchor, &files);
}

fn files_damaged(all: &mut Vec<Case>, whole: &Files) {
    for (path, bytes) in whole.iter().filter(|(path, _)| path.starts_with("plane/")) {
        let name = path.trim_start_matches("plane/");
        let what = if name == "log.vkey" { "key" } else { "anchor" };
        let mut files = whole.clone();
        files.remove(path);
        all.push(case(format!("missing-{name}"), files, "missing"));
        let most = match name {
            "log.vkey" => 16 * 1024,
            "checkpoint.tlog-proof" => 72 * 1024,
            _ => 1024,
        };
        for (how, bytes, what) in [
            ("empty", vec![], what),
            ("cut", bytes[..bytes.len() - 1].to_vec(), what),
            ("longer", [&bytes[..], b"\n"].concat(), what),
            ("not-text", [&bytes[..bytes.len() - 1], b"\xff"].concat(), what),
            ("as-long-as-may-be", [&bytes[..], &vec![b' '; most - bytes.len()]].concat(), what),
            ("too-long", [&bytes[..], &vec![b' '; most + 1 - bytes.len()]].concat(), "form"),
        ] {
            let mut files = whole.clone();
            files.insert(path.clone(), bytes);
            all.push(case(format!("{how}-{name}"), files, what));
        }
    }
    let mut files: Files = whole.clone().into_iter().filter(|(path, _)| !path.starts_with("plane/")).collect();
    files.insert("plane".to_owned(), vec![]);
    all.push(case("is-a-file", files, "missing"));
}

/// The plane's key was replaced: the statements are leaves of another log than the one that they are about.
fn keys(all: &mut Vec<Case>, good: &Subject) {
    let [first, second, third] = [plane_key(51), plane_key(52), plane_key(53)];
    let files = pack(&good.shown(&third), &third);
    let statements = [rotated(1, &first, &second, 4), rotated(2, &second, &third, 8)];
    let [one, two] = statements.clone();
    for (name, entries, what) in [
        ("as-they-must-be", vec![(900, one.clone()), (7, two.clone())], "ok"),
        ("leaf-before-its-size", vec![(0, one.clone()), (0, two.clone())], "ok"),
        ("one-left-out", vec![(7, two.clone())], "key"),
        ("last-left-out", vec![(900, one.clone())], "key"),
        ("exchanged", vec![(900, two), (7, one)], "key"),
        ("of-the-tenants-log", vec![(4, rotated(1, &super::rotated::both(31), &super::rotated::both(32), 4))], "key"),
        ("none", vec![], "key"),
    ] {
        let mut files = files.clone();
        files.insert("plane/keys.jsonl".to_owned(), told(&entries));
        all.push(case(format!("keys-{name}"), files, what));
    }
    let mut files = files.clone();
    files.insert("plane/checkpoint.tlog-proof".to_owned(), good.shown(&second).tlog_proof().into_bytes());
    files.insert("plane/keys.jsonl".to_owned(), told(&[(900, statements[0].clone()), (901, statements[1].clone())]));
    all.push(case("signed-by-the-key-before", files, "anchor"));
}

/// The plane's key has signed all of it, and it is about something else.
fn elsewhere(all: &mut Vec<Case>, good: &Subject, plane: &SigningKey) {
    let said = said_of(SIZE, 9);
    let mut add = |name: &str, subject: &Subject| all.push(case(name, pack(&subject.shown(plane), plane), "anchor"));
    let with = |leaf: PlaneLeaf| Subject { leaf: leaf.to_bytes(), ..good.clone() };
    add("an-earlier-checkpoint", &Subject::of(SIZE - 1, 9, 11));
    add("another-checkpoint-of-that-size", &with(PlaneLeaf { checkpoint: [7; 32], ..said.clone() }));
    add("another-size-of-that-checkpoint", &with(PlaneLeaf { size: SIZE - 1, ..said.clone() }));
    add("another-root-of-that-checkpoint", &with(PlaneLeaf { root: [7; 32], ..said.clone() }));
    add("another-place-than-it-says", &with(PlaneLeaf { seq: 8, ..said.clone() }));
    let evil = disclosure(&[77; 16], "cogward.dev/ledger/corpus/evil").unwrap();
    let theirs = PlaneLeaf { log: evil.commitment(), ..said.clone() };
    add("the-leaf-of-another-log", &Subject { disclosure: evil.as_str().to_owned(), ..with(theirs.clone()) });
    add("the-leaf-of-another-log-with-our-disclosure", &with(theirs));
    let other = disclosure(&[78; 16], ORIGIN).unwrap();
    add("a-disclosure-with-another-salt", &Subject { disclosure: other.as_str().to_owned(), ..good.clone() });
}

fn leaf_written(all: &mut Vec<Case>, good: &Subject, plane: &SigningKey) {
    let text = String::from_utf8(good.leaf.clone()).unwrap();
    let last_root = format!("\"root\":\"{}\"", URL_SAFE_NO_PAD.encode(said_of(SIZE, 9).root));
    // The last character of 43 has two bits that carry nothing: each hash has one text.
    let open_bits = |text: &str| {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let (before, last) = text.split_at(text.len() - 2);
        let at = DIGITS.iter().position(|digit| *digit == last.as_bytes()[0]).unwrap();
        format!("{before}{}\"", char::from(DIGITS[at ^ 1]))
    };
    let checkpoint = format!("\"checkpoint\":\"{}\"", URL_SAFE_NO_PAD.encode(said_of(SIZE, 9).checkpoint));
    for (name, from, to) in [
        ("version-2", "\"v\":1", "\"v\":2".to_owned()),
        ("version-left-out", ",\"v\":1", String::new()),
        ("space", "\"v\":1", "\"v\": 1".to_owned()),
        ("line-end", "\"v\":1}", "\"v\":1}\n".to_owned()),
        ("more", "\"v\":1", "\"v\":1,\"w\":1".to_owned()),
        ("twice", "\"v\":1", "\"v\":1,\"v\":1".to_owned()),
        ("size-with-a-zero", "\"size\":20", "\"size\":020".to_owned()),
        ("size-a-fraction", "\"size\":20", "\"size\":20.0".to_owned()),
        ("size-a-text", "\"size\":20", "\"size\":\"20\"".to_owned()),
        ("month-thirteen", "2026-11-23", "2026-13-23".to_owned()),
        ("february-thirtieth", "2026-11-23", "2026-02-30".to_owned()),
        ("leap-second", "10:11:12", "23:59:60".to_owned()),
        ("before-the-epoch", "2026-11-23", "1969-11-23".to_owned()),
        ("milliseconds", "12.123456Z", "12.123Z".to_owned()),
        ("root-with-open-bits", &last_root, open_bits(&last_root)),
        ("checkpoint-with-open-bits", &checkpoint, open_bits(&checkpoint)),
        ("escape", "\"root\"", "\"r\\u006fot\"".to_owned()),
        ("another-order", "\"seq\":9,\"size\":20", "\"size\":20,\"seq\":9".to_owned()),
        ("log-not-hidden", &format!("{{\"$c\":\"{}\"}}", opens().commitment()), format!("\"{ORIGIN}\"")),
    ] {
        assert!(text.contains(from), "{name}");
        let leaf = text.replacen(from, &to, 1).into_bytes();
        let subject = Subject { leaf, ..good.clone() };
        all.push(case(format!("leaf-written-{name}"), pack(&subject.shown(plane), plane), "anchor"));
    }
}

/// The leaf fits to each of them, and what they say is another thing, or not said in the one way.
fn disclosure_written(all: &mut Vec<Case>, good: &Subject, plane: &SigningKey) {
    let json = |json: &str| URL_SAFE_NO_PAD.encode(json);
    let plain = json(&format!("[\"salt\",\"log\",\"{ORIGIN}\"]"));
    let utf_16: Vec<u8> =
        format!("[\"salt\",\"log\",\"{ORIGIN}\"]").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let deep = format!("[{}{},\"log\",\"{ORIGIN}\"]", "[".repeat(300), "]".repeat(300));
    for (name, text, what) in [
        ("plainly", plain.clone(), "ok"),
        ("with-spaces", json(&format!(" [\"salt\" , \"log\",\"{ORIGIN}\"]\n")), "ok"),
        ("with-an-escape", json(&format!("[\"salt\",\"l\\u006fg\",\"{ORIGIN}\"]")), "ok"),
        ("with-an-empty-salt", json(&format!("[\"\",\"log\",\"{ORIGIN}\"]")), "ok"),
        ("with-a-number-as-salt", json(&format!("[7,\"log\",\"{ORIGIN}\"]")), "anchor"),
        ("with-no-salt", json(&format!("[null,\"log\",\"{ORIGIN}\"]")), "anchor"),
        ("with-half-a-character-as-salt", json(&format!("[\"\\ud800\",\"log\",\"{ORIGIN}\"]")), "anchor"),
        ("with-a-deep-salt", json(&deep), "anchor"),
        ("of-two", json(&format!("[\"log\",\"{ORIGIN}\"]")), "anchor"),
        ("of-four", json(&format!("[\"salt\",\"log\",\"{ORIGIN}\",1]")), "anchor"),
        ("of-another-field", json(&format!("[\"salt\",\"root\",\"{ORIGIN}\"]")), "anchor"),
        ("of-another-log", json("[\"salt\",\"log\",\"cogward.dev/ledger/corpus/evil\"]"), "anchor"),
        ("of-the-plane", json(&format!("[\"salt\",\"log\",\"{PLANE}\"]")), "anchor"),
        ("as-an-object", json(&format!("{{\"0\":\"salt\",\"1\":\"log\",\"2\":\"{ORIGIN}\"}}")), "anchor"),
        ("as-no-json", json("salt"), "anchor"),
        ("in-utf-16", URL_SAFE_NO_PAD.encode(utf_16), "anchor"),
        ("with-padding", plain.clone() + "=", "anchor"),
        ("with-a-line-end", plain.clone() + "\n", "anchor"),
        ("with-a-line-end-in-it", plain.replacen('W', "W\n", 1), "anchor"),
        ("in-other-letters", plain.replacen('W', "W\u{e4}", 1), "anchor"),
        ("empty", String::new(), "anchor"),
    ] {
        let files = pack(&good.disclosing(&text).shown(plane), plane);
        all.push(case(format!("disclosure-written-{name}"), files, what));
    }
}

fn proof_written(all: &mut Vec<Case>, anchor: &Anchor, whole: &Files) {
    let text = anchor.tlog_proof();
    let mut add = |name: &str, text: String| {
        let mut files = whole.clone();
        files.insert("plane/checkpoint.tlog-proof".to_owned(), text.into_bytes());
        all.push(case(format!("proof-{name}"), files, "anchor"));
    };
    let first = base64(&anchor.proof[0]);
    for (name, from, to) in [
        ("of-version-2", "tlog-proof@v1", "tlog-proof@v2".to_owned()),
        ("index-with-a-zero", "index 9", "index 09".to_owned()),
        ("index-with-a-sign", "index 9", "index +9".to_owned()),
        ("index-of-65-bits", "index 9", "index 18446744073709551625".to_owned()),
        ("index-of-another", "index 9", "index 8".to_owned()),
        ("index-behind-the-end", "index 9", "index 11".to_owned()),
        ("index-left-out", "index 9\n", String::new()),
        ("step-without-padding", "=\n", "\n".to_owned()),
        ("step-too-short", &first, "AAAA".to_owned()),
        ("step-empty", &first, String::new()),
        ("step-left-out", &format!("{first}\n"), String::new()),
        ("step-twice", &first, format!("{first}\n{first}")),
        ("step-changed", &first, base64(&[7; 32])),
        ("64-steps", &first, vec![first.clone(); 61].join("\n")),
        ("65-steps", &first, vec![first.clone(); 62].join("\n")),
        ("line-end-of-another-kind", "index 9\n", "index 9\r\n".to_owned()),
        ("gap-left-out", "\n\n", "\n".to_owned()),
    ] {
        assert!(text.contains(from), "{name}");
        add(name, text.replacen(from, &to, 1));
    }
    let with = |note: String| Anchor { note, ..anchor.clone() }.tlog_proof();
    let said = cogward_ledger::note::Checkpoint::open(&anchor.note, plane_key(51).verifying()).unwrap();
    let evil = SigningKey::from_seed("cogward.dev/ledger/corpus/evil", &[51; 32]).unwrap();
    add("under-the-note-of-a-stranger", with(plane_key(54).checkpoint(said.size, &said.root)));
    add("under-the-note-of-another-log", with(evil.checkpoint(said.size, &said.root)));
    add("under-the-note-of-another-size", with(plane_key(51).checkpoint(said.size + 100, &said.root)));
    add("under-the-note-of-another-root", with(plane_key(51).checkpoint(said.size, &[7; 32])));
    add("under-a-changed-note", with(anchor.note.replacen("\n11\n", "\n12\n", 1)));
    let one_kind = SigningKey::from_seed(PLANE, &[51; 32]).unwrap();
    add("under-a-note-of-one-kind", with(one_kind.checkpoint(said.size, &said.root)));
    add("under-no-note", with(String::new()));
}
