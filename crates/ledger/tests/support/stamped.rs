//! Packs with a time stamp over a checkpoint of the plane log that covers a beginning of theirs.

use std::collections::BTreeMap;

use cogward_ledger::{archive::sha256, note::SigningKey, plane::PlaneLeaf};

use super::{
    Case,
    anchored::{PLANE, SIZE, Subject, pack, plane_key, put, said_of},
    base64_of, rotated,
    rotated::told,
};

type Files = BTreeMap<String, Vec<u8>>;

/// An answer of `openssl ts -reply`, over other data.
const REAL: &str = include_str!("../../src/timestamp/granted.tsr.base64");
/// What it is over.
const REAL_DATA: &[u8] = b"what is stamped\n";

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 2;
const OCTETS: u8 = 4;
const OID: u8 = 6;
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
const TST_INFO: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x10, 0x01, 0x04];

/// The real answer, with the digest of other data in its place. Its signature does not hold then, which neither
/// verifier looks at: both say so.
pub(super) fn over(data: &[u8]) -> Vec<u8> {
    let mut answer = base64_of(&REAL.replace('\n', ""));
    let digest = sha256(REAL_DATA);
    let at = answer.windows(32).position(|bytes| bytes == digest).unwrap();
    answer[at..at + 32].copy_from_slice(&sha256(data));
    answer
}

/// One element of DER.
fn el(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut whole = vec![tag];
    match content.len() {
        short @ ..0x80 => whole.push(short as u8),
        long @ ..0x100 => whole.extend([0x81, long as u8]),
        longer => whole.extend([0x82, (longer >> 8) as u8, longer as u8]),
    }
    whole.extend(content);
    whole
}

/// An answer in its parts, each as DER.
#[derive(Clone)]
struct Answer {
    status: Vec<u8>,
    content: Vec<u8>,
    cms: Vec<u8>,
    kind: Vec<u8>,
    behind: Vec<u8>,
    signers: Vec<u8>,
    version: Vec<u8>,
    policy: Vec<u8>,
    algorithm: Vec<u8>,
    imprint: Vec<u8>,
    serial: Vec<u8>,
    time: Vec<u8>,
    options: Vec<u8>,
    /// At the end of which element something more stands.
    more: &'static str,
}

impl Answer {
    fn over(data: &[u8]) -> Self {
        Self {
            status: el(SEQUENCE, &[&el(INTEGER, &[&[0]])]),
            content: el(OID, &[SIGNED_DATA]),
            cms: el(INTEGER, &[&[3]]),
            kind: el(OID, &[TST_INFO]),
            behind: vec![],
            signers: el(0x31, &[&el(SEQUENCE, &[])]),
            version: el(INTEGER, &[&[1]]),
            policy: el(OID, &[&[0x2a, 3]]),
            algorithm: el(SEQUENCE, &[&el(OID, &[SHA256])]),
            imprint: el(OCTETS, &[&sha256(data)]),
            serial: el(INTEGER, &[&[9]]),
            time: el(0x18, &[b"20261123101112Z"]),
            options: vec![],
            more: "",
        }
    }

    fn der(&self) -> Vec<u8> {
        let more = |place: &str| if self.more == place { el(5, &[]) } else { vec![] };
        let over = el(SEQUENCE, &[&self.algorithm, &self.imprint, &more("the imprint")]);
        let fields = [&self.version, &self.policy, &over, &self.serial, &self.time, &self.options, &more("the fields")];
        let info = el(SEQUENCE, &fields.map(|field| &field[..]));
        let octets = el(OCTETS, &[&info, &more("the octets")]);
        let inner = el(SEQUENCE, &[&self.kind, &el(0xa0, &[&octets, &more("the info")]), &more("what is signed")]);
        let parts = [&self.cms, &el(0x31, &[]), &inner, &self.behind, &self.signers, &more("the message")];
        let signed = el(SEQUENCE, &parts.map(|part| &part[..]));
        let content = el(SEQUENCE, &[&self.content, &el(0xa0, &[&signed, &more("its place")]), &more("the content")]);
        el(SEQUENCE, &[&self.status, &content, &more("the response")])
    }
}

