//! `cogward run`.

use std::io::{IsTerminal, Read};

use cogward_api::{LogQuery, LogStream, Operation, OperationState, Reason, Run, RunQuery, paths, paths::RunCommand};
use cogward_model::{
    RunId, limits,
    outside::{Binding, OutsideClient},
    run::RunState,
};

use super::{Session, events, files, read_text, waiting};
use crate::{
    args,
    client::Client,
    exit::{Exit, Failure, printable},
    output::Format,
    show::event_line,
};

/// More runs than this at once must be confirmed with `--yes`.
const UNCONFIRMED_MAX: usize = 10;
/// How often a log is asked for more.
const FOLLOW_EVERY: std::time::Duration = std::time::Duration::from_millis(300);

pub fn run(command: args::Run, session: &mut Session<'_>) -> Result<Exit, Failure> {
    match command {
        args::Run::Start(start) => self::start(start, session),
        args::Run::List { tenant, agent, state, limit } => {
            let query = RunQuery { tenant, agent, state, ..RunQuery::default() };
            let runs: Vec<Run> = session.client()?.list(paths::RUNS, &query, limit.count())?;
            session.output.list(&runs).map(|()| Exit::Done)
        }
        args::Run::Show { run } => {
            let run: Run = session.client()?.get(&paths::run(run))?;
            session.output.one(&run).map(|()| Exit::Done)
        }
        args::Run::Telemetry { run } => telemetry(run, session),
        args::Run::Logs { run, stream, follow } => logs(run, stream, follow, session),
        args::Run::Artifacts { run } => files::list(run, session),
        args::Run::Artifact { run, name, to } => files::fetch(run, &name, to, session),
        args::Run::Suspend(command) => move_runs(RunCommand::Suspend, &command, session),
        args::Run::Resume(command) => move_runs(RunCommand::Resume, &command, session),
        args::Run::Cancel(command) => move_runs(RunCommand::Cancel, &command, session),
        args::Run::Kill(command) => move_runs(RunCommand::Kill, &command, session),
        args::Run::Watch { run, timeout } => watch(run, timeout, session),
    }
}

/// The client outside that is to act in a run. It comes with bound tokens, unless it is found to come without.
fn outside(flags: args::OutsideClientFlags) -> Option<OutsideClient> {
    let (issuer, client) = (flags.outside?, flags.client?);
    let subject = flags.subject.unwrap_or_else(|| client.clone());
    Some(OutsideClient { issuer, client, subject, binding: Binding::Dpop })
}

fn start(start: args::RunStart, session: &mut Session<'_>) -> Result<Exit, Failure> {
    let input =
        start.input.as_deref().map(|file| read_text(file, "the input", limits::RUN_INPUT_BYTES_MAX)).transpose()?;
    let client = session.client()?;
    let of = (&start.tenant.tenant, &start.agent, start.version.as_ref());
    let inputs = files::send(&client, of, &start.input_files)?;
    let request = cogward_api::RunStart {
        tenant: start.tenant.tenant,
        agent: start.agent,
        version: start.version,
        input,
        inputs,
        as_user: start.as_user,
        outside: outside(start.outside),
        reason: start.reason.reason,
    };
    let until = start.timeout.until();
    let run: Run = client.post(paths::RUNS, &request)?;
    if !start.wait {
        let run = waiting::until_launched(&client, run, until);
        return session.output.one(&run).map(|()| Exit::Done);
    }
    waiting::on_interrupt(format!("{} goes on. Watch it with: cogward run watch {}", run.id, run.id));
    session.output.say(&format!("{} {} {}", run.id, run.agent, run.version));
    let output = &mut session.output;
    let ended = waiting::until_end(&client, run.id, until, &mut |event| {
        output.say(&event_line(event));
        Ok(())
    })?;
    session.output.say(&summary(&ended));
    if session.output.format == Format::Table {
        if let Some(text) = &ended.output {
            data(session, text.as_bytes())?;
            if !text.is_empty() && !text.ends_with('\n') {
                session.output.data(b"\n")?;
            }
        }
    } else {
        session.output.one(&ended)?;
    }
    Ok(outcome(ended.state))
}

/// The exit code of a run that has ended.
fn outcome(state: RunState) -> Exit {
    if state == RunState::Succeeded { Exit::Done } else { Exit::Failed }
}

/// How a run ended, in one line.
fn summary(run: &Run) -> String {
    let usage = &run.usage;
    let mut text = format!(
        "{} {}: {} tokens, ${}, tool calls: {}, refusals: {}",
        run.id, run.state, usage.tokens, usage.cost_usd, usage.tool_calls, usage.refusals
    );
    if let Some(cause) = &run.fail_cause {
        text.push_str(&format!("\n  cause: {cause}"));
    }
    if run.state != RunState::Succeeded {
        text.push_str(&format!(
            "\n  next: cogward run logs {} --stream stderr; cogward evidence show --run {}",
            run.id, run.id
        ));
    }
    text
}

