//! Archives of a plane with three logs, whole and damaged by others and by the holder of its key.

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use cogward_ledger::{
    Hash,
    archive::{self, Finding, Hex, Manifest, Name, Objects, Options, Sealed, Verified, Walk, sha256},
    key_chain::Statement,
    leaf::leaf_hash,
    note::SigningKey,
    plane::PlaneLeaf,
    proof::Tree,
};

use super::{anchored::said_of, leaves, leaves_of, rotated::rotated};

/// The plane log.
const PLANE: &str = "cogward.dev/ledger/corpus";

/// An archive and what every verifier must say of it.
pub struct Case {
    pub name: String,
    pub objects: BTreeMap<String, Vec<u8>>,
    /// The keys of the plane log that the reader brings along.
    pub key: Option<String>,
    /// The checkpoint or the manifest that the reader kept.
    pub against: Option<String>,
    /// `ok` and the number of leaves, or the word for what is wrong and the leaf.
    pub verdict: (&'static str, Option<u64>),
}

/// An archive in memory.
pub struct InMemory<'a>(pub &'a BTreeMap<String, Vec<u8>>);

impl Objects for InMemory<'_> {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read>> {
        let bytes = self.0.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(io::Cursor::new(bytes.clone())))
    }
}

/// What cogward-verify says of an archive.
pub fn verdict(objects: &dyn Objects, key: Option<&str>, against: Option<&str>) -> Result<Verified, Finding> {
    let key = key.map(|key| key.parse().unwrap());
    archive::verify(objects, &Options { key: key.as_ref(), against })
}

type Frames = Vec<(u8, Vec<u8>)>;
type Done = fn(&mut Vec<u8>);

fn named(name: &str, bytes: &[u8]) -> Vec<u8> {
    [&[name.len() as u8], name.as_bytes(), bytes].concat()
}

fn plane_leaf(seq: u64) -> Vec<u8> {
    PlaneLeaf { checkpoint: [seq as u8; 32], ..said_of(1, seq) }.to_bytes()
}

/// The bytes of a segment; its size is that of its frames and some zeros.
fn segment(index: u64, frames: &Frames, spare: usize) -> Vec<u8> {
    let size = 32 + frames.iter().map(|(_, payload)| 20 + payload.len()).sum::<usize>() + spare;
    let mut bytes = b"cogwal01".to_vec();
    bytes.extend_from_slice(&index.to_le_bytes());
    bytes.extend_from_slice(&(size as u64).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    for (kind, payload) in frames {
        let mut header = u32::try_from(payload.len()).unwrap().to_le_bytes().to_vec();
        header.extend_from_slice(&[*kind, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&header), payload);
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(payload);
    }
    bytes.resize(size, 0);
    bytes
}

/// Archives as the holder of the key makes them: from any frames, with any change of the manifests before they are signed.
struct Maker {
    segments: Vec<Frames>,
    /// The seed of the plane's key by the time of each segment, and what is said of it then.
    keys: Vec<(u8, Vec<String>)>,
    two_kinds: bool,
    /// What each segment says of itself which one it is.
    indexes: Vec<u64>,
    /// What is done to a segment before its digest is taken.
    done: Option<(usize, Done)>,
}

impl Maker {
    fn new() -> Self {
        let (acme, beta) = (leaves(6), leaves_of("beta", 3, &BTreeMap::new()));
        let leaf = |name: &str, bytes: &[u8]| (1, named(name, bytes));
        let plane = |seq: u64| (16, named("", &plane_leaf(seq)));
        let first = vec![
            leaf("acme", &acme[0]),
            leaf("acme", &acme[1]),
            (2, named("acme", b"sealed")),
            leaf("beta", &beta[0]),
            plane(0),
            leaf("acme", &acme[2]),
        ];
        let second = vec![plane(1), leaf("acme", &acme[3]), plane(2), (99, b"of a later plane".to_vec())];
        let third = vec![
            leaf("beta", &beta[1]),
            leaf("beta", &beta[2]),
            leaf("acme", &acme[4]),
            plane(3),
            leaf("acme", &acme[5]),
        ];
        Self {
            segments: vec![first, second, third],
            keys: vec![(61, vec![]), (61, vec![]), (61, vec![])],
            two_kinds: false,
            indexes: vec![0, 1, 2],
            done: None,
        }
    }

    /// The plane's key is replaced before the third segment.
    fn rotated() -> Self {
        let mut maker = Self::new();
        let statement = rotated(1, &maker.key_of(PLANE, 61), &maker.key_of(PLANE, 62), 2);
        maker.keys[2] = (62, vec![statement]);
        maker
    }

    fn key_of(&self, origin: &str, seed: u8) -> SigningKey {
        let key = SigningKey::from_seed(origin, &[seed; 32]).unwrap();
        if self.two_kinds { key.with_ml_dsa(&[seed + 100; 32]).unwrap() } else { key }
    }

    fn key(&self, segment: usize, origin: &str) -> SigningKey {
        self.key_of(origin, if origin == PLANE { self.keys[segment].0 } else { 71 })
    }

    /// The hashes of the leaves of each log, by origin.
    fn hashes(&self) -> BTreeMap<String, Vec<Hash>> {
        let mut all: BTreeMap<String, Vec<Hash>> = BTreeMap::new();
        for (kind, payload) in self.segments.iter().flatten().filter(|(kind, _)| matches!(kind, 1 | 16)) {
            let Some((name, leaf)) = payload[1..].split_at_checked(usize::from(payload[0])) else { continue };
            let name = std::str::from_utf8(name).unwrap();
            let log = if *kind == 16 { PLANE.to_owned() } else { format!("{PLANE}/{name}") };
            all.entry(log).or_default().push(leaf_hash(leaf));
        }
        all
    }

    fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        self.objects_with(&|_, _| {})
    }

    fn objects_with(&self, change: &dyn Fn(usize, &mut Manifest)) -> BTreeMap<String, Vec<u8>> {
        self.signed_with(change, &|n, manifest| manifest.sign(&self.key(n, PLANE)).unwrap())
    }

    fn signed_with(
        &self,
        change: &dyn Fn(usize, &mut Manifest),
        sign: &dyn Fn(usize, &Manifest) -> Vec<u8>,
    ) -> BTreeMap<String, Vec<u8>> {
        let (mut objects, mut walk, mut previous) = (BTreeMap::new(), Walk::new(PLANE), None);
        let hashes = self.hashes();
        for (n, frames) in self.segments.iter().enumerate() {
            let mut bytes = segment(self.indexes[n], frames, if n == 1 { 0 } else { 40 });
            let size = bytes.len() as u64;
            if let Some((_, done)) = self.done.filter(|(which, _)| *which == n) {
                done(&mut bytes);
            }
            walk.begin();
            // What no verifier takes is not in the manifest either; they find it in the segment.
            frames.iter().for_each(|(kind, payload)| drop(walk.frame(*kind, payload)));
            let parts = walk.reached().into_iter().map(|(log, reached)| {
                let tree = Tree::new(hashes[&log].clone());
                let (end, all) = (usize::try_from(reached.end).unwrap(), hashes[&log].len());
                // A checkpoint comes some leaves later, if there are any.
                let size = all.min(end + 1);
                let key = self.key(n, &log);
                archive::LogPart {
                    keys: key.verifying().lines(),
                    first: reached.first,
                    end: reached.end,
                    root: Hex(reached.root),
                    last: Hex(reached.last),
                    edge: reached.edge.into_iter().map(Hex).collect(),
                    checkpoint: key.checkpoint(size as u64, &tree.root(size).unwrap()),
                    proof: tree.consistency(end, size).unwrap().into_iter().map(Hex).collect(),
                    log,
                }
            });
            let to = frames.iter().map(|(_, payload)| 20 + payload.len() as u64).sum::<u64>() + 32;
            let digest = sha256(&bytes);
            let sealed = Sealed { index: n as u64, sha256: Hex(digest), bytes: size, from: 32, to };
            let key = self.key(n, PLANE);
            let mut manifest = Manifest::new(key.verifying(), n as u64, previous, sealed, parts.collect())
                .with_statements(self.keys[n].1.clone());
            change(n, &mut manifest);
            objects.insert(Name::Segment { index: n as u64, digest }.to_string(), bytes);
            let bytes = sign(n, &manifest);
            previous = Some(sha256(&bytes));
            objects.insert(Name::Manifest { number: n as u64, digest: sha256(&bytes) }.to_string(), bytes);
        }
        objects
    }
}

