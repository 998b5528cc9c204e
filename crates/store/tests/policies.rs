//! Policies and approvals as they are kept: versions for ever, one pointer a level, one answer a call.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use cogward_model::{
    Digest, PolicyScope, RunId, SystemClock, SystemEntropy, TenantName, Timestamp,
    id::{ApprovalId, Id, Kind, OperatorId},
    run::RunState,
};
use cogward_store::{
    AgentRow, Answerable, ApprovalFilter, ApprovalRow, ApprovalState, NewPolicyVersion, Noun, PageRequest, RunRow,
    Store, StoreError, TenantRow, VersionRow,
};

fn at(micros: u64) -> Timestamp {
    Timestamp::from_unix_micros(micros)
}

fn new_id<K: Kind>() -> Id<K> {
    Id::new(&SystemClock, &SystemEntropy)
}

fn ada(micros: u64) -> Answerable {
    Answerable { name: "ada".into(), id: new_id::<cogward_model::id::Operator>(), at: at(micros), reason: "why".into() }
}

fn digest(byte: u8) -> Digest {
    Digest::from_bytes([byte; 32])
}

fn new(scope: &PolicyScope, byte: u8) -> NewPolicyVersion {
    NewPolicyVersion { scope: scope.clone(), digest: digest(byte), text: format!("// {byte}"), written: ada(1) }
}

async fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("state.db")).await.unwrap();
    (dir, store)
}

#[tokio::test]
async fn versions_are_numbered_by_level_and_a_pointer_moves_among_them() {
    let (_dir, store) = store().await;
    let (plane, tenant): (PolicyScope, PolicyScope) = (PolicyScope::Plane, "tenant:default".parse().unwrap());
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.policy_version_insert(&new(&plane, 1)).await.unwrap(), 1);
    assert_eq!(tx.policy_version_insert(&new(&plane, 2)).await.unwrap(), 2);
    assert_eq!(tx.policy_version_insert(&new(&tenant, 3)).await.unwrap(), 1);
    let twice = tx.policy_version_insert(&new(&plane, 2)).await;
    assert!(matches!(twice, Err(StoreError::Conflict { noun: Noun::Policy, .. })), "{twice:?}");
    let _ = tx.commit(Vec::new()).await.unwrap();

    let mut tx = store.begin().await.unwrap();
    assert!(tx.policy_version_approve(&plane, digest(1), &ada(5)).await.unwrap());
    assert!(!tx.policy_version_approve(&plane, digest(1), &ada(6)).await.unwrap(), "approved once");
    assert_eq!(tx.policy_point(&plane, Some(digest(1)), &ada(7)).await.unwrap().revision, 1);
    assert_eq!(tx.policy_point(&plane, Some(digest(2)), &ada(8)).await.unwrap().revision, 2);
    assert_eq!(tx.policy_point(&plane, Some(digest(1)), &ada(9)).await.unwrap().revision, 3);
    // A level does not point at another level's version.
    let other = tx.policy_point(&tenant, Some(digest(1)), &ada(9)).await;
    assert!(matches!(other, Err(StoreError::Missing { noun: Noun::Policy, .. })), "{other:?}");
    let _ = tx.commit(Vec::new()).await.unwrap();

    let first = store.policy_version(&plane, digest(1)).await.unwrap().unwrap();
    assert_eq!((first.first_active, first.approved.map(|a| a.at)), (Some(at(7)), Some(at(5))));
    assert_eq!(first.text, "// 1");
    let active = store.policies_active().await.unwrap();
    assert_eq!(active.iter().map(|v| v.digest).collect::<Vec<_>>(), [digest(1)]);
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.policy_point(&plane, None, &ada(10)).await.unwrap().digest, None);
    let _ = tx.commit(Vec::new()).await.unwrap();
    assert!(store.policies_active().await.unwrap().is_empty());
    assert_eq!(store.policy_pointer(&plane).await.unwrap().unwrap().revision, 4, "a revision never comes again");

    let levels = store.policy_levels(&PageRequest::default()).await.unwrap().items;
    let told: Vec<_> = levels.iter().map(|(scope, pointer, n)| (scope.to_string(), pointer.is_some(), *n)).collect();
    assert_eq!(told, [("plane".to_owned(), true, 2), ("tenant:default".to_owned(), false, 1)]);
    let page = PageRequest { after: None, limit: 1 };
    let newest = store.policy_versions(&plane, &page).await.unwrap();
    assert_eq!((newest.items[0].number, newest.next.as_deref()), (2, Some("2")));
    let rest = store.policy_versions(&plane, &PageRequest { after: newest.next, limit: 5 }).await.unwrap();
    assert_eq!((rest.items.len(), rest.items[0].number, rest.next), (1, 1, None));
    assert_eq!(store.policy_version_by_digest(digest(3)).await.unwrap().unwrap().scope, tenant);
}

