//! YAML to a bounded tree with positions.
//!
//! Only the part of YAML that reads the same everywhere is taken: one document of maps, lists and
//! scalars. Anchors and aliases (that can grow without end), merge keys, tags, floats, several
//! documents and keys that are not text are refused, each with its own rule.

use std::collections::HashMap;

use cogward_model::limits::{MANIFEST_BYTES_MAX, MANIFEST_DEPTH_MAX};
use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::fields::Sink;

/// Longest key, in bytes: every known field and variable name is far shorter.
const KEY_BYTES_MAX: usize = 128;

/// A place in a file, both from 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) kind: Kind,
}

#[derive(Debug)]
pub(crate) enum Kind {
    /// A text, or something that can only be one.
    Text(String),
    /// A plain scalar that YAML reads as a truth value.
    Bool(bool),
    /// A plain scalar that YAML reads as a whole number, as written.
    Int(String),
    /// A plain scalar that YAML reads as a number with decimals, as written.
    Float(String),
    /// Nothing, or `null`.
    Null,
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_place: Place,
    pub(crate) value: Node,
}

impl Node {
    /// What it is, for a message.
    pub(crate) fn noun(&self) -> &'static str {
        match self.kind {
            Kind::Text(_) => "text",
            Kind::Bool(_) => "a truth value",
            Kind::Int(_) => "a number",
            Kind::Float(_) => "a number with decimals",
            Kind::Null => "nothing",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a map",
        }
    }
}

/// Where a map is in its turn of keys and values.
enum Open {
    List { place: Place, items: Vec<Node> },
    Map { place: Place, entries: Vec<Entry>, seen: HashMap<String, u32>, key: Option<(String, Place)> },
}

/// Reads one document. `None` when it cannot be read at all; what is wrong is in the sink.
pub(crate) fn read(bytes: &[u8], sink: &mut Sink) -> Option<Node> {
    let text = text_of(bytes, sink)?;
    let mut stack: Vec<Open> = Vec::new();
    let mut root: Option<Node> = None;
    for event in Parser::new_from_str(text) {
        let (event, span) = match event {
            Ok(found) => found,
            Err(error) => {
                let place = place(error.marker().line(), error.marker().col());
                sink.at(place, "", "syntax", format!("not valid YAML: {}", error.info()), "correct the line");
                return None;
            }
        };
        let at = start(span);
        refuse_exotic(&event, at, sink);
        let node = match event {
            Event::DocumentStart(_) if root.is_some() => {
                sink.at(at, "", "one-document", "a second document begins here", "keep one manifest in a file");
                return None;
            }
            Event::Alias(_) => Node { place: at, kind: Kind::Null },
            Event::Scalar(value, style, ..) => scalar(&value, style, at, sink),
            Event::SequenceStart(..) | Event::MappingStart(..) => {
                if stack.len() >= MANIFEST_DEPTH_MAX {
                    let problem = format!("nested deeper than {MANIFEST_DEPTH_MAX} levels");
                    sink.at(at, "", "depth", problem, "a manifest is never that deep: flatten it");
                    return None;
                }
                if let Some(Open::Map { key: None, .. }) = stack.last() {
                    sink.at(at, "", "key-type", "a list or a map stands where a key belongs", "use text as the key");
                    return None;
                }
                stack.push(match event {
                    Event::SequenceStart(..) => Open::List { place: at, items: Vec::new() },
                    _ => Open::Map { place: at, entries: Vec::new(), seen: HashMap::new(), key: None },
                });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match stack.pop()? {
                Open::List { place, items } => Node { place, kind: Kind::List(items) },
                Open::Map { place, entries, .. } => Node { place, kind: Kind::Map(entries) },
            },
            _ => continue,
        };
        match stack.last_mut() {
            None => root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, seen, key, .. }) => match key.take() {
                None => *key = Some((key_of(node, seen, sink), at)),
                Some((key, key_place)) => entries.push(Entry { key, key_place, value: node }),
            },
        }
    }
    if root.is_none() {
        sink.whole_file("empty", "there is nothing in it", "write one with `cogward agent init`");
    }
    root
}

