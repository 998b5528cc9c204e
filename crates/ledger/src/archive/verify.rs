//! Verifying an archive alone: the chain of manifests, every byte of every segment, every leaf, every checkpoint.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
};

use serde::Serialize;

use crate::{
    Hash,
    key_chain::KeyChain,
    note::{Checkpoint, Note, NoteError, VerifyingKey},
    proof::verify_consistency,
    verify::What,
};

use super::{
    ManifestKeys, Name, Objects, hex,
    manifest::{LogPart, MANIFEST_BYTES_MAX, Manifest},
    segment::{SegmentError, SegmentReader},
    sha256,
    walk::{Problem, Walk},
};

/// The first thing that is wrong in an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{object}: {}{}{}: {detail}",
    match log { Some(log) => format!("{log}: "), None => String::new() },
    match leaf { Some(leaf) => format!("leaf {leaf}: "), None => String::new() },
    what.as_str())]
pub struct Finding {
    /// The object.
    pub object: String,
    /// The origin of the log, when it is about one.
    pub log: Option<String>,
    /// The number of the leaf, when it is about one.
    pub leaf: Option<u64>,
    /// The rule.
    pub what: What,
    /// In words.
    pub detail: String,
}

impl Finding {
    fn new(object: impl Into<String>, what: What, detail: impl Into<String>) -> Self {
        Self { object: object.into(), log: None, leaf: None, what, detail: detail.into() }
    }

    fn of(object: &Name, problem: Problem) -> Self {
        let Problem { log, leaf, what, detail } = problem;
        Self { object: object.to_string(), log, leaf, what, detail }
    }
}

/// With what an archive is compared.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// The public keys of the plane log, from elsewhere.
    pub key: Option<&'a VerifyingKey>,
    /// A checkpoint of one of the plane's logs, or a manifest, that was kept elsewhere: the archive must contain it.
    pub against: Option<&'a str>,
}

/// What holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The origin of the plane log.
    pub plane: String,
    /// Segments, and as many manifests.
    pub segments: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Leaves of all logs.
    pub leaves: u64,
    /// The size of each log at the end of the archive.
    pub logs: BTreeMap<String, u64>,
    /// The SHA-256 of the newest manifest: whoever keeps it can show later that nothing behind it was taken away.
    pub newest: String,
    /// Objects that no manifest names: a copy that was broken off leaves some.
    pub unnamed: Vec<String>,
    /// The public key that was used.
    pub key: String,
    /// Whether it was given, and not taken from the archive itself.
    pub key_pinned: bool,
    /// Whether the key that was given was revoked since: whoever has it can show another archive.
    pub key_revoked: bool,
    /// Whether a checkpoint or a manifest from elsewhere was given, and is contained.
    pub compared: bool,
}

/// What the archive must contain.
enum Kept {
    Nothing,
    Checkpoint(Checkpoint),
    Manifest(Hash),
}

/// The objects of an archive by what they are.
struct Inventory {
    manifests: Vec<Name>,
    segments: BTreeSet<Name>,
    unnamed: Vec<String>,
}

impl Inventory {
    fn read(objects: &dyn Objects) -> Result<Self, Finding> {
        let names = objects.list().map_err(|error| Finding::new("the archive", What::Missing, error.to_string()))?;
        let (mut manifests, mut segments, mut unnamed) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        for text in names {
            match Name::parse(&text) {
                Some(name @ Name::Manifest { number, .. }) => {
                    if manifests.insert(number, name).is_some() {
                        let detail = format!("there are two manifests of number {number}: two archives are mixed");
                        return Err(Finding::new(text, What::Manifest, detail));
                    }
                }
                Some(name @ Name::Segment { .. }) => drop(segments.insert(name)),
                None => unnamed.push(text),
            }
        }
        for (number, expected) in manifests.keys().zip(0_u64..) {
            if *number != expected {
                let detail = format!("there is no manifest of number {expected}, and there are later ones");
                return Err(Finding::new("manifests", What::Missing, detail));
            }
        }
        if manifests.is_empty() {
            return Err(Finding::new("manifests", What::Missing, "there is no manifest: this is no archive"));
        }
        Ok(Self { manifests: manifests.into_values().collect(), segments, unnamed })
    }
}

