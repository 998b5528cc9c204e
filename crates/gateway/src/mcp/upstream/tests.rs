//! Registrations that cannot work, and servers that do not start.

mod exchanges;
mod scripted;

use cogward_model::upstream::ToolServer;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::*;

fn client(transport: Value, credential: Option<&str>) -> ToolServerClient {
    let server = json!({"tenant": "default", "name": "s", "transport": transport});
    let server: ToolServer = serde_json::from_value(server).unwrap();
    ToolServerClient::new(server, credential.map(|secret| Credential::new(Zeroizing::new(secret.to_owned()))))
}

#[tokio::test]
async fn a_registration_that_cannot_work_says_what_to_mend_and_never_the_credential() {
    let http = |url: &str| json!({"kind": "http", "url": url});
    for (transport, credential, cause) in [
        (json!({"kind": "stdio", "command": "python3"}), None, "absolute path"),
        (json!({"kind": "stdio", "command": "/bin/true"}), Some("s3cret"), "credential_env"),
        (json!({"kind": "stdio", "command": "/bin/true", "env": {"A=B": "x"}}), None, "`env`"),
        (http("http://10.0.0.1/mcp"), None, "only for a loopback"),
        (http("http://localhost.evil.example/mcp"), None, "only for a loopback"),
        (http("ftp://127.0.0.1/"), None, "https://"),
        (http("https://user:pw@example.com/"), None, "no user"),
        (http("/mcp"), None, "host"),
        (http("https://example.com/mcp"), Some("s3cret\n"), "cannot stand in a header"),
        (
            json!({"kind": "http", "url": "https://example.com", "credential_header": "host"}),
            Some("s3cret"),
            "cannot be `host`",
        ),
    ] {
        match client(transport, credential).tools().await {
            Err(UpstreamError::Unusable { cause: said, .. }) => {
                assert!(said.contains(cause) && !said.contains("s3cret"), "{said}");
            }
            other => panic!("{cause}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_does_not_start_is_not_started_without_end() {
    let gone = client(json!({"kind": "stdio", "command": "/nonexistent/server"}), None);
    assert!(gone.tools().await.unwrap_err().to_string().contains("cannot be started"));
    assert!(gone.tools().await.unwrap_err().to_string().contains("is tried again in"));
    let mute = client(json!({"kind": "stdio", "command": "/bin/true"}), None);
    let error = mute.tools().await.unwrap_err();
    assert!(matches!(error, UpstreamError::Unavailable { .. }), "{error}");
}
