//! What the routes do, a module per noun.

pub(crate) mod agents;
pub(crate) mod approvals;
mod archive;
pub(crate) mod credentials;
pub(crate) mod events;
pub(crate) mod evidence;
mod evidence_asked;
pub(crate) mod evidence_query;
pub(crate) mod files;
pub(crate) mod floors;
pub(crate) mod holds;
pub(crate) mod issuers;
pub(crate) mod keys;
pub(crate) mod logs;
pub(crate) mod memories;
pub(crate) mod operations;
pub(crate) mod operators;
pub(crate) mod plane;
pub(crate) mod policies;
mod policy_change;
pub(crate) mod policy_diff;
pub(crate) mod policy_replay;
pub(crate) mod providers;
pub(crate) mod redactions;
mod registration;
mod run_view;
pub(crate) mod runs;
pub(crate) mod tenants;
pub(crate) mod timestamps;
pub(crate) mod tool_servers;
pub(crate) mod tools;
mod upload;

use cogward_api::{Page, PageQuery};
use cogward_model::{TenantName, limits::REASON_BYTES_MAX};
use cogward_store::PageRequest;
use http::{HeaderMap, HeaderValue, header};

use crate::{failure::Failure, plane::Plane};

/// The page of the store that a query asks for.
fn page_of(query: &PageQuery) -> PageRequest {
    PageRequest { after: query.cursor.clone(), limit: query.limit() }
}

/// A page of the store on the wire.
fn on_the_wire<A, B>(page: cogward_store::Page<A>, each: impl FnMut(A) -> B) -> Page<B> {
    Page { items: page.items.into_iter().map(each).collect(), next_cursor: page.next }
}

/// Refuses what belongs to a tenant that is not there.
async fn known_tenant(plane: &Plane, tenant: &TenantName) -> Result<(), Failure> {
    match plane.store.tenant(tenant).await? {
        Some(_) => Ok(()),
        None => Err(Failure::missing("tenant", tenant)),
    }
}

fn bounded_reason(reason: Option<&str>) -> Result<(), Failure> {
    if reason.is_some_and(|r| r.len() > REASON_BYTES_MAX) {
        return Err(Failure::invalid(format!("the reason is longer than {REASON_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// The entity tag of a revision.
fn etag(revision: u64) -> (header::HeaderName, HeaderValue) {
    let value = HeaderValue::from_str(&format!("\"{revision}\"")).unwrap_or(HeaderValue::from_static("\"\""));
    (header::ETAG, value)
}

/// Refuses a change of something that is not the revision that the client has read.
fn precondition(headers: &HeaderMap, revision: Option<u64>) -> Result<(), Failure> {
    let Some(wanted) = headers.get(header::IF_MATCH) else { return Ok(()) };
    let wanted = wanted.to_str().unwrap_or("");
    let matches = match (wanted, revision) {
        (_, None) => false,
        ("*", Some(_)) => true,
        (list, Some(revision)) => list.split(',').any(|tag| tag.trim() == format!("\"{revision}\"")),
    };
    if matches {
        return Ok(());
    }
    Err(Failure::new(cogward_api::ProblemCode::PreconditionFailed, "it is not the one that `If-Match` names any more")
        .next_step("read it again and repeat the command"))
}
