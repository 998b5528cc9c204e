//! Searching, proving and exporting parts, and what happens when somebody tampers with what they are made of.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::{fs, path::Path};

use cogward_evidence::{Draft, Evidence, IndexError, LeafView, LogName, Part, PartSummary, Query, SearchError, User};
use cogward_ledger::{
    map::Kind,
    note::VerifyingKey,
    pack::{self, VerifiedPack},
    proof_file::{self, Proven},
    verify::{Finding, What},
};
use cogward_model::{
    RunId,
    event::{Attribution, Event, EventType},
};
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use support::{event, new_run, open, tenant};

fn by(agent: &str, user: &str) -> Attribution {
    Attribution { agent: Some((agent.parse().unwrap(), "1.0.0".parse().unwrap())), subject: Some(user.into()) }
}

fn call(tenant_name: &str, run: RunId, agent: &str, user: &str, tool: &str, decision: &str) -> Event {
    Event::new(EventType::ToolCallDecided, tenant(tenant_name), by(agent, user))
        .run(run)
        .public("tool", tool.to_owned())
        .public("decision", decision.to_owned())
        .public("policy", vec!["plane sha256:aa".to_owned(), format!("tenant:{tenant_name} sha256:bb")])
        .personal("args", format!("about {user}"))
}

fn closed(tenant_name: &str, run: RunId) -> Event {
    Event::new(EventType::RunClosed, tenant(tenant_name), by("claims", "anna")).run(run)
}

struct Case {
    runs: [RunId; 3],
}

/// Three runs of two agents for two people, and another tenant between them.
async fn filled(evidence: &Evidence) -> Case {
    let runs = [new_run(), new_run(), new_run()];
    for n in 0..10 {
        for (run, agent, user) in [(0, "claims", "anna"), (1, "claims", "bo"), (2, "clerk", "anna")] {
            let decision = if n % 5 == 0 { "block" } else { "permit" };
            let tool = if n % 2 == 0 { "crm/read" } else { "crm/write" };
            evidence.note(call("acme", runs[run], agent, user, tool, decision)).unwrap();
        }
        evidence.note(call("other", new_run(), "claims", "anna", "crm/read", "permit")).unwrap();
    }
    evidence.record(closed("acme", runs[0])).await.unwrap();
    Case { runs }
}

async fn found(evidence: &Evidence, query: Query) -> Vec<u64> {
    let page = evidence.search(&tenant("acme"), &query, None, 1_000).await.unwrap();
    assert_eq!(page.cursor, None);
    page.leaves.iter().map(|leaf| leaf.seq).collect()
}

