//! The input schema of a tool, compiled once per definition, and the check of arguments against it.
//!
//! A definition comes from a tool server and the arguments from an agent; neither is trusted, and the
//! two may work together. So a schema is measured as a graph before anything compiles it: references
//! stay inside it, no chain of references leads back to itself without going down into the value, and
//! how deep it can recurse is bounded. What could still be slow runs off the request path with a time
//! limit. A schema that cannot be checked is not skipped: its tool cannot be called.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;
use tokio::{sync::Semaphore, time::Instant};

/// Largest schema, in bytes: the largest of published servers are about 60 KiB.
const SCHEMA_BYTES_MAX: usize = 512 * 1024;
/// Most subschemas.
const SUBSCHEMAS_MAX: usize = 20_000;
/// Longest path through subschemas.
const PATH_MAX: usize = 400;
/// Longest chain of subschemas that look at the same place of the value, times the depth of the value.
const STACK_MAX: usize = 2_048;
/// Most subschemas, counted with repetition, that look at one place of the value.
const VISITS_MAX: u64 = 1_000_000;
/// Work, in visits of a subschema, up to which arguments are checked on the request path.
const INLINE_VISITS_MAX: u64 = 100_000;
/// What a visit may cost, as visits, where there are patterns: whoever wrote them and whoever sends the text can make one
/// look a long time.
const PATTERN_VISITS: u64 = 1_000;
/// Time for a check off the request path.
const CHECK_MS_MAX: u64 = 2_000;
/// How long no slow check of a schema begins after one ran out of time. One agent's arguments must not take a tool from
/// the others for good, and not two of the places below again and again.
const REST: Duration = Duration::from_secs(60);
/// Slow checks at once in the whole process. One that never ends keeps its place, so they cannot pile up.
static SLOW: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(2)));

/// Why arguments were not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// The schema itself cannot be used.
    #[error("the tool's input schema cannot be used: {0}")]
    Unusable(String),
    /// The arguments break it.
    #[error("the arguments break the tool's input schema at `{at}`: {why}")]
    Broken {
        /// JSON pointer into the arguments.
        at: String,
        /// What is expected there, without the value.
        why: String,
    },
    /// The check would take too long.
    #[error("the arguments cannot be checked against the tool's input schema in time")]
    TooCostly,
}

/// A compiled input schema.
#[derive(Debug)]
pub struct ToolSchema(Result<Arc<Checked>, String>);

#[derive(Debug)]
struct Checked {
    validator: Validator,
    shape: Shape,
    /// Whether texts are compared with patterns.
    patterns: bool,
    /// A check ran out of time: until then it rests.
    rests: Mutex<Option<Instant>>,
}

/// What a schema can cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    /// Longest chain of subschemas at one place of the value.
    chain: usize,
    /// Most subschemas that look at one place, counted with repetition.
    visits: u64,
    /// How many times a part of a value may be looked at for each time that the whole is.
    spread: u64,
}

impl ToolSchema {
    /// Compiles a schema. It never fails: an unusable schema refuses every call.
    #[must_use]
    pub fn compile(raw: &str) -> Self {
        Self(compile(raw).map(Arc::new))
    }

    /// Whether anything can be checked against it.
    ///
    /// # Errors
    /// Why not.
    pub fn usable(&self) -> Result<(), String> {
        self.0.as_ref().map(drop).map_err(|why| format!("its schema cannot be used: {why}"))
    }

    /// Checks arguments, which are known to be JSON of bounded depth.
    ///
    /// # Errors
    /// [`SchemaError`].
    pub async fn check(&self, arguments: &[u8]) -> Result<(), SchemaError> {
        let checked = self.0.as_ref().map_err(|why| SchemaError::Unusable(why.clone()))?;
        let value: Value = serde_json::from_slice(arguments)
            .map_err(|_| SchemaError::Broken { at: String::new(), why: "it is not JSON".into() })?;
        let (nodes, depth) = measure(&value);
        if checked.shape.chain.saturating_mul(depth) > STACK_MAX {
            return Err(SchemaError::TooCostly);
        }
        let spread = checked.shape.spread.saturating_pow(u32::try_from(depth).unwrap_or(u32::MAX));
        let visits = nodes.saturating_mul(checked.shape.visits).saturating_mul(spread);
        let visits = if checked.patterns { visits.saturating_mul(PATTERN_VISITS) } else { visits };
        if visits <= INLINE_VISITS_MAX {
            return checked.run(&value);
        }
        checked.run_aside(value).await
    }
}

