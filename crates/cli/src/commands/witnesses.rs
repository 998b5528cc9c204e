//! `cogward witness`: this process, no plane.

use std::path::Path;

use cogward_ledger::{
    note::{KEYS_BYTES_MAX, VerifyingKey},
    witness::{AddCheckpoint, Examined, REQUEST_BYTES_MAX},
};
use cogward_server::{Added, WitnessBook, WitnessError, WitnessOptions, WitnessServer};
use tokio::signal::unix::{SignalKind, signal};

use super::{Session, read_text};
use crate::{
    args::{Witness, WitnessMemory},
    exit::{Exit, Failure},
};

/// Carries a command of a witness out.
pub fn run(command: Witness, session: &mut Session<'_>) -> Result<Exit, Failure> {
    match command {
        Witness::Serve { memory, listen } => {
            let book = open(memory)?;
            print_keys(&book, session)?;
            serve(book, listen, session)
        }
        Witness::Sign { file, memory } => sign(&file, memory, session),
        Witness::Key { memory } => print_keys(&open(memory)?, session),
    }
}

fn print_keys(book: &WitnessBook, session: &mut Session<'_>) -> Result<Exit, Failure> {
    for key in book.keys() {
        session.output.line(&key.to_string())?;
    }
    Ok(Exit::Done)
}

fn open(memory: WitnessMemory) -> Result<WitnessBook, Failure> {
    let mut logs = Vec::with_capacity(memory.log.len());
    for log in memory.log {
        let key = match log.parse::<VerifyingKey>() {
            Ok(key) => key,
            Err(_) => {
                let text = read_text(Path::new(&log), "the keys of a log", KEYS_BYTES_MAX)?;
                text.trim_end().parse().map_err(|error| Failure::usage(format!("{log}: {error}")))?
            }
        };
        logs.push(key);
    }
    let dir = memory.dir.clone();
    WitnessOptions { dir: memory.dir, name: memory.name, logs }.open().map_err(|error| match error {
        WitnessError::Held | WitnessError::OtherName(_) => Failure::new(Exit::Conflict, error.to_string()),
        WitnessError::Name(_) => {
            Failure::usage(error.to_string()).next("name the witness with --name, such as auditor.example/w1")
        }
        _ => Failure::local(format!("the witness in {} cannot be used", dir.display()), error),
    })
}

fn sign(file: &Path, memory: WitnessMemory, session: &mut Session<'_>) -> Result<Exit, Failure> {
    let request = read_text(file, "the request", REQUEST_BYTES_MAX)?;
    let book = open(memory)?;
    let refused = match book.add(&request) {
        Ok(Added::Cosigned(lines)) => {
            let note = AddCheckpoint::parse(&request).map(|asked| asked.note).unwrap_or_default();
            session.output.data((note + &lines).as_bytes())?;
            return Ok(Exit::Done);
        }
        Ok(Added::Refused(refused)) => refused,
        Err(error) => return Err(Failure::local("the witness cannot remember, so it does not sign".to_owned(), error)),
    };
    Err(match refused {
        Examined::Malformed | Examined::Cosign { .. } => Failure::usage("the file is not a request for a witness"),
        Examined::UnknownLog => Failure::new(Exit::Refused, "the log is not one of those that this witness watches")
            .next("name its keys with --log"),
        Examined::Unsigned => Failure::new(Exit::Unverified, "the checkpoint is not signed by the keys of its log"),
        Examined::Conflict { size } => {
            Failure::new(Exit::Conflict, format!("the witness has seen {size} leaves, the request begins elsewhere"))
                .next(format!("there: cogward evidence checkpoint export --old {size}"))
        }
        Examined::SplitView { ours, theirs } => Failure::new(
            Exit::Unverified,
            format!("split view: one key signed two histories\n--- seen before\n{}--- now\n{theirs}", ours.note),
        )
        .next("keep both notes: together they are the proof"),
        Examined::Inconsistent => {
            Failure::new(Exit::Unverified, "the proof does not show that the log only grew; nothing was signed")
        }
    })
}

fn serve(book: WitnessBook, listen: std::net::SocketAddr, session: &mut Session<'_>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::local("cannot start the runtime", error))?;
    runtime.block_on(async {
        let failed = |error| Failure::local("cannot listen for signals", error);
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let server = WitnessServer::bind(book, listen).await;
        let server = server.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        session.output.line(&format!("the witness is up at http://{}", server.address()))?;
        server
            .until(async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            })
            .await;
        Ok::<_, Failure>(())
    })?;
    Ok(Exit::Done)
}
