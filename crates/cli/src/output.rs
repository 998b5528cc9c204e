//! Output: data to standard output in the form that was asked for, everything else to standard error.
//!
//! JSON is stable and has the API's own names; the table is for people and may change. Identifiers
//! are never shortened. An empty list is a sentence on standard error and nothing on standard output.

use std::io::{IsTerminal, Write};

use cogward_model::visible::hidden;
use serde::Serialize;

use crate::exit::{Exit, Failure, printable};

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// One JSON document
    Json,
    /// One JSON document per line
    Jsonl,
    /// Names only, for other commands
    Name,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ColorWhen {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl ColorWhen {
    /// Whether to colour a stream.
    pub fn on(self, terminal: bool, no_color: bool, force: bool) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => force || (terminal && !no_color),
        }
    }
}

/// What a word means; the word itself is always there too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Nothing.
    Plain,
    /// It is well.
    Good,
    /// It needs a look.
    Warn,
    /// It is not well.
    Bad,
}

/// A cell of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell that means something.
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }

    /// What stands in it.
    #[cfg(test)]
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl<T: std::fmt::Display> From<T> for Cell {
    fn from(value: T) -> Self {
        Self { text: value.to_string(), tone: Tone::Plain }
    }
}

/// A thing that can be shown.
pub trait Show: Serialize {
    /// What a list of it is called in a sentence: `runs`.
    const PLURAL: &'static str;
    /// Heads of its table.
    const HEAD: &'static [&'static str];
    /// Its row.
    fn row(&self) -> Vec<Cell>;
    /// What other commands call it.
    fn name(&self) -> String;
    /// All of it, for `show`: label and value.
    fn details(&self) -> Vec<(&'static str, Cell)> {
        Self::HEAD.iter().copied().zip(self.row()).collect()
    }
}

/// Where output goes, and how.
pub struct Output<'a> {
    /// The form.
    pub format: Format,
    /// Whether to colour.
    pub color: bool,
    /// Data.
    pub out: &'a mut dyn Write,
    /// Everything else.
    pub err: &'a mut dyn Write,
}

impl Output<'_> {
    /// A list.
    pub fn list<T: Show>(&mut self, items: &[T]) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.json(&items),
            Format::Jsonl => items.iter().try_for_each(|item| self.json_line(item)),
            _ if items.is_empty() => {
                self.say(&format!("There are no {}.", T::PLURAL));
                Ok(())
            }
            Format::Name => items.iter().try_for_each(|item| self.line(&item.name())),
            Format::Table => {
                let mut rows = vec![T::HEAD.iter().map(Cell::from).collect()];
                rows.extend(items.iter().map(T::row));
                let text = table(&rows, self.color);
                self.data(text.as_bytes())
            }
        }
    }

    /// One thing.
    pub fn one<T: Show>(&mut self, item: &T) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.json(item),
            Format::Jsonl => self.json_line(item),
            Format::Name => self.line(&item.name()),
            Format::Table => {
                let rows: Vec<_> = item
                    .details()
                    .into_iter()
                    .filter(|(_, cell)| !cell.text.is_empty())
                    .map(|(label, cell)| vec![Cell::from(label), cell])
                    .collect();
                let text = table(&rows, self.color);
                self.data(text.as_bytes())
            }
        }
    }

    /// JSON, indented.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(|e| Failure::local("cannot write JSON", e))?;
        self.line(&json_safe(&text))
    }

    /// JSON, on one line.
    pub fn json_line(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|e| Failure::local("cannot write JSON", e))?;
        self.line(&json_safe(&text))
    }

    /// A line of data.
    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.data(format!("{}\n", printable(text)).as_bytes())
    }

    /// Bytes of data, as they are.
    pub fn data(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.out.write_all(bytes).and_then(|()| self.out.flush());
        written.map_err(|error| match error.kind() {
            // `cogward run list | head` has all that it wants; that is no fault to tell of.
            std::io::ErrorKind::BrokenPipe => Failure::new(Exit::Done, ""),
            _ => Failure::local("cannot write the output", error),
        })
    }

    /// A sentence for the person who waits. That nobody reads it is no failure.
    pub fn say(&mut self, sentence: &str) {
        let _unread = writeln!(self.err, "{}", printable(sentence));
    }
}

/// The same JSON, with everything that a person would not see as what it is, or a terminal obey, as an escape of JSON.
fn json_safe(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        if hidden(letter).is_some() {
            let mut units = [0_u16; 2];
            for unit in letter.encode_utf16(&mut units) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            safe.push(letter);
        }
    }
    safe
}

