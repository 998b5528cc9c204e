//! The skills of a version as MCP resources, from its stored package.
//!
//! What is served is what was registered: the package is compared with its digest before the first answer, and each file with
//! its own when it is read. The agent has the same files below `/skills`, read-only.

use std::{fs::File, io::Read, path::PathBuf, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use cogward_gateway::{
    Skills,
    inside::{InsideError, InsideOffers, InsideRequest, InsideServer},
    tool_process::Pending,
};
use cogward_model::{
    Digest,
    manifest::{Manifest, skill_name},
};
use cogward_registry::package::{SkillFile, skill_files};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::events::sha256;

/// Largest file of a skill that is served, in bytes; larger ones are below `/skills` in the sandbox.
const SKILL_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Most files that are listed.
const SKILL_FILES_MAX: usize = 5_000;
/// How much of a `SKILL.md` is looked at for its description, in bytes.
const SKILL_HEAD_BYTES_MAX: u64 = 16 * 1024;
/// Longest description that is told, in characters.
const DESCRIPTION_MAX: usize = 1_024;
/// JSON-RPC: wrong parameters, no such method.
const INVALID_PARAMS: i64 = -32_602;
const METHOD_NOT_FOUND: i64 = -32_601;

/// The skills of one version.
#[derive(Debug)]
struct SkillServer {
    packages: PathBuf,
    package: Digest,
    manifest: Arc<Manifest>,
    files: Arc<OnceCell<Arc<Vec<SkillFile>>>>,
}

/// The skills of a version, where it has some.
pub(crate) fn of(packages: PathBuf, package: Digest, manifest: &Arc<Manifest>) -> Option<Skills> {
    let server = SkillServer { packages, package, manifest: Arc::clone(manifest), files: Arc::default() };
    Skills::new(manifest.spec.package.skills.iter().map(|skill| skill_name(skill)), Arc::new(server))
}

impl InsideServer for SkillServer {
    fn offers(&self) -> InsideOffers {
        InsideOffers { tools: false, resources: true }
    }

    fn answer(&self, request: InsideRequest) -> Pending<'static, Result<Bytes, InsideError>> {
        let (packages, package) = (self.packages.clone(), self.package);
        let (manifest, files) = (Arc::clone(&self.manifest), Arc::clone(&self.files));
        Box::pin(async move {
            let read = || async move {
                let read = tokio::task::spawn_blocking(move || skill_files(&packages, package, &manifest)).await;
                let read = read.map_err(|_| unavailable("the package cannot be read"))?;
                // The operator's log has the cause; an agent has no use for paths of the host.
                let read = read.inspect_err(|error| tracing::error!(%error, "skills are not served"));
                read.map(Arc::new).map_err(|_| unavailable("the stored package is not what was registered"))
            };
            let files = Arc::clone(files.get_or_try_init(read).await?);
            let answer = tokio::task::spawn_blocking(move || match request.method {
                "resources/list" => Ok(list(&files)),
                "resources/templates/list" => Ok(json!({"resultType": "complete", "resourceTemplates": []})),
                "resources/read" => contents(&files, &request.params),
                method => Err(rejected(METHOD_NOT_FOUND, &format!("there is no `{method}` here"))),
            });
            let answer = answer.await.map_err(|_| unavailable("the skill cannot be read"))??;
            Ok(Bytes::from(answer.to_string()))
        })
    }
}

fn unavailable(cause: &str) -> InsideError {
    InsideError::Unavailable { cause: cause.to_owned(), sent: false }
}

fn rejected(code: i64, message: &str) -> InsideError {
    InsideError::Rejected { code, message: message.to_owned() }
}

fn uri(file: &SkillFile) -> String {
    format!("skill://{}/{}", file.skill, file.path)
}

fn list(files: &[SkillFile]) -> Value {
    let resource = |file: &SkillFile| {
        let mut resource = json!({
            "uri": uri(file),
            "name": format!("{}/{}", file.skill, file.path),
            "mimeType": media_type(&file.path),
            "size": file.size,
            "_meta": { "cogward/digest": file.digest.to_string() },
        });
        let described = (file.path == "SKILL.md").then(|| description(file)).flatten();
        if let (Some(text), Some(members)) = (described, resource.as_object_mut()) {
            members.insert("description".to_owned(), text.into());
        }
        resource
    };
    let all: Vec<Value> = files.iter().take(SKILL_FILES_MAX).map(resource).collect();
    json!({"resultType": "complete", "resources": all})
}

/// What the head of a `SKILL.md` says of it, where that is one line.
fn description(file: &SkillFile) -> Option<String> {
    let text = String::from_utf8(bytes_of(file, SKILL_FILE_BYTES_MAX)?).ok()?;
    let head = text.strip_prefix("---")?;
    let end = head.find("\n---")?;
    let head = head.get(..end.min(usize::try_from(SKILL_HEAD_BYTES_MAX).unwrap_or(usize::MAX)))?;
    let line = head.lines().find_map(|line| line.strip_prefix("description:"))?.trim();
    let line = line.strip_prefix('"').and_then(|line| line.strip_suffix('"')).unwrap_or(line);
    let plain = !line.is_empty() && !line.starts_with(['|', '>', '&', '*', '!']);
    plain.then(|| line.chars().filter(|c| !c.is_control()).take(DESCRIPTION_MAX).collect())
}

