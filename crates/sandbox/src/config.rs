//! What carries the profiles that the kernel's own means do not: the configuration of a host.
//!
//! It is the operator's, read once when the plane starts. A manifest names a profile and never a driver, so what runs an
//! agent is never an agent's choice. A profile that is not configured is not enforceable, and says so.

use std::path::PathBuf;

use cogward_model::manifest::Profile;
use serde::{Deserialize, Serialize};

use crate::spec::{DriverSettings, FirecrackerSettings, RuntimeKind};

/// The drivers of a host, by profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SandboxConfig {
    /// What carries profile `container`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// What carries profile `gvisor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gvisor: Option<Gvisor>,
    /// What carries profile `microvm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub microvm: Option<FirecrackerSettings>,
}

/// A runtime of containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Container {
    /// Its program, such as `/usr/sbin/runc`.
    pub runtime: PathBuf,
    /// Which it is, where the name of the file does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<ContainerKind>,
}

/// The runtimes that the plane knows how to talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerKind {
    /// The reference runtime.
    Runc,
    /// The one in C.
    Crun,
}

/// gVisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gvisor {
    /// Its program, such as `/usr/bin/runsc`.
    pub runtime: PathBuf,
    /// How it intercepts system calls; its own default unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// A way of intercepting system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Platform {
    /// By tracing each process: everywhere, and slow.
    Ptrace,
    /// By signals of a seccomp filter; since 2023.
    Systrap,
    /// By hardware virtualisation.
    Kvm,
}

impl Platform {
    /// The word that the runtime takes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ptrace => "ptrace",
            Self::Systrap => "systrap",
            Self::Kvm => "kvm",
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl SandboxConfig {
    /// Takes what was read from a file, and checks it.
    ///
    /// # Errors
    /// [`ConfigError`] names what is wrong.
    pub fn from_value(value: serde_json::Value) -> Result<Self, ConfigError> {
        // A file with nothing in it configures nothing.
        if value.is_null() {
            return Ok(Self::default());
        }
        let config: Self = serde_json::from_value(value).map_err(|e| ConfigError(e.to_string()))?;
        config.validate()?;
        Ok(config)
    }

    /// Checks it.
    ///
    /// # Errors
    /// [`ConfigError`] names what is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let programs = [
            ("container.runtime", self.container.as_ref().map(|c| &c.runtime)),
            ("gvisor.runtime", self.gvisor.as_ref().map(|g| &g.runtime)),
        ];
        for (name, program) in programs {
            if program.is_some_and(|program| !program.is_absolute()) {
                return Err(ConfigError(format!("{name} is not an absolute path")));
            }
        }
        if self.container.as_ref().is_some_and(|container| container.kind().is_none()) {
            let what = "container.kind is needed: the name of the runtime's file is neither `runc` nor `crun`";
            return Err(ConfigError(what.to_owned()));
        }
        self.microvm.as_ref().map_or(Ok(()), |settings| settings.validate().map_err(ConfigError))
    }

    /// What carries a profile here; `None` when nothing is configured for it.
    #[must_use]
    pub fn driver(&self, profile: Profile) -> Option<DriverSettings> {
        match profile {
            Profile::Standard | Profile::Hardened => Some(DriverSettings::Native),
            Profile::Container => {
                let container = self.container.as_ref()?;
                Some(DriverSettings::Oci {
                    runtime: container.runtime.clone(),
                    kind: container.kind()?,
                    platform: None,
                })
            }
            Profile::Gvisor => {
                let gvisor = self.gvisor.as_ref()?;
                let platform = gvisor.platform.map(|platform| platform.as_str().to_owned());
                Some(DriverSettings::Oci { runtime: gvisor.runtime.clone(), kind: RuntimeKind::Runsc, platform })
            }
            Profile::Microvm => self.microvm.clone().map(DriverSettings::Firecracker),
        }
    }
}

impl Container {
    fn kind(&self) -> Option<RuntimeKind> {
        let named = self.runtime.file_name().and_then(|name| name.to_str());
        match (self.kind, named) {
            (Some(ContainerKind::Runc), _) | (None, Some("runc")) => Some(RuntimeKind::Runc),
            (Some(ContainerKind::Crun), _) | (None, Some("crun")) => Some(RuntimeKind::Crun),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: serde_json::Value) -> Result<SandboxConfig, String> {
        SandboxConfig::from_value(value).map_err(|e| e.to_string())
    }

    #[test]
    fn a_profile_that_is_not_configured_has_no_driver() {
        let none = read(serde_json::Value::Null).unwrap();
        for profile in Profile::ALL {
            assert_eq!(none.driver(profile).is_some(), matches!(profile, Profile::Standard | Profile::Hardened));
        }
    }

    #[test]
    fn every_driver_that_is_configured_carries_its_profile() {
        let config = read(json!({
            "gvisor": { "runtime": "/usr/bin/runsc", "platform": "systrap" },
            "container": { "runtime": "/opt/bin/my-runc", "kind": "runc" },
        }))
        .unwrap();
        for profile in [Profile::Gvisor, Profile::Container, Profile::Standard] {
            assert!(config.driver(profile).unwrap().carries(profile));
        }
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<SandboxConfig>(&text).unwrap(), config);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (value, named) in [
            (json!({ "gvisor": { "runtime": "runsc" } }), "gvisor.runtime"),
            (json!({ "container": { "runtime": "/usr/bin/podman" } }), "container.kind"),
            (json!({ "gvisor": { "runtime": "/usr/bin/runsc", "platform": "magic" } }), "magic"),
            (json!({ "gviser": {} }), "gviser"),
            (json!({ "gvisor": {} }), "runtime"),
        ] {
            let error = read(value).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
