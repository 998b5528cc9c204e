//! What a document may cost, each with its reason.

/// Largest document, in bytes: those of large public APIs are one to three MiB.
pub const DOCUMENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most operations of a document: what a person can look through, and far more than a model can choose from.
pub const OPERATIONS_MAX: usize = 1_000;
/// Largest definitions of all tools together, in bytes: they are one answer to `tools/list`.
pub const DEFINITIONS_BYTES_MAX: usize = 12 * 1024 * 1024;
/// Largest definition of one tool, in bytes: more than a model reads.
pub(crate) const DEFINITION_BYTES_MAX: usize = 256 * 1024;
/// Deepest nesting of a document.
pub(crate) const DEPTH_MAX: usize = 64;
/// Most values in a document.
pub(crate) const VALUES_MAX: usize = 500_000;
/// Longest chain of references from one place to what it stands for.
pub(crate) const REFERENCES_MAX: usize = 16;
/// Most schemas of one tool, with those that it refers to.
pub(crate) const SCHEMAS_MAX: usize = 4_096;
/// Most work for one document, in values that are read or copied for its tools: two thousand for each of a thousand
/// operations. A hostile one asks for the same large schema in all of them.
pub(crate) const WORK_MAX: usize = 2_000_000;
/// Most parameters of one operation.
pub(crate) const PARAMETERS_MAX: usize = 128;
/// Most notes of what was left out; the document is refused beyond.
pub(crate) const LEFT_OUT_MAX: usize = 4_096;
/// Longest path and query of a request, in bytes: beyond it servers refuse.
pub(crate) const TARGET_BYTES_MAX: usize = 16 * 1024;
/// Longest value of a header, in bytes.
pub(crate) const HEADER_BYTES_MAX: usize = 4 * 1024;
/// Longest title of a document that is kept, in characters.
pub(crate) const TITLE_MAX: usize = 200;
