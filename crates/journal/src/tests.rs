//! Readers against a real file: nothing is missed, nothing comes twice, a gap is told.

use std::{sync::Arc, time::Duration};

use cogward_model::{RunId, SystemClock, SystemEntropy, TenantName};
use serde_json::json;
use tempfile::TempDir;

use crate::{Cursor, Filter, From, Item, Journal, JournalEvent, JournalOptions, Subscription};

async fn open(dir: &TempDir, options: JournalOptions) -> Journal {
    Journal::open(&dir.path().join("journal.db"), options, Arc::new(SystemClock)).await.unwrap()
}

fn numbered(number: u64) -> JournalEvent {
    JournalEvent::tenant("test.event", TenantName::default_tenant()).detail(json!({ "n": number }))
}

async fn numbers(reader: &mut Subscription, count: usize) -> Vec<u64> {
    let mut seen = Vec::new();
    while seen.len() < count {
        match tokio::time::timeout(Duration::from_secs(10), reader.next()).await.unwrap().unwrap().unwrap() {
            Item::Entry(entry) => seen.push(entry.detail["n"].as_u64().unwrap()),
            Item::Resync { .. } => panic!("resync"),
        }
    }
    seen
}

#[tokio::test]
async fn catch_up_then_live_has_no_gap_and_no_repeat() {
    let dir = TempDir::new().unwrap();
    let journal = open(&dir, JournalOptions::default()).await;
    (0..1_000).for_each(|n| journal.publish(numbered(n)));
    let mut reader = journal.subscribe(From::Oldest, Filter::default());
    let writer = journal.clone();
    let task = tokio::spawn(async move {
        for n in 1_000..2_000 {
            writer.publish(numbered(n));
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(numbers(&mut reader, 2_000).await, (0..2_000).collect::<Vec<_>>());
    task.await.unwrap();
}

#[tokio::test]
async fn a_cursor_resumes_across_a_restart() {
    let dir = TempDir::new().unwrap();
    let cursor = {
        let journal = open(&dir, JournalOptions::default()).await;
        (0..10).for_each(|n| journal.publish(numbered(n)));
        journal.flush().await;
        let mut reader = journal.subscribe(From::Oldest, Filter::default());
        let mut last = None;
        for _ in 0..4 {
            if let Some(Item::Entry(entry)) = reader.next().await.unwrap() {
                last = Some(entry.cursor);
            }
        }
        last.unwrap()
    };
    let journal = open(&dir, JournalOptions::default()).await;
    journal.publish(numbered(10));
    let again: Cursor = cursor.to_string().parse().unwrap();
    let mut reader = journal.subscribe(From::After(again), Filter::default());
    assert_eq!(numbers(&mut reader, 7).await, (4..11).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_reader_whose_place_was_dropped_is_told() {
    let dir = TempDir::new().unwrap();
    let journal = open(&dir, JournalOptions { rows_max: 100, ..JournalOptions::default() }).await;
    let start = Cursor { epoch: 1, seq: 1 };
    for n in 0..6_000 {
        journal.publish(numbered(n));
        if n % 500 == 0 {
            journal.flush().await;
        }
    }
    journal.flush().await;
    let mut reader = journal.subscribe(From::After(start), Filter::default());
    let Some(Item::Resync { from }) = reader.next().await.unwrap() else { panic!("no resync") };
    assert!(from > start);
    assert!(matches!(reader.next().await.unwrap(), Some(Item::Entry(_))));
}

#[tokio::test]
async fn a_cursor_of_another_journal_is_told() {
    let dir = TempDir::new().unwrap();
    let journal = open(&dir, JournalOptions::default()).await;
    let mut reader = journal.subscribe(From::After(Cursor { epoch: 9, seq: 9 }), Filter::default());
    assert!(matches!(reader.next().await.unwrap(), Some(Item::Resync { .. })));
    journal.publish(numbered(1));
    assert_eq!(numbers(&mut reader, 1).await, [1]);
}

#[tokio::test]
async fn a_slow_reader_reads_on_from_the_table() {
    let dir = TempDir::new().unwrap();
    let journal = open(&dir, JournalOptions { ring_max: 4, ..JournalOptions::default() }).await;
    let mut reader = journal.subscribe(From::Now, Filter::default());
    (0..600).for_each(|n| journal.publish(numbered(n)));
    journal.flush().await;
    assert_eq!(numbers(&mut reader, 600).await, (0..600).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_overflow_is_counted_and_told() {
    let dir = TempDir::new().unwrap();
    let journal = open(&dir, JournalOptions { queue_max: 8, ..JournalOptions::default() }).await;
    // The writer cannot run between these: the test's runtime has one thread.
    (0..100).for_each(|n| journal.publish(numbered(n)));
    journal.flush().await;
    journal.flush().await;
    let mut reader = journal.subscribe(From::Oldest, Filter::default());
    let mut lost = 0;
    for _ in 0..9 {
        if let Some(Item::Entry(entry)) = reader.next().await.unwrap() {
            lost += entry.detail["lost"].as_u64().unwrap_or(0);
        }
    }
    assert_eq!(lost, 92);
}

#[tokio::test]
async fn filters_by_tenant_and_run_in_the_table_and_live() {
    let dir = TempDir::new().unwrap();
    let journal = open(&dir, JournalOptions::default()).await;
    let run = RunId::new(&SystemClock, &SystemEntropy);
    let other: TenantName = "other".parse().unwrap();
    let of_run = |n: u64| JournalEvent::run("test.event", TenantName::default_tenant(), run).detail(json!({ "n": n }));
    let publish = |n: u64| {
        journal.publish(numbered(99));
        journal.publish(JournalEvent::tenant("test.event", other.clone()));
        journal.publish(JournalEvent::plane("test.event"));
        journal.publish(of_run(n));
    };
    publish(1);
    journal.flush().await;
    let filter = Filter { tenant: Some(TenantName::default_tenant()), run: Some(run) };
    let mut reader = journal.subscribe(From::Oldest, filter);
    assert_eq!(numbers(&mut reader, 1).await, [1]);
    publish(2);
    assert_eq!(numbers(&mut reader, 1).await, [2]);
}

#[tokio::test]
async fn nobody_else_can_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("journal.db"), "").unwrap();
    std::fs::set_permissions(dir.path().join("journal.db"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let journal = open(&dir, JournalOptions::default()).await;
    journal.publish(numbered(1));
    journal.flush().await;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.file_name());
    }
}

#[tokio::test]
async fn an_unreadable_file_is_moved_aside() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("journal.db"), vec![7_u8; 8_192]).unwrap();
    let journal = open(&dir, JournalOptions::default()).await;
    journal.publish(numbered(1));
    let mut reader = journal.subscribe(From::Oldest, Filter::default());
    assert_eq!(numbers(&mut reader, 1).await, [1]);
    assert!(dir.path().join("journal.unreadable").exists());
}

#[tokio::test]
async fn an_oversized_detail_is_replaced_by_a_note() {
    let dir = TempDir::new().unwrap();
    let journal = open(&dir, JournalOptions::default()).await;
    journal.publish(JournalEvent::plane("test.big").detail(json!({ "text": "x".repeat(100_000) })));
    let mut reader = journal.subscribe(From::Oldest, Filter::default());
    let Some(Item::Entry(entry)) = reader.next().await.unwrap() else { panic!("no entry") };
    assert!(entry.detail["omitted_bytes"].as_u64().unwrap() > 100_000);
}
