//! `cogward event watch`.

use std::time::Duration;

use cogward_api::{Event, EventQuery, paths};

use super::Session;
use crate::{
    client::Client,
    exit::{Exit, Failure},
    output::{Format, Output},
    show::event_line,
    stream::EventStream,
};

/// First and longest pause before a broken stream is taken up again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How often in a row a broken stream is taken up again without an event in between.
const ATTEMPTS_MAX: u32 = 8;

/// Prints events as they happen; takes a broken stream up again after the last event.
pub fn watch(query: EventQuery, limit: Option<u32>, session: &mut Session<'_>) -> Result<Exit, Failure> {
    let client = session.client()?;
    let mut left = limit;
    let output = &mut session.output;
    follow(&client, &query, &mut |event| {
        print(output, event)?;
        left = left.map(|n| n.saturating_sub(1));
        Ok(left != Some(0))
    })?;
    Ok(Exit::Done)
}

/// One event, in the form that was asked for. A stream has no end, so JSON is a document per line.
pub fn print(output: &mut Output<'_>, event: &Event) -> Result<(), Failure> {
    match output.format {
        Format::Json | Format::Jsonl => output.json_line(event),
        Format::Name => output.line(&event.cursor),
        Format::Table => output.line(&event_line(event)),
    }
}

/// Gives each event to `take` until it says that it has enough, or the plane is gone.
pub fn follow(
    client: &Client,
    query: &EventQuery,
    take: &mut dyn FnMut(&Event) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let path = paths::with_query(paths::EVENTS, query).map_err(|e| Failure::local("cannot make the request", e))?;
    let mut last = None::<String>;
    let (mut attempts, mut pause) = (0, PAUSES.0);
    loop {
        let broken = match client.events(&path, last.as_deref()) {
            Ok(body) => {
                let mut stream = EventStream::new(body);
                loop {
                    match stream.next_event() {
                        Ok(Some(sent)) => {
                            // What this release cannot read is left to a newer one; the stream goes on.
                            let Ok(event) = serde_json::from_str::<Event>(&sent.data) else { continue };
                            last = sent.id.or_else(|| Some(event.cursor.clone()));
                            (attempts, pause) = (0, PAUSES.0);
                            if !take(&event)? {
                                return Ok(());
                            }
                        }
                        Ok(None) => break Failure::new(Exit::Unreachable, "the plane ended the stream"),
                        Err(error) => break Failure::new(Exit::Unreachable, format!("the stream broke: {error}")),
                    }
                }
            }
            Err(failure) if failure.exit == Exit::Unreachable => failure,
            Err(refused) => return Err(refused),
        };
        // The first connection is not tried again: a plane that is not there is told at once.
        if attempts >= ATTEMPTS_MAX || (last.is_none() && broken.cause.starts_with("no plane")) {
            return Err(broken);
        }
        attempts += 1;
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSES.1);
    }
}
