//! Partial packs: a run, a window, all leaves with a key, or an auditor's sample, with a proof for each leaf.
//!
//! In two steps, because the policies that decided are kept elsewhere: [`Evidence::draft`] writes the leaves and says
//! which policies they name, [`Draft::finish`] adds those, and then the manifest and its signature. Without the
//! signature nothing verifies, so a pack that broke off never looks like one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use cogward_ledger::{
    commitment::Disclosure,
    extract::{LeafLine, RangeLine, Scope},
    key_chain::KEYS_FILE,
    leaf::Parsed,
    map::{self, Claim, Kind, RANGE_LEAVES},
    pack::{
        DISCLOSURES_FILE, INDEX_FILE, LEAVES_FILE, MANIFEST_FILE, Manifest, PACK_VERSION, POLICIES_FILE,
        SIGNATURE_FILE, file_digest, signed_text,
    },
    sample,
    verify::{CHECKPOINT_FILE, KEY_FILE},
};
use cogward_model::{RunId, TenantName, Timestamp};
use serde::Serialize;

use crate::{
    export::{BESIDE_VERIFIER, VERIFIER},
    index::{self, Found, IndexError, SealError},
    keys::TenantKeys,
    plane::LogName,
    prove::{PART_LEAVES_MAX, Signed},
    read::ReadError,
    record::Evidence,
    search::{SearchError, User, pseudonym},
    vault::{self, Openable, Sealed},
};

const README: &str = include_str!("export/PART.txt");
const PART_VERIFIER: &str = include_str!("../../../scripts/verify_part.py");

/// From a time on and before another; open where there is none.
pub type Window = (Option<Timestamp>, Option<Timestamp>);

/// Which part of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A run.
    Run(RunId),
    /// All from a time on and before another.
    Window(Window),
    /// All with a public value: an agent, a tool, a tool server, an approval, a type, a run; in all of the log or a window.
    Key(Kind, String, Window),
    /// All on a person's authority, likewise.
    Subject(User, Window),
    /// Leaves that an auditor's number draws from a state of the log that was signed before the number was told.
    Sample {
        /// The number.
        nonce: String,
        /// How many.
        count: u64,
        /// Leaves of that state.
        size: u64,
    },
}

/// What was put into a partial pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartSummary {
    /// Leaves that belong to the part.
    pub leaves: u64,
    /// Disclosures.
    pub disclosures: u64,
    /// Leaves of the log that the checkpoint covers.
    pub size: u64,
    /// The SHA-256 of the manifest in hex: what was exported can be recognised by it.
    pub manifest: String,
}

/// A pack that misses its policies and its signature.
pub struct Draft {
    evidence: Evidence,
    tenant: TenantName,
    dir: PathBuf,
    manifest: Manifest,
    disclosures: u64,
    /// The policy versions that decided, as leaves name them: `tenant:retail sha256:…`.
    pub policies: BTreeSet<String>,
}

impl From<SealError> for SearchError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Index(error) => Self::Index(error),
            SealError::Read(error) => Self::Read(error),
            SealError::Record(error) => Self::Record(error),
        }
    }
}

/// A file of the pack, with its digest at the end.
struct Lines(BufWriter<File>);

impl Lines {
    fn create(dir: &Path, name: &str) -> io::Result<Self> {
        let file = fs::OpenOptions::new().write(true).read(true).create_new(true).mode(0o644).open(dir.join(name))?;
        Ok(Self(BufWriter::with_capacity(256 * 1024, file)))
    }

    fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.0, value)?;
        self.0.write_all(b"\n")
    }

    fn finish(mut self, dir: &Path, name: &str) -> io::Result<String> {
        self.0.flush()?;
        self.0.get_ref().sync_all()?;
        file_digest(File::open(dir.join(name))?)
    }
}

fn write(dir: &Path, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(dir.join(name))?;
    file.write_all(bytes)?;
    file.sync_all()
}

