//! What a table and its columns are called, and how the table that we make is made.

use std::{collections::BTreeMap, fmt::Write as _};

/// Longest name of a table or a column: PostgreSQL cuts longer ones.
const NAME_BYTES_MAX: usize = 63;

/// The columns that a table has, as we call them.
pub(super) const OURS: [&str; 14] = [
    "id",
    "tenant",
    "store",
    "scope",
    "agent",
    "subject",
    "run",
    "body",
    "kind",
    "tags",
    "written",
    "expires",
    "bytes",
    "embedding",
];

/// What things are called, each quoted.
#[derive(Debug)]
pub(super) struct Names {
    schema: Option<String>,
    table: String,
    columns: BTreeMap<&'static str, String>,
}

impl Names {
    pub(super) fn new(table: Option<&str>, existing: Option<&BTreeMap<String, String>>) -> Result<Self, String> {
        let whole = table.unwrap_or("cogward.memory");
        let (schema, table) = match whole.split_once('.') {
            Some((schema, table)) => (Some(quoted(schema)?), quoted(table)?),
            None => (None, quoted(whole)?),
        };
        let mut columns = BTreeMap::new();
        for ours in OURS {
            let theirs = existing.and_then(|names| names.get(ours)).map_or(ours, String::as_str);
            columns.insert(ours, quoted(theirs)?);
        }
        if let Some(unknown) = existing.and_then(|names| names.keys().find(|name| !OURS.contains(&name.as_str()))) {
            return Err(format!("there is no column `{unknown}`; ours are {}", OURS.join(", ")));
        }
        let mut distinct: Vec<&String> = columns.values().collect();
        distinct.sort_unstable();
        distinct.dedup();
        if distinct.len() != OURS.len() {
            return Err("two of the columns have one name".to_owned());
        }
        Ok(Self { schema, table, columns })
    }

    /// A column of ours as the table has it.
    pub(super) fn of(&self, ours: &'static str) -> &str {
        self.columns.get(ours).map_or(ours, String::as_str)
    }

    pub(super) fn whole(&self) -> String {
        self.schema.as_ref().map_or_else(|| self.table.clone(), |schema| format!("{schema}.{}", self.table))
    }

    /// What a reader of the database sees of us: the table, its index, and who may see which row.
    pub(super) fn schema(&self, dimensions: Option<u32>) -> String {
        let (of, whole) = (|name| self.of(name), self.whole());
        let mut sql = String::new();
        if let Some(schema) = &self.schema {
            let _ = writeln!(sql, "CREATE SCHEMA IF NOT EXISTS {schema};");
        }
        let vector = match dimensions {
            Some(dimensions) => {
                let _ = writeln!(sql, "CREATE EXTENSION IF NOT EXISTS vector;");
                format!(",\n    {} vector({dimensions})", of("embedding"))
            }
            None => String::new(),
        };
        // Byte for byte: a database can have been told that letters which look alike are the same.
        let _ = write!(
            sql,
            "CREATE TABLE IF NOT EXISTS {whole} (
    {} text COLLATE \"C\" NOT NULL, {} text COLLATE \"C\" NOT NULL, {} text COLLATE \"C\" NOT NULL,
    {} text COLLATE \"C\" NOT NULL, {} text COLLATE \"C\" NOT NULL, {} text COLLATE \"C\",
    {} text COLLATE \"C\" NOT NULL, {} text NOT NULL, {} text COLLATE \"C\", {} text[] COLLATE \"C\" NOT NULL,
    {} bigint NOT NULL, {} bigint, {} bigint NOT NULL{vector},
    PRIMARY KEY ({}, {}, {})
);
",
            of("id"),
            of("tenant"),
            of("store"),
            of("scope"),
            of("agent"),
            of("subject"),
            of("run"),
            of("body"),
            of("kind"),
            of("tags"),
            of("written"),
            of("expires"),
            of("bytes"),
            of("tenant"),
            of("store"),
            of("id"),
        );
        let bare = self.table.trim_matches('"').chars().take(40).collect::<String>();
        let _ = writeln!(
            sql,
            "CREATE INDEX IF NOT EXISTS \"{bare}_newest\" ON {whole} ({}, {}, {}, {}, {}, {} DESC);
CREATE INDEX IF NOT EXISTS \"{bare}_words\" ON {whole} USING gin (to_tsvector('simple', {}));
ALTER TABLE {whole} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {whole} FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS cogward_owner ON {whole};
CREATE POLICY cogward_owner ON {whole} USING (
    {} = current_setting('cogward.tenant', true) AND {} = current_setting('cogward.store', true)
    AND (current_setting('cogward.act', true) = 'operator' OR (
        current_setting('cogward.act', true) = 'owner' AND {} = current_setting('cogward.scope', true)
        AND ({} NOT IN ('agent+user', 'agent') OR {} = current_setting('cogward.agent', true))
        AND ({} NOT IN ('agent+user', 'user') OR {} = current_setting('cogward.subject', true))
        AND ({} <> 'run' OR {} = current_setting('cogward.run', true))
    ))
);",
            of("tenant"),
            of("store"),
            of("scope"),
            of("agent"),
            of("subject"),
            of("written"),
            of("body"),
            of("tenant"),
            of("store"),
            of("scope"),
            of("scope"),
            of("agent"),
            of("scope"),
            of("subject"),
            of("scope"),
            of("run"),
        );
        sql
    }
}

/// A name of the operator's, in quotes. Letters, digits and underscores: there is nothing to escape.
fn quoted(name: &str) -> Result<String, String> {
    let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !letters || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!("`{name}` cannot be the name of a table or a column: use letters, digits and `_`"));
    }
    Ok(format!("\"{name}\""))
}
