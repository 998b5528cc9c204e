//! The stream of operational events: resumable, alive, and told when it has a gap.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    response::{IntoResponse, Sse, sse},
};
use cogward_api::{Event, EventQuery, LAST_EVENT_ID, ProblemCode};
use cogward_journal::{Cursor, Entry, Filter, From, Item, Subscription};
use cogward_model::Timestamp;
use futures_util::stream;
use http::HeaderMap;
use tokio_util::sync::CancellationToken;

use super::{known_tenant, runs};
use crate::{extract::Asked, failure::Failure, plane::App};

/// A comment that keeps proxies from thinking that nobody is there.
const HEARTBEAT: Duration = Duration::from_secs(15);

pub(crate) async fn watch(
    State(app): State<App>,
    Asked(query): Asked<EventQuery>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Failure> {
    // A stream about nothing would be silent for ever.
    if let Some(tenant) = &query.tenant {
        known_tenant(&app, tenant).await?;
    }
    if let Some(run) = query.run {
        runs::found(&app, run).await?;
    }
    let given = match headers.get(LAST_EVENT_ID) {
        Some(value) => {
            Some(value.to_str().map_err(|_| Failure::invalid("`Last-Event-ID` is not a cursor"))?.to_owned())
        }
        None => query.cursor,
    };
    let from = match given {
        None => From::Now,
        Some(text) => {
            let cursor: Cursor = text.parse().map_err(|_| {
                Failure::invalid("the cursor is not one of this stream")
                    .next_step("take the `id` of an event that you got, or leave it out to begin now")
            })?;
            let kept = app.journal.resumable(cursor).await;
            if !kept.map_err(|e| Failure::internal("the events cannot be read", &e))? {
                return Err(Failure::new(
                    ProblemCode::CursorExpired,
                    "the events after this cursor are not kept any more",
                )
                .next_step("read the state again, then watch without a cursor"));
            }
            From::After(cursor)
        }
    };
    let events = app.journal.subscribe(from, Filter { tenant: query.tenant, run: query.run });
    let stream = stream::unfold((events, app.closing.clone()), next);
    Ok(Sse::new(stream).keep_alive(sse::KeepAlive::new().interval(HEARTBEAT)))
}

async fn next(
    (mut events, closing): (Subscription, CancellationToken),
) -> Option<(Result<sse::Event, Infallible>, (Subscription, CancellationToken))> {
    let item = tokio::select! {
        // The plane drains: the client comes back with its cursor.
        () = closing.cancelled() => return None,
        item = events.next() => item,
    };
    let event = match item {
        Ok(Some(Item::Entry(entry))) => view(&entry),
        Ok(Some(Item::Resync { from })) => resync(from),
        Ok(None) => return None,
        Err(error) => {
            tracing::warn!(%error, "the event stream ends");
            return None;
        }
    };
    let frame = sse::Event::default().id(event.cursor.clone()).event(event.kind.clone());
    let frame =
        frame.json_data(&event).unwrap_or_else(|_| sse::Event::default().comment("an event that cannot be shown"));
    Some((Ok(frame), (events, closing)))
}

fn view(entry: &Entry) -> Event {
    let mut data = match &entry.detail {
        serde_json::Value::Object(detail) => detail.clone(),
        _ => serde_json::Map::new(),
    };
    data.insert("severity".to_owned(), entry.severity.as_str().into());
    let agent = data.get("agent").and_then(|a| a.as_str()).and_then(|a| a.parse().ok());
    Event {
        cursor: entry.cursor.to_string(),
        time: entry.time,
        message: message(entry),
        kind: entry.kind.to_string(),
        tenant: entry.tenant.clone(),
        agent,
        run: entry.run,
        data,
    }
}

fn message(entry: &Entry) -> String {
    let words = entry.kind.replace(['.', '_'], " ");
    let what = entry.run.map_or(words.clone(), |run| format!("{words} {run}"));
    let said = |key| entry.detail.get(key).and_then(serde_json::Value::as_str);
    if entry.kind == "sandbox.violation" {
        let told: Vec<&str> = ["layer", "action", "object"].into_iter().filter_map(said).collect();
        let total = entry.detail.get("total").and_then(serde_json::Value::as_u64).unwrap_or_default();
        let (severity, verdict) = (said("severity").unwrap_or_default(), said("verdict").unwrap_or_default());
        return format!("{what}: {} ({severity}, {verdict}, {total} so far)", told.join(" "));
    }
    match said("cause").or_else(|| said("rule")).or_else(|| said("state")) {
        Some(cause) => format!("{what}: {cause}"),
        None => what,
    }
}

/// Events are missing here: what a client knows has to be read again.
fn resync(from: Cursor) -> Event {
    Event {
        cursor: from.to_string(),
        time: Timestamp::default(),
        kind: "stream.resync".to_owned(),
        tenant: None,
        agent: None,
        run: None,
        message: "events are missing here: read the state again".to_owned(),
        data: serde_json::Map::new(),
    }
}