fn text_of<'b>(bytes: &'b [u8], sink: &mut Sink) -> Option<&'b str> {
    if bytes.len() > MANIFEST_BYTES_MAX {
        let problem = format!("{} bytes, and {MANIFEST_BYTES_MAX} is the most", bytes.len());
        sink.whole_file("size", problem, "move prompts and data into files of the package");
        return None;
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let line = bytes.get(..error.valid_up_to()).map_or(0, |b| b.iter().filter(|c| **c == b'\n').count()) + 1;
            sink.at(place(line, 0), "", "encoding", "not UTF-8", "save the file as UTF-8");
            return None;
        }
    };
    for (number, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if let Some((column, bad)) = line.chars().enumerate().find(|(_, c)| *c != '\t' && is_hidden(*c)) {
            let problem = format!("the character U+{:04X} cannot be seen", u32::from(bad));
            sink.at(place(number + 1, column), "", "character", problem, "remove it");
            return None;
        }
    }
    Some(text)
}

/// Control characters, and those that make a text look other than it reads.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

fn refuse_exotic(event: &Event<'_>, at: Place, sink: &mut Sink) {
    let (anchor, tagged) = match event {
        Event::Alias(_) => {
            sink.at(at, "", "alias", "an alias (`*name`)", "write the value out");
            return;
        }
        Event::Scalar(_, _, anchor, tag) => (*anchor, tag.is_some()),
        Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => (*anchor, tag.is_some()),
        _ => return,
    };
    if anchor != 0 {
        sink.at(at, "", "anchor", "an anchor (`&name`)", "write the value out where it is used");
    }
    if tagged {
        sink.at(at, "", "tag", "a tag (`!name`)", "remove it; a manifest has only text, numbers, lists and maps");
    }
}

fn scalar(value: &str, style: ScalarStyle, at: Place, sink: &mut Sink) -> Node {
    if let Some(bad) = value.chars().find(|c| !matches!(c, '\n' | '\t') && is_hidden(*c)) {
        let problem = format!("the character U+{:04X} is written as an escape", u32::from(bad));
        sink.at(at, "", "character", problem, "remove it");
    }
    let kind = if style == ScalarStyle::Plain { plain(value) } else { Kind::Text(value.to_owned()) };
    Node { place: at, kind }
}

/// The core schema of YAML 1.2.
fn plain(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "true" | "True" | "TRUE" => return Kind::Bool(true),
        "false" | "False" | "FALSE" => return Kind::Bool(false),
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    let radix = |prefix: &str, ok: fn(&u8) -> bool| {
        text.strip_prefix(prefix).is_some_and(|t| !t.is_empty() && t.as_bytes().iter().all(ok))
    };
    if digits(unsigned) || radix("0x", u8::is_ascii_hexdigit) || radix("0o", |b| (b'0'..=b'7').contains(b)) {
        return Kind::Int(text.to_owned());
    }
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Kind::Float(text.to_owned());
    }
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).map_or((unsigned, None), |(m, e)| (m, Some(e)));
    let (whole, decimals) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let number = (digits(whole) && (decimals.is_empty() || digits(decimals))) || (whole.is_empty() && digits(decimals));
    if number && exponent.is_none_or(|e| digits(e.strip_prefix(['-', '+']).unwrap_or(e))) {
        return Kind::Float(text.to_owned());
    }
    Kind::Text(text.to_owned())
}

fn key_of(node: Node, seen: &mut HashMap<String, u32>, sink: &mut Sink) -> String {
    let at = node.place;
    let Kind::Text(key) = node.kind else {
        let problem = format!("{} stands where a key belongs", node.noun());
        sink.at(at, "", "key-type", problem, "use text as the key, in quotes if it looks like something else");
        return String::new();
    };
    if key == "<<" {
        sink.at(at, "", "merge-key", "a merge key (`<<`)", "write the fields out");
    }
    if key.len() > KEY_BYTES_MAX {
        sink.at(at, "", "key-length", format!("a key of more than {KEY_BYTES_MAX} bytes"), "shorten it");
        return String::new();
    }
    if let Some(first) = seen.insert(key.clone(), at.line) {
        let problem = format!("`{key}` is there twice, first on line {first}");
        sink.at(at, "", "duplicate-key", problem, "keep one of them");
    }
    key
}

fn start(span: Span) -> Place {
    place(span.start.line(), span.start.col())
}

/// From the parser's line (from 1) and column (from 0).
fn place(line: usize, column: usize) -> Place {
    let held = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Place { line: held(line.max(1)), column: held(column.saturating_add(1)) }
}
