//! What is active on this plane, as the gateway applies it and as commands of operators are decided by it.
//!
//! The store is the authority. A change is committed, recorded, and then swapped in whole, under one lock, so that two
//! changes cannot overtake one another. A stored version that this program cannot read leaves its level unusable:
//! nothing under it is permitted to agents, and operators can still activate another.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
};

use cogward_gateway::{Gateway, policy::PolicySet};
use cogward_identity::Operator;
use cogward_model::{AgentName, Digest, PolicyScope, TenantName, Timestamp, manifest::Tier};
use cogward_policy::{
    Ask, Decided, Deed, Facts, Findings, Head, Hierarchy, LevelDecision, Principal, Verdict, Version,
    ask::Operator as Commanding, verdict::Cause,
};
use cogward_store::{PolicyVersionRow, Store, StoreError};

/// What is active at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct ActiveSet {
    /// The versions that can be used.
    pub(crate) versions: BTreeMap<PolicyScope, Arc<Version>>,
    /// Those that cannot, and why.
    pub(crate) unusable: BTreeMap<PolicyScope, (Digest, String)>,
}

/// The policies of a plane.
#[derive(Debug, Default)]
pub(crate) struct PlanePolicies {
    active: RwLock<Arc<ActiveSet>>,
    /// Held from the check of a change until it is applied.
    pub(crate) changes: tokio::sync::Mutex<()>,
}

/// Why what is active cannot be applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the policies cannot be read: {0}")]
    Findings(#[from] Findings),
    #[error("a task was ended")]
    Task(#[from] tokio::task::JoinError),
}

/// Reads a text that was checked when it was written. On a thread of its own: a long one takes a while.
pub(crate) async fn load(
    level: PolicyScope,
    text: String,
) -> Result<Result<Version, Findings>, tokio::task::JoinError> {
    tokio::task::spawn_blocking(move || Version::load(level, &text)).await
}

impl ActiveSet {
    /// What the store says is active.
    pub(crate) async fn of(rows: Vec<PolicyVersionRow>) -> Result<Self, ApplyError> {
        let mut set = Self::default();
        for PolicyVersionRow { scope, digest, text, .. } in rows {
            match load(scope.clone(), text).await? {
                // A text that is not what its digest says was changed outside the plane.
                Ok(version) if version.digest() != digest => {
                    set.unusable.insert(scope, (digest, "its text is not the one that was activated".to_owned()));
                }
                Ok(version) => {
                    set.versions.insert(scope, Arc::new(version));
                }
                Err(findings) => {
                    set.unusable.insert(scope, (digest, findings.to_string()));
                }
            }
        }
        if !set.versions.contains_key(&PolicyScope::Plane) && !set.unusable.contains_key(&PolicyScope::Plane) {
            set.versions.insert(PolicyScope::Plane, Arc::new(Version::built_in()?));
        }
        Ok(set)
    }

    /// The same with another version at a level, or none.
    pub(crate) fn with(&self, level: &PolicyScope, version: Option<Arc<Version>>) -> Result<Self, Findings> {
        let mut set = self.clone();
        set.unusable.remove(level);
        set.versions.remove(level);
        match version {
            Some(version) => {
                set.versions.insert(level.clone(), version);
            }
            None if *level == PolicyScope::Plane => {
                set.versions.insert(PolicyScope::Plane, Arc::new(Version::built_in()?));
            }
            None => {}
        }
        Ok(set)
    }

    /// The version that decides at a level; none where none has a say there.
    ///
    /// # Errors
    /// Why the active one cannot be used; nothing is permitted by it.
    pub(crate) fn at(&self, level: &PolicyScope) -> Result<Option<Arc<Version>>, &str> {
        match self.unusable.get(level) {
            Some((_, why)) => Err(why),
            None => Ok(self.versions.get(level).cloned()),
        }
    }

    fn for_gateway(&self) -> PolicySet {
        PolicySet {
            versions: self.versions.values().cloned().collect(),
            unusable: self.unusable.iter().map(|(level, (_, why))| (level.clone(), why.clone())).collect(),
        }
    }

    /// `level digest` of the versions that bear on a command, for its record.
    fn named(&self, levels: &[PolicyScope]) -> Vec<String> {
        let of = |level: &PolicyScope| {
            let digest = self.versions.get(level).map(|version| version.digest());
            let digest = digest.or_else(|| self.unusable.get(level).map(|(digest, _)| *digest))?;
            Some(format!("{level} {digest}"))
        };
        levels.iter().filter_map(of).collect()
    }
}

/// What a command is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Command {
    /// What policies call it: `policy.activate`, `run.kill`.
    pub(crate) name: &'static str,
    /// The tenant that it concerns; none is the plane.
    pub(crate) tenant: Option<TenantName>,
    /// The agent whose runs it concerns, and its tier as far as it is known.
    pub(crate) agent: Option<(AgentName, Option<Tier>)>,
}

