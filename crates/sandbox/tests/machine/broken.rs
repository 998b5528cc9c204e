//! Monitors and jailers that are not what they should be: no launch, a reason, and nothing left.

use cogward_sandbox::{DriverSettings, FirecrackerSettings, LaunchError, Root, launch};

use crate::{
    life::nothing_left,
    rig::{Rig, exe, run},
    world::machine,
};

pub const TESTS: &[crate::Test] = &[
    ("a_monitor_that_misbehaves_makes_no_machine", misbehaviour),
    ("a_monitor_that_hangs_is_waited_for_only_so_long", hangs),
    ("a_machine_that_is_not_what_was_asked_for_does_not_start", other_machine),
    ("a_monitor_or_jailer_with_known_holes_is_not_used", versions),
    ("what_is_not_there_is_named", not_there),
    ("a_package_without_a_root_gets_no_machine", no_root),
];

/// The reason of a launch that must fail, once it is sure that nothing is left of it.
async fn refusal(rig: &Rig) -> String {
    let error = launch(&exe(), &rig.spec).await.unwrap_err();
    assert!(matches!(error, LaunchError::Refused(_)), "{error:?}");
    let supervisor = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!supervisor().contains(rig.spec.run_dir.to_str().unwrap()));
    nothing_left(rig);
    error.to_string()
}

fn misbehaviour() {
    run(async {
        for at in ["GET /version", "PUT /boot-source", "PUT /drives/work", "GET /vm/config", "PUT /actions"] {
            for how in ["refuse", "garbage", "half", "huge", "endless", "close", "die"] {
                let rig = machine("", &format!("{{\"at\": \"{at}\", \"do\": \"{how}\"}}"));
                let why = refusal(&rig).await;
                assert!(why.contains(&format!("firecracker: {at}")), "{at} {how}: {why}");
                assert!(how != "refuse" || why.contains("400: the [31mtest refuses"), "{why}");
                assert!(why.len() < 700 && !why.contains('\x1b'), "{why}");
            }
        }
        let rig = machine("", "{\"jailer\": \"fails\"}");
        let why = refusal(&rig).await;
        assert!(why.contains("it ended before firecracker listened: jailer of the tests: it was told to fail"), "{why}");
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
        let rig = machine("", "{}");
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
        let missing: [(fn(&mut FirecrackerSettings), &str); 4] = [
            (|s| s.jailer.set_file_name("none"), "version of the jailer"),
            (|s| s.kernel.set_file_name("none"), "none: No such file"),
            (|s| s.firecracker.set_file_name("firecracker-none"), "jailer"),
            (|s| s.firecracker.set_file_name("vmm"), "without `firecracker` in it"),
        ];
        for (change, expected) in missing {
            let mut rig = machine("", "{}");
            let DriverSettings::Firecracker(settings) = &mut rig.spec.driver else { panic!() };
            change(settings);
            let why = refusal(&rig).await;
            assert!(why.contains(expected), "{why}");
        }
    });
}

fn no_root() {
    run(async {
        let mut rig = machine("", "{}");
        rig.spec.root = Root::HostUsr;
        assert!(refusal(&rig).await.contains("the package has no root of its own"));
    });
}
