//! The gate against records that succeed, fail, and hang.

use std::sync::{Mutex, atomic::AtomicBool};

use cogward_budget::Scope;
use cogward_model::{Digest, Id, RunId, SystemClock, SystemEntropy, UpstreamName, event::Value};
use tokio::sync::Notify;

use super::*;
use crate::{FenceState, RunGrant, testing::manifest};

mod approval;
mod around;
mod policy;

#[derive(Default)]
struct Ledger {
    events: Mutex<Vec<Event>>,
    broken: AtomicBool,
    hold: Option<Arc<Notify>>,
}

impl Ledger {
    fn of(&self, kind: EventType) -> Vec<Event> {
        self.events.lock().unwrap().iter().filter(|e| e.kind == kind).cloned().collect()
    }
}

impl Records for Ledger {
    fn record(&self, event: Event) -> Pin<Box<dyn Future<Output = Result<EventId, Unrecorded>> + Send + '_>> {
        Box::pin(async move {
            if let Some(hold) = &self.hold {
                hold.notified().await;
            }
            self.note(event)
        })
    }
    fn note(&self, event: Event) -> Result<EventId, Unrecorded> {
        if self.broken.load(Ordering::Acquire) {
            return Err(Unrecorded("the disk is gone".into()));
        }
        self.events.lock().unwrap().push(event);
        Ok(Id::new(&SystemClock, &SystemEntropy))
    }
    fn stopped(&self) -> Option<String> {
        None
    }
}