#[tokio::test]
async fn leaves_are_found_by_what_is_in_them_and_only_of_their_tenant() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    let Case { runs } = filled(&evidence).await;
    let query = Query::default;
    assert_eq!(found(&evidence, query()).await, (0..31).collect::<Vec<_>>());
    let user = |name: &str| Some(User::Name(name.into()));
    let cases = [
        (Query { agent: Some("claims".parse().unwrap()), ..query() }, 21),
        (Query { agent: Some("clerk".parse().unwrap()), ..query() }, 10),
        (Query { user: user("anna"), ..query() }, 21),
        (Query { user: user("bo"), ..query() }, 10),
        (Query { user: user("nobody"), ..query() }, 0),
        (Query { run: Some(runs[1]), ..query() }, 10),
        (Query { run: Some(new_run()), ..query() }, 0),
        (Query { tool: Some("crm/write".into()), ..query() }, 15),
        (Query { tool_server: Some("crm".into()), ..query() }, 30),
        (Query { decision: Some("block".into()), agent: Some("claims".parse().unwrap()), ..query() }, 4),
        (Query { kind: Some("run.closed".into()), ..query() }, 1),
        (Query { policy: Some("sha256:bb".into()), user: user("bo"), ..query() }, 10),
        (Query { version: Some("1.0.0".parse().unwrap()), ..query() }, 31),
        // What would be meant for a database is a value like any other.
        (Query { tool: Some("crm/%".into()), ..query() }, 0),
        (Query { tool: Some("' OR 1=1 --".into()), ..query() }, 0),
        (Query { tool_server: Some("c_m".into()), decision: Some("\0".into()), ..query() }, 0),
    ];
    for (query, count) in cases {
        assert_eq!(found(&evidence, query.clone()).await.len(), count, "{query:?}");
    }
    // The same person in another tenant has another pseudonym, and the record names no person.
    let page = evidence.search(&tenant("acme"), &Query { user: user("anna"), ..query() }, None, 1).await.unwrap();
    let other = evidence.search(&tenant("other"), &Query { user: user("anna"), ..query() }, None, 1).await.unwrap();
    assert_ne!(page.public, other.public);
    let text = serde_json::to_string(&page.public).unwrap();
    assert!(!text.contains("anna"), "{text}");
    let pseudonym = text.split('"').nth(3).unwrap().to_owned();
    let same = Query { user: Some(User::Pseudonym(pseudonym)), ..query() };
    assert_eq!(found(&evidence, same).await.len(), 21);
    let wrong = Query { user: Some(User::Pseudonym("zz".into())), ..query() };
    assert!(matches!(evidence.search(&tenant("acme"), &wrong, None, 1).await, Err(SearchError::Pseudonym)));
    let long = Query { tool: Some("x".repeat(600)), ..query() };
    assert!(matches!(evidence.search(&tenant("acme"), &long, None, 1).await, Err(SearchError::Value)));
    let nothing = evidence.search(&tenant("empty"), &query(), None, 1).await.unwrap();
    assert_eq!((nothing.leaves.len(), nothing.current), (0, 0));
    // The file names nobody and nothing.
    let bytes: Vec<u8> =
        ["index.db", "index.db-wal"].iter().flat_map(|name| fs::read(dir.path().join(name)).unwrap()).collect();
    for word in ["anna", "claims", "crm/read", &runs[0].to_string()] {
        assert!(!bytes.windows(word.len()).any(|w| w == word.as_bytes()), "{word}");
    }
}

#[tokio::test]
async fn times_bound_a_search_and_a_cursor_goes_on_where_its_own_search_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    filled(&evidence).await;
    let all = evidence.search(&tenant("acme"), &Query::default(), None, 1_000).await.unwrap().leaves;
    let middle = all[15].time;
    let early = found(&evidence, Query { until: Some(middle), ..Query::default() }).await;
    let late = found(&evidence, Query { since: Some(middle), ..Query::default() }).await;
    assert_eq!([early, late].concat(), (0..31).collect::<Vec<_>>());
    let query = Query { agent: Some("claims".parse().unwrap()), ..Query::default() };
    let (mut cursor, mut seen) = (None::<String>, Vec::new());
    loop {
        let page = evidence.search(&tenant("acme"), &query, cursor.as_deref(), 4).await.unwrap();
        seen.extend(page.leaves.iter().map(|leaf| leaf.seq));
        // What comes meanwhile moves nothing that was seen.
        evidence.record(event("acme", None)).await.unwrap();
        match page.cursor {
            Some(next) if seen.len() < 21 => cursor = Some(next),
            _ => break,
        }
    }
    seen.truncate(21);
    assert_eq!(seen, found(&evidence, query.clone()).await[..21]);
    let cursor = cursor.unwrap();
    let other = Query { agent: Some("clerk".parse().unwrap()), ..Query::default() };
    let moved = cursor.replacen(|c: char| c.is_ascii_digit(), "9", 1);
    for (query, cursor) in
        [(&other, cursor.as_str()), (&query, "7"), (&query, "7-00"), (&query, ""), (&query, moved.as_str())]
    {
        let refused = evidence.search(&tenant("acme"), query, Some(cursor), 4).await;
        assert!(matches!(refused, Err(SearchError::Cursor)), "{cursor}");
    }
    assert!(matches!(evidence.search(&tenant("other"), &query, Some(&cursor), 4).await, Err(SearchError::Cursor)));
}