/// A manifest with this line, whatever it is, under a note that is about it.
fn signed_line(key: &SigningKey, number: usize, line: &str) -> Vec<u8> {
    let text =
        format!("cogward.dev/archive/manifest/v1\n{PLANE}\n{number}\n{}\n", archive::hex(&sha256(line.as_bytes())));
    (key.note(&text).unwrap() + line).into_bytes()
}

/// Leaves of all logs.
const LEAVES: u64 = 13;

fn case(name: impl Into<String>, objects: BTreeMap<String, Vec<u8>>, what: &'static str, leaf: Option<u64>) -> Case {
    Case { name: name.into(), objects, key: None, against: None, verdict: (what, leaf) }
}

/// The archive whose bytes are flipped one by one: of one kind of key, with a rotation.
pub fn small() -> BTreeMap<String, Vec<u8>> {
    Maker::rotated().objects()
}

/// A manifest of the small archive with any line, signed by the key of its first segments.
pub fn sign_line(number: usize, line: &str) -> Vec<u8> {
    signed_line(&Maker::rotated().key_of(PLANE, 61), number, line)
}

/// The manifest with a number.
pub fn manifest_of(objects: &BTreeMap<String, Vec<u8>>, number: u64) -> String {
    let starts = format!("manifests/{number:016x}-");
    objects.keys().find(|name| name.starts_with(&starts)).unwrap().clone()
}

fn segment_of(objects: &BTreeMap<String, Vec<u8>>, number: u64) -> String {
    let starts = format!("segments/{number:016x}-");
    objects.keys().find(|name| name.starts_with(&starts)).unwrap().clone()
}

/// Every case but the flips.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    readers(&mut all);
    objects_damaged(&mut all);
    manifests_changed(&mut all);
    manifests_written(&mut all);
    keys_changed(&mut all);
    frames_changed(&mut all);
    all
}

