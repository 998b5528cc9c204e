//! Runs: start, look, command.

use std::{
    io::{Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
};

use axum::{
    Json as Answer,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use cogward_api::{
    LogQuery, LogStream, Operation, OperationState, Page, PageQuery, ProblemCode, Run, RunQuery, RunStart,
};
use cogward_engine::{Claim, Command, CommandError, Order, Outside, StartError, StartRun};
use cogward_gateway::telemetry;
use cogward_model::{
    RunId,
    limits::RUN_LOG_BYTES_MAX,
    outside::{OUTSIDE_USERS, OutsideClient},
};
use cogward_store::{Noun, RunFilter, RunRow, StoreError};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use serde::Deserialize;

use super::{
    bounded_reason, files, operations, page_of,
    run_view::{RunViews, nofollow},
};
use crate::{
    extract::{Asked, Caller, JSON_BYTES_MAX, Json, Params, object, read},
    failure::Failure,
    idempotency,
    plane::{App, Plane},
};

pub(crate) async fn found(plane: &Plane, run: RunId) -> Result<RunRow, Failure> {
    plane.store.run(run).await?.ok_or_else(|| Failure::missing("run", run))
}

pub(crate) async fn list(State(app): State<App>, Asked(query): Asked<RunQuery>) -> Result<Answer<Page<Run>>, Failure> {
    let RunQuery { tenant, agent, state, limit, cursor } = query;
    let page = page_of(&PageQuery { limit, cursor });
    let rows = app.store.runs(&RunFilter { tenant, agent, state }, &page).await?;
    let mut views = RunViews::new(&app);
    let mut items = Vec::with_capacity(rows.items.len());
    for row in rows.items {
        items.push(views.view(row).await?);
    }
    Ok(Answer(Page { items, next_cursor: rows.next }))
}

pub(crate) async fn show(State(app): State<App>, Params(run): Params<RunId>) -> Result<Answer<Run>, Failure> {
    let row = found(&app, run).await?;
    Ok(Answer(RunViews::new(&app).whole(row).await?))
}

pub(crate) async fn start(
    State(app): State<App>,
    caller: Caller,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Json<RunStart>,
) -> Result<impl IntoResponse, Failure> {
    let claim = idempotency::claim(&caller, &headers, &method, &uri, &body.bytes)?;
    let RunStart { tenant, agent, version, input, inputs, as_user, outside, reason } = body.value;
    bounded_reason(reason.as_deref())?;
    if as_user.as_ref().is_some_and(|user| user.trim().is_empty() || user.chars().any(char::is_control)) {
        return Err(Failure::invalid("`as_user` has 1 to 256 bytes and no control characters"));
    }
    if as_user.as_ref().is_some_and(|user| user.starts_with(OUTSIDE_USERS)) {
        return Err(Failure::invalid(format!("users that begin with `{OUTSIDE_USERS}` are those of tokens"))
            .rule("as_user")
            .next_step("start the run for an outside client: its token says who it is for"));
    }
    let as_user = match &outside {
        Some(_) if as_user.is_some() => {
            return Err(Failure::invalid("a client outside acts for the subject of its tokens: leave `as_user` out"));
        }
        Some(client) => {
            outside_client(client)?;
            client.user()
        }
        None => as_user,
    };
    let run = match idempotency::earlier_command(&app, claim.as_ref()).await? {
        Some(earlier) => earlier.run,
        None => {
            let inputs = files::uploaded(&app, &tenant, &agent, inputs).await?;
            let request = StartRun {
                tenant,
                agent,
                version,
                input: input.unwrap_or_default().into_bytes(),
                inputs,
                as_user,
                actor: caller.0.name.clone(),
                operator: Some(caller.0.id),
                reason,
                claim: claim.clone(),
                outside: outside.map(|client| Outside { client, by_itself: false }),
            };
            match app.engine.start_run(request).await {
                Ok(started) => started.run,
                Err(StartError::Store(StoreError::Conflict { noun: Noun::IdempotencyKey, .. })) => {
                    again(&app, claim.as_ref()).await?.run
                }
                Err(error) => return Err(error.into()),
            }
        }
    };
    let row = found(&app, run).await?;
    let location = cogward_api::paths::run(run);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Answer(RunViews::new(&app).view(row).await?)))
}

/// A client is named as its tokens name it.
fn outside_client(client: &OutsideClient) -> Result<(), Failure> {
    let plain = |text: &str| (1..=200).contains(&text.len()) && !text.chars().any(char::is_control);
    if plain(&client.client) && plain(&client.subject) {
        return Ok(());
    }
    Err(Failure::invalid("a client and a subject have 1 to 200 bytes and no control characters").rule("outside"))
}

/// The command that another request made under the same key at the same time.
async fn again(plane: &Plane, claim: Option<&Claim>) -> Result<idempotency::Commanded, Failure> {
    let earlier = idempotency::earlier_command(plane, claim).await?;
    earlier.ok_or_else(|| Failure::new(ProblemCode::IdempotencyConflict, "the idempotency key is in use"))
}

