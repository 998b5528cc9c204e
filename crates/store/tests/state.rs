//! The store against real files: schema, uniqueness, the outbox, crashes, many writers.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use cogward_model::{
    Digest, RunId, SystemClock, SystemEntropy, TenantName, Timestamp,
    event::{Attribution, Event, EventType},
    id::{Id, Kind, OperationId},
    pin::{Pin, PinState},
    run::RunState,
    upstream::{ToolServer, ToolTransport},
};
use cogward_store::{
    AgentRow, IdempotencyRow, Noun, OpenError, OperationRow, OperationState, OperatorRow, PageRequest, Role, RunFilter,
    RunRow, SecretRow, Store, StoreError, TenantRow, ToolPinRow, Tx, VersionRow,
};
use sqlx::{ConnectOptions, Connection, sqlite::SqliteConnectOptions};

fn at(micros: u64) -> Timestamp {
    Timestamp::from_unix_micros(micros)
}

fn new_id<K: Kind>() -> Id<K> {
    Id::new(&SystemClock, &SystemEntropy)
}

fn tenant(name: &str) -> TenantRow {
    TenantRow { name: name.parse().unwrap(), created: at(7), created_by: "plane".into() }
}

fn event(note: &str) -> Event {
    Event::new(EventType::TenantCreated, TenantName::default_tenant(), Attribution::operator("ada"))
        .public("note", note)
        .personal("who", "Ada")
}

async fn open(dir: &Path) -> Store {
    Store::open(&dir.join("state.db")).await.unwrap()
}

async fn estate(store: &Store) {
    let mut tx = store.begin().await.unwrap();
    tx.tenant_insert(&tenant("default")).await.unwrap();
    tx.agent_put(&AgentRow {
        tenant: TenantName::default_tenant(),
        name: "clerk".parse().unwrap(),
        owner: "team".into(),
        sponsor: "ada".into(),
        cost_centre: "cc1".into(),
        created: at(1),
        created_by: "opr".into(),
    })
    .await
    .unwrap();
    tx.version_insert(&version("1.0.0", 1)).await.unwrap();
    let _ = tx.commit(Vec::new()).await.unwrap();
}

fn version(label: &str, created: u64) -> VersionRow {
    VersionRow {
        tenant: TenantName::default_tenant(),
        agent: "clerk".parse().unwrap(),
        label: label.parse().unwrap(),
        manifest_json: "{}".into(),
        manifest_digest: Digest::from_bytes([1; 32]),
        package_digest: Digest::from_bytes([2; 32]),
        version_digest: Digest::from_bytes([3; 32]),
        tier: "development".into(),
        created: at(created),
        created_by: "opr".into(),
    }
}

fn run(slot: Option<u32>) -> RunRow {
    RunRow {
        id: new_id(),
        tenant: TenantName::default_tenant(),
        agent: "clerk".parse().unwrap(),
        version: "1.0.0".parse().unwrap(),
        digest: Digest::from_bytes([3; 32]),
        goal: "file it".into(),
        subject: Some("ada".into()),
        created_by: "opr".into(),
        reason: None,
        input_digest: Some(Digest::from_bytes([9; 32])),
        created: at(5),
        outside: None,
        state: RunState::Starting,
        desired: RunState::Running,
        fence_epoch: 0,
        revision: 0,
        uid_slot: slot,
        started: None,
        ended: None,
        exit_code: None,
        exit_signal: None,
        fail_cause: None,
        usage_json: None,
    }
}

async fn done(tx: Tx) {
    let _ = tx.commit(Vec::new()).await.unwrap();
}

#[tokio::test]
async fn the_schema_is_made_once_and_the_file_is_private() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let store = open(dir.path()).await;
        let mut tx = store.begin().await.unwrap();
        let name = format!("t{}", new_id::<cogward_model::id::Run>().to_string().to_lowercase().replace('_', "-"));
        tx.tenant_insert(&tenant(&name)).await.unwrap();
        done(tx).await;
        for file in std::fs::read_dir(dir.path()).unwrap() {
            let file = file.unwrap();
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
        }
    }
    let store = open(dir.path()).await;
    assert_eq!(store.tenants(&PageRequest::default()).await.unwrap().items.len(), 2);
}

