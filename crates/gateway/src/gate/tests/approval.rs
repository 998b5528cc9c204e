//! The gate with calls that a person has to approve: what is asked, what an approval is good for, and ports that fail.

use std::collections::BTreeSet;

use cogward_model::{decision::ApprovalRef, id::ApprovalId};

use super::{
    policy::{OPEN, activate, governed, last, pay, refused, value, well},
    *,
};
use crate::approvals::{ApprovalAsk, ApprovalState, Approvals, ApprovalsDown, Asking};

/// Approvals that say what the test wants, and remember what was asked and given back.
#[derive(Default)]
pub(super) struct People {
    answers: Mutex<Vec<Result<ApprovalState, ApprovalsDown>>>,
    pub(super) asked: Mutex<Vec<ApprovalAsk>>,
    given_back: Mutex<Vec<ApprovalRef>>,
    hold: Option<Arc<Notify>>,
}

impl Approvals for People {
    fn ask<'a>(&'a self, asks: &'a [ApprovalAsk]) -> Asking<'a> {
        Box::pin(async move {
            self.asked.lock().unwrap().extend_from_slice(asks);
            if let Some(hold) = &self.hold {
                hold.notified().await;
            }
            self.answers.lock().unwrap().pop().unwrap_or(Err(ApprovalsDown("no more answers".into())))
        })
    }
    fn give_back(&self, approvals: &[ApprovalRef]) {
        self.given_back.lock().unwrap().extend_from_slice(approvals);
    }
}

pub(super) fn reference() -> ApprovalRef {
    let id: ApprovalId = Id::new(&SystemClock, &SystemEntropy);
    ApprovalRef { id, role: "treasurer".into(), expires: Timestamp::from_unix_micros(u64::MAX) }
}

