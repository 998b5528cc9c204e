//! The sandbox driver of this host as the engine sees it.
//!
//! A supervisor takes each verb once and in its phase; the engine repeats verbs. What a phase makes
//! needless is left out here.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use cogward_engine::ports::{
    AttachRequest, AttestError, Attestation, Exit, Found, KillReport, LaunchRequest, Listeners, Missing, Pending,
    PortError, Sandbox, Sandboxes, Usage, Violation,
};
use cogward_model::{
    Digest,
    content::{GivenInput, TreeLimits},
    manifest::{self, Profile},
};
use cogward_registry::{content, package};
use cogward_sandbox::storage::{InputMount, Storage};
use cogward_sandbox::{
    Adopted, CommandError, DriverSettings, ExitCause, HostReport, Images, LateInput, LaunchSpec, PackageImage,
    ReadOnlyMount, Root, SandboxConfig, Supervised, protocol::Phase,
};
use tokio::sync::mpsc;

use crate::outside::{AsSandbox, OutsideRuns};

/// Violations that wait to be recorded.
const VIOLATIONS_MAX: usize = 256;

/// Launches and adopts through `<exe> supervise`.
pub(crate) struct HostSandboxes {
    exe: PathBuf,
    config: SandboxConfig,
    packages: PathBuf,
    /// Where they are mounted from, where this host can.
    images: Option<Arc<Images>>,
    missing: HashMap<Profile, Vec<Missing>>,
    report: Option<HostReport>,
    /// Runs that have none.
    outside: Arc<OutsideRuns>,
}

impl HostSandboxes {
    /// `missing` is what the host lacks for each profile; one that it does not name cannot be enforced.
    /// `report` is what it can limit beyond that; without one, nothing.
    pub(crate) fn new(
        exe: PathBuf,
        config: SandboxConfig,
        (packages, images): (PathBuf, Images),
        missing: HashMap<Profile, Vec<Missing>>,
        report: Option<HostReport>,
        outside: Arc<OutsideRuns>,
    ) -> Self {
        // A host that could not be probed launches nothing.
        let images = match report.as_ref().map_or(Ok(()), HostReport::require_package_images) {
            Ok(()) => Some(Arc::new(images)),
            Err(lacking) => {
                tracing::warn!(why = %lacking.why, fix = %lacking.fix, "packages are mounted from their directories");
                None
            }
        };
        Self { exe, config, packages, images, missing, report, outside }
    }

    /// Makes sure that what runs is what was registered, byte for byte: a file that was changed since stops the run.
    /// Answers with the image that it is mounted from, where it is.
    async fn package(
        &self,
        request: &LaunchRequest,
        driver: &DriverSettings,
    ) -> Result<Option<PackageImage>, PortError> {
        let (packages, package) = (self.packages.clone(), request.package);
        let images = self.images.clone().filter(|_| *driver == DriverSettings::Native);
        // Of the directory of a root, the trust store of the run was read.
        let directory = images.is_none() || request.root_image.is_some();
        let prepared = tokio::task::spawn_blocking(move || {
            if directory {
                package::verify(&packages, package).map_err(|e| PortError::from_error(&e))?;
            }
            let Some(images) = images else { return Ok(None) };
            let verify = |at: &Path| package::verify_at(at, package).map(drop).map_err(|e| PortError::from_error(&e).0);
            let image = images.prepare(package, &packages.join(package.hex()), &verify);
            image.map(Some).map_err(|e| PortError::from_error(&e))
        });
        prepared.await.map_err(|e| PortError::from_error(&e))?
    }
}

impl Sandboxes for HostSandboxes {
    fn missing(&self, profile: Profile) -> Vec<Missing> {
        self.missing.get(&profile).cloned().unwrap_or_else(|| {
            vec![Missing {
                what: "probe".to_owned(),
                why: format!("the host was not probed for profile `{}`", profile.as_str()),
                fix: "start the plane again".to_owned(),
            }]
        })
    }

    fn missing_limits(&self, sandbox: &manifest::Sandbox) -> Vec<Missing> {
        let foreign = not_carried(sandbox);
        // A host without a report has nothing that could be enforced, which its profiles say already.
        let Some(report) = &self.report else { return foreign.into_iter().collect() };
        let limits = report.require_limits(&sandbox.resources).err().unwrap_or_default();
        let workspace = report.require_workspace(sandbox.workspace.medium).err().unwrap_or_default();
        let missing = limits.into_iter().chain(workspace);
        missing.map(|m| Missing { what: m.mechanism, why: m.why, fix: m.fix }).chain(foreign).collect()
    }

