//! The one text of a manifest, and its digest.

use aws_lc_rs::digest::{SHA256, digest as hash};
use cogward_model::{Digest, manifest::Manifest};
use serde_json::Value;

/// The manifest as RFC 8785 JSON: sorted keys, no spaces. There are no floats in a manifest, and all
/// keys are ASCII, so byte order is the order of the standard.
///
/// # Errors
/// Never for a manifest that was parsed; the signature is serde's.
pub fn canonical_json(manifest: &Manifest) -> Result<String, serde_json::Error> {
    let mut out = String::with_capacity(2_048);
    write(&serde_json::to_value(manifest)?, &mut out)?;
    Ok(out)
}

fn write(value: &Value, out: &mut String) -> Result<(), serde_json::Error> {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|a, b| a.0.cmp(b.0));
            out.push('{');
            for (place, (key, value)) in entries.into_iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                out.push_str(&serde_json::to_string(key)?);
                out.push(':');
                write(value, out)?;
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                write(item, out)?;
            }
            out.push(']');
        }
        other => out.push_str(&serde_json::to_string(other)?),
    }
    Ok(())
}

/// SHA-256 of some bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> Digest {
    let mut out = [0_u8; 32];
    out.copy_from_slice(hash(&SHA256, bytes).as_ref());
    Digest::from_bytes(out)
}