async fn edit(dir: &Path, sql: &str) {
    let options = SqliteConnectOptions::new().filename(dir.join("index.db"));
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let done = sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
    assert!(done.rows_affected() > 0, "{sql}");
}

/// Asks until the index that was made anew has it all.
async fn again(evidence: &Evidence) -> Vec<u64> {
    loop {
        match evidence.search(&tenant("acme"), &Query::default(), None, 1_000).await {
            Ok(page) if page.current == 31 => return page.leaves.iter().map(|leaf| leaf.seq).collect(),
            Ok(_) | Err(SearchError::Index(_)) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn an_index_that_says_what_the_log_does_not_is_an_error_and_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    filled(&evidence).await;
    let whole = again(&evidence).await;
    for sql in [
        // A leaf is said to be another one, to lie elsewhere, or to have a term that it has not.
        "UPDATE leaf SET segment = (SELECT segment FROM leaf WHERE seq = 3 AND log = 1), offset = (SELECT offset FROM leaf WHERE seq = 3 AND log = 1) WHERE seq = 7 AND log = 1",
        "UPDATE leaf SET offset = offset + 1 WHERE seq = 7",
        "UPDATE leaf SET time = time + 60000000 WHERE seq >= 0",
        "UPDATE tile SET hashes = zeroblob(length(hashes)) WHERE level = 0",
        "UPDATE OR IGNORE term SET seq = seq + 1 WHERE log = 1",
        "DELETE FROM tile",
        "DROP TABLE term",
    ] {
        if sql.starts_with("DROP") {
            let options = SqliteConnectOptions::new().filename(dir.path().join("index.db"));
            let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
            sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
        } else {
            edit(dir.path(), sql).await;
        }
        let late = cogward_model::Timestamp::from_unix_micros(u64::MAX / 2);
        let asked = Query {
            agent: Some("claims".parse().unwrap()),
            until: Some(late),
            since: Some(cogward_model::Timestamp::from_unix_micros(1)),
            ..Query::default()
        };
        let refused = evidence.search(&tenant("acme"), &asked, None, 1_000).await;
        // A time in the index only bounds the search; the leaf's own time is what counts.
        if sql.contains("SET time") {
            assert!(refused.is_ok());
            evidence.reindex().await.unwrap();
        } else {
            assert!(matches!(refused, Err(SearchError::Index(IndexError::Damaged(_)))), "{sql}: {refused:?}");
        }
        assert_eq!(again(&evidence).await, whole, "{sql}");
    }
}

#[tokio::test]
async fn an_index_that_is_missing_broken_of_another_form_or_of_another_log_is_made_anew_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    filled(&evidence).await;
    let whole = again(&evidence).await;
    drop(evidence);
    let path = dir.path().join("index.db");
    let foreign = tempfile::tempdir().unwrap();
    let other = open(foreign.path());
    filled(&other).await;
    again(&other).await;
    drop(other);
    for (n, spoil) in [
        &(|| fs::remove_file(&path).unwrap()) as &dyn Fn(),
        &|| fs::write(&path, b"not a database at all, but a text of some length").unwrap(),
        &|| {
            let mut bytes = fs::read(&path).unwrap();
            let length = bytes.len();
            bytes[200..length - 200].fill(0x5a);
            fs::write(&path, bytes).unwrap();
        },
        &|| assert!(fs::copy(foreign.path().join("index.db"), &path).unwrap() > 0),
    ]
    .iter()
    .enumerate()
    {
        for side in ["-wal", "-shm"] {
            let _none = fs::remove_file(dir.path().join(format!("index.db{side}")));
        }
        spoil();
        let evidence = open(dir.path());
        assert_eq!(again(&evidence).await, whole, "{n}");
        drop(evidence);
    }
    edit(dir.path(), "UPDATE state SET segment = 99").await;
    let evidence = open(dir.path());
    assert_eq!(again(&evidence).await, whole);
    drop(evidence);
    let options = SqliteConnectOptions::new().filename(&path);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("PRAGMA user_version = 77").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    assert_eq!(again(&open(dir.path())).await, whole);
}

#[tokio::test]
async fn a_log_that_grows_while_it_is_searched_shows_each_leaf_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    let writer = evidence.clone();
    let writing = tokio::spawn(async move {
        for _ in 0..40 {
            for _ in 0..50 {
                writer.note(event("acme", None)).unwrap();
            }
            writer.record(event("acme", None)).await.unwrap();
        }
    });
    let mut last = 0;
    while !writing.is_finished() {
        let page = evidence.search(&tenant("acme"), &Query::default(), None, 5_000).await.unwrap();
        let seen: Vec<u64> = page.leaves.iter().map(|leaf| leaf.seq).collect();
        assert_eq!(seen, (0..page.current).collect::<Vec<_>>());
        assert!(page.current >= last);
        last = page.current;
    }
    writing.await.unwrap();
    assert_eq!(all(&evidence, 40 * 51).await, 40 * 51);
    // And after a restart it goes on where it was.
    drop(evidence);
    let evidence = open(dir.path());
    evidence.record(event("acme", None)).await.unwrap();
    assert_eq!(all(&evidence, 40 * 51 + 1).await, 40 * 51 + 1);
    let text = evidence.prove_leaf(&tenant("acme"), 2_040).await.unwrap();
    assert!(proof_file::verify(&text, &key(&evidence)).is_ok());
}