fn contents(files: &[SkillFile], params: &[u8]) -> Result<Value, InsideError> {
    #[derive(Deserialize)]
    struct Params {
        uri: String,
    }
    let Params { uri: wanted } =
        serde_json::from_slice(params).map_err(|_| rejected(INVALID_PARAMS, "this names no resource"))?;
    // Only what is listed is read: no path is made of what was asked for.
    let file = files.iter().find(|file| uri(file) == wanted);
    let file = file.ok_or_else(|| rejected(INVALID_PARAMS, "there is no such resource"))?;
    if file.size > SKILL_FILE_BYTES_MAX {
        let why = format!("it is longer than {SKILL_FILE_BYTES_MAX} bytes; read it below /skills");
        return Err(rejected(INVALID_PARAMS, &why));
    }
    let bytes = bytes_of(file, SKILL_FILE_BYTES_MAX);
    let bytes = bytes.ok_or_else(|| unavailable("the stored package is not what was registered"))?;
    let mut content = json!({"uri": wanted, "mimeType": media_type(&file.path)});
    if let Some(members) = content.as_object_mut() {
        match String::from_utf8(bytes) {
            Ok(text) => members.insert("text".to_owned(), text.into()),
            Err(error) => members.insert("blob".to_owned(), STANDARD.encode(error.as_bytes()).into()),
        };
    }
    Ok(json!({"resultType": "complete", "contents": [content]}))
}

/// The bytes of a file, if they are what they were.
fn bytes_of(file: &SkillFile, most: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(&file.place).ok()?.take(most + 1).read_to_end(&mut bytes).ok()?;
    if sha256(&bytes) != file.digest {
        tracing::error!(file = %file.place.display(), "a file of a skill was changed; it is not served");
        return None;
    }
    Some(bytes)
}

fn media_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase()).as_deref() {
        Some("md") => "text/markdown",
        Some("txt") => "text/plain",
        Some("json") => "application/json",
        Some("yaml" | "yml") => "application/yaml",
        Some("csv") => "text/csv",
        Some("html") => "text/html",
        Some("py") => "text/x-python",
        Some("js") => "text/javascript",
        Some("sh") => "application/x-sh",
        Some("pdf") => "application/pdf",
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn file(dir: &tempfile::TempDir, path: &str, bytes: &[u8]) -> SkillFile {
        let place = dir.path().join(path.replace('/', "_"));
        fs::write(&place, bytes).unwrap();
        let (skill, path, digest) = ("pdf".to_owned(), path.to_owned(), sha256(bytes));
        SkillFile { skill, path, place, size: bytes.len() as u64, digest }
    }

    fn read(files: &[SkillFile], uri: &str) -> Result<Value, InsideError> {
        contents(files, json!({ "uri": uri }).to_string().as_bytes())
    }

    #[test]
    fn files_are_told_with_what_their_heads_say() {
        let dir = tempfile::tempdir().unwrap();
        let head = "---\nname: pdf\ndescription: \"Fills forms\u{7}.\"\n---\n# How\n";
        let files = [file(&dir, "SKILL.md", head.as_bytes()), file(&dir, "data/a.bin", &[0xff, 0])];
        let listed = list(&files);
        assert_eq!(listed["resources"][0]["uri"], "skill://pdf/SKILL.md");
        assert_eq!(listed["resources"][0]["description"], "Fills forms.");
        assert_eq!(listed["resources"][0]["mimeType"], "text/markdown");
        assert_eq!(listed["resources"][0]["_meta"]["cogward/digest"], sha256(head.as_bytes()).to_string());
        assert_eq!(read(&files, "skill://pdf/SKILL.md").unwrap()["contents"][0]["text"], head);
        let binary = read(&files, "skill://pdf/data/a.bin").unwrap();
        assert_eq!((&binary["contents"][0]["blob"], &binary["resultType"]), (&json!("/wA="), &json!("complete")));
        for other in ["---\ndescription: |\n  long\n---\n", "description: x", "---\ndescription: x", ""] {
            assert_eq!(description(&file(&dir, "SKILL.md", other.as_bytes())), None, "{other}");
        }
    }

    #[test]
    fn nothing_else_is_read_and_nothing_that_was_changed() {
        let dir = tempfile::tempdir().unwrap();
        let files = [file(&dir, "SKILL.md", b"registered")];
        fs::write(dir.path().join("secret"), "s3cret").unwrap();
        for uri in [
            "skill://pdf/../secret",
            "skill://pdf/secret",
            "skill://pdf/SKILL.md/",
            "file:///etc/passwd",
            "skill://pdf/%53KILL.md",
            "",
        ] {
            assert!(matches!(read(&files, uri), Err(InsideError::Rejected { .. })), "{uri}");
        }
        fs::write(&files[0].place, "tampered!!").unwrap();
        assert!(matches!(read(&files, "skill://pdf/SKILL.md"), Err(InsideError::Unavailable { .. })));
        assert!(list(&files)["resources"][0].get("description").is_none());
        fs::remove_file(&files[0].place).unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), &files[0].place).unwrap();
        assert!(matches!(read(&files, "skill://pdf/SKILL.md"), Err(InsideError::Unavailable { .. })));
        let large = SkillFile { size: SKILL_FILE_BYTES_MAX + 1, ..file(&dir, "SKILL.md", b"x") };
        assert!(matches!(read(&[large], "skill://pdf/SKILL.md"), Err(InsideError::Rejected { .. })));
    }
}
