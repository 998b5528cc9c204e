//! Monitors and jailers that are not what they should be: no launch, a reason, and nothing left.

use cogward_model::manifest::{Output, Profile};
use cogward_sandbox::{
    DriverSettings, FirecrackerSettings, LaunchError, ReadOnlyMount, Root, SandboxConfig, doctor::probe_with, launch,
};

use crate::{
    life::nothing_left,
    rig::{Rig, exe, run},
    world::{WELL_IN_TESTS, machine, settings},
};

pub const TESTS: &[crate::Test] = &[
    ("a_monitor_that_misbehaves_makes_no_machine", misbehaviour),
    ("a_monitor_that_hangs_is_waited_for_only_so_long", hangs),
    ("a_machine_that_is_not_what_was_asked_for_does_not_start", other_machine),
    ("a_monitor_or_jailer_with_known_holes_is_not_used", versions),
    ("what_is_not_there_is_named", not_there),
    ("what_a_machine_does_not_carry_is_refused", not_carried),
    ("the_doctor_makes_a_machine_and_believes_nothing_less", doctor),
];

/// The reason of a launch that must fail, once it is sure that nothing is left of it.
async fn refusal(rig: &Rig) -> String {
    let error = launch(&exe(), &rig.spec).await.unwrap_err();
    assert!(matches!(error, LaunchError::Refused(_)), "{error:?}");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(rig.spec.run_dir.to_str().unwrap()));
    nothing_left(rig);
    error.to_string()
}

fn misbehaviour() {
    run(async {
        for at in ["GET /version", "PUT /boot-source", "PUT /drives/work", "GET /vm/config", "PUT /actions"] {
            let mut launches = tokio::task::JoinSet::new();
            for how in ["refuse", "garbage", "half", "huge", "endless", "close", "die"] {
                let rig = machine("", &format!("{{\"at\": \"{at}\", \"do\": \"{how}\"}}"));
                launches.spawn(async move {
                    let why = refusal(&rig).await;
                    assert!(why.contains(&format!("firecracker: {at}")), "{at} {how}: {why}");
                    assert!(how != "refuse" || why.contains("400: the [31mtest refuses"), "{why}");
                    assert!(why.len() < 700 && !why.contains('\x1b'), "{why}");
                });
            }
            while let Some(done) = launches.join_next().await {
                done.unwrap();
            }
        }
        let rig = machine("", "{\"jailer\": \"fails\"}");
        let why = refusal(&rig).await;
        assert!(
            why.contains("it ended before firecracker listened: jailer of the tests: it was told to fail"),
            "{why}"
        );
    });
}

/// Each of these takes as long as a boot may.
fn hangs() {
    run(async {
        let behaviours = [
            ("{\"at\": \"PUT /vsock\", \"do\": \"hang\"}", "there was no answer in time"),
            ("{\"jailer\": \"hangs\"}", "firecracker did not listen in time"),
            ("{\"silent\": true}", "firecracker did not listen in time"),
            ("{\"boots\": false}", "the sandbox was not ready in time"),
        ];
        let mut launches = tokio::task::JoinSet::new();
        for (behaviour, expected) in behaviours {
            let rig = machine("", behaviour);
            launches.spawn(async move {
                let why = refusal(&rig).await;
                assert!(why.contains(expected), "{behaviour}: {why}");
            });
        }
        while let Some(done) = launches.join_next().await {
            done.unwrap();
        }
    });
}

fn other_machine() {
    run(async {
        for (json, expected) in [
            ("{\"network-interfaces\": [{\"iface_id\": \"eth0\"}]}", "it has network-interfaces that nobody asked for"),
            ("{\"drives\": []}", "its drives are not those that were asked for"),
            ("[]", "its drives are not those that were asked for"),
        ] {
            let behaviour = format!("{{\"at\": \"GET /vm/config\", \"do\": \"json\", \"json\": {json}}}");
            let why = refusal(&machine("", &behaviour)).await;
            assert!(why.contains(expected), "{why}");
        }
    });
}

