//! An admitted request to a tool server, from its beginning to its answer.
//!
//! It runs in a task of its own, so an agent that goes away does not take the outcome with it. A request that is
//! answered at once is answered in JSON; one that says something in between, or takes its time, in a stream of events.
//! Whatever a server asks back goes to the client of this request in the way of its era: a session is asked on the
//! stream; a stateless request is answered with what it still needs, and the call waits for the next one.

mod line;

use std::{pin::pin, sync::Arc};

use bytes::Bytes;
use cogward_model::{
    UpstreamName,
    action::{Amounts, Outcome},
    decision::{Refusal, RefusalCode},
};
use futures_util::future::join_all;
use http::{HeaderName, HeaderValue, Response};
use tokio::{sync::oneshot, task::JoinSet};

pub(super) use line::Resume;
use line::{Line, Parted};

use super::{
    answer::{Answer, Shape},
    caller::{Caller, Era},
    catalogue::sha256,
    listing,
    members::{Members, quoted},
    question::{self, Question},
    rejection::Rejection,
    rpc,
    session::TaskOwner,
    state::request_digest,
    upstream::{
        ToolServerClient, UpstreamError,
        exchange::{Ask, ClientCan, Exchange, Peer, Reply, ResultType, Step, UpRequest},
    },
};
use crate::{
    Inner,
    body::AgentBody,
    gate::{Admitted, First, Governed, confidential},
};

/// How much of results is kept sealed in the vault, in bytes; of more there is the digest.
const KEPT_BYTES_MAX: usize = 16 * 1024;
/// How often a stateless server may ask for more within one request of a session.
const ROUNDS_MAX: usize = 16;
/// Questions of one round.
const QUESTIONS_MAX: usize = 16;

/// What is asked of a tool server.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) server: UpstreamName,
    pub(super) method: &'static str,
    /// Its parameters as they were asked for, without `_meta` and without what answers a server's questions.
    pub(super) params: Bytes,
    /// What policy made of them, where it is something else.
    pub(super) changed: Option<Bytes>,
    /// What it is on: the tool, the prompt, the URI, the task.
    pub(super) name: String,
    /// Headers that repeat arguments.
    pub(super) mirrored: Vec<(HeaderName, HeaderValue)>,
    /// What the client brings that answers the server's questions.
    pub(super) more: Option<More>,
    pub(super) shape: Shape,
}

/// Answers to a server's questions, and its state.
#[derive(Debug)]
pub(super) struct More {
    pub(super) responses: Option<Bytes>,
    pub(super) state: Option<String>,
    /// Those of the answers that nobody asked for.
    pub(super) unasked: Vec<Bytes>,
}

impl More {
    /// How much it is, in bytes.
    pub(super) fn len(&self) -> usize {
        self.responses.as_ref().map_or(0, Bytes::len) + self.state.as_ref().map_or(0, String::len)
    }
}

impl Request {
    /// What a request state of it is bound to.
    pub(super) fn digest(&self) -> [u8; 32] {
        request_digest(&[self.server.as_str().as_bytes(), self.method.as_bytes(), self.name.as_bytes(), &self.params])
    }
}

/// How an exchange ended.
enum Ended {
    Result(Reply),
    /// A stateless server needs more, and so does the client's request.
    Needs(Reply),
    Failed(UpstreamError),
    /// The plane does not let it go on.
    Stopped(String),
    /// The plane did not forward it.
    Withheld(Refusal),
    Cut,
    CalledOff,
}

impl From<Parted> for Ended {
    fn from(parted: Parted) -> Self {
        match parted {
            Parted::Cut => Self::Cut,
            Parted::CalledOff => Self::CalledOff,
        }
    }
}