#[tokio::test]
async fn a_database_of_a_newer_plane_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).await.close().await;
    let options = SqliteConnectOptions::new().filename(dir.path().join("state.db"));
    let mut raw = options.connect().await.unwrap();
    sqlx::query("INSERT INTO schema_migrations VALUES (99, '0099_future', 0)").execute(&mut raw).await.unwrap();
    assert!(matches!(Store::open(&dir.path().join("state.db")).await, Err(OpenError::Newer { found: 99, .. })));
    sqlx::query("DELETE FROM schema_migrations WHERE number = 99").execute(&mut raw).await.unwrap();
    sqlx::query("UPDATE schema_migrations SET name = '0001_other'").execute(&mut raw).await.unwrap();
    assert!(matches!(Store::open(&dir.path().join("state.db")).await, Err(OpenError::Diverged { number: 1 })));
}

#[tokio::test]
async fn what_is_taken_or_missing_is_a_typed_error() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    estate(&store).await;
    let mut tx = store.begin().await.unwrap();
    let conflict = |result: Result<(), StoreError>, wanted: Noun| match result {
        Err(StoreError::Conflict { noun, .. }) => assert_eq!(noun, wanted),
        other => panic!("{other:?}"),
    };
    conflict(tx.tenant_insert(&tenant("default")).await, Noun::Tenant);
    conflict(tx.version_insert(&version("1.0.0", 2)).await, Noun::Version);
    let operator = OperatorRow {
        id: new_id(),
        name: "admin".into(),
        role: Role::Operator,
        roles: vec!["finance".parse().unwrap()],
        credential_hash: "h".into(),
        created: at(1),
        revoked: None,
        rotated: None,
        previous: None,
    };
    tx.operator_insert(&operator).await.unwrap();
    conflict(tx.operator_insert(&OperatorRow { id: new_id(), ..operator.clone() }).await, Noun::Operator);
    tx.run_insert(&run(Some(0))).await.unwrap();
    conflict(tx.run_insert(&run(Some(0))).await, Noun::Run);
    let mut unregistered = run(None);
    unregistered.version = "2.0.0".parse().unwrap();
    assert!(matches!(tx.run_insert(&unregistered).await, Err(StoreError::Missing { noun: Noun::Run, .. })));
    let answer = IdempotencyRow {
        operator: "o".into(),
        key: "k".into(),
        request_digest: Digest::from_bytes([1; 32]),
        status: 201,
        response: "{}".into(),
        created: at(3),
    };
    tx.idempotency_insert(&answer).await.unwrap();
    conflict(tx.idempotency_insert(&answer).await, Noun::IdempotencyKey);
    assert_eq!(tx.idempotency("o", "k").await.unwrap(), Some(answer));
    assert_eq!(tx.idempotency_purge(at(4)).await.unwrap(), 1);
    assert!(tx.operator_revoke(operator.id, at(9)).await.unwrap());
    assert!(!tx.operator_revoke(operator.id, at(10)).await.unwrap());
    done(tx).await;
    let kept = store.operator(operator.id).await.unwrap().unwrap();
    assert_eq!(kept.revoked, Some(at(9)));
    assert!(!format!("{kept:?}").contains("credential_hash"));
}