/// The bytes of a manifest, whose name must be theirs.
fn manifest_bytes(objects: &dyn Objects, name: &Name) -> Result<Vec<u8>, Finding> {
    let text = name.to_string();
    let mut bytes = Vec::new();
    let read =
        objects.open(&text).and_then(|object| object.take(MANIFEST_BYTES_MAX as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|error| Finding::new(&text, What::Missing, error.to_string()))?;
    if sha256(&bytes) != name.digest() {
        return Err(Finding::new(text, What::Bytes, "its bytes do not have the digest in its name"));
    }
    Ok(bytes)
}

/// Verifies an archive.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(objects: &dyn Objects, options: &Options<'_>) -> Result<Verified, Finding> {
    let mut inventory = Inventory::read(objects)?;
    let mut keys = ManifestKeys::default();
    let (mut walk, mut kept) = (None::<Walk>, Kept::Nothing);
    let (mut previous, mut met) = (None::<Hash>, false);
    let (mut bytes, mut newest, mut signed) = (0_u64, [0; 32], KeptBy::default());
    for name in &inventory.manifests {
        let text = name.to_string();
        let content = manifest_bytes(objects, name)?;
        let unsigned = |error: super::ManifestError| Finding::new(&text, What::Signature, error.to_string());
        let manifest = keys.open(&content).map_err(unsigned)?;
        // It was signed by the present key of this chain, which is there by now.
        let Some(chain) = keys.chain() else {
            return Err(Finding::new(&text, What::Key, "there is no key of the plane"));
        };
        let key = chain.present();
        let walk = match &mut walk {
            Some(walk) => walk,
            None => {
                let mut first = Walk::new(key.origin());
                kept = read_kept(options.against, key.origin())?;
                if let Kept::Checkpoint(checkpoint) = &kept {
                    first.seek(checkpoint.clone());
                }
                walk.insert(first)
            }
        };
        chained(name, &manifest, previous)?;
        segment(objects, &mut inventory.segments, &manifest, walk)?;
        for part in &manifest.logs {
            let key = covered(part, walk, chain).map_err(|problem| Finding::of(name, problem))?;
            if let Some(note) = options.against {
                signed.look(&kept, note, &key);
            }
        }
        newest = name.digest();
        met |= matches!(kept, Kept::Manifest(digest) if digest == newest);
        previous = Some(newest);
        bytes += manifest.segment.bytes;
    }
    let (Some(walk), Some(chain)) = (walk, keys.chain()) else {
        return Err(Finding::new("manifests", What::Missing, "there is no manifest: this is no archive"));
    };
    let key = options.key.unwrap_or(chain.present());
    let generation = chain.generation_of(key).ok_or_else(|| {
        let detail = format!("the key that was given is none of those of `{}`", chain.present().origin());
        Finding::new("manifests", What::Signature, detail)
    })?;
    signed.check(&kept, options.against, chain)?;
    against(&kept, met, &walk)?;
    inventory.unnamed.extend(inventory.segments.iter().map(ToString::to_string));
    Ok(Verified {
        plane: key.origin().to_owned(),
        segments: inventory.manifests.len() as u64,
        bytes,
        leaves: walk.leaves(),
        logs: walk.sizes(),
        newest: hex(&newest),
        unnamed: inventory.unnamed,
        key: key.to_string(),
        key_pinned: options.key.is_some(),
        key_revoked: chain.is_revoked(generation),
        compared: !matches!(kept, Kept::Nothing),
    })
}

/// Whether a manifest follows the one before it.
fn chained(name: &Name, manifest: &Manifest, previous: Option<Hash>) -> Result<(), Finding> {
    let wrong = |detail: &str| Err(Finding::new(name.to_string(), What::Manifest, detail));
    if !matches!(name, Name::Manifest { number, .. } if *number == manifest.number) {
        return wrong("its number is not the one in its name");
    }
    if manifest.previous.map(|hash| hash.0) != previous {
        return wrong("it does not name the manifest before");
    }
    // The first segment of a write-ahead log has the number 0.
    if manifest.segment.index != manifest.number {
        return wrong("its segment does not follow the one before");
    }
    Ok(())
}

/// Reads the segment of a manifest and goes over its leaves.
fn segment(
    objects: &dyn Objects,
    there: &mut BTreeSet<Name>,
    manifest: &Manifest,
    walk: &mut Walk,
) -> Result<(), Finding> {
    let sealed = &manifest.segment;
    let name = Name::Segment { index: sealed.index, digest: sealed.sha256.0 };
    let text = name.to_string();
    if !there.remove(&name) {
        let other = there.iter().find(|other| matches!(other, Name::Segment { index, .. } if *index == sealed.index));
        let detail = match other {
            Some(other) => format!("it is not there; {other} has its number and other bytes"),
            None => format!("it is not there; manifest {} names it", manifest.number),
        };
        return Err(Finding::new(text, What::Missing, detail));
    }
    let file = objects.open(&text).map_err(|error| Finding::new(&text, What::Missing, error.to_string()))?;
    let broken = |error: SegmentError| Finding::new(&text, rule_of(&error), error.to_string());
    let mut reader = SegmentReader::open(file, sealed.index, sealed.bytes).map_err(broken)?;
    walk.begin();
    let mut first = None;
    loop {
        match reader.frame() {
            Ok(Some(frame)) => {
                first.get_or_insert(frame.at);
                walk.frame(frame.kind, frame.payload).map_err(|problem| Finding::of(&name, problem))?;
            }
            Ok(None) => break,
            Err(error) => {
                let detail = error.to_string();
                return Err(match error {
                    SegmentError::Frame { kind, payload, .. } => {
                        Finding::of(&name, walk.damaged(kind, &payload, detail))
                    }
                    other => Finding::new(text, rule_of(&other), detail),
                });
            }
        }
    }
    let to = reader.at();
    if reader.finish().map_err(broken)? != sealed.sha256.0 {
        return Err(Finding::new(text, What::Bytes, "its bytes do not have the digest in its name"));
    }
    if (first.unwrap_or(to), to) != (sealed.from, sealed.to) {
        return Err(Finding::new(text, What::Manifest, "its frames are not where the manifest says"));
    }
    walk.compare(&manifest.logs).map_err(|problem| Finding::of(&name, problem))
}