/// Carries out a request; the answer, or the stream that it comes in.
pub(super) async fn relay<A: Governed + Sync + 'static>(
    inner: &Arc<Inner>,
    client: Arc<ToolServerClient>,
    admitted: Admitted<A>,
    caller: Caller,
    request: Request,
) -> Response<AgentBody> {
    let (first, answer) = oneshot::channel();
    let shape = request.shape;
    let line = Line::new(Arc::clone(admitted.run()), caller, shape, first);
    let relay = Relay { inner: Arc::clone(inner), client, request };
    // It is large: in a box it is moved once, and not on every step of the way to its task.
    tokio::spawn(Box::pin(relay.run(admitted, line)));
    answer.await.unwrap_or_else(|_| line::broken())
}

struct Relay {
    inner: Arc<Inner>,
    client: Arc<ToolServerClient>,
    request: Request,
}

impl Relay {
    async fn run<A: Governed + Sync>(mut self, admitted: Admitted<A>, mut line: Line) {
        let more = self.request.more.take();
        let hush = admitted.redacts().then(|| line.run.mcp.quiet.hush(&self.request.server));
        let ended = match self.unasked(&admitted, &mut line, more.as_ref()).await {
            Ok(None) => self.converse(&admitted, &mut line, more).await.unwrap_or_else(Ended::from),
            Ok(Some(refusal)) => Ended::Withheld(refusal),
            Err(parted) => parted.into(),
        };
        let answer = self.settle(admitted, &line, ended).await;
        drop(hush);
        line.deliver(answer).await;
    }

    /// Decides about answers that nobody asked for. With one that may not be given, nothing is forwarded.
    async fn unasked<A: Governed + Sync>(
        &self,
        admitted: &Admitted<A>,
        line: &mut Line,
        more: Option<&More>,
    ) -> Result<Option<Refusal>, Parted> {
        for answer in more.iter().flat_map(|more| &more.unasked) {
            let (inner, run) = (Arc::clone(&self.inner), Arc::clone(&line.run));
            let deciding = question::unasked(&inner, &run, &self.request.server, admitted.first(), answer);
            if let Err(refusal) = line.wait(deciding).await? {
                return Ok(Some(refusal));
            }
        }
        Ok(None)
    }

    async fn converse<A: Governed + Sync>(
        &self,
        admitted: &Admitted<A>,
        line: &mut Line,
        mut more: Option<More>,
    ) -> Result<Ended, Parted> {
        for _ in 0..ROUNDS_MAX {
            let params = with(self.request.changed.as_ref().unwrap_or(&self.request.params), more.as_ref());
            let carried = line.caller.carried.clone();
            let request = UpRequest {
                method: self.request.method,
                params: &params,
                meta: &carried,
                name: Some(&self.request.name),
                mirrored: &self.request.mirrored,
                progress: line.caller.token.is_some(),
                log_level: line.caller.level(),
                who: None,
            };
            let peer = Peer { run: Some(admitted.run().grant.run), can: self.can(line) };
            let place = match line.wait(self.client.place()).await? {
                Ok(place) => place,
                Err(error) => return Ok(Ended::Failed(error)),
            };
            // It waited for its place, and for the disk: what was decided may not be what is there now.
            if let Some(look) = admitted.target().stands(admitted.run())
                && let Err(refusal) = line.wait(look).await?
            {
                return Ok(Ended::Withheld(refusal));
            }
            // Pinned here and not there: an argument is kept twice, before it is waited for and while it is.
            let opening = pin!(self.client.open(admitted, place, peer, request));
            let mut exchange = match line.wait(opening).await? {
                Ok(exchange) => exchange,
                Err(error) => return Ok(Ended::Failed(error)),
            };
            let reply = match self.follow(admitted, line, &mut exchange).await? {
                Ended::Needs(reply) if !line.caller.is_stateless() || self.carries(line, &reply) => reply,
                ended => return Ok(ended),
            };
            more = match Box::pin(self.gather(admitted.first(), line, &reply)).await? {
                Ok(more) => Some(more),
                Err(why) => return Ok(Ended::Stopped(why)),
            };
        }
        Ok(Ended::Stopped("the tool server asks for more without end".to_owned()))
    }

