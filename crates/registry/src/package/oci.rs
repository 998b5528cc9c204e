//! An OCI image layout to the tree of its image.
//!
//! Every file of the layout is addressed by its digest and checked against it before it is used, from
//! `index.json` down to the layers. The layers are put together by [`super::image`].

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek},
    path::{Path, PathBuf},
};

use cogward_model::Digest;
use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use super::{
    contents::{ContentError, Limits, shown},
    image::Image,
    pack::{PackError, hash_all},
    walk::Visit,
};

/// Largest index, manifest or configuration of an OCI layout.
const DOCUMENT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Layers of an OCI image.
const LAYERS_MAX: usize = 128;
/// An index may name an index; nothing needs more.
const INDEX_DEPTH_MAX: u32 = 3;

/// Why an image cannot be packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OciError {
    /// A file of the layout cannot be read.
    #[error("`{path}` of the image layout cannot be read")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A document is not what it should be.
    #[error("`{path}` of the image layout is not valid: {why}")]
    Document {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
    /// A blob does not have the digest under which it is stored.
    #[error("the blob {0} of the image layout does not have that digest")]
    Digest(Digest),
    /// There is no image for this platform, or more than one.
    #[error("the image layout has {found} images for {platform}, and one is needed")]
    Platform {
        /// How many.
        found: usize,
        /// This platform.
        platform: String,
    },
    /// A layer is compressed in a way that is not read.
    #[error("a layer is `{0}`; build the image with gzip or uncompressed layers")]
    Compression(String),
    /// A layer is not a tar archive that can be taken.
    #[error("a layer of the image is not valid: {0}")]
    Layer(String),
    /// An entry cannot be in a package.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The space for unpacking ran out.
    #[error("the image cannot be unpacked into the temporary directory")]
    Spool(#[source] io::Error),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

#[derive(Debug, Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct ImageManifest {
    layers: Vec<Descriptor>,
}

/// Visits the tree of the one image of a layout, below `root`.
pub(crate) fn emit<V: Visit<Error = PackError>>(layout: &Path, limits: Limits, visit: &mut V) -> Result<(), PackError> {
    let mut image = Image::new(limits).map_err(OciError::Spool)?;
    unpack(layout, &mut image)?;
    image.visit(visit)
}

fn unpack(layout: &Path, image: &mut Image) -> Result<(), OciError> {
    let index: Index = parse("index.json", &small(&layout.join("index.json"), "index.json")?)?;
    let mut found = Vec::new();
    candidates(layout, index, 0, &mut found)?;
    let [manifest] = found.as_slice() else {
        let platform = format!("linux/{}", architecture());
        return Err(OciError::Platform { found: found.len(), platform });
    };
    let manifest: ImageManifest = parse(&manifest.to_string(), &blob(layout, *manifest)?)?;
    if manifest.layers.len() > LAYERS_MAX {
        return Err(OciError::Layer(format!("{} layers, and {LAYERS_MAX} is the most", manifest.layers.len())));
    }
    for layer in &manifest.layers {
        let reader = open_layer(layout, digest_of(layer)?)?;
        match layer.media_type.rsplit_once('.').map_or("", |(_, last)| last) {
            "tar+gzip" | "gzip" => image.apply(MultiGzDecoder::new(reader))?,
            "tar" => image.apply(reader)?,
            _ => return Err(OciError::Compression(shown(&layer.media_type))),
        }
    }
    Ok(())
}

/// The image manifests for this platform, through nested indexes.
fn candidates(layout: &Path, index: Index, depth: u32, found: &mut Vec<Digest>) -> Result<(), OciError> {
    if depth > INDEX_DEPTH_MAX || index.manifests.len() > LAYERS_MAX {
        return Err(OciError::Document { path: "index.json".into(), why: "too deep or too long".into() });
    }
    for descriptor in index.manifests {
        let digest = digest_of(&descriptor)?;
        if descriptor.media_type.ends_with(".index.v1+json") || descriptor.media_type.ends_with(".list.v2+json") {
            let nested = parse(&digest.to_string(), &blob(layout, digest)?)?;
            candidates(layout, nested, depth + 1, found)?;
            continue;
        }
        let here = |p: &Platform| p.os == "linux" && p.architecture == architecture();
        if descriptor.platform.as_ref().is_none_or(here) && found.len() < LAYERS_MAX {
            found.push(digest);
        }
    }
    Ok(())
}

/// As OCI names it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn digest_of(descriptor: &Descriptor) -> Result<Digest, OciError> {
    descriptor.digest.parse().map_err(|e: cogward_model::digest::ParseDigestError| OciError::Document {
        path: "index.json".into(),
        why: e.to_string(),
    })
}

fn parse<T: serde::de::DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, OciError> {
    serde_json::from_slice(bytes).map_err(|e| OciError::Document { path: shown(path), why: e.to_string() })
}

fn io_error(path: &str) -> impl FnOnce(io::Error) -> OciError + '_ {
    move |source| OciError::Io { path: shown(path), source }
}

fn small(path: &Path, name: &str) -> Result<Vec<u8>, OciError> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|f| f.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(io_error(name))?;
    if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(OciError::Document { path: shown(name), why: "too large".into() });
    }
    Ok(bytes)
}

fn blob_path(layout: &Path, digest: Digest) -> PathBuf {
    layout.join("blobs/sha256").join(digest.hex())
}

fn blob(layout: &Path, digest: Digest) -> Result<Vec<u8>, OciError> {
    let bytes = small(&blob_path(layout, digest), &digest.to_string())?;
    if crate::manifest::sha256(&bytes) != digest {
        return Err(OciError::Digest(digest));
    }
    Ok(bytes)
}

/// A layer whose digest holds, from its beginning.
fn open_layer(layout: &Path, digest: Digest) -> Result<BufReader<File>, OciError> {
    let name = digest.to_string();
    let mut file = File::open(blob_path(layout, digest)).map_err(io_error(&name))?;
    let (found, _) = hash_all(&mut file, io::sink()).map_err(io_error(&name))?;
    if found != digest {
        return Err(OciError::Digest(digest));
    }
    file.rewind().map_err(io_error(&name))?;
    Ok(BufReader::with_capacity(128 * 1024, file))
}