impl Evidence {
    /// Writes the leaves of a part into `dest`, a directory that is not there yet.
    ///
    /// With `disclose` what the vault still opens of them goes along: whoever may not see that does not ask for it.
    ///
    /// # Errors
    /// See [`SearchError`].
    pub async fn draft(
        &self,
        tenant: &TenantName,
        part: Part,
        disclose: bool,
        by: &str,
        dest: &Path,
    ) -> Result<Draft, SearchError> {
        if matches!(part, Part::Key(..) | Part::Subject(..)) {
            // The root of the range that is still open has to be in the log before the checkpoint.
            self.shared.index.seal(tenant).await?;
        }
        let (of, by, dir) = (tenant.clone(), by.to_owned(), dest.to_path_buf());
        let at = if let Part::Sample { size, .. } = &part { Some(*size) } else { None };
        self.with_proofs(tenant, at, move |evidence, signed| evidence.write_part(of, part, disclose, by, dir, signed))
            .await
    }

    fn write_part(
        &self,
        tenant: TenantName,
        part: Part,
        disclose: bool,
        by: String,
        dir: PathBuf,
        mut signed: Signed,
    ) -> Result<Draft, SearchError> {
        let keys = self.shared.keyring.tenant(&tenant)?;
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&dir)?;
        let Selected { scope, numbers, around, ranges } = self.select(&tenant, &keys, part, &mut signed)?;
        let mut files = BTreeMap::new();
        let mut leaves = Lines::create(&dir, LEAVES_FILE)?;
        let mut opened = if disclose { Some(Lines::create(&dir, DISCLOSURES_FILE)?) } else { None };
        let (mut found, mut disclosures, mut policies, mut count) = (Found::default(), 0, BTreeSet::new(), 0);
        for seq in around.0.iter().chain(&numbers).chain(&around.1) {
            let (line, _) = signed.line(&tenant, *seq, &mut found)?;
            leaves.line(&line)?;
            if around.0 == Some(*seq) || around.1 == Some(*seq) || is_outside(&scope, &found.leaf) {
                continue;
            }
            count += 1;
            policies.extend(policies_of(&found.leaf));
            if let Some(opened) = &mut opened {
                for disclosure in disclosures_of(&keys, &tenant, &found) {
                    opened.line(&serde_json::json!({ "leaf": seq, "disclosure": disclosure.as_str() }))?;
                    disclosures += 1;
                }
            }
        }
        files.insert(LEAVES_FILE.to_owned(), leaves.finish(&dir, LEAVES_FILE)?);
        if let Some(opened) = opened {
            files.insert(DISCLOSURES_FILE.to_owned(), opened.finish(&dir, DISCLOSURES_FILE)?);
        }
        if matches!(scope, Scope::Key { .. }) {
            let mut index = Lines::create(&dir, INDEX_FILE)?;
            ranges.iter().try_for_each(|range| index.line(range))?;
            files.insert(INDEX_FILE.to_owned(), index.finish(&dir, INDEX_FILE)?);
        }
        write(&dir, CHECKPOINT_FILE, 0o644, signed.note.as_bytes())?;
        write(&dir, KEY_FILE, 0o644, keys.log.key().verifying().lines().as_bytes())?;
        let log = LogName::Tenant(tenant.clone());
        if let Some(statements) = self.key_statements(&log, signed.checkpoint.size)? {
            write(&dir, KEYS_FILE, 0o644, statements.as_bytes())?;
            files.insert(KEYS_FILE.to_owned(), file_digest(statements.as_bytes())?);
        }
        let manifest = Manifest {
            form: PACK_VERSION,
            origin: keys.log.key().verifying().origin().to_owned(),
            scope,
            size: signed.checkpoint.size,
            leaves: count,
            by,
            time: self.shared.clock.now().to_string(),
            disclosed: disclose,
            files,
        };
        Ok(Draft { evidence: self.clone(), tenant, dir, manifest, disclosures, policies })
    }

    fn select(
        &self,
        tenant: &TenantName,
        keys: &TenantKeys,
        part: Part,
        signed: &mut Signed,
    ) -> Result<Selected, SearchError> {
        let size = signed.checkpoint.size;
        let selected = match part {
            Part::Run(run) => {
                let numbers = self.run_numbers(tenant, run, signed)?;
                Selected { numbers, ..Selected::of(Scope::Run { run: run.to_string() }) }
            }
            Part::Window((since, until)) => {
                let handle = signed.handle.clone();
                let from = match since {
                    Some(_) => handle.block_on(signed.view.first_from(since))?.min(size),
                    None => 0,
                };
                let to = handle.block_on(signed.view.first_from(until))?.min(size).max(from);
                if to - from > PART_LEAVES_MAX {
                    return Err(SearchError::TooMany(to - from, PART_LEAVES_MAX));
                }
                Selected {
                    numbers: (from..to).collect(),
                    around: (from.checked_sub(1), Some(to).filter(|to| *to < size)),
                    ..Selected::of(Scope::Window { since: text(since), until: text(until) })
                }
            }
            Part::Key(kind, value, window) => self.by_key(tenant, (kind, value), window, signed)?,
            Part::Subject(user, window) => {
                let value = pseudonym(keys, &user)?;
                self.by_key(tenant, (Kind::Subject, value), window, signed)?
            }
            Part::Sample { nonce, count, .. } => {
                let numbers = sample::draw(&signed.checkpoint.root, &nonce, size, count).into_iter().collect();
                Selected { numbers, ..Selected::of(Scope::Sample { nonce, count, of: size }) }
            }
        };
        Ok(selected)
    }

    /// The leaves with a key as the maps of all ranges have them, which are made from the log and not from the index.
    fn by_key(
        &self,
        tenant: &TenantName,
        (kind, value): (Kind, String),
        (since, until): Window,
        signed: &mut Signed,
    ) -> Result<Selected, SearchError> {
        let (handle, key) = (signed.handle.clone(), map::key(kind, &value));
        let claims = handle.block_on(signed.view.table.claims(signed.view.log))?;
        // The ranges before the window are left out, but for the last one: its first leaf is earlier.
        let first = handle.block_on(signed.view.first_from(since))?;
        let begins = if since.is_some() { first.saturating_sub(1) / RANGE_LEAVES * RANGE_LEAVES } else { 0 };
        let ends = handle.block_on(signed.view.first_from(until))?;
        let (mut covered, mut numbers, mut ranges) = (begins, Vec::new(), Vec::new());
        let mut found = Found::default();
        for (from, until, seq) in claims.into_iter().skip_while(|(from, ..)| *from < begins) {
            // One leaf behind the window has to be covered too, to show that the window ends there.
            if covered > ends || from != covered || seq >= signed.checkpoint.size {
                break;
            }
            let (line, _): (LeafLine, _) = signed.line(tenant, seq, &mut found)?;
            let claim = Claim::of(&found.leaf).filter(|claim| (claim.from, claim.to) == (from, until));
            let claim = claim.ok_or(IndexError::Damaged("a root is in another leaf"))?;
            let range = usize::try_from(until - from).unwrap_or(usize::MAX);
            let places = handle.block_on(signed.view.table.find(signed.view.log, &[], (from, until), range))?;
            let maps = index::maps(&self.shared, tenant, &places, (from, until))?;
            if kind == Kind::Subject && maps.erased {
                return Err(SearchError::Erased(from, until - 1));
            }
            let map = if kind == Kind::Subject { maps.subjects } else { maps.public };
            let proof = map.prove(&key);
            let (root, entries) = claim.tree(kind).ok_or(ReadError::Damaged(found.at))?;
            // A root that the leaves do not give was signed by somebody else than us: no pack is made of it.
            proof.verify(&key, &root, entries).map_err(|_| ReadError::Damaged(found.at))?;
            numbers.extend(&proof.leaves);
            if numbers.len() as u64 > PART_LEAVES_MAX {
                return Err(SearchError::TooMany(numbers.len() as u64, PART_LEAVES_MAX));
            }
            ranges.push(RangeLine { claim: line, map: proof });
            covered = until;
        }
        let scope = Scope::Key { of: kind, value, from: begins, to: covered, since: text(since), until: text(until) };
        Ok(Selected { numbers, ranges, ..Selected::of(scope) })
    }
}

