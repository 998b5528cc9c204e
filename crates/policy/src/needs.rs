//! What a decision has to know, found once when a version is compiled: nothing else is looked up for a call.

use std::sync::Arc;

use crate::{path::Paths, track::Tracker};

/// What has to be in the [`crate::Facts`] of an ask.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// [`crate::Facts::budget`].
    pub budget: bool,
    /// [`crate::Facts::labels`].
    pub labels: bool,
    /// [`crate::Facts::subject`].
    pub subject: bool,
    /// [`crate::Facts::run`].
    pub run: bool,
    /// The hour and the weekday, which are computed from the time.
    pub time: bool,
    /// [`crate::Facts::model`].
    pub model: bool,
    /// [`crate::Facts::request`].
    pub request: bool,
    /// What of the arguments goes into [`crate::Facts::arguments`].
    pub arguments: Paths,
    /// The trackers whose values go into [`crate::Facts::history`].
    pub history: Vec<Arc<Tracker>>,
}

impl Needs {
    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        self.budget |= other.budget;
        self.labels |= other.labels;
        self.subject |= other.subject;
        self.run |= other.run;
        self.time |= other.time;
        self.model |= other.model;
        self.request |= other.request;
        self.arguments.merge(&other.arguments);
        for tracker in &other.history {
            self.track(tracker);
        }
    }

    pub(crate) fn track(&mut self, tracker: &Arc<Tracker>) {
        if !self.history.contains(tracker) {
            self.history.push(Arc::clone(tracker));
        }
    }
}
