//! Who asks: the client of an agent, as one request of it shows it.

use std::sync::Arc;

use http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::value::RawValue;

use cogward_model::event::Field;

use super::{
    call::kept_field,
    can, rpc,
    session::Session,
    upstream::exchange::{ClientCan, LogLevel},
};
use crate::run::RunContext;

/// Which era a request is of.
#[derive(Debug, Clone)]
pub(super) enum Era {
    /// With a session.
    Session(Arc<Session>),
    /// Each request for itself.
    Stateless,
}

/// One request of a client, but for what it asks.
#[derive(Debug)]
pub(super) struct Caller {
    /// The request's id.
    pub(super) id: Box<RawValue>,
    pub(super) era: Era,
    /// What can be asked of the client while the request lasts.
    pub(super) can: ClientCan,
    /// Whether it takes a stream of events for an answer.
    pub(super) streams: bool,
    /// What its progress is told under.
    pub(super) token: Option<Box<RawValue>>,
    /// How much it wants to hear. In the era with sessions, the session knows.
    level: Option<LogLevel>,
    /// Members of its `_meta` that go on.
    pub(super) carried: String,
}

/// The parts of `_meta` that matter here.
#[derive(Debug, Default, Deserialize)]
struct Meta<'a> {
    #[serde(borrow, default, rename = "progressToken")]
    token: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/logLevel")]
    level: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/clientCapabilities")]
    capabilities: Option<&'a RawValue>,
}

impl Caller {
    /// Reads what a request says of its client. `Err` says what is wrong with it.
    pub(super) fn of(
        id: &RawValue,
        era: Era,
        meta: Option<&RawValue>,
        headers: &HeaderMap,
    ) -> Result<Self, &'static str> {
        let streams = takes_streams(headers);
        let said = match meta.map(|meta| serde_json::from_str::<Meta<'_>>(meta.get())) {
            None => Meta::default(),
            Some(Ok(said)) => said,
            Some(Err(_)) => return Err("`_meta` is not an object as the revision has it"),
        };
        let token = said.token.filter(|token| token.get() != "null");
        if token.is_some_and(|token| !rpc::is_id(token.get())) {
            return Err("`progressToken` is not a text or an integer, or too long");
        }
        let (can, level) = match &era {
            Era::Session(session) => (session.agreed.can, None),
            Era::Stateless => {
                let can = said.capabilities.map(|all| can::declared(all.get())).unwrap_or_default();
                let level = said.level.as_deref().map(level).transpose()?;
                (can, level)
            }
        };
        // Without a stream there is no way to ask a client of the older era.
        let askable = streams || matches!(era, Era::Stateless);
        Ok(Self {
            id: id.to_owned(),
            can: if askable { can } else { ClientCan::NONE },
            streams,
            token: token.filter(|_| streams).map(ToOwned::to_owned),
            level,
            carried: can::carried(meta.map(RawValue::get)),
            era,
        })
    }

    /// How much it wants to hear of what servers log; `None` when nothing was said.
    pub(super) fn level(&self) -> Option<LogLevel> {
        match &self.era {
            Era::Session(session) => session.level(),
            Era::Stateless => self.level,
        }
    }

    /// What of its `_meta` goes on, for the record. It is no part of what is approved: a call that is made again has another
    /// place in its trace.
    pub(super) fn trace(&self, run: &RunContext) -> Option<Field> {
        let told = (!self.carried.is_empty()).then(|| format!("{{{}}}", self.carried))?;
        Some(kept_field(run, "trace", told.as_bytes()))
    }

    pub(super) fn is_stateless(&self) -> bool {
        matches!(self.era, Era::Stateless)
    }

    /// The code that says that a resource or the like is not there: each era has its own.
    pub(super) fn not_found(&self) -> i64 {
        if self.is_stateless() { rpc::INVALID_PARAMS } else { rpc::NOT_FOUND }
    }
}

/// Reads a level as MCP writes it.
pub(super) fn level(text: &str) -> Result<LogLevel, &'static str> {
    LogLevel::ALL.into_iter().find(|level| level.as_str() == text).ok_or("the level is none of RFC 5424")
}

/// Whether a client takes a stream of events. One that says nothing takes JSON only.
pub(super) fn takes_streams(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = accepted.flat_map(|value| value.split(',')).filter_map(|kind| kind.split(';').next());
    kinds.any(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
}