    fn launch(&self, request: LaunchRequest) -> Pending<'_, Result<Arc<dyn Sandbox>, PortError>> {
        Box::pin(async move {
            // A run is accepted only when its profile can be enforced; this is the last look.
            let driver = self.config.driver(request.profile);
            let driver =
                driver.ok_or_else(|| PortError(format!("no driver carries `{}`", request.profile.as_str())))?;
            let package_image = self.package(&request, &driver).await?;
            // Its inputs are what was recorded when it was asked for.
            let given = request.inputs.clone();
            let verified = tokio::task::spawn_blocking(move || unchanged(&given));
            verified.await.map_err(|e| PortError::from_error(&e))??;
            let (medium, from) = request.workspace;
            let inputs = request.inputs.into_iter().map(|(input, source)| InputMount { name: input.name, source });
            let storage = Storage { medium, from, inputs: inputs.collect(), outputs: request.outputs };
            let spec = LaunchSpec {
                run: request.run,
                run_dir: request.run_dir,
                profile: request.profile,
                driver,
                resources: request.resources,
                root: request.root_image.map_or(Root::HostUsr, |dir| Root::Image { dir }),
                mounts: request.mounts.into_iter().map(|(source, at)| ReadOnlyMount { source, at }).collect(),
                package_image,
                argv: request.argv,
                env: request.env,
                cwd: request.cwd,
                files: request.files,
                stdin: request.stdin,
                late_input: request.late_input,
                uid_slot: request.uid_slot,
                grace: request.grace,
                storage,
                wall_clock: request.wall_clock,
                service: None,
            };
            let run = cogward_sandbox::launch(&self.exe, &spec).await.map_err(|e| PortError::from_error(&e))?;
            Ok(Arc::new(HostSandbox::new(run)) as Arc<dyn Sandbox>)
        })
    }

    fn attach<'a>(&'a self, request: AttachRequest<'a>) -> Pending<'a, Result<Arc<dyn Sandbox>, PortError>> {
        Box::pin(
            async move { self.outside.open(request).map(|opened| Arc::new(AsSandbox(opened)) as Arc<dyn Sandbox>) },
        )
    }

    fn adopt<'a>(&'a self, run_dir: &'a Path) -> Pending<'a, Result<Found, PortError>> {
        Box::pin(async move {
            Ok(match cogward_sandbox::adopt(run_dir).await.map_err(|e| PortError::from_error(&e))? {
                Adopted::Alive(run) => Found::Alive(Arc::new(HostSandbox::new(run))),
                Adopted::Ended(exit) => Found::Ended(translated(exit)),
                Adopted::Lost => Found::Lost,
            })
        })
    }
}

struct HostSandbox {
    run: Supervised,
    phase: Mutex<Phase>,
}

impl HostSandbox {
    fn new(run: Supervised) -> Self {
        let phase = Mutex::new(run.phase_at_connect());
        Self { run, phase }
    }

    fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_phase(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }
}

impl Sandbox for HostSandbox {
    fn listeners(&self) -> Pending<'_, Result<Listeners, PortError>> {
        Box::pin(async move {
            let taken = self.run.take_listeners();
            let listeners = taken.ok_or_else(|| PortError("its listeners were taken already".to_owned()))?;
            Ok(Listeners { model: listeners.model, mcp: listeners.mcp, proxy: listeners.proxy })
        })
    }

    fn enforcement(&self) -> serde_json::Value {
        serde_json::to_value(self.run.enforcement()).unwrap_or_default()
    }

    fn give_input(&self, file: Vec<u8>, stdin: Vec<u8>) -> Pending<'_, Result<(), PortError>> {
        Box::pin(async move {
            let input = LateInput { file, stdin };
            self.run.give_input(&input).await.map_err(|e| PortError::from_error(&e))
        })
    }

    fn proof(&self) -> Option<Attestation> {
        self.run.proof().cloned().map(found)
    }

    fn attest(&self) -> Pending<'_, Result<Attestation, AttestError>> {
        Box::pin(async move {
            match self.run.attest().await {
                Ok(Some(look)) => Ok(found(look)),
                Ok(None) => Err(AttestError::Unsupported),
                Err(error) => Err(PortError::from_error(&error).into()),
            }
        })
    }

    fn start(&self) -> Pending<'_, Result<(), PortError>> {
        Box::pin(async move {
            if self.phase() == Phase::Held {
                self.run.start().await.map_err(|e| PortError::from_error(&e))?;
                self.set_phase(Phase::Running);
            }
            Ok(())
        })
    }

    fn suspend(&self) -> Pending<'_, Result<(), PortError>> {
        Box::pin(async move {
            // Held is frozen before the first instruction. Suspended is asked for again: this side may be wrong about it.
            if !matches!(self.phase(), Phase::Held | Phase::Stopping) {
                self.run.suspend().await.map_err(|e| PortError::from_error(&e))?;
                self.set_phase(Phase::Suspended);
            }
            Ok(())
        })
    }

    fn resume(&self) -> Pending<'_, Result<(), PortError>> {
        Box::pin(async move {
            if self.phase() == Phase::Suspended {
                self.run.resume().await.map_err(|e| PortError::from_error(&e))?;
                self.set_phase(Phase::Running);
            }
            Ok(())
        })
    }

    fn terminate(&self) -> Pending<'_, Result<(), PortError>> {
        Box::pin(async move {
            match self.run.terminate().await {
                // It had ended by itself: that is what was asked for.
                Ok(()) | Err(CommandError::Gone) => {
                    self.set_phase(Phase::Stopping);
                    Ok(())
                }
                Err(error) => Err(PortError::from_error(&error)),
            }
        })
    }

    fn kill(&self) -> Pending<'_, Result<KillReport, PortError>> {
        Box::pin(async move {
            match self.run.kill().await {
                Ok(report) => {
                    Ok(KillReport { processes: report.processes.into(), micros: report.micros, empty: report.empty })
                }
                // It had ended before the kill came: what is left is in its exit.
                Err(CommandError::Gone) => {
                    Ok(KillReport { processes: 0, micros: 0, empty: self.run.wait().await.empty })
                }
                Err(error) => Err(PortError::from_error(&error)),
            }
        })
    }

    fn wait(&self) -> Pending<'_, Exit> {
        // The future must not keep a borrow: it is polled across other verbs.
        let run = self.run.clone();
        Box::pin(async move { translated(run.wait().await) })
    }

    fn violations(&self) -> Option<mpsc::Receiver<Violation>> {
        let mut source = self.run.violations()?;
        let (sender, receiver) = mpsc::channel(VIOLATIONS_MAX);
        tokio::spawn(async move {
            while let Some(violation) = source.recv().await {
                if sender.send(violation).await.is_err() {
                    return;
                }
            }
        });
        Some(receiver)
    }
}

