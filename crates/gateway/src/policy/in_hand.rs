//! Approvals that were given for the call that is being decided, and are not used yet.

use std::{sync::Arc, time::Duration};

use cogward_model::{
    Digest,
    decision::{ApprovalRef, Refusal, RefusalCode},
    event::Field,
};

use super::Policies;
use crate::{
    approvals::{self, ApprovalAsk, ApprovalState, Approvals, ApprovalsDown},
    gate::public,
};

/// Nothing, or what was approved. What is dropped unused is given back.
#[derive(Default)]
pub(crate) struct InHand(Option<Given>);

struct Given {
    by: Arc<dyn Approvals>,
    request: Digest,
    /// Each role, and whether four eyes were asked for.
    roles: Vec<(String, bool)>,
    approvals: Vec<ApprovalRef>,
}

impl InHand {
    /// Whether what is asked for was approved: the same bytes, by every role.
    pub(super) fn covers(&self, asks: &[ApprovalAsk]) -> bool {
        let Some(given) = &self.0 else { return false };
        let answers =
            |(role, four_eyes): &(String, bool), ask: &ApprovalAsk| *role == ask.role && (*four_eyes || !ask.four_eyes);
        asks.iter().all(|ask| ask.request == given.request && given.roles.iter().any(|role| answers(role, ask)))
    }

    /// For the record.
    pub(crate) fn field(&self) -> Option<Field> {
        let given = self.0.as_ref()?;
        let ids: Vec<String> = given.approvals.iter().map(|approval| approval.id.to_string()).collect();
        Some(public("approval", ids))
    }

    /// The call is recorded with them: they are not given back any more.
    pub(crate) fn used(mut self) {
        self.0 = None;
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        if let Some(given) = self.0.take() {
            given.by.give_back(&given.approvals);
        }
    }
}

impl Policies {
    /// Asks the people who have to say yes.
    ///
    /// # Errors
    /// The refusal: somebody has to say yes first, said no, or cannot be asked.
    pub(crate) async fn approve(&self, asks: &[ApprovalAsk]) -> Result<InHand, Refusal> {
        let (Some(by), Some(first)) = (self.approvals.get(), asks.first()) else {
            return Err(down(&ApprovalsDown("nobody can be asked here".to_owned())));
        };
        let roles = asks.iter().map(|ask| (ask.role.clone(), ask.four_eyes)).collect();
        match by.ask(asks).await.map_err(|error| down(&error))? {
            ApprovalState::Approved(approvals) if approvals.len() == asks.len() => {
                Ok(InHand(Some(Given { by: Arc::clone(by), request: first.request, roles, approvals })))
            }
            ApprovalState::Approved(_) => Err(down(&ApprovalsDown("not every role was asked".to_owned()))),
            ApprovalState::Pending(approval) => Err(approvals::refusal(RefusalCode::ApprovalRequired, approval)),
            ApprovalState::Denied(approval) => Err(approvals::refusal(RefusalCode::ApprovalDenied, approval)),
            ApprovalState::Expired(approval) => Err(approvals::refusal(RefusalCode::ApprovalExpired, approval)),
            ApprovalState::Gone(id) => {
                let detail = format!("the approval {id} was used before, is over, or is for another call");
                let next = "It has not run. Make the call again from the beginning, without a request state";
                Err(Refusal::new(RefusalCode::InvalidRequest, "approval.gone", detail, next))
            }
            ApprovalState::TooMany(why) => {
                let next = "Wait until some of them are answered";
                let mut refusal = Refusal::new(RefusalCode::Throttled, "limits.approvals", why, next);
                refusal.retry_after = Some(Duration::from_secs(60));
                Err(refusal)
            }
        }
    }
}

fn down(error: &ApprovalsDown) -> Refusal {
    tracing::error!(%error, "a call that needs an approval is refused");
    Refusal::new(
        RefusalCode::EvidenceUnavailable,
        "approval.unavailable",
        "it needs an approval, and nobody can be asked for one at the moment",
        "Nothing was forwarded; try again later, or tell the operator",
    )
}
