//! Reading a manifest.
//!
//! YAML is read as a stream of events into a small bounded tree that knows lines and columns
//! ([`tree`]); the tree is read field by field into the model's types ([`sections`]), and the rules
//! that need several fields follow ([`check`]). Every stage adds to one list of findings and goes on,
//! so that the author of a manifest sees all faults at once. A manifest with any finding is refused.

mod access;
mod canonical;
mod check;
mod document;
mod environment;
mod fields;
mod files;
mod hosts;
mod permissions;
mod schema;
mod sections;
mod suggest;
mod template;
mod tree;

use std::collections::BTreeMap;

use cogward_model::manifest::Manifest;

pub use canonical::{canonical_json, digest as sha256};
pub use document::document;
pub use hosts::canonical_host;
pub use schema::{SCHEMA_ID, schema_text};
pub use template::template;
pub use tree::Place;

use crate::{Finding, Findings};

/// A manifest that passed every rule that it can pass without a plane.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// The manifest.
    pub manifest: Manifest,
    /// Where each field is, for findings of later stages.
    pub places: Places,
}

/// Where the fields of a manifest are.
#[derive(Debug, Clone, Default)]
pub struct Places {
    file: String,
    at: BTreeMap<String, Place>,
}

impl Places {
    /// A finding on a field; on its nearest ancestor when the field is not written.
    #[must_use]
    pub fn finding(
        &self,
        path: &str,
        rule: &'static str,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        let mut nearest = path;
        let place = loop {
            if let Some(place) = self.at.get(nearest) {
                break *place;
            }
            match nearest.rfind(['.', '[']) {
                Some(cut) => nearest = nearest.get(..cut).unwrap_or(""),
                None => break self.at.get("").copied().unwrap_or_default(),
            }
        };
        Finding {
            file: self.file.clone(),
            line: place.line,
            column: place.column,
            path: path.to_owned(),
            rule: rule.into(),
            problem: problem.into(),
            fix: fix.into(),
        }
    }
}

/// Reads a manifest. `file` is only for the findings.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file.
///
/// ```
/// let text = cogward_registry::manifest::template("claims-clerk");
/// let parsed = cogward_registry::manifest::parse("agent.yaml", text.as_bytes()).unwrap();
/// assert_eq!(parsed.manifest.metadata.name.as_str(), "claims-clerk");
/// ```
pub fn parse(file: &str, bytes: &[u8]) -> Result<Parsed, Findings> {
    let mut sink = fields::Sink::new(file);
    let manifest = tree::read(bytes, &mut sink).and_then(|root| sections::manifest(&root, &mut sink));
    let (places, mut findings) = sink.into_parts();
    match manifest {
        Some(manifest) if findings.is_empty() => Ok(Parsed { manifest, places }),
        _ => {
            findings.sort();
            Err(findings)
        }
    }
}