const ESCALATE: &str =
    "@id(\"large\") @escalate(\"treasurer\") @reason(\"money\") @expires(\"15m\") @cap(\"arguments.amount=500\")
    permit(principal, action in Cogward::Action::\"tool_call\", resource);";

pub(super) fn people(gate: &Gate, answers: Vec<Result<ApprovalState, ApprovalsDown>>) -> Arc<People> {
    let people = Arc::new(People { answers: Mutex::new(answers), ..People::default() });
    gate.policies().approvals_by(Arc::clone(&people) as Arc<dyn Approvals>);
    people
}

#[tokio::test]
async fn an_escalated_call_waits_and_runs_once_when_it_is_approved() {
    let ledger = Arc::new(Ledger::default());
    let (gate, run, scope) = governed(&ledger, &[("agent:default/reader", ESCALATE)]);
    let approval = reference();
    // Popped from the end: waits, is approved, waits again.
    let people = people(
        &gate,
        vec![
            Ok(ApprovalState::Pending(reference())),
            Ok(ApprovalState::Approved(vec![approval.clone()])),
            Ok(ApprovalState::Pending(approval.clone())),
        ],
    );
    let refusal = refused(&gate, &run, pay(r#"{"amount":900}"#)).await;
    assert_eq!((refusal.code, refusal.approval.as_deref()), (RefusalCode::ApprovalRequired, Some(&approval)));
    let record = last(&ledger);
    assert_eq!(value(&record, "decision"), Some(&"escalate".into()));
    assert_eq!(value(&record, "approval"), Some(&vec![approval.id.to_string()].into()));
    assert_eq!(gate.budgets.balance(&scope).held.tool_calls, 0);
    let asked = people.asked.lock().unwrap()[0].clone();
    assert_eq!(
        (asked.role.as_str(), asked.reason.as_deref(), asked.expires.as_secs()),
        ("treasurer", Some("money"), 900)
    );
    assert_eq!(asked.arguments.as_deref(), Some(&br#"{"amount":500}"#[..]), "the person sees what would be forwarded");
    assert_eq!((asked.level.as_str(), &asked.rules[..]), ("agent:default/reader", &["large".to_owned()][..]));

    let admitted = gate.admit(&run, pay(r#"{"amount":900}"#)).await.ok().unwrap();
    assert_eq!(admitted.target().arguments, r#"{"amount":500}"#);
    let record = last(&ledger);
    assert_eq!(value(&record, "decision"), Some(&"permit".into()));
    assert_eq!(value(&record, "policy_verdict"), Some(&"escalate".into()));
    assert_eq!(value(&record, "approval"), Some(&vec![approval.id.to_string()].into()));
    well(admitted);
    assert_eq!(refused(&gate, &run, pay(r#"{"amount":900}"#)).await.code, RefusalCode::ApprovalRequired, "not twice");
    let asked = people.asked.lock().unwrap();
    assert!(asked.iter().all(|ask| ask.request == asked[0].request));
    assert!(people.given_back.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_approval_is_for_these_bytes() {
    let ledger = Arc::new(Ledger::default());
    let (gate, run, _) = governed(&ledger, &[("plane", ESCALATE)]);
    let people = people(&gate, (0..4).map(|_| Ok(ApprovalState::Pending(reference()))).collect());
    for arguments in [r#"{"amount":1}"#, r#"{"amount":2}"#, r#"{"amount": 1}"#, r#"{"amount":1}"#] {
        refused(&gate, &run, pay(arguments)).await;
    }
    let asked = people.asked.lock().unwrap();
    let requests: BTreeSet<String> = asked.iter().map(|ask| ask.request.to_string()).collect();
    assert_eq!(requests.len(), 3);
    assert_eq!(asked[0].request, asked[3].request);
}

#[tokio::test]
async fn who_cannot_be_asked_approves_nothing() {
    let ledger = Arc::new(Ledger::default());
    let (gate, run, _) = governed(&ledger, &[("plane", ESCALATE)]);
    let refusal = refused(&gate, &run, pay(r#"{"amount":1}"#)).await;
    assert_eq!(refusal.rule, "approval.unavailable", "there are no approvals at all");
    let answers = vec![
        Ok(ApprovalState::Approved(vec![])),
        Err(ApprovalsDown("the store is gone".into())),
        Ok(ApprovalState::TooMany("too many wait".into())),
        Ok(ApprovalState::Expired(reference())),
        Ok(ApprovalState::Denied(reference())),
    ];
    people(&gate, answers);
    for (code, rule) in [
        (RefusalCode::ApprovalDenied, "approval.denied"),
        (RefusalCode::ApprovalExpired, "approval.expired"),
        (RefusalCode::Throttled, "limits.approvals"),
        (RefusalCode::EvidenceUnavailable, "approval.unavailable"),
        (RefusalCode::EvidenceUnavailable, "approval.unavailable"),
    ] {
        let refusal = refused(&gate, &run, pay(r#"{"amount":1}"#)).await;
        assert_eq!((refusal.code, refusal.rule.as_str()), (code, rule));
    }
}

#[tokio::test]
async fn an_approval_that_could_not_be_used_is_given_back_and_a_used_one_is_not() {
    let ledger = Arc::new(Ledger::default());
    let (gate, run, _) = governed(&ledger, &[("plane", ESCALATE)]);
    let approved = || Ok(ApprovalState::Approved(vec![reference()]));
    let people = people(&gate, vec![approved(), approved()]);
    let dear = Call { worst: Amounts { tool_calls: 5_000, ..Amounts::default() }, ..pay(r#"{"amount":1}"#) };
    assert_eq!(refused(&gate, &run, dear).await.code, RefusalCode::BudgetExceeded);
    assert_eq!(people.given_back.lock().unwrap().len(), 1);
    ledger.broken.store(true, Ordering::Release);
    assert_eq!(refused(&gate, &run, pay(r#"{"amount":1}"#)).await.code, RefusalCode::EvidenceUnavailable);
    assert_eq!(people.given_back.lock().unwrap().len(), 1, "its record may be there");
}

#[tokio::test]
async fn what_happens_while_a_person_is_asked_is_seen() {
    for change in ["kill", "block", "permit"] {
        let hold = Arc::new(Notify::new());
        let ledger = Arc::new(Ledger::default());
        let (gate, run, _) = governed(&ledger, &[("plane", ESCALATE)]);
        let answers = Mutex::new(vec![Ok(ApprovalState::Approved(vec![reference()]))]);
        let people = Arc::new(People { answers, hold: Some(Arc::clone(&hold)), ..People::default() });
        gate.policies().approvals_by(Arc::clone(&people) as Arc<dyn Approvals>);
        let asking = tokio::spawn({
            let (gate, run) = (Arc::clone(&gate), Arc::clone(&run));
            async move { gate.admit(&run, pay(r#"{"amount":1}"#)).await.map(well) }
        });
        while people.asked.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        match change {
            "kill" => drop(run.cut()),
            "block" => drop(activate(&gate, &[("plane", "forbid(principal, action, resource);")])),
            _ => drop(activate(&gate, &[("plane", OPEN)])),
        }
        hold.notify_one();
        let code = asking.await.unwrap().err().map(|refusal| refusal.code);
        let (expected, given_back) = match change {
            // The answer to a run that was cut is not waited for.
            "kill" => (Some(RefusalCode::LifecycleFence), 0),
            "block" => (Some(RefusalCode::PolicyBlocked), 1),
            _ => (None, 0),
        };
        assert_eq!((code, people.given_back.lock().unwrap().len()), (expected, given_back), "{change}");
    }
}

#[tokio::test]
async fn a_suspended_run_does_not_use_its_approval_until_it_goes_on() {
    let ledger = Arc::new(Ledger::default());
    let hold = Arc::new(Notify::new());
    let (gate, run, _) = governed(&ledger, &[("plane", ESCALATE)]);
    let answers = Mutex::new(vec![Ok(ApprovalState::Approved(vec![reference()]))]);
    let people = Arc::new(People { answers, hold: Some(Arc::clone(&hold)), ..People::default() });
    gate.policies().approvals_by(Arc::clone(&people) as Arc<dyn Approvals>);
    let asking = tokio::spawn({
        let (gate, run) = (Arc::clone(&gate), Arc::clone(&run));
        async move { gate.admit(&run, pay(r#"{"amount":1}"#)).await.map(well) }
    });
    while people.asked.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    run.fence.set(FenceState::Held);
    hold.notify_one();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!asking.is_finished() && ledger.of(EventType::ToolCallDecided).is_empty());
    // While it waits, its policy goes: what was approved is not permitted any more.
    activate(&gate, &[("plane", "forbid(principal, action, resource);")]);
    run.fence.set(FenceState::Open);
    assert_eq!(asking.await.unwrap().err().map(|refusal| refusal.code), Some(RefusalCode::PolicyBlocked));
    assert_eq!(people.given_back.lock().unwrap().len(), 1);
}
