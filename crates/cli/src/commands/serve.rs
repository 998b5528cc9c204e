//! `cogward serve`: the plane, in this process.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use cogward_ledger::policy::{POLICY_BYTES_MAX, Policy};
use tokio::signal::unix::{SignalKind, signal};

use super::Session;
use crate::{
    args::{KeyPlace, LogFormat, Serve, TokenFlags, WitnessFlags},
    exit::{Exit, Failure},
    settings,
};

/// Who the witnesses are, and how many are enough.
fn witnesses(flags: &WitnessFlags) -> Result<Policy, Failure> {
    if let Some(file) = &flags.witness_policy {
        let text = super::read_text(file, "the policy of witnesses", POLICY_BYTES_MAX)?;
        return Policy::parse(&text).map_err(|error| Failure::usage(format!("{}: {error}", file.display())));
    }
    let mut named = Vec::with_capacity(flags.witness.len());
    for (url, key) in &flags.witness {
        let key = key.parse().map_err(|_| {
            Failure::usage(format!("`{key}` is not the key of a witness")).next("`cogward witness key` prints it")
        })?;
        named.push((key, Some(url.clone())));
    }
    let least = flags.witness_quorum.unwrap_or(named.len());
    Policy::of(named, least).map_err(|error| Failure::usage(format!("the witnesses: {}", error.why)))
}

/// In which tokens the keys of logs are. What was given is not repeated: somebody may have written a PIN into it.
fn tokens(flags: &TokenFlags) -> Result<cogward_server::TokenOptions, Failure> {
    if flags.log_keys.len() > cogward_server::TOKENS_MAX {
        return Err(Failure::usage(format!("--log-keys names more than {} tokens", cogward_server::TOKENS_MAX)));
    }
    let read = |uri: &String| {
        uri.parse().map_err(|error| Failure::usage(format!("--log-keys: {error}")).next("docs/hsm.md has an example"))
    };
    let tokens = flags.log_keys.iter().map(read).collect::<Result<Vec<_>, Failure>>()?;
    Ok(cogward_server::TokenOptions { tokens, new_keys_in_files: flags.new_log_keys == KeyPlace::File })
}

/// Runs the plane until it is asked to stop and has drained.
pub fn run(serve: Serve, session: &mut Session<'_>) -> Result<Exit, Failure> {
    // No TLS yet: an address that others reach would carry credentials in clear.
    if !serve.listen.ip().is_loopback() {
        return Err(Failure::usage(format!("{} is not a loopback address", serve.listen))
            .next("listen on 127.0.0.1 and let a TLS proxy of yours stand before it"));
    }
    if let Some(listen) = serve.outside.mcp_listen.filter(|listen| !listen.ip().is_loopback()) {
        return Err(Failure::usage(format!("{listen} is not a loopback address"))
            .next("listen on 127.0.0.1 and let a TLS proxy of yours stand before it; --mcp-url is what clients see"));
    }
    if let Some(listen) = serve.witnesses.log_listen.filter(|listen| !listen.ip().is_loopback()) {
        return Err(Failure::usage(format!("{listen} is not a loopback address"))
            .next("listen on 127.0.0.1 and let a web server of yours stand before it"));
    }
    let witnesses = witnesses(&serve.witnesses)?;
    let archive = super::archive::options(serve.archive.clone())?;
    let tokens = tokens(&serve.tokens)?;
    log_to_stderr(&serve)?;
    let data_dir = serve.data_dir.unwrap_or_else(|| settings::data_dir(session.variables));
    let supervisor_exe =
        std::env::current_exe().map_err(|error| Failure::local("cannot find this program's own file", error))?;
    let mut egress_hosts: HashMap<String, Vec<SocketAddr>> = HashMap::new();
    for (host, address) in serve.egress_host {
        egress_hosts.entry(host).or_default().push(address);
    }
    let sandboxes = settings::sandbox_config(&serve.drivers, session.variables)?;
    let outside = serve.outside.mcp_listen.map(|listen| cogward_server::OutsideOptions {
        listen,
        url: serve.outside.mcp_url.clone(),
        idle: Duration::from_secs(serve.outside.mcp_idle.into()),
    });
    let options = cogward_server::ServeOptions {
        outside,
        four_eyes: serve.policy_four_eyes,
        policy_solver: serve.policy_solver,
        log_listen: serve.witnesses.log_listen,
        witnesses,
        timestamps: cogward_server::Timestamping {
            urls: serve.timestamps.timestamp,
            every: Duration::from_secs(serve.timestamps.timestamp_every.into()),
        },
        archive,
        tokens,
        data_dir,
        listen: serve.listen,
        supervisor_exe,
        egress_hosts,
        sandboxes,
        attesting: cogward_server::Attesting {
            every: Duration::from_secs(serve.attest_every.into()),
            ..cogward_server::Attesting::default()
        },
    };

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::local("cannot start the runtime", error))?;
    runtime.block_on(async {
        let failed = |error| Failure::local("cannot listen for signals", error);
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        // Its terminal was closed.
        let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
                _ = hangup.recv() => tracing::info!("SIGHUP: draining"),
                _ = interrupt.recv() => tracing::info!("interrupted: draining"),
            }
        };
        cogward_server::serve(options, shutdown).await.map_err(|error| {
            let mut cause = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(inner) = source {
                cause.push_str(&format!(": {inner}"));
                source = inner.source();
            }
            use cogward_server::{DataDirError, ServeError};
            match error {
                ServeError::DataDir(DataDirError::Locked { .. }) => Failure::new(Exit::Conflict, cause),
                ServeError::Listen(_) => Failure::new(Exit::Failed, cause)
                    .next("name another port with --listen; port 0 takes a free one and writes it to plane.json"),
                ServeError::DataDir(_) => Failure::new(Exit::Failed, cause)
                    .next("name a directory that is yours alone, or one that does not exist yet, with --data-dir"),
                _ => Failure::new(Exit::Failed, cause).next("nothing was changed; docs/operations.md says more"),
            }
        })
    })?;
    Ok(Exit::Done)
}

/// The plane's own log. Standard output is kept for what a script reads: the address, the credential.
fn log_to_stderr(serve: &Serve) -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::try_new(&serve.log)
        .map_err(|error| Failure::usage(format!("--log `{}` is not a filter: {error}", serve.log)))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    let set = match serve.log_format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    set.map_err(|error| Failure::new(Exit::Failed, format!("cannot start the log: {error}")))
}