/// A command that is not let through.
#[derive(Debug, Clone)]
pub(crate) struct Blocked {
    pub(crate) rule: String,
    pub(crate) level: String,
    pub(crate) rules: Vec<String>,
    pub(crate) detail: String,
    /// The versions that bear on it.
    pub(crate) policy: Vec<String>,
    /// The exact question, where there was one.
    pub(crate) input: Option<String>,
}

impl Command {
    /// A command for runs has the word of the command itself; policies know it from the action.
    fn run_word(&self) -> Option<&'static str> {
        self.name.strip_prefix("run.")
    }

    /// Whether it stops something. Then nobody below the plane may keep an operator from it.
    pub(crate) fn stops(&self) -> bool {
        matches!(self.name, "run.suspend" | "run.cancel" | "run.kill")
    }

    /// Whether it is a way out of a plane whose policy cannot be used.
    fn is_way_out(&self) -> bool {
        self.stops() || self.name.starts_with("policy.")
    }

    fn deed(&self) -> Deed {
        match (self.run_word(), &self.tenant, &self.agent) {
            (Some(word), Some(tenant), Some((agent, _))) => {
                Deed::RunCommand { agent: format!("{tenant}/{agent}"), command: word.to_owned() }
            }
            _ => Deed::OperatorCommand { tenant: self.tenant.clone(), command: self.name.to_owned() },
        }
    }

    /// The question whether an operator may give it.
    fn head(&self, operator: &Operator) -> Head {
        Head {
            principal: Principal::Operator(Commanding {
                name: operator.name.clone(),
                tenant: None,
                roles: operator.roles.iter().map(ToString::to_string).collect(),
            }),
            deed: self.deed(),
            labels: BTreeSet::new(),
        }
    }

    /// The levels that judge it, from the widest.
    fn levels(&self) -> Vec<PolicyScope> {
        let mut levels = vec![PolicyScope::Plane];
        if self.stops() {
            return levels;
        }
        if let Some(tenant) = &self.tenant {
            levels.push(PolicyScope::Tenant(tenant.clone()));
            if let Some((agent, tier)) = &self.agent {
                levels.extend(tier.map(|tier| PolicyScope::Tier(tenant.clone(), tier)));
                levels.push(PolicyScope::Agent(tenant.clone(), agent.clone()));
            }
        }
        levels
    }
}

impl ActiveSet {
    /// Whether an operator may give a command now.
    pub(crate) fn decide(&self, operator: &Operator, command: &Command, now: Timestamp) -> Result<(), Box<Blocked>> {
        let levels = command.levels();
        let policy = self.named(&levels);
        let ask = Ask::new(Arc::new(command.head(operator)), Facts::at(now));
        for level in &levels {
            if let Some((_, why)) = self.unusable.get(level) {
                if command.is_way_out() || (*level != PolicyScope::Plane && command.run_word().is_none()) {
                    continue;
                }
                return Err(Box::new(Blocked {
                    rule: format!("policy.{}", level.level()),
                    level: level.level().to_owned(),
                    rules: Vec::new(),
                    detail: format!("the active version of {level} cannot be used: {why}"),
                    policy,
                    input: None,
                }));
            }
            let Some(version) = self.versions.get(level) else { continue };
            let decided = Hierarchy::new([Arc::clone(version)]).decide(&ask);
            if lets_through(level, &decided) {
                continue;
            }
            let role = decided.escalations.first().map(|escalation| escalation.role.clone());
            let detail = match role {
                Some(role) => format!(
                    "{}, by the role `{role}`; commands of operators do not wait for approvals, so it is refused",
                    decided.sentence()
                ),
                None => decided.sentence(),
            };
            return Err(Box::new(Blocked {
                rule: decided.rule(),
                level: level.level().to_owned(),
                rules: decided.decider().map(|one| one.rules.clone()).unwrap_or_default(),
                detail,
                policy,
                input: ask.to_json().ok(),
            }));
        }
        Ok(())
    }
}

