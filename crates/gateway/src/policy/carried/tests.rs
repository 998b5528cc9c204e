use std::collections::BTreeMap;

use cogward_model::{Id, SystemClock, SystemEntropy};
use proptest::prelude::*;

use super::*;
use crate::policy::{Earlier, Ended};

const KEYS: [&str; 5] = [
    "count of tool_call per user within 3600s",
    "count of tool_call per agent within 60s",
    "count of tool_call per run",
    "sum(arguments.amount) of tool:bank/pay per tenant",
    "count of tool:bank/pay per user completed",
];

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix_micros(1_700_000_000_000_000 + seconds * 1_000_000)
}

/// What happened, in terms of small numbers.
#[derive(Debug, Clone)]
enum Step {
    Decided { run: usize, user: Option<u8>, agent: u8, added: Vec<(usize, i64)>, label: bool, after: u64 },
    Ended { which: usize, how: u8, after: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let added = proptest::collection::vec((0..KEYS.len(), 0..1_000_i64), 0..3);
    let decided = (0..4_usize, proptest::option::of(0..3_u8), 0..2_u8, added, any::<bool>(), 0..900_u64)
        .prop_map(|(run, user, agent, added, label, after)| Step::Decided { run, user, agent, added, label, after });
    let ended = (0..8_usize, 0..3_u8, 0..900_u64).prop_map(|(which, how, after)| Step::Ended { which, how, after });
    prop_oneof![3 => decided, 2 => ended]
}

struct World {
    runs: Vec<RunId>,
    tenant: TenantName,
    decisions: Vec<EventId>,
    ended: Vec<bool>,
    now: u64,
}

impl World {
    fn new() -> Self {
        let runs = (0..4).map(|_| Id::new(&SystemClock, &SystemEntropy)).collect();
        Self { runs, tenant: TenantName::default_tenant(), decisions: Vec::new(), ended: Vec::new(), now: 0 }
    }

    /// The last two runs have ended by the time of the start.
    fn lives(&self, run: RunId) -> bool {
        self.runs[..2].contains(&run)
    }

