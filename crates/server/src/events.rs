//! The evidence of what operators do to the estate.

use cogward_identity::Operator;
use cogward_model::{
    Digest, TenantName,
    event::{Attribution, Event, EventType},
};

/// An event by an operator, with the reason if one was given.
pub(crate) fn by_operator(kind: EventType, tenant: TenantName, operator: &Operator, reason: Option<&str>) -> Event {
    Event::new(kind, tenant, Attribution::operator(operator.name.as_str()))
        .public("basis", vec!["operator"])
        .public("operator", operator.id.to_string())
        .personal("reason", reason.map(str::to_owned))
}

/// An event of the plane by itself.
pub(crate) fn by_plane(kind: EventType) -> Event {
    Event::new(kind, TenantName::default_tenant(), Attribution::plane())
        .public("basis", vec!["plane"])
        .public("version", env!("CARGO_PKG_VERSION"))
}

/// The digest of a configuration as it is kept.
pub(crate) fn digest_of<T: serde::Serialize>(config: &T) -> String {
    sha256(&serde_json::to_vec(config).unwrap_or_default()).to_string()
}

/// The digest of some bytes.
pub(crate) fn sha256(text: &[u8]) -> Digest {
    let mut bytes = [0_u8; 32];
    bytes.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text).as_ref());
    Digest::from_bytes(bytes)
}
