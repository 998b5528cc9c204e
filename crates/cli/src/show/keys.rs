//! The keys of logs.

use cogward_api::{KeyRole, LogKey, LogKeys};

use super::Show;
use crate::output::{Cell, Tone};

impl Show for LogKey {
    const PLURAL: &'static str = "keys";
    const HEAD: &'static [&'static str] = &["GENERATION", "ROLE", "ALONE UP TO", "UNTIL", "TOKEN", "KEY"];
    fn row(&self) -> Vec<Cell> {
        let tone = match self.role {
            KeyRole::Present => Tone::Good,
            KeyRole::Along => Tone::Warn,
            KeyRole::Past => Tone::Plain,
            KeyRole::Revoked => Tone::Bad,
        };
        vec![
            self.generation.into(),
            Cell::toned(self.role.as_str(), tone),
            self.counts_up_to.map_or_else(String::new, |size| size.to_string()).into(),
            self.until.map_or_else(String::new, |until| until.to_string()).into(),
            self.token.clone().unwrap_or_default().into(),
            self.name().into(),
        ]
    }
    fn name(&self) -> String {
        self.keys.first().cloned().unwrap_or_default()
    }
}

impl Show for LogKeys {
    const PLURAL: &'static str = "logs";
    const HEAD: &'static [&'static str] = &["LOG", "KEYS", "PRESENT"];
    fn row(&self) -> Vec<Cell> {
        vec![self.log.as_str().into(), (self.keys.len() as u64).into(), self.name().into()]
    }
    fn name(&self) -> String {
        self.keys.first().map(Show::name).unwrap_or_default()
    }
}
