//! What every test needs: a run directory, a spec for a Python program, a runtime.

use std::{
    future::Future,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use cogward_model::{
    Digest, Id, SystemClock, SystemEntropy,
    manifest::{Profile, Resources},
};
use cogward_sandbox::{DriverSettings, Exit, Images, LaunchSpec, ReadOnlyMount, Root, Supervised, Violation, launch};

/// Blocks on a test's future, with a bound: a sandbox that hangs is a failure, not a wait.
pub fn run<F: Future<Output = ()>>(test: F) {
    run_within(Duration::from_secs(90), test);
}

/// The same, with another bound.
pub fn run_within<F: Future<Output = ()>>(bound: Duration, test: F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(bound, test).await.unwrap() });
}

/// This executable, which is also the supervisor.
pub fn exe() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// A plane of its own, to be killed: launches what the file says, starts it, says so, waits for its end.
pub fn plane(spec: &std::path::Path) {
    let spec: LaunchSpec = serde_json::from_slice(&std::fs::read(spec).unwrap()).unwrap();
    run(async move {
        let run = launch(&exe(), &spec).await.unwrap();
        run.start().await.unwrap();
        println!("started");
        run.wait().await;
    });
}

/// A directory whose runs end with it.
pub struct Rig {
    /// Stands for the data directory: mode 0700.
    pub data: tempfile::TempDir,
    /// The launch.
    pub spec: LaunchSpec,
}

static SLOT: AtomicU32 = AtomicU32::new(0);

/// A rig for a Python program.
pub fn python(program: &str) -> Rig {
    let data = tempfile::tempdir().unwrap();
    let (run_dir, code) = (data.path().join("run"), data.path().join("code"));
    for dir in [&run_dir, &code] {
        std::fs::create_dir(dir).unwrap();
    }
    std::fs::write(code.join("main.py"), program).unwrap();
    std::fs::write(data.path().join("secret"), "plane-secret").unwrap();
    std::os::unix::fs::chown(data.path(), None, None).unwrap();
    let slot = (std::process::id() % 3_000) * 10 + SLOT.fetch_add(1, Ordering::Relaxed) % 10;
    let spec = LaunchSpec {
        run: Id::new(&SystemClock, &SystemEntropy),
        run_dir,
        profile: Profile::Standard,
        driver: DriverSettings::Native,
        resources: Resources { memory_mib: 256, workspace_mib: 8, pids: 32, ..Resources::default() },
        root: Root::HostUsr,
        mounts: vec![ReadOnlyMount { source: code, at: "/app".into() }],
        package_image: None,
        argv: ["/usr/bin/python3", "-B", "main.py"].map(str::to_owned).to_vec(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into()), ("HOME".into(), "/work".into())],
        cwd: "/app".into(),
        files: vec![("input.json".into(), b"{\"n\":1}".to_vec())],
        stdin: b"from stdin".to_vec(),
        late_input: false,
        uid_slot: slot,
        grace: Duration::from_millis(300),
        wall_clock: Duration::from_secs(600),
        storage: cogward_sandbox::storage::Storage::default(),
        service: None,
    };
    Rig { data, spec }
}

/// Has the package of a rig come from an image of its own, as far as it is below its first mount.
pub fn imaged(rig: &mut Rig) {
    let of = rig.spec.mounts[0].source.clone();
    image_of(rig, &of);
}

/// The same of a directory.
pub fn image_of(rig: &mut Rig, of: &std::path::Path) {
    let images = rig.data.path().join("images");
    std::fs::create_dir_all(&images).unwrap();
    let made = Images::new(images).prepare(Digest::from_bytes([1; 32]), of, &|_| Ok(()));
    rig.spec.package_image = Some(made.unwrap());
}

impl Rig {
    /// Launches, without letting the agent go.
    pub async fn held(&self) -> Supervised {
        launch(&exe(), &self.spec).await.unwrap()
    }

    /// Launches and starts.
    pub async fn started(&self) -> Supervised {
        let run = self.held().await;
        run.start().await.unwrap();
        run
    }

    /// Runs to the end.
    pub async fn finished(&self) -> Exit {
        self.started().await.wait().await
    }

    /// What was kept of a stream.
    pub fn log(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.spec.run_dir.join(name)).unwrap()).into_owned()
    }

    /// Waits until a stream contains a text.
    pub async fn until(&self, text: &str) {
        for _ in 0..2_000 {
            if self.log("stdout.log").contains(text) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("never said {text:?}: {} {}", self.log("stdout.log"), self.log("stderr.log"));
    }

    /// Control group directories that carry the run's name.
    pub fn groups_left(&self) -> Vec<PathBuf> {
        let name = format!("cogward-{}", self.spec.run);
        let mut found = Vec::new();
        let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    if entry.file_name().to_string_lossy() == name.as_str() {
                        found.push(entry.path());
                    }
                    open.push(entry.path());
                }
            }
        }
        found
    }
}

/// Everything that was reported so far.
pub fn drain(violations: &mut cogward_sandbox::Reports) -> Vec<Violation> {
    std::iter::from_fn(|| violations.try_recv()).collect()
}
