//! Proofs on demand, each with the newest signed checkpoint: a leaf, an older state of the log, a whole run.
//!
//! The hashes come from the index, a few tiles a proof. Before anything is handed out the root that they give is
//! compared with the one that was signed, so a wrong index gives no wrong proof but none.

use cogward_ledger::{
    extract::LeafLine,
    leaf::Parsed,
    note::Checkpoint,
    proof_file::{self, PROOF_FORM, ProofFile, State},
    stored::{Proofs, Tiles},
    text::base64_hash,
};
use cogward_model::{RunId, TenantName};
use tokio::runtime::Handle;

use crate::{
    checkpoint::SignedCheckpoint,
    index::{
        Found, IndexError, Leaves, Table,
        terms::{self, Term},
    },
    read::{ReadError, on_a_thread},
    record::{Evidence, RecordError},
    search::{SearchError, View},
};

/// Leaves of one partial pack or proof of a run.
pub(crate) const PART_LEAVES_MAX: u64 = 262_144;

/// The tiles of the index, read as they are needed. On a thread that may block.
pub(crate) struct StoredTiles {
    table: Table,
    log: i64,
    handle: Handle,
}

impl Tiles for StoredTiles {
    type Error = IndexError;

    fn tile(&mut self, level: u32, index: u64, width: usize) -> Result<Vec<cogward_ledger::Hash>, IndexError> {
        self.handle.block_on(self.table.tile(self.log, level, index, width))
    }
}

/// What all proofs of one answer begin with.
pub(crate) struct Signed {
    pub(crate) note: String,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) view: View,
    pub(crate) proofs: Proofs<StoredTiles>,
    pub(crate) leaves: Leaves,
    pub(crate) handle: Handle,
}

impl Evidence {
    /// Runs `work` on a thread with a fresh checkpoint whose root the index gives too, or with that of an older size.
    pub(crate) async fn with_proofs<T: Send + 'static>(
        &self,
        tenant: &TenantName,
        at: Option<u64>,
        work: impl FnOnce(&Self, Signed) -> Result<T, SearchError> + Send + 'static,
    ) -> Result<T, SearchError> {
        let signed = self.checkpoint(tenant).await?;
        let view = self.indexed(tenant).await?.ok_or_else(|| SearchError::Missing("leaf yet".to_owned()))?;
        if view.size < signed.size {
            return Err(IndexError::Behind { current: view.size, wanted: signed.size }.into());
        }
        let tiles = Table::read(&self.shared.index.path).await?;
        let (evidence, tenant, handle) = (self.clone(), tenant.clone(), Handle::current());
        on_a_thread(move || {
            let index = &evidence.shared.index;
            let done =
                evidence.signed(&tenant, signed, at, view, tiles, handle).and_then(|signed| work(&evidence, signed));
            done.map_err(|error| match error {
                SearchError::Index(error) => index.checked(error).into(),
                other => other,
            })
        })
        .await
    }

    fn signed(
        &self,
        tenant: &TenantName,
        mut signed: SignedCheckpoint,
        at: Option<u64>,
        view: View,
        tiles: Table,
        handle: Handle,
    ) -> Result<Signed, SearchError> {
        let keys = self.shared.keyring.tenant(tenant)?;
        let checkpoint = Checkpoint::open(&signed.note, keys.log.key().verifying());
        let checkpoint = checkpoint.map_err(|_| SearchError::Missing("checkpoint of its key".to_owned()))?;
        let tiles = StoredTiles { table: tiles, log: view.log, handle: handle.clone() };
        let mut proofs = Proofs::new(tiles, checkpoint.size);
        if proofs.root()? != checkpoint.root {
            return Err(IndexError::Damaged("its hashes do not give the signed root").into());
        }
        let (mut checkpoint, mut proofs) = (checkpoint, proofs);
        if let Some(at) = at.filter(|at| *at != checkpoint.size) {
            if at > checkpoint.size {
                return Err(SearchError::Missing(format!("state of {at} leaves")));
            }
            // The tree's own root at that size: the same text as was signed then, and so the same signature.
            checkpoint.root = proofs.root_of(at)?;
            checkpoint.size = at;
            signed.note = keys
                .log
                .key()
                .signed_checkpoint(at, &checkpoint.root)
                .map_err(|e| RecordError::Unsigned(e.to_string().into()))?;
            proofs = proofs.resized(at);
        }
        let leaves = Leaves::new(&self.shared.segments, Default::default(), self.shared.progress.end());
        Ok(Signed { note: signed.note, checkpoint, view, proofs, leaves, handle })
    }

    /// That a leaf is in the log: a C2SP `.tlog-proof` with the leaf itself.
    ///
    /// # Errors
    /// See [`SearchError`].
    pub async fn prove_leaf(&self, tenant: &TenantName, leaf: u64) -> Result<String, SearchError> {
        let of = tenant.clone();
        self.with_proofs(tenant, None, move |_, mut signed| {
            let mut found = Found::default();
            let (_, proof) = signed.line(&of, leaf, &mut found)?;
            Ok(proof_file::inclusion(&found.leaf, leaf, &proof, &signed.note))
        })
        .await
    }

    /// That the log of `old` leaves is a beginning of the one of `new` leaves, and that of what is signed now.
    ///
    /// # Errors
    /// See [`SearchError`].
    pub async fn prove_consistency(
        &self,
        tenant: &TenantName,
        old: u64,
        new: Option<u64>,
    ) -> Result<String, SearchError> {
        self.with_proofs(tenant, None, move |_, signed| {
            let Signed { note, checkpoint, view, mut proofs, handle, .. } = signed;
            let new = new.unwrap_or(checkpoint.size);
            let missing = || SearchError::Missing(format!("states of {old} and {new} leaves, in this order"));
            if old == 0 || old > new || new > checkpoint.size {
                return Err(missing());
            }
            let to_checkpoint = proofs.consistency(new)?.ok_or_else(missing)?;
            let (old_root, new_root) = (proofs.root_of(old)?, proofs.root_of(new)?);
            let tiles = StoredTiles { table: view.table, log: view.log, handle };
            let proof = Proofs::new(tiles, new).consistency(old)?.ok_or_else(missing)?;
            let file = ProofFile::Consistency {
                form: PROOF_FORM.to_owned(),
                checkpoint: note,
                old: State { size: old, root: base64_hash(&old_root) },
                new: State { size: new, root: base64_hash(&new_root) },
                proof: proof.iter().map(base64_hash).collect(),
                to_checkpoint: to_checkpoint.iter().map(base64_hash).collect(),
            };
            Ok(json(&file))
        })
        .await
    }

    /// All leaves of a run with their proofs: complete when its `run.closed` is among them.
    ///
    /// # Errors
    /// See [`SearchError`].
    pub async fn prove_run(&self, tenant: &TenantName, run: RunId) -> Result<String, SearchError> {
        let of = tenant.clone();
        self.with_proofs(tenant, None, move |evidence, mut signed| {
            let mut leaves = Vec::new();
            let (mut found, numbers) = (Found::default(), evidence.run_numbers(&of, run, &mut signed)?);
            for seq in numbers {
                leaves.push(signed.line(&of, seq, &mut found)?.0);
            }
            let (form, run) = (PROOF_FORM.to_owned(), run.to_string());
            Ok(json(&ProofFile::Run { form, checkpoint: signed.note, run, leaves }))
        })
        .await
    }

    /// The leaves of a run that are signed, once they follow each other without a gap.
    pub(crate) fn run_numbers(
        &self,
        tenant: &TenantName,
        run: RunId,
        signed: &mut Signed,
    ) -> Result<Vec<u64>, SearchError> {
        let run = run.to_string();
        let numbers = self.numbers(tenant, Term::Run, &run, signed)?;
        if numbers.is_empty() {
            return Err(SearchError::Missing(format!("run {run}")));
        }
        let mut found = Found::default();
        for (number, seq) in (1_u64..).zip(&numbers) {
            signed.read(tenant, *seq, &mut found)?;
            let parsed = Parsed::from_bytes(&found.leaf).map_err(|_| ReadError::Damaged(found.at))?;
            if parsed.body.run != Some(run.as_str()) || parsed.body.run_seq != Some(number) {
                return Err(IndexError::Damaged("a run has a gap").into());
            }
        }
        Ok(numbers)
    }

    /// The signed leaves under a term, as the index has them.
    pub(crate) fn numbers(
        &self,
        tenant: &TenantName,
        term: Term,
        value: &str,
        signed: &mut Signed,
    ) -> Result<Vec<u64>, SearchError> {
        let tag = terms::tag(&*self.shared.keyring.tenant(tenant)?, term, value);
        let limit = usize::try_from(PART_LEAVES_MAX).unwrap_or(usize::MAX).saturating_add(1);
        let Signed { view, checkpoint, handle, .. } = signed;
        let found = handle.block_on(view.table.find(view.log, &[tag], (0, checkpoint.size), limit))?;
        if found.len() as u64 > PART_LEAVES_MAX {
            return Err(SearchError::TooMany(found.len() as u64, PART_LEAVES_MAX));
        }
        Ok(found.into_iter().map(|(seq, _)| seq).collect())
    }
}

