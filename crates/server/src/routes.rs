//! A handler for every row of the table of routes, and none beside it.

use std::{panic::AssertUnwindSafe, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, get, post, put},
};
use cogward_api::{
    Problem, ProblemCode, Route,
    routes::{self as table, RequestBody, ResponseBody},
};
use futures_util::FutureExt;

use crate::{
    auth, commands,
    evidence_failed::{self, Watched},
    failure::{self, Failure},
    handlers::{
        agents, approvals, credentials, events, evidence, evidence_query, files, floors, holds, issuers, keys, logs,
        memories, operations, operators, plane as planes, policies, policy_diff, policy_replay, providers, redactions,
        runs, tenants, timestamps, tool_servers, tools,
    },
    plane::App,
};

/// A request that is answered at once takes no longer.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Every row with its handler.
pub(crate) fn handlers() -> Vec<(&'static Route, MethodRouter<App>)> {
    vec![
        (&table::LIST_TENANTS, get(tenants::list)),
        (&table::CREATE_TENANT, post(tenants::create)),
        (&table::LIST_FLOORS, get(floors::of_plane)),
        (&table::PUT_FLOOR, put(floors::put_on_plane)),
        (&table::LIST_TENANT_FLOORS, get(floors::of_tenant)),
        (&table::PUT_TENANT_FLOOR, put(floors::put_in_tenant)),
        (&table::LIST_SHORTFALLS, get(floors::shortfalls)),
        (&table::LIST_AGENTS, get(agents::list)),
        (&table::REGISTER_AGENT, post(agents::register)),
        (&table::GET_AGENT, get(agents::show)),
        (&table::LIST_VERSIONS, get(agents::versions)),
        (&table::GET_VERSION, get(agents::version)),
        (&table::GET_WARM, get(agents::warm)),
        (&table::PUT_WARM, put(agents::set_warm)),
        (&table::LIST_TOOL_SERVERS, get(tool_servers::list)),
        (&table::PUT_TOOL_SERVER, put(tool_servers::put)),
        (&table::GET_TOOL_SERVER, get(tool_servers::show)),
        (&table::DELETE_TOOL_SERVER, delete(tool_servers::remove)),
        (&table::GET_MEMORY, get(memories::usage)),
        (&table::FORGET_MEMORY, post(memories::forget)),
        (&table::LIST_TOOLS, get(tools::list)),
        (&table::GET_TOOL, get(tools::show)),
        (&table::GET_TOOL_DIFF, get(tools::difference)),
        (&table::APPROVE_TOOL, post(tools::approve)),
        (&table::BLOCK_TOOL, post(tools::block)),
        (&table::LABEL_TOOL, put(tools::label)),
        (&table::LIST_PROVIDERS, get(providers::list)),
        (&table::PUT_PROVIDER, put(providers::put)),
        (&table::GET_PROVIDER, get(providers::show)),
        (&table::LIST_CREDENTIALS, get(credentials::list)),
        (&table::PUT_CREDENTIAL, put(credentials::put)),
        (&table::GET_CREDENTIAL, get(credentials::show)),
        (&table::DELETE_CREDENTIAL, delete(credentials::remove)),
        (&table::LIST_ISSUERS, get(issuers::list)),
        (&table::PUT_ISSUER, put(issuers::put)),
        (&table::GET_ISSUER, get(issuers::show)),
        (&table::DELETE_ISSUER, delete(issuers::remove)),
        (&table::LIST_RUNS, get(runs::list)),
        (&table::START_RUN, post(runs::start)),
        (&table::GET_RUN, get(runs::show)),
        (&table::UPLOAD_INPUT, post(files::receive)),
        (&table::LIST_ARTIFACTS, get(files::list)),
        (&table::GET_ARTIFACT, get(files::download)),
        (&table::GET_RUN_LOGS, get(runs::logs)),
        (&table::GET_RUN_TELEMETRY, get(runs::telemetry)),
        (&table::SUSPEND_RUN, post(runs::suspend)),
        (&table::RESUME_RUN, post(runs::resume)),
        (&table::CANCEL_RUN, post(runs::cancel)),
        (&table::KILL_RUN, post(runs::kill)),
        (&table::GET_RUN_EVIDENCE, get(evidence::of_run)),
        (&table::GET_OPERATION, get(operations::show)),
        (&table::LIST_REDACTIONS, get(redactions::list)),
        (&table::REQUEST_REDACTION, post(redactions::request)),
        (&table::GET_REDACTION, get(redactions::show)),
        (&table::APPROVE_REDACTION, post(redactions::approve)),
        (&table::DENY_REDACTION, post(redactions::deny)),
        (&table::EXECUTE_REDACTION, post(redactions::execute)),
        (&table::GET_ERASURE_RECEIPT, get(redactions::receipt)),
        (&table::APPLY_RETENTION, post(redactions::retain)),
        (&table::GET_EVIDENCE_KEYS, get(keys::show)),
        (&table::ROTATE_EVIDENCE_KEY, post(keys::rotate)),
        (&table::REVOKE_EVIDENCE_KEY, post(keys::revoke)),
        (&table::LIST_HOLDS, get(holds::list)),
        (&table::REQUEST_HOLD, post(holds::request)),
        (&table::GET_HOLD, get(holds::show)),
        (&table::PLACE_HOLD, post(holds::place)),
        (&table::RELEASE_HOLD, post(holds::release)),
        (&table::EXPORT_EVIDENCE, get(evidence_query::export)),
        (&table::SEARCH_EVIDENCE, get(evidence_query::search)),
        (&table::PROVE_LEAF, get(evidence_query::prove_leaf)),
        (&table::PROVE_CONSISTENCY, get(evidence_query::prove_consistency)),
        (&table::PROVE_RUN, get(evidence_query::prove_run)),
        (&table::COMMIT_SAMPLE, get(evidence_query::commit_sample)),
        (&table::REINDEX_EVIDENCE, post(evidence_query::reindex)),
        (&table::GET_CHECKPOINT, get(evidence::checkpoint)),
        (&table::GET_LOG_FILE, get(logs::of_tenant)),
        (&table::GET_PLANE_LOG_FILE, get(logs::of_plane)),
        (&table::GET_EVIDENCE_STATUS, get(logs::status)),
        (&table::GET_WITNESS_REQUEST, get(logs::witness_request)),
        (&table::ADD_COSIGNATURES, post(logs::add_cosignatures)),
        (&table::MAKE_TIMESTAMP_REQUEST, post(timestamps::request)),
        (&table::ADD_TIMESTAMP, post(timestamps::add)),
        (&table::WATCH_EVENTS, get(events::watch)),
        (&table::LIST_OPERATORS, get(operators::list)),
        (&table::ROTATE_OPERATOR, post(operators::rotate)),
        (&table::ADD_OPERATOR, post(operators::add)),
        (&table::PUT_OPERATOR_ROLES, put(operators::set_roles)),
        (&table::REVOKE_OPERATOR, delete(operators::revoke)),
        (&table::LIST_POLICIES, get(policies::list)),
        (&table::GET_POLICY, get(policies::show)),
        (&table::ACTIVATE_POLICY, put(policies::activate)),
        (&table::CHECK_POLICY, post(policies::check)),
        (&table::LIST_POLICY_VERSIONS, get(policies::versions)),
        (&table::ADD_POLICY_VERSION, post(policies::put)),
        (&table::GET_POLICY_VERSION, get(policies::version)),
        (&table::APPROVE_POLICY_VERSION, post(policies::approve)),
        (&table::SIMULATE_POLICY_VERSION, get(policy_replay::simulate)),
        (&table::DIFF_POLICY_VERSION, get(policy_diff::difference)),
        (&table::GET_POLICY_STATUS, get(policies::status)),
        (&table::EXPLAIN_DECISION, get(policy_replay::explain)),
        (&table::LIST_APPROVALS, get(approvals::list)),
        (&table::GET_APPROVAL, get(approvals::show)),
        (&table::APPROVE_CALL, post(approvals::approve)),
        (&table::DENY_CALL, post(approvals::deny)),
        (&table::GET_PLANE, get(planes::show)),
        (&table::GET_DOCTOR, get(planes::doctor)),
        (&table::WHO_AM_I, get(planes::who_am_i)),
        (&table::GET_OPENAPI, get(planes::openapi)),
        (&table::GET_HEALTH, get(planes::health)),
        (&table::GET_READY, get(planes::ready)),
    ]
}