/// How many leaves a search shows, once the index knows so many.
async fn all(evidence: &Evidence, until: u64) -> usize {
    loop {
        let page = evidence.search(&tenant("acme"), &Query::default(), None, 5_000).await.unwrap();
        if page.current >= until {
            return page.leaves.len();
        }
    }
}

fn key(evidence: &Evidence) -> VerifyingKey {
    // Both keys: with one of them alone the other's signature says nothing.
    let keys = evidence.verifying_keys(&LogName::Tenant(tenant("acme"))).unwrap();
    keys.trim_end().parse().unwrap()
}

#[tokio::test]
async fn proofs_hold_offline_and_for_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(dir.path());
    let Case { runs } = filled(&evidence).await;
    let (acme, key) = (tenant("acme"), key(&evidence));
    let earlier = evidence.prove_leaf(&acme, 3).await.unwrap();
    for leaf in [0, 1, 16, 30] {
        let text = evidence.prove_leaf(&acme, leaf).await.unwrap();
        assert!(text.starts_with("c2sp.org/tlog-proof@v1\nextra "));
        let Proven::Inclusion { index, size, .. } = proof_file::verify(&text, &key).unwrap() else { panic!() };
        assert_eq!((index, size), (leaf, 31));
        // No changed letter is believed, wherever it is.
        for at in (0..text.len()).step_by(7) {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let changed = String::from_utf8(bytes).ok().map(|text| proof_file::verify(&text, &key));
            assert!(!matches!(changed, Some(Ok(_))), "byte {at}");
        }
    }
    evidence.record(event("acme", None)).await.unwrap();
    let later = evidence.prove_leaf(&acme, 3).await.unwrap();
    // The way of one size under the checkpoint of another.
    let (head, _) = earlier.split_once("\n\n").unwrap();
    let (_, note) = later.split_once("\n\n").unwrap();
    let mixed = proof_file::verify(&format!("{head}\n\n{note}"), &key);
    assert_eq!(mixed.unwrap_err().what, What::Bytes);
    assert!(matches!(evidence.prove_leaf(&acme, 32).await, Err(SearchError::Missing(_))));
    assert!(matches!(evidence.prove_leaf(&tenant("empty"), 0).await, Err(SearchError::Missing(_))));

    for (old, new) in [(1, None), (31, Some(32)), (7, Some(20)), (32, None)] {
        let text = evidence.prove_consistency(&acme, old, new).await.unwrap();
        assert!(matches!(proof_file::verify(&text, &key), Ok(Proven::Consistency { .. })), "{old} {new:?}");
        let other = text.replacen(&format!("\"size\":{old}"), &format!("\"size\":{}", old + 1), 1);
        assert!(proof_file::verify(&other, &key).is_err());
    }
    for (old, new) in [(0, None), (33, None), (9, Some(8)), (1, Some(33))] {
        assert!(matches!(evidence.prove_consistency(&acme, old, new).await, Err(SearchError::Missing(_))));
    }

    let text = evidence.prove_run(&acme, runs[0]).await.unwrap();
    let Proven::Run { extracted, .. } = proof_file::verify(&text, &key).unwrap() else { panic!() };
    assert_eq!((extracted.leaves, extracted.complete), (11, true));
    let open_run = evidence.prove_run(&acme, runs[1]).await.unwrap();
    let Proven::Run { extracted, .. } = proof_file::verify(&open_run, &key).unwrap() else { panic!() };
    assert_eq!((extracted.leaves, extracted.complete), (10, false));
    // A run with a leaf less, two swapped, or those of another run.
    let whole: serde_json::Value = serde_json::from_str(&text).unwrap();
    for damage in 0..3 {
        let mut changed = whole.clone();
        let leaves = changed["leaves"].as_array_mut().unwrap();
        match damage {
            0 => drop(leaves.remove(4)),
            1 => leaves.swap(4, 5),
            _ => {
                *leaves =
                    serde_json::from_str::<serde_json::Value>(&open_run).unwrap()["leaves"].as_array().unwrap().clone()
            }
        }
        assert!(proof_file::verify(&changed.to_string(), &key).is_err(), "{damage}");
    }
    assert!(matches!(evidence.prove_run(&tenant("other"), runs[0]).await, Err(SearchError::Missing(_))));
    assert!(matches!(evidence.prove_run(&acme, new_run()).await, Err(SearchError::Missing(_))));
}

