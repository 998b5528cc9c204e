//! What somebody should look into, told at once: in the ledger where it is an attempt on a credential, and to
//! whoever watches the plane.

use std::fmt;

use cogward_model::{
    AgentName, RunId, TenantName,
    action::Action,
    decision::{Refusal, RefusalCode},
    event::{Event, EventType},
};

use super::placeholder::Misuse;
use crate::{Inner, egress::host::HostPort, gate::public, run::RunContext};

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeKind {
    /// A placeholder stood where it does not belong.
    CredentialMisused,
    /// A host sent a credential back.
    CredentialEchoed,
    /// The host's certificate is not valid.
    CertificateInvalid,
    /// The agent's client does not trust the authority of its run.
    AuthorityNotTrusted,
}

impl NoticeKind {
    /// The dotted word in the stream of events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CredentialMisused => "egress.credential_misused",
            Self::CredentialEchoed => "egress.credential_echoed",
            Self::CertificateInvalid => "egress.certificate_invalid",
            Self::AuthorityNotTrusted => "egress.authority_not_trusted",
        }
    }

    /// Whether somebody should look at it now: an attempt on a credential.
    #[must_use]
    pub fn is_high(self) -> bool {
        matches!(self, Self::CredentialMisused | Self::CredentialEchoed)
    }
}

/// One finding, without any payload.
#[derive(Debug, Clone)]
pub struct Notice {
    /// What it is.
    pub kind: NoticeKind,
    /// Whose run.
    pub tenant: TenantName,
    /// The run.
    pub run: RunId,
    /// Its agent.
    pub agent: AgentName,
    /// The host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What happened and what to do, in sentences.
    pub detail: String,
}

/// Whoever watches the plane.
pub trait Notices: Send + Sync + fmt::Debug {
    /// Takes a finding; must not wait.
    fn notice(&self, notice: Notice);
}

/// Tells whoever watches.
pub(super) fn notice(inner: &Inner, run: &RunContext, kind: NoticeKind, target: &HostPort, detail: &str) {
    tracing::warn!(run = %run.grant.run, host = %target, kind = kind.as_str(), detail, "egress finding");
    if let Some(notices) = &inner.egress.inspection.notices {
        notices.notice(Notice {
            kind,
            tenant: run.grant.tenant.clone(),
            run: run.grant.run,
            agent: run.grant.agent.clone(),
            host: target.host.as_str().to_owned(),
            port: target.port,
            detail: detail.to_owned(),
        });
    }
}

/// Records an attempt on a credential, and tells whoever watches.
///
/// # Errors
/// The refusal when it cannot be recorded.
pub(super) async fn record(
    inner: &Inner,
    run: &RunContext,
    kind: NoticeKind,
    target: &HostPort,
    detail: &str,
) -> Result<(), Refusal> {
    notice(inner, run, kind, target, detail);
    let grant = &run.grant;
    let event = Event::new(EventType::SecurityFinding, grant.tenant.clone(), grant.attribution())
        .run(grant.run)
        .public("basis", vec!["gateway"])
        .public("severity", if kind.is_high() { "high" } else { "medium" })
        .public("finding", kind.as_str())
        .public("host", target.host.as_str())
        .public("port", u64::from(target.port))
        .public("detail", detail);
    inner.gate.record(event).await
}

/// Refuses a request with a placeholder where it does not belong; the refusal and the finding are recorded.
pub(super) async fn misused(
    inner: &Inner,
    run: &RunContext,
    action: &Action,
    target: &HostPort,
    misuse: Misuse,
) -> Refusal {
    let refusal = Refusal::new(
        RefusalCode::CredentialMisused,
        "egress.credential",
        misuse.as_str(),
        "Put the placeholder only into the credential's own header of a request to the credential's own host",
    );
    let refusal = inner.gate.refuse(run, action, refusal, vec![public("severity", "high")]).await;
    match record(inner, run, NoticeKind::CredentialMisused, target, misuse.as_str()).await {
        Ok(()) => refusal,
        Err(unrecorded) => unrecorded,
    }
}