/// The whole API.
pub(crate) fn router(app: &App) -> Router {
    let mut router = Router::new();
    for (route, mut handler) in handlers() {
        let streams = matches!(route.response, ResponseBody::Events(_) | ResponseBody::Tar | ResponseBody::Content)
            || matches!(route.request, RequestBody::Tar | RequestBody::Content);
        if !streams {
            handler = handler.layer(middleware::from_fn(in_time));
        }
        if let Some(name) = route.command {
            let decided = commands::Decided { app: app.clone(), route, name };
            handler = handler.layer(middleware::from_fn_with_state(decided, commands::decide));
        }
        if evidence_failed::reads(route) {
            let watched = Watched { app: app.clone(), route };
            handler = handler.layer(middleware::from_fn_with_state(watched, evidence_failed::count));
        }
        if route.authenticated {
            handler = handler.layer(middleware::from_fn_with_state(app.clone(), auth::authenticate));
        }
        router = router.route(route.path, handler);
    }
    router
        .fallback(async || Failure::new(ProblemCode::RouteNotFound, "the API has no such path"))
        .method_not_allowed_fallback(async || {
            Failure::new(ProblemCode::MethodNotAllowed, "the path does not take this method")
        })
        .layer(middleware::from_fn_with_state(app.clone(), outermost))
        .with_state(app.clone())
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Failure::new(ProblemCode::Internal, "the request was not answered in time").into_response(),
    }
}

/// Around everything: the host check, panics, and the path in every problem.
async fn outermost(State(app): State<App>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let authority = request.uri().authority().map(|a| a.as_str().to_owned());
    let response = match auth::same_host(app.address, request.headers(), authority.as_deref()) {
        Err(refused) => refused.into_response(),
        Ok(()) => match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(response) => response,
            Err(_) => {
                tracing::error!(path, "a handler panicked");
                Failure::new(ProblemCode::Internal, "the plane failed").into_response()
            }
        },
    };
    finished(response, path)
}

fn finished(mut response: Response, path: String) -> Response {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let allow = response.headers_mut().remove(http::header::ALLOW);
        response = failure::render(&problem.instance(path));
        if let Some(allow) = allow {
            response.headers_mut().insert(http::header::ALLOW, allow);
        }
    }
    let headers = response.headers_mut();
    // Only what never changes says otherwise: full tiles of logs.
    headers.entry(http::header::CACHE_CONTROL).or_insert(http::HeaderValue::from_static("no-store"));
    headers.insert(http::header::X_CONTENT_TYPE_OPTIONS, http::HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use cogward_api::ROUTES;

    use super::*;

    #[test]
    fn every_route_has_a_handler_and_every_handler_a_route() {
        let bound: Vec<_> = handlers().iter().map(|(route, _)| route.operation_id).collect();
        let table: BTreeSet<_> = ROUTES.iter().map(|route| route.operation_id).collect();
        assert_eq!(bound.len(), table.len());
        assert_eq!(bound.into_iter().collect::<BTreeSet<_>>(), table);
    }
}