async fn packed(evidence: &Evidence, part: Part, disclose: bool, dest: &Path) -> Result<PartSummary, SearchError> {
    let draft: Draft = evidence.draft(&tenant("acme"), part, disclose, "opr_1", dest).await?;
    draft.finish(&[])
}

fn verdict(dir: &Path, evidence: &Evidence) -> Result<VerifiedPack, Finding> {
    pack::verify_pack(dir, Some(&key(evidence)))
}

#[tokio::test]
async fn packs_of_a_run_a_window_a_key_and_a_sample_verify_and_are_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(&dir.path().join("evidence"));
    let Case { runs } = filled(&evidence).await;
    let all = evidence.search(&tenant("acme"), &Query::default(), None, 1_000).await.unwrap().leaves;
    let size = evidence.checkpoint(&tenant("acme")).await.unwrap().size;
    let anna = User::Name("anna".into());
    let (early, late) = (all[5].time, all[25].time);
    let inside = all.iter().filter(|leaf| leaf.time >= early && leaf.time < late).count() as u64;
    let act = |leaf: &LeafView| leaf.body["act"] == "agent:claims@1.0.0";
    let by_claims = all.iter().filter(|leaf| act(leaf) && leaf.time >= early && leaf.time < late).count() as u64;
    let is_anna = |leaf: &LeafView| leaf.disclosed["sub"] == "anna";
    let anna_late = all.iter().filter(|leaf| is_anna(leaf) && leaf.time >= early).count() as u64;
    let future = cogward_model::Timestamp::from_unix_micros(u64::MAX / 4);
    let past = cogward_model::Timestamp::from_unix_micros(1);
    let agent = |name: &str| Part::Key(Kind::Agent, name.into(), (None, None));
    for (n, (part, leaves)) in [
        (Part::Run(runs[0]), 11),
        (Part::Run(runs[2]), 10),
        (Part::Window((Some(early), Some(late))), inside),
        (Part::Window((Some(future), None)), 0),
        (Part::Window((None, Some(past))), 0),
        (Part::Sample { nonce: "0123456789abcdef".into(), count: 7, size }, 7),
        (agent("claims"), 21),
        (agent("nobody"), 0),
        (Part::Key(Kind::Tool, "crm/write".into(), (None, None)), 15),
        (Part::Key(Kind::Type, "sandbox.violation".into(), (None, None)), 0),
        (Part::Subject(anna.clone(), (None, None)), 21),
        (Part::Key(Kind::Agent, "claims".into(), (Some(early), Some(late))), by_claims),
        (Part::Subject(anna, (Some(early), None)), anna_late),
    ]
    .into_iter()
    .enumerate()
    {
        let pack = dir.path().join(format!("pack-{n}"));
        let summary = packed(&evidence, part.clone(), n % 2 == 0, &pack).await.unwrap();
        let verified = verdict(&pack, &evidence).unwrap_or_else(|finding| panic!("{part:?}: {finding}"));
        assert_eq!((summary.leaves, verified.extracted.leaves), (leaves, leaves), "{part:?}");
        assert_eq!(verified.disclosures, summary.disclosures);
        assert_eq!(verified.disclosures > 0, n % 2 == 0 && leaves > 0, "{part:?}");
        // Nothing of the other tenant: not its name, not its runs.
        for entry in fs::read_dir(&pack).unwrap() {
            let text = fs::read(entry.unwrap().path()).unwrap();
            assert!(!text.windows(7).any(|w| w == b"\"other\"" || w == b"r/other"));
        }
    }
    assert!(matches!(
        packed(&evidence, Part::Run(new_run()), false, &dir.path().join("x")).await,
        Err(SearchError::Missing(_))
    ));
    // A sample is of a state that was; later leaves do not change it.
    let (one, two) = (dir.path().join("pack-5/leaves.jsonl"), dir.path().join("again/leaves.jsonl"));
    let part = Part::Sample { nonce: "0123456789abcdef".into(), count: 7, size };
    packed(&evidence, part, false, &dir.path().join("again")).await.unwrap();
    assert_eq!(fs::read(one).unwrap(), fs::read(two).unwrap());
    let whole = dir.path().join("whole");
    evidence.export(&tenant("acme"), &whole).await.unwrap();
    let checkpoint = cogward_ledger::map_check::checkpoint_of(&whole, &key(&evidence)).unwrap();
    let index = cogward_ledger::map_check::check(&whole, &checkpoint).unwrap();
    assert!(index.claims >= 5 && index.covered > 30, "{index:?}");
}