async fn with_run(store: &Store) -> RunId {
    let tenant = TenantName::default_tenant();
    let mut tx = store.begin().await.unwrap();
    tx.tenant_insert(&TenantRow { name: tenant.clone(), created: at(1), created_by: "plane".into() }).await.unwrap();
    tx.agent_put(&AgentRow {
        tenant: tenant.clone(),
        name: "clerk".parse().unwrap(),
        owner: "team".into(),
        sponsor: "ada".into(),
        cost_centre: "cc1".into(),
        created: at(1),
        created_by: "opr".into(),
    })
    .await
    .unwrap();
    tx.version_insert(&VersionRow {
        tenant: tenant.clone(),
        agent: "clerk".parse().unwrap(),
        label: "1".parse().unwrap(),
        manifest_json: "{}".into(),
        manifest_digest: digest(1),
        package_digest: digest(2),
        version_digest: digest(3),
        tier: "development".into(),
        created: at(1),
        created_by: "opr".into(),
    })
    .await
    .unwrap();
    let id: RunId = new_id();
    tx.run_insert(&RunRow {
        id,
        tenant,
        agent: "clerk".parse().unwrap(),
        version: "1".parse().unwrap(),
        digest: digest(3),
        goal: "g".into(),
        subject: None,
        created_by: "ada".into(),
        reason: None,
        input_digest: None,
        state: RunState::Running,
        desired: RunState::Running,
        fence_epoch: 0,
        revision: 1,
        uid_slot: None,
        created: at(1),
        outside: None,
        started: None,
        ended: None,
        exit_code: None,
        exit_signal: None,
        fail_cause: None,
        usage_json: None,
    })
    .await
    .unwrap();
    let _ = tx.commit(Vec::new()).await.unwrap();
    id
}

fn asked(run: RunId, request: u8, expires: u64) -> ApprovalRow {
    ApprovalRow {
        id: new_id::<cogward_model::id::Approval>(),
        tenant: TenantName::default_tenant(),
        run,
        agent: "clerk".parse().unwrap(),
        version: "1".parse().unwrap(),
        subject: None,
        request: digest(request),
        action: "tool.call".into(),
        object: "files/write_file".into(),
        arguments_bytes: Some(7),
        level: "plane".into(),
        rules: vec!["policy0".into()],
        policy: vec!["plane:sha256:00".into()],
        role: "finance".into(),
        four_eyes: false,
        reason: Some("writes".into()),
        state: ApprovalState::Pending,
        requested: at(1),
        expires: at(expires),
        decided: None,
        consumed: None,
    }
}

