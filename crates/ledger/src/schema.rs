//! The event schema: which fields an event has, who may read them, and who emits it.
//!
//! It is data (`schemas/events.v1.json`), and the encoder is held to it: a field that it does not
//! know is committed and never shown, whatever the emitter said, and a field with the name of a
//! secret is not recorded at all. A build for tests refuses what the schema does not say.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    sync::LazyLock,
};

use aws_lc_rs::digest;
use cogward_model::event::{Event, EventType, Field, FieldClass, Value};
use serde::Deserialize;

/// The form of the text that is understood here.
const FORM: u64 = 1;
const SOURCE: &str = include_str!("../../../schemas/events.v1.json");

/// What kind of value a field holds; every field may be `null` too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Texts,
    Integer,
    Boolean,
    List,
    Map,
    Any,
}

impl Kind {
    fn takes(self, value: &Value) -> bool {
        match (self, value) {
            (_, Value::Null)
            | (Self::Any, _)
            | (Self::Text, Value::Text(_))
            | (Self::Integer, Value::Int(_))
            | (Self::Boolean, Value::Bool(_))
            | (Self::List, Value::List(_))
            | (Self::Map, Value::Map(_)) => true,
            (Self::Texts, Value::List(items)) => items.iter().all(|item| matches!(item, Value::Text(_))),
            _ => false,
        }
    }
}

/// One field of one type of event: `public text`.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
struct Spec {
    class: FieldClass,
    kind: Kind,
    text: String,
}

impl TryFrom<String> for Spec {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let unknown = || format!("`{text}` is not a class and a kind of value");
        let (class, kind) = text.split_once(' ').ok_or_else(unknown)?;
        let class = match class {
            "public" => FieldClass::Public,
            "personal" => FieldClass::Personal,
            "confidential" => FieldClass::Confidential,
            _ => return Err(unknown()),
        };
        let kind = match kind {
            "text" => Kind::Text,
            "texts" => Kind::Texts,
            "integer" => Kind::Integer,
            "boolean" => Kind::Boolean,
            "list" => Kind::List,
            "map" => Kind::Map,
            "any" => Kind::Any,
            _ => return Err(unknown()),
        };
        Ok(Self { class, kind, text })
    }
}

/// On whose account an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Who {
    /// `act` names an agent.
    Agent,
    /// `sub` names a person, and there is no agent.
    Operator,
    /// The plane by itself: both are there, and both are `null`.
    Plane,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventSpec {
    about: String,
    who: Vec<Who>,
    from: String,
    since: String,
    groups: Vec<String>,
    fields: BTreeMap<String, Spec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    form: u64,
    version: u64,
    secret: BTreeSet<String>,
    words: BTreeMap<String, String>,
    groups: BTreeMap<String, BTreeMap<String, Spec>>,
    events: BTreeMap<String, EventSpec>,
}

/// What an event does not keep to. A defect of the emitter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The type is not in the schema.
    #[error("`{0}` is not in schemas/events.v1.json")]
    Type(&'static str),
    /// The type has no such field.
    #[error("`{kind}` has no field `{field}` in schemas/events.v1.json")]
    Field {
        /// The type.
        kind: &'static str,
        /// The field.
        field: String,
    },
    /// The field is shown to more readers than it may be.
    #[error("`{kind}`: the field `{field}` is {is:?}, the schema says {class:?}")]
    Class {
        /// The type.
        kind: &'static str,
        /// The field.
        field: String,
        /// What the emitter said.
        is: FieldClass,
        /// What the schema says.
        class: FieldClass,
    },
    /// The value is of another kind.
    #[error("`{kind}`: the value of `{field}` is not of the kind `{wanted}`")]
    Kind {
        /// The type.
        kind: &'static str,
        /// The field.
        field: String,
        /// What the schema says.
        wanted: String,
    },
    /// Nobody is named whom the type must name, or somebody whom it cannot.
    #[error("`{0}` does not name who acts and for whom as the schema says")]
    Attribution(&'static str),
}

/// The schema that this build writes.
#[derive(Debug)]
pub struct Schema {
    source: Source,
    /// All fields of each type, those of its groups too.
    fields: HashMap<EventType, HashMap<String, Spec>>,
    /// The class of each of them, in the order of the names; none of a field that is never recorded.
    classes: HashMap<EventType, Vec<(String, FieldClass)>>,
    digest: String,
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    // The text is part of the program and a test reads it. Without it everything would be committed.
    let source = serde_json::from_str(SOURCE).unwrap_or_else(|_| Source {
        form: 0,
        version: 0,
        secret: BTreeSet::new(),
        words: BTreeMap::new(),
        groups: BTreeMap::new(),
        events: BTreeMap::new(),
    });
    Schema::new(source)
});

