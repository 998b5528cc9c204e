//! A partial pack: a run, a window, all leaves with a key, or a sample, each leaf with its proof.
//!
//! `pack.json` says what it is and names every other file with its digest; `pack.note` is the log's signature under
//! it. What a manifest says is not believed because it is signed: the leaves have to be what it says.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use crate::{
    commitment::Disclosure,
    extract::{Extract, Extracted, LeafLine, RangeLine, Scope},
    note::{Checkpoint, NOTE_BYTES_MAX, VerifyingKey},
    text::base64_bytes,
    verify::{CHECKPOINT_FILE, Finding, KEY_FILE, What, key_of, keys_in},
};

/// The manifest.
pub const MANIFEST_FILE: &str = "pack.json";
/// The signature under it.
pub const SIGNATURE_FILE: &str = "pack.note";
/// The leaves.
pub const LEAVES_FILE: &str = "leaves.jsonl";
/// What opens some of their commitments.
pub const DISCLOSURES_FILE: &str = "disclosures.jsonl";
/// What the verifiable index says.
pub const INDEX_FILE: &str = "index.jsonl";
/// The policies that decided, one a line with level, digest and text.
pub const POLICIES_FILE: &str = "policies.jsonl";
/// The version of the form.
pub const PACK_VERSION: u64 = 1;
/// The first line of the text under the signature: no checkpoint begins with it.
const SIGNED: &str = "cogward.dev/pack@v1";

/// Largest manifest.
const MANIFEST_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// A leaf in base64 with its proof, or a disclosure.
const LINE_BYTES_MAX: u64 = 48 * 1024 * 1024;

/// What a pack says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the form.
    pub form: u64,
    /// The log.
    pub origin: String,
    /// What the leaves are together.
    pub scope: Scope,
    /// Leaves of the log that the checkpoint covers.
    pub size: u64,
    /// Leaves of the pack that belong to the scope.
    pub leaves: u64,
    /// Who exported it: an operator's id.
    pub by: String,
    /// When.
    pub time: String,
    /// Whether disclosures were asked for.
    pub disclosed: bool,
    /// Every other file but the key, the checkpoint, the verifier and the explanation, with its SHA-256 in hex.
    pub files: BTreeMap<String, String>,
}

/// The text that the log signs for a manifest.
#[must_use]
pub fn signed_text(origin: &str, manifest: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, manifest);
    format!("{SIGNED}\n{origin}\n{}\n", base64_bytes(digest.as_ref()))
}

/// What holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifiedPack {
    /// The log.
    pub origin: String,
    /// Leaves that the checkpoint covers.
    pub size: u64,
    /// The signed root, in hex.
    pub root: String,
    /// What the leaves are.
    pub scope: Scope,
    /// What was found.
    #[serde(flatten)]
    pub extracted: Extracted,
    /// Disclosures that open commitments of its leaves.
    pub disclosures: u64,
    /// The key that was used.
    pub key: String,
    /// Whether it was given by the reader.
    pub key_pinned: bool,
    /// The number of the key that the reader gave, when it is a past one: the statements led on from it.
    pub pinned_generation: Option<u64>,
}

fn finding(what: What, detail: impl Into<String>) -> Finding {
    Finding { leaf: None, what, detail: detail.into() }
}

fn open(dir: &Path, name: &str) -> Result<File, Finding> {
    let missing = |error: io::Error| finding(What::Missing, format!("{name}: {error}"));
    let path = dir.join(name);
    if !path.symlink_metadata().map_err(missing)?.is_file() {
        return Err(finding(What::Missing, format!("{name} is not a file")));
    }
    File::open(path).map_err(missing)
}

