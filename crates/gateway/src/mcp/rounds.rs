//! What a stateless request brings when it comes again: answers to questions, and the state that it was given.

use std::sync::Arc;

use bytes::Bytes;
use cogward_model::{
    Digest,
    action::Action,
    decision::{Refusal, RefusalCode},
};
use serde_json::value::RawValue;

use super::{
    answer::Answer,
    catalogue::sha256,
    members::Members,
    relay::{More, Request, Resume},
    rpc,
    state::Taken,
    waits::{self, Awaited},
};
use crate::{Inner, run::RunContext};

/// Answers of one request.
const RESPONSES_MAX: usize = 16;

/// What a request brings.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Brings<'a> {
    pub(super) responses: Option<&'a RawValue>,
    pub(super) state: Option<&'a str>,
}

/// How a request goes on.
pub(super) enum Going {
    /// By itself, with what its server wants to know.
    Fresh(Option<More>),
    /// In a call that waits for it.
    On(Resume, Option<Bytes>),
    /// By itself, with the approval that it waits for.
    Awaited(Box<Awaited>),
}

/// Checks what a request brings. One that shows a state that is not its own is refused, and that is recorded.
pub(super) async fn answers(
    inner: &Inner,
    run: &Arc<RunContext>,
    action: &Action,
    request: &Request,
    brings: Brings<'_>,
) -> Result<Going, Answer> {
    let Brings { responses, state } = brings;
    if responses.is_some_and(|responses| !is_responses(responses.get())) {
        let text = "`inputResponses` is not an object whose members are objects";
        return Err(Answer::Error { code: rpc::INVALID_PARAMS, message: text.to_owned(), data: None });
    }
    let responses = responses.map(|responses| Bytes::copy_from_slice(responses.get().as_bytes()));
    // A server that has no state of its own takes answers without one (SEP-2322). They are recorded and approved with the
    // call, and because nobody asked for them in this run they are decided like the questions that they would answer.
    let Some(state) = state else {
        let more =
            |responses: Bytes| More { unasked: unasked(&responses, &[]), responses: Some(responses), state: None };
        return Ok(Going::Fresh(responses.map(more)));
    };
    for fence in [inner.gate.plane_fence(), &run.fence] {
        if let Err(refusal) = fence.pass().await {
            return Err(Answer::refused(request.shape, rpc::INTERNAL_ERROR, &refusal.sentence()));
        }
    }
    match run.mcp.states.take(run.grant.run, &request.digest(), state) {
        Ok(Taken::Waiting(resume)) => Ok(Going::On(resume, responses)),
        Ok(Taken::Inner(inner, asked)) => {
            let unasked = responses.as_ref().map(|responses| unasked(responses, &asked)).unwrap_or_default();
            Ok(Going::Fresh(Some(More { responses, state: inner, unasked })))
        }
        Ok(Taken::Approval(awaited)) if waits::is_given_up(responses.as_ref()) => {
            let refusal = inner.gate.refuse(run, action, awaited.given_up(), Vec::new()).await;
            Err(Answer::refused(request.shape, rpc::INTERNAL_ERROR, &refusal.sentence()))
        }
        Ok(Taken::Approval(awaited)) => Ok(Going::Awaited(awaited)),
        Err(error) => {
            let next = "Make the request again from the beginning, without a state";
            let refusal = Refusal::new(RefusalCode::InvalidRequest, "mcp.requestState", error.to_string(), next);
            let refusal = inner.gate.refuse(run, action, refusal, Vec::new()).await;
            Err(Answer::Error { code: rpc::INVALID_PARAMS, message: refusal.sentence(), data: None })
        }
    }
}

/// Answers under a key that was not asked.
fn unasked(responses: &[u8], asked: &[Digest]) -> Vec<Bytes> {
    let Some(members) = Members::read(responses) else { return Vec::new() };
    let unasked = members.iter().filter(|(key, _)| !asked.contains(&sha256(key.as_bytes())));
    unasked.map(|(_, answer)| Bytes::copy_from_slice(answer.as_bytes())).collect()
}

fn is_responses(text: &str) -> bool {
    Members::read(text.as_bytes()).is_some_and(|members| {
        members.iter().count() <= RESPONSES_MAX && members.iter().all(|(_, value)| value.starts_with('{'))
    })
}
