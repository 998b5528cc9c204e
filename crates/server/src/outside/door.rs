//! The listener for clients outside: who asks, for what, and whether it is let in.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Request, State},
    response::Response,
};
use cogward_identity::access::{self, Checked, Expected, Holder, Presented, Refused, Replay, SKEW_SECONDS};
use cogward_model::{
    TenantName, UpstreamName,
    outside::{OutsideClient, SCOPE},
};
use http::{HeaderMap, HeaderName, Method, StatusCode, header, request::Parts};
use tokio::{sync::Semaphore, time::Instant};

use super::{
    answers::{self, Told},
    attach::{self, Manifests, NotAttached},
    boxes::OutsideRuns,
    counts::Refusals,
    issuers::{Issuers, Trust},
    pace::Paces,
    place::{Asked, Base, Place},
    relay,
};
use crate::{
    http::Peer,
    plane::{App, Plane},
};

/// Refusals that wait at once.
const WAITING_MAX: usize = 256;
/// The header of a proof.
const DPOP: HeaderName = HeaderName::from_static("dpop");

/// The door, as long as the plane is up.
pub(crate) struct Door {
    app: App,
    base: Base,
    address: std::net::SocketAddr,
    runs: Arc<OutsideRuns>,
    issuers: Arc<Issuers>,
    refusals: Arc<Refusals>,
    replay: Replay,
    paces: Paces,
    /// Refusals that wait for their turn. More are answered at once: they must not take every connection that there is.
    waiting: Semaphore,
    manifests: Manifests,
    /// Proofs from before are not taken, and nobody is let in until those that were ahead of time are over: an earlier
    /// plane may have seen them, and its memory is gone. Seconds.
    since: u64,
}

impl Ends {
    fn answer(answer: Response) -> Self {
        Self::Answer(Box::new(answer))
    }

    fn refused(rule: &'static str, issuer: Option<UpstreamName>, answer: Response) -> Self {
        Self::Refused { rule, issuer, answer: Box::new(answer) }
    }
}

/// The credential of a request: whether it says `DPoP`, the token, and the proof.
type Credential<'a> = (bool, &'a str, Option<&'a str>);

/// Why a request ends at the door.
enum Ends {
    /// Not let in: counted, and answered at the pace of its address.
    Refused { rule: &'static str, issuer: Option<UpstreamName>, answer: Box<Response> },
    /// Something else.
    Answer(Box<Response>),
}

impl Door {
    pub(crate) fn new(app: App, base: Base, address: std::net::SocketAddr, first_start: bool) -> Arc<Self> {
        let started = app.started.unix_micros() / 1_000_000;
        let since = if first_start { 0 } else { started + SKEW_SECONDS + 1 };
        Arc::new(Self {
            runs: Arc::clone(&app.outside_runs),
            issuers: Arc::clone(&app.issuers),
            refusals: Arc::clone(&app.refusals),
            app,
            base,
            address,
            replay: Replay::default(),
            paces: Paces::default(),
            waiting: Semaphore::new(WAITING_MAX),
            manifests: Manifests::default(),
            since,
        })
    }

    fn now(&self) -> u64 {
        self.app.clock.now().unix_micros() / 1_000_000
    }