/// A pack whose first leaves are stamped.
fn stamped(subject: &Subject, answer: impl Fn(&[u8]) -> Vec<u8>) -> Files {
    let plane = plane_key(51);
    let mut files = pack(&Subject::of(SIZE, 9, 11).shown(&plane), &plane);
    let earlier = subject.shown(&plane);
    put(&mut files, "plane/timestamp", &earlier);
    files.insert("plane/timestamp/checkpoint".to_owned(), earlier.note.clone().into_bytes());
    files.insert("plane/timestamp/checkpoint.tsr".to_owned(), answer(earlier.note.as_bytes()));
    files
}

fn case(name: impl std::fmt::Display, files: Files, what: &'static str) -> Case {
    let verdict = (what, (what == "ok").then_some(SIZE));
    Case { name: format!("stamp-{name}"), files, key: None, against: None, verdict, public: Some(true) }
}

/// The leaf that is stamped: the first five of the tenant's log, in place 4 of seven of the plane log.
fn subject() -> Subject {
    Subject::of(5, 4, 7)
}

/// A small pack with all of it: the key of the log was replaced, and that of the plane, and its first three leaves are
/// stamped. Keys of one kind.
pub(super) fn small() -> Files {
    let (mut files, leaves) = rotated::small();
    let [old, plane] = [51, 52].map(|seed| SigningKey::from_seed(PLANE, &[seed; 32]).unwrap());
    let said = |size: usize, seq, note: &[u8]| {
        let (root, checkpoint) = (super::root(&leaves[..size]), sha256(note));
        PlaneLeaf { size: size as u64, root, checkpoint, ..said_of(1, seq) }.to_bytes()
    };
    let now = Subject { leaf: said(5, 2, &files["checkpoint"]), ..Subject::of(1, 2, 3) }.shown(&plane);
    let earlier = Subject { leaf: said(3, 1, b"the checkpoint of that time"), ..Subject::of(1, 1, 2) }.shown(&plane);
    files.insert("plane/log.vkey".to_owned(), plane.verifying().lines().into_bytes());
    files.insert("plane/keys.jsonl".to_owned(), told(&[(17, rotated::rotated(1, &old, &plane, 1))]));
    put(&mut files, "plane", &now);
    put(&mut files, "plane/timestamp", &earlier);
    files.insert("plane/timestamp/checkpoint.tsr".to_owned(), over(earlier.note.as_bytes()));
    files.insert("plane/timestamp/checkpoint".to_owned(), earlier.note.into_bytes());
    files
}

/// All cases about time stamps.
pub(super) fn cases(all: &mut Vec<Case>) {
    let whole = stamped(&subject(), over);
    all.push(case("as-it-must-be", whole.clone(), "ok"));
    for size in [1, 2, 3, 4, 16, SIZE - 1, SIZE] {
        all.push(case(format!("over-{size}"), stamped(&Subject::of(size, 4, 7), over), "ok"));
    }
    files_damaged(all, &whole);
    elsewhere(all);
    answers(all);
    long(all);
}