fn readers(all: &mut Vec<Case>) {
    let maker = Maker::new();
    let objects = maker.objects();
    let good = |name: &str| case(name, objects.clone(), "ok", Some(LEAVES));
    all.push(good("as-it-must-be"));
    let two_kinds = Maker { two_kinds: true, ..Maker::new() };
    all.push(case("with-two-kinds-of-keys", two_kinds.objects(), "ok", Some(LEAVES)));
    let mut unnamed = objects.clone();
    unnamed.insert("segments/leftover.new".to_owned(), b"left".to_vec());
    all.push(case("with-a-leftover", unnamed, "ok", Some(LEAVES)));
    let mut unnamed = objects.clone();
    let name = manifest_of(&objects, 2);
    unnamed.insert(name.replacen("0000000000000002", "2", 1), objects[&name].clone());
    all.push(case("with-a-manifest-under-another-name", unnamed, "ok", Some(LEAVES)));
    for (name, origin, seed, what) in [
        ("known", PLANE, 61, "ok"),
        ("known-another", PLANE, 62, "signature"),
        ("known-of-another-plane", "cogward.dev/ledger/evil", 61, "signature"),
    ] {
        let key = Some(maker.key_of(origin, seed).verifying().to_string());
        let verdict = (what, (what == "ok").then_some(LEAVES));
        all.push(Case { key, verdict, ..good(name) });
    }
    let hashes = maker.hashes();
    let kept = |log: &str, seed: u8, size: usize| {
        let origin = if log.is_empty() { PLANE.to_owned() } else { format!("{PLANE}/{log}") };
        let root = Tree::new(hashes[&origin].clone()).root(size).unwrap();
        maker.key_of(&origin, seed).checkpoint(size as u64, &root)
    };
    let text = |number| String::from_utf8(objects[&manifest_of(&objects, number)].clone()).unwrap();
    let other = Maker::rotated().objects();
    let elsewhere = String::from_utf8(other[&manifest_of(&other, 2)].clone()).unwrap();
    for (name, note, holds) in [
        ("a-tenants", kept("acme", 71, 6), true),
        ("a-tenants-earlier", kept("acme", 71, 1), true),
        ("a-tenants-of-nothing", kept("acme", 71, 0), true),
        ("the-planes", kept("", 61, 4), true),
        ("a-tenants-by-a-stranger", kept("acme", 72, 6), false),
        ("the-planes-by-a-stranger", kept("", 62, 4), false),
        ("a-tenants-of-another-history", maker.key(0, &format!("{PLANE}/acme")).checkpoint(6, &[7; 32]), false),
        ("a-tenants-longer", maker.key(0, &format!("{PLANE}/acme")).checkpoint(7, &[7; 32]), false),
        ("of-a-log-that-is-not-there", maker.key(0, &format!("{PLANE}/gamma")).checkpoint(1, &[7; 32]), false),
        // That says nothing, of whatever log.
        (
            "of-nothing-of-a-log-that-is-not-there",
            maker.key(0, &format!("{PLANE}/gamma")).checkpoint(0, &[7; 32]),
            true,
        ),
        ("of-another-plane", maker.key_of("cogward.dev/ledger/evil", 61).checkpoint(1, &[7; 32]), false),
        ("of-a-plane-with-a-longer-name", maker.key_of(&format!("{PLANE}s"), 61).checkpoint(0, &[7; 32]), false),
        ("the-newest-manifest", text(2), true),
        ("the-first-manifest", text(0), true),
        ("a-manifest-of-another-archive", elsewhere, false),
        ("nonsense", "nonsense\n".to_owned(), false),
    ] {
        let verdict = if holds { ("ok", Some(LEAVES)) } else { ("against", None) };
        all.push(Case { against: Some(note), verdict, ..good(&format!("kept-{name}")) });
    }
    // Without its newest part: only what was kept shows it.
    let mut cut = objects.clone();
    cut.remove(&manifest_of(&objects, 2));
    cut.remove(&segment_of(&objects, 2));
    all.push(case("newest-part-taken-away", cut.clone(), "ok", Some(8)));
    for (name, note) in [("checkpoint", kept("acme", 71, 6)), ("manifest", text(2))] {
        let case = case(format!("newest-part-taken-away-and-a-{name}-kept"), cut.clone(), "against", None);
        all.push(Case { against: Some(note), ..case });
    }
    let mut cut = objects.clone();
    cut.remove(&manifest_of(&objects, 2));
    all.push(case("newest-manifest-taken-away", cut, "ok", Some(8)));
}

