//! Where the processes of tool servers come from: a port, since who confines them is not this crate's to know.
//!
//! A program that an operator names is as hostile as what it reads: it sees the arguments of every call, and its answers
//! go to agents. So it is started confined, or not at all; plainly only where the operator has said so.

use std::{collections::BTreeMap, fmt, future::Future, pin::Pin, process::Stdio, sync::Arc};

use cogward_model::{
    TenantName, UpstreamName,
    upstream::{Confinement, ToolSandbox},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    process::{Child, Command},
};

use crate::upstreams::Credential;

/// Where programs of the system are looked for by what a server starts.
pub const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A future that this port answers with.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Starts the processes of tool servers.
pub trait ServerProcesses: Send + Sync + fmt::Debug {
    /// Starts one, with nothing of this process's environment or descriptors.
    fn start<'a>(&'a self, program: &'a ServerProgram) -> Pending<'a, Result<ServerProcess, StartError>>;
}

/// What is started. Its credential is not shown.
#[derive(Debug, Clone)]
pub struct ServerProgram {
    /// The tenant whose server it is.
    pub tenant: TenantName,
    /// The server.
    pub server: UpstreamName,
    /// Absolute path of the program.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment, without secrets.
    pub env: BTreeMap<String, String>,
    /// The variable in which it gets its credential, and the credential.
    pub credential: Option<(String, Credential)>,
    /// What it is confined to.
    pub confinement: Confinement,
}

/// A process that runs.
pub struct ServerProcess {
    /// What is written here it reads.
    pub stdin: Box<dyn AsyncWrite + Send + Unpin>,
    /// What it answers.
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// What it complains of.
    pub stderr: Box<dyn AsyncRead + Send + Unpin>,
    /// Its life. Dropped, it ends with all that it has started.
    pub control: Box<dyn ProcessControl>,
}

/// The life of a process.
pub trait ProcessControl: Send {
    /// Waits for its end and says what it was. May be called again.
    fn ended(&mut self) -> Pending<'_, String>;

    /// Kills it and everything that it has started, and says how it ended.
    fn kill(&mut self) -> Pending<'_, String>;
}

impl fmt::Debug for ServerProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerProcess(..)")
    }
}

/// Why a process was not started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// It cannot be confined as it must be; nothing weaker was tried.
    #[error("{0}")]
    Refused(String),
    /// It could not be started this time.
    #[error("it cannot be started: {0}")]
    Failed(String),
}

/// Starts programs as the plane's own user: only those for which the operator has chosen that.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlainProcesses;

impl ServerProcesses for PlainProcesses {
    fn start<'a>(&'a self, program: &'a ServerProgram) -> Pending<'a, Result<ServerProcess, StartError>> {
        Box::pin(async move {
            match program.confinement.sandbox {
                ToolSandbox::None => plain(program),
                ToolSandbox::Standard => Err(StartError::Refused("there is nothing here that confines it".to_owned())),
            }
        })
    }
}

/// By default nothing is started that is to be confined.
pub(crate) fn by_default() -> Arc<dyn ServerProcesses> {
    Arc::new(PlainProcesses)
}

/// In a process group that ends as a whole, and not with what has left it.
fn plain(program: &ServerProgram) -> Result<ServerProcess, StartError> {
    let mut command = Command::new(&program.command);
    command
        .args(&program.args)
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .env("LANG", "C.UTF-8")
        .envs(&program.env)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if let Some((name, secret)) = &program.credential {
        command.env(name, secret.expose());
    }
    let mut child = command.spawn().map_err(|error| StartError::Failed(error.to_string()))?;
    let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(StartError::Failed("it has no standard streams".to_owned()));
    };
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    let control = Box::new(Group { child, group });
    Ok(ServerProcess { stdin: Box::new(stdin), stdout: Box::new(stdout), stderr: Box::new(stderr), control })
}

struct Group {
    child: Child,
    group: Option<rustix::process::Pid>,
}

impl Group {
    fn signal(&mut self) {
        // Once: the number may be another's later.
        if let Some(group) = self.group.take() {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

impl ProcessControl for Group {
    fn ended(&mut self) -> Pending<'_, String> {
        Box::pin(async move {
            let status = self.child.wait().await;
            // Also what it started itself, which may hold its pipes open.
            self.signal();
            status.map_or_else(|error| error.to_string(), |status| status.to_string())
        })
    }

    fn kill(&mut self) -> Pending<'_, String> {
        self.signal();
        self.ended()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    fn program(command: &str, args: &[&str], sandbox: ToolSandbox) -> ServerProgram {
        ServerProgram {
            tenant: "default".parse().unwrap(),
            server: "s".parse().unwrap(),
            command: command.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: BTreeMap::new(),
            credential: None,
            confinement: Confinement { sandbox, ..Confinement::default() },
        }
    }

    #[tokio::test]
    async fn what_is_to_be_confined_is_not_started_plainly() {
        let confined = program("/bin/true", &[], ToolSandbox::Standard);
        assert!(matches!(PlainProcesses.start(&confined).await, Err(StartError::Refused(_))));
        let missing = program("/nonexistent", &[], ToolSandbox::None);
        assert!(matches!(PlainProcesses.start(&missing).await, Err(StartError::Failed(_))));
    }

    #[tokio::test]
    async fn a_plain_process_ends_with_its_group() {
        let script = "sleep 600 & echo $!; wait";
        let program = program("/bin/sh", &["-c", script], ToolSandbox::None);
        let mut process = PlainProcesses.start(&program).await.unwrap();
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            line.push(process.stdout.read_u8().await.unwrap());
        }
        let child: i32 = String::from_utf8(line).unwrap().trim().parse().unwrap();
        assert!(process.control.kill().await.contains("signal"));
        let gone = async {
            while std::fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| !stat.contains(") Z")) {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), gone).await.unwrap();
    }
}