    fn told(&self, tenant: &TenantName) -> Told {
        let (issuers, bearer) = self.issuers.told(tenant);
        Told { issuers, bearer }
    }
}

/// One handler for everything: what is there depends on names, and is told to nobody.
pub(crate) fn router(door: Arc<Door>) -> Router {
    Router::new().fallback(serve).with_state(door)
}

async fn serve(State(door): State<Arc<Door>>, Extension(peer): Extension<Peer>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let ends = match ask(&door, &head) {
        Ok(place) => match enter(&door, &place, head, body).await {
            Ok(answer) => return answer,
            Err(ends) => (Some(place.tenant), ends),
        },
        Err(ends) => (None, ends),
    };
    match ends {
        (_, Ends::Answer(answer)) => *answer,
        (tenant, Ends::Refused { rule, issuer, answer }) => {
            door.refuse(peer.0.ip(), tenant, rule, issuer).await;
            *answer
        }
    }
}

impl Door {
    /// Counts a refusal, and waits for its turn.
    async fn refuse(&self, peer: IpAddr, tenant: Option<TenantName>, rule: &'static str, issuer: Option<UpstreamName>) {
        // A tenant without issuers may be none: it has no log of its own that a stranger could write to.
        let tenant = tenant.filter(|tenant| self.issuers.knows(tenant)).unwrap_or_else(TenantName::default_tenant);
        self.refusals.add((tenant, rule, issuer));
        tracing::debug!(rule, "a client outside was refused");
        let now = Instant::now();
        let at = self.paces.next(peer, now);
        if at > now
            && let Ok(_place) = self.waiting.try_acquire()
        {
            tokio::select! {
                () = self.app.closing.cancelled() => {}
                () = tokio::time::sleep_until(at) => {}
            }
        }
    }
}

/// What is asked for; what needs no client is answered here.
fn ask(door: &Door, head: &Parts) -> Result<Place, Ends> {
    if !door.app.is_accepting() || door.now() < door.since {
        let why = "the plane is starting or stopping";
        return Err(Ends::answer(answers::refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", why)));
    }
    if let Err(rule) = from_a_program(door, head) {
        let answer = answers::refusal(StatusCode::FORBIDDEN, "forbidden", "this is not the address of this endpoint");
        return Err(Ends::refused(rule, None, answer));
    }
    match door.base.asked(head.uri.path()) {
        None => Err(Ends::answer(answers::refusal(StatusCode::NOT_FOUND, "not_found", "there is no such path"))),
        Some(Asked::Metadata(place)) if head.method == Method::GET => {
            Err(Ends::answer(answers::metadata(&place, &door.told(&place.tenant))))
        }
        Some(Asked::Endpoint(place)) if [Method::GET, Method::POST, Method::DELETE].contains(&head.method) => Ok(place),
        Some(_) => {
            let answer = answers::refusal(StatusCode::METHOD_NOT_ALLOWED, "invalid_request", "not with this method");
            Err(Ends::answer(answer))
        }
    }
}

/// Refuses what a page in a browser could send: another name that was pointed here, or another origin. No answer has a
/// header that lets a page read it.
fn from_a_program(door: &Door, head: &Parts) -> Result<(), &'static str> {
    let own = door.address.to_string();
    // What ends TLS may send the host that it was asked for, or the one that it asks.
    let ours = |host: &str| host == door.base.authority || host == own;
    let host = match one(&head.headers, &header::HOST) {
        Ok(host) => host,
        Err(()) => return Err("http.host"),
    };
    let authority = head.uri.authority().map(http::uri::Authority::as_str);
    if !host.or(authority).is_some_and(ours) || !authority.is_none_or(ours) {
        return Err("http.host");
    }
    match one(&head.headers, &header::ORIGIN) {
        Ok(None) => Ok(()),
        Ok(Some(origin)) if origin == door.base.origin => Ok(()),
        _ => Err("http.origin"),
    }
}

/// The one value of a header.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| ()),
        _ => Err(()),
    }
}

/// Lets a client in, or says why not.
async fn enter(door: &Door, place: &Place, head: Parts, body: Body) -> Result<Response, Ends> {
    let told = || door.told(&place.tenant);
    let unauthorized = |refused: Refused, issuer: Option<&UpstreamName>| {
        let answer = answers::unauthorized(place, &told(), Some(refused.oauth_error()));
        Ends::refused(refused.rule, issuer.cloned(), answer)
    };
    let Some((scheme_is_dpop, token, proof)) =
        credential(&head.headers).map_err(|refused| unauthorized(refused, None))?
    else {
        // Not a refusal: this is how a client learns where to go.
        return Err(Ends::answer(answers::unauthorized(place, &told(), None)));
    };
    let issuer = access::peek_issuer(token).map_err(|refused| unauthorized(refused, None))?;
    let Some(trust) = door.issuers.find(&place.tenant, &issuer) else {
        return Err(unauthorized(Refused { part: access::Part::Token, rule: "token.issuer" }, None));
    };
    let name = &trust.config.name;
    let presented = Presented { scheme_is_dpop, proof, method: head.method.as_str(), uri: &place.resource };
    let checked = match checked(door, place, &trust, token, presented).await {
        Ok(checked) => checked,
        Err(Some(refused)) => return Err(unauthorized(refused, Some(name))),
        Err(None) => {
            let why = "the keys of the issuer cannot be had";
            let answer = answers::refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", why);
            return Err(Ends::refused("issuer.keys", Some(name.clone()), answer));
        }
    };
    let refuse = |rule, answer| Ends::refused(rule, Some(name.clone()), answer);
    if !checked.holder().scopes.iter().any(|scope| scope == SCOPE) {
        return Err(refuse("token.scope_missing", answers::insufficient_scope(place, &told())));
    }
    let Holder { client, subject, binding, .. } = checked.holder().clone();
    let client = OutsideClient { issuer: name.clone(), client, subject, binding };
    let version = admitted(door, place, &client).await.map_err(|not| not_attached(not, &refuse))?;
    // Only of those who may come in: what is remembered of proofs is bounded for all.
    let part = format!("{}/{name}", place.tenant);
    let holder = match checked.use_up(&door.replay, &part, door.now()) {
        Ok(holder) => holder,
        Err(refused) if refused.rule == "proof.room" => {
            let why = "more requests than can be told apart came lately";
            let answer = answers::refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", why);
            return Err(refuse(refused.rule, answer));
        }
        Err(refused) => return Err(unauthorized(refused, Some(name))),
    };
    let using = attach::attach(&door.app, &door.runs, place, &version, &client).await;
    let using = using.map_err(|not| not_attached(not, &refuse))?;
    attach::note_token(&door.app, &using, holder.token_id, holder.expires).map_err(|not| not_attached(not, &refuse))?;
    let until = relay::Until {
        expires_in: Duration::from_secs(holder.expires.saturating_sub(door.now())),
        trusted: trust.ended.clone(),
        closing: door.app.closing.clone(),
    };
    // Trust that was withdrawn meanwhile is withdrawn for this request as well.
    if trust.ended.is_cancelled() {
        let refused = Refused { part: access::Part::Token, rule: "token.issuer" };
        return Err(unauthorized(refused, Some(name)));
    }
    relay::relay(using, head, body, until).await.map_err(|why| Ends::answer(relay::broken_off(&why)))
}