/// Somebody without a key changes objects.
fn objects_damaged(all: &mut Vec<Case>) {
    let whole = Maker::new().objects();
    let [manifests, segments] = [manifest_of, segment_of].map(|of: fn(&_, _) -> _| [0, 1, 2].map(|n| of(&whole, n)));
    type Change<'a> = &'a dyn Fn(&mut BTreeMap<String, Vec<u8>>);
    let mut add = |name: &str, what, leaf, change: Change<'_>| {
        let mut objects = whole.clone();
        change(&mut objects);
        all.push(case(name, objects, what, leaf));
    };
    add("empty", "missing", None, &|objects| objects.clear());
    add("no-manifests", "missing", None, &|objects| objects.retain(|name, _| name.starts_with("segments")));
    for n in 0..3 {
        if n < 2 {
            add(&format!("manifest-{n}-missing"), "missing", None, &|objects| drop(objects.remove(&manifests[n])));
        }
        add(&format!("segment-{n}-missing"), "missing", None, &|objects| drop(objects.remove(&segments[n])));
        for (kind, names) in [("manifest", &manifests), ("segment", &segments)] {
            let name = &names[n];
            add(&format!("{kind}-{n}-empty"), "bytes", None, &|objects| objects.get_mut(name).unwrap().clear());
            add(&format!("{kind}-{n}-longer"), "bytes", None, &|objects| objects.get_mut(name).unwrap().push(0));
            add(&format!("{kind}-{n}-cut"), "bytes", None, &|objects| {
                objects.get_mut(name).unwrap().truncate(whole[name].len() - 1)
            });
        }
    }
    add("manifests-exchanged", "bytes", None, &|objects| {
        let [one, other] = [1, 2].map(|n: usize| objects[&manifests[n]].clone());
        objects.insert(manifests[1].clone(), other);
        objects.insert(manifests[2].clone(), one);
    });
    add("manifests-exchanged-with-their-names", "manifest", None, &|objects| {
        let [one, other] = [1, 2].map(|n: usize| objects.remove(&manifests[n]).unwrap());
        objects.insert(Name::Manifest { number: 1, digest: sha256(&other) }.to_string(), other);
        objects.insert(Name::Manifest { number: 2, digest: sha256(&one) }.to_string(), one);
    });
    add("segments-exchanged", "bytes", None, &|objects| {
        let [one, other] = [1, 2].map(|n: usize| objects[&segments[n]].clone());
        objects.insert(segments[1].clone(), other);
        objects.insert(segments[2].clone(), one);
    });
    add("segment-exchanged-with-its-name", "missing", None, &|objects| {
        let other = objects.remove(&segments[2]).unwrap();
        objects.remove(&segments[1]);
        objects.insert(Name::Segment { index: 1, digest: sha256(&other) }.to_string(), other);
    });
    let theirs = Maker { two_kinds: true, ..Maker::new() }.objects();
    add("two-manifests-of-a-number", "manifest", None, &|objects| {
        let name = manifest_of(&theirs, 2);
        objects.insert(name.clone(), theirs[&name].clone());
    });
    let evil = Maker { keys: vec![(69, vec![]), (69, vec![]), (69, vec![])], ..Maker::new() }.objects();
    add("manifest-of-another-chain", "signature", None, &|objects| {
        objects.remove(&manifests[2]);
        let name = manifest_of(&evil, 2);
        objects.insert(name.clone(), evil[&name].clone());
    });
    // The same key has made another archive, with one leaf less in the first segment.
    let mut less = Maker::new();
    less.segments[0].pop();
    less.segments[1].insert(0, Maker::new().segments[0][5].clone());
    let less = less.objects();
    add("manifest-of-another-archive-of-the-plane", "manifest", None, &|objects| {
        objects.remove(&manifests[2]);
        let name = manifest_of(&less, 2);
        objects.insert(name.clone(), less[&name].clone());
    });
    let at = |number: usize, what: &[u8]| {
        whole[&segments[number]].windows(what.len()).position(|part| part == what).unwrap()
    };
    let tool = at(1, b"\"tenant\"");
    add("leaf-flipped", "bytes", Some(3), &|objects| objects.get_mut(&segments[1]).unwrap()[tool] ^= 1);
    let sealed = at(0, b"sealed");
    add("sealed-flipped", "bytes", Some(2), &|objects| objects.get_mut(&segments[0]).unwrap()[sealed] ^= 1);
    // A checksum is nobody's secret: only the digest in the manifest is.
    let fitted = |number: usize, change: &dyn Fn(&mut Frames)| {
        let mut frames = Maker::new().segments[number].clone();
        change(&mut frames);
        segment(number as u64, &frames, if number == 1 { 0 } else { 40 })
    };
    let sealed_anew = fitted(0, &|frames| frames[2].1 = named("acme", b"healed"));
    add("sealed-changed-with-its-checksum", "bytes", None, &|objects| {
        objects.insert(segments[0].clone(), sealed_anew.clone());
    });
    let told_anew = fitted(2, &|frames| {
        let last = frames.len() - 1;
        let text = String::from_utf8(frames[last].1[5..].to_vec()).unwrap();
        frames[last].1 = named("acme", text.replacen("permit", "fermit", 1).as_bytes());
    });
    add("last-leaf-changed-with-its-checksum", "bytes", None, &|objects| {
        objects.insert(segments[2].clone(), told_anew.clone());
    });
    let key = Maker::new().key(2, PLANE);
    add("two-manifests-that-both-follow", "manifest", None, &|objects| {
        let text = String::from_utf8(objects[&manifests[2]].clone()).unwrap();
        let line = &text[text.find("\n{").unwrap() + 1..];
        let other = signed_line(&key, 2, &line.replacen("{\"form\"", "{ \"form\"", 1));
        objects.insert(Name::Manifest { number: 2, digest: sha256(&other) }.to_string(), other);
    });
    let later = at(1, b"of a later plane");
    add("later-kind-flipped", "bytes", None, &|objects| objects.get_mut(&segments[1]).unwrap()[later] ^= 1);
    let last = whole[&segments[0]].len() - 1;
    add("spare-bytes-flipped", "bytes", None, &|objects| objects.get_mut(&segments[0]).unwrap()[last] ^= 1);
    add("magic-flipped", "bytes", None, &|objects| objects.get_mut(&segments[0]).unwrap()[0] ^= 1);
}