#[tokio::test]
async fn an_approval_is_used_once_and_a_call_has_one_answer_at_a_time() {
    let (_dir, store) = store().await;
    let run = with_run(&store).await;
    let (first, tenant) = (asked(run, 9, 100), TenantName::default_tenant());
    let mut tx = store.begin().await.unwrap();
    tx.approval_insert(&first).await.unwrap();
    let second = tx.approval_insert(&asked(run, 9, 100)).await;
    assert!(matches!(second, Err(StoreError::Conflict { noun: Noun::Approval, .. })), "{second:?}");
    assert_eq!(tx.approvals_waiting(&tenant, run).await.unwrap(), (1, 1));
    assert_eq!(tx.approval_for(run, digest(9), "legal", false).await.unwrap(), None, "another role has its own answer");
    let four_eyes = tx.approval_for(run, digest(9), "finance", true).await.unwrap();
    assert_eq!(four_eyes, None, "what was asked of anybody is no answer for four eyes");
    assert!(!tx.approval_consume(first.id, at(5)).await.unwrap(), "not before it is approved");
    assert!(tx.approval_decide(first.id, true, &ada(4)).await.unwrap());
    assert!(!tx.approval_decide(first.id, false, &ada(4)).await.unwrap(), "answered once");
    assert!(tx.approval_consume(first.id, at(5)).await.unwrap());
    assert!(!tx.approval_consume(first.id, at(5)).await.unwrap(), "used once");
    assert_eq!(tx.approval_for(run, digest(9), "finance", false).await.unwrap(), None);
    // Not used after all: approved again, unless the call was asked anew in the meantime.
    assert!(tx.approval_give_back(&first).await.unwrap());
    assert_eq!(
        tx.approval_for(run, digest(9), "finance", false).await.unwrap().map(|a| a.state),
        Some(ApprovalState::Approved)
    );
    assert!(tx.approval_consume(first.id, at(6)).await.unwrap());
    let third = asked(run, 9, 100);
    tx.approval_insert(&third).await.unwrap();
    assert!(!tx.approval_give_back(&first).await.unwrap(), "one answer at a time");
    assert_eq!(tx.approvals_asked(run).await.unwrap(), 2);
    let _ = tx.commit(Vec::new()).await.unwrap();
    let row = store.approval(&tenant, first.id).await.unwrap().unwrap();
    assert_eq!((row.state, row.consumed), (ApprovalState::Consumed, Some(at(6))));
    assert_eq!(store.approval(&"other".parse().unwrap(), first.id).await.unwrap(), None, "not another tenant's");
    let pending = ApprovalFilter { state: Some(ApprovalState::Pending), ..ApprovalFilter::default() };
    let listed = store.approvals(&pending, &PageRequest::default()).await.unwrap().items;
    assert_eq!(listed.iter().map(|a| a.id).collect::<Vec<ApprovalId>>(), [third.id]);
    let _: OperatorId = row.decided.unwrap().id;
}

#[tokio::test]
async fn what_is_over_expires_is_told_and_makes_room() {
    let (_dir, store) = store().await;
    let run = with_run(&store).await;
    let (short, long) = (asked(run, 1, 10), asked(run, 2, 1_000));
    let mut tx = store.begin().await.unwrap();
    tx.approval_insert(&short).await.unwrap();
    tx.approval_insert(&long).await.unwrap();
    let _ = tx.commit(Vec::new()).await.unwrap();
    assert!(store.approvals_over(at(9), 10).await.unwrap().is_empty());
    let over = store.approvals_over(at(10), 10).await.unwrap();
    assert_eq!(over.iter().map(|a| a.id).collect::<Vec<_>>(), [short.id]);
    let mut tx = store.begin().await.unwrap();
    assert!(tx.approval_expire(short.id).await.unwrap());
    assert!(!tx.approval_expire(short.id).await.unwrap());
    assert!(!tx.approval_decide(short.id, true, &ada(4)).await.unwrap(), "too late");
    assert_eq!(
        tx.approval_for(run, digest(1), "finance", false).await.unwrap().map(|a| a.state),
        Some(ApprovalState::Expired)
    );
    tx.approval_told(short.id).await.unwrap();
    assert_eq!(tx.approval_for(run, digest(1), "finance", false).await.unwrap(), None);
    tx.approval_insert(&asked(run, 1, 50)).await.unwrap();
    let _ = tx.commit(Vec::new()).await.unwrap();
}