#[tokio::test]
async fn a_pin_is_kept_whole_and_belongs_to_its_server() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut tx = store.begin().await.unwrap();
    tx.tenant_insert(&tenant("default")).await.unwrap();
    let mut pin = Pin::first(Digest::from_bytes([1; 32]));
    let mut row = ToolPinRow {
        tenant: TenantName::default_tenant(),
        server: "files".parse().unwrap(),
        tool: "read".parse().unwrap(),
        upstream: Digest::from_bytes([9; 32]),
        pin,
        definition: "{\"name\":\"read\"}".into(),
        approved_definition: None,
        approved_by: None,
        approved: None,
        reason: None,
        labels: ["personal".parse().unwrap()].into(),
        idempotent: true,
        seen: at(5),
        revision: 1,
    };
    assert!(matches!(tx.tool_pin_put(&row).await, Err(StoreError::Missing { noun: Noun::Tool, .. })));
    let server = r#"{"tenant": "default", "name": "files", "transport": {"kind": "http", "url": "https://a.example"}}"#;
    let server: ToolServer = serde_json::from_str(server).unwrap();
    tx.tool_server_put(&server, "ada", at(1)).await.unwrap();
    assert_eq!(tx.tool_pin_put(&row).await.unwrap(), 1);
    assert_eq!(tx.tool_pin(&row.tenant, &row.server, &row.tool).await.unwrap(), Some(row.clone()));
    done(tx).await;
    assert_eq!(store.approved_tools(&row.tenant).await.unwrap(), []);
    pin.approve();
    (row.pin, row.approved_definition) = (pin, Some(row.definition.clone()));
    (row.approved_by, row.approved, row.reason) = (Some("ada".into()), Some(at(6)), Some("r".into()));
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.tool_pin_put(&row).await.unwrap(), 2);
    // A server with pins is not forgotten without them.
    assert!(tx.tool_server_delete(&row.tenant, &row.server).await.is_err());
    done(tx).await;
    row.revision = 2;
    assert_eq!(store.tool_pins(&row.tenant, &row.server).await.unwrap(), [row.clone()]);
    let approved = store.approved_tools(&row.tenant).await.unwrap();
    assert_eq!((approved.len(), approved[0].digest), (1, Digest::from_bytes([1; 32])));
    assert_eq!((&approved[0].labels, approved[0].idempotent), (&row.labels, true));
    let read = row.tool.tool().unwrap().clone();
    assert_eq!(store.tool_names(&row.tenant).await.unwrap(), [(row.server.clone(), read)]);
    assert_eq!(store.tool_counts(&row.tenant).await.unwrap(), [(row.server.clone(), PinState::Approved, true, 1)]);
    let page = store.tool_pins_page(&row.tenant, &row.server, &PageRequest { after: None, limit: 1 }).await.unwrap();
    assert_eq!((page.items.len(), page.next), (1, None));
    // What is no tool is kept beside them and counted as none.
    let mut tx = store.begin().await.unwrap();
    let resource = ToolPinRow { tool: "resource:file:///it's".parse().unwrap(), ..row.clone() };
    tx.tool_pin_put(&resource).await.unwrap();
    assert_eq!(tx.tool_pin(&row.tenant, &row.server, &resource.tool).await.unwrap().unwrap().tool, resource.tool);
    done(tx).await;
    assert_eq!(store.approved_tools(&row.tenant).await.unwrap(), approved);
    assert_eq!(store.tool_names(&row.tenant).await.unwrap().len(), 1);
    assert_eq!(store.tool_counts(&row.tenant).await.unwrap(), [(row.server.clone(), PinState::Approved, true, 1)]);
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.tool_pins_delete(&row.tenant, &row.server).await.unwrap(), 2);
    assert!(tx.tool_server_delete(&row.tenant, &row.server).await.unwrap());
    done(tx).await;
}

#[tokio::test]
async fn events_are_there_after_a_crash_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut tx = store.begin().await.unwrap();
    tx.tenant_insert(&tenant("default")).await.unwrap();
    let committed = tx.commit(vec![event("one"), event("two")]).await.unwrap();
    assert_eq!(committed.outbox.iter().map(|r| r.id).collect::<Vec<_>>(), [1, 2]);
    // A crash: nothing is closed, the files are taken as they are.
    let after = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), after.path().join(file.file_name())).unwrap();
    }
    let again = open(after.path()).await;
    assert!(again.tenant(&TenantName::default_tenant()).await.unwrap().is_some());
    assert_eq!(again.outbox_pending(10).await.unwrap(), committed.outbox, "the same events under the same ids");
    again.outbox_done(&[1]).await.unwrap();
    again.outbox_done(&[1]).await.unwrap();
    assert_eq!(again.outbox_pending(10).await.unwrap(), committed.outbox[1..]);
    again.outbox_done(&[2]).await.unwrap();
    let tx = again.begin().await.unwrap();
    let next = tx.commit(vec![event("three")]).await.unwrap();
    assert_eq!(next.outbox[0].id, 3, "an id is never used twice");
}

