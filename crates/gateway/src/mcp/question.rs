//! What a tool server asks back within a call: the agent's user, the agent's model, its roots.
//!
//! Whom it asks is the client of the run that called, and nobody else. A question to the user and a request for the
//! model are decided and recorded like calls, under the call that they belong to. The model is the agent's own: its
//! client asks it through the plane's model gate, where the call is decided again and paid for. Where the client cannot
//! be asked for the model and the manifest names one for the server, the plane makes that call itself, in the same gate.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cogward_model::{
    UpstreamName,
    action::{Action, Amounts, Outcome},
    decision::{Refusal, RefusalCode},
    limits::STREAM_EVENT_BYTES_MAX,
};

use super::{
    call::kept_field,
    catalogue::sha256,
    members::Members,
    rpc,
    session::{Answered, Session},
    stream::{EventLog, Weight, room},
    upstream::exchange::{AskMethod, ClientCan},
};
use crate::{
    Inner,
    gate::{Admitted, Call, First, Governed, confidential, public},
    model,
    policy::Content,
    run::RunContext,
};

/// How long a client has to answer: a person may have to.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(600);
/// How much of a question is kept sealed in the vault, in bytes; of more there is the digest.
const KEPT_BYTES_MAX: usize = 16 * 1024;
/// Longest question, in bytes.
const QUESTION_BYTES_MAX: usize = STREAM_EVENT_BYTES_MAX;
/// What the client of an agent says that rejects a request for its model (MCP: sampling).
const REJECTED: i64 = -1;
/// What a user answers who was never asked.
const DECLINED: &str = r#"{"action":"decline"}"#;

/// One question of a tool server.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) method: AskMethod,
    pub(super) params: Bytes,
}

/// A question as the gate sees it.
#[derive(Debug)]
pub(super) struct Asking {
    server: UpstreamName,
    method: AskMethod,
    /// What is asked: an approval is for this question and no other.
    params: Bytes,
}

impl Governed for Asking {
    fn action(&self) -> Action {
        let server = self.server.clone();
        match self.method {
            AskMethod::Sample => Action::Sampling { server },
            AskMethod::Elicit | AskMethod::Roots => Action::Elicitation { server },
        }
    }

    fn content(&self) -> Content<'_> {
        Content { body: Some(&self.params), ..Content::default() }
    }
}

/// A question that may be asked; nothing is recorded of one for the roots, which are the client's own to tell.
pub(super) struct Allowed {
    admitted: Option<Admitted<Asking>>,
    /// The model that the plane asks itself.
    model: Option<String>,
}

impl Question {
    /// Reads one of the requests of `inputRequests`.
    pub(super) fn read(request: &str) -> Option<Self> {
        let members = Members::read(request.as_bytes())?;
        let method = match members.text("method")?.as_str() {
            "elicitation/create" => AskMethod::Elicit,
            "sampling/createMessage" => AskMethod::Sample,
            "roots/list" => AskMethod::Roots,
            _ => return None,
        };
        let params = members.get("params").unwrap_or("{}");
        Some(Self { method, params: Bytes::copy_from_slice(params.as_bytes()) })
    }