    /// What a server is told that it can ask: the client, and what the plane answers in its place.
    fn can(&self, line: &Line) -> ClientCan {
        let can = line.caller.can;
        let model = line.run.grant.sampling(&self.request.server);
        if model.is_some() { can.with(ClientCan::SAMPLING) } else { can }
    }

    /// Whether the plane answers all that a server needs.
    fn carries(&self, line: &Line, reply: &Reply) -> bool {
        let (run, server, can) = (&line.run, &self.request.server, line.caller.can);
        Needs::read(&reply.result).is_some_and(|needs| {
            !needs.questions.is_empty()
                && needs.questions.iter().all(|(_, question)| question.carried(run, server, can).is_some())
        })
    }

    /// Follows an exchange to its end.
    async fn follow<A: Governed + Sync>(
        &self,
        admitted: &Admitted<A>,
        line: &mut Line,
        exchange: &mut Exchange,
    ) -> Result<Ended, Parted> {
        let call = admitted.first();
        // What a session is asked is asked beside the exchange, and no longer than it lasts.
        let mut asked = JoinSet::new();
        loop {
            let next = pin!(exchange.next());
            match line.wait(next).await? {
                // Where policy takes parts out of the answer, nothing around it is shown and nothing asked back. What is
                // logged or asked may be about another call than the one that it is put down to.
                Ok(Step::Progress(_)) if admitted.redacts() => {}
                Ok(Step::Log(_) | Step::Ask(_)) if line.run.mcp.quiet.is_hushed(&self.request.server) => {}
                Ok(Step::InputRequired(_)) if admitted.redacts() => {
                    return Ok(Ended::Stopped("the tool server asks back, and policy withholds what it says".into()));
                }
                Ok(Step::Progress(params)) => line.progress(&params).await?,
                Ok(Step::Log(params)) => line.log(&params).await?,
                Ok(Step::Away) => line.away(),
                Ok(Step::Ask(ask)) => match &line.caller.era {
                    Era::Session(_) => self.ask(call, line, ask, &mut asked),
                    Era::Stateless => Box::pin(self.park(call, line, ask)).await?,
                },
                Ok(Step::Done(reply)) => return Ok(Ended::Result(reply)),
                Ok(Step::InputRequired(reply)) => return Ok(Ended::Needs(reply)),
                Err(error) => return Ok(Ended::Failed(error)),
            }
        }
    }

    /// Asks a session.
    fn ask(&self, call: First, line: &mut Line, ask: Ask, asked: &mut JoinSet<()>) {
        let Ask { method, params, answer } = ask;
        let Era::Session(session) = &line.caller.era else { return };
        let (session, can) = (Arc::clone(session), line.caller.can);
        let stream = line.stream();
        let (inner, run, server) = (Arc::clone(&self.inner), Arc::clone(&line.run), self.request.server.clone());
        asked.spawn(async move {
            let question = Question { method, params };
            let answered = match question.allow(&inner, &run, &server, call, can).await {
                Ok(allowed) => {
                    let answered = match (question.carry(&inner, &run, &allowed).await, &stream) {
                        (Some(answered), _) => answered,
                        (None, Some(stream)) => question.put(&run, &session, stream).await,
                        (None, None) => Err((rpc::INTERNAL_ERROR, "the agent's client takes no stream".to_owned())),
                    };
                    allowed.settle(&answered);
                    answered
                }
                Err(instead) => instead,
            };
            answer.answer(answered.as_ref().map(AsRef::as_ref).map_err(|(code, text)| (*code, text.as_str())));
        });
    }

