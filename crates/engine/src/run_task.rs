//! The task of one run: from its sandbox to its close.

use std::{future::pending, sync::Arc, time::Duration};

use cogward_model::{
    Timestamp,
    run::{RunState, Verb},
};
use cogward_store::{OperationState, RunRow};
use serde_json::json;

use crate::{
    attest::Basis,
    contract,
    engine::{Engine, Recorded, Version},
    events,
    live::Live,
    outside,
    ports::{Attestation, Exit, Grant, LaunchRequest, Listeners, PortError, Sandbox},
    receipt::Stopwatch,
};

/// How often the kill of an ended run is tried again while its sandbox is still there.
const KILL_AGAIN: Duration = Duration::from_secs(5);
/// The rule of a run's time.
pub(crate) const WALL_CLOCK: &str = "budgets.run.wallClockSeconds";
/// The rule of a grace period.
pub(crate) const GRACE: &str = "spec.sandbox.graceSeconds";

/// Where a run's task begins.
pub(crate) enum Begin {
    /// Its sandbox has to be made, or was made before it and lacks only the input.
    Launch(Option<Arc<dyn Sandbox>>),
    /// Its sandbox is there; an earlier plane made it.
    Adopted(Arc<dyn Sandbox>),
    /// It ended while no plane was there.
    Ended(Exit),
    /// There is no sandbox and will be none.
    Abandon,
}

impl Engine {
    pub(crate) fn spawn_run(&self, live: Arc<Live>, row: RunRow, version: Version, begin: Begin) {
        // Set twice to the same when a run is taken up again.
        let _ = live.basis.set(Basis { policy: version.digest, profile: outside::profile_of(&row, &version) });
        live.watched(|watched| watched.set_reaction(version.manifest.spec.sandbox.reaction()));
        let engine = self.clone();
        tokio::spawn(async move {
            let mut forwarding = None;
            let exit = match begin {
                Begin::Launch(prepared) => match engine.launch(&live, &row, &version, prepared).await {
                    Ok((sandbox, started)) => {
                        forwarding = engine.forward_violations(&live, &*sandbox);
                        engine.spawn_attestations(&live, false);
                        engine.supervise(&live, &version, sandbox, started).await
                    }
                    Err(exit) => exit,
                },
                Begin::Adopted(sandbox) => {
                    let started = row.started.unwrap_or(row.created);
                    forwarding = engine.forward_violations(&live, &*sandbox);
                    engine.spawn_attestations(&live, true);
                    engine.supervise(&live, &version, sandbox, started).await
                }
                Begin::Ended(exit) => exit,
                Begin::Abandon => Exit::default(),
            };
            engine.close(&live, exit, forwarding).await;
        });
    }

    /// What the sandbox of a run is made from, with the authority that its programs must trust.
    pub(crate) fn launch_request(&self, row: &RunRow, version: &Version) -> Result<LaunchRequest, PortError> {
        let authority = self.with.gateways.authority(&grant(row, version))?;
        let (files, packages) = (&self.with.files, &self.with.packages);
        contract::launch_request(row, version, files, packages, authority.as_deref())
            .map_err(|e| PortError(format!("its files cannot be read: {e}")))
    }

    /// The sandbox of a run, the one that was prepared for it or a new one, and what was found in force in it now.
    async fn sandbox_for(
        &self,
        row: &RunRow,
        version: &Version,
        prepared: Option<Arc<dyn Sandbox>>,
    ) -> Result<(Arc<dyn Sandbox>, Option<Attestation>), String> {
        if let Some(client) = &row.outside {
            let sandbox = self.attach(row, client).await.map_err(|e| format!("attach: {e}"))?;
            let proof = sandbox.proof();
            return Ok((sandbox, proof));
        }
        let request = self.launch_request(row, version).map_err(|e| format!("launch: {e}"))?;
        if let Some(sandbox) = prepared {
            let used = async {
                sandbox.give_input(contract::input_json(&request.stdin), request.stdin.clone()).await?;
                // What was proven when it was made is proven again for the run that begins in it.
                sandbox.attest().await.map_err(|e| PortError::from_error(&e))
            };
            match used.await {
                Ok(found) => return Ok((sandbox, Some(found))),
                Err(error) => {
                    tracing::warn!(run = %row.id, %error, "a prepared sandbox cannot be used; a new one is made");
                    sandbox.kill().await.map_err(|e| format!("launch: {e}"))?;
                    sandbox.wait().await;
                    self.with.files.reset(row.id).map_err(|e| format!("launch: its files cannot be read: {e}"))?;
                }
            }
        }
        let sandbox = self.with.sandboxes.launch(request).await.map_err(|e| format!("launch: {e}"))?;
        let proof = sandbox.proof();
        Ok((sandbox, proof))
    }

    /// Makes the sandbox, opens the gateways, records the start, and only then lets the agent run.
    /// On any failure nothing of it is left running.
    async fn launch(
        &self,
        live: &Arc<Live>,
        row: &RunRow,
        version: &Version,
        prepared: Option<Arc<dyn Sandbox>>,
    ) -> Result<(Arc<dyn Sandbox>, Timestamp), Exit> {
        let refuse = |cause: String| {
            live.set_cause(&cause);
            tracing::warn!(run = %live.run, cause, "the run is not launched");
            Exit::default()
        };
        let (sandbox, proof) = self.sandbox_for(row, version, prepared).await.map_err(refuse)?;
        let prepared = async {
            if !live.attach(&sandbox) {
                return Err(PortError("it was ended before it began".to_owned()));
            }
            let listeners = sandbox.listeners().await?;
            self.open_gateways(row, version, listeners)?;
            self.record_launch(live, &*sandbox, proof).await
        };
        let started = match prepared.await {
            Ok(started) => started,
            Err(error) => {
                let _ = refuse(format!("launch: {error}"));
                return Err(self.put_down(live, &sandbox).await);
            }
        };
        let mut watch = Stopwatch::begin();
        if let Err((step, error)) = self.converge(live, &mut watch).await {
            let _ = refuse(format!("launch: {step}: {error}"));
            return Err(self.put_down(live, &sandbox).await);
        }
        if let Some(operation) = live.take_start_operation() {
            let receipt = json!({ "run": live.run, "verb": "start", "started": started }).to_string();
            self.finish_operation(operation, OperationState::Done, Some(&receipt)).await;
        }
        self.with.journal.publish(events::journal("run.started", live));
        Ok((sandbox, started))
    }

