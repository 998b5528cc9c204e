//! Facts that stand for all facts of one head: the product of what each place that is read can hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cogward_model::{RunId, Timestamp};

use super::{
    constants::{Compared, Constants, Root},
    domain,
};
use crate::{
    ask::{BudgetLeft, Deed, Facts, Head, HttpRequest, ModelFacts, Principal},
    needs::Needs,
    path::Paths,
    shape::{Field, Kind, Shape},
    value::{Record, Value},
};

/// 1970-01-05, a Monday, at midnight.
const MONDAY_MS: u64 = 4 * DAY_MS;
const DAY_MS: u64 = 24 * HOUR_MS;
const HOUR_MS: u64 = 3_600_000;

type Set = Box<dyn Fn(&mut Facts)>;

/// What each place can hold, each as the changes that put it there.
pub(super) struct Facets {
    facets: Vec<Vec<Set>>,
    /// Whether they stand for all.
    pub all: bool,
}

impl Facets {
    /// Of the places that `needs` names, for one head. A pinned tool has the arguments of `shape`.
    pub fn of(head: &Head, needs: &Needs, constants: &Constants, shape: Option<&Shape>) -> Self {
        let other = constants.other.as_str();
        let mut facets = Self { facets: Vec::new(), all: true };
        let at = |steps: &[&str]| constants.at(Root::Context, steps).cloned().unwrap_or_default();
        facets.time(needs, &at(&["time", "epoch_ms"]), &at(&["time", "hour"]), &at(&["time", "weekday"]));
        // Of an operator nothing else is known, and rules can ask whether it is.
        if matches!(head.principal, Principal::Operator(_)) {
            return facets;
        }
        if needs.subject {
            let known = domain::texts(&at(&["subject"]), other).into_iter().map(Some);
            facets.add([None].into_iter().chain(known), |facts, subject| facts.subject.clone_from(subject));
        }
        if needs.run {
            let compared = at(&["run"]);
            let mut runs: Vec<Option<RunId>> =
                compared.texts.iter().filter_map(|text| text.parse().ok()).map(Some).collect();
            // A rule that names a run is about one run; another one stands for the rest.
            let others = (0..=compared.texts.len()).filter_map(|number| format!("run_{number:026}").parse().ok());
            let one = others.map(Some).find(|run| !runs.contains(run));
            // How runs are called says nothing, so what their names begin with is not told apart.
            facets.all &= one.is_some() && compared.prefixes.is_empty();
            runs.extend([None].into_iter().chain(one));
            facets.add(runs, |facts, run| facts.run = *run);
        }
        if needs.budget {
            for (place, field) in ["usd_nanos", "tokens", "calls"].into_iter().enumerate() {
                let mut amounts = domain::longs(&at(&["budget", field]), 0, i64::MAX);
                amounts.push(i64::MAX);
                facets.add(amounts, move |facts, amount| {
                    let none = BudgetLeft { usd_nanos: i64::MAX, tokens: i64::MAX, calls: i64::MAX };
                    let left = facts.budget.get_or_insert(none);
                    match place {
                        0 => left.usd_nanos = *amount,
                        1 => left.tokens = *amount,
                        _ => left.calls = *amount,
                    }
                });
            }
        }
        if needs.labels {
            facets.labels(&at(&["labels"]), other);
        }
        for tracker in &needs.history {
            // The call that is decided is counted, unless only ended ones are.
            let counted = !tracker.completed && tracker.counts(&head.deed);
            let least = i64::from(counted && matches!(tracker.measure, crate::track::Measure::Count));
            let key = tracker.key();
            facets.add(domain::longs(&at(&["history", &tracker.name]), least, i64::MAX), move |facts, value| {
                facts.history.insert(key.clone(), *value);
            });
        }
        if needs.model && matches!(head.deed, Deed::ModelCall { .. }) {
            facets.model(&at(&["model", "wire"]), &at(&["model", "tokens_max"]), other);
        }
        if needs.request && matches!(head.deed, Deed::Egress { .. }) {
            facets.request(&at(&["request", "method"]), &at(&["request", "path"]), other);
        }
        if matches!(head.deed, Deed::ToolCall { pinned: true, .. } | Deed::Memory { pinned: true, .. })
            && !needs.arguments.is_empty()
        {
            // A tool that may be approved later, with no argument that is read.
            let none = BTreeMap::new();
            let fields = shape.map_or(&none, Shape::fields);
            facets.add([domain::least(fields, other)], |facts, record| facts.arguments = Some(record.clone()));
            facets.arguments(&mut vec!["arguments".to_owned()], fields, &needs.arguments, constants);
        }
        facets
    }