#[tokio::test]
async fn a_dropped_transaction_never_happened() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut tx = store.begin().await.unwrap();
    tx.tenant_insert(&tenant("ghost")).await.unwrap();
    drop(tx);
    let mut tx = store.begin().await.unwrap();
    assert!(tx.tenant(&"ghost".parse().unwrap()).await.unwrap().is_none());
    tx.tenant_insert(&tenant("ghost")).await.unwrap();
    done(tx).await;
    assert!(store.tenant(&"ghost".parse().unwrap()).await.unwrap().is_some());
}

#[tokio::test]
async fn readers_do_not_see_what_is_not_committed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut tx = store.begin().await.unwrap();
    tx.tenant_insert(&tenant("default")).await.unwrap();
    assert!(store.tenant(&TenantName::default_tenant()).await.unwrap().is_none());
    done(tx).await;
    assert!(store.tenant(&TenantName::default_tenant()).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_take_turns_and_none_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(dir.path()).await);
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..16 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            for turn in 0..8 {
                let mut tx = store.begin().await.unwrap();
                tx.tenant_insert(&tenant(&format!("t{writer}-{turn}"))).await.unwrap();
                let _ = tx.commit(vec![event("made")]).await.unwrap();
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    let pending = store.outbox_pending(1000).await.unwrap();
    assert_eq!(pending.iter().map(|r| r.id).collect::<Vec<_>>(), (1..=128).collect::<Vec<_>>());
    assert_eq!(store.tenants(&PageRequest { after: None, limit: 500 }).await.unwrap().items.len(), 128);
}