pub(crate) async fn suspend(
    state: State<App>,
    caller: Caller,
    run: Params<RunId>,
    request: Request,
) -> Result<Response, Failure> {
    command(state, caller, run, request, Command::Suspend).await
}

pub(crate) async fn resume(
    state: State<App>,
    caller: Caller,
    run: Params<RunId>,
    request: Request,
) -> Result<Response, Failure> {
    command(state, caller, run, request, Command::Resume).await
}

pub(crate) async fn cancel(
    state: State<App>,
    caller: Caller,
    run: Params<RunId>,
    request: Request,
) -> Result<Response, Failure> {
    command(state, caller, run, request, Command::Cancel).await
}

pub(crate) async fn kill(
    state: State<App>,
    caller: Caller,
    run: Params<RunId>,
    request: Request,
) -> Result<Response, Failure> {
    command(state, caller, run, request, Command::Kill).await
}

/// A reason as it is asked for; without one the refusal is of its own kind.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MaybeReason {
    #[serde(default)]
    pub(crate) reason: Option<String>,
}

/// The reason of a command, which must say something.
pub(crate) fn given_reason(reason: Option<String>) -> Result<String, Failure> {
    let reason = reason.filter(|reason| !reason.trim().is_empty()).ok_or_else(|| {
        Failure::new(ProblemCode::ReasonRequired, "the command changes state and gives no reason")
            .next_step("say why: `--reason \"...\"`, or `reason` in the request")
    })?;
    bounded_reason(Some(&reason))?;
    Ok(reason)
}

async fn command(
    State(app): State<App>,
    caller: Caller,
    Params(run): Params<RunId>,
    request: Request,
    command: Command,
) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let (reason, bytes) = if is_json(&parts.headers)? {
        let bytes = read(body, JSON_BYTES_MAX).await?;
        let given: MaybeReason = object(&bytes)?;
        (given.reason, bytes)
    } else {
        (None, read(body, 0).await.map_err(|_| unsupported())?)
    };
    let reason = given_reason(reason)?;
    let claim = idempotency::claim(&caller, &parts.headers, &parts.method, &parts.uri, &bytes)?;
    let operation = match idempotency::earlier_command(&app, claim.as_ref()).await? {
        Some(earlier) => earlier.operation,
        None => {
            let order = Order {
                actor: caller.0.name.clone(),
                operator: Some(caller.0.id),
                reason: Some(reason),
                claim: claim.clone(),
            };
            match app.engine.command(run, command, order).await {
                Ok(receipt) => receipt.operation,
                Err(error) => {
                    // The same command under the same key may have been faster: then its answer is ours.
                    let same =
                        matches!(error, CommandError::Transition(_) | CommandError::Store(StoreError::Conflict { .. }));
                    match idempotency::earlier_command(&app, claim.as_ref()).await? {
                        Some(earlier) if same => earlier.operation,
                        _ => return Err(error.into()),
                    }
                }
            }
        }
    };
    let operation: Operation = operations::read(&app, operation).await?;
    let status = if operation.state == OperationState::Done { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Answer(operation)).into_response())
}

fn unsupported() -> Failure {
    Failure::new(ProblemCode::UnsupportedMediaType, "the body must be application/json")
}

/// Whether there is a JSON body; anything else that has a type is refused.
fn is_json(headers: &HeaderMap) -> Result<bool, Failure> {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return Ok(false) };
    let kind = kind.to_str().unwrap_or("").split(';').next().unwrap_or("").trim();
    if kind.eq_ignore_ascii_case("application/json") { Ok(true) } else { Err(unsupported()) }
}

pub(crate) async fn telemetry(State(app): State<App>, Params(run): Params<RunId>) -> Result<Response, Failure> {
    found(&app, run).await?;
    let path = app.files.dir(run).join(telemetry::FILE);
    let unread = "the run's telemetry cannot be read";
    let lines = match tokio::task::spawn_blocking(move || telemetry::lines(&path)).await {
        Ok(Ok(lines)) => lines,
        Ok(Err(error)) => return Err(Failure::internal(unread, &error)),
        Err(error) => return Err(Failure::internal(unread, &error)),
    };
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((headers, Body::from(lines)).into_response())
}

pub(crate) async fn logs(
    State(app): State<App>,
    Params(run): Params<RunId>,
    Asked(query): Asked<LogQuery>,
) -> Result<Response, Failure> {
    found(&app, run).await?;
    let name = match query.stream {
        LogStream::Stdout => "stdout.log",
        LogStream::Stderr => "stderr.log",
    };
    let path = app.files.dir(run).join(name);
    let offset = query.offset.unwrap_or(0);
    let read = tokio::task::spawn_blocking(move || {
        let mut file = std::fs::OpenOptions::new().read(true).custom_flags(nofollow()).open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(RUN_LOG_BYTES_MAX as u64).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    });
    let bytes = match read.await {
        Ok(Ok(bytes)) => bytes,
        // A run that has not been launched yet has said nothing.
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Ok(Err(error)) => return Err(Failure::internal("the run's log cannot be read", &error)),
        Err(error) => return Err(Failure::internal("the run's log cannot be read", &error)),
    };
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    Ok((headers, Body::from(bytes)).into_response())
}