    fn add<T: 'static>(&mut self, values: impl IntoIterator<Item = T>, set: impl Fn(&mut Facts, &T) + 'static) {
        let set = Arc::new(set);
        let one = |value: T| -> Set {
            let set = Arc::clone(&set);
            Box::new(move |facts| set(facts, &value))
        };
        self.facets.push(values.into_iter().map(one).collect());
    }

    fn time(&mut self, needs: &Needs, epoch: &Compared, hour: &Compared, weekday: &Compared) {
        if !needs.time {
            return;
        }
        let mut moments: BTreeSet<u64> =
            domain::longs(epoch, 0, i64::MAX).into_iter().filter_map(|ms| u64::try_from(ms).ok()).collect();
        let (hours, days) = (domain::longs(hour, 0, 23), domain::longs(weekday, 1, 7));
        // Moments that are named have hours and weekdays of their own; not every pair of them is looked at.
        self.all &= epoch.longs.is_empty() || (hour.longs.is_empty() && weekday.longs.is_empty());
        for (hour, day) in hours.iter().flat_map(|hour| days.iter().map(move |day| (*hour, *day))) {
            let (hour, day) = (u64::try_from(hour).unwrap_or(0), u64::try_from(day - 1).unwrap_or(0));
            moments.insert(MONDAY_MS + day * DAY_MS + hour * HOUR_MS);
        }
        self.add(moments, |facts, ms| facts.at_ms = *ms);
    }

    fn labels(&mut self, compared: &Compared, other: &str) {
        let named = compared.members.iter().filter_map(|member| match member {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        });
        let (sets, all) = domain::subsets(named.chain([other.to_owned()]));
        self.all &= all;
        self.add(sets, |facts, labels| facts.labels = Some(labels.clone()));
    }

    fn model(&mut self, wire: &Compared, tokens: &Compared, other: &str) {
        let (wires, tokens) = (domain::texts(wire, other), domain::longs(tokens, 0, i64::MAX));
        let mut all = Vec::new();
        for wire in &wires {
            for (tokens_max, streaming) in tokens.iter().flat_map(|tokens| [(*tokens, false), (*tokens, true)]) {
                all.push(ModelFacts { wire: wire.clone(), streaming, tokens_max });
            }
        }
        self.add(all, |facts, model| facts.model = Some(model.clone()));
    }

    fn request(&mut self, method: &Compared, path: &Compared, other: &str) {
        let (methods, paths) = (domain::texts(method, other), domain::texts(path, other));
        let mut all = vec![None];
        for method in &methods {
            all.extend(paths.iter().map(|path| Some(HttpRequest { method: method.clone(), path: path.clone() })));
        }
        self.add(all, |facts, request| facts.request.clone_from(request));
    }

    fn arguments(
        &mut self,
        above: &mut Vec<String>,
        fields: &BTreeMap<String, Field>,
        read: &Paths,
        constants: &Constants,
    ) {
        for (name, field) in fields {
            let mut whole = Paths::default();
            whole.add([]);
            let Some(below) = (if read.is_whole() { Some(&whole) } else { read.below(name) }) else { continue };
            above.push(name.clone());
            let steps: Vec<&str> = above.iter().map(String::as_str).collect();
            let compared = constants.at(Root::Context, &steps).cloned().unwrap_or_default();
            let (mut values, all) = match &field.kind {
                Kind::Record(inner) if !below.is_whole() => {
                    (vec![Value::Record(domain::least(inner, &constants.other))], true)
                }
                kind => domain::values(kind, &compared, &constants.other),
            };
            self.all &= all;
            let path: Vec<String> = above.iter().skip(1).cloned().collect();
            let mut choices: Vec<Option<Value>> = values.drain(..).map(Some).collect();
            if !field.required {
                choices.push(None);
            }
            self.add(choices, move |facts, value| {
                if let Some(record) = &mut facts.arguments {
                    put(record, &path, value.as_ref());
                }
            });
            if let Kind::Record(inner) = &field.kind
                && !below.is_whole()
            {
                self.arguments(above, inner, below, constants);
            }
            above.pop();
        }
    }

    /// How many combinations there are.
    pub fn combinations(&self) -> usize {
        self.facets.iter().fold(1_usize, |product, facet| product.saturating_mul(facet.len().max(1)))
    }

    /// One combination, by its number.
    pub fn facts(&self, mut number: usize) -> Facts {
        let mut facts = Facts::at(Timestamp::from_unix_micros(0));
        for facet in &self.facets {
            if let Some(set) = facet.get(number % facet.len().max(1)) {
                set(&mut facts);
            }
            number /= facet.len().max(1);
        }
        facts
    }
}

/// Puts a value where the records above it are, or takes it out. Where they are not, nothing is put.
fn put(record: &mut Record, path: &[String], value: Option<&Value>) {
    match path {
        [] => {}
        [name] => match value {
            Some(value) => _ = record.insert(name.clone(), value.clone()),
            None => _ = record.remove(name),
        },
        [name, rest @ ..] => {
            if let Some(Value::Record(inner)) = record.get_mut(name) {
                put(inner, rest, value);
            }
        }
    }
}