#[tokio::test]
async fn lists_are_read_page_by_page() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut tx = store.begin().await.unwrap();
    for n in 0..7 {
        tx.tenant_insert(&tenant(&format!("t{n}"))).await.unwrap();
    }
    done(tx).await;
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = store.tenants(&PageRequest { after, limit: 3 }).await.unwrap();
        names.extend(page.items.iter().map(|t| t.name.to_string()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(names, ["t0", "t1", "t2", "t3", "t4", "t5", "t6"]);
}

#[tokio::test]
async fn the_newest_version_is_by_age_and_not_by_label() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    estate(&store).await;
    let mut tx = store.begin().await.unwrap();
    tx.version_insert(&version("0.9.0", 50)).await.unwrap();
    done(tx).await;
    let (tenant, agent) = (TenantName::default_tenant(), "clerk".parse().unwrap());
    assert_eq!(store.version_latest(&tenant, &agent).await.unwrap().unwrap().label.as_str(), "0.9.0");
    assert_eq!(store.versions(&tenant, &agent, &PageRequest::default()).await.unwrap().items.len(), 2);
    assert!(store.version(&tenant, &agent, &"1.0.0".parse().unwrap()).await.unwrap().is_some());
    assert_eq!(store.agents(&tenant, &PageRequest::default()).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn a_run_is_written_by_who_read_it_last() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    estate(&store).await;
    let mut first = run(Some(0));
    let mut tx = store.begin().await.unwrap();
    tx.run_insert(&first).await.unwrap();
    assert_eq!(tx.run_free_slot(2).await.unwrap(), Some(1));
    let second = run(Some(1));
    tx.run_insert(&second).await.unwrap();
    assert_eq!(tx.run_free_slot(2).await.unwrap(), None);
    done(tx).await;

    let mut stale = first.clone();
    first.state = RunState::Running;
    first.started = Some(at(8));
    let mut tx = store.begin().await.unwrap();
    tx.run_put(&mut first).await.unwrap();
    stale.state = RunState::Killed;
    assert!(matches!(tx.run_put(&mut stale).await, Err(StoreError::Stale { .. })));
    assert_eq!(tx.run(first.id).await.unwrap().unwrap(), first);
    first.state = RunState::Killed;
    first.uid_slot = None;
    first.ended = Some(at(9));
    first.exit_signal = Some(9);
    tx.run_put(&mut first).await.unwrap();
    assert_eq!(tx.run_free_slot(2).await.unwrap(), Some(0), "an ended run gives its slot back");
    done(tx).await;

    assert_eq!(store.runs_live().await.unwrap(), [second]);
    let ended = RunFilter { state: Some(RunState::Killed), ..RunFilter::default() };
    assert_eq!(store.runs(&ended, &PageRequest::default()).await.unwrap().items, [first]);
    let elsewhere = RunFilter { agent: Some("other".parse().unwrap()), ..RunFilter::default() };
    assert!(store.runs(&elsewhere, &PageRequest::default()).await.unwrap().items.is_empty());
    let all = store.runs(&RunFilter::default(), &PageRequest { after: None, limit: 1 }).await.unwrap();
    let rest = store.runs(&RunFilter::default(), &PageRequest { after: all.next, limit: 1 }).await.unwrap();
    assert!(all.items[0].id > rest.items[0].id && rest.next.is_none(), "newest first");
}

#[tokio::test]
async fn an_operation_ends_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    estate(&store).await;
    let run = run(None);
    let id: OperationId = new_id();
    let operation = OperationRow {
        id,
        run: run.id,
        verb: "kill".into(),
        reason: Some("because".into()),
        actor: "opr".into(),
        state: OperationState::Pending,
        created: at(4),
        finished: None,
        receipt_json: None,
    };
    let mut tx = store.begin().await.unwrap();
    assert!(matches!(tx.operation_insert(&operation).await, Err(StoreError::Missing { .. })));
    tx.run_insert(&run).await.unwrap();
    tx.operation_insert(&operation).await.unwrap();
    done(tx).await;
    assert_eq!(store.operations_pending().await.unwrap(), [operation]);
    let mut tx = store.begin().await.unwrap();
    tx.operation_finish(id, OperationState::Done, at(6), Some("{\"micros\":5}")).await.unwrap();
    assert!(matches!(
        tx.operation_finish(id, OperationState::Failed, at(7), None).await,
        Err(StoreError::Stale { noun: Noun::Operation, .. })
    ));
    done(tx).await;
    let kept = store.operations(run.id, &PageRequest::default()).await.unwrap().items;
    assert_eq!((kept[0].state, kept[0].finished), (OperationState::Done, Some(at(6))));
    assert!(store.operations_pending().await.unwrap().is_empty());
    let _: Option<RunId> = store.run(run.id).await.unwrap().map(|r| r.id);
}

#[tokio::test]
async fn upstreams_and_secrets_are_replaced_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    estate(&store).await;
    let server = ToolServer {
        tenant: TenantName::default_tenant(),
        name: "files".parse().unwrap(),
        transport: ToolTransport::Http {
            url: "https://tools.example/mcp".into(),
            credential_header: None,
            headers: Default::default(),
            oauth: None,
        },
        limits: cogward_model::upstream::ToolServerLimits::default(),
    };
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.tool_server_put(&server, "opr", at(1)).await.unwrap(), 1);
    assert_eq!(tx.tool_server_put(&server, "opr2", at(2)).await.unwrap(), 2);
    let orphan = ToolServer { tenant: "nobody".parse().unwrap(), ..server.clone() };
    assert!(matches!(tx.tool_server_put(&orphan, "opr", at(1)).await, Err(StoreError::Missing { .. })));
    let secret = SecretRow { name: "provider/default/x".into(), sealed: "abc".into(), updated: at(1) };
    tx.secret_put(&secret).await.unwrap();
    tx.secret_put(&SecretRow { sealed: "def".into(), ..secret.clone() }).await.unwrap();
    done(tx).await;
    let kept = store.tool_server(&server.tenant, &server.name).await.unwrap().unwrap();
    assert_eq!((kept.created, kept.updated, kept.updated_by.as_str(), kept.config), (at(1), at(2), "opr2", server));
    assert_eq!(store.secret(&secret.name).await.unwrap().unwrap().sealed, "def");
    let mut tx = store.begin().await.unwrap();
    assert!(tx.secret_delete(&secret.name).await.unwrap());
    assert!(!tx.secret_delete(&secret.name).await.unwrap());
    done(tx).await;
}