/// A place that breaks off in the middle of an object says nothing of its bytes; an object that ends too early does.
fn rule_of(error: &SegmentError) -> What {
    match error {
        SegmentError::Io(error) if error.kind() != io::ErrorKind::UnexpectedEof => What::Missing,
        _ => What::Bytes,
    }
}

/// Whether a key that the archive names for a log has signed the checkpoint of it that was kept. A log has other keys
/// in later manifests: one of them is enough.
#[derive(Default)]
struct KeptBy(Option<Result<(), NoteError>>);

impl KeptBy {
    fn look(&mut self, kept: &Kept, note: &str, key: &VerifyingKey) {
        if !matches!(self.0, Some(Ok(()))) && matches!(kept, Kept::Checkpoint(kept) if kept.origin == key.origin()) {
            self.0 = Some(Checkpoint::open_older(note, key).map(drop));
        }
    }

    /// Of the plane log all that was said of its keys is known by the end, so a past one counts for its time only.
    fn check(self, kept: &Kept, note: Option<&str>, plane: &KeyChain) -> Result<(), Finding> {
        let signed = match (kept, note) {
            (Kept::Checkpoint(kept), Some(note)) if kept.origin == plane.present().origin() => {
                Some(plane.open_kept(note).map(drop))
            }
            _ => self.0,
        };
        signed.unwrap_or(Ok(())).map_err(|error| {
            Finding::new("the archive", What::Against, format!("the checkpoint that was given: {error}"))
        })
    }
}

/// Whether the signed checkpoint in a manifest covers the log up to the end of the segment; gives the log's keys.
fn covered(part: &LogPart, walk: &Walk, chain: &KeyChain) -> Result<VerifyingKey, Problem> {
    let plane = chain.present();
    let wrong = |what, detail: String| Problem { log: Some(part.log.clone()), leaf: None, what, detail };
    let named: VerifyingKey =
        part.keys.trim_end().parse().map_err(|error| wrong(What::Key, format!("the log's keys: {error}")))?;
    let key = if part.log == plane.origin() { plane } else { &named };
    if named.origin() != part.log || (part.log == plane.origin() && !named.includes(plane)) {
        return Err(wrong(What::Key, "the keys are of another log".to_owned()));
    }
    let checkpoint = Checkpoint::open(&part.checkpoint, key);
    let checkpoint = checkpoint.map_err(|error| wrong(What::Signature, format!("the checkpoint: {error}")))?;
    let proof: Vec<Hash> = part.proof.iter().map(|hash| hash.0).collect();
    let size = walk.size(&part.log);
    let grown = checkpoint.size >= part.end
        && size == part.end
        && verify_consistency(part.end, &part.root.0, checkpoint.size, &checkpoint.root, &proof);
    if !grown {
        let detail = format!(
            "the {} leaves up to the end of the segment are not the beginning of the {} that are signed",
            part.end, checkpoint.size
        );
        return Err(wrong(What::Root, detail));
    }
    Ok(key.clone())
}

/// What was kept elsewhere: a manifest, or a checkpoint. The signature of a checkpoint is looked at with its log's keys.
fn read_kept(text: Option<&str>, plane: &str) -> Result<Kept, Finding> {
    let Some(text) = text else { return Ok(Kept::Nothing) };
    let wrong = |detail: String| Finding::new("what was given", What::Against, detail);
    if Manifest::begins(text) {
        return Ok(Kept::Manifest(sha256(text.as_bytes())));
    }
    let note = Note::parse(text).map_err(|error| wrong(error.to_string()))?;
    let checkpoint = Checkpoint::from_text(note.text).map_err(|error| wrong(error.to_string()))?;
    let rest = checkpoint.origin.strip_prefix(plane);
    if !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        return Err(wrong(format!("it is of `{}`, the archive is of `{plane}`", checkpoint.origin)));
    }
    Ok(Kept::Checkpoint(checkpoint))
}

/// Whether the archive contains what was kept.
fn against(kept: &Kept, met: bool, walk: &Walk) -> Result<(), Finding> {
    let wrong = |detail: String| Err(Finding::new("the archive", What::Against, detail));
    match kept {
        Kept::Nothing => Ok(()),
        Kept::Manifest(_) if met => Ok(()),
        Kept::Manifest(digest) => wrong(format!("it does not contain the manifest {} that was given", hex(digest))),
        Kept::Checkpoint(checkpoint) => match walk.found() {
            Some(true) => Ok(()),
            Some(false) => wrong(format!(
                "the {} leaves that the given checkpoint of `{}` covers are others: the key signed two histories",
                checkpoint.size, checkpoint.origin
            )),
            None => wrong(format!(
                "it ends before the checkpoint that was given: it has {} of {} leaves of `{}`. Its newest part is \
                 missing, or was not archived yet",
                walk.size(&checkpoint.origin),
                checkpoint.size,
                checkpoint.origin
            )),
        },
    }
}