    /// Answers a stateless request with what it still needs, and waits for the next one.
    async fn park(&self, call: First, line: &mut Line, ask: Ask) -> Result<(), Parted> {
        let Ask { method, params, answer } = ask;
        let question = Question { method, params };
        let server = &self.request.server;
        let (inner, run) = (Arc::clone(&self.inner), Arc::clone(&line.run));
        let allowed = line.wait(question.allow(&inner, &run, server, call, line.caller.can)).await?;
        let answered = match allowed {
            Ok(allowed) => {
                let answered = match line.wait(question.carry(&inner, &run, &allowed)).await? {
                    Some(answered) => answered,
                    None => line.ask_next(&question, &self.request.digest()).await?,
                };
                allowed.settle(&answered);
                answered
            }
            Err(instead) => instead,
        };
        answer.answer(answered.as_ref().map(AsRef::as_ref).map_err(|(code, text)| (*code, text.as_str())));
        Ok(())
    }

    /// Asks a session for all that a stateless server needs. `Err` says why there is no going on.
    async fn gather(&self, call: First, line: &mut Line, reply: &Reply) -> Result<Result<More, String>, Parted> {
        let Some(needs) = Needs::read(&reply.result) else {
            return Ok(Err("the tool server asks for more in a way that is not MCP".to_owned()));
        };
        if needs.questions.is_empty() {
            return Ok(Ok(More {
                responses: Some(Bytes::from_static(b"{}")),
                state: needs.state,
                unasked: Vec::new(),
            }));
        }
        // What the plane answers itself needs no way to the client.
        let asked = match line.caller.era.clone() {
            _ if self.carries(line, reply) => None,
            Era::Session(session) => match line.stream() {
                Some(stream) => Some((session, stream)),
                None => return Ok(Err("the client takes no stream".to_owned())),
            },
            Era::Stateless => return Err(Parted::CalledOff),
        };
        let (inner, run) = (Arc::clone(&self.inner), Arc::clone(&line.run));
        let (server, can) = (&self.request.server, line.caller.can);
        let (inner, run, asked) = (&inner, &run, &asked);
        let all = needs.questions.iter().map(|(key, question)| async move {
            let answered = match question.allow(inner, run, server, call, can).await {
                Ok(allowed) => {
                    let answered = match (question.carry(inner, run, &allowed).await, asked) {
                        (Some(answered), _) => answered,
                        (None, Some((session, stream))) => question.put(run, session, stream).await,
                        (None, None) => Err((rpc::INTERNAL_ERROR, "the agent's client was not asked".to_owned())),
                    };
                    allowed.settle(&answered);
                    answered
                }
                Err(instead) => instead,
            };
            answered.map(|result| (key, result))
        });
        let mut responses = String::from("{");
        for answered in line.wait(join_all(all)).await? {
            let (key, result) = match answered {
                Ok(answered) => answered,
                Err((_, text)) => {
                    let text = rpc::shown(&text, 300);
                    return Ok(Err(format!("the tool server asked the agent's client, which did not answer: {text}")));
                }
            };
            let comma = if responses.len() > 1 { "," } else { "" };
            let result = std::str::from_utf8(&result).unwrap_or("{}");
            responses.push_str(&format!("{comma}{}:{result}", quoted(key)));
        }
        responses.push('}');
        Ok(Ok(More { responses: Some(responses.into()), state: needs.state, unasked: Vec::new() }))
    }

