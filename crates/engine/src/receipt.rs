//! What a command did, with the measured time of each step.

use std::time::Instant;

use cogward_model::{RunId, Timestamp, id::OperationId, run::RunState};
use serde::{Deserialize, Serialize};

use crate::ports::Place;

/// The receipt of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The operation.
    pub operation: OperationId,
    /// The run.
    pub run: RunId,
    /// What was commanded.
    pub verb: String,
    /// The state it was commanded in.
    pub from: RunState,
    /// The state it led to.
    pub state: RunState,
    /// When it was commanded.
    pub requested: Timestamp,
    /// The steps, in order, each with the time since the command came in.
    pub steps: Vec<Step>,
    /// Calls that were broken off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls_cut: Option<u64>,
    /// Processes that were killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
    /// Whether no process is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree_empty: Option<bool>,
    /// Whether the effects were made by a later plane than the one that took the command.
    #[serde(default)]
    pub converged: bool,
    /// Whether the evidence was durable before the effects. Only a narrowing command goes on without.
    pub recorded: bool,
    /// The leaf that records it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Place>,
}

/// One step of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// `recorded`, `fenced`, `streams_cut`, `frozen`, `thawed`, `signalled`, `killed`.
    pub step: String,
    /// Microseconds since the command came in.
    pub at_us: u64,
}

/// Measures the steps of one command.
pub(crate) struct Stopwatch {
    begun: Instant,
    steps: Vec<Step>,
}

impl Stopwatch {
    pub(crate) fn begin() -> Self {
        Self { begun: Instant::now(), steps: Vec::with_capacity(6) }
    }

    pub(crate) fn step(&mut self, step: &str) {
        let at_us = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.steps.push(Step { step: step.to_owned(), at_us });
    }

    pub(crate) fn steps(self) -> Vec<Step> {
        self.steps
    }
}