fn found(look: cogward_sandbox::Attestation) -> Attestation {
    let mut facts = serde_json::to_value(&look.facts).unwrap_or_default();
    // In the order that the leaf has them in: anybody can compute the digest from it.
    facts.sort_all_objects();
    Attestation {
        proof: Digest::from_bytes(sha256(facts.to_string().as_bytes())),
        facts,
        checks: look.checks,
        processes: look.processes,
        took_us: look.took_us,
        violations: look.violations,
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    out
}

/// Files of a run in a profile that another driver carries: refused before the run, not at its launch.
fn not_carried(sandbox: &manifest::Sandbox) -> Option<Missing> {
    let native = matches!(sandbox.profile, Profile::Standard | Profile::Hardened);
    let files = !sandbox.inputs.is_empty() || !sandbox.outputs.is_empty() || !sandbox.workspace.is_usual();
    (files && !native).then(|| Missing {
        what: "run-files".to_owned(),
        why: format!("profile `{}` carries no inputs, outputs or workspace settings yet", sandbox.profile.as_str()),
        fix: "use profile `standard` or `hardened`, or leave them out".to_owned(),
    })
}

/// Whether every input still is what the run was recorded with.
fn unchanged(given: &[(GivenInput, PathBuf)]) -> Result<(), PortError> {
    for (input, source) in given {
        let limits = TreeLimits { entries: input.content.entries, bytes: input.content.bytes };
        let found = content::pack(source, limits, std::io::sink());
        if !found.is_ok_and(|found| found == input.content) {
            return Err(PortError(format!("the input `{}` is not what the run was recorded with", input.name)));
        }
    }
    Ok(())
}

fn translated(exit: cogward_sandbox::Exit) -> Exit {
    let more = |what: &str| match &exit.detail {
        Some(detail) => format!("{what}: {detail}"),
        None => what.to_owned(),
    };
    let cause = match exit.cause {
        ExitCause::Exited
        | ExitCause::Signalled
        | ExitCause::Terminated
        | ExitCause::GraceExpired
        | ExitCause::Killed => None,
        ExitCause::OutOfMemory => Some(more("spec.sandbox.resources.memoryMib: the memory limit was reached")),
        ExitCause::TimeExpired => {
            Some(more("budgets.run.wallClockSeconds: its time was over, and its supervisor ended it"))
        }
        ExitCause::NotExecutable => Some(more("spec.package.entrypoint: the program cannot be executed")),
        ExitCause::LaunchFailed => Some(more("launch: the sandbox could not be made")),
        ExitCause::SupervisorLost => Some(more("lost: its supervisor is gone and left no exit")),
    };
    Exit {
        code: exit.code,
        signal: exit.signal,
        cause,
        grace_expired: exit.cause == ExitCause::GraceExpired,
        usage: Usage {
            cpu_micros: exit.usage.cpu_micros,
            memory_peak_bytes: exit.usage.memory_peak_bytes,
            io_read_bytes: exit.usage.io_read_bytes,
            io_write_bytes: exit.usage.io_write_bytes,
            log_bytes: exit.usage.stdout_bytes.saturating_add(exit.usage.stderr_bytes),
            log_bytes_dropped: exit.usage.log_bytes_dropped,
        },
        output: exit.output,
        output_refused: exit.output_refused,
        artifacts: exit.artifacts,
        violations: exit.violations,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_refused_where_the_driver_does_not_carry_them() {
        let output =
            manifest::Output { name: "a".parse().unwrap(), path: "/work/a".into(), max_mib: 1, required: false };
        for profile in Profile::ALL {
            let native = [Profile::Standard, Profile::Hardened].contains(&profile);
            let plain = manifest::Sandbox { profile, ..manifest::Sandbox::default() };
            let files = manifest::Sandbox { outputs: vec![output.clone()], ..plain.clone() };
            assert_eq!((not_carried(&plain), not_carried(&files).is_none()), (None, native), "{profile:?}");
        }
    }
}
