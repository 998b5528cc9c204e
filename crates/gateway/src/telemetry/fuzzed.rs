//! What must hold of any bytes where telemetry is read; tried by [`crate::fuzz`].

use super::{Export, Invalid, Signal, inflate, text, wire};

/// An export in either encoding, packed or not. Its class.
pub(crate) fn export(bytes: &[u8]) -> Vec<String> {
    let ours = [("cogward.run.id", "the-run".to_owned()), ("cogward.tenant", "the-tenant".to_owned())];
    let inflated = inflate(bytes).unwrap_or_default();
    assert!(inflated.len() <= cogward_model::limits::TELEMETRY_INFLATED_BYTES_MAX);
    let mut classes = Vec::new();
    for signal in [Signal::Traces, Signal::Metrics, Signal::Logs] {
        for read in [wire::read, text::read] {
            classes.push(marked(|bytes| read(signal, bytes, &ours), bytes));
        }
    }
    classes.push((inflated.len() / 64).to_string());
    classes
}

/// What is kept is read again as it is, and has the plane's word on the run and no other.
fn marked(read: impl Fn(&[u8]) -> Result<Export, Invalid>, bytes: &[u8]) -> String {
    let export = match read(bytes) {
        Ok(export) => export,
        Err(error) => return error.to_string(),
    };
    let again = read(&export.bytes).expect("what is kept can be read");
    assert_eq!((&again.bytes, again.items), (&export.bytes, export.items), "marking twice changes nothing");
    format!("{} {}", export.items.min(4), export.bytes.len() / 64)
}