fn files_damaged(all: &mut Vec<Case>, whole: &Files) {
    for (path, bytes) in whole.iter().filter(|(path, _)| path.starts_with("plane/timestamp/")) {
        let name = path.trim_start_matches("plane/timestamp/");
        let what = if matches!(name, "checkpoint" | "checkpoint.tsr") { "timestamp" } else { "anchor" };
        let mut files = whole.clone();
        files.remove(path);
        all.push(case(format!("missing-{name}"), files, "missing"));
        let most = match name {
            "checkpoint" | "checkpoint.tsr" => 64 * 1024,
            "checkpoint.tlog-proof" => 72 * 1024,
            _ => 1024,
        };
        for (how, bytes, what) in [
            ("empty", vec![], what),
            ("cut", bytes[..bytes.len() - 1].to_vec(), what),
            ("longer", [&bytes[..], b"\n"].concat(), what),
            ("too-long", [&bytes[..], &vec![b' '; most + 1 - bytes.len()]].concat(), "form"),
        ] {
            let mut files = whole.clone();
            files.insert(path.clone(), bytes);
            all.push(case(format!("{how}-{name}"), files, what));
        }
    }
    let mut files: Files =
        whole.clone().into_iter().filter(|(path, _)| !path.starts_with("plane/timestamp/")).collect();
    files.insert("plane/timestamp".to_owned(), vec![]);
    all.push(case("is-a-file", files, "missing"));
    // Every cut of the answer is seen by both; here some of them, the rest in the tests of the reader.
    let answer = whole["plane/timestamp/checkpoint.tsr"].clone();
    for cut in [1, 2, 4, 9, 60, 200, 1_000, answer.len() - 2] {
        let mut files = whole.clone();
        files.insert("plane/timestamp/checkpoint.tsr".to_owned(), answer[..cut].to_vec());
        all.push(case(format!("answer-cut-to-{cut}"), files, "timestamp"));
    }
}

/// A true stamp, of something else.
fn elsewhere(all: &mut Vec<Case>) {
    let plane = plane_key(51);
    all.push(case("over-other-data", stamped(&subject(), |_| over(b"other data")), "timestamp"));
    all.push(case("over-what-it-was-made-for", stamped(&subject(), |_| over(REAL_DATA)), "timestamp"));
    // The stamp and the note are a pair, and the proof shows another note.
    let other = Subject::of(5, 4, 8).shown(&plane);
    let mut files = stamped(&subject(), |_| over(other.note.as_bytes()));
    files.insert("plane/timestamp/checkpoint".to_owned(), other.note.into_bytes());
    all.push(case("over-another-checkpoint", files.clone(), "timestamp"));
    let witnessed = subject().shown(&plane).note + "\u{2014} witness.example/w1 AAAAAAAA\n";
    let mut files = stamped(&subject(), |_| over(witnessed.as_bytes()));
    files.insert("plane/timestamp/checkpoint".to_owned(), witnessed.into_bytes());
    all.push(case("over-a-note-with-one-line-more", files, "timestamp"));
    // The plane's key says it, and it is not a beginning of this log.
    let said = said_of(5, 4);
    let with = |leaf: PlaneLeaf| stamped(&Subject { leaf: leaf.to_bytes(), ..subject() }, over);
    all.push(case("of-another-history", with(PlaneLeaf { root: [7; 32], ..said.clone() }), "anchor"));
    all.push(case("of-another-size", with(PlaneLeaf { size: 6, ..said.clone() }), "anchor"));
    all.push(case("of-no-leaf", stamped(&Subject::of(0, 4, 7), over), "anchor"));
    all.push(case("of-more-than-there-is", with(PlaneLeaf { size: SIZE + 1, ..said.clone() }), "anchor"));
    all.push(case("of-any-size", with(PlaneLeaf { size: u64::MAX, ..said.clone() }), "anchor"));
    all.push(case("of-another-place", with(PlaneLeaf { seq: 5, ..said.clone() }), "anchor"));
    // Which checkpoint it was cannot be seen any more: its root can.
    all.push(case("of-a-checkpoint-that-nobody-has", with(PlaneLeaf { checkpoint: [7; 32], ..said.clone() }), "ok"));
    let text = String::from_utf8(subject().leaf).unwrap();
    for (name, from, to) in [
        ("size-with-a-zero", "\"size\":5", "\"size\":05"),
        ("size-of-65-bits", "\"size\":5", "\"size\":18446744073709551621"),
        ("month-thirteen", "2026-11-23", "2026-13-23"),
    ] {
        let leaf = text.replacen(from, to, 1).into_bytes();
        all.push(case(format!("leaf-{name}"), stamped(&Subject { leaf, ..subject() }, over), "anchor"));
    }
    for name in ["root", "checkpoint"] {
        let at = text.find(&format!("\"{name}\":\"")).unwrap() + name.len() + 4 + 42;
        let digit = text.as_bytes()[at];
        // One of the letters beside it says the same 256 bits.
        for other in [digit - 1, digit + 1].map(char::from) {
            let leaf = (text[..at].to_owned() + &other.to_string() + &text[at + 1..]).into_bytes();
            let files = stamped(&Subject { leaf, ..subject() }, over);
            all.push(case(format!("leaf-{name}-ending-with-{other}"), files, "anchor"));
        }
    }
}