impl Checked {
    fn run(&self, value: &Value) -> Result<(), SchemaError> {
        self.validator.validate(value).map_err(|error| SchemaError::Broken {
            at: short(&error.instance_path().to_string(), 256),
            // Masked: the text names what is expected, never what was sent.
            why: short(&error.masked().to_string(), 512),
        })
    }

    async fn run_aside(self: &Arc<Self>, value: Value) -> Result<(), SchemaError> {
        if self.resting().is_some_and(|until| Instant::now() < until) {
            return Err(SchemaError::TooCostly);
        }
        let limit = Duration::from_millis(CHECK_MS_MAX);
        let place = tokio::time::timeout(limit, Arc::clone(&SLOW).acquire_owned()).await;
        let Ok(Ok(place)) = place else { return Err(SchemaError::TooCostly) };
        let this = Arc::clone(self);
        let check = tokio::task::spawn_blocking(move || {
            let verdict = this.run(&value);
            drop(place);
            verdict
        });
        match tokio::time::timeout(limit, check).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) => Err(SchemaError::TooCostly),
            Err(_) => {
                *self.resting() = Some(Instant::now() + REST);
                Err(SchemaError::TooCostly)
            }
        }
    }

    fn resting(&self) -> MutexGuard<'_, Option<Instant>> {
        // Only assignments happen under this lock.
        self.rests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn short(text: &str, max: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(max).collect()
}

fn compile(raw: &str) -> Result<Checked, String> {
    if raw.len() > SCHEMA_BYTES_MAX {
        return Err(format!("it is longer than {SCHEMA_BYTES_MAX} bytes"));
    }
    let schema: Value = serde_json::from_str(raw).map_err(|_| "it is not JSON".to_owned())?;
    // Servers of older revisions leave the type out; arguments are an object anyway.
    if !schema.is_object() || schema.get("type").is_some_and(|kind| kind != "object") {
        return Err("it is not a schema of an object".to_owned());
    }
    let shape = Graph::of(&schema)?.shape()?;
    if shape.visits > VISITS_MAX {
        return Err("its references multiply to more than can be checked".to_owned());
    }
    let validator = jsonschema::options()
        .offline()
        .with_pattern_options(PatternOptions::fancy_regex().backtrack_limit(50_000).size_limit(1 << 20))
        .build(&schema)
        .map_err(|error| short(&format!("at `{}`: {}", error.instance_path(), error.masked()), 512))?;
    // Also where it is only the name of a property: then a check is made aside that need not be.
    let patterns = raw.contains("pattern") || raw.contains('\\');
    Ok(Checked { validator, shape, patterns, rests: Mutex::default() })
}

/// Count of values in a value, and its depth.
fn measure(value: &Value) -> (u64, usize) {
    let (mut nodes, mut depth) = (0_u64, 0);
    let mut open = vec![(value, 1_usize)];
    while let Some((value, level)) = open.pop() {
        nodes += 1;
        depth = depth.max(level);
        match value {
            Value::Array(list) => open.extend(list.iter().map(|v| (v, level + 1))),
            Value::Object(map) => open.extend(map.values().map(|v| (v, level + 1))),
            _ => {}
        }
    }
    (nodes, depth)
}

/// Subschemas and which of them lead to which: at the same place of the value, or one step into it.
struct Graph {
    same: Vec<Vec<usize>>,
    below: Vec<Vec<usize>>,
    spread: Vec<u64>,
}

