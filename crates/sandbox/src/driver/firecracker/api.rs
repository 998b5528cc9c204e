//! What the machine monitor is told over its socket, and in which order.
//!
//! The form is that of the monitor's published interface (version 1). There is no request for a network interface in
//! this file, and before the machine starts the monitor is asked what it has understood.

use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

use super::{
    http::{Answer, Client, HttpError},
    version::Version,
};
use crate::native::Stage;

/// Everything about a machine. Paths are those inside of its jail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its processors.
    pub processors: u32,
    /// Its memory, in MiB.
    pub memory_mib: u32,
    /// Its drives, in the order of their devices.
    pub drives: Vec<PlannedDrive>,
    /// The Unix socket whose name, `_` and a port are the host's end of its vsock.
    pub vsock: &'static str,
}

/// One drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedDrive {
    /// Its file, and its name towards the monitor before the first dot.
    pub file: String,
    /// Whether the machine may write to it.
    pub writable: bool,
}

/// Name of the kernel inside of the jail.
pub const KERNEL: &str = "kernel";
/// Name of the archive that the kernel begins with.
pub const ARCHIVE: &str = "archive";
/// The address of the machine in its own vsock. Each machine has a vsock of its own, so it need not differ.
const GUEST_CID: u32 = 3;
/// The kernel says nothing, loads nothing, and ends the machine where it would stop.
const BOOT_ARGUMENTS: &str = "rdinit=/machine reboot=k panic=-1 pci=off nomodule quiet loglevel=0 8250.nr_uarts=0 \
                              i8042.noaux i8042.nomux i8042.dumbkbd random.trust_cpu=on";

#[derive(Serialize)]
struct Logger {
    level: &'static str,
}

#[derive(Serialize)]
struct MachineConfig {
    vcpu_count: u32,
    mem_size_mib: u32,
    smt: bool,
    track_dirty_pages: bool,
}

#[derive(Serialize)]
struct BootSource<'a> {
    kernel_image_path: &'a str,
    initrd_path: &'a str,
    boot_args: &'a str,
}

#[derive(Serialize)]
struct Drive<'a> {
    drive_id: &'a str,
    path_on_host: &'a str,
    is_root_device: bool,
    is_read_only: bool,
}

#[derive(Serialize)]
struct Vsock<'a> {
    guest_cid: u32,
    uds_path: &'a str,
}

#[derive(Serialize)]
struct Nothing {}

#[derive(Serialize)]
struct Action {
    action_type: &'static str,
}

/// Tells the monitor everything, checks what it has understood, and starts the machine. Answers with its version.
pub fn start(client: &mut Client, plan: &Plan, until: Instant) -> Result<Version, Stage> {
    let said = get(client, "/version", until)?;
    let said = said.get("firecracker_version").and_then(Value::as_str).unwrap_or_default();
    let version = Version::accepted(said).map_err(|e| Stage::new("version of firecracker", &e))?;

    // To its standard error, of which little is kept.
    put(client, "/logger", &Logger { level: "Error" }, until)?;
    let config = MachineConfig {
        vcpu_count: plan.processors,
        mem_size_mib: plan.memory_mib,
        smt: false,
        track_dirty_pages: false,
    };
    put(client, "/machine-config", &config, until)?;
    let boot = BootSource { kernel_image_path: KERNEL, initrd_path: ARCHIVE, boot_args: BOOT_ARGUMENTS };
    put(client, "/boot-source", &boot, until)?;
    for drive in &plan.drives {
        let id = drive.id();
        let body =
            Drive { drive_id: id, path_on_host: &drive.file, is_root_device: false, is_read_only: !drive.writable };
        put(client, &format!("/drives/{id}"), &body, until)?;
    }
    put(client, "/vsock", &Vsock { guest_cid: GUEST_CID, uds_path: plan.vsock }, until)?;
    put(client, "/entropy", &Nothing {}, until)?;
    understood(plan, &get(client, "/vm/config", until)?).map_err(|why| Stage::new("machine", &why))?;
    put(client, "/actions", &Action { action_type: "InstanceStart" }, until)?;
    Ok(version)
}

impl PlannedDrive {
    fn id(&self) -> &str {
        self.file.split('.').next().unwrap_or_default()
    }
}