fn versions() {
    run(async {
        for (version, expected) in [
            ("1.13.1", "version 1.13.1 is open to CVE-2026-5747 and CVE-2026-1386"),
            ("1.15.0", "version 1.15.0 is open to"),
            ("2.0.0", "of another interface"),
            ("main\\u001b[2J", "is not a released version"),
        ] {
            let why = refusal(&machine("", &format!("{{\"version\": \"{version}\"}}"))).await;
            assert!(why.contains(expected), "{why}");
        }
        let rig = machine("", WELL_IN_TESTS);
        let DriverSettings::Firecracker(settings) = &rig.spec.driver else { panic!() };
        for (program, expected) in [
            ("#!/bin/sh\necho Jailer v1.14.0\n", "version 1.14.0 is open to"),
            ("#!/bin/sh\necho Firecracker v1.16.0\n", "is not a released version"),
            ("#!/bin/sh\nexec sleep 1000\n", "it does not say its version"),
            ("not a program", "it does not say its version"),
        ] {
            std::fs::write(&settings.jailer, program).unwrap();
            let why = refusal(&rig).await;
            assert!(why.contains(expected), "{why}");
            for name in ["exit.json", "spec.json", "stdout.log"] {
                let _ = std::fs::remove_file(rig.spec.run_dir.join(name));
            }
        }
    });
}

fn not_there() {
    run(async {
        let open = |path: &std::path::Path| {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o775)).unwrap();
        };
        type Change<'a> = &'a dyn Fn(&mut FirecrackerSettings);
        let missing: [(Change<'_>, &str); 6] = [
            (&|s| s.jailer.set_file_name("none"), "none: No such file"),
            (&|s| s.kernel.set_file_name("none"), "none: No such file"),
            (&|s| s.firecracker.set_file_name("firecracker-none"), "firecracker-none: No such file"),
            (&|s| s.firecracker.set_file_name("vmm"), "without `firecracker` in it"),
            (&|s| open(&s.jailer), "jailer must be a file that belongs to root and is writable by nobody else"),
            (&|s| open(&s.kernel), "vmlinux must be a file that belongs to root"),
        ];
        for (change, expected) in missing {
            let mut rig = machine("", WELL_IN_TESTS);
            let DriverSettings::Firecracker(settings) = &mut rig.spec.driver else { panic!() };
            change(settings);
            let why = refusal(&rig).await;
            assert!(why.contains(expected), "{why}");
        }
    });
}

fn not_carried() {
    run(async {
        let mut rig = machine("", WELL_IN_TESTS);
        rig.spec.root = Root::HostUsr;
        assert!(refusal(&rig).await.contains("the package has no root of its own"));

        let mut rig = machine("", WELL_IN_TESTS);
        let output = Output { name: "o".parse().unwrap(), path: "/work/o".to_owned(), max_mib: 1, required: false };
        rig.spec.storage.outputs = vec![output];
        let error = launch(&exe(), &rig.spec).await.unwrap_err().to_string();
        assert!(error.contains("a machine leaves its output file and no other"), "{error}");

        let mut rig = machine("", WELL_IN_TESTS);
        let package = rig.spec.mounts[0].clone();
        rig.spec.mounts = (0..13).map(|n| ReadOnlyMount { at: format!("/p{n}"), ..package.clone() }).collect();
        assert!(refusal(&rig).await.contains("there are more than 14"));
    });
}

fn doctor() {
    let directory = tempfile::tempdir().unwrap();
    let report = |name: &str, behaviour: &str, jailer: Option<&str>| {
        std::fs::create_dir(directory.path().join(name)).unwrap();
        let settings = settings(&directory.path().join(name), behaviour);
        if let Some(text) = jailer {
            std::fs::write(&settings.jailer, text).unwrap();
        }
        let config = SandboxConfig { microvm: Some(settings), ..SandboxConfig::default() };
        let report = probe_with(&exe(), std::path::Path::new("/"), &config).unwrap();
        let check = report.checks.iter().find(|check| check.mechanism == "microvm").unwrap().clone();
        assert_eq!(report.require(Profile::Microvm).is_ok(), check.ok);
        (check.ok, check.detail)
    };
    let has_kvm = std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    let expect = |(ok, detail): (bool, String), well: bool, said: &str| {
        // Where there is no device, that is what must be said.
        let (well, said) = if has_kvm { (well, said) } else { (false, "/dev/kvm") };
        assert!(ok == well && detail.contains(said), "{detail}");
    };
    expect(report("well", WELL_IN_TESTS, None), true, "version 1.16.0: a machine reached its checks in");
    expect(
        report("boots", "{\"boots\": false}", None),
        false,
        "no machine starts: guest: the sandbox was not ready in time",
    );
    let other = "#!/bin/sh\necho Jailer v1.16.1\n";
    expect(
        report("other", WELL_IN_TESTS, Some(other)),
        false,
        "firecracker is of version 1.16.0 and its jailer of version 1.16.1",
    );
    let report = probe_with(&exe(), std::path::Path::new("/"), &SandboxConfig::default()).unwrap();
    let missing = report.require(Profile::Microvm).unwrap_err();
    assert!(missing.len() == 1 && missing[0].mechanism == "microvm", "{missing:?}");
}
