//! The door for clients outside: a developer's editor, an agent that somebody else runs.
//!
//! One listener, one MCP endpoint for each agent whose manifest opens it, an OAuth resource server by RFC 9728. A request
//! is let in by an access token of a trusted issuer that is bound to a key of the client (`cogward_identity::access`),
//! and then goes to the MCP endpoint of a run, through a socket that only this process reaches: the gate, the budgets,
//! the fence and the ledger are those of every run. Of what came with the request, the token does not go along; the
//! headers that do are listed.
//!
//! Before a client is known it is told the same whatever agent it asks for.

mod answers;
mod attach;
mod boxes;
mod counts;
mod door;
mod issuers;
mod pace;
mod place;
mod relay;

use std::{net::SocketAddr, time::Duration};

use tokio::net::TcpListener;

pub(crate) use boxes::{AsSandbox, OutsideRuns};
pub(crate) use counts::Refusals;
pub(crate) use door::{Door, router};
pub(crate) use issuers::{Issuers, usable_issuer, usable_keys};
pub use place::BaseError;
use place::{Base, base_of};

use crate::{boot::ServeError, http, plane::App};

/// Where clients outside are let in.
#[derive(Debug, Clone)]
pub struct OutsideOptions {
    /// A loopback address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where clients reach it, before what ends TLS; the listener itself unless given.
    pub url: Option<String>,
    /// A run in which nothing was asked for this long is over.
    pub idle: Duration,
}

/// Takes the address. Nothing is answered before the plane is up.
pub(crate) async fn bind(options: &OutsideOptions) -> Result<(TcpListener, SocketAddr, Base), ServeError> {
    let (listener, address) = http::bind(options.listen).await?;
    let url = options.url.clone().unwrap_or_else(|| format!("http://{address}"));
    let base = base_of(&url).map_err(|why| ServeError::OutsideUrl { url, why })?;
    Ok((listener, address, base))
}

/// Records what is refused at the door.
pub(crate) async fn tell_refusals(app: App) {
    app.refusals.keep_telling(&app).await;
}
