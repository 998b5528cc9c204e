//! Limits are reserved before consumption and settled after (rule 6).
//!
//! A call reserves its worst case on every scope it counts against (run, agent, tenant) in one step,
//! or on none; what is in flight counts as used. After the call the actual replaces the reservation.
//! So the sum that was ever let through stays within every limit, at any concurrency. Pure and in
//! memory: the decision record in the ledger carries each reservation, and a restarted plane replays
//! them through [`Budgets::charge`].

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cogward_model::{AgentName, RunId, TenantName, action::Amounts};
use serde::{Deserialize, Serialize};

/// What a limit applies to; its text is in every decision record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scope(Arc<str>);

impl Scope {
    /// One run.
    #[must_use]
    pub fn run(run: RunId) -> Self {
        Self(format!("run:{run}").into())
    }

    /// All runs of an agent.
    #[must_use]
    pub fn agent(tenant: &TenantName, agent: &AgentName) -> Self {
        Self(format!("agent:{tenant}/{agent}").into())
    }

    /// From the text in a record.
    #[must_use]
    pub fn from_record(text: &str) -> Self {
        Self(text.into())
    }

    /// The text in a record.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `run` or `agent`: the part of the manifest that sets the limit.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.0.split(':').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Model tokens.
    Tokens,
    /// Money.
    Cost,
    /// Tool calls.
    ToolCalls,
    /// Connections to hosts outside.
    Connections,
    /// Bytes to and from hosts outside.
    EgressBytes,
}

impl Part {
    /// The manifest's word for it.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Cost => "costUsd",
            Self::ToolCalls => "toolCalls",
            Self::Connections => "connections",
            Self::EgressBytes => "egressMib",
        }
    }

    fn of(self, amounts: Amounts) -> u64 {
        match self {
            Self::Tokens => amounts.tokens,
            Self::Cost => amounts.cost.nanos(),
            Self::ToolCalls => amounts.tool_calls,
            Self::Connections => amounts.connections,
            Self::EgressBytes => amounts.egress_bytes,
        }
    }

    fn show(self, value: u64) -> String {
        match self {
            Self::Cost => format!("${}", cogward_model::NanoUsd::from_nanos(value)),
            Self::EgressBytes => format!("{value} bytes"),
            Self::Tokens | Self::ToolCalls | Self::Connections => value.to_string(),
        }
    }
}

/// Why a reservation was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReserveError {
    /// The worst case does not fit.
    #[error(
        "the {} budget of {} is {}: {} used, {} held by calls in flight, and this call may need {}",
        .scope.kind(), .part.field(), .part.show(*.limit), .part.show(*.used), .part.show(*.held), .part.show(*.asked)
    )]
    Exceeded {
        /// The scope whose limit is in the way.
        scope: Scope,
        /// What of it.
        part: Part,
        /// The limit.
        limit: u64,
        /// Already used.
        used: u64,
        /// Held by calls in flight.
        held: u64,
        /// Asked for.
        asked: u64,
    },
    /// No limit is known for the scope, so nothing may be spent on it.
    #[error("no budget is open for {0}")]
    UnknownScope(Scope),
}

/// A worst case that is held until it is settled. Losing one keeps it held: a limit errs on the safe side.
#[derive(Debug)]
#[must_use = "a reservation that is not settled stays held"]
pub struct Reservation {
    scopes: Arc<[Scope]>,
    amounts: Amounts,
}

impl Reservation {
    /// The scopes it holds.
    #[must_use]
    pub fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// The worst case.
    #[must_use]
    pub fn amounts(&self) -> Amounts {
        self.amounts
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Account {
    limit: Option<Amounts>,
    used: Amounts,
    held: Amounts,
}

/// What stands on a scope's account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    /// The limit, if the scope is open.
    pub limit: Option<Amounts>,
    /// Settled.
    pub used: Amounts,
    /// Reserved by calls in flight.
    pub held: Amounts,
}

/// All accounts of a plane.
#[derive(Debug, Default)]
pub struct Budgets {
    accounts: Mutex<HashMap<Scope, Account>>,
}

impl Budgets {
    /// No accounts yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<Scope, Account>> {
        // No code that can panic runs under this lock, so a poisoned one still holds whole accounts.
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the limit of a scope; what was charged before stays charged.
    pub fn open(&self, scope: Scope, limit: Amounts) {
        self.accounts().entry(scope).or_default().limit = Some(limit);
    }