#[tokio::test]
async fn a_pack_with_a_leaf_removed_added_swapped_or_renamed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(&dir.path().join("evidence"));
    let Case { runs } = filled(&evidence).await;
    let all = evidence.search(&tenant("acme"), &Query::default(), None, 1_000).await.unwrap().leaves;
    let (run, other) = (dir.path().join("run"), dir.path().join("other"));
    let (window, agent) = (dir.path().join("window"), dir.path().join("agent"));
    packed(&evidence, Part::Run(runs[0]), true, &run).await.unwrap();
    packed(&evidence, Part::Run(runs[1]), false, &other).await.unwrap();
    packed(&evidence, Part::Window((Some(all[3].time), None)), false, &window).await.unwrap();
    packed(&evidence, Part::Key(Kind::Agent, "claims".into(), (None, None)), false, &agent).await.unwrap();
    let key_path = dir.path().join("evidence/keys/acme.sign");
    let seed: [u8; 32] = {
        use base64::{Engine, engine::general_purpose::STANDARD};
        STANDARD.decode(fs::read(key_path).unwrap()).unwrap().try_into().unwrap()
    };
    let signing = cogward_ledger::note::SigningKey::from_seed(key(&evidence).origin(), &seed).unwrap();
    let foreign = fs::read_to_string(other.join("leaves.jsonl")).unwrap();
    // Even the key's holder, who signs the manifest anew, cannot make a part look like all of it.
    for resign in [false, true] {
        for pack in [&run, &window, &agent] {
            let path = pack.join("leaves.jsonl");
            let whole = fs::read_to_string(&path).unwrap();
            let (manifest, note) =
                (fs::read(pack.join("pack.json")).unwrap(), fs::read(pack.join("pack.note")).unwrap());
            let lines: Vec<&str> = whole.lines().collect();
            let middle = lines.len() / 2;
            let mut removed = lines.clone();
            removed.remove(middle);
            let mut swapped = lines.clone();
            swapped.swap(middle, middle + 1);
            let mut doubled = lines.clone();
            doubled.insert(middle, lines[middle]);
            let mut added = lines.clone();
            added.push(foreign.lines().last().unwrap());
            let first = lines[1..].to_vec();
            for (n, changed) in [removed, swapped, doubled, added, first, Vec::new()].into_iter().enumerate() {
                let text: String = changed.iter().map(|line| format!("{line}\n")).collect();
                fs::write(&path, &text).unwrap();
                if resign {
                    let mut said: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
                    said["files"]["leaves.jsonl"] = pack::file_digest(text.as_bytes()).unwrap().into();
                    let around = u64::from(pack == &window && n != 4);
                    let left = (changed.len() as u64).saturating_sub(around);
                    said["leaves"] = left.into();
                    let said = serde_json::to_vec(&said).unwrap();
                    fs::write(pack.join("pack.json"), &said).unwrap();
                    let text = pack::signed_text(key(&evidence).origin(), &said);
                    fs::write(pack.join("pack.note"), signing.note(&text).unwrap()).unwrap();
                }
                let refused = verdict(pack, &evidence);
                assert!(refused.is_err(), "{} {n} {resign}: {refused:?}", pack.display());
                fs::write(pack.join("pack.json"), &manifest).unwrap();
                fs::write(pack.join("pack.note"), &note).unwrap();
            }
            fs::write(&path, &whole).unwrap();
            assert!(verdict(pack, &evidence).is_ok());
        }
    }
    // A file that nobody named, one that is gone, and the signature of another pack.
    fs::write(run.join("extra.txt"), "x").unwrap();
    assert_eq!(verdict(&run, &evidence).unwrap_err().what, What::Manifest);
    fs::remove_file(run.join("extra.txt")).unwrap();
    let note = fs::read(run.join("pack.note")).unwrap();
    fs::copy(window.join("pack.note"), run.join("pack.note")).unwrap();
    assert_eq!(verdict(&run, &evidence).unwrap_err().what, What::Manifest);
    fs::write(run.join("pack.note"), note).unwrap();
    let disclosures = fs::read_to_string(run.join("disclosures.jsonl")).unwrap();
    fs::remove_file(run.join("disclosures.jsonl")).unwrap();
    assert_eq!(verdict(&run, &evidence).unwrap_err().what, What::Missing);
    fs::write(run.join("disclosures.jsonl"), disclosures).unwrap();
    assert!(verdict(&run, &evidence).is_ok());
}

