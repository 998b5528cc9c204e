//! What the commands do, a module per noun. Each makes requests and shows the answers; none decides
//! anything that the plane should decide.

mod agents;
mod approvals;
mod archive;
mod credentials;
mod doctor;
mod events;
mod evidence;
mod files;
mod floors;
mod issuers;
mod keys;
mod login;
mod memory;
mod operators;
mod packages;
mod policies;
mod providers;
mod redactions;
mod runs;
mod serve;
mod tenants;
mod timestamps;
mod tool_servers;
mod tools;
mod verify;
mod waiting;
mod witnesses;

use std::path::Path;

use crate::{
    args::{self, Command},
    client::Client,
    exit::{Exit, Failure},
    output::Output,
    settings::{PlaneFlags, Settings, Variables},
};

/// What a command has to work with.
pub struct Session<'a> {
    /// Where output goes.
    pub output: Output<'a>,
    /// Flags about the plane.
    pub plane: PlaneFlags,
    /// The environment.
    pub variables: Variables<'a>,
}

impl Session<'_> {
    /// A client of the plane that is meant.
    pub fn client(&self) -> Result<Client, Failure> {
        Settings::resolve(&self.plane, self.variables).map(Client::new)
    }
}

/// Carries a command out. `Ok` is how it ended; it has said everything already.
pub fn run(command: Command, session: &mut Session<'_>) -> Result<Exit, Failure> {
    match command {
        Command::Serve(serve) => serve::run(*serve, session),
        Command::Doctor(doctor) => doctor::run(&doctor, session),
        Command::Verify(args::Verify::Sandbox { profile, format, drivers }) => {
            verify::sandbox(profile.into(), format, &drivers, session)
        }
        Command::Agent(agent) => agents::run(agent, session),
        Command::ToolServer(tool_server) => tool_servers::run(tool_server, session),
        Command::Tool(tool) => tools::run(tool, session),
        Command::Memory(memory) => memory::run(memory, session),
        Command::Provider(provider) => providers::run(provider, session),
        Command::Credential(credential) => credentials::run(credential, session),
        Command::Issuer(issuer) => issuers::run(issuer, session),
        Command::Run(run) => runs::run(run, session),
        Command::Evidence(evidence) => evidence::run(evidence, session),
        Command::Witness(witness) => witnesses::run(witness, session),
        Command::Event(args::Event::Watch { tenant, run, cursor, limit }) => {
            events::watch(cogward_api::EventQuery { tenant, run, cursor }, limit.limit, session)
        }
        Command::Tenant(tenant) => tenants::run(tenant, session),
        Command::Floor(floor) => floors::run(floor, session),
        Command::Policy(policy) => policies::run(policy, session),
        Command::Approval(approval) => approvals::run(approval, session),
        Command::Operator(operator) => operators::run(operator, session),
        Command::Operation(args::Operation::Show { operation }) => {
            let operation: cogward_api::Operation = session.client()?.get(&cogward_api::paths::operation(operation))?;
            session.output.one(&operation).map(|()| Exit::Done)
        }
        Command::Plane(args::Plane::Show) => {
            let plane: cogward_api::Plane = session.client()?.get(cogward_api::paths::PLANE)?;
            session.output.one(&plane).map(|()| Exit::Done)
        }
        Command::Login(login) => login::run(&login, session),
        Command::Context(context) => login::context(&context, session),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut <args::Cli as clap::CommandFactory>::command(), "cogward", &mut script);
            session.output.data(&script).map(|()| Exit::Done)
        }
    }
}

/// Text from a file, or from standard input for `-`, that has at most `max` bytes.
fn read_text(file: &Path, what: &str, max: usize) -> Result<String, Failure> {
    use std::io::Read;
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    read.map_err(|error| Failure::local(format!("cannot read {what} in {}", file.display()), error))?;
    if bytes.len() > max {
        return Err(Failure::usage(format!("{what} has more than {max} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| Failure::usage(format!("{what} is not UTF-8 text")))
}
