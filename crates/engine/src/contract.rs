//! The run contract: what an agent finds in its sandbox. Everything in it is a name or an address;
//! nothing in it has power. Unmodified SDKs read these variables.

use std::{io, path::Path, time::Duration};

use cogward_model::manifest::{Telemetry, skill_name};
use cogward_store::RunRow;

use crate::{
    engine::Version,
    files::RunFiles,
    ports::LaunchRequest,
    trust::{self, Trust},
};

/// Port of the model base URLs inside the sandbox.
pub const MODEL_PORT: u16 = 28_471;
/// Port of the MCP endpoint inside the sandbox.
pub const MCP_PORT: u16 = 28_472;
/// Port of the HTTP proxy inside the sandbox.
pub const PROXY_PORT: u16 = 3_128;
/// Where the agent may leave its output; its last line on stdout counts otherwise.
pub const OUTPUT_FILE: &str = "/work/output";

/// Where skills are.
const SKILLS_DIR: &str = "/skills";
/// Where inputs are.
const INPUTS_DIR: &str = "/inputs";

const LONGEST_GRACE: u32 = 600;

/// Everything that the sandbox of a run is made from.
pub(crate) fn launch_request(
    row: &RunRow,
    version: &Version,
    files: &RunFiles,
    packages: &Path,
    authority: Option<&str>,
) -> io::Result<LaunchRequest> {
    let spec = &version.manifest.spec;
    let input = files.input(row.id)?;
    let package = packages.join(version.package.hex());
    let mut mounts = Vec::new();
    if spec.package.directory.is_some() {
        mounts.push((package.join("code"), "/app".to_owned()));
    }
    for (number, layer) in spec.package.layers.iter().enumerate() {
        mounts.push((package.join("layers").join(number.to_string()), layer.at.clone()));
    }
    // Where the agent's own files are: `/app` in the sandbox.
    let own = package.join(if spec.package.directory.is_some() { "code" } else { "root/app" });
    for skill in &spec.package.skills {
        mounts.push((own.join(skill.trim_end_matches('/')), format!("{SKILLS_DIR}/{}", skill_name(skill))));
    }
    let root_image = spec.package.oci_layout.is_some().then(|| package.join("root"));
    let trust = authority.map(|authority| trust::store(authority, root_image.as_deref()));
    let mut contract_files = vec![
        ("input.json".to_owned(), input_json(&input)),
        ("mcp.json".to_owned(), mcp_json()),
        // A label without power: who the run is, its listeners say.
        ("token".to_owned(), row.id.to_string().into_bytes()),
    ];
    let env = environment(row, version, trust.as_ref());
    contract_files.extend(trust.into_iter().flat_map(|trust| trust.files));
    Ok(LaunchRequest {
        run: row.id,
        run_dir: files.dir(row.id),
        profile: spec.sandbox.profile,
        resources: spec.sandbox.resources,
        root_image,
        package: version.package,
        mounts,
        workspace: (spec.sandbox.workspace.medium, spec.sandbox.workspace.from.as_ref().map(|from| own.join(from))),
        inputs: files.inputs(row.id)?,
        outputs: spec.sandbox.outputs.clone(),
        argv: spec.package.entrypoint.clone(),
        env,
        cwd: if spec.package.directory.is_some() { "/app" } else { "/work" }.to_owned(),
        files: contract_files,
        stdin: input,
        late_input: false,
        uid_slot: row.uid_slot.unwrap_or(0),
        grace: Duration::from_secs(spec.sandbox.grace_seconds.min(LONGEST_GRACE).into()),
        wall_clock: Duration::from_secs(spec.budgets.run.wall_clock_seconds),
    })
}

/// Input that is JSON is the file as it is; any other input is one JSON string.
pub(crate) fn input_json(input: &[u8]) -> Vec<u8> {
    if input.is_empty() {
        return b"null".to_vec();
    }
    if serde_json::from_slice::<serde::de::IgnoredAny>(input).is_ok() {
        return input.to_vec();
    }
    serde_json::Value::String(String::from_utf8_lossy(input).into_owned()).to_string().into_bytes()
}

fn mcp_json() -> Vec<u8> {
    let url = format!("http://127.0.0.1:{MCP_PORT}/mcp");
    serde_json::json!({ "mcpServers": { "cogward": { "type": "http", "url": url } } }).to_string().into_bytes()
}