/// Keywords whose schema looks at the same place.
const SAME_ONE: [&str; 4] = ["not", "if", "then", "else"];
const SAME_LIST: [&str; 3] = ["allOf", "anyOf", "oneOf"];
const SAME_MAP: [&str; 2] = ["dependentSchemas", "dependencies"];
/// Keywords whose schema looks at the parts of an object or of a list.
const BELOW_ONE: [&str; 7] = [
    "additionalProperties",
    "propertyNames",
    "unevaluatedProperties",
    "items",
    "additionalItems",
    "contains",
    "unevaluatedItems",
];
const BELOW_LIST: [&str; 2] = ["prefixItems", "items"];
const BELOW_MAP: [&str; 2] = ["properties", "patternProperties"];

impl Graph {
    fn of(root: &Value) -> Result<Self, String> {
        let anchors = anchors(root)?;
        let base = root.get("$id").and_then(Value::as_str).unwrap_or_default().trim_end_matches('#').to_owned();
        let mut graph = Self { same: Vec::new(), below: Vec::new(), spread: Vec::new() };
        let mut index: HashMap<*const Value, usize> = HashMap::new();
        let mut open: Vec<&Value> = vec![root];
        index.insert(root, 0);
        let mut next = 0;
        while next < open.len() {
            let Some(node) = open.get(next).copied() else { break };
            next += 1;
            let mut number = |target, open: &mut Vec<_>| {
                *index.entry(target as *const Value).or_insert_with(|| {
                    open.push(target);
                    open.len() - 1
                })
            };
            let (mut same, mut below) = (Vec::new(), Vec::new());
            for keyword in ["$ref", "$dynamicRef", "$recursiveRef"] {
                if let Some(reference) = node.get(keyword) {
                    let text = reference.as_str().ok_or_else(|| format!("`{keyword}` is not a text"))?;
                    same.push(number(resolve(root, &base, &anchors, text)?, &mut open));
                }
            }
            same.extend(SAME_ONE.iter().filter_map(|k| node.get(k)).map(|s| number(s, &mut open)));
            for list in SAME_LIST.iter().filter_map(|k| node.get(k)?.as_array()) {
                same.extend(list.iter().map(|s| number(s, &mut open)));
            }
            for map in SAME_MAP.iter().filter_map(|k| node.get(k)?.as_object()) {
                same.extend(map.values().filter(|s| s.is_object()).map(|s| number(s, &mut open)));
            }
            below.extend(BELOW_ONE.iter().filter_map(|k| node.get(k)).map(|s| number(s, &mut open)));
            for list in BELOW_LIST.iter().filter_map(|k| node.get(k)?.as_array()) {
                below.extend(list.iter().map(|s| number(s, &mut open)));
            }
            for map in BELOW_MAP.iter().filter_map(|k| node.get(k)?.as_object()) {
                below.extend(map.values().map(|s| number(s, &mut open)));
            }
            let has = |keyword: &str| u64::from(node.get(keyword).is_some_and(|s| s.is_object() || s.is_array()));
            let patterns = node.get("patternProperties").and_then(Value::as_object).map_or(0, |m| m.len() as u64);
            // Named properties exclude the additional ones, list positions exclude the rest of the list.
            let object = has("properties").max(has("additionalProperties")) + patterns + has("unevaluatedProperties");
            let list = has("items").max(has("prefixItems")) + has("contains") + has("unevaluatedItems");
            graph.spread.push(object.max(list));
            graph.same.push(same);
            graph.below.push(below);
            if open.len() > SUBSCHEMAS_MAX {
                return Err(format!("it has more than {SUBSCHEMAS_MAX} subschemas"));
            }
        }
        Ok(graph)
    }

    fn shape(&self) -> Result<Shape, String> {
        let order = self.same_place_order()?;
        let count = self.same.len();
        let (mut chain, mut visits, mut spread) = (vec![1_usize; count], vec![1_u64; count], self.spread.clone());
        // In this order every subschema comes after those that it leads to.
        for node in order {
            let mut totals = (0_usize, 1_u64, at(&self.spread, node));
            for &target in self.same.get(node).map(Vec::as_slice).unwrap_or_default() {
                totals.0 = totals.0.max(at(&chain, target));
                totals.1 = totals.1.saturating_add(at(&visits, target));
                totals.2 = totals.2.saturating_add(at(&spread, target));
            }
            if let (Some(c), Some(v), Some(s)) = (chain.get_mut(node), visits.get_mut(node), spread.get_mut(node)) {
                (*c, *v, *s) = (totals.0 + 1, totals.1, totals.2);
            }
        }
        let most = |list: &[u64]| list.iter().copied().max().unwrap_or(1).max(1);
        Ok(Shape { chain: chain.iter().copied().max().unwrap_or(1), visits: most(&visits), spread: most(&spread) })
    }