/// The forms of an answer.
fn answers(all: &mut Vec<Case>) {
    let integer = |content: &[u8]| el(INTEGER, &[content]);
    let time = |text: &str| el(0x18, &[text.as_bytes()]);
    let accuracy = |tag, content: &[u8]| el(SEQUENCE, &[&el(tag, &[content])]);
    let hash = |oid: &[u8], rest: &[u8]| el(SEQUENCE, &[&el(OID, &[oid]), rest]);
    let sha512 = [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03];
    type Change<'a> = Box<dyn Fn(&mut Answer) + 'a>;
    let set = |part: fn(&mut Answer) -> &mut Vec<u8>, value: Vec<u8>| -> Change<'_> {
        Box::new(move |answer| part(answer).clone_from(&value))
    };
    let (ok, bad) = ("ok", "timestamp");
    let cases: Vec<(&str, Change<'_>, &'static str)> = vec![
        ("plain", Box::new(|_| {}), ok),
        ("granted-with-changes", set(|a| &mut a.status, el(SEQUENCE, &[&integer(&[1])])), ok),
        ("refused", set(|a| &mut a.status, el(SEQUENCE, &[&integer(&[2])])), bad),
        ("waiting", set(|a| &mut a.status, el(SEQUENCE, &[&integer(&[3])])), bad),
        ("status-negative", set(|a| &mut a.status, el(SEQUENCE, &[&integer(&[0xff])])), bad),
        ("status-not-the-shortest", set(|a| &mut a.status, el(SEQUENCE, &[&integer(&[0, 0])])), bad),
        ("status-of-two-bytes", set(|a| &mut a.status, el(SEQUENCE, &[&integer(&[1, 0])])), bad),
        ("status-empty", set(|a| &mut a.status, el(SEQUENCE, &[&integer(&[])])), bad),
        ("status-with-words", set(|a| &mut a.status, el(SEQUENCE, &[&integer(&[0]), &el(SEQUENCE, &[])])), ok),
        ("status-with-a-reason", set(|a| &mut a.status, el(SEQUENCE, &[&integer(&[0]), &el(3, &[&[0]])])), ok),
        ("status-with-more", set(|a| &mut a.status, el(SEQUENCE, &[&integer(&[0]), &integer(&[0])])), bad),
        ("content-of-another-kind", set(|a| &mut a.content, el(OID, &[TST_INFO])), bad),
        ("message-without-a-version", set(|a| &mut a.cms, vec![]), bad),
        ("info-of-another-kind", set(|a| &mut a.kind, el(OID, &[SIGNED_DATA])), bad),
        ("certificates", set(|a| &mut a.behind, el(0xa0, &[])), ok),
        ("certificates-and-revoked-ones", set(|a| &mut a.behind, [el(0xa0, &[]), el(0xa1, &[])].concat()), ok),
        ("certificates-twice", set(|a| &mut a.behind, [el(0xa0, &[]), el(0xa0, &[])].concat()), bad),
        ("no-signers", set(|a| &mut a.signers, vec![]), bad),
        ("nobody-among-the-signers", set(|a| &mut a.signers, el(0x31, &[])), bad),
        (
            "more-behind-the-signers",
            set(|a| &mut a.signers, [el(0x31, &[&el(SEQUENCE, &[])]), integer(&[0])].concat()),
            bad,
        ),
        ("version-2", set(|a| &mut a.version, integer(&[2])), bad),
        ("policy-of-one-arc", set(|a| &mut a.policy, el(OID, &[&[0x2a]])), ok),
        ("policy-beginning-with-2", set(|a| &mut a.policy, el(OID, &[&[0x88, 0x37]])), ok),
        ("policy-empty", set(|a| &mut a.policy, el(OID, &[])), bad),
        ("policy-cut", set(|a| &mut a.policy, el(OID, &[&[0x2a, 0x86]])), bad),
        ("policy-not-the-shortest", set(|a| &mut a.policy, el(OID, &[&[0x2a, 0x80, 1]])), bad),
        ("policy-with-a-huge-arc", set(|a| &mut a.policy, el(OID, &[&[0x2a], &[0xff; 10], &[0x7f]])), bad),
        ("policy-of-64-bytes", set(|a| &mut a.policy, el(OID, &[&[1; 64]])), ok),
        ("policy-of-65-bytes", set(|a| &mut a.policy, el(OID, &[&[1; 65]])), bad),
        ("hash-with-nothing-behind", set(|a| &mut a.algorithm, hash(SHA256, &el(5, &[]))), ok),
        ("hash-with-something-behind", set(|a| &mut a.algorithm, hash(SHA256, &el(5, &[&[0]]))), bad),
        ("hash-with-more", set(|a| &mut a.algorithm, hash(SHA256, &integer(&[0]))), bad),
        ("hash-of-another-kind", set(|a| &mut a.algorithm, hash(&sha512, &[])), bad),
        ("imprint-too-short", set(|a| &mut a.imprint, el(OCTETS, &[&[7; 31]])), bad),
        ("imprint-too-long", set(|a| &mut a.imprint, el(OCTETS, &[&[7; 33]])), bad),
        ("serial-of-21-bytes", set(|a| &mut a.serial, integer(&[7; 21])), ok),
        ("serial-of-22-bytes", set(|a| &mut a.serial, integer(&[7; 22])), bad),
        ("serial-negative", set(|a| &mut a.serial, integer(&[0x80])), ok),
        ("serial-not-the-shortest", set(|a| &mut a.serial, integer(&[0xff, 0x80])), bad),
        ("time-with-a-fraction", set(|a| &mut a.time, time("20261123101112.123456Z")), ok),
        ("time-with-nine-digits", set(|a| &mut a.time, time("20261123101112.123456789Z")), ok),
        ("time-with-ten-digits", set(|a| &mut a.time, time("20261123101112.1234567891Z")), bad),
        ("time-ending-with-a-zero", set(|a| &mut a.time, time("20261123101112.50Z")), bad),
        ("time-with-an-empty-fraction", set(|a| &mut a.time, time("20261123101112.Z")), bad),
        ("time-with-a-comma", set(|a| &mut a.time, time("20261123101112,5Z")), bad),
        ("time-of-another-zone", set(|a| &mut a.time, time("20261123101112+0000")), bad),
        ("time-of-no-zone", set(|a| &mut a.time, time("20261123101112")), bad),
        ("time-without-seconds", set(|a| &mut a.time, time("202611231011Z")), bad),
        ("time-month-thirteen", set(|a| &mut a.time, time("20261323101112Z")), bad),
        ("time-february-thirtieth", set(|a| &mut a.time, time("20260230101112Z")), bad),
        ("time-leap-second", set(|a| &mut a.time, time("20261123235960Z")), bad),
        ("time-before-the-epoch", set(|a| &mut a.time, time("19691123101112Z")), bad),
        ("time-in-the-last-year", set(|a| &mut a.time, time("99991231235959Z")), ok),
        ("time-in-other-digits", set(|a| &mut a.time, time("2026112310111\u{664}Z")), bad),
        ("time-with-a-line-end", set(|a| &mut a.time, time("20261123101112Z\n")), bad),
        ("time-of-another-form", set(|a| &mut a.time, el(0x17, &[b"261123101112Z"])), bad),
        ("accuracy-empty", set(|a| &mut a.options, el(SEQUENCE, &[])), ok),
        ("accuracy-seconds", set(|a| &mut a.options, accuracy(INTEGER, &[1])), ok),
        ("accuracy-negative", set(|a| &mut a.options, accuracy(INTEGER, &[0x80])), bad),
        ("accuracy-of-five-bytes", set(|a| &mut a.options, accuracy(INTEGER, &[1, 0, 0, 0, 0])), bad),
        // Its last eight bytes alone would be a small number.
        ("accuracy-of-nine-bytes", set(|a| &mut a.options, accuracy(INTEGER, &[1, 0, 0, 0, 0, 0, 0, 0, 0])), bad),
        ("accuracy-999-millis", set(|a| &mut a.options, accuracy(0x80, &[3, 0xe7])), ok),
        ("accuracy-1000-millis", set(|a| &mut a.options, accuracy(0x80, &[3, 0xe8])), bad),
        ("accuracy-999-micros", set(|a| &mut a.options, accuracy(0x81, &[3, 0xe7])), ok),
        ("accuracy-1000-micros", set(|a| &mut a.options, accuracy(0x81, &[3, 0xe8])), bad),
        ("accuracy-of-another-kind", set(|a| &mut a.options, accuracy(0x82, &[1])), bad),
        ("ordered", set(|a| &mut a.options, el(1, &[&[0xff]])), ok),
        ("not-ordered", set(|a| &mut a.options, el(1, &[&[0]])), ok),
        ("half-ordered", set(|a| &mut a.options, el(1, &[&[1]])), bad),
        // Of which request it was the answer the pack does not say: the plane has checked it.
        ("nonce", set(|a| &mut a.options, integer(&[7; 64])), ok),
        ("nonce-too-long", set(|a| &mut a.options, integer(&[7; 65])), bad),
        ("nonce-not-the-shortest", set(|a| &mut a.options, integer(&[0, 7])), bad),
        ("nonce-before-the-accuracy", set(|a| &mut a.options, [integer(&[7]), el(SEQUENCE, &[])].concat()), bad),
        ("name-and-extensions", set(|a| &mut a.options, [el(0xa0, &[]), el(0xa1, &[])].concat()), ok),
        ("extensions-and-name", set(|a| &mut a.options, [el(0xa1, &[]), el(0xa0, &[])].concat()), bad),
        ("something-else", set(|a| &mut a.options, el(0xa2, &[])), bad),
        ("message-with-a-text-as-version", set(|a| &mut a.cms, el(OCTETS, &[&[3]])), bad),
        ("policy-in-a-longer-length", set(|a| &mut a.policy, vec![OID, 0x81, 2, 0x2a, 3]), bad),
        ("serial-empty", set(|a| &mut a.serial, integer(&[])), bad),
        ("time-with-a-digit-more", set(|a| &mut a.time, time("202611231011125Z")), bad),
        ("time-with-a-letter-in-the-fraction", set(|a| &mut a.time, time("20261123101112.1a1Z")), bad),
        ("time-with-a-letter-behind-the-microseconds", set(|a| &mut a.time, time("20261123101112.123456a1Z")), bad),
        ("accuracy-with-more", set(|a| &mut a.options, el(SEQUENCE, &[&integer(&[1]), &el(5, &[])])), bad),
        ("with-more-behind-the-imprint", Box::new(|a| a.more = "the imprint"), bad),
        ("with-more-behind-the-fields", Box::new(|a| a.more = "the fields"), bad),
        ("with-more-behind-the-octets", Box::new(|a| a.more = "the octets"), bad),
        ("with-more-behind-the-info", Box::new(|a| a.more = "the info"), bad),
        ("with-more-behind-what-is-signed", Box::new(|a| a.more = "what is signed"), bad),
        ("with-more-behind-the-message", Box::new(|a| a.more = "the message"), bad),
        ("with-more-behind-its-place", Box::new(|a| a.more = "its place"), bad),
        ("with-more-behind-the-content", Box::new(|a| a.more = "the content"), bad),
        ("with-more-behind-the-response", Box::new(|a| a.more = "the response"), bad),
        ("a-tag-of-two-bytes", set(|a| &mut a.options, vec![0xbf, 0x21, 0]), bad),
    ];
    for (name, change, what) in cases {
        let files = stamped(&subject(), |note| {
            let mut answer = Answer::over(note);
            change(&mut answer);
            answer.der()
        });
        all.push(case(format!("answer-{name}"), files, what));
    }
    let behind = |note: &[u8]| [Answer::over(note).der(), vec![0]].concat();
    all.push(case("answer-with-more-behind", stamped(&subject(), behind), "timestamp"));
    // The same elements in other lengths: BER, and not DER.
    for (name, length) in [
        ("in-a-longer-length", &[0x82, 0, 0][..]),
        ("in-a-length-of-four-bytes", &[0x84, 0, 0, 0, 0]),
        ("in-no-length", &[0x80]),
        ("in-a-length-beyond-its-end", &[0x83, 0xff, 0xff, 0xff]),
    ] {
        let files = stamped(&subject(), |note| {
            let der = Answer::over(note).der();
            let content = der[3..].to_vec();
            let mut length = length.to_vec();
            if let Some(last) = length.last_mut().filter(|last| **last == 0) {
                *last = content.len() as u8;
            }
            let end = if length == [0x80] { vec![0, 0] } else { vec![] };
            [vec![SEQUENCE], length, content, end].concat()
        });
        all.push(case(format!("answer-{name}"), files, "timestamp"));
    }
    let nested = |_: &[u8]| (0..4_000).fold(Vec::new(), |inner: Vec<u8>, _| el(SEQUENCE, &[&inner]));
    all.push(case("answer-of-4000-sequences", stamped(&subject(), nested), "timestamp"));
}

