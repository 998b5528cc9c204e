//! Reading typed values from the tree, one field at a time, each fault with its place and fix.

use std::{collections::BTreeMap, fmt::Display, ops::RangeInclusive, str::FromStr};

use super::{
    Places,
    suggest::nearest,
    tree::{Entry, Kind, Node, Place},
};
use crate::{Finding, Findings};

/// Where findings and places go.
pub(crate) struct Sink {
    places: Places,
    findings: Findings,
}

impl Sink {
    pub(crate) fn new(file: &str) -> Self {
        Self { places: Places { file: file.to_owned(), at: BTreeMap::new() }, findings: Findings::default() }
    }

    pub(crate) fn at(
        &mut self,
        place: Place,
        path: &str,
        rule: &'static str,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.findings.push(Finding {
            file: self.places.file.clone(),
            line: place.line,
            column: place.column,
            path: path.to_owned(),
            rule: rule.into(),
            problem: problem.into(),
            fix: fix.into(),
        });
    }

    pub(crate) fn whole_file(&mut self, rule: &'static str, problem: impl Into<String>, fix: &str) {
        self.at(Place::default(), "", rule, problem, fix);
    }

    /// A finding on a field that was read before.
    pub(crate) fn on(&mut self, path: &str, rule: &'static str, problem: impl Into<String>, fix: impl Into<String>) {
        let finding = self.places.finding(path, rule, problem, fix);
        self.findings.push(finding);
    }

    pub(crate) fn count(&self) -> usize {
        self.findings.len()
    }

    fn is_full(&self) -> bool {
        self.findings.more > 0
    }

    pub(crate) fn into_parts(self) -> (Places, Findings) {
        (self.places, self.findings)
    }

    fn remember(&mut self, path: &str, place: Place) {
        self.places.at.insert(path.to_owned(), place);
    }

    fn wrong_type(&mut self, node: &Node, path: &str, wanted: &str, fix: impl Into<String>) {
        let problem = match &node.kind {
            Kind::Null => format!("no value, and {wanted} is needed"),
            _ => format!("{} where {wanted} is needed", node.noun()),
        };
        self.at(node.place, path, "type", problem, fix);
    }
}

/// A value in the tree together with its path.
pub(crate) struct Field<'n> {
    pub(crate) node: &'n Node,
    pub(crate) path: String,
}

/// A map of the tree whose fields are read by name; what is left over is unknown.
pub(crate) struct Fields<'n> {
    place: Place,
    path: String,
    entries: &'n [Entry],
    known: Vec<&'static str>,
}

impl<'n> Field<'n> {
    pub(crate) fn root(node: &'n Node, sink: &mut Sink) -> Self {
        sink.remember("", node.place);
        Self { node, path: String::new() }
    }