#[tokio::test]
async fn the_stricter_floor_holds_and_says_who_set_it() {
    use cogward_model::{
        floor::FloorSource,
        manifest::{Profile, Tier},
    };
    use cogward_store::FloorRow;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let name = TenantName::default_tenant();
    let held = |tier| {
        let (store, name) = (store.clone(), name.clone());
        async move {
            let rows = store.floors(Some(&name)).await.unwrap();
            let (floor, _) = rows.effective(tier);
            (floor.profile, floor.source, rows.told(tier))
        }
    };
    assert_eq!(held(Tier::Production).await.0, Profile::Hardened);
    assert_eq!(held(Tier::Development).await.1, FloorSource::Default);
    let set = async |tenant: Option<TenantName>, tier, profile, set_by: &str| {
        let mut tx = store.begin().await.unwrap();
        let row = FloorRow { tenant, tier, profile, reason: "audit".into(), updated: at(9), set_by: set_by.into() };
        tx.floor_put(&row).await.unwrap();
        let _ = tx.commit(Vec::new()).await.unwrap();
    };
    set(Some(name.clone()), Tier::Development, Profile::Hardened, "bo").await;
    let (profile, source, told) = held(Tier::Development).await;
    assert_eq!((profile, source), (Profile::Hardened, FloorSource::Tenant));
    assert!(told.contains("`bo`") && told.contains("tenant `default`") && told.contains("audit"), "{told}");
    // Another tenant, and another tier, are as they were; the plane's own does not change by it.
    let other: TenantName = "retail".parse().unwrap();
    assert_eq!(store.floors(Some(&other)).await.unwrap().effective(Tier::Development).0.profile, Profile::Standard);
    assert_eq!(store.floors(None).await.unwrap().effective(Tier::Development).0.profile, Profile::Standard);
    // The plane lowers production, and the tenant's own demand still holds.
    set(None, Tier::Production, Profile::Standard, "ada").await;
    assert_eq!(held(Tier::Production).await.1, FloorSource::Plane);
    set(Some(name.clone()), Tier::Production, Profile::Hardened, "bo").await;
    set(None, Tier::Production, Profile::Standard, "ada").await;
    assert_eq!(held(Tier::Production).await.0, Profile::Hardened);
    let mut tx = store.begin().await.unwrap();
    assert!(tx.floor_delete(Some(&name), Tier::Production).await.unwrap());
    assert!(!tx.floor_delete(Some(&name), Tier::Production).await.unwrap());
    let _ = tx.commit(Vec::new()).await.unwrap();
    assert_eq!(held(Tier::Production).await.0, Profile::Standard);
}

#[tokio::test]
async fn a_database_of_the_first_schema_is_brought_up_with_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut old = SqliteConnectOptions::new().filename(&path).create_if_missing(true).connect().await.unwrap();
    sqlx::raw_sql(include_str!("../migrations/0001_state.sql")).execute(&mut old).await.unwrap();
    sqlx::raw_sql(
        "CREATE TABLE schema_migrations (number BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, applied BIGINT NOT NULL);
         INSERT INTO schema_migrations VALUES (1, '0001_state', 0);
         INSERT INTO operators (id, name, role, credential_hash, created)
             VALUES ('opr_01KAMZ0000000000000000000A', 'ada', 'operator', 'h', 5);",
    )
    .execute(&mut old)
    .await
    .unwrap();
    old.close().await.unwrap();
    let store = open(dir.path()).await;
    let operators = store.operators(&PageRequest { after: None, limit: 10 }).await.unwrap().items;
    assert_eq!(operators.len(), 1);
    assert!(operators[0].name == "ada" && operators[0].rotated.is_none() && operators[0].previous.is_none());
}
