//! The verifiable index against a plane that lies in it: whoever has the whole log finds out.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::{fs, io, path::Path};

use cogward_ledger::{
    leaf::{Place, encode, hash_text, leaf_hash, mint_id},
    map::{self, Map},
    map_check,
    note::{Checkpoint, SigningKey},
    tiles::{EntryBundles, HashTiles, TileSink},
    tree::Frontier,
    verify::{What, verify_dir},
};
use cogward_model::{
    SystemClock, SystemEntropy,
    event::{Attribution, Event, EventType},
};

struct Files<'a>(&'a Path);

impl TileSink for Files<'_> {
    type Error = io::Error;
    fn tile(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap())?;
        fs::write(path, bytes)
    }
}

fn by(agent: &str) -> Attribution {
    Attribution { agent: Some((agent.parse().unwrap(), "1.0.0".parse().unwrap())), subject: None }
}

/// What a plane says of the leaves before.
struct Said {
    map: Map,
    from: u64,
    to: u64,
    more: u64,
    last_time: &'static str,
}

const TIME: &str = "2026-11-22T10:11:12.123456Z";

fn claim(Said { map, from, to, more, last_time }: Said) -> Event {
    Event::new(EventType::LedgerIndexed, "acme".parse().unwrap(), Attribution::plane())
        .public("map", 1_u64)
        .public("from", from)
        .public("to", to)
        .public("entries", map.len() + more)
        .public("root", hash_text(&map.root()))
        .public("subject_entries", 0_u64)
        .public("subject_root", hash_text(&Map::default().root()))
        .public("first_time", TIME)
        .public("last_time", last_time.to_owned())
}

/// So many leaves, each made with the map of those before if that is kept, all of it signed.
fn log_of(dir: &Path, size: u64, indexed: bool, mut leaf_of: impl FnMut(u64, &Map) -> Event) -> SigningKey {
    let key = SigningKey::from_seed("cogward.dev/ledger/test/acme", &[3; 32]).unwrap();
    let (mut tiles, mut bundles, mut tree, mut files) =
        (HashTiles::default(), EntryBundles::default(), Frontier::default(), Files(dir));
    let (mut prev, mut map) = (None, Map::default());
    for seq in 0..size {
        let event = leaf_of(seq, &map);
        let body = encode(&event, &mint_id(&SystemClock, &SystemEntropy), &SystemEntropy).unwrap();
        let mut leaf = Vec::new();
        let time = TIME;
        body.assemble(&Place { seq, prev, time, run_seq: 0, run_prev: None }, &mut leaf);
        let hash = leaf_hash(&leaf);
        tree.push(hash);
        tiles.push(hash, &mut files).unwrap();
        bundles.push(&leaf, &mut files).unwrap();
        if indexed {
            map::values(&leaf).unwrap().iter().for_each(|(kind, value)| map.add(map::key(*kind, value), seq));
        }
        prev = Some(hash);
    }
    tiles.finish(&mut files).unwrap();
    bundles.finish(&mut files).unwrap();
    fs::write(dir.join("checkpoint"), key.checkpoint(size, &tree.root())).unwrap();
    fs::write(dir.join("log.vkey"), format!("{}\n", key.verifying())).unwrap();
    key
}

/// Five leaves, then what `said` makes of their map.
fn log(dir: &Path, said: impl FnOnce(Map) -> Said) -> SigningKey {
    let mut said = Some(said);
    log_of(dir, 6, true, |seq, map| {
        if seq == 5 {
            return claim(said.take().unwrap()(map.clone()));
        }
        let agent = if seq == 3 { "clerk" } else { "claims" };
        Event::new(EventType::ToolCallDecided, "acme".parse().unwrap(), by(agent)).public("tool", "crm/read")
    })
}

fn judged(said: impl FnOnce(Map) -> Said) -> Result<u64, (Option<u64>, What)> {
    let dir = tempfile::tempdir().unwrap();
    let key = log(dir.path(), said);
    // The log itself is whole: it was signed by the one who lies.
    assert_eq!(verify_dir(dir.path(), Some(key.verifying())).unwrap().leaves, 6);
    let checkpoint: Checkpoint = map_check::checkpoint_of(dir.path(), key.verifying()).unwrap();
    map_check::check(dir.path(), &checkpoint).map(|found| found.covered).map_err(|finding| (finding.leaf, finding.what))
}

fn without(map: &Map, leaf: u64) -> Map {
    let mut less = Map::default();
    for kept in (0..5).filter(|kept| *kept != leaf) {
        let agent = if kept == 3 { "clerk" } else { "claims" };
        let values = [(map::Kind::Type, "tool.call.decided"), (map::Kind::Agent, agent), (map::Kind::Tool, "crm/read")];
        for (kind, value) in values.into_iter().chain([(map::Kind::ToolServer, "crm")]) {
            less.add(map::key(kind, value), kept);
        }
    }
    assert_ne!(less.root(), map.root());
    less
}