/// The holder of the key signs manifests that say something else.
fn manifests_changed(all: &mut Vec<Case>) {
    let maker = Maker::new();
    let hashes = maker.hashes();
    let acme = format!("{PLANE}/acme");
    type Change<'a> = &'a dyn Fn(&mut Manifest);
    let mut add = |name: &str, number: usize, what, leaf, change: Change<'_>| {
        let objects = maker.objects_with(&|n, manifest| {
            if n == number {
                change(manifest);
            }
        });
        all.push(case(name, objects, what, leaf));
    };
    add("number-wrong", 1, "manifest", None, &|m| m.number = 2);
    add("number-and-segment-wrong", 1, "manifest", None, &|m| (m.number, m.segment.index) = (2, 2));
    add("previous-wrong", 1, "manifest", None, &|m| m.previous = Some(Hex([7; 32])));
    add("previous-left-out", 1, "manifest", None, &|m| m.previous = None);
    add("previous-of-the-first", 0, "manifest", None, &|m| m.previous = Some(Hex([7; 32])));
    add("plane-wrong", 1, "signature", None, &|m| m.plane = "cogward.dev/ledger/evil".to_owned());
    add("keys-left-out-of-the-first", 0, "signature", None, &|m| m.keys.clear());
    add("keys-left-out-of-a-later-one", 1, "ok", Some(LEAVES), &|m| m.keys.clear());
    add("segment-of-another-number", 1, "manifest", None, &|m| m.segment.index = 2);
    add("segment-digest-wrong", 1, "missing", None, &|m| m.segment.sha256 = Hex([7; 32]));
    add("segment-size-wrong", 1, "bytes", None, &|m| m.segment.bytes += 1);
    add("frames-begin-elsewhere", 1, "manifest", None, &|m| m.segment.from += 1);
    add("frames-end-elsewhere", 1, "manifest", None, &|m| m.segment.to += 1);
    // By origin: the plane, acme, beta.
    add("log-left-out", 0, "manifest", Some(0), &|m| drop(m.logs.remove(2)));
    add("log-left-out-later", 2, "manifest", Some(4), &|m| drop(m.logs.remove(1)));
    add("log-twice", 0, "manifest", None, &|m| m.logs.push(m.logs[2].clone()));
    add("log-that-is-not-there", 0, "manifest", None, &|m| {
        let log = format!("{PLANE}/gamma");
        m.logs.push(archive::LogPart { log, ..m.logs[2].clone() });
    });
    add("first-wrong", 2, "manifest", Some(4), &|m| m.logs[1].first = 3);
    add("end-wrong", 2, "manifest", Some(4), &|m| m.logs[1].end = 5);
    add("root-wrong", 2, "root", Some(5), &|m| m.logs[1].root = Hex([7; 32]));
    add("last-wrong", 2, "root", Some(5), &|m| m.logs[1].last = Hex([7; 32]));
    add("edge-wrong", 2, "root", Some(5), &|m| m.logs[1].edge[0] = Hex([7; 32]));
    add("edge-longer", 2, "root", Some(5), &|m| m.logs[1].edge.push(Hex([7; 32])));
    add("logs-in-another-order", 0, "ok", Some(LEAVES), &|m| m.logs.reverse());
    // The checkpoint does not cover, is not signed, or of another log.
    let key = maker.key(0, &acme);
    let tree = Tree::new(hashes[&acme].clone());
    let at = |size: usize| tree.root(size).unwrap();
    add("key-missing", 0, "key", None, &|m| m.logs[1].keys.clear());
    add("key-no-key", 0, "key", None, &|m| m.logs[1].keys = "nonsense\n".to_owned());
    add("key-of-another-log", 0, "key", None, &|m| {
        let theirs = m.logs[2].keys.clone();
        m.logs[1].keys = theirs;
    });
    add("key-of-a-stranger", 0, "signature", None, &|m| {
        m.logs[1].keys = maker.key_of(&acme, 72).verifying().lines();
    });
    add("key-of-the-plane-another", 0, "key", None, &|m| m.logs[0].keys = maker.key_of(PLANE, 62).verifying().lines());
    // One kind more beside the plane's: nobody has asked for it.
    add("key-of-the-plane-and-another-kind", 0, "ok", Some(LEAVES), &|m| {
        m.logs[0].keys = maker.key_of(PLANE, 61).with_ml_dsa(&[7; 32]).unwrap().verifying().lines();
    });
    add("checkpoint-missing", 0, "signature", None, &|m| m.logs[1].checkpoint.clear());
    add("checkpoint-by-a-stranger", 0, "signature", None, &|m| {
        m.logs[1].checkpoint = maker.key_of(&acme, 72).checkpoint(4, &at(4));
    });
    add("checkpoint-of-another-log", 0, "signature", None, &|m| {
        let theirs = m.logs[2].checkpoint.clone();
        m.logs[1].checkpoint = theirs;
    });
    add("checkpoint-not-covering", 0, "root", None, &|m| m.logs[1].checkpoint = key.checkpoint(2, &at(2)));
    add("checkpoint-not-covering-with-its-proof", 0, "root", None, &|m| {
        m.logs[1].checkpoint = key.checkpoint(2, &at(2));
        m.logs[1].proof = tree.consistency(2, 3).unwrap().into_iter().map(Hex).collect();
    });
    add("checkpoint-of-another-history", 0, "root", None, &|m| m.logs[1].checkpoint = key.checkpoint(4, &[7; 32]));
    add("checkpoint-just-covering", 0, "ok", Some(LEAVES), &|m| {
        m.logs[1].checkpoint = key.checkpoint(3, &at(3));
        m.logs[1].proof.clear();
    });
    add("checkpoint-of-the-whole-log", 0, "ok", Some(LEAVES), &|m| {
        m.logs[1].checkpoint = key.checkpoint(6, &at(6));
        m.logs[1].proof = tree.consistency(3, 6).unwrap().into_iter().map(Hex).collect();
    });
    add("checkpoint-of-the-same-size-another", 2, "root", None, &|m| {
        m.logs[1].checkpoint = key.checkpoint(6, &[7; 32])
    });
    add("proof-missing", 0, "root", None, &|m| m.logs[1].proof.clear());
    add("proof-wrong", 0, "root", None, &|m| m.logs[1].proof[0] = Hex([7; 32]));
    add("proof-longer", 0, "root", None, &|m| m.logs[1].proof.push(Hex([7; 32])));
    add("proof-where-none-is", 2, "root", None, &|m| m.logs[1].proof.push(Hex([7; 32])));
}