fn text(dir: &Path, name: &str, bytes_max: u64, what: What) -> Result<String, Finding> {
    let mut bytes = Vec::new();
    let read = open(dir, name)?.take(bytes_max + 1).read_to_end(&mut bytes);
    read.map_err(|error| finding(What::Missing, format!("{name}: {error}")))?;
    if bytes.len() as u64 > bytes_max {
        return Err(finding(what, format!("{name} is longer than {bytes_max} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| finding(what, format!("{name} is not text")))
}

/// Reads a file of one JSON object a line.
fn lines<T: for<'a> Deserialize<'a>>(
    dir: &Path,
    name: &str,
    mut each: impl FnMut(T) -> Result<(), Finding>,
) -> Result<(), Finding> {
    let mut file = BufReader::new(open(dir, name)?);
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let read = (&mut file).take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line);
        if read.map_err(|error| finding(What::Missing, format!("{name}: {error}")))? == 0 {
            break;
        }
        if line.pop() != Some(b'\n') {
            return Err(finding(What::Form, format!("{name}: line {number} has no end or is too long")));
        }
        let parsed = serde_json::from_slice(&line);
        each(parsed.map_err(|error| finding(What::Form, format!("{name}: line {number}: {error}")))?)?;
    }
    Ok(())
}

/// The SHA-256 of a file in hex.
///
/// # Errors
/// It cannot be read.
pub fn file_digest(mut file: impl Read) -> io::Result<String> {
    let (mut context, mut buffer) = (digest::Context::new(&digest::SHA256), vec![0; 64 * 1024]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => context.update(buffer.get(..read).unwrap_or_default()),
        }
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The files of a pack that its manifest must name.
fn listed(dir: &Path) -> io::Result<Vec<String>> {
    let not_named =
        [MANIFEST_FILE, SIGNATURE_FILE, KEY_FILE, CHECKPOINT_FILE, "verify.py", "verify_part.py", "README.txt"];
    let names = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.filter(|name| !name.as_ref().is_ok_and(|name| not_named.contains(&&**name))).collect()
}

fn check_files(dir: &Path, manifest: &Manifest) -> Result<(), Finding> {
    let found = listed(dir).map_err(|error| finding(What::Missing, error.to_string()))?;
    if let Some(name) = found.iter().find(|name| !manifest.files.contains_key(*name)) {
        return Err(finding(What::Manifest, format!("{name} is not in {MANIFEST_FILE}")));
    }
    for (name, wanted) in &manifest.files {
        if !found.contains(name) {
            return Err(finding(What::Missing, format!("{name} is in {MANIFEST_FILE} and not in the pack")));
        }
        let digest = file_digest(open(dir, name)?);
        let digest = digest.map_err(|error| finding(What::Missing, format!("{name}: {error}")))?;
        if digest != *wanted {
            return Err(finding(What::Manifest, format!("{name} is not the file that {MANIFEST_FILE} names")));
        }
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyLine {
    level: String,
    digest: String,
    text: String,
}

impl PolicyLine {
    /// A policy is named by the SHA-256 of its level and text; decisions name that.
    fn check(&self) -> Result<(), Finding> {
        let whole = ["cogward.policy.v1\n", &self.level, "\n", &self.text].concat();
        let digest = file_digest(whole.as_bytes()).unwrap_or_default();
        if self.digest == format!("sha256:{digest}") {
            return Ok(());
        }
        Err(finding(What::Manifest, format!("the text of the policy {} is another one", self.digest)))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DisclosureLine {
    leaf: u64,
    disclosure: String,
}

/// The commitments of a leaf by the names of their fields.
fn commitments(leaf: &[u8]) -> BTreeMap<String, String> {
    let whole: serde_json::Value = serde_json::from_slice(leaf).unwrap_or_default();
    let body = whole.get("body").and_then(|body| body.as_object()).into_iter().flatten();
    let hidden = body.filter_map(|(name, value)| Some((name.clone(), value.get("$c")?.as_str()?.to_owned())));
    hidden.collect()
}

/// Whether a text is a time as leaves have it: only then the order of texts is that of times.
fn is_time(text: &str) -> bool {
    text.parse::<cogward_model::Timestamp>().is_ok_and(|time| time.to_string() == text)
}

/// Whether a directory is a partial pack.
#[must_use]
pub fn is_partial(dir: &Path) -> bool {
    dir.join(MANIFEST_FILE).symlink_metadata().is_ok()
}

/// Verifies the partial pack in `dir`, against `pinned` or else the key in the pack.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify_pack(dir: &Path, pinned: Option<&VerifyingKey>) -> Result<VerifiedPack, Finding> {
    let own = key_of(dir)?;
    let keys = keys_in(dir, &own)?;
    let (key, pinned_generation) = keys.follow(pinned);
    let note = text(dir, CHECKPOINT_FILE, NOTE_BYTES_MAX as u64, What::Signature)?;
    let checkpoint = Checkpoint::open(&note, key).map_err(|error| finding(What::Signature, error.to_string()))?;
    if !own.includes(key) {
        return Err(finding(What::Key, format!("{KEY_FILE} in the pack is not the key that was given")));
    }
    // Every further key of the log must have signed, too.
    Checkpoint::open(&note, &own).map_err(|error| finding(What::Signature, error.to_string()))?;
    let bytes = text(dir, MANIFEST_FILE, MANIFEST_BYTES_MAX, What::Manifest)?;
    let signature = text(dir, SIGNATURE_FILE, NOTE_BYTES_MAX as u64, What::Manifest)?;
    let signed = key.open_text(&signature).map_err(|error| finding(What::Manifest, error.to_string()))?;
    if signed != signed_text(key.origin(), bytes.as_bytes()) {
        return Err(finding(What::Manifest, format!("{SIGNATURE_FILE} is not the signature of {MANIFEST_FILE}")));
    }
    let manifest: Manifest =
        serde_json::from_str(&bytes).map_err(|error| finding(What::Manifest, format!("{MANIFEST_FILE}: {error}")))?;
    if manifest.form != PACK_VERSION || manifest.origin != checkpoint.origin || manifest.size != checkpoint.size {
        return Err(finding(What::Manifest, format!("{MANIFEST_FILE} is of another form, log or checkpoint")));
    }
    if let Scope::Window { since, until } | Scope::Key { since, until, .. } = &manifest.scope
        && !since.iter().chain(until).all(|time| is_time(time))
    {
        return Err(finding(What::Manifest, format!("{MANIFEST_FILE}: a bound of the window is not a time")));
    }
    check_files(dir, &manifest)?;
    let mut extract = Extract::new(&checkpoint, manifest.scope.clone());
    // Only where there is something to be opened: the commitments are kept for nothing else.
    let discloses = manifest.files.contains_key(DISCLOSURES_FILE);
    let mut hidden: BTreeMap<u64, BTreeMap<String, String>> = BTreeMap::new();
    lines(dir, LEAVES_FILE, |line: LeafLine| {
        let leaf = extract.leaf(&line)?;
        if discloses && extract.has(line.index) {
            hidden.insert(line.index, commitments(&leaf));
        }
        Ok(())
    })?;
    if matches!(manifest.scope, Scope::Key { .. }) {
        lines(dir, INDEX_FILE, |line: RangeLine| extract.range(&line))?;
    }
    if manifest.files.contains_key(POLICIES_FILE) {
        lines(dir, POLICIES_FILE, |line: PolicyLine| line.check())?;
    }
    let mut disclosures = 0;
    if discloses {
        lines(dir, DISCLOSURES_FILE, |line: DisclosureLine| {
            let bad = |detail| Finding { leaf: Some(line.leaf), what: What::Disclosure, detail };
            let disclosure = Disclosure::from_text(line.disclosure);
            let (field, _) = disclosure.open().ok_or_else(|| bad("it is not a disclosure".to_owned()))?;
            let committed = hidden.get(&line.leaf).and_then(|fields| fields.get(&field));
            if committed != Some(&disclosure.commitment()) {
                return Err(bad("it opens nothing in this leaf".to_owned()));
            }
            disclosures += 1;
            Ok(())
        })?;
    }
    let extracted = extract.finish()?;
    if extracted.leaves != manifest.leaves {
        return Err(finding(What::Manifest, format!("{MANIFEST_FILE} names another number of leaves")));
    }
    Ok(VerifiedPack {
        origin: checkpoint.origin,
        size: checkpoint.size,
        root: checkpoint.root.iter().map(|byte| format!("{byte:02x}")).collect(),
        scope: manifest.scope,
        extracted,
        disclosures,
        key: key.to_string(),
        key_pinned: pinned.is_some(),
        pinned_generation,
    })
}