    /// Settles the call, then says what the agent gets.
    async fn settle<A: Governed + Sync>(&self, admitted: Admitted<A>, line: &Line, ended: Ended) -> Answer {
        let used = admitted.reserved();
        let shape = self.request.shape;
        match ended {
            Ended::Result(reply) if self.request.method == "tasks/get" && Needs::read(&reply.result).is_some() => {
                let answer = Box::pin(self.needs(admitted.first(), line, &reply)).await;
                let result = Some(sha256(&reply.result));
                admitted.settle(&Outcome::Completed { used, estimated: false, upstream_error: false, result });
                answer
            }
            Ended::Result(reply) => self.result(admitted, line, reply),
            Ended::Needs(reply) => {
                let answer = Box::pin(self.needs(admitted.first(), line, &reply)).await;
                let result = Some(sha256(&reply.result));
                admitted.settle(&Outcome::Completed { used, estimated: false, upstream_error: false, result });
                answer
            }
            Ended::Failed(UpstreamError::Rejected { code, message, data, .. }) => {
                let rejection = if admitted.redacts() {
                    Rejection::withheld(code)
                } else {
                    let rejection = Rejection { code, message, data };
                    let (run, server, first) = (&line.run, &self.request.server, admitted.first());
                    Box::pin(rejection.allowed(&self.inner, run, server, first, line.caller.can)).await
                };
                let result = None;
                admitted.settle(&Outcome::Completed { used, estimated: false, upstream_error: true, result });
                rejection.answer(shape)
            }
            Ended::Failed(error) => {
                let (used, effect) = match error.effect_possible() {
                    true => (used, "It may have had its effect: look before you repeat it"),
                    false => (Amounts::default(), "It had no effect and can be tried again later"),
                };
                let quotes = admitted.redacts() && error.effect_possible();
                admitted.settle(&Outcome::Broken { used, cause: error.to_string() });
                let code = RefusalCode::UpstreamUnavailable.as_str();
                // Why an answer cannot be read may quote it.
                let why = if quotes { "its answer is not to be shown".to_owned() } else { error.to_string() };
                let text = format!("cogward permitted this call, but it failed [{code}]: {why}. {effect}.");
                Answer::refused(shape, rpc::INTERNAL_ERROR, &text)
            }
            Ended::Stopped(why) => {
                admitted.settle(&Outcome::Broken { used, cause: why.clone() });
                Answer::refused(shape, rpc::INTERNAL_ERROR, &format!("cogward permitted this call, but {why}."))
            }
            Ended::Withheld(refusal) => {
                admitted.settle(&Outcome::Broken { used: Amounts::default(), cause: refusal.detail.clone() });
                Answer::refused(shape, rpc::INTERNAL_ERROR, &refusal.sentence())
            }
            Ended::CalledOff => {
                admitted.settle(&Outcome::Broken { used, cause: "the agent called it off".to_owned() });
                Answer::refused(shape, rpc::INTERNAL_ERROR, "the call was called off; it may have had its effect")
            }
            Ended::Cut => {
                admitted.settle(&Outcome::Broken { used, cause: "the run was cut".to_owned() });
                Answer::refused(shape, rpc::INTERNAL_ERROR, &listing::cut().sentence())
            }
        }
    }

    fn result<A: Governed + Sync>(&self, admitted: Admitted<A>, line: &Line, reply: Reply) -> Answer {
        let Reply { result, room, result_type, is_error } = reply;
        let used = admitted.reserved();
        let (server, shape) = (&self.request.server, self.request.shape);
        let wrong = match result_type {
            // What a task comes to later is nothing that policy could take parts out of.
            ResultType::Task if line.caller.is_stateless() && !admitted.redacts() => {
                !task_of(&result).is_some_and(|task| {
                    // Whoever asks about it later must be the one who began it.
                    let owner =
                        TaskOwner { server: server.clone(), tool: self.request.name.clone(), call: admitted.first() };
                    line.run.mcp.own_task(&task, owner)
                })
            }
            ResultType::Task | ResultType::Other | ResultType::InputRequired => true,
            ResultType::Absent | ResultType::Complete => false,
        };
        if wrong {
            let cause = format!("the tool server `{server}` answered with a kind of result that was not asked for");
            admitted.settle(&Outcome::Broken { used, cause: cause.clone() });
            return Answer::refused(shape, rpc::INTERNAL_ERROR, &format!("cogward permitted this call, but {cause}."));
        }
        let redacted = admitted.redact(&result);
        let shown = match &redacted {
            Ok(None) => std::str::from_utf8(&result).ok(),
            Ok(Some(redacted)) => Some(redacted.as_str()),
            Err(_) => None,
        };
        let keeps = admitted.run().grant.evidence.keep_results;
        let kept = shown.filter(|text| keeps && text.len() <= KEPT_BYTES_MAX);
        let fields = kept.map(|text| confidential("result_text", text)).into_iter().collect();
        let digest = Some(sha256(&result));
        let outcome = Outcome::Completed { used, estimated: false, upstream_error: is_error, result: digest };
        admitted.settle_with(&outcome, fields);
        let typed = result_type != ResultType::Absent;
        match redacted {
            Ok(None) => Answer::Result { bytes: result, typed, room },
            Ok(Some(redacted)) => Answer::Result { bytes: redacted.into(), typed, room },
            Err(withheld) => {
                let text = format!("cogward let this call take place, but {withheld}.");
                Answer::refused(shape, rpc::INTERNAL_ERROR, &text)
            }
        }
    }

