//! Pins at the endpoint: what is listed and called is what was approved, and nothing while that is not certain.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU8, AtomicUsize},
};

use cogward_model::{ToolName, UpstreamName, pin::PinState, pin_name::OtherKind};

use super::*;
use crate::{
    mcp::{Listed, ToolCatalogue, ToolDefinition},
    pins::{HeldTool, PinKeeper, PinTable, ServerPins, Unwritten, entries::EntryPins},
};

const APPROVED: &str = r#"{"name":"read_text_file","description":"as approved","inputSchema":{"type":"object","properties":{"path":{"type":"string","maxLength":3}},"required":["path"]}}"#;

/// Approves `read_text_file` in a wording of its own, and nothing else.
#[derive(Default)]
struct Keeper {
    table: Mutex<Option<Arc<PinTable>>>,
    /// 0: it works; 1: it cannot write; 2: it says that everything changed; 3: nothing is approved any more; 4: another
    /// wording is approved.
    mood: AtomicU8,
    examined: AtomicUsize,
}

impl PinKeeper for Keeper {
    fn examine(
        &self,
        tenant: TenantName,
        server: UpstreamName,
        catalogue: Arc<ToolCatalogue>,
    ) -> Pin<Box<dyn Future<Output = Result<usize, Unwritten>> + Send + '_>> {
        self.examined.fetch_add(1, Ordering::AcqRel);
        let mood = self.mood.load(Ordering::Acquire);
        if mood == 1 {
            return Box::pin(std::future::ready(Err(Unwritten("the disk is gone".into()))));
        }
        let wording = if mood == 4 { APPROVED.replace("as approved", "in other words") } else { APPROVED.to_owned() };
        let approved = ToolDefinition::parse(&wording).unwrap().unwrap();
        let held = catalogue.iter().filter(|tool| tool.name != approved.name).map(|tool| {
            (tool.name.clone(), HeldTool { state: PinState::Quarantined, digest: tool.digest, offered: true })
        });
        let held: BTreeMap<ToolName, HeldTool> = held.collect();
        // A catalogue that it did not see: as if another one had come in between.
        let seen = if mood == 2 { Digest::from_bytes([0; 32]) } else { catalogue.digest() };
        let served = if mood == 3 { Vec::new() } else { vec![approved] };
        let pins = ServerPins::new(Some(seen), served, held, Default::default());
        self.table.lock().unwrap().as_ref().unwrap().put(&tenant, &server, pins);
        Box::pin(std::future::ready(Ok(if mood == 2 { 5_000 } else { 1 })))
    }

    fn examine_entries(
        &self,
        tenant: TenantName,
        server: UpstreamName,
        kind: OtherKind,
        listed: Arc<Listed>,
    ) -> Pin<Box<dyn Future<Output = Result<usize, Unwritten>> + Send + '_>> {
        let pins = EntryPins::new(Some(listed.digest()), BTreeMap::new(), BTreeMap::new());
        self.table.lock().unwrap().as_ref().unwrap().put_entries(&tenant, &server, kind, pins);
        Box::pin(std::future::ready(Ok(0)))
    }
}

fn plane(keeper: Option<Arc<Keeper>>) -> Plane {
    let (ledger, budgets) = (Arc::new(Ledger::default()), Arc::new(Budgets::new()));
    let gateway = Gateway::new(Arc::clone(&ledger) as Arc<dyn Records>, Arc::clone(&budgets), Arc::new(SystemClock));
    if let Some(keeper) = keeper {
        *keeper.table.lock().unwrap() = Some(Arc::clone(gateway.pins()));
        gateway.keep_pins(keeper);
    }
    let timeouts = Timeouts { start: Duration::from_secs(20), call: Duration::from_secs(20) };
    gateway.upstreams().put_tool_server_with(fake::stdio("files"), None, timeouts);
    gateway.fence_plane(FenceState::Open);
    Plane { gateway, ledger, budgets }
}

fn text(event: &Event, name: &str) -> String {
    match field(event, name) {
        Some(Recorded::Text(text)) => text,
        other => panic!("{name}: {other:?}"),
    }
}

#[tokio::test]
async fn what_is_listed_and_checked_is_the_approved_text_and_not_the_servers() {
    let plane = plane(Some(Arc::default()));
    let mut agent = plane.run(9);
    agent.greet().await;
    let listed = agent.ask("tools/list", json!({})).await.json();
    assert_eq!(listed["result"]["tools"], json!([serde_json::from_str::<Value>(APPROVED).unwrap()]));
    assert!(!agent.call("read_text_file", json!({"path": "abc"})).await.said().0);
    // The server's own schema would let this pass.
    let (failed, said) = agent.call("read_text_file", json!({"path": "abcd"})).await.said();
    assert!(failed && said.contains("input schema"), "{said}");
    let pin = ToolDefinition::parse(APPROVED).unwrap().unwrap().digest.to_string();
    let decided = plane.ledger.of(EventType::ToolCallDecided);
    assert!(decided.iter().all(|event| text(event, "definition") == pin), "{decided:?}");
}

