//! What the tests of this crate share: one small manifest.

use cogward_model::manifest::Manifest;

/// An agent with two read tools, one model and one host.
pub fn manifest() -> Manifest {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "cogward.dev/v1alpha1", "kind": "Agent",
        "metadata": {"name": "reader", "tenant": "default", "version": "1", "owner": "team", "sponsor": "ada@example.com", "costCentre": "c1"},
        "spec": {
            "goal": "read", "autonomy": "supervised",
            "package": {"directory": ".", "entrypoint": ["python3", "agent.py"]},
            "permissions": {
                "tools": [{"server": "files", "allow": ["read_text_file", "list_directory"]}],
                "models": [{"provider": "scripted", "name": "demo-model", "maxOutputTokens": 256}],
                "egress": [{"host": "api.example.com", "port": 443}]
            },
            "budgets": {"run": {"tokens": 10000, "costUsd": "1.00", "toolCalls": 10, "wallClockSeconds": 60}}
        }
    }))
    .unwrap()
}