/// The schema of this build.
#[must_use]
pub fn schema() -> &'static Schema {
    &SCHEMA
}

impl Schema {
    fn new(source: Source) -> Self {
        let mut fields = HashMap::new();
        // A text of another form says things that this program does not understand: all is hidden then.
        let known: &[EventType] = if source.form == FORM { EventType::ALL } else { &[] };
        for kind in known {
            let Some(spec) = source.events.get(kind.as_str()) else { continue };
            let mut all: HashMap<String, Spec> = HashMap::new();
            for group in &spec.groups {
                all.extend(source.groups.get(group).into_iter().flatten().map(|(n, s)| (n.clone(), s.clone())));
            }
            all.extend(spec.fields.iter().map(|(n, s)| (n.clone(), s.clone())));
            fields.insert(*kind, all);
        }
        let classes = fields.iter().map(|(kind, of): (&EventType, &HashMap<String, Spec>)| {
            let recorded = of.iter().filter(|(name, _)| !source.secret.contains(*name));
            let mut classes: Vec<_> = recorded.map(|(name, spec)| (name.clone(), spec.class)).collect();
            classes.sort_by(|(a, _), (b, _)| a.cmp(b));
            (*kind, classes)
        });
        let classes = classes.collect();
        let digest = digest::digest(&digest::SHA256, SOURCE.as_bytes());
        let digest = digest.as_ref().iter().fold("sha256:".to_owned(), |mut text, byte| {
            let _written = write!(text, "{byte:02x}");
            text
        });
        Self { source, fields, classes, digest }
    }

    /// Its version: raised with every change of meaning.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.source.version
    }

    /// The SHA-256 of its text, as the leaf `ledger.schema` names it.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// How the fields of a type of event are written.
    #[must_use]
    pub fn of(&self, kind: EventType) -> Classes<'_> {
        Classes { classes: self.classes.get(&kind).map(Vec::as_slice).unwrap_or_default(), secret: &self.source.secret }
    }

    /// Whether an event is what the schema says. For builds for tests: the encoder hides what is not known anyway.
    ///
    /// # Errors
    /// The first thing that it does not keep to.
    pub fn check(&self, event: &Event) -> Result<(), Mismatch> {
        let kind = event.kind.as_str();
        let (Some(spec), Some(fields)) = (self.source.events.get(kind), self.fields.get(&event.kind)) else {
            return Err(Mismatch::Type(kind));
        };
        for field in &event.fields {
            let name = || field.name.to_string();
            let Some(spec) = fields.get(&*field.name) else { return Err(Mismatch::Field { kind, field: name() }) };
            if field.class == FieldClass::Public && spec.class != FieldClass::Public {
                return Err(Mismatch::Class { kind, field: name(), is: field.class, class: spec.class });
            }
            if !spec.kind.takes(&field.value) {
                return Err(Mismatch::Kind { kind, field: name(), wanted: spec.text.clone() });
            }
        }
        let (agent, subject) = (event.by.agent.is_some(), event.by.subject.is_some());
        let named = spec.who.iter().any(|who| match who {
            Who::Agent => agent,
            Who::Operator => subject && !agent,
            Who::Plane => !agent && !subject,
        });
        if named { Ok(()) } else { Err(Mismatch::Attribution(kind)) }
    }

    /// The page of the documentation.
    #[must_use]
    pub fn page(&self) -> String {
        let mut page = format!(
            "# Events: what each record says\n\nWritten from `schemas/events.v1.json`, version {}, {}.\n\n",
            self.source.version, self.digest
        );
        page.push_str(PREFACE);
        for kind in EventType::ALL {
            let Some(spec) = self.source.events.get(kind.as_str()) else { continue };
            let who: Vec<&str> = spec.who.iter().map(|who| who.word()).collect();
            let (about, from, since) = (&spec.about, &spec.from, &spec.since);
            let _written = writeln!(
                page,
                "\n## `{}`\n\n{about} On account of {}; written by `{from}`, since {since}.\n",
                kind.as_str(),
                who.join(" or "),
            );
            page.push_str("| field | class | value | meaning |\n|---|---|---|---|\n");
            let fields = self.fields.get(kind).into_iter().flatten().collect::<BTreeMap<_, _>>();
            for (name, spec) in fields {
                let (class, value) = spec.text.split_once(' ').unwrap_or_default();
                let meaning = self.source.words.get(name).map_or("", String::as_str);
                let _written = writeln!(page, "| `{name}` | {class} | {value} | {meaning} |");
            }
        }
        page.push_str("\n## Never recorded\n\nFields with these names are refused, not even committed: ");
        let names: Vec<String> = self.source.secret.iter().map(|name| format!("`{name}`")).collect();
        page.push_str(&names.join(", "));
        page.push_str(".\n");
        page
    }
}