    /// What a stateless client has to bring: only what it can, only what may be asked, under a state of the plane's own.
    async fn needs(&self, call: First, line: &Line, reply: &Reply) -> Answer {
        let shape = self.request.shape;
        let wrong = |why: &str| Answer::refused(shape, rpc::INTERNAL_ERROR, why);
        let Some(needs) = Needs::read(&reply.result) else {
            return wrong("the tool server asks for more in a way that is not MCP");
        };
        for (_, question) in &needs.questions {
            let (run, can) = (&line.run, line.caller.can);
            if question.carried(run, &self.request.server, can).is_some() {
                return wrong(
                    "the tool server asks for the model and for something else at once, which is not carried",
                );
            }
            match question.allow(&self.inner, run, &self.request.server, call, can).await {
                Ok(allowed) => allowed.pass_on(),
                Err(Err((_, text))) => return wrong(&text),
                Err(Ok(_)) => return wrong("the tool server asks the user, which this agent's client cannot"),
            }
        }
        let Some(mut members) = Members::read(&reply.result) else { return wrong("its answer is not a result") };
        // Answers are taken with a state only, so there is one whether the server has one or not.
        let asked = needs.questions.iter().map(|(key, _)| sha256(key.as_bytes())).collect();
        let (run, digest) = (line.run.grant.run, self.request.digest());
        let sealed = line.run.mcp.states.seal(run, &digest, needs.state.as_deref(), asked);
        let Some(sealed) = sealed else { return wrong("the tool server's request state is too long") };
        members.set("requestState", quoted(&sealed));
        Answer::Result { bytes: members.json(), typed: true, room: None }
    }
}

/// What a stateless server needs.
struct Needs {
    questions: Vec<(String, Question)>,
    state: Option<String>,
}

impl Needs {
    fn read(result: &[u8]) -> Option<Self> {
        let members = Members::read(result)?;
        let mut questions = Vec::new();
        if let Some(asked) = members.get("inputRequests") {
            for (key, request) in Members::read(asked.as_bytes())?.iter() {
                questions.push((key.to_owned(), Question::read(request)?));
            }
        }
        let state = match members.get("requestState") {
            Some(_) => Some(members.text("requestState")?),
            None => None,
        };
        let some = state.is_some() || !questions.is_empty();
        (some && questions.len() <= QUESTIONS_MAX).then_some(Self { questions, state })
    }
}

/// Parameters, with what answers the server's questions.
fn with(params: &Bytes, more: Option<&More>) -> Bytes {
    let Some((more, mut members)) = more.and_then(|more| Some((more, Members::read(params)?))) else {
        return params.clone();
    };
    if let Some(responses) = more.responses.as_deref().and_then(|responses| std::str::from_utf8(responses).ok()) {
        members.set("inputResponses", responses);
    }
    if let Some(state) = &more.state {
        members.set("requestState", quoted(state));
    }
    members.json()
}

/// The id of the task that a result is about.
fn task_of(result: &[u8]) -> Option<String> {
    let members = Members::read(result)?;
    members.text("taskId").or_else(|| Members::read(members.get("task")?.as_bytes())?.text("taskId"))
}
