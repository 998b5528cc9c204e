//! The manifest that `cogward agent init` writes.

/// A commented manifest for an agent of that name. It passes [`super::parse`] when `name` is the name
/// of an agent; what it permits must be registered with the plane.
#[must_use]
pub fn template(name: &str) -> String {
    format!(
        r#"# All that this agent is and may do. What is not written here is refused.
# Every field: docs/manifest.md
apiVersion: cogward.dev/v1alpha1
kind: Agent
metadata:
  name: {name}
  tenant: default
  version: "0.1.0"            # a label is used once; the digest is what counts
  owner: my-team              # the team that runs it
  sponsor: someone@example.com # the person who is accountable for it
  costCentre: CC-0000
spec:
  goal: Say in one sentence what a run is to achieve.
  autonomy: supervised        # user-delegated, supervised or autonomous
  tier: development           # staging and production need an OCI layout instead of a directory
  package:
    directory: .              # the code, relative to this file
    entrypoint: [python3, agent.py]
    # prompts: [prompts/system.md]
    # model:
    #   name: my-model        # one of spec.permissions.models
    # tools: [files/read_text_file]
  permissions: {{}}             # nothing is permitted yet; for example:
    # tools:
    #   - server: files       # cogward tool-server add files ...
    #     allow: [read_text_file]
    # models:
    #   - provider: my-provider # cogward provider add my-provider ...
    #     name: my-model
    #     maxOutputTokens: 1024
    # egress:
    #   - host: api.example.com
    #     port: 443
  sandbox:
    profile: standard
    resources:
      cpuMillis: 1000
      memoryMib: 512
      pids: 128
      workspaceMib: 64        # in memory, and part of memoryMib
      openFiles: 1024
    graceSeconds: 10
  budgets:
    run:
      tokens: 50000
      costUsd: "0.50"
      toolCalls: 50
      wallClockSeconds: 600
  evidence:
    retentionDays: 2555
"#
    )
}
