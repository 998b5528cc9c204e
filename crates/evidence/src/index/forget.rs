//! Before a person is erased, the index is made to say no more of which leaves are that person's.
//!
//! It happens while the keys are still there, because they say who it is; an index that is made anew afterwards
//! cannot know it. What cannot be taken out takes the whole file along.

use std::{collections::BTreeSet, sync::Arc};

use cogward_ledger::leaf::Parsed;
use cogward_model::TenantName;

use super::{
    BATCH_LEAVES, Found, IndexError, Indexer, Leaves, SealError,
    terms::{self, Term, hex},
};
use crate::{
    data_keys::KeyId,
    keys::TenantKeys,
    read::ReadError,
    vault::{self, Sealed},
};

/// What is about to be erased.
#[derive(Debug, Clone, Default)]
pub(crate) struct Going {
    /// The keys that will be destroyed.
    pub(crate) keys: BTreeSet<KeyId>,
    /// The one value that goes, where its neighbours stay.
    pub(crate) only: Option<(u64, String)>,
}

impl Going {
    /// Whether the name of the person on whose authority a leaf is goes.
    fn takes(&self, keys: &TenantKeys, seq: u64, found: &Found) -> Result<bool, ReadError> {
        if self.only.as_ref().is_some_and(|only| *only != (seq, terms::PERSON.to_owned())) {
            return Ok(false);
        }
        let damaged = || ReadError::Damaged(found.at);
        let event = Parsed::from_bytes(&found.leaf).map_err(|_| damaged())?.body.id;
        let mut named = found.sealed.iter().filter_map(|frame| Sealed::peek(frame));
        let Some(of) = named.find(|(_, field)| *field == terms::PERSON) else { return Ok(false) };
        let facts = vault::facts_of(keys, event, of).map_err(ReadError::Keys)?;
        Ok(facts.is_some_and(|facts| self.keys.contains(&facts.id)))
    }
}

impl Indexer {
    /// Takes out of the index whose the leaves are whose persons go. It has to be current.
    pub(super) fn forget(&mut self, tenant: &TenantName, going: &Going) -> Result<(), SealError> {
        let keys = self.shared.keyring.tenant(tenant).map_err(ReadError::Keys)?;
        let mut persons = BTreeSet::new();
        for id in &going.keys {
            let facts = keys.data.facts(id).map_err(ReadError::Keys)?;
            persons.extend(facts.map(|facts| facts.subject).filter(|person| *person != [0; 16]));
        }
        let (segments, end) = (Arc::clone(&self.shared.segments), self.shared.progress.end());
        let (runtime, table) = self.table()?;
        let Some(log) = runtime.block_on(table.log(tenant.as_str()))? else { return Ok(()) };
        for person in persons {
            let tag = terms::tag(&keys, Term::User, &hex(&person));
            let mut next = 0;
            loop {
                let places = runtime.block_on(table.find(log.id, &[tag], (next, log.size), BATCH_LEAVES))?;
                let Some((last, _)) = places.last() else { break };
                next = last + 1;
                let (mut reader, mut found) = (Leaves::new(&segments, Default::default(), end), Found::default());
                let mut gone = Vec::new();
                for (seq, at) in &places {
                    if !reader.find(*at, &mut found)? || found.tenant != tenant.as_str() {
                        return Err(IndexError::Damaged("a leaf is not where it was").into());
                    }
                    if going.takes(&keys, *seq, &found)? {
                        gone.push(*seq);
                    }
                }
                runtime.block_on(table.forget(log.id, &tag, &gone))?;
            }
        }
        Ok(())
    }
}
