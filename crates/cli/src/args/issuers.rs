//! `cogward issuer`, and what `serve` and `run start` say of clients outside.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand};
use cogward_model::UpstreamName;

use super::{LimitFlag, ReasonFlag, ReasonMaybe, TenantFlag};

/// `issuer`
#[derive(Debug, Subcommand)]
pub enum Issuer {
    /// Trust an issuer of access tokens, or replace where its keys are
    #[command(
        after_help = "Clients outside the sandbox (an editor, an agent that somebody else runs) are let in with access\n\
        tokens (RFC 9068) of the issuers that are trusted here, each bound to a key of the client (RFC 9449), to the\n\
        agents whose manifests name the client in `spec.access.outside`.\n\n\
        Examples:\n  \
        cogward issuer add corp --issuer https://id.bank.example --jwks-url https://id.bank.example/jwks --reason \"editors\"\n  \
        cogward issuer add lab --issuer https://id.lab.example --jwks-file jwks.json --bearer-in-development --reason \"trial\""
    )]
    Add(IssuerAdd),
    /// List trusted issuers
    List {
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        limit: LimitFlag,
    },
    /// Show a trusted issuer
    Show {
        /// Its name
        name: UpstreamName,
        #[command(flatten)]
        tenant: TenantFlag,
    },
    /// Trust an issuer no more; the next request with a token of it is refused, and answers under way end
    #[command(after_help = "Example:\n  cogward issuer remove corp --reason \"its keys leaked\"")]
    Remove {
        /// Its name
        name: UpstreamName,
        #[command(flatten)]
        tenant: TenantFlag,
        #[command(flatten)]
        reason: ReasonFlag,
    },
}

/// `issuer add`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("keys").required(true).args(["jwks_file", "jwks_url"]))]
pub struct IssuerAdd {
    /// Its name in manifests, `spec.access.outside[].issuer`
    pub name: UpstreamName,
    /// What its tokens say in `iss`, byte for byte
    #[arg(long, value_name = "URL")]
    pub issuer: String,
    /// Its public keys, a JWKS document; `-` reads it from standard input
    #[arg(long, value_name = "FILE")]
    pub jwks_file: Option<PathBuf>,
    /// Where the plane fetches them; an https URL that the internet can reach
    #[arg(long, value_name = "URL")]
    pub jwks_url: Option<String>,
    /// Take tokens that are bound to no key as well, for agents of tier development alone; the evidence says so
    #[arg(long)]
    pub bearer_in_development: bool,
    #[command(flatten)]
    pub tenant: TenantFlag,
    #[command(flatten)]
    pub reason: ReasonMaybe,
}

/// Where clients outside are let in.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Clients outside")]
pub struct OutsideFlags {
    /// Let clients outside in at this loopback address, with bound access tokens; put what ends TLS before it. Port 0
    /// takes a free one and writes it to DIR/plane.json
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub mcp_listen: Option<SocketAddr>,
    /// Where they reach it, before what ends TLS: the first part of every token's audience [default: the address]
    #[arg(long, value_name = "URL", requires = "mcp_listen")]
    pub mcp_url: Option<String>,
    /// Seconds without a request after which the run of a client outside is over
    #[arg(long, value_name = "SECONDS", default_value_t = 900, value_parser = clap::value_parser!(u32).range(10..=86_400))]
    pub mcp_idle: u32,
}

/// A client outside that is to act in a run.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Clients outside")]
pub struct OutsideClientFlags {
    /// Start the run for a client outside with tokens of this issuer: what it needs after its last run was stopped
    #[arg(long, value_name = "ISSUER", requires = "client", conflicts_with_all = ["input", "input_files", "as_user", "wait"])]
    pub outside: Option<UpstreamName>,
    /// The client, as the issuer names it in `client_id`
    #[arg(long, value_name = "CLIENT", requires = "outside")]
    pub client: Option<String>,
    /// For whom it acts, as the issuer names them in `sub`; the client itself unless given
    #[arg(long, value_name = "SUBJECT", requires = "outside")]
    pub subject: Option<String>,
}