/// A manifest is one line that is signed as it is.
fn manifests_written(all: &mut Vec<Case>) {
    let maker = Maker::new();
    let key = maker.key(0, PLANE);
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    for (name, from, to, holds) in [
        ("as-it-is", "{\"form\":1", "{\"form\":1".to_owned(), true),
        ("with-spaces", ",\"plane\"", " , \"plane\"".to_owned(), true),
        ("with-an-escape", "\"plane\"", "\"pl\\u0061ne\"".to_owned(), true),
        ("with-no-statements", ",\"logs\":", ",\"statements\":[],\"logs\":".to_owned(), true),
        ("of-form-2", "\"form\":1", "\"form\":2".to_owned(), false),
        ("of-form-1.0", "\"form\":1", "\"form\":1.0".to_owned(), false),
        ("of-form-true", "\"form\":1", "\"form\":true".to_owned(), false),
        ("with-a-key-twice", "\"form\":1", "\"form\":1,\"form\":1".to_owned(), false),
        ("with-more", "\"form\":1", "\"form\":1,\"more\":1".to_owned(), false),
        ("with-more-in-the-segment", "\"index\":1", "\"index\":1,\"more\":1".to_owned(), false),
        ("with-more-in-a-log", "{\"log\":", "{\"more\":1,\"log\":".to_owned(), false),
        ("with-a-number-left-out", "\"number\":1,", String::new(), false),
        ("with-a-negative-number", "\"from\":32", "\"from\":-32".to_owned(), false),
        ("with-a-fraction", "\"from\":32", "\"from\":32.0".to_owned(), false),
        ("with-a-number-of-65-bits", "\"from\":32", "\"from\":18446744073709551648".to_owned(), false),
        ("with-a-text-as-number", "\"from\":32", "\"from\":\"32\"".to_owned(), false),
        ("with-a-hash-in-capitals", "\"sha256\":\"", "\"sha256\":\"A".to_owned(), false),
        ("with-a-hash-that-is-too-long", "\"sha256\":\"", "\"sha256\":\"ab".to_owned(), false),
        ("with-a-statement-that-is-none", ",\"logs\":", ",\"statements\":[7],\"logs\":".to_owned(), false),
        ("much-deeper", "\"form\":1", format!("\"form\":1,\"more\":{deep}"), false),
        ("with-half-a-character", "\"keys\":\"", "\"keys\":\"\\ud800".to_owned(), false),
        ("as-a-list", "{\"form\":1", "[{\"form\":1".to_owned(), false),
        ("in-two-lines", ",\"plane\"", "\n,\"plane\"".to_owned(), false),
        ("without-its-end", "}\n", "}".to_owned(), false),
        ("with-an-empty-line", "}\n", "}\n\n".to_owned(), false),
    ] {
        let objects = maker.signed_with(&|_, _| {}, &|n, manifest| {
            let bytes = manifest.sign(&key).unwrap();
            if n != 1 {
                return bytes;
            }
            let text = String::from_utf8(bytes).unwrap();
            let line = &text[text.find("\n{").unwrap() + 1..];
            assert!(line.contains(from), "{name}");
            signed_line(&key, 1, &line.replacen(from, &to, 1))
        });
        let verdict = if holds { ("ok", Some(LEAVES)) } else { ("signature", None) };
        all.push(Case { verdict, ..case(format!("written-{name}"), objects, "ok", None) });
    }
    let objects = maker.signed_with(&|_, _| {}, &|n, manifest| {
        let text = String::from_utf8(manifest.sign(&key).unwrap()).unwrap();
        let line = &text[text.find("\n{").unwrap() + 1..];
        signed_line(&key, n, &line.replacen("\"previous\":null,", "", 1))
    });
    all.push(case("written-with-nothing-before-the-first", objects, "ok", Some(LEAVES)));
    // The note is about another line, another number, or is a note of another kind.
    for (name, make) in [
        ("note-of-another-number", (|key, line| signed_line(key, 2, line)) as fn(&SigningKey, &str) -> Vec<u8>),
        ("note-of-another-line", |key, line| {
            let text = String::from_utf8(signed_line(key, 1, "another\n")).unwrap();
            (text.strip_suffix("another\n").unwrap().to_owned() + line).into_bytes()
        }),
        ("note-with-a-witness", |key, line| {
            let text = String::from_utf8(signed_line(key, 1, line)).unwrap();
            let (note, line) = text.split_once("\n{").unwrap();
            format!("{note}\n\u{2014} witness.example/w1 AAAAAAAA\n{{{line}").into_bytes()
        }),
        ("note-of-a-checkpoint", |key, line| (key.checkpoint(2, &[7; 32]) + line).into_bytes()),
        ("note-left-out", |_, line| line.as_bytes().to_vec()),
        ("not-text", |key, line| [&signed_line(key, 1, line)[..], b"\xff"].concat()),
    ] {
        let objects = maker.signed_with(&|_, _| {}, &|n, manifest| {
            let bytes = manifest.sign(&key).unwrap();
            let text = String::from_utf8(bytes.clone()).unwrap();
            if n == 1 { make(&key, &text[text.find("\n{").unwrap() + 1..]) } else { bytes }
        });
        let verdict = if name == "note-with-a-witness" { ("ok", Some(LEAVES)) } else { ("signature", None) };
        all.push(Case { verdict, ..case(name, objects, "ok", None) });
    }
}