/// What an agent wrote. A terminal does not get its control characters: they could rewrite the screen.
fn data(session: &mut Session<'_>, bytes: &[u8]) -> Result<(), Failure> {
    if std::io::stdout().is_terminal() {
        session.output.data(printable(&String::from_utf8_lossy(bytes)).as_bytes())
    } else {
        session.output.data(bytes)
    }
}

fn telemetry(run: RunId, session: &mut Session<'_>) -> Result<Exit, Failure> {
    let client = session.client()?;
    let mut lines = client.read(&paths::run_telemetry(run), "application/x-ndjson")?;
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let read = lines
            .read(&mut chunk)
            .map_err(|error| Failure::new(Exit::Unreachable, format!("the plane broke off: {error}")))?;
        if read == 0 {
            return Ok(Exit::Done);
        }
        data(session, chunk.get(..read).unwrap_or_default())?;
    }
}

fn logs(run: RunId, stream: args::LogStream, follow: bool, session: &mut Session<'_>) -> Result<Exit, Failure> {
    let stream = match stream {
        args::LogStream::Stdout => LogStream::Stdout,
        args::LogStream::Stderr => LogStream::Stderr,
    };
    let client = session.client()?;
    let mut offset = 0_u64;
    loop {
        // Looked at before the log is read: what was printed before the end is then in it.
        let ended = !follow || client.get::<Run>(&paths::run(run))?.state.is_final();
        let query = LogQuery { stream, offset: (offset > 0).then_some(offset) };
        let path = paths::with_query(&paths::run_logs(run), &query)
            .map_err(|error| Failure::local("cannot make the request", error))?;
        let mut text = client.read(&path, "text/plain")?;
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let read = text
                .read(&mut chunk)
                .map_err(|error| Failure::new(Exit::Unreachable, format!("the plane broke off: {error}")))?;
            if read == 0 {
                break;
            }
            offset += read as u64;
            data(session, chunk.get(..read).unwrap_or_default())?;
        }
        if ended {
            return Ok(Exit::Done);
        }
        std::thread::sleep(FOLLOW_EVERY);
    }
}

fn move_runs(verb: RunCommand, command: &args::RunCommand, session: &mut Session<'_>) -> Result<Exit, Failure> {
    if command.runs.len() > UNCONFIRMED_MAX && !command.yes {
        return Err(Failure::usage(format!("this would {} {} runs", verb.as_str(), command.runs.len()))
            .next("add --yes to mean it"));
    }
    let client = session.client()?;
    let until = command.timeout.until();
    let reason = Reason { reason: command.reason.reason.clone() };
    let (mut done, mut first_failure) = (Vec::new(), None::<Failure>);
    for run in &command.runs {
        match move_run(&client, *run, verb, &reason, command.no_wait, until) {
            Ok(operation) => done.push(operation),
            // Each run is tried: one that has ended already must not save the others from a kill.
            Err(failure) if command.runs.len() > 1 => {
                session.output.say(&format!("{run}: {}", failure.report().trim_end()));
                first_failure.get_or_insert(failure);
            }
            Err(failure) => return Err(failure),
        }
    }
    match done.as_slice() {
        [] => {}
        [operation] if command.runs.len() == 1 => session.output.one(operation)?,
        operations => session.output.list(operations)?,
    }
    if let Some(failure) = first_failure {
        return Ok(failure.exit);
    }
    let failed = done.iter().any(|operation| operation.state == OperationState::Failed);
    let problem = done.iter().find_map(|operation| operation.problem.as_ref());
    Ok(match problem {
        Some(problem) => Exit::of_problem(problem.code),
        None if failed => Exit::Failed,
        None => Exit::Done,
    })
}

fn move_run(
    client: &Client,
    run: RunId,
    verb: RunCommand,
    reason: &Reason,
    no_wait: bool,
    until: Option<std::time::Instant>,
) -> Result<Operation, Failure> {
    let operation: Operation = client.post(&paths::run_command(run, verb), reason)?;
    if no_wait { Ok(operation) } else { client.finish(operation, until) }
}

fn watch(run: RunId, timeout: args::TimeoutFlag, session: &mut Session<'_>) -> Result<Exit, Failure> {
    let client = session.client()?;
    waiting::on_interrupt(format!("{run} goes on."));
    let output = &mut session.output;
    let ended = waiting::until_end(&client, run, timeout.until(), &mut |event| events::print(output, event))?;
    session.output.say(&summary(&ended));
    Ok(outcome(ended.state))
}