#[tokio::test]
async fn a_declared_tool_that_nobody_approved_is_refused_by_its_pin_and_an_undeclared_one_as_ever() {
    let plane = plane(Some(Arc::default()));
    let mut agent = plane.run(9);
    agent.greet().await;
    let (failed, said) = agent.call("list_directory", json!({"path": "x"})).await.said();
    assert!(failed && said.contains("[not_approved; rule tool.pin]"), "{said}");
    let refused = plane.ledger.of(EventType::ToolCallDecided).pop().unwrap();
    assert_eq!((text(&refused, "decision"), text(&refused, "code")), ("block".into(), "not_approved".into()));
    let offered = ToolDefinition::parse(&fake::tools()[2].to_string()).unwrap().unwrap();
    assert_eq!(text(&refused, "definition"), offered.digest.to_string());
    // `write_file` is there and quarantined, `erase_disk` is not there: an agent cannot tell.
    let sentence = async |tool: &str| agent.call(tool, json!({"path": "x"})).await.said().1.replace(tool, "TOOL");
    let (there, nowhere) = (sentence("write_file").await, sentence("erase_disk").await);
    assert_eq!(there, nowhere);
    assert!(there.contains("not_declared"), "{there}");
}

#[tokio::test]
async fn nothing_is_served_while_the_finding_cannot_be_written() {
    let keeper = Arc::new(Keeper::default());
    keeper.mood.store(1, Ordering::Release);
    let broken = plane(Some(Arc::clone(&keeper)));
    for plane in [&broken, &plane(None)] {
        let mut agent = plane.run(9);
        agent.greet().await;
        let listed = agent.ask("tools/list", json!({})).await.json();
        assert!(listed["result"]["tools"].as_array().is_none_or(Vec::is_empty), "{listed}");
        let (failed, said) = agent.call("read_text_file", json!({"path": "abc"})).await.said();
        assert!(failed && said.contains("[evidence_unavailable; rule tool.pin]"), "{said}");
        assert!(plane.ledger.of(EventType::ToolCallCompleted).is_empty());
    }
    keeper.mood.store(0, Ordering::Release);
    let mut agent = broken.run(9);
    agent.greet().await;
    assert!(!agent.call("read_text_file", json!({"path": "abc"})).await.said().0);
}

/// A call that was examined and waits for one of its run's slots, while `meanwhile` is done.
async fn waiting(mood: u8) -> (bool, String, Plane) {
    let keeper = Arc::new(Keeper::default());
    let plane = plane(Some(Arc::clone(&keeper)));
    let mut agent = plane.run(9);
    agent.greet().await;
    let run = plane.gateway.inner.runs.read().unwrap().get(&agent.run).cloned().unwrap();
    let slots = u32::try_from(run.calls.available_permits()).unwrap();
    let all = Arc::clone(&run.calls).acquire_many_owned(slots).await.unwrap();
    let call = tokio::spawn(async move { agent.call("read_text_file", json!({"path": "abc"})).await.said() });
    while keeper.examined.load(Ordering::Acquire) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // What the server says now is not what it said then.
    let client = plane.gateway.upstreams().tool_server(&tenant(), &"files".parse().unwrap()).unwrap();
    keeper.mood.store(mood, Ordering::Release);
    plane.gateway.pins().remove(&tenant(), &"files".parse().unwrap());
    client.forget_lists();
    drop(all);
    let (failed, said) = call.await.unwrap();
    (failed, said, plane)
}

#[tokio::test]
async fn a_call_that_waited_does_not_run_under_a_pin_that_holds_no_more() {
    let (failed, said, plane) = waiting(3).await;
    assert!(failed && said.contains("does not offer") || said.contains("not_approved"), "{said}");
    assert!(plane.ledger.of(EventType::ToolCallCompleted).is_empty(), "it reached the server");
}

#[tokio::test]
async fn a_call_that_waited_is_decided_under_the_definition_that_is_approved_now() {
    let (failed, said, plane) = waiting(4).await;
    assert!(!failed, "{said}");
    let now = APPROVED.replace("as approved", "in other words");
    let pin = ToolDefinition::parse(&now).unwrap().unwrap().digest.to_string();
    assert_eq!(text(&plane.ledger.of(EventType::ToolCallDecided)[0], "definition"), pin);
}

#[tokio::test]
async fn a_server_that_changes_all_the_time_is_examined_at_a_pace() {
    let keeper = Arc::new(Keeper::default());
    keeper.mood.store(2, Ordering::Release);
    let plane = plane(Some(Arc::clone(&keeper)));
    let mut agent = plane.run(9);
    agent.greet().await;
    for _ in 0..5 {
        let (failed, said) = agent.call("read_text_file", json!({"path": "abc"})).await.said();
        assert!(failed && said.contains("[throttled; rule tool.pin]"), "{said}");
    }
    assert_eq!(keeper.examined.load(Ordering::Acquire), 1);
}

#[tokio::test]
async fn what_is_certain_is_not_examined_again() {
    let keeper = Arc::new(Keeper::default());
    let plane = plane(Some(Arc::clone(&keeper)));
    let mut agent = plane.run(9);
    agent.greet().await;
    for _ in 0..3 {
        assert!(!agent.call("read_text_file", json!({"path": "abc"})).await.said().0);
        agent.ask("tools/list", json!({})).await;
    }
    assert_eq!(keeper.examined.load(Ordering::Acquire), 1);
}