/// When a command is not let through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Closed {
    /// Hours of the week that begins now.
    pub(crate) hours: u64,
    /// Whether there is a week in which it never is, this one or one in ten years.
    pub(crate) for_ever: bool,
}

const HOURS_OF_A_WEEK: u64 = 7 * 24;
const HOUR_MICROS: u64 = 3_600_000_000;
const TEN_YEARS_HOURS: u64 = 10 * 365 * 24;

impl ActiveSet {
    /// When an operator may not give a command that they may give now, because a rule asks what time it is.
    pub(crate) fn closed(&self, operator: &Operator, command: &Command, now: Timestamp) -> Closed {
        let head = Arc::new(command.head(operator));
        let levels = command.levels();
        let versions = levels.iter().filter_map(|level| Some((level, self.versions.get(level)?)));
        let slices = versions.map(|(level, version)| (level, Hierarchy::new([Arc::clone(version)]).slice(&head)));
        let timed: Vec<_> = slices.filter(|(_, slice)| slice.needs().time).collect();
        let closed = |hours: u64| {
            let micros = now.unix_micros().saturating_add(hours.saturating_mul(HOUR_MICROS));
            let facts = Facts::at(Timestamp::from_unix_micros(micros));
            timed.iter().any(|(level, slice)| !lets_through(level, &slice.decide(&facts)))
        };
        if timed.is_empty() {
            return Closed::default();
        }
        let week = |from: u64| (from..from + HOURS_OF_A_WEEK).filter(|hours| closed(*hours)).count() as u64;
        let (this, later) = (week(0), week(TEN_YEARS_HOURS));
        Closed { hours: this, for_ever: [this, later].contains(&HOURS_OF_A_WEEK) }
    }
}

/// A level below the plane is about what agents do. It can forbid commands, and its silence is no refusal: else each list
/// of tools that an agent may call would keep operators from their own work.
fn lets_through(level: &PolicyScope, decided: &Decided) -> bool {
    let silent = decided.decider().is_some_and(|one: &LevelDecision| one.cause == Cause::NothingMatched);
    decided.verdict == Verdict::Permit || (silent && *level != PolicyScope::Plane)
}