    pub(crate) fn open_gateways(&self, row: &RunRow, version: &Version, listeners: Listeners) -> Result<(), PortError> {
        self.with.gateways.open_run(grant(row, version), listeners)
    }

    async fn record_launch(
        &self,
        live: &Live,
        sandbox: &dyn Sandbox,
        proof: Option<Attestation>,
    ) -> Result<Timestamp, PortError> {
        let profile = live.basis.get().map_or("", |basis| basis.profile);
        let attested = self.proven(live, proof)?;
        let proof = live.watched(|watched| watched.attested.as_ref().map(|attested| attested.proof));
        let event = events::started(live, profile, sandbox.enforcement(), proof);
        let _turn = live.commit.lock().await;
        let commit = async {
            let mut tx = self.with.store.begin().await?;
            let row = tx.run(live.run).await?;
            let Some(mut row) = row else { return Ok(Err(PortError("its row is gone".to_owned()))) };
            row.state = match row.state.next(Verb::Launched) {
                Ok(state) => state,
                Err(error) => return Ok(Err(PortError::from_error(&error))),
            };
            let started = tx.now();
            row.started = Some(started);
            tx.run_put(&mut row).await?;
            Ok::<_, cogward_store::StoreError>(Ok((tx.commit(vec![attested, event]).await?, started)))
        };
        let (committed, started) = commit.await.map_err(|e| PortError::from_error(&e))??;
        match self.publish(committed).await {
            Recorded::Yes(_) => {
                live.goal.send_replace(RunState::Running);
                Ok(started)
            }
            Recorded::No(error) => Err(error),
        }
    }

    /// Kills what was made and waits until it is gone.
    async fn put_down(&self, live: &Arc<Live>, sandbox: &Arc<dyn Sandbox>) -> Exit {
        live.end(&*self.with.gateways);
        let mut wait = sandbox.wait();
        loop {
            if let Err(error) = sandbox.kill().await {
                tracing::error!(run = %live.run, %error, "a sandbox cannot be killed; it is tried again");
            }
            if let Ok(exit) = tokio::time::timeout(KILL_AGAIN, &mut wait).await {
                return exit;
            }
        }
    }

    /// Watches a run to its end: its time, its grace period, what its sandbox stops.
    async fn supervise(
        &self,
        live: &Arc<Live>,
        version: &Version,
        sandbox: Arc<dyn Sandbox>,
        started: Timestamp,
    ) -> Exit {
        let spec = &version.manifest.spec;
        let deadline = later(started, Duration::from_secs(spec.budgets.run.wall_clock_seconds));
        let grace = Duration::from_secs(spec.sandbox.grace_seconds.into());
        let mut goal = live.goal.subscribe();
        let mut wait = sandbox.wait();
        loop {
            let state = *goal.borrow_and_update();
            let now = self.with.clock.now();
            let stop_by = live.stop_begun().map(|begun| later(begun, grace));
            let (due, over_grace) = match (state, stop_by) {
                (state, _) if state.is_final() => (None, false),
                (RunState::Stopping, Some(stop_by)) if stop_by < deadline => (Some(stop_by), true),
                _ => (Some(deadline), false),
            };
            tokio::select! {
                exit = &mut wait => return exit,
                changed = goal.changed() => {
                    if changed.is_err() {
                        return wait.await;
                    }
                }
                () = until(due, now) => {
                    if over_grace {
                        self.end_by_rule(live, RunState::Killed, GRACE, "it did not end within its grace period").await;
                    } else {
                        let cause = format!("{WALL_CLOCK}: its {} s are over", spec.budgets.run.wall_clock_seconds);
                        self.end_by_rule(live, RunState::Failed, WALL_CLOCK, &cause).await;
                    }
                    // Whatever could be recorded of it, it has ended here.
                    return self.put_down(live, &sandbox).await;
                }
                () = tokio::time::sleep(KILL_AGAIN), if state.is_final() => {
                    // An earlier kill did not take, or the plane that ordered it is gone.
                    if let Err(error) = sandbox.kill().await {
                        tracing::error!(run = %live.run, %error, "a sandbox cannot be killed; it is tried again");
                    }
                }
            }
        }
    }
}

fn grant(row: &RunRow, version: &Version) -> Grant {
    Grant {
        run: row.id,
        manifest: Arc::clone(&version.manifest),
        version_digest: version.digest,
        package: version.package,
        subject: row.subject.clone(),
    }
}

fn later(from: Timestamp, by: Duration) -> Timestamp {
    let micros = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
    Timestamp::from_unix_micros(from.unix_micros().saturating_add(micros))
}

async fn until(due: Option<Timestamp>, now: Timestamp) {
    match due {
        Some(due) => tokio::time::sleep(Duration::from_micros(due.micros_since(now))).await,
        None => pending().await,
    }
}
