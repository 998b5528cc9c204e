//! A stateless request that a person has to approve: its client is asked to come again, with a sealed request state.
//!
//! Nobody is asked for the approval here. Whoever is at the client is told who has to give it and where, and says
//! whether to look again; the yes of an operator with the role is the only one that counts.

use std::time::Duration;

use bytes::Bytes;
use cogward_model::{
    Timestamp,
    decision::{ApprovalRef, Refusal, RefusalCode},
};

use super::{
    answer::Answer,
    caller::Caller,
    members::{Members, quoted},
    relay::{More, Request},
    state::STATE_AGE,
    upstream::exchange::ClientCan,
};
use crate::{Inner, run::RunContext};

/// How often one request is answered with a question. Clients that answer by themselves give up after ten in a row,
/// and a tool server may have questions of its own; after these the request is answered as for any other client.
const ROUNDS_MAX: u8 = 8;
/// The most that is kept of what a request brought for its tool server while it waits, in bytes.
const BROUGHT_BYTES_MAX: usize = 16 * 1024;
/// A state is good for at most so long, however long its approval is.
const GOOD_FOR_MAX: Duration = Duration::from_secs(31 * 24 * 3_600);
/// The key of the question in `inputRequests`.
const KEY: &str = "approval";

/// What a request waits for.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) approval: ApprovalRef,
    /// How often its client was asked before.
    pub(super) round: u8,
    /// What the request brought for its tool server.
    pub(super) more: Option<More>,
}

impl Awaited {
    /// What of it stands in the state.
    pub(super) fn bound(&self) -> String {
        format!("{} {}", self.approval.id, self.approval.expires.unix_micros())
    }

    /// The refusal of a request whose user does not want to wait any longer.
    pub(super) fn given_up(&self) -> Refusal {
        let id = self.approval.id;
        let detail = format!("whoever was asked at the client did not want to wait for the approval {id}");
        let next = "It has not run. The same call made again waits for the same approval";
        Refusal::new(RefusalCode::ApprovalRequired, "approval.required", detail, next).about(self.approval.clone())
    }
}

/// Whether the answer of a client says that the request is given up. One without an answer looks again.
pub(super) fn is_given_up(responses: Option<&Bytes>) -> bool {
    let answers = responses.and_then(|responses| Members::read(responses));
    let Some(answer) = answers.as_ref().and_then(|answers| answers.get(KEY)) else { return false };
    let action = Members::read(answer.as_bytes()).and_then(|answer| answer.text("action"));
    action.as_deref() != Some("accept")
}

/// What a request that waits for an approval is answered with, where its client can be asked. `round` says how often
/// it was asked before.
pub(super) fn ask(
    inner: &Inner,
    run: &RunContext,
    caller: &Caller,
    request: &mut Request,
    refusal: &Refusal,
    round: u8,
) -> Option<Answer> {
    let approval = refusal.approval.as_deref().filter(|_| refusal.code == RefusalCode::ApprovalRequired)?;
    let asks = caller.is_stateless() && caller.can.has(ClientCan::ELICIT_FORM) && round < ROUNDS_MAX;
    let brought = request.more.as_ref().map_or(0, More::len);
    if !asks || brought > BROUGHT_BYTES_MAX {
        return None;
    }
    let awaited = Awaited { approval: approval.clone(), round: round + 1, more: request.more.take() };
    let good_for = left(approval.expires, inner.gate.now());
    let state = run.mcp.states.await_approval(run.grant.run, &request.digest(), awaited, good_for)?;
    let message = quoted(&message(&refusal.detail, approval));
    let result = format!(
        r#"{{"resultType":"input_required","inputRequests":{{"{KEY}":{{"method":"elicitation/create","params":{{"mode":"form","message":{message},"requestedSchema":{{"type":"object","properties":{{}}}}}}}}}},"requestState":"{state}"}}"#
    );
    Some(Answer::Result { bytes: result.into(), typed: true, room: None })
}

/// How long a state is good: somewhat longer than its approval, so that who comes late is told that it is over.
fn left(expires: Timestamp, now: Timestamp) -> Duration {
    Duration::from_micros(expires.micros_since(now)).min(GOOD_FOR_MAX) + STATE_AGE
}

fn message(detail: &str, approval: &ApprovalRef) -> String {
    let ApprovalRef { id, role, expires } = approval;
    format!(
        "This call has not run: {detail}. An operator with the role `{role}` answers it at the cogward plane until \
         {expires} (`cogward approval show {id}`); it cannot be approved here. Accept to look again whether it is \
         approved: then the call runs, once. Decline to leave it."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_no_gives_a_request_up() {
        let given_up = |text: &str| is_given_up(Some(&Bytes::copy_from_slice(text.as_bytes())));
        assert!(!is_given_up(None));
        assert!(!given_up("{}") && !given_up(r#"{"other":{"action":"decline"}}"#));
        assert!(!given_up(r#"{"approval":{"action":"accept","content":{"response":"17"}}}"#));
        for no in [r#"{"action":"decline"}"#, r#"{"action":"cancel"}"#, r#"{"action":7}"#, "{}", "[]"] {
            assert!(given_up(&format!(r#"{{"approval":{no}}}"#)), "{no}");
        }
    }

    #[test]
    fn a_state_outlives_its_approval_so_that_its_end_can_be_told() {
        let at = |seconds: u64| Timestamp::from_unix_micros(seconds * 1_000_000);
        assert_eq!(left(at(100), at(40)), Duration::from_secs(60) + STATE_AGE);
        assert_eq!(left(at(40), at(100)), STATE_AGE);
        assert_eq!(left(Timestamp::from_unix_micros(u64::MAX), at(0)), GOOD_FOR_MAX + STATE_AGE);
    }
}