    /// Forgets a scope whose run has ended, and says what it had used.
    pub fn close(&self, scope: &Scope) -> Amounts {
        self.accounts().remove(scope).map(|a| a.used).unwrap_or_default()
    }

    /// Books consumption that needs no permission any more: the replay of records at start.
    pub fn charge(&self, scope: &Scope, used: Amounts) {
        let mut accounts = self.accounts();
        let account = accounts.entry(scope.clone()).or_default();
        account.used = account.used.saturating_add(used);
    }

    /// Takes back a part of what [`Budgets::charge`] booked: a replayed outcome is less than its reservation.
    pub fn refund(&self, scope: &Scope, unused: Amounts) {
        if let Some(account) = self.accounts().get_mut(scope) {
            account.used = account.used.saturating_sub(unused);
        }
    }

    /// Holds `worst` on every scope, or on none.
    ///
    /// Of bytes outside it holds what is left where that is less, as long as there is any: how many a
    /// connection will carry nobody knows beforehand, so they are asked for in instalments.
    ///
    /// # Errors
    /// [`ReserveError`] with the first limit that is in the way.
    pub fn reserve(&self, scopes: &Arc<[Scope]>, worst: Amounts) -> Result<Reservation, ReserveError> {
        let mut accounts = self.accounts();
        let left = |scope: &Scope| {
            let account = accounts.get(scope).copied().unwrap_or_default();
            let counted = account.used.saturating_add(account.held);
            account.limit.unwrap_or_default().saturating_sub(counted).egress_bytes
        };
        let least = scopes.iter().map(left).min().unwrap_or(0);
        let egress_bytes = if least > 0 { worst.egress_bytes.min(least) } else { worst.egress_bytes };
        let worst = Amounts { egress_bytes, ..worst };
        for scope in scopes.iter() {
            let account = accounts.get(scope).copied().unwrap_or_default();
            let limit = account.limit.ok_or_else(|| ReserveError::UnknownScope(scope.clone()))?;
            for part in [Part::ToolCalls, Part::Connections, Part::EgressBytes, Part::Tokens, Part::Cost] {
                let (used, held, asked) = (part.of(account.used), part.of(account.held), part.of(worst));
                // A call that asks for nothing of a part is not stopped by that part's limit.
                if asked > 0 && used.saturating_add(held).saturating_add(asked) > part.of(limit) {
                    return Err(ReserveError::Exceeded {
                        scope: scope.clone(),
                        part,
                        limit: part.of(limit),
                        used,
                        held,
                        asked,
                    });
                }
            }
        }
        for scope in scopes.iter() {
            if let Some(account) = accounts.get_mut(scope) {
                account.held = account.held.saturating_add(worst);
            }
        }
        Ok(Reservation { scopes: Arc::clone(scopes), amounts: worst })
    }

    /// Replaces a reservation by what was really used.
    pub fn settle(&self, reservation: Reservation, used: Amounts) {
        let mut accounts = self.accounts();
        for scope in reservation.scopes.iter() {
            // A closed scope has no account any more, and needs none.
            if let Some(account) = accounts.get_mut(scope) {
                account.held = account.held.saturating_sub(reservation.amounts);
                account.used = account.used.saturating_add(used);
            }
        }
    }

    /// What stands on a scope's account.
    #[must_use]
    pub fn balance(&self, scope: &Scope) -> Balance {
        let account = self.accounts().get(scope).copied().unwrap_or_default();
        Balance { limit: account.limit, used: account.used, held: account.held }
    }
}

#[cfg(test)]
mod tests;