/// How the fields of one type of event are written.
#[derive(Debug, Clone, Copy)]
pub struct Classes<'a> {
    classes: &'a [(String, FieldClass)],
    secret: &'a BTreeSet<String>,
}

impl Classes<'_> {
    /// How a field is written: as the emitter says, or hidden where the schema says so or knows nothing of it. `None`: a
    /// field of this name is never recorded, not even as a commitment.
    #[must_use]
    pub fn class(&self, field: &Field) -> Option<FieldClass> {
        let known = self.classes.binary_search_by(|(name, _)| name.as_str().cmp(&field.name)).ok();
        let said = match known.and_then(|at| self.classes.get(at)) {
            Some((_, class)) => *class,
            None if self.secret.contains(&*field.name) => return None,
            None => FieldClass::Confidential,
        };
        Some(if field.class == FieldClass::Public { said } else { field.class })
    }
}

impl Who {
    fn word(self) -> &'static str {
        match self {
            Self::Agent => "an agent",
            Self::Operator => "an operator",
            Self::Plane => "the plane itself",
        }
    }
}

const PREFACE: &str = "\
Beside the fields below every record has those of [the leaf](../evidence.md#what-a-record-looks-like): `act` and `sub` (who acts, for
whom: both are always there), `id`, `tenant`, `type`, `v`, and within a run `run`, `run_seq`, `run_prev`. `On account of an agent` means
that `act` names the agent that the record is about. Who gave a command about it is in the record's own fields.

| class | what is in the log |
|---|---|
| public | the value, in clear, for ever |
| personal | a salted commitment; the value is sealed under the key of the person, or of the run when nobody is named |
| confidential | a salted commitment; the value is sealed under the key of the tenant |
| secret | nothing: a field of that name is refused |

A field that this list does not know is committed, never shown. A field may also be hidden where the list says public. Not every
record has every field. `texts` is a list of texts; any value may be `null`. The leaf `ledger.schema` in the log of the tenant
`default` says from where on which version holds.
";

#[cfg(test)]
mod tests {
    use cogward_model::event::Attribution;

    use super::*;

    fn event(kind: EventType) -> Event {
        Event::new(kind, "acme".parse().unwrap(), Attribution::plane())
    }

    #[test]
    fn every_type_is_in_the_schema_with_fields_that_can_be_and_words_for_them() {
        let source: Source = serde_json::from_str(SOURCE).unwrap();
        assert_eq!((source.form, source.version), (1, 1));
        let all: BTreeSet<&str> = EventType::ALL.iter().map(|kind| kind.as_str()).collect();
        let known: BTreeSet<&str> = source.events.keys().map(String::as_str).collect();
        assert_eq!(all, known, "schemas/events.v1.json and EventType must name the same types");
        let mut used = BTreeSet::new();
        for (kind, spec) in &source.events {
            assert!(!spec.who.is_empty() && spec.about.ends_with('.'), "{kind}");
            assert!(spec.groups.iter().all(|group| source.groups.contains_key(group)), "{kind}");
        }
        for fields in schema().fields.values() {
            used.extend(fields.keys().cloned());
            assert!(fields.keys().all(|name| crate::leaf::is_field_name(name)));
        }
        assert_eq!(used, source.words.keys().cloned().collect(), "every field has a meaning, and no other");
        assert!(used.is_disjoint(&source.secret));
    }

    #[test]
    fn what_the_schema_does_not_say_is_named() {
        let step = event(EventType::TimeStepped).public("back_us", 7_u64);
        assert_eq!(schema().check(&step), Ok(()));
        let says = |event: Event| schema().check(&event).unwrap_err().to_string();
        assert!(says(step.clone().public("colour", "red")).contains("no field `colour`"));
        assert!(says(step.clone().public("clock", 7_u64)).contains("not of the kind `public text`"));
        assert!(
            says(event(EventType::RunRequested).public("goal", "x"))
                .contains("is Public, the schema says Confidential")
        );
        let mut anonymous = step;
        anonymous.by = Attribution::operator("anna");
        assert!(says(anonymous).contains("does not name who acts"));
        // Who hides more than must be hidden is let.
        assert_eq!(schema().check(&event(EventType::TimeStepped).confidential("clock", "x")), Ok(()));
        assert!(says(event(EventType::ToolCallDecided)).contains("does not name who acts"));
    }

    #[test]
    fn the_page_is_the_one_in_the_tree() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/evidence/events.md");
        let page = schema().page();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
            std::fs::write(path, &page).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), page, "UPDATE_DOCS=1 writes it");
    }
}