    /// The fields of a map.
    pub(crate) fn fields(&self, sink: &mut Sink) -> Option<Fields<'n>> {
        let Kind::Map(entries) = &self.node.kind else {
            sink.wrong_type(self.node, &self.path, "a map", "give its fields, indented below it");
            return None;
        };
        Some(Fields { place: self.node.place, path: self.path.clone(), entries, known: Vec::new() })
    }

    /// The items of a list of at most `most`.
    pub(crate) fn items(&self, most: usize, sink: &mut Sink) -> Vec<Field<'n>> {
        let Kind::List(items) = &self.node.kind else {
            sink.wrong_type(self.node, &self.path, "a list", "write one item per line, each after `- `");
            return Vec::new();
        };
        if items.len() > most {
            let problem = format!("{} items, and {most} is the most", items.len());
            sink.at(self.node.place, &self.path, "bound", problem, "shorten the list");
        }
        let mut fields = Vec::with_capacity(items.len().min(most));
        for (place, node) in items.iter().take(most).enumerate() {
            let path = format!("{}[{place}]", self.path);
            sink.remember(&path, node.place);
            fields.push(Field { node, path });
        }
        fields
    }

    /// The entries of a map whose keys are the author's own, at most `most`.
    pub(crate) fn entries(&self, most: usize, sink: &mut Sink) -> Vec<(&'n str, Field<'n>)> {
        let Kind::Map(entries) = &self.node.kind else {
            sink.wrong_type(self.node, &self.path, "a map", "write `NAME: value`, one per line");
            return Vec::new();
        };
        if entries.len() > most {
            let problem = format!("{} entries, and {most} is the most", entries.len());
            sink.at(self.node.place, &self.path, "bound", problem, "shorten the map");
        }
        let mut fields = Vec::with_capacity(entries.len().min(most));
        for entry in entries.iter().take(most) {
            let path = format!("{}.{}", self.path, entry.key);
            sink.remember(&path, entry.key_place);
            fields.push((entry.key.as_str(), Field { node: &entry.value, path }));
        }
        fields
    }

    /// A text of a length in bytes.
    pub(crate) fn text(&self, bytes: RangeInclusive<usize>, sink: &mut Sink) -> Option<String> {
        let text = self.any_text(sink)?;
        if text.len() < *bytes.start() || text.trim().len() < (*bytes.start()).min(1) {
            sink.at(self.node.place, &self.path, "bound", "the text is empty", "say what it is");
            return None;
        }
        if text.len() > *bytes.end() {
            let problem = format!("{} bytes, and {} is the most", text.len(), bytes.end());
            sink.at(self.node.place, &self.path, "bound", problem, "shorten it");
            return None;
        }
        Some(text.to_owned())
    }

    fn any_text(&self, sink: &mut Sink) -> Option<&'n str> {
        match &self.node.kind {
            Kind::Text(text) => Some(text),
            Kind::Int(text) | Kind::Float(text) => {
                sink.wrong_type(self.node, &self.path, "text", format!("put it in quotes: \"{text}\""));
                None
            }
            Kind::Bool(value) => {
                sink.wrong_type(self.node, &self.path, "text", format!("put it in quotes: \"{value}\""));
                None
            }
            _ => {
                sink.wrong_type(self.node, &self.path, "text", "give one text");
                None
            }
        }
    }

    /// A text that has a type of its own.
    pub(crate) fn typed<T: FromStr<Err: Display>>(&self, rule: &'static str, fix: &str, sink: &mut Sink) -> Option<T> {
        match self.any_text(sink)?.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                sink.at(self.node.place, &self.path, rule, error.to_string(), fix);
                None
            }
        }
    }

    /// One of some words.
    pub(crate) fn word<T: Copy>(&self, words: &[(&'static str, T)], sink: &mut Sink) -> Option<T> {
        let text = self.any_text(sink)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let fix = match nearest(text, &all) {
            Some(near) => format!("write `{near}`"),
            None => format!("use one of `{}`", all.join("`, `")),
        };
        sink.at(self.node.place, &self.path, "word", format!("`{}` is not a choice here", shown(text)), fix);
        None
    }

    /// A whole number within bounds.
    pub(crate) fn number(&self, within: RangeInclusive<u64>, sink: &mut Sink) -> Option<u64> {
        let bounds = format!("a whole number from {} to {}", within.start(), within.end());
        let text = match &self.node.kind {
            Kind::Int(text) => text,
            Kind::Float(_) => {
                let problem = "a number with decimals";
                sink.at(self.node.place, &self.path, "no-float", problem, format!("use {bounds}"));
                return None;
            }
            Kind::Text(text) if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() => {
                sink.wrong_type(self.node, &self.path, "a number", "remove the quotes");
                return None;
            }
            _ => {
                sink.wrong_type(self.node, &self.path, "a number", format!("use {bounds}"));
                return None;
            }
        };
        let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
        match text.parse::<u64>() {
            Ok(value) if plain && within.contains(&value) => Some(value),
            _ => {
                let problem = format!("`{}` is out of bounds or not written plainly", shown(text));
                sink.at(self.node.place, &self.path, "bound", problem, format!("use {bounds}"));
                None
            }
        }
    }

    /// As [`Field::number`], for bounds within 32 bits.
    pub(crate) fn number32(&self, within: RangeInclusive<u32>, sink: &mut Sink) -> Option<u32> {
        let value = self.number(u64::from(*within.start())..=u64::from(*within.end()), sink)?;
        u32::try_from(value).ok()
    }

    /// A truth value.
    pub(crate) fn truth(&self, sink: &mut Sink) -> Option<bool> {
        if let Kind::Bool(value) = self.node.kind {
            return Some(value);
        }
        sink.wrong_type(self.node, &self.path, "a truth value", "write `true` or `false`");
        None
    }
}

/// A value as it can stand in a message.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

impl<'n> Fields<'n> {
    /// The path of a field, whether or not it is there.
    pub(crate) fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// A field that may be left out.
    pub(crate) fn optional(&mut self, name: &'static str, sink: &mut Sink) -> Option<Field<'n>> {
        self.known.push(name);
        let entry = self.entries.iter().find(|e| e.key == name)?;
        let path = self.path(name);
        sink.remember(&path, entry.key_place);
        Some(Field { node: &entry.value, path })
    }

    /// A field that must be there.
    pub(crate) fn required(&mut self, name: &'static str, fix: &str, sink: &mut Sink) -> Option<Field<'n>> {
        let found = self.optional(name, sink);
        if found.is_none() {
            sink.at(self.place, &self.path(name), "missing-field", format!("`{name}` is not there"), fix);
        }
        found
    }

    /// Refuses every field that was not asked for.
    pub(crate) fn finish(self, sink: &mut Sink) {
        for entry in self.entries {
            // An empty key stands for one that was refused when it was read.
            if entry.key.is_empty() || entry.key == "<<" || self.known.contains(&entry.key.as_str()) {
                continue;
            }
            // Beyond what is shown there is no point in looking for what was meant.
            let near = if sink.is_full() { None } else { nearest(&entry.key, &self.known) };
            let fix = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("remove it; known here: `{}`", self.known.join("`, `")),
            };
            let problem = format!("the field `{}` is not known", shown(&entry.key));
            sink.at(entry.key_place, &self.path(&shown(&entry.key)), "unknown-field", problem, fix);
        }
    }
}