/// The plane's key is replaced on the way.
fn keys_changed(all: &mut Vec<Case>) {
    let maker = Maker::rotated();
    let objects = maker.objects();
    let [first, second] = [61, 62].map(|seed| maker.key_of(PLANE, seed));
    all.push(case("rotated", objects.clone(), "ok", Some(LEAVES)));
    for (name, key, holds) in
        [("first", &first, true), ("present", &second, true), ("none", &maker.key_of(PLANE, 63), false)]
    {
        let verdict = if holds { ("ok", Some(LEAVES)) } else { ("signature", None) };
        let key = Some(key.verifying().to_string());
        all.push(Case { key, verdict, ..case(format!("rotated-known-{name}"), objects.clone(), "ok", None) });
    }
    let root = |size: usize| Tree::new(maker.hashes()[PLANE].clone()).root(size).unwrap();
    for (name, note, holds) in [
        ("by-the-first-key-of-its-time", first.checkpoint(2, &root(2)), true),
        ("by-the-first-key-later", first.checkpoint(3, &root(3)), false),
        ("by-the-present-key", second.checkpoint(4, &root(4)), true),
    ] {
        let verdict = if holds { ("ok", Some(LEAVES)) } else { ("against", None) };
        all.push(Case {
            against: Some(note),
            verdict,
            ..case(format!("rotated-kept-{name}"), objects.clone(), "ok", None)
        });
    }
    let statement = |generation, old: &SigningKey, new: &SigningKey, by: &[&SigningKey]| {
        let (old, new) = (old.verifying().clone(), new.verifying().clone());
        let statement = Statement::Rotation { generation, old, new, size: 2, time: "now".to_owned() };
        statement.signed(by).unwrap()
    };
    let third = maker.key_of(PLANE, 63);
    for (name, statements) in [
        ("not-told", vec![]),
        ("told-by-the-new-key-alone", vec![statement(1, &first, &second, &[&second])]),
        ("told-by-the-old-key-alone", vec![statement(1, &first, &second, &[&first])]),
        ("told-of-another-key", vec![statement(1, &first, &third, &[&first, &third])]),
        ("told-of-another-number", vec![statement(2, &first, &second, &[&first, &second])]),
        ("told-nonsense", vec!["nonsense".to_owned()]),
    ] {
        let mut maker = Maker::rotated();
        maker.keys[2].1 = statements;
        all.push(case(format!("rotated-{name}"), maker.objects(), "signature", None));
    }
    // A tenant's key is replaced in the last segment: what was kept is signed by one or the other.
    let maker = Maker::new();
    let acme = format!("{PLANE}/acme");
    let tree = Tree::new(maker.hashes()[&acme].clone());
    let later = maker.key_of(&acme, 73);
    let objects = maker.objects_with(&|n, manifest| {
        if n == 2 {
            manifest.logs[1].keys = later.verifying().lines();
            manifest.logs[1].checkpoint = later.checkpoint(6, &tree.root(6).unwrap());
        }
    });
    all.push(case("a-tenants-key-replaced", objects.clone(), "ok", Some(LEAVES)));
    for (name, seed, size, holds) in [("first", 71, 3, true), ("later", 73, 5, true), ("none", 72, 3, false)] {
        let note = maker.key_of(&acme, seed).checkpoint(size, &tree.root(usize::try_from(size).unwrap()).unwrap());
        let verdict = if holds { ("ok", Some(LEAVES)) } else { ("against", None) };
        let name = format!("a-tenants-key-replaced-kept-by-the-{name}");
        all.push(Case { against: Some(note), verdict, ..case(name, objects.clone(), "ok", None) });
    }
    let mut nonsense = Maker::new();
    nonsense.keys[1].1 = vec!["nonsense".to_owned()];
    all.push(case("told-nonsense-and-no-key-replaced", nonsense.objects(), "signature", None));
    // Told before the segment of its time: the present key has to sign from there on.
    let mut early = Maker::rotated();
    early.keys[1].1 = early.keys[2].1.clone();
    all.push(case("rotated-told-too-early", early.objects(), "signature", None));
    let mut from_the_first = Maker::rotated();
    from_the_first.keys = vec![(62, from_the_first.keys[2].1.clone()), (62, vec![]), (62, vec![])];
    let mut objects = from_the_first.objects();
    all.push(case("rotated-before-the-archive", objects.clone(), "ok", Some(LEAVES)));
    let key = Some(first.verifying().to_string());
    let verdict = ("ok", Some(LEAVES));
    all.push(Case { key, verdict, ..case("rotated-before-the-archive-known-first", objects.clone(), "ok", None) });
    // Its first manifest is that of the key before.
    let name = manifest_of(&objects, 0);
    objects.remove(&name);
    let theirs = Maker::new().objects();
    let name = manifest_of(&theirs, 0);
    objects.insert(name.clone(), theirs[&name].clone());
    all.push(case("first-manifest-of-the-key-before", objects, "signature", None));
}