    /// Carries a step out on each history.
    fn take(&mut self, step: &Step, on: &mut [&mut Restoring<'_>]) {
        match step {
            Step::Decided { run, user, agent, added, label, after } => {
                self.now += after;
                let decision = Id::new(&SystemClock, &SystemEntropy);
                self.decisions.push(decision);
                self.ended.push(false);
                let user = user.map(|user| format!("user-{user}"));
                let agent: AgentName = format!("agent-{agent}").parse().unwrap();
                let added: BTreeMap<_, _> =
                    added.iter().map(|(key, amount)| (KEYS[*key].to_owned(), *amount)).collect();
                let labels = if *label { vec!["personal".to_owned()] } else { Vec::new() };
                let earlier = Earlier {
                    decision,
                    tenant: &self.tenant,
                    run: self.runs[*run],
                    lives: self.lives(self.runs[*run]),
                    agent: &agent,
                    subject: user.as_deref(),
                    name: user.as_ref().map(|user| format!("sealed {user} {decision}").into()),
                    added: Some(&added),
                    labels: &labels,
                    time: at(self.now),
                };
                on.iter_mut().for_each(|restoring| restoring.decided(&earlier));
            }
            Step::Ended { which, how, after } => {
                self.now += after;
                let Some(decision) = self.decisions.get(*which).filter(|_| !self.ended[*which]) else { return };
                self.ended[*which] = true;
                let how = [Ended::Well, Ended::Otherwise, Ended::WithoutEffect][usize::from(*how)];
                on.iter_mut().for_each(|restoring| restoring.ended(*decision, how, at(self.now)));
            }
        }
    }

    /// All that can be asked about what lives.
    fn seen(&self, history: &History) -> Vec<Option<i64>> {
        let mut seen = Vec::new();
        for run in &self.runs[..2] {
            for user in [None, Some("user-0"), Some("user-1"), Some("user-2")] {
                for agent in ["agent-0", "agent-1"] {
                    let agent = agent.parse().unwrap();
                    seen.extend(KEYS.iter().map(|key| history.value_of(&self.tenant, *run, user, &agent, key)));
                }
            }
            seen.push(Some(history.labels_of(&self.tenant, *run).len() as i64));
        }
        seen
    }
}

fn name(_: &TenantName, sealed: &str) -> Option<String> {
    sealed.strip_prefix("sealed ")?.split(' ').next().map(str::to_owned)
}

proptest! {
    /// Wherever it is cut and carried as a text, what comes out is as if all had been read.
    #[test]
    fn it_goes_on_as_if_all_was_read(steps in proptest::collection::vec(step(), 0..40), cut in 0..40_usize) {
        let mut world = World::new();
        let (whole, first, second) = (History::default(), History::default(), History::default());
        let (mut all, mut before) = (whole.restoring(), first.restoring());
        let cut = cut.min(steps.len());
        for step in &steps[..cut] {
            world.take(step, &mut [&mut all, &mut before]);
        }
        let image = before.image(&|run| world.lives(run), at(world.now));
        let text = serde_json::to_vec(&image).unwrap();
        prop_assert!(!String::from_utf8_lossy(&text).contains("\"user-"), "a name is in it only as it is sealed");
        let image: HistoryImage = serde_json::from_slice(&text).unwrap();
        let mut after = second.resuming(image, &|run| world.lives(run), &mut name).unwrap();
        for step in &steps[cut..] {
            world.take(step, &mut [&mut all, &mut after]);
        }
        prop_assert_eq!(world.seen(&whole), world.seen(&second));
        let again = after.image(&|run| world.lives(run), at(world.now));
        let mut third = all.image(&|run| world.lives(run), at(world.now));
        // What is carried twice is what is carried once, but for the order of maps.
        let sorted = |image: &mut HistoryImage| {
            image.open.sort_by_key(|open| open.decision);
            for tenant in &mut image.tenants {
                tenant.kept.iter_mut().for_each(|kept| kept.sums.sort_by(|a, b| a.key.cmp(&b.key)));
                tenant.kept.sort_by_key(|kept| format!("{:?}", kept.whose));
            }
        };
        let mut again = again;
        sorted(&mut again);
        sorted(&mut third);
        prop_assert_eq!(again, third);
    }
}

#[test]
fn an_erased_person_has_no_counts_and_others_keep_theirs() {
    let mut world = World::new();
    let (history, next) = (History::default(), History::default());
    let mut restoring = history.restoring();
    for user in [0, 1] {
        let step =
            Step::Decided { run: 0, user: Some(user), agent: 0, added: vec![(0, 3), (3, 5)], label: false, after: 1 };
        world.take(&step, &mut [&mut restoring]);
    }
    let image = restoring.image(&|run| world.lives(run), at(world.now));
    let erased = &mut |tenant: &TenantName, sealed: &str| name(tenant, sealed).filter(|name| name != "user-0");
    drop(next.resuming(image, &|run| world.lives(run), erased).unwrap());
    let agent = "agent-0".parse().unwrap();
    let seen = |user: &str, key: &str| next.value_of(&world.tenant, world.runs[0], Some(user), &agent, key).unwrap();
    assert_eq!((seen("user-0", KEYS[0]), seen("user-1", KEYS[0])), (0, 3));
    assert_eq!(seen("user-1", KEYS[3]), 10, "what the tenant did does not depend on who it was for");
}

#[test]
fn what_cannot_have_been_written_is_not_taken() {
    let image = |sums: &str| {
        let text = format!(
            r#"{{"tenants":[{{"name":"default","now":0,"unknown":false,"kept":[{{"whose":"tenant","labels":[],"sums":[{sums}]}}]}}],"open":[]}}"#
        );
        serde_json::from_str::<HistoryImage>(&text).unwrap()
    };
    let windowed = KEYS[1];
    for bad in [
        r#"{"key":"no tracker","total":1,"buckets":[]}"#.to_owned(),
        format!(r#"{{"key":"{windowed}","total":1,"buckets":[]}}"#),
        format!(r#"{{"key":"{windowed}","total":3,"buckets":[[2,1],[1,2]]}}"#),
        format!(r#"{{"key":"{}","total":1,"buckets":[[1,1]]}}"#, KEYS[3]),
    ] {
        let history = History::default();
        assert_eq!(history.resuming(image(&bad), &|_| true, &mut name).err(), Some(NotUnderstood), "{bad}");
    }
}