    /// Its method on the wire.
    pub(super) fn name(&self) -> &'static str {
        match self.method {
            AskMethod::Elicit => "elicitation/create",
            AskMethod::Sample => "sampling/createMessage",
            AskMethod::Roots => "roots/list",
        }
    }

    /// As one of `inputRequests`.
    pub(super) fn request(&self) -> String {
        let params = std::str::from_utf8(&self.params).unwrap_or("{}");
        format!(r#"{{"method":"{}","params":{params}}}"#, self.name())
    }

    /// Whether a client said that it can be asked so.
    fn within(&self, can: ClientCan) -> bool {
        match self.method {
            AskMethod::Sample => can.has(ClientCan::SAMPLING),
            AskMethod::Roots => can.has(ClientCan::ROOTS),
            AskMethod::Elicit => {
                let mode = Members::read(&self.params).and_then(|params| params.text("mode"));
                can.has(if mode.as_deref() == Some("url") { ClientCan::ELICIT_URL } else { ClientCan::ELICIT_FORM })
            }
        }
    }

    /// The model with which the plane answers it, where the client cannot be asked and the manifest names one.
    pub(super) fn carried<'r>(&self, run: &'r RunContext, server: &UpstreamName, can: ClientCan) -> Option<&'r str> {
        let wanted = self.method == AskMethod::Sample && !self.within(can);
        run.grant.sampling(server).filter(|_| wanted)
    }

    /// Has the plane answer it, where it is the plane's to answer.
    pub(super) async fn carry(&self, inner: &Arc<Inner>, run: &Arc<RunContext>, allowed: &Allowed) -> Option<Answered> {
        let (model, admitted) = (allowed.model.as_deref()?, allowed.admitted.as_ref()?);
        let answer = model::sample(inner, run, model, &self.params, admitted.decision()).await;
        Some(answer.map_err(|error| (REJECTED, error.to_string())))
    }

    /// Decides whether the question may be asked, and records it.
    ///
    /// # Errors
    /// What the server is told instead.
    pub(super) async fn allow(
        &self,
        inner: &Inner,
        run: &Arc<RunContext>,
        server: &UpstreamName,
        call: First,
        can: ClientCan,
    ) -> Result<Allowed, Answered> {
        let carried = self.carried(run, server, can).map(str::to_owned);
        let capable = self.within(can) || carried.is_some();
        if self.params.len() > QUESTION_BYTES_MAX {
            return Err(Err((rpc::INVALID_PARAMS, format!("a question has at most {QUESTION_BYTES_MAX} bytes"))));
        }
        if self.method == AskMethod::Roots {
            return if capable {
                Ok(Allowed { admitted: None, model: None })
            } else {
                Err(Err((rpc::METHOD_NOT_FOUND, "not offered".into())))
            };
        }
        let text = std::str::from_utf8(&self.params).ok().filter(|text| text.len() <= KEPT_BYTES_MAX);
        let kept = text.filter(|_| run.grant.evidence.keep_arguments);
        let asked = kept.map_or_else(|| sha256(&self.params).to_string(), str::to_owned);
        let objection = (!capable).then(|| {
            Refusal::new(
                RefusalCode::InvalidRequest,
                "client.capabilities",
                format!("the agent's client does not take `{}`", self.name()),
                "It can declare the capability when it can be asked",
            )
        });
        let call_more = Call {
            target: Asking { server: server.clone(), method: self.method, params: self.params.clone() },
            worst: Amounts::default(),
            objection,
            fields: std::iter::once(confidential("asked", asked))
                .chain(carried.as_deref().map(|model| public("answered_by", model)))
                .collect(),
        };
        match inner.gate.admit_more(run, call, call_more).await {
            Ok(admitted) => Ok(Allowed { admitted: Some(admitted), model: carried }),
            Err(_) if self.method == AskMethod::Elicit => Err(Ok(Bytes::from_static(DECLINED.as_bytes()))),
            Err(refusal) => Err(Err((REJECTED, refusal.sentence()))),
        }
    }

    /// Asks the client of a session, on the stream of the request that it belongs to.
    pub(super) async fn put(&self, run: &RunContext, session: &Session, stream: &EventLog) -> Answered {
        let declined = || Err((rpc::INTERNAL_ERROR, "the agent's client was not asked".to_owned()));
        let Some((number, answer)) = session.question() else { return declined() };
        let message = rpc::asking(Some(&format!("cogward-{number}")), self.name(), &self.params);
        let room = room(run, message.len()).await;
        if !stream.write(&message, Weight::Needed, room).await {
            return declined();
        }
        match tokio::time::timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(answered)) => answered,
            _ => declined(),
        }
    }
}

impl Allowed {
    /// The answer is there.
    pub(super) fn settle(self, answered: &Answered) {
        let Some(admitted) = self.admitted else { return };
        let used = Amounts::default();
        let (upstream_error, result) = match answered {
            Ok(result) => (false, Some(sha256(result))),
            Err(_) => (true, None),
        };
        admitted.settle(&Outcome::Completed { used, estimated: false, upstream_error, result });
    }

    /// The question goes to a client that may answer in a request of its own, or not at all.
    pub(super) fn pass_on(self) {
        if let Some(admitted) = self.admitted {
            let used = Amounts::default();
            admitted.settle(&Outcome::Completed { used, estimated: false, upstream_error: false, result: None });
        }
    }
}

/// Decides about an answer that a client gives without having been asked for it, as the question that it would answer:
/// else a tool server would be told by the agent what policy does not let it ask.
pub(super) async fn unasked(
    inner: &Inner,
    run: &Arc<RunContext>,
    server: &UpstreamName,
    call: First,
    answer: &Bytes,
) -> Result<(), Refusal> {
    for method in would_answer(answer) {
        let call_more = Call {
            target: Asking { server: server.clone(), method, params: answer.clone() },
            worst: Amounts::default(),
            objection: None,
            fields: vec![kept_field(run, "responses", answer), public("unasked", true)],
        };
        let admitted = inner.gate.admit_more(run, call, call_more).await?;
        let (used, result) = (Amounts::default(), Some(sha256(answer)));
        admitted.settle(&Outcome::Completed { used, estimated: false, upstream_error: false, result });
    }
    Ok(())
}

/// The questions that an answer may be one to. What looks like several is decided as each of them, and what looks like
/// none as one to the user.
fn would_answer(answer: &[u8]) -> Vec<AskMethod> {
    let members = Members::read(answer);
    let has =
        |names: &[&str]| members.as_ref().is_some_and(|members| names.iter().any(|name| members.get(name).is_some()));
    let model = has(&["role", "model", "stopReason"]);
    let user = has(&["action"]) || !model;
    let kinds = [(model, AskMethod::Sample), (user, AskMethod::Elicit)];
    kinds.into_iter().filter_map(|(is, method)| is.then_some(method)).collect()
}

/// The number of a question, out of the id that a client answered with.
pub(super) fn number(id: &str) -> Option<u64> {
    id.strip_prefix("\"cogward-")?.strip_suffix('"')?.parse().ok()
}
