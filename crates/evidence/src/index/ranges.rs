//! The roots of the verifiable index: of each range of leaves the maps are made and their roots go into its log.
//!
//! They are made from the leaves themselves; the index says only where these are.

use std::collections::HashMap;

use cogward_ledger::{
    Hash,
    leaf::{Parsed, hash_text},
    map::{self, Kind, MAP_VERSION, Map, RANGE_LEAVES},
};
use cogward_model::{
    TenantName,
    event::{Attribution, Event, EventType},
};
use cogward_wal::Position;
use tokio::sync::oneshot;

use super::{
    Found, IndexError, Indexer, Leaves, LogRow, SealError,
    terms::{self, Person},
};
use crate::{
    queue::Item,
    read::ReadError,
    record::{RecordError, Shared},
};

impl Indexer {
    /// Puts the roots of whole ranges into the logs that miss them.
    pub(super) fn seal_ranges(&mut self) -> Result<(), SealError> {
        let (runtime, table) = self.table()?;
        for tenant in runtime.block_on(table.unsealed(RANGE_LEAVES))? {
            self.take();
            if self.stopping {
                return Ok(());
            }
            let (runtime, table) = self.table()?;
            let Some(log) = runtime.block_on(table.log(tenant.as_str()))? else { continue };
            self.seal(&tenant, &log, log.sealed + RANGE_LEAVES)?;
            // The next look finds it in the log: a root is never there twice.
            self.catch_up()?;
        }
        Ok(())
    }

    pub(super) fn seal_open(&mut self, tenant: &TenantName) -> Result<(), SealError> {
        loop {
            let (runtime, table) = self.table()?;
            let Some(log) = runtime.block_on(table.log(tenant.as_str()))? else { return Ok(()) };
            let to = log.size.min(log.sealed + RANGE_LEAVES);
            if to == log.sealed {
                return Ok(());
            }
            if to - log.sealed < RANGE_LEAVES {
                let (runtime, table) = self.table()?;
                let spent = runtime.block_on(table.claimed(log.id, log.sealed))?;
                // Whoever checks the log makes each of them anew. What was told last has to do, until there are more leaves.
                if !map::is_affordable(spent, to - log.sealed) {
                    return Ok(());
                }
            }
            self.seal(tenant, &log, to)?;
            self.catch_up()?;
            if to == log.size {
                return Ok(());
            }
        }
    }

    /// Makes the maps of a range from its leaves and records their roots.
    fn seal(&mut self, tenant: &TenantName, log: &LogRow, to: u64) -> Result<(), SealError> {
        let from = log.sealed;
        let (runtime, table) = self.table()?;
        let range = usize::try_from(to - from).unwrap_or(usize::MAX);
        let places = runtime.block_on(table.find(log.id, &[], (from, to), range))?;
        let maps = maps(&self.shared, tenant, &places, (from, to))?;
        let event = Event::new(EventType::LedgerIndexed, tenant.clone(), Attribution::plane())
            .public("basis", vec!["plane"])
            .public("map", MAP_VERSION)
            .public("from", from)
            .public("to", to)
            .public("entries", maps.public.len())
            .public("root", hash_text(&maps.public.root()))
            .public("subject_entries", maps.subjects.len())
            .public("subject_root", hash_text(&maps.subjects.root()))
            .public("first_time", maps.first_time)
            .public("last_time", maps.last_time);
        let mut append = self.shared.prepare(&event, self.shared.mint())?;
        let (reply, answer) = oneshot::channel();
        append.reply = Some(reply);
        self.shared.queue.push(Item::Append(Box::new(append))).map_err(|_| RecordError::Busy)?;
        answer.blocking_recv().unwrap_or_else(|_| Err(self.shared.failure()))?;
        Ok(())
    }
}

/// What a range of leaves gives.
#[derive(Default)]
pub(crate) struct Maps {
    pub(crate) public: Map,
    pub(crate) subjects: Map,
    /// Of some leaves it is not known any more whose they are: the map of persons is not the one that was signed.
    pub(crate) erased: bool,
    first_time: String,
    last_time: String,
}

/// The maps of a range, from its leaves. The index only says where they stand: each has to be the one that is meant.
pub(crate) fn maps(
    shared: &Shared,
    tenant: &TenantName,
    places: &[(u64, Position)],
    (from, to): (u64, u64),
) -> Result<Maps, SealError> {
    let mut reader = Leaves::new(&shared.segments, Position::default(), shared.progress.end()).heads();
    let (mut found, mut maps, mut next) = (Found::default(), Maps::default(), from);
    let keys = shared.keyring.tenant(tenant).map_err(ReadError::Keys)?;
    let mut keys_of: HashMap<(Kind, String), Hash> = HashMap::new();
    for (seq, place) in places {
        let there = *seq == next && reader.find(*place, &mut found)? && found.tenant == tenant.as_str();
        let parsed = Parsed::from_bytes(&found.leaf).ok().filter(|leaf| there && leaf.chain.seq == next);
        let parsed = parsed.ok_or(IndexError::Damaged("a range has another leaf"))?;
        if next == from {
            maps.first_time = parsed.chain.time.to_owned();
        }
        parsed.chain.time.clone_into(&mut maps.last_time);
        for named in map::values(&found.leaf).map_err(|_| ReadError::Damaged(found.at))? {
            // Most leaves name what those before them named.
            let key = keys_of.entry(named).or_insert_with_key(|(kind, value)| map::key(*kind, value));
            maps.public.add(*key, next);
        }
        match terms::person(&keys, parsed.body.id, &found.sealed).map_err(ReadError::Keys)? {
            Person::Known(pseudonym) => maps.subjects.add(map::key(Kind::Subject, &pseudonym), next),
            Person::Erased => maps.erased = true,
            Person::Nobody => {}
        }
        next += 1;
    }
    if next < to {
        return Err(IndexError::Damaged("a range misses leaves").into());
    }
    Ok(maps)
}
