//! Operator credentials.

use std::{fmt, sync::Arc, time::Duration};

use cogward_model::{
    Clock, Entropy, RoleName, TenantName, Timestamp,
    event::{Attribution, Event, EventType},
    id::{Id, OperatorId},
};
use cogward_store::{OperatorRow, Role, Store, StoreError, Tx};

use crate::credential::{self, Credential};

/// Longest name of an operator, in bytes.
const NAME_BYTES_MAX: usize = 100;

/// A verified operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// Its id.
    pub id: OperatorId,
    /// Its name, for records.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Roles that policies name.
    pub roles: Vec<RoleName>,
}

impl Operator {
    /// Whether it may change anything.
    #[must_use]
    pub fn may_write(&self) -> bool {
        self.role == Role::Operator
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name)
    }
}

/// A new operator.
#[derive(Debug)]
pub struct Created {
    /// Who it is.
    pub operator: Operator,
    /// Its token: shown once, kept nowhere.
    pub credential: Credential,
    /// The evidence, for the commit of the transaction.
    pub event: Event,
}

/// Why an operator cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The name is not one.
    #[error("an operator's name has 1 to {NAME_BYTES_MAX} bytes and no control characters")]
    Name,
    /// The name is taken, or the database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a token is not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Malformed, unknown, wrong or revoked; which of them is nobody's business.
    #[error("the operator credential is not valid")]
    Refused,
    /// The database failed: nobody is let in.
    #[error("the operator credential cannot be checked")]
    Store(#[from] StoreError),
}

/// Why an operator cannot be revoked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RevokeError {
    /// There is no such operator, or it is revoked already.
    #[error("there is no valid operator `{0}`")]
    NotValid(OperatorId),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A replaced credential.
#[derive(Debug)]
pub struct Rotated {
    /// The new token: shown once, kept nowhere.
    pub credential: Credential,
    /// Until when the one before is valid too; it is dead at once without this.
    pub previous_until: Option<Timestamp>,
    /// The evidence, for the commit of the transaction.
    pub event: Event,
}

/// Makes, verifies, replaces and revokes operators.
#[derive(Clone)]
pub struct Operators {
    store: Store,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl fmt::Debug for Operators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operators").finish_non_exhaustive()
    }
}

impl Operators {
    /// The operators of a store.
    #[must_use]
    pub fn new(store: Store, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self { store, clock, entropy }
    }

    /// Makes an operator without roles of its own. It exists once the transaction is committed, together with the event.
    ///
    /// # Errors
    /// [`CreateError`] when the name is not one or is taken.
    pub async fn create(&self, tx: &mut Tx, name: &str, role: Role, by: Attribution) -> Result<Created, CreateError> {
        self.create_with(tx, name, role, Vec::new(), by).await
    }

    /// Makes an operator with roles that policies name. It exists once the transaction is committed, together with the
    /// event.
    ///
    /// # Errors
    /// [`CreateError`] when the name is not one or is taken.
    pub async fn create_with(
        &self,
        tx: &mut Tx,
        name: &str,
        role: Role,
        roles: Vec<RoleName>,
        by: Attribution,
    ) -> Result<Created, CreateError> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(CreateError::Name);
        }
        let id: OperatorId = Id::new(&*self.clock, &*self.entropy);
        let (credential, credential_hash) = credential::mint(id, &*self.entropy);
        tx.operator_insert(&OperatorRow {
            id,
            name: name.to_owned(),
            role,
            roles: roles.clone(),
            credential_hash,
            created: self.clock.now(),
            revoked: None,
            rotated: None,
            previous: None,
        })
        .await?;
        let event = Event::new(EventType::OperatorCreated, TenantName::default_tenant(), by)
            .public("operator", id.to_string())
            .public("role", role.as_str())
            .public("roles", roles.iter().map(ToString::to_string).collect::<Vec<_>>())
            .personal("name", name);
        Ok(Created { operator: Operator { id, name: name.to_owned(), role, roles }, credential, event })
    }

    /// Who holds this token.
    ///
    /// # Errors
    /// [`VerifyError::Refused`] for every token that is not a valid operator's, without saying why.
    pub async fn verify(&self, token: &str) -> Result<Operator, VerifyError> {
        let (id, secret) = credential::split(token).ok_or(VerifyError::Refused)?;
        let row = self.store.operator(id).await?.ok_or(VerifyError::Refused)?;
        let now = self.clock.now();
        let before = row.previous.as_ref().filter(|(_, until)| now < *until);
        let known = credential::matches(secret, &row.credential_hash)
            || before.is_some_and(|(hash, _)| credential::matches(secret, hash));
        if !known || row.revoked.is_some() {
            return Err(VerifyError::Refused);
        }
        Ok(Operator { id: row.id, name: row.name, role: row.role, roles: row.roles })
    }

    /// The operator whose credential a token claims to be, whether it is valid or not.
    ///
    /// # Errors
    /// The state cannot be read.
    pub async fn claimed_by(&self, token: &str) -> Result<Option<OperatorId>, StoreError> {
        let Some((id, _)) = credential::split(token) else { return Ok(None) };
        Ok(self.store.operator(id).await?.map(|row| row.id))
    }

    /// Revokes an operator; its token is refused once the transaction is committed, with the event.
    ///
    /// # Errors
    /// [`RevokeError`] when there is no such operator that is still valid.
    pub async fn revoke(&self, tx: &mut Tx, id: OperatorId, by: Attribution) -> Result<Event, RevokeError> {
        if !tx.operator_revoke(id, self.clock.now()).await? {
            return Err(RevokeError::NotValid(id));
        }
        Ok(Event::new(EventType::OperatorRevoked, TenantName::default_tenant(), by).public("operator", id.to_string()))
    }

    /// Replaces the credential of an operator. The one before is valid for `overlap` longer, or dead once the
    /// transaction is committed when that is zero.
    ///
    /// # Errors
    /// [`RevokeError`] when there is no such operator that is still valid.
    pub async fn rotate(
        &self,
        tx: &mut Tx,
        id: OperatorId,
        overlap: Duration,
        by: Attribution,
    ) -> Result<Rotated, RevokeError> {
        let now = self.clock.now();
        let micros = u64::try_from(overlap.as_micros()).unwrap_or(u64::MAX);
        let until = Timestamp::from_unix_micros(now.unix_micros().saturating_add(micros));
        let previous_until = (!overlap.is_zero()).then_some(until);
        let (credential, hash) = credential::mint(id, &*self.entropy);
        if !tx.operator_rotate(id, &hash, now, previous_until).await? {
            return Err(RevokeError::NotValid(id));
        }
        let event = Event::new(EventType::OperatorRotated, TenantName::default_tenant(), by)
            .public("operator", id.to_string())
            .public("overlap_seconds", overlap.as_secs());
        Ok(Rotated { credential, previous_until, event })
    }
}