/// Whether the machine is the one that was asked for, and has nothing that was not.
fn understood(plan: &Plan, config: &Value) -> Result<(), String> {
    let list = |name: &str| config.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    for device in ["network-interfaces", "pmem"] {
        if !list(device).is_empty() {
            return Err(format!("it has {device} that nobody asked for"));
        }
    }
    let drives = list("drives");
    let asked: Vec<_> = plan.drives.iter().map(|d| (Some(d.id()), Some(!d.writable))).collect();
    let found: Vec<_> = drives
        .iter()
        .map(|d| (d.get("drive_id").and_then(Value::as_str), d.get("is_read_only").and_then(Value::as_bool)))
        .collect();
    if asked != found {
        return Err("its drives are not those that were asked for".to_owned());
    }
    let machine = config.get("machine-config");
    let number = |name: &str| machine.and_then(|m| m.get(name)).and_then(Value::as_u64);
    if (number("vcpu_count"), number("mem_size_mib")) != (Some(plan.processors.into()), Some(plan.memory_mib.into())) {
        return Err("its size is not the one that was asked for".to_owned());
    }
    Ok(())
}

fn put(client: &mut Client, path: &str, body: &impl Serialize, until: Instant) -> Result<(), Stage> {
    request(client, "PUT", path, Some(body), until).map(|_| ())
}

fn get(client: &mut Client, path: &str, until: Instant) -> Result<Value, Stage> {
    let answer = request(client, "GET", path, None::<&Nothing>, until)?;
    serde_json::from_slice(&answer.body).map_err(|_| Stage::new(format!("firecracker: GET {path}"), &"it is no JSON"))
}

fn request(
    client: &mut Client,
    method: &str,
    path: &str,
    body: Option<&impl Serialize>,
    until: Instant,
) -> Result<Answer, Stage> {
    let stage = || format!("firecracker: {method} {path}");
    let body = body.map(serde_json::to_string).transpose().map_err(|e| Stage::new(stage(), &e))?;
    let answer = client.ask(method, path, body.as_deref(), until).map_err(|e: HttpError| Stage::new(stage(), &e))?;
    match answer.status {
        200..=299 => Ok(answer),
        status => Err(Stage::new(stage(), &format!("{status}: {}", fault(&answer.body)))),
    }
}

/// What the monitor says of a refused request, as far as people may be shown it.
fn fault(body: &[u8]) -> String {
    let value: Option<Value> = serde_json::from_slice(body).ok();
    let said = value.as_ref().and_then(|v| v.get("fault_message")).and_then(Value::as_str).unwrap_or("no reason given");
    said.chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan() -> Plan {
        let drive = |file: &str, writable| PlannedDrive { file: file.to_owned(), writable };
        Plan {
            processors: 1,
            memory_mib: 256,
            drives: vec![drive("root.ext4", false), drive("work.ext4", true)],
            vsock: "v.sock",
        }
    }

    fn config() -> Value {
        json!({
            "machine-config": {"vcpu_count": 1, "mem_size_mib": 256, "smt": false},
            "drives": [
                {"drive_id": "root", "is_read_only": true, "is_root_device": false},
                {"drive_id": "work", "is_read_only": false, "is_root_device": false},
            ],
            "network-interfaces": [],
        })
    }

    #[test]
    fn a_machine_with_anything_that_was_not_asked_for_does_not_start() {
        assert_eq!(understood(&plan(), &config()), Ok(()));
        let broken: [fn(&mut Value); 7] = [
            |c| c["network-interfaces"] = json!([{"iface_id": "eth0"}]),
            |c| c["pmem"] = json!([{"id": "p"}]),
            |c| c["drives"][0]["is_read_only"] = json!(false),
            |c| drop(c["drives"].as_array_mut().unwrap().pop()),
            |c| c["drives"].as_array_mut().unwrap().push(json!({"drive_id": "other", "is_read_only": true})),
            |c| c["machine-config"]["mem_size_mib"] = json!(65536),
            |c| *c = json!("yes"),
        ];
        for (n, change) in broken.iter().enumerate() {
            let mut config = config();
            change(&mut config);
            assert!(understood(&plan(), &config).is_err(), "case {n}");
        }
    }

    #[test]
    fn a_refusal_is_shown_without_what_a_terminal_would_obey() {
        assert_eq!(fault(b"{\"fault_message\": \"no \\u001b[2Jkernel\"}"), "no [2Jkernel");
        assert_eq!(fault(b"<html>"), "no reason given");
    }
}