/// The credential of a request, in the one place where one may be.
fn credential(headers: &HeaderMap) -> Result<Option<Credential<'_>>, Refused> {
    let form = Refused { part: access::Part::Token, rule: "token.form" };
    let Some(value) = one(headers, &header::AUTHORIZATION).map_err(|()| form)? else { return Ok(None) };
    let (scheme, token) = value.split_once(' ').ok_or(form)?;
    let scheme_is_dpop = scheme.eq_ignore_ascii_case("dpop");
    if !scheme_is_dpop && !scheme.eq_ignore_ascii_case("bearer") {
        return Err(form);
    }
    let proof = one(headers, &DPOP).map_err(|()| Refused { part: access::Part::Proof, rule: "proof.form" })?;
    Ok(Some((scheme_is_dpop, token, proof)))
}

/// Who it is; `Err(None)` where the keys cannot be had.
async fn checked(
    door: &Door,
    place: &Place,
    trust: &Trust,
    token: &str,
    presented: Presented<'_>,
) -> Result<Checked, Option<Refused>> {
    let mut keys = trust.keys(false).await.ok_or(None)?;
    for again in [false, true] {
        let expected = Expected {
            issuer: &trust.config.issuer,
            resource: &place.resource,
            keys: &keys,
            bearer: trust.config.bearer_in_development,
            now: door.now(),
            since: door.since,
        };
        match expected.check(token, presented) {
            Err(refused) if refused.rule == "token.kid" && !again => {
                let newer = trust.keys(true).await.ok_or(None)?;
                if Arc::ptr_eq(&newer, &keys) {
                    return Err(Some(refused));
                }
                keys = newer;
            }
            checked => return checked.map_err(Some),
        }
    }
    Err(None)
}

/// The version that a client may act as.
async fn admitted(
    door: &Door,
    place: &Place,
    client: &OutsideClient,
) -> Result<cogward_model::VersionLabel, NotAttached> {
    let plane: &Plane = &door.app;
    let newest = door.manifests.newest(plane, place).await.map_err(NotAttached::Unavailable)?;
    let Some(opened) = newest.filter(|opened| opened.admits(client)) else {
        return Err(NotAttached::Refused("spec.access.outside"));
    };
    if opened.tier != cogward_model::manifest::Tier::Development {
        return Err(NotAttached::Refused("outside.tier"));
    }
    Ok(opened.version.clone())
}

fn not_attached(not: NotAttached, refuse: &impl Fn(&'static str, Response) -> Ends) -> Ends {
    match not {
        NotAttached::Refused(rule) => refuse(rule, answers::access_denied()),
        NotAttached::Stopped => {
            let why = "the last run of this client was stopped; an operator has to start the next one";
            refuse("outside.stopped", answers::refusal(StatusCode::FORBIDDEN, "stopped", why))
        }
        NotAttached::Full => {
            let why = "as many clients are let in as may be";
            refuse("limits.outsideRuns", answers::refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", why))
        }
        NotAttached::Unavailable(why) => {
            tracing::warn!(why, "there is no run for a client outside");
            let why = "there is no run for this client now";
            Ends::answer(answers::refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", why))
        }
    }
}