impl Signed {
    /// Reads a leaf from the log.
    pub(crate) fn read(&mut self, tenant: &TenantName, seq: u64, found: &mut Found) -> Result<(), SearchError> {
        if seq >= self.checkpoint.size {
            return Err(SearchError::Missing(format!("leaf {seq} among the {} that are signed", self.checkpoint.size)));
        }
        let place = self.handle.block_on(self.view.table.leaf(self.view.log, seq))?;
        let (at, _) = place.ok_or(IndexError::Damaged("a leaf is not there"))?;
        let there = self.leaves.find(at, found)?;
        let is = |found: &Found| Parsed::from_bytes(&found.leaf).is_ok_and(|leaf| leaf.chain.seq == seq);
        if !there || found.tenant != tenant.as_str() || !is(found) {
            return Err(IndexError::Damaged("a place holds another leaf").into());
        }
        Ok(())
    }

    /// A leaf with its proof.
    pub(crate) fn line(
        &mut self,
        tenant: &TenantName,
        seq: u64,
        found: &mut Found,
    ) -> Result<(LeafLine, Vec<cogward_ledger::Hash>), SearchError> {
        self.read(tenant, seq, found)?;
        let hash = cogward_ledger::leaf::leaf_hash(&found.leaf);
        if self.proofs.leaf(seq)? != Some(hash) {
            return Err(IndexError::Damaged("a leaf has another hash").into());
        }
        let proof = self.proofs.inclusion(seq)?.ok_or_else(|| SearchError::Missing(format!("leaf {seq}")))?;
        Ok((LeafLine::new(seq, &found.leaf, &proof), proof))
    }
}

fn json(file: &ProofFile) -> String {
    serde_json::to_string(file).unwrap_or_default() + "\n"
}
