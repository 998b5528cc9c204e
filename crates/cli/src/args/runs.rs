//! `cogward run`.

use std::{path::PathBuf, str::FromStr};

use clap::{Args, Subcommand};
use cogward_model::{AgentName, ContentName, RunId, TenantName, VersionLabel, run::RunState};

use super::{LimitFlag, OutsideClientFlags, ReasonFlag, ReasonMaybe, TenantFlag};

/// `run`
#[derive(Debug, Subcommand)]
pub enum Run {
    /// Start a run of a registered version
    #[command(after_help = "Returns when the agent runs, or after five seconds of starting.\n\n\
        With --wait, what happens is told on standard error until the run has ended, and its output\n\
        goes to standard output. Then it exits 0 when the run succeeded, else 1; 124 when the time is over,\n\
        and the run goes on.\n\n\
        Examples:\n  \
        cogward run start claims-triage --input claim.json --wait\n  \
        cogward run start claims-triage --input-file claims=claims.csv --wait\n  \
        echo '{\"claim\": 17}' | cogward run start claims-triage --input - --as anna@bank.example\n  \
        RUN=$(cogward run start claims-triage -o name)")]
    Start(RunStart),
    /// List runs, newest first
    #[command(after_help = "Examples:\n  cogward run list --state running\n  \
        cogward run list --agent claims-triage --limit 20 -o jsonl")]
    List {
        /// Only of this tenant
        #[arg(long, value_name = "TENANT")]
        tenant: Option<TenantName>,
        /// Only of this agent
        #[arg(long, value_name = "AGENT")]
        agent: Option<AgentName>,
        /// Only in this state: starting, running, suspended, stopping, succeeded, failed, cancelled, killed
        #[arg(long, value_name = "STATE")]
        state: Option<RunState>,
        #[command(flatten)]
        limit: LimitFlag,
    },
    /// Show a run: its state, what it has used, what it may use
    Show {
        /// The run
        run: RunId,
    },
    /// Print what a run has printed
    #[command(after_help = "Example:\n  cogward run logs RUN --follow")]
    Logs {
        /// The run
        run: RunId,
        /// Which of its outputs
        #[arg(long, value_enum, default_value_t, value_name = "STREAM")]
        stream: LogStream,
        /// Go on until the run has ended
        #[arg(short, long)]
        follow: bool,
    },
    /// Print the OpenTelemetry exports of a run, one JSON object a line
    #[command(after_help = "Example:\n  cogward run telemetry RUN | jq .items")]
    Telemetry {
        /// The run
        run: RunId,
    },
    /// List what became of a run's declared outputs
    Artifacts {
        /// The run
        run: RunId,
    },
    /// Download an output of a run and check its digest
    #[command(
        after_help = "A directory is unpacked. Nothing is overwritten, and what does not have the digest that the\n\
        evidence has is not kept: then it exits 9.\n\n\
        Example:\n  cogward run artifact RUN report --to report.pdf"
    )]
    Artifact {
        /// The run
        run: RunId,
        /// The output
        name: ContentName,
        /// Where to put it; its name, in the current directory, unless said
        #[arg(long, value_name = "PATH")]
        to: Option<PathBuf>,
    },
    /// Freeze runs and hold their calls
    #[command(after_help = "Example:\n  cogward run suspend RUN --reason \"looks odd, asking the owner\"")]
    Suspend(RunCommand),
    /// Let suspended runs go on
    #[command(after_help = "Example:\n  cogward run resume RUN --reason \"the owner says it is fine\"")]
    Resume(RunCommand),
    /// Ask runs to end, and kill them after their grace period
    #[command(after_help = "Example:\n  cogward run cancel RUN --reason \"no longer needed\"")]
    Cancel(RunCommand),
    /// End runs now
    #[command(
        after_help = "The receipt has the measured times: until no call was admitted any more, and until the last\n\
        process was gone.\n\n\
        Examples:\n  \
        cogward run kill RUN --reason \"incident 4711\"\n  \
        cogward run list --agent claims-triage --state running -o name \\\n      \
        | xargs cogward run kill --reason \"incident 4711\" --yes"
    )]
    Kill(RunCommand),
    /// Watch what happens to a run until it has ended
    Watch {
        /// The run
        run: RunId,
        #[command(flatten)]
        timeout: TimeoutFlag,
    },
}

/// `run start`
#[derive(Debug, Args)]
pub struct RunStart {
    /// The agent
    pub agent: AgentName,
    #[command(flatten)]
    pub tenant: TenantFlag,
    /// The version; the latest registered unless said
    #[arg(long, value_name = "VERSION")]
    pub version: Option<VersionLabel>,
    /// What the agent gets on its standard input, at most 1 MiB of text; `-` reads it from standard input
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// A file or directory for an input that the version declares; the agent finds it at /inputs/NAME, read-only
    #[arg(long = "input-file", value_name = "NAME=PATH")]
    pub input_files: Vec<InputFile>,
    /// The user for whom the run acts; a user-delegated agent must have one
    #[arg(long = "as", value_name = "USER")]
    pub as_user: Option<String>,
    #[command(flatten)]
    pub outside: OutsideClientFlags,
    #[command(flatten)]
    pub reason: ReasonMaybe,
    /// Wait until the run has ended and exit by its outcome
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub timeout: TimeoutFlag,
}

/// An input and what is given for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFile {
    /// The input.
    pub name: ContentName,
    /// The file or directory.
    pub path: PathBuf,
}

impl FromStr for InputFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once('=').ok_or("write it as NAME=PATH")?;
        let name = name.parse().map_err(|error: cogward_model::name::ParseNameError| error.to_string())?;
        if path.is_empty() { Err("the path is empty".to_owned()) } else { Ok(Self { name, path: path.into() }) }
    }
}

/// A lifecycle command.
#[derive(Debug, Args)]
pub struct RunCommand {
    /// The runs
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<RunId>,
    #[command(flatten)]
    pub reason: ReasonFlag,
    /// Do not wait until the effect is true; prints operations that may be pending
    #[arg(long)]
    pub no_wait: bool,
    #[command(flatten)]
    pub timeout: TimeoutFlag,
    /// Do it to more than ten runs at once
    #[arg(long)]
    pub yes: bool,
}

/// How long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub struct TimeoutFlag {
    /// Wait no longer than this, then exit 124
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub timeout: Option<u64>,
}

impl TimeoutFlag {
    /// The end of the wait.
    pub fn until(self) -> Option<std::time::Instant> {
        self.timeout.and_then(|s| std::time::Instant::now().checked_add(std::time::Duration::from_secs(s)))
    }
}

/// Which of a run's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogStream {
    /// Standard output
    #[default]
    Stdout,
    /// Standard error
    Stderr,
}
