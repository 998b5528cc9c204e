//! Reports of violations on their way to whoever reads them: merged while they wait, never dropped.
//!
//! A queue would have to drop reports of a run that refuses faster than its plane records, and what was dropped could
//! be the one that matters. Reports of one kind are merged instead, so what waits is bounded by the number of kinds,
//! which the supervisor bounds.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::spec::Violation;

#[derive(Debug, Default)]
struct Waiting {
    reports: BTreeMap<(String, String, String), Violation>,
    ended: bool,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    news: Notify,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Only map operations happen under this lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where reports come in. The reader learns of its end.
#[derive(Debug, Default)]
pub(crate) struct Reporter(Arc<Shared>);

impl Reporter {
    /// A reporter and its reader.
    pub(crate) fn new() -> (Self, Reports) {
        let reporter = Self::default();
        let reports = Reports(Arc::clone(&reporter.0));
        (reporter, reports)
    }

    pub(crate) fn report(&self, report: Violation) {
        let kind = (report.layer.clone(), report.action.clone(), report.object.clone());
        {
            let mut waiting = self.0.waiting();
            let merged = waiting.reports.entry(kind).or_insert_with(|| Violation { count: 0, ..report.clone() });
            merged.count = merged.count.saturating_add(report.count);
            merged.total = merged.total.max(report.total);
        }
        self.0.news.notify_one();
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.0.waiting().ended = true;
        self.0.news.notify_one();
    }
}

/// The reports of one run, in no order of kinds.
#[derive(Debug)]
pub struct Reports(Arc<Shared>);

impl Reports {
    /// The next report; `None` when the run has ended and everything was taken.
    pub async fn recv(&mut self) -> Option<Violation> {
        loop {
            {
                let mut waiting = self.0.waiting();
                if let Some((_, report)) = waiting.reports.pop_first() {
                    return Some(report);
                }
                if waiting.ended {
                    return None;
                }
            }
            self.0.news.notified().await;
        }
    }

    /// A report that waits, if there is one.
    pub fn try_recv(&mut self) -> Option<Violation> {
        self.0.waiting().reports.pop_first().map(|(_, report)| report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(object: &str, count: u64, total: u64) -> Violation {
        Violation { layer: "seccomp".into(), action: "deny".into(), object: object.into(), count, total }
    }

    #[tokio::test]
    async fn a_reader_that_is_late_misses_no_kind_and_no_count() {
        let (reporter, mut reports) = Reporter::new();
        for total in 1..=5_000 {
            reporter.report(report("bpf", 1, total));
            reporter.report(report("mount", 2, 2 * total));
        }
        drop(reporter);
        assert_eq!(reports.recv().await, Some(report("bpf", 5_000, 5_000)));
        assert_eq!(reports.recv().await, Some(report("mount", 10_000, 10_000)));
        assert_eq!(reports.recv().await, None);
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken() {
        let (reporter, mut reports) = Reporter::new();
        let reader = tokio::spawn(async move { (reports.recv().await, reports.recv().await) });
        tokio::task::yield_now().await;
        reporter.report(report("bpf", 1, 1));
        drop(reporter);
        assert_eq!(reader.await.unwrap(), (Some(report("bpf", 1, 1)), None));
    }
}
