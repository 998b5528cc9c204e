//! Whose a memory is. Made of what the plane knows of a run, and of nothing else.

use std::{fmt, sync::Arc};

use aws_lc_rs::digest::{Context, SHA256};
use cogward_model::{AgentName, RunId, TenantName, UpstreamName, memory::MemoryScope};

/// All memories of one store of a tenant: what an operator works on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Space {
    tenant: TenantName,
    store: UpstreamName,
}

/// Who acts, as the plane has it.
#[derive(Clone, PartialEq, Eq)]
pub struct Subject {
    /// The tenant of the run.
    pub tenant: TenantName,
    /// The run.
    pub run: RunId,
    /// The user for whom it acts, byte for byte as the run was started with.
    pub user: Option<Arc<str>>,
    /// The agent.
    pub agent: AgentName,
}

/// Names of persons are not for logs.
impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|_| "(not shown)");
        f.debug_struct("Subject").field("run", &self.run).field("agent", &self.agent).field("user", &user).finish()
    }
}

/// Whose memories an operation reaches, and who is at work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    space: Space,
    scope: MemoryScope,
    subject: Subject,
}

/// Why there is no owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OwnerError {
    /// The memory is kept by user, and the run has none.
    #[error(
        "this memory is kept for each user, and this run acts for nobody: it has to be started for a user \
         (`cogward run start --as`)"
    )]
    NoUser,
    /// The run is of another tenant.
    #[error("this memory belongs to another tenant")]
    OtherTenant,
}

/// What a memory is kept with, to be found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Column {
    /// The tenant.
    Tenant,
    /// The name of the tool server.
    Store,
    /// Whose memory it is.
    Scope,
    /// The agent that wrote it.
    Agent,
    /// The user for whom it was written.
    Subject,
    /// The run that wrote it.
    Run,
}

impl Column {
    /// Its name in every store.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Store => "store",
            Self::Scope => "scope",
            Self::Agent => "agent",
            Self::Subject => "subject",
            Self::Run => "run",
        }
    }
}

impl Space {
    /// The memories of a store.
    #[must_use]
    pub fn new(tenant: TenantName, store: UpstreamName) -> Self {
        Self { tenant, store }
    }

    /// The tenant.
    #[must_use]
    pub fn tenant(&self) -> &TenantName {
        &self.tenant
    }

    /// The name of the store.
    #[must_use]
    pub fn store(&self) -> &UpstreamName {
        &self.store
    }

    /// What all its memories have.
    #[must_use]
    pub fn conditions(&self) -> Vec<(Column, String)> {
        vec![(Column::Tenant, self.tenant.to_string()), (Column::Store, self.store.to_string())]
    }
}

impl Owner {
    /// The owner of what a run may reach.
    ///
    /// # Errors
    /// [`OwnerError`]: there is none, and nothing may be reached.
    pub fn of(space: Space, scope: MemoryScope, subject: Subject) -> Result<Self, OwnerError> {
        if subject.tenant != space.tenant {
            return Err(OwnerError::OtherTenant);
        }
        if scope.is_by_user() && subject.user.as_ref().is_none_or(|user| user.is_empty()) {
            return Err(OwnerError::NoUser);
        }
        Ok(Self { space, scope, subject })
    }

    /// The store.
    #[must_use]
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Whose memory it is.
    #[must_use]
    pub fn scope(&self) -> MemoryScope {
        self.scope
    }

    /// Who is at work.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// What a memory must have to be this owner's: all of it, compared byte for byte.
    #[must_use]
    pub fn conditions(&self) -> Vec<(Column, String)> {
        let mut all = self.space.conditions();
        all.push((Column::Scope, self.scope.to_string()));
        if self.scope.is_by_agent() {
            all.push((Column::Agent, self.subject.agent.to_string()));
        }
        if self.scope.is_by_user() {
            // Never empty: there would be no owner.
            all.push((Column::Subject, self.subject.user.as_deref().unwrap_or_default().to_owned()));
        }
        if self.scope.is_by_run() {
            all.push((Column::Run, self.subject.run.to_string()));
        }
        all
    }

    /// What a memory of this owner is written with: the conditions, and by whom and for whom it was written.
    #[must_use]
    pub fn written(&self) -> Vec<(Column, Option<String>)> {
        vec![
            (Column::Tenant, Some(self.space.tenant.to_string())),
            (Column::Store, Some(self.space.store.to_string())),
            (Column::Scope, Some(self.scope.to_string())),
            (Column::Agent, Some(self.subject.agent.to_string())),
            (Column::Subject, self.subject.user.as_deref().map(str::to_owned)),
            (Column::Run, Some(self.subject.run.to_string())),
        ]
    }

    /// One text for all conditions, which no other owner has. 64 hexadecimal digits.
    #[must_use]
    pub fn key(&self) -> String {
        digest(self.conditions().iter().flat_map(|(column, value)| [column.name(), value.as_str()]))
    }
}

/// The digest of some texts; each behind its length, so that no two lists of texts are alike.
pub(crate) fn digest<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    use std::fmt::Write as _;
    let mut all = Context::new(&SHA256);
    for text in texts {
        all.update(&(text.len() as u64).to_le_bytes());
        all.update(text.as_bytes());
    }
    all.finish().as_ref().iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subject(run: RunId, user: Option<&str>, agent: &str) -> Subject {
        Subject { tenant: "acme".parse().unwrap(), run, user: user.map(Into::into), agent: agent.parse().unwrap() }
    }

    fn space() -> Space {
        Space::new("acme".parse().unwrap(), "notes".parse().unwrap())
    }

    fn run() -> RunId {
        RunId::new(&cogward_model::SystemClock, &cogward_model::SystemEntropy)
    }

    #[test]
    fn nobody_is_no_user_and_no_bucket_of_all_who_have_none() {
        for scope in MemoryScope::ALL {
            for user in [None, Some("")] {
                let owner = Owner::of(space(), scope, subject(run(), user, "a"));
                assert_eq!(owner.is_err(), scope.is_by_user(), "{scope}");
            }
        }
        let other = Space::new("other".parse().unwrap(), "notes".parse().unwrap());
        let owner = Owner::of(other, MemoryScope::Tenant, subject(run(), Some("u"), "a"));
        assert_eq!(owner, Err(OwnerError::OtherTenant));
    }

    #[test]
    fn a_user_is_not_in_a_log() {
        let owner = Owner::of(space(), MemoryScope::User, subject(run(), Some("ann@bank.example"), "a")).unwrap();
        assert!(!format!("{owner:?}").contains("ann"));
    }

    proptest! {
        /// Two owners have one key only if they have one another's conditions.
        #[test]
        fn keys_are_apart(
            a in "[a-b|, ]{1,4}", b in "[a-b|, ]{1,4}", one in "[ab]{1,2}", two in "[ab]{1,2}",
            first in 0..5_usize, second in 0..5_usize,
        ) {
            let of = |scope, user: &str, agent: &str| Owner::of(space(), scope, subject(run(), Some(user), agent)).unwrap();
            let x = of(MemoryScope::ALL[first], &a, &one);
            let y = of(MemoryScope::ALL[second], &b, &two);
            prop_assert_eq!(x.key() == y.key(), x.conditions() == y.conditions());
        }
    }
}