fn environment(row: &RunRow, version: &Version, trust: Option<&Trust>) -> Vec<(String, String)> {
    let manifest = &version.manifest;
    let run = row.id.to_string();
    let model_base = format!("http://127.0.0.1:{MODEL_PORT}");
    let openai_base = format!("{model_base}/v1");
    let proxy = format!("http://127.0.0.1:{PROXY_PORT}");
    let mut contract: Vec<(&str, String)> = vec![
        ("PATH", "/usr/local/bin:/usr/bin:/bin".into()),
        ("HOME", "/work".into()),
        ("TMPDIR", "/tmp".into()),
        ("LANG", "C.UTF-8".into()),
        ("COGWARD_RUN_ID", run.clone()),
        ("COGWARD_TENANT", row.tenant.to_string()),
        ("COGWARD_AGENT", row.agent.to_string()),
        ("COGWARD_VERSION", row.version.to_string()),
        ("COGWARD_GOAL", one_line(&row.goal)),
        ("COGWARD_INPUT_FILE", "/run/cogward/input.json".into()),
        ("COGWARD_OUTPUT_FILE", OUTPUT_FILE.into()),
        ("COGWARD_TOKEN_FILE", "/run/cogward/token".into()),
        ("COGWARD_MCP_FILE", "/run/cogward/mcp.json".into()),
        ("OPENAI_BASE_URL", openai_base.clone()),
        ("OPENAI_API_BASE", openai_base),
        ("OPENAI_API_KEY", run.clone()),
        ("ANTHROPIC_BASE_URL", model_base),
        ("ANTHROPIC_AUTH_TOKEN", run.clone()),
        ("MCP_SERVER_URL", format!("http://127.0.0.1:{MCP_PORT}/mcp")),
        ("MCP_AUTH_TOKEN", run),
        ("NODE_USE_ENV_PROXY", "1".into()),
        // Side channels that would only be refused at the proxy, and make agents slow or noisy.
        ("OPENAI_AGENTS_DISABLE_TRACING", "1".into()),
        ("LANGSMITH_TRACING", "false".into()),
        ("LANGCHAIN_TRACING_V2", "false".into()),
        ("AUTOGEN_DISABLE_RUNTIME_TRACING", "true".into()),
        ("CREWAI_DISABLE_TELEMETRY", "true".into()),
        ("ANONYMIZED_TELEMETRY", "false".into()),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".into()),
        ("DO_NOT_TRACK", "1".into()),
        // The same input must be able to give the same run.
        ("PYTHONHASHSEED", "0".into()),
        ("PYTHONUNBUFFERED", "1".into()),
        ("PYTHONDONTWRITEBYTECODE", "1".into()),
    ];
    match manifest.spec.telemetry {
        Telemetry::Refuse => contract.push(("OTEL_SDK_DISABLED", "true".into())),
        Telemetry::Accept => {
            contract.push(("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{MODEL_PORT}/otlp")));
            contract.push(("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf".into()));
            contract.push(("OTEL_SERVICE_NAME", row.agent.to_string()));
        }
    }
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
        contract.push((name, proxy.clone()));
    }
    for name in ["NO_PROXY", "no_proxy"] {
        contract.push((name, "127.0.0.1,localhost".into()));
    }
    if !manifest.spec.package.skills.is_empty() {
        contract.push(("COGWARD_SKILLS_DIR", SKILLS_DIR.into()));
    }
    if !manifest.spec.sandbox.inputs.is_empty() {
        contract.push(("COGWARD_INPUTS_DIR", INPUTS_DIR.into()));
    }
    if let Some(model) = &manifest.spec.package.model {
        contract.push(("OPENAI_MODEL", model.name.clone()));
        contract.push(("OPENAI_DEFAULT_MODEL", model.name.clone()));
        contract.push(("ANTHROPIC_MODEL", model.name.clone()));
    }
    contract.extend(trust.into_iter().flat_map(|trust| trust.env.iter().cloned()));
    let inspected = manifest.spec.permissions.egress.iter().filter_map(|grant| grant.inspect.as_ref());
    let credentials: Vec<_> = inspected.filter_map(|inspect| inspect.credential.as_ref()).collect();
    for credential in &credentials {
        if let Some(name) = credential.env.as_deref().filter(|env| !contract.iter().any(|(n, _)| n == env)) {
            contract.push((name, credential.placeholder()));
        }
    }
    // The contract wins: a manifest cannot point an SDK past the gateways. It may extend the path to
    // programs, which is not part of the boundary.
    let given = &manifest.spec.package.environment;
    let own = |name: &str| name != "PATH" && contract.iter().any(|(n, _)| *n == name);
    let extra: Vec<(String, String)> =
        given.iter().filter(|(name, _)| !own(name)).map(|(n, v)| (n.clone(), v.clone())).collect();
    contract.retain(|(name, _)| *name != "PATH" || !given.contains_key("PATH"));
    contract.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(extra).collect()
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_always_json() {
        for (input, json) in [
            (&b""[..], &b"null"[..]),
            (b"{\"a\":1}", b"{\"a\":1}"),
            (b"plain", b"\"plain\""),
            (b"say \"hi\"\n", b"\"say \\\"hi\\\"\\n\""),
        ] {
            assert_eq!(input_json(input), json);
        }
        assert!(serde_json::from_slice::<serde_json::Value>(&input_json(&[0xff, 0x00])).is_ok());
    }
}
