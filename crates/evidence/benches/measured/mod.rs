//! What the benches of this crate write again and again, and what it costs this process.

use std::time::Duration;

use cogward_model::{
    Id,
    event::{Attribution, Event, EventType},
};

/// User and system time of this process, from the kernel's table; its ticks are 10 ms.
pub fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let mut fields = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11);
    let ticks: u64 = (0..2).map(|_| fields.next().unwrap().parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// A decision as the gate writes it, about 1 KiB as a leaf.
pub fn event(run: Id<cogward_model::id::Run>, n: usize) -> Event {
    let by = Attribution {
        agent: Some(("claims-triage".parse().unwrap(), "4.2.1".parse().unwrap())),
        subject: Some(format!("user-{}@example.org", n % 64)),
    };
    Event::new(EventType::ToolCallDecided, "acme".parse().unwrap(), by)
        .run(run)
        .public("decision", "permit")
        .public("server", "payments")
        .public("tool", "payments.refund")
        .public("rule", "refund-under-100")
        .public("policy", "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        .public("basis", vec!["gateway".to_owned()])
        .personal("args", "x".repeat(200))
        .confidential("goal", "y".repeat(64))
}