fn text(time: Option<Timestamp>) -> Option<String> {
    time.map(|time| time.to_string())
}

/// What goes into a pack.
struct Selected {
    scope: Scope,
    numbers: Vec<u64>,
    /// The leaf before and the one behind.
    around: (Option<u64>, Option<u64>),
    ranges: Vec<RangeLine>,
}

impl Selected {
    fn of(scope: Scope) -> Self {
        Self { scope, numbers: Vec::new(), around: (None, None), ranges: Vec::new() }
    }
}

/// Whether the index lists a leaf that the window leaves out.
fn is_outside(scope: &Scope, leaf: &[u8]) -> bool {
    let Scope::Key { since, until, .. } = scope else { return false };
    let Ok(leaf) = Parsed::from_bytes(leaf) else { return false };
    let time = leaf.chain.time;
    since.as_deref().is_some_and(|since| time < since) || until.as_deref().is_some_and(|until| time >= until)
}

/// The policy versions that a leaf names.
fn policies_of(leaf: &[u8]) -> Vec<String> {
    let whole: serde_json::Value = serde_json::from_slice(leaf).unwrap_or_default();
    let named = whole.get("body").and_then(|body| body.get("policy")).cloned().unwrap_or_default();
    let several = named.as_array().cloned().unwrap_or_else(|| vec![named]);
    several.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect()
}