/// Columns without borders, two spaces between them.
fn table(rows: &[Vec<Cell>], color: bool) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = one_line(&cell.text).chars().count();
            match widths.get_mut(column) {
                Some(widest) => *widest = (*widest).max(width),
                None => widths.push(width),
            }
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        let mut cells = row.iter().zip(&widths).peekable();
        while let Some((cell, width)) = cells.next() {
            let shown = one_line(&cell.text);
            let gap = width.saturating_sub(shown.chars().count());
            line.push_str(&painted(&shown, cell.tone, color));
            if cells.peek().is_some() {
                line.push_str(&" ".repeat(gap + 2));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A cell must not break its row.
fn one_line(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

fn painted(text: &str, tone: Tone, color: bool) -> String {
    let code = match tone {
        Tone::Good => "32",
        Tone::Warn => "33",
        Tone::Bad => "31",
        Tone::Plain => return text.to_owned(),
    };
    if color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// Whether standard output and standard error are colourable, as the environment says.
pub fn color_on(when: ColorWhen, variables: crate::settings::Variables<'_>) -> bool {
    let set = |name: &str| variables(name).is_some_and(|value| !value.is_empty() && value != "0");
    when.on(std::io::stdout().is_terminal(), set("NO_COLOR"), set("CLICOLOR_FORCE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Thing {
        id: &'static str,
        state: &'static str,
        note: &'static str,
    }

    impl Show for Thing {
        const PLURAL: &'static str = "things";
        const HEAD: &'static [&'static str] = &["ID", "STATE", "NOTE"];
        fn row(&self) -> Vec<Cell> {
            vec![self.id.into(), Cell::toned(self.state, Tone::Good), self.note.into()]
        }
        fn name(&self) -> String {
            self.id.to_owned()
        }
    }

    fn shown(format: Format, color: bool, items: &[Thing]) -> (String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        Output { format, color, out: &mut out, err: &mut err }.list(items).unwrap();
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    const TWO: [Thing; 2] =
        [Thing { id: "a", state: "up", note: "x\ny" }, Thing { id: "longer", state: "running", note: "\u{1b}[2J" }];

    #[test]
    fn the_forms_of_a_list() {
        assert_eq!(
            shown(Format::Table, false, &TWO).0,
            "ID      STATE    NOTE\na       up       x y\nlonger  running  \\u{1b}[2J\n"
        );
        assert_eq!(shown(Format::Name, false, &TWO).0, "a\nlonger\n");
        assert_eq!(shown(Format::Jsonl, false, &TWO[..1]).0, "{\"id\":\"a\",\"state\":\"up\",\"note\":\"x\\ny\"}\n");
        assert_eq!(
            shown(Format::Json, false, &TWO[..1]).0,
            "[\n  {\n    \"id\": \"a\",\n    \"state\": \"up\",\n    \"note\": \"x\\ny\"\n  }\n]\n"
        );
    }

    #[test]
    fn json_says_the_same_and_moves_no_terminal() {
        let note = "a\u{1b}[2J\u{7f}\u{9b}31m\u{202e}b\u{200b}\u{e0041}ü\n";
        let thing = Thing { id: "a", state: "up", note };
        for format in [Format::Json, Format::Jsonl] {
            let text = shown(format, false, std::slice::from_ref(&thing)).0;
            assert!(text.chars().all(|c| c == '\n' || (!c.is_control() && hidden(c).is_none())), "{text:?}");
            let read: serde_json::Value = serde_json::from_str(&text).unwrap();
            let item = if read.is_array() { &read[0] } else { &read };
            assert_eq!(item["note"], note);
        }
    }

    #[test]
    fn an_empty_list_is_a_sentence_beside_the_data() {
        for format in [Format::Table, Format::Name] {
            assert_eq!(shown(format, false, &[]), (String::new(), "There are no things.\n".to_owned()));
        }
        assert_eq!(shown(Format::Json, false, &[]), ("[]\n".to_owned(), String::new()));
        assert_eq!(shown(Format::Jsonl, false, &[]), (String::new(), String::new()));
    }

    #[test]
    fn colour_does_not_move_a_column() {
        let plain = shown(Format::Table, false, &TWO).0;
        let colored = shown(Format::Table, true, &TWO).0;
        assert!(colored.contains("\u{1b}[32mup\u{1b}[0m"));
        assert_eq!(colored.replace("\u{1b}[32m", "").replace("\u{1b}[0m", ""), plain);
    }

    #[test]
    fn when_to_colour() {
        assert!(ColorWhen::Auto.on(true, false, false));
        assert!(!ColorWhen::Auto.on(true, true, false));
        assert!(!ColorWhen::Auto.on(false, false, false));
        assert!(ColorWhen::Auto.on(false, false, true));
        assert!(ColorWhen::Always.on(false, true, false));
        assert!(!ColorWhen::Never.on(true, false, true));
    }
}