    /// Depth-first order along same-place steps, without recursion of our own.
    fn same_place_order(&self) -> Result<Vec<usize>, String> {
        let count = self.same.len();
        let mut state = vec![0_u8; count];
        let mut order = Vec::with_capacity(count);
        for start in 0..count {
            if at(&state, start) != 0 {
                continue;
            }
            let mut path = vec![(start, 0_usize)];
            set(&mut state, start, 1);
            while let Some((node, step)) = path.last_mut() {
                let target = self.same.get(*node).and_then(|targets| targets.get(*step)).copied();
                *step += 1;
                match target {
                    None => {
                        set(&mut state, *node, 2);
                        order.push(*node);
                        path.pop();
                    }
                    Some(target) if at(&state, target) == 0 => {
                        set(&mut state, target, 1);
                        path.push((target, 0));
                    }
                    Some(target) if at(&state, target) == 1 => {
                        return Err("a reference leads back to itself without going into the value".to_owned());
                    }
                    Some(_) => {}
                }
            }
        }
        self.longest_walk_is_bounded()?;
        Ok(order)
    }

    /// What compiles the schema walks it by recursion, so the walk has to be short.
    fn longest_walk_is_bounded(&self) -> Result<(), String> {
        let mut seen = vec![false; self.same.len()];
        let mut open = vec![(0_usize, 1_usize)];
        while let Some((node, depth)) = open.pop() {
            if depth > PATH_MAX {
                return Err(format!("its references form a path longer than {PATH_MAX}"));
            }
            if at(&seen, node) {
                continue;
            }
            set(&mut seen, node, true);
            for list in [&self.same, &self.below] {
                open.extend(list.get(node).into_iter().flatten().map(|target| (*target, depth + 1)));
            }
        }
        Ok(())
    }
}

fn at<T: Copy + Default>(list: &[T], place: usize) -> T {
    list.get(place).copied().unwrap_or_default()
}

fn set<T>(list: &mut [T], place: usize, value: T) {
    if let Some(slot) = list.get_mut(place) {
        *slot = value;
    }
}

/// Named places. A schema with identities of its own inside is refused: what a reference means would
/// depend on where it stands.
fn anchors(root: &Value) -> Result<HashMap<&str, &Value>, String> {
    let mut anchors = HashMap::new();
    let mut open = vec![root];
    while let Some(node) = open.pop() {
        if let Value::Object(map) = node {
            if !std::ptr::eq(node, root) && map.get("$id").is_some_and(Value::is_string) {
                return Err("a part of it has an `$id` of its own".to_owned());
            }
            for keyword in ["$anchor", "$dynamicAnchor"] {
                if let Some(name) = map.get(keyword).and_then(Value::as_str) {
                    anchors.insert(name, node);
                }
            }
            open.extend(map.values());
        } else if let Value::Array(list) = node {
            open.extend(list);
        }
    }
    Ok(anchors)
}

fn resolve<'a>(
    root: &'a Value,
    base: &str,
    anchors: &HashMap<&str, &'a Value>,
    reference: &str,
) -> Result<&'a Value, String> {
    let unknown = || format!("the reference `{}` does not stay inside it", short(reference, 128));
    let (document, fragment) = reference.split_once('#').unwrap_or((reference, ""));
    if !document.is_empty() && document != base {
        return Err(unknown());
    }
    if fragment.is_empty() {
        return Ok(root);
    }
    if !fragment.starts_with('/') {
        return anchors.get(fragment).copied().ok_or_else(unknown);
    }
    root.pointer(fragment).or_else(|| root.pointer(&percent_decoded(fragment)?)).ok_or_else(unknown)
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let (high, low) = (char::from(rest.next()?).to_digit(16)?, char::from(rest.next()?).to_digit(16)?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests;
