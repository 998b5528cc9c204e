//! Questions to the evidence that were not answered: who asked, by which route, of whose evidence, and with which problem.
//!
//! What was asked for is not recorded: it may be any text. Somebody who asks without end does not fill the ledger, since
//! [`TurnedAway`](crate::turned_away::TurnedAway) makes sums of them.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use cogward_api::{Problem, ProblemCode, Route, routes as table};
use cogward_model::{TenantName, id::RunId};

use crate::{
    extract::Caller,
    plane::{App, Plane},
};

/// What answers with evidence.
const READS: [&Route; 7] = [
    &table::GET_RUN_EVIDENCE,
    &table::EXPORT_EVIDENCE,
    &table::SEARCH_EVIDENCE,
    &table::PROVE_LEAF,
    &table::PROVE_CONSISTENCY,
    &table::PROVE_RUN,
    &table::COMMIT_SAMPLE,
];

/// Whether a route answers with evidence.
pub(crate) fn reads(route: &Route) -> bool {
    READS.iter().any(|read| read.operation_id == route.operation_id)
}

/// The route that is watched.
#[derive(Clone)]
pub(crate) struct Watched {
    pub(crate) app: App,
    pub(crate) route: &'static Route,
}

/// The part of a path that stands where the route has a name.
fn named<'a>(route: &str, path: &'a str, name: &str) -> Option<&'a str> {
    route.split('/').zip(path.split('/')).find_map(|(wanted, there)| (wanted == name).then_some(there))
}

/// The tenant whose evidence was asked for, where there is such a tenant: no other word comes into the record.
async fn whose(plane: &Plane, route: &str, path: &str) -> Option<TenantName> {
    if let Some(run) = named(route, path, "{run}") {
        let run: RunId = run.parse().ok()?;
        return Some(plane.store.run(run).await.ok()??.tenant);
    }
    let tenant: TenantName = named(route, path, "{tenant}")?.parse().ok()?;
    plane.store.tenant(&tenant).await.ok()?.map(|_| tenant)
}

/// The layer of every route that answers with evidence.
pub(crate) async fn count(State(watched): State<Watched>, request: Request, next: Next) -> Response {
    let Watched { app, route } = watched;
    let path = request.uri().path().to_owned();
    let asking = request.extensions().get::<Caller>().map(|caller| caller.0.clone());
    let response = next.run(request).await;
    let failed = response.status().is_client_error() || response.status().is_server_error();
    if let (true, Some(operator)) = (failed, asking) {
        let code = response.extensions().get::<Problem>().map_or(ProblemCode::Internal, |problem| problem.code);
        let tenant = whose(&app, route.path, &path).await;
        app.turned_away.read(&operator, route.path, code.as_str(), tenant);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gives_evidence_is_watched_and_whose_it_is_is_read_from_the_path() {
        assert!(reads(&table::SEARCH_EVIDENCE) && reads(&table::EXPORT_EVIDENCE) && !reads(&table::WHO_AM_I));
        let of = |name| named(table::SEARCH_EVIDENCE.path, "/api/v1/tenants/acme/evidence/search", name);
        assert_eq!((of("{tenant}"), of("{run}")), (Some("acme"), None));
        assert_eq!(named(table::PROVE_RUN.path, "/api/v1/runs/run_1/evidence/proof", "{run}"), Some("run_1"));
        // Each names one of both.
        assert!(READS.iter().all(|route| route.path.contains("{tenant}") != route.path.contains("{run}")));
    }
}