/// A log of more than one bundle, stamped at its seams.
fn long(all: &mut Vec<Case>) {
    let plane = plane_key(51);
    let leaves = super::leaves(600);
    for size in [255, 256, 257, 512, 599, 600] {
        let root = super::root(&leaves[..size]);
        for (name, root, what) in [("", root, "ok"), ("-of-another-history", [7; 32], "anchor")] {
            let leaf = PlaneLeaf { size: size as u64, root, ..said_of(1, 4) };
            let mut subject = Subject::of(1, 4, 7);
            subject.leaf = leaf.to_bytes();
            let mut files = super::signed(&leaves, &super::key(3));
            let now = PlaneLeaf {
                checkpoint: sha256(&files["checkpoint"]),
                size: 600,
                root: super::root(&leaves),
                ..said_of(1, 9)
            };
            let present = Subject { leaf: now.to_bytes(), ..Subject::of(1, 9, 11) }.shown(&plane);
            files.insert("plane/log.vkey".to_owned(), plane.verifying().lines().into_bytes());
            put(&mut files, "plane", &present);
            let earlier = subject.shown(&plane);
            put(&mut files, "plane/timestamp", &earlier);
            files.insert("plane/timestamp/checkpoint".to_owned(), earlier.note.clone().into_bytes());
            files.insert("plane/timestamp/checkpoint.tsr".to_owned(), over(earlier.note.as_bytes()));
            let verdict = (what, (what == "ok").then_some(600));
            all.push(Case { verdict, ..case(format!("over-{size}-of-600{name}"), files, what) });
        }
    }
}