/// The disclosures of a leaf that the vault still opens, each once it opens what the leaf commits to.
fn disclosures_of(keys: &TenantKeys, tenant: &TenantName, found: &Found) -> Vec<Disclosure> {
    let whole: serde_json::Value = serde_json::from_slice(&found.leaf).unwrap_or_default();
    let body = whole.get("body").cloned().unwrap_or_default();
    let id = body.get("id").and_then(|id| id.as_str()).unwrap_or_default();
    let sealed = found.sealed.iter().filter_map(|frame| Sealed::parse(frame));
    let opened = sealed.filter_map(|sealed| {
        let commitment = body.get(&sealed.field)?.get("$c")?.as_str()?.to_owned();
        let Ok(Openable::With(key, sealed)) = vault::key_of(keys, id, sealed) else { return None };
        let disclosure = sealed.open(&key, tenant.as_str(), id)?;
        (disclosure.commitment() == commitment).then_some(disclosure)
    });
    opened.collect()
}

/// A policy version as a pack has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyText {
    /// `plane`, `tenant:retail`.
    pub level: String,
    /// Its name.
    pub digest: String,
    /// Its text.
    pub text: String,
}

impl Draft {
    /// Adds the policies, then the manifest with its signature: now it is a pack.
    ///
    /// # Errors
    /// See [`SearchError`].
    pub fn finish(mut self, policies: &[PolicyText]) -> Result<PartSummary, SearchError> {
        let dir = &self.dir;
        if !policies.is_empty() {
            let mut lines = Lines::create(dir, POLICIES_FILE)?;
            policies.iter().try_for_each(|policy| lines.line(policy))?;
            self.manifest.files.insert(POLICIES_FILE.to_owned(), lines.finish(dir, POLICIES_FILE)?);
        }
        let keys = self.evidence.shared.keyring.tenant(&self.tenant)?;
        for (name, script) in BESIDE_VERIFIER {
            write(dir, name, 0o644, script.as_bytes())?;
            // Verifiers of before know no such files, and take them when they are named.
            self.manifest.files.insert(name.to_owned(), file_digest(script.as_bytes())?);
        }
        let manifest = serde_json::to_vec(&self.manifest).map_err(io::Error::from)?;
        write(dir, MANIFEST_FILE, 0o644, &manifest)?;
        let note = keys.log.key().signed_note(&signed_text(&self.manifest.origin, &manifest));
        let note = note.map_err(io::Error::other)?;
        write(dir, "verify.py", 0o755, VERIFIER.as_bytes())?;
        write(dir, "verify_part.py", 0o755, PART_VERIFIER.as_bytes())?;
        write(dir, "README.txt", 0o644, README.as_bytes())?;
        write(dir, SIGNATURE_FILE, 0o644, note.as_bytes())?;
        File::open(dir)?.sync_all()?;
        Ok(PartSummary {
            leaves: self.manifest.leaves,
            disclosures: self.disclosures,
            size: self.manifest.size,
            manifest: file_digest(manifest.as_slice())?,
        })
    }

    /// What the pack is of, a person by the pseudonym.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.manifest.scope
    }
}
