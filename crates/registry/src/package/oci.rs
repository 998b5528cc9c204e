//! An OCI image layout to the tree of its image.

/// Why an image cannot be packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OciError {
    /// Not there yet.
    #[error("an OCI layout cannot be packed by this version")]
    NotYet,
}