struct Ask(&'static str);
impl Governed for Ask {
    fn action(&self) -> Action {
        Action::ToolCall { server: "files".parse::<UpstreamName>().unwrap(), tool: self.0.parse().unwrap() }
    }
}

fn call(tool: &'static str) -> Call<Ask> {
    Call { target: Ask(tool), worst: Amounts { tool_calls: 1, ..Amounts::default() }, objection: None, fields: vec![] }
}

fn setup(ledger: &Arc<Ledger>, tool_calls: u64) -> (Gate, Arc<RunContext>, Scope) {
    let budgets = Arc::new(Budgets::new());
    let run: RunId = Id::new(&SystemClock, &SystemEntropy);
    let scope = Scope::run(run);
    budgets.open(scope.clone(), Amounts { tool_calls, ..Amounts::default() });
    let gate = Gate::new(Arc::clone(ledger) as Arc<dyn Records>, budgets, Arc::new(SystemClock));
    gate.plane_fence().set(FenceState::Open);
    let grant = RunGrant::new(run, &manifest(), Digest::from_bytes([7; 32]), None, vec![scope.clone()]);
    let context = Arc::new(RunContext::new(grant));
    context.fence.set(FenceState::Open);
    (gate, context, scope)
}

#[tokio::test]
async fn a_permit_is_recorded_before_it_is_given_and_its_outcome_after() {
    let ledger = Arc::new(Ledger::default());
    let (gate, run, scope) = setup(&ledger, 5);
    let admitted = gate.admit(&run, call("read_text_file")).await.ok().unwrap();
    assert_eq!(ledger.of(EventType::ToolCallDecided).len(), 1);
    assert_eq!(gate.budgets.balance(&scope).held.tool_calls, 1);
    assert_eq!(run.in_flight(), 1);
    let used = Amounts { tool_calls: 1, ..Amounts::default() };
    admitted.settle(&Outcome::Completed { used, estimated: false, upstream_error: false, result: None });
    assert_eq!(ledger.of(EventType::ToolCallCompleted).len(), 1);
    assert_eq!(gate.budgets.balance(&scope).used.tool_calls, 1);
    assert_eq!((gate.budgets.balance(&scope).held.tool_calls, run.in_flight()), (0, 0));
}

#[tokio::test]
async fn an_undeclared_tool_is_refused_and_recorded_and_costs_nothing() {
    let ledger = Arc::new(Ledger::default());
    let (gate, run, scope) = setup(&ledger, 5);
    let refusal = gate.admit(&run, call("write_file")).await.err().unwrap();
    assert_eq!((refusal.code, refusal.rule.as_str()), (RefusalCode::NotDeclared, "permissions.tools"));
    let decided = ledger.of(EventType::ToolCallDecided);
    assert!(decided[0].fields.iter().any(|f| f.name == "decision" && f.value == Value::from("block")));
    assert_eq!(gate.budgets.balance(&scope).used, Amounts::default());
}

#[tokio::test]
async fn an_objection_is_heard_only_about_what_is_declared() {
    let ledger = Arc::new(Ledger::default());
    let (gate, run, _) = setup(&ledger, 5);
    let objection = Refusal::new(RefusalCode::InvalidRequest, "schema", "bad", "mend it");
    let asked = Call { objection: Some(objection.clone()), ..call("write_file") };
    assert_eq!(gate.admit(&run, asked).await.err().unwrap().code, RefusalCode::NotDeclared);
    let asked = Call { objection: Some(objection), ..call("read_text_file") };
    assert_eq!(gate.admit(&run, asked).await.err().unwrap().code, RefusalCode::InvalidRequest);
}

#[tokio::test]
async fn without_a_durable_record_nothing_is_admitted_and_nothing_stays_reserved() {
    let ledger = Arc::new(Ledger::default());
    let (gate, run, scope) = setup(&ledger, 5);
    ledger.broken.store(true, Ordering::Release);
    let refusal = gate.admit(&run, call("read_text_file")).await.err().unwrap();
    assert_eq!(refusal.code, RefusalCode::EvidenceUnavailable);
    assert_eq!(gate.budgets.balance(&scope).held, Amounts::default());
}

#[tokio::test]
async fn a_kill_during_the_flush_holds() {
    let hold = Arc::new(Notify::new());
    let ledger = Arc::new(Ledger { hold: Some(Arc::clone(&hold)), ..Ledger::default() });
    let (gate, run, scope) = setup(&ledger, 5);
    let (gate, asked) = (Arc::new(gate), Arc::clone(&run));
    let deciding = tokio::spawn({
        let gate = Arc::clone(&gate);
        async move { gate.admit(&asked, call("read_text_file")).await.err().unwrap() }
    });
    while gate.budgets.balance(&scope).held.tool_calls == 0 {
        tokio::task::yield_now().await;
    }
    run.cut();
    hold.notify_one();
    assert_eq!(deciding.await.unwrap().code, RefusalCode::LifecycleFence);
    assert_eq!(gate.budgets.balance(&scope).used, Amounts::default(), "nothing was forwarded, nothing is charged");
    assert_eq!(run.in_flight(), 0);
}

#[tokio::test]
async fn an_agent_that_leaves_during_the_flush_holds_no_budget() {
    let hold = Arc::new(Notify::new());
    let ledger = Arc::new(Ledger { hold: Some(hold), ..Ledger::default() });
    let (gate, run, scope) = setup(&ledger, 5);
    {
        let mut asking = Box::pin(gate.admit(&run, call("read_text_file")));
        assert!(futures_util::poll!(&mut asking).is_pending());
        assert_eq!(gate.budgets.balance(&scope).held.tool_calls, 1);
    }
    assert_eq!(gate.budgets.balance(&scope).held, Amounts::default());
}

#[tokio::test]
async fn a_dropped_call_is_charged_in_full_and_recorded_as_unknown() {
    let ledger = Arc::new(Ledger::default());
    let (gate, run, scope) = setup(&ledger, 5);
    drop(gate.admit(&run, call("read_text_file")).await.ok().unwrap());
    let done = ledger.of(EventType::ToolCallCompleted);
    assert!(done[0].fields.iter().any(|f| f.name == "outcome" && f.value == Value::from("unknown")));
    assert_eq!(gate.budgets.balance(&scope).used.tool_calls, 1);
}

#[tokio::test]
async fn concurrent_calls_never_pass_the_budget() {
    let ledger = Arc::new(Ledger::default());
    let (gate, run, _) = setup(&ledger, 10);
    let gate = Arc::new(gate);
    let calls: Vec<_> = (0..40)
        .map(|_| {
            let (gate, run) = (Arc::clone(&gate), Arc::clone(&run));
            tokio::spawn(async move {
                match gate.admit(&run, call("read_text_file")).await {
                    Ok(admitted) => {
                        let used = admitted.reserved();
                        admitted.settle(&Outcome::Completed {
                            used,
                            estimated: false,
                            upstream_error: false,
                            result: None,
                        });
                        true
                    }
                    Err(refusal) => {
                        assert_eq!(refusal.code, RefusalCode::BudgetExceeded);
                        assert_eq!(refusal.rule, "budgets.run.toolCalls");
                        false
                    }
                }
            })
        })
        .collect();
    let mut admitted = 0;
    for call in calls {
        admitted += usize::from(call.await.unwrap());
    }
    assert_eq!(admitted, 10);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_provokes_refusals_waits_for_them_and_each_is_recorded() {
    let ledger = Arc::new(Ledger::default());
    let (gate, run, _) = setup(&ledger, 5);
    let (began, count) = (Instant::now(), crate::pace::BURST + 100);
    for _ in 0..count {
        assert!(gate.admit(&run, call("write_file")).await.is_err());
    }
    assert!(began.elapsed() >= crate::pace::INTERVAL * 100, "{:?}", began.elapsed());
    assert_eq!(ledger.of(EventType::ToolCallDecided).len(), count as usize);
    let permitted = Instant::now();
    assert!(gate.admit(&run, call("read_text_file")).await.is_ok());
    assert_eq!(permitted.elapsed(), Duration::ZERO, "what is permitted does not wait");
}