#[tokio::test]
async fn what_the_index_leaves_out_is_caught_by_the_verifiable_index() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(&dir.path().join("evidence"));
    let Case { runs } = filled(&evidence).await;
    let whole = found(&evidence, Query { agent: Some("claims".parse().unwrap()), ..Query::default() }).await;
    // A row is taken out: the search does not show the leaf, and could not know of it.
    edit(&dir.path().join("evidence"), "DELETE FROM term WHERE log = 1 AND seq = 9").await;
    let less = found(&evidence, Query { agent: Some("claims".parse().unwrap()), ..Query::default() }).await;
    assert_eq!(less.len() + 1, whole.len());
    // The pack is made of the log: the leaf is there.
    let pack = dir.path().join("pack");
    let summary = packed(&evidence, Part::Key(Kind::Agent, "claims".into(), (None, None)), false, &pack).await.unwrap();
    assert_eq!(summary.leaves, whole.len() as u64);
    assert!(verdict(&pack, &evidence).is_ok());
    // And a run with a gap is an error, not a shorter run.
    let refused = evidence.prove_run(&tenant("acme"), runs[0]).await;
    assert!(matches!(refused, Err(SearchError::Index(IndexError::Damaged(_)))), "{refused:?}");
}

#[tokio::test]
async fn whole_ranges_get_their_roots_by_themselves_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = open(&dir.path().join("evidence"));
    let run = new_run();
    for n in 0..66_000 {
        let plain = Event::new(EventType::PlaneStarted, tenant("acme"), Attribution::plane());
        evidence.note(if n % 3 == 0 { plain.run(run) } else { plain }).unwrap();
        if n % 8_000 == 0 {
            evidence.record(event("acme", None)).await.unwrap();
        }
    }
    evidence.record(event("acme", None)).await.unwrap();
    let sealed = Query { kind: Some("ledger.index".into()), ..Query::default() };
    let roots = loop {
        let page = evidence.search(&tenant("acme"), &sealed, None, 10).await.unwrap();
        if !page.leaves.is_empty() {
            break page.leaves;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((roots.len(), &roots[0].body["from"], &roots[0].body["to"]), (1, &0.into(), &65_536.into()));
    drop(evidence);
    let evidence = open(&dir.path().join("evidence"));
    let pack = dir.path().join("pack");
    let part = Part::Key(Kind::Type, "ledger.index".into(), (None, None));
    while let Err(error) = packed(&evidence, part.clone(), false, &pack).await {
        assert!(matches!(error, SearchError::Index(IndexError::Behind { .. })), "{error}");
        let _partly = fs::remove_dir_all(&pack);
    }
    let verified = verdict(&pack, &evidence).unwrap();
    assert_eq!(verified.extracted.leaves, 1, "one whole range, one root; that of the open one lies behind it");
    let proof = evidence.prove_leaf(&tenant("acme"), 40_000).await.unwrap();
    assert!(proof_file::verify(&proof, &key(&evidence)).is_ok());
}

/// The files of a pack with their lengths.
fn lengths(pack: &Path) -> std::collections::BTreeMap<String, u64> {
    let files = fs::read_dir(pack).unwrap().map(|file| file.unwrap());
    files.map(|file| (file.file_name().to_string_lossy().into_owned(), file.metadata().unwrap().len())).collect()
}

#[tokio::test]
async fn a_pack_made_beside_a_busy_tenant_has_the_same_files_lengths_and_numbers_as_one_made_alone() {
    let mut made = Vec::new();
    for busy in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let evidence = open(&dir.path().join("evidence"));
        let run = new_run();
        for n in 0..12 {
            evidence.note(call("acme", run, "claims", "anna", "crm/read", "permit")).unwrap();
            for _ in 0..if busy { n * 3 } else { 0 } {
                evidence.note(call("other", new_run(), "claims", "anna", "crm/read", "block")).unwrap();
            }
        }
        evidence.record(closed("acme", run)).await.unwrap();
        if busy {
            // The other tenant's run is not there for this one, whoever asks.
            let foreign = new_run();
            evidence.record(call("other", foreign, "claims", "anna", "crm/read", "permit")).await.unwrap();
            let part = packed(&evidence, Part::Run(foreign), false, &dir.path().join("x")).await;
            assert!(matches!(part, Err(SearchError::Missing(_))));
            assert!(found(&evidence, Query { run: Some(foreign), ..Query::default() }).await.is_empty());
        }
        let parts = [
            Part::Run(run),
            Part::Key(Kind::Tool, "crm/read".into(), (None, None)),
            Part::Window((None, None)),
            Part::Subject(User::Name("anna".into()), (None, None)),
        ];
        let mut all = Vec::new();
        for (n, part) in parts.into_iter().enumerate() {
            let pack = dir.path().join(format!("{n}"));
            let summary = packed(&evidence, part, true, &pack).await.unwrap();
            all.push((lengths(&pack), summary.leaves, summary.disclosures, summary.size));
        }
        made.push(all);
    }
    assert_eq!(made[0], made[1]);
}