#[test]
fn a_root_that_the_leaves_do_not_give_is_found_by_who_has_them_all() {
    let (from, to, more) = (0, 5, 0);
    assert_eq!(judged(|map| Said { map, from, to, more, last_time: TIME }), Ok(5));
    // All leaves but those that somebody would rather not show: the map of what is left proves that they are not there.
    assert_eq!(
        judged(|map| Said { map: without(&map, 3), from, to, more, last_time: TIME }),
        Err((Some(5), What::Index))
    );
    assert_eq!(
        judged(|map| Said { map: without(&map, 4), from, to, more, last_time: TIME }),
        Err((Some(5), What::Index))
    );
    // Of fewer leaves than it says, of more, of a range that does not begin there, with another count of keys.
    assert_eq!(judged(|map| Said { map: map.before(4), from, to: 4, more, last_time: TIME }), Ok(4));
    assert_eq!(judged(|map| Said { map, from, to: 4, more, last_time: TIME }), Err((Some(5), What::Index)));
    assert_eq!(judged(|map| Said { map, from, to: 6, more, last_time: TIME }), Err((Some(5), What::Index)));
    assert_eq!(judged(|map| Said { map, from: 1, to, more, last_time: TIME }), Err((Some(5), What::Index)));
    assert_eq!(
        judged(|map| Said { map, from: 65_536, to: 65_541, more, last_time: TIME }),
        Err((Some(5), What::Index))
    );
    assert_eq!(judged(|map| Said { map, from, to, more: 1, last_time: TIME }), Err((Some(5), What::Index)));
    // Of a later time than its last leaf: it would seem to cover a window that it does not.
    let last_time = "2026-12-01T00:00:00.000000Z";
    assert_eq!(judged(|map| Said { map, from, to, more, last_time }), Err((Some(5), What::Index)));
}

#[test]
fn the_command_says_the_same() {
    let verify = |dir: &Path| {
        let done =
            std::process::Command::new(env!("CARGO_BIN_EXE_cogward-verify")).arg("index").arg(dir).output().unwrap();
        (done.status.code(), String::from_utf8(done.stdout).unwrap())
    };
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), |map| Said { map, from: 0, to: 5, more: 0, last_time: TIME });
    let (code, said) = verify(dir.path());
    assert!(code == Some(0) && said.contains("index 1 roots made anew and the same, leaves 0 to 5"), "{said}");
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), |map| Said { map: without(&map, 3), from: 0, to: 5, more: 0, last_time: TIME });
    let (code, said) = verify(dir.path());
    assert!(code == Some(9) && said.starts_with("FAILED  leaf 5: index: "), "{said}");
}

#[test]
fn whoever_is_named_like_the_index_is_no_claim_of_the_plane() {
    // An agent, a tool and a tool server may bear the name, since it is theirs to choose: nobody lied here.
    let event = |kind| Event::new(kind, "acme".parse().unwrap(), by("claims"));
    let hostile = |seq| match seq {
        0 => event(EventType::ToolCallDecided).public("tool", "ledger.index/read"),
        1 => event(EventType::ToolLabelled).public("tool_server", "ledger.index").public("tool", "read"),
        2 => event(EventType::ToolCallDecided).public("approval", vec!["ledger.index"]),
        _ => event(EventType::ResourceReadDecided).public("server", "ledger.index"),
    };
    let (dir, mut map_of_all) = (tempfile::tempdir().unwrap(), Map::default());
    let key = log_of(dir.path(), 6, true, |seq, map| match seq {
        5 => {
            map_of_all = map.clone();
            claim(Said { map: map.clone(), from: 0, to: 5, more: 0, last_time: TIME })
        }
        _ => hostile(seq),
    });
    for kind in [map::Kind::Tool, map::Kind::ToolServer, map::Kind::Approval] {
        let value = if kind == map::Kind::Tool { "ledger.index/read" } else { "ledger.index" };
        assert!(!map_of_all.prove(&map::key(kind, value)).leaves.is_empty(), "{kind:?}");
    }
    let checkpoint = map_check::checkpoint_of(dir.path(), key.verifying()).unwrap();
    let found = map_check::check(dir.path(), &checkpoint);
    assert_eq!(found.map(|found| (found.claims, found.covered)), Ok((1, 5)));
}

#[test]
fn a_log_full_of_roots_does_not_keep_the_auditors_machine_busy() {
    // Every leaf is a root, and every one is true. As many as a plane makes are made anew, and no more.
    const SIZE: u64 = 6_200;
    let dir = tempfile::tempdir().unwrap();
    let key = log_of(dir.path(), SIZE, true, |seq, map| match seq {
        0 => Event::new(EventType::ToolCallDecided, "acme".parse().unwrap(), by("claims")),
        _ => claim(Said { map: map.clone(), from: 0, to: seq, more: 0, last_time: TIME }),
    });
    assert_eq!(verify_dir(dir.path(), Some(key.verifying())).unwrap().leaves, SIZE);
    let checkpoint = map_check::checkpoint_of(dir.path(), key.verifying()).unwrap();
    let finding = map_check::check(dir.path(), &checkpoint).unwrap_err();
    assert_eq!(
        (finding.what, finding.detail.as_str()),
        (What::Index, "there are more roots of its range than a plane makes")
    );
    let spent: u64 = (1..finding.leaf.unwrap()).sum();
    assert!(map::is_affordable(spent - finding.leaf.unwrap() + 1, finding.leaf.unwrap() - 1), "the one before is not");
    assert!(!map::is_affordable(spent, finding.leaf.unwrap()));
}

#[test]
fn leaves_with_endless_keys_do_not_fill_the_auditors_memory() {
    // As many approvals as fit into a leaf, each of them another one.
    let dir = tempfile::tempdir().unwrap();
    let key = log_of(dir.path(), 175, false, |seq, _| {
        let approvals: Vec<String> = (0..6_000).map(|n| format!("{seq:x}.{n:x}")).collect();
        Event::new(EventType::ToolCallDecided, "acme".parse().unwrap(), by("claims")).public("approval", approvals)
    });
    let checkpoint = map_check::checkpoint_of(dir.path(), key.verifying()).unwrap();
    let finding = map_check::check(dir.path(), &checkpoint).unwrap_err();
    // 6,002 keys a leaf, and room for 16 x 65,536.
    assert_eq!((finding.leaf, finding.what), (Some(174), What::Index), "{}", finding.detail);
}
