//! Waits for a run to end: events tell early, reading the run tells surely.

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use cogward_api::{Event, EventQuery, Run, paths};
use cogward_model::{RunId, run::RunState};

use super::events;
use crate::{
    client::Client,
    exit::{Exit, Failure},
};

/// Longest time between two looks at the run.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// How long a launch is waited for.
const LAUNCH_MAX: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile.
const LAUNCH_LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long events that were on their way are waited for after the end.
const LAST_EVENTS: Duration = Duration::from_millis(250);
/// How long the plane may be gone: a run survives a restart of it, and so does the wait.
const ABSENCE_MAX: Duration = Duration::from_secs(60);

/// Waits a little until `run` is no longer starting, so that the next command can be to suspend it. A launch that
/// takes longer, or a plane that cannot be asked, leaves the run as it was told.
pub fn until_launched(client: &Client, run: Run, until: Option<Instant>) -> Run {
    let over = Instant::now() + LAUNCH_MAX;
    let over = until.map_or(over, |until| until.min(over));
    let mut run = run;
    while run.state == RunState::Starting && Instant::now() < over {
        std::thread::sleep(LAUNCH_LOOK_EVERY);
        match client.get::<Run>(&paths::run(run.id)) {
            Ok(found) => run = found,
            Err(_) => break,
        }
    }
    run
}

/// Waits until `run` has ended and gives its events to `tell` on the way.
pub fn until_end(
    client: &Client,
    run: RunId,
    until: Option<Instant>,
    tell: &mut dyn FnMut(&Event) -> Result<(), Failure>,
) -> Result<Run, Failure> {
    let (sender, events) = mpsc::channel();
    let listener = Client::new(client.settings().clone());
    std::thread::spawn(move || {
        let query = EventQuery { run: Some(run), ..EventQuery::default() };
        // A stream that cannot be had only makes the wait less lively.
        let _over = events::follow(&listener, &query, &mut |event| Ok(sender.send(event.clone()).is_ok()));
    });

    let mut absent_since = None::<Instant>;
    loop {
        match client.get::<Run>(&paths::run(run)) {
            Ok(found) if found.state.is_final() => {
                // One span for all of them: a stream that never ends must not keep an ended run waiting.
                let over = Instant::now() + LAST_EVENTS;
                while let Ok(event) = events.recv_timeout(over.saturating_duration_since(Instant::now())) {
                    tell(&event)?;
                    if Instant::now() >= over {
                        break;
                    }
                }
                return Ok(found);
            }
            Ok(_) => absent_since = None,
            Err(failure) if failure.exit == Exit::Unreachable => {
                if absent_since.get_or_insert_with(Instant::now).elapsed() > ABSENCE_MAX {
                    return Err(failure);
                }
            }
            Err(failure) => return Err(failure),
        }
        let look = Instant::now() + LOOK_EVERY;
        loop {
            let now = Instant::now();
            if until.is_some_and(|until| now >= until) {
                return Err(Failure::new(Exit::TimedOut, format!("{run} has not ended yet; it goes on"))
                    .next(format!("cogward run watch {run}, or cogward run cancel {run} --reason ...")));
            }
            let end = until.map_or(look, |until| until.min(look));
            match events.recv_timeout(end.saturating_duration_since(now)) {
                Ok(event) => {
                    tell(&event)?;
                    // Something about the run itself: look at once.
                    if event.kind.starts_with("run.") {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(end.saturating_duration_since(Instant::now()));
                    break;
                }
            }
        }
    }
}

/// From now on, an interrupt from the keyboard says `sentence` and exits 130.
pub fn on_interrupt(sentence: String) {
    use tokio::signal::unix::{SignalKind, signal};
    // Without a handler an interrupt ends the process as it always does: only the sentence is lost.
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
    let handler = {
        let _inside = runtime.enter();
        signal(SignalKind::interrupt())
    };
    let Ok(mut interrupts) = handler else { return };
    std::thread::spawn(move || {
        if runtime.block_on(interrupts.recv()).is_some() {
            use std::io::Write;
            let _unread = writeln!(std::io::stderr(), "\n{sentence}");
            std::process::exit(i32::from(Exit::Interrupted.code()));
        }
    });
}