/// The holder of the key writes other frames, and makes all else fit.
fn frames_changed(all: &mut Vec<Case>) {
    let leaf = |name: &str, bytes: &[u8]| (1, named(name, bytes));
    let base = Maker::new();
    let (acme, beta) = (leaves(6), leaves_of("beta", 3, &BTreeMap::new()));
    let edited = |at: usize, from: &str, to: &str| {
        let text = String::from_utf8(acme[at].clone()).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        leaf("acme", text.replacen(from, to, 1).as_bytes())
    };
    let plane = |seq: u64, from: &str, to: &str| {
        let text = String::from_utf8(plane_leaf(seq)).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        (16, named("", text.replacen(from, to, 1).as_bytes()))
    };
    let last = base.segments[2].len() - 1;
    let mut add = |name: &str, at: (usize, usize), frame: (u8, Vec<u8>), what, leaf| {
        let mut maker = Maker::new();
        maker.segments[at.0][at.1] = frame;
        all.push(case(name, maker.objects(), what, leaf));
    };
    add("leaf-of-another-number", (2, last), edited(5, "\"seq\":5", "\"seq\":6"), "seq", Some(5));
    add("leaf-of-another-predecessor", (2, last), edited(5, "\"prev\":\"", "\"prev\":\"A"), "prev", Some(5));
    add(
        "leaf-of-another-tenant",
        (2, last),
        edited(5, "\"tenant\":\"acme\"", "\"tenant\":\"evil\""),
        "tenant",
        Some(5),
    );
    add("leaf-of-another-version", (2, last), edited(5, "\"v\":1", "\"v\":2"), "form", Some(5));
    add("leaf-back-dated", (2, last), edited(5, "2026-", "2025-"), "time", Some(5));
    add("leaf-at-no-time", (2, last), edited(5, "2026-", "2O26-"), "time", Some(5));
    add("leaf-not-canonical", (2, last), edited(5, "\"v\":1", "\"v\": 1"), "form", Some(5));
    add("leaf-changed", (0, 1), edited(1, "permit", "forbid"), "prev", Some(2));
    add("leaf-of-nobody", (0, 0), leaf("", &acme[0]), "form", None);
    add("leaf-of-a-name-with-a-slash", (0, 0), leaf("a/b", &acme[0]), "form", None);
    add("leaf-under-another-name", (0, 3), leaf("gamma", &beta[0]), "tenant", Some(0));
    add("plane-leaf-of-another-number", (2, 3), plane(3, "\"seq\":3", "\"seq\":4"), "seq", Some(3));
    add("plane-leaf-back-dated", (2, 3), plane(3, "2026-", "2025-"), "time", Some(3));
    add("plane-leaf-at-no-time", (2, 3), plane(3, "2026-11", "2026-13"), "form", Some(3));
    add("plane-leaf-not-canonical", (2, 3), plane(3, "\"v\":1", "\"v\": 1"), "form", Some(3));
    add("plane-leaf-of-somebody", (2, 3), (16, named("acme", &plane_leaf(3))), "form", Some(3));
    let mut add = |name: &str, what, leaf, change: &dyn Fn(&mut Maker)| {
        let mut maker = Maker::new();
        change(&mut maker);
        all.push(case(name, maker.objects(), what, leaf));
    };
    add("segment-that-says-another-number", "bytes", None, &|maker| maker.indexes[1] = 2);
    add("segment-with-something-behind-its-frames", "bytes", None, &|maker| {
        maker.done = Some((0, |bytes| *bytes.last_mut().unwrap() = 1));
    });
    add("segment-longer-than-it-says", "bytes", None, &|maker| maker.done = Some((0, |bytes| bytes.push(0))));
    add("segment-shorter-than-it-says", "bytes", None, &|maker| {
        maker.done = Some((0, |bytes| bytes.truncate(bytes.len() - 1)));
    });
    add("leaf-taken-out", "seq", Some(1), &|maker| drop(maker.segments[0].remove(1)));
    add("leaf-twice", "seq", Some(2), &|maker| maker.segments[0].insert(1, base.segments[0][1].clone()));
    add("leaves-exchanged", "seq", Some(0), &|maker| maker.segments[0].swap(0, 1));
    add("nothing-in-a-segment", "ok", Some(3), &|maker| {
        maker.segments = vec![vec![], vec![plane_frame(0)], vec![plane_frame(1), plane_frame(2)]];
    });
    add("a-frame-of-kind-0", "bytes", None, &|maker| maker.segments[1][3].0 = 0);
    add("a-frame-cut-within-its-name", "form", None, &|maker| maker.segments[0][0].1.truncate(3));
}

fn plane_frame(seq: u64) -> (u8, Vec<u8>) {
    (16, named("", &plane_leaf(seq)))
}
