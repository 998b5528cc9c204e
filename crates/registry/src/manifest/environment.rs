//! Environment variables that a manifest may set, and those that it must not.

/// Variables of the run contract, and those through which code is injected into every program.
const RESERVED: &[&str] = &[
    "ALL_PROXY",
    "ANTHROPIC_BASE_URL",
    "BASH_ENV",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
    "ENV",
    "FTP_PROXY",
    "GCONV_PATH",
    "GOOGLE_GEMINI_BASE_URL",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LANGCHAIN_TRACING_V2",
    "LANGSMITH_TRACING",
    "LOCPATH",
    "MCP_SERVER_URL",
    "MALLOC_CHECK_",
    "NODE_EXTRA_CA_CERTS",
    "NODE_OPTIONS",
    "NODE_USE_ENV_PROXY",
    "NO_PROXY",
    "OPENAI_AGENTS_DISABLE_TRACING",
    "OPENAI_API_BASE",
    "OPENAI_BASE_URL",
    "OPENAI_CUSTOM_HEADERS",
    "PERL5OPT",
    "PYTHONHASHSEED",
    "PYTHONSTARTUP",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TRACEPARENT",
];
const RESERVED_PREFIXES: &[&str] = &["COGWARD_", "LD_", "OTEL_EXPORTER_"];

/// Words that end the name of a secret.
const SECRET_WORDS: &[&str] = &[
    "APIKEY",
    "CREDENTIAL",
    "CREDENTIALS",
    "KEY",
    "PASSPHRASE",
    "PASSWD",
    "PASSWORD",
    "PAT",
    "PRIVATEKEY",
    "PWD",
    "SECRET",
    "SECRETS",
    "TOKEN",
];
/// How well-known keys begin.
const SECRET_STARTS: &[&str] = &[
    "-----BEGIN",
    "AIza",
    "AKIA",
    "ASIA",
    "Bearer ",
    "eyJhbGci",
    "ghp_",
    "gho_",
    "ghs_",
    "github_pat_",
    "glpat-",
    "hf_",
    "sk-",
    "sk_live_",
    "xoxb-",
    "xoxp-",
];

/// What is wrong with a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The name is not one.
    Name,
    /// The plane sets it, or it would run code in every program.
    Reserved,
    /// The name says that it is a secret.
    SecretName,
    /// The value looks like a well-known kind of key.
    SecretValue,
}

/// Variables that the plane sets in every run and whose names say nothing of it.
const CONTRACT: &[&str] =
    &["ANTHROPIC_AUTH_TOKEN", "HOME", "LANG", "MCP_AUTH_TOKEN", "OPENAI_API_KEY", "PATH", "TMPDIR"];

/// Whether a variable may carry a placeholder. It may be named like a secret: it stands for one.
pub(crate) fn is_free(name: &str) -> bool {
    !matches!(judge(name, ""), Some(Fault::Name | Fault::Reserved))
        && !CONTRACT.contains(&name.to_ascii_uppercase().as_str())
}

/// Judges one variable.
pub(crate) fn judge(name: &str, value: &str) -> Option<Fault> {
    let letters = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if name.is_empty() || !name.bytes().all(letters) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Some(Fault::Name);
    }
    // Some programs read the lower-case forms of the proxy variables, some only those.
    let upper = name.to_ascii_uppercase();
    if RESERVED.contains(&upper.as_str()) || RESERVED_PREFIXES.iter().any(|p| upper.starts_with(p)) {
        return Some(Fault::Reserved);
    }
    let last = upper.rsplit('_').find(|part| !part.is_empty()).unwrap_or_default();
    let run_together = ["APIKEY", "TOKEN", "SECRET", "PASSWORD"].iter().any(|w| upper.ends_with(w));
    if SECRET_WORDS.contains(&last) || run_together {
        return Some(Fault::SecretName);
    }
    if SECRET_STARTS.iter().any(|start| value.starts_with(start)) {
        return Some(Fault::SecretValue);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_set() {
        for (name, value) in [
            ("PYTHONPATH", "/opt/site"),
            ("MAX_TOKENS", "5"),
            ("TOKENIZERS_PARALLELISM", "false"),
            ("MONKEY", "x"),
            ("LANG", "C.UTF-8"),
            ("KEYBOARD", "de"),
            ("_x", ""),
        ] {
            assert_eq!(judge(name, value), None, "{name}");
        }
        for name in ["1A", "A-B", "", "A=B", "Ä"] {
            assert_eq!(judge(name, ""), Some(Fault::Name), "{name}");
        }
        for name in ["COGWARD_RUN_ID", "cogward_x", "http_proxy", "LD_PRELOAD", "OPENAI_BASE_URL", "NODE_OPTIONS"] {
            assert_eq!(judge(name, ""), Some(Fault::Reserved), "{name}");
        }
        for name in ["OPENAI_API_KEY", "DB_PASSWORD", "githubtoken", "AWS_SECRET_ACCESS_KEY", "MY_SECRET_", "APIKEY"] {
            assert_eq!(judge(name, ""), Some(Fault::SecretName), "{name}");
        }
        assert_eq!(judge("SETTING", "sk-abc"), Some(Fault::SecretValue));
    }
}