impl PlanePolicies {
    /// What is active now.
    pub(crate) fn active(&self) -> Arc<ActiveSet> {
        Arc::clone(&self.active.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Applies what the store says. At the start, before anything is admitted.
    pub(crate) async fn open(&self, store: &Store, gateway: &Gateway, now: Timestamp) -> Result<(), ApplyError> {
        let set = ActiveSet::of(store.policies_active().await?).await?;
        for (level, (digest, why)) in &set.unusable {
            tracing::error!(%level, %digest, why, "the active version of a policy cannot be used: nothing is permitted under it");
        }
        Ok(self.swap(set, gateway, now)?)
    }

    /// Applies another set, at the gateway first: what is narrower holds for agents at once.
    pub(crate) fn swap(&self, set: ActiveSet, gateway: &Gateway, now: Timestamp) -> Result<(), Findings> {
        gateway.policies().active().replace(set.for_gateway(), now)?;
        *self.active.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(set);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use cogward_identity::Role;
    use cogward_model::{Id, SystemClock, SystemEntropy};

    use super::*;

    fn operator(roles: &[&str]) -> Operator {
        Operator {
            id: Id::new(&SystemClock, &SystemEntropy),
            name: "ada".to_owned(),
            role: Role::Operator,
            roles: roles.iter().map(|role| role.parse().unwrap()).collect(),
        }
    }

    fn command(name: &'static str) -> Command {
        Command { name, tenant: Some("retail".parse().unwrap()), agent: None }
    }

    fn of_run(name: &'static str) -> Command {
        Command { agent: Some(("clerk".parse().unwrap(), Some(Tier::Production))), ..command(name) }
    }

    fn set(texts: &[(&str, &str)]) -> ActiveSet {
        let mut set = ActiveSet::default();
        set.versions.insert(PolicyScope::Plane, Arc::new(Version::built_in().unwrap()));
        for (level, text) in texts {
            let level: PolicyScope = level.parse().unwrap();
            set.versions.insert(level.clone(), Arc::new(Version::load(level, text).unwrap()));
        }
        set
    }

    fn now() -> Timestamp {
        Timestamp::from_unix_micros(1_700_000_000_000_000)
    }

    const FORBID_RUNS: &str = r#"@id("no") forbid(principal, action == Cogward::Action::"run_command", resource);"#;
    const TOOLS_ONLY: &str = r#"permit(principal, action in Cogward::Action::"tool_call", resource);"#;

    #[test]
    fn what_stops_something_is_decided_by_the_plane_alone() {
        for level in ["tenant:retail", "tier:retail/production", "agent:retail/clerk"] {
            let set = set(&[(level, FORBID_RUNS)]);
            for stop in ["run.suspend", "run.cancel", "run.kill"] {
                assert!(set.decide(&operator(&[]), &of_run(stop), now()).is_ok(), "{level} {stop}");
            }
            for start in ["run.start", "run.resume", "run.upload"] {
                let blocked = set.decide(&operator(&[]), &of_run(start), now()).unwrap_err();
                assert_eq!(blocked.rules, ["no"], "{level} {start}");
                assert!(level.starts_with(&blocked.level), "{level} {start}");
            }
        }
        let plane = set(&[("plane", FORBID_RUNS)]);
        assert!(plane.decide(&operator(&[]), &of_run("run.kill"), now()).is_err());
    }

    #[test]
    fn a_way_back_that_closes_with_time_is_seen_before() {
        let way_back = command("policy.activate");
        let permit =
            |when: &str| format!("permit(principal is Cogward::Operator, action, resource) when {{ {when} }};");
        for (when, hours, for_ever) in [
            ("true", 0, false),
            ("context.time.hour < 24", 0, false),
            // It is 22:13 on a Tuesday.
            ("context.time.hour >= 22", 22 * 7, false),
            ("context.time.weekday < 6", 48, false),
            ("context.time.epoch_ms < 1700000000001", HOURS_OF_A_WEEK - 1, true),
            ("context.time.epoch_ms < 1800000000000", 0, true),
            ("context.time.epoch_ms < 1700003600001", HOURS_OF_A_WEEK - 2, true),
        ] {
            let set = set(&[("plane", &permit(when))]);
            assert!(set.decide(&operator(&[]), &way_back, now()).is_ok(), "{when}");
            assert_eq!(set.closed(&operator(&[]), &way_back, now()), Closed { hours, for_ever }, "{when}");
        }
        let below = "forbid(principal is Cogward::Operator, action, resource) when { context.time.hour < 6 };";
        let set = set(&[("tenant:retail", below)]);
        assert_eq!(set.closed(&operator(&[]), &way_back, now()), Closed { hours: 6 * 7, for_ever: false });
    }

    #[test]
    fn the_plane_must_permit_a_command_and_lower_levels_must_not_forbid_it() {
        assert!(set(&[]).decide(&operator(&[]), &command("tool-server.add"), now()).is_ok(), "what cogward comes with");
        let blocked = set(&[("plane", TOOLS_ONLY)]).decide(&operator(&[]), &command("tool-server.add"), now());
        assert_eq!(blocked.unwrap_err().rule, "policy.plane");
        assert!(set(&[("tenant:retail", TOOLS_ONLY)]).decide(&operator(&[]), &of_run("run.start"), now()).is_ok());
        let by_role = r#"permit(principal in Cogward::Role::"release", action, resource);"#;
        let set = set(&[("plane", by_role)]);
        assert!(set.decide(&operator(&["release"]), &command("policy.activate"), now()).is_ok());
        assert!(set.decide(&operator(&["finance"]), &command("policy.activate"), now()).is_err());
    }

    #[test]
    fn a_command_that_needs_an_approval_is_refused_and_says_whose() {
        let text = r#"@escalate("board") permit(principal, action, resource);"#;
        let blocked = set(&[("plane", text)]).decide(&operator(&["board"]), &command("floor.set"), now()).unwrap_err();
        assert!(blocked.detail.contains("`board`"), "{}", blocked.detail);
    }

    #[test]
    fn a_plane_whose_policy_cannot_be_used_leaves_the_ways_out() {
        let mut set = set(&[]);
        set.versions.clear();
        set.unusable.insert(PolicyScope::Plane, (Digest::from_bytes([1; 32]), "broken".to_owned()));
        for allowed in ["policy.put", "policy.approve", "policy.activate", "run.kill"] {
            assert!(set.decide(&operator(&[]), &of_run(allowed), now()).is_ok(), "{allowed}");
        }
        for refused in ["run.start", "run.resume", "tool-server.add", "operator.add", "approval.approve"] {
            let blocked = set.decide(&operator(&[]), &of_run(refused), now()).unwrap_err();
            assert!(blocked.detail.contains("broken"), "{refused}");
        }
    }
}
