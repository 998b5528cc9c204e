//! What of a leaf has keys in the verifiable index, read in one pass and without copies where there is nothing to change.

use std::borrow::Cow;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::Kind;

/// A member of a leaf that may be a text, several, or something else: a commitment, nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Said<'a> {
    /// Neither.
    #[default]
    Other,
    /// One text.
    Text(Cow<'a, str>),
    /// A list, of which what is no text is left out.
    Texts(Vec<Cow<'a, str>>),
}

impl<'a> Said<'a> {
    /// The one text, taken out.
    #[must_use]
    pub fn into_text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) => Some(text),
            Self::Other | Self::Texts(_) => None,
        }
    }

    /// The one text.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Other | Self::Texts(_) => None,
        }
    }

    /// The one text, or all of several.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let several = match self {
            Self::Texts(several) => several.as_slice(),
            Self::Other | Self::Text(_) => &[],
        };
        self.text().into_iter().chain(several.iter().map(AsRef::as_ref))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Said<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(SaidVisitor)
    }
}

struct SaidVisitor;

impl<'de> Visitor<'de> for SaidVisitor {
    type Value = Said<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Said::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Said::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Said::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Said::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Said::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Said::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Said::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Said::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut several = Vec::new();
        while let Some(said) = list.next_element::<Said<'de>>()? {
            if let Said::Text(text) = said {
                several.push(text);
            }
        }
        Ok(Said::Texts(several))
    }
}

/// What of a leaf's body has keys.
#[derive(Debug)]
pub struct Keyed<'a> {
    /// The type of event.
    pub kind: Cow<'a, str>,
    /// The agent, `agent:NAME@VERSION`.
    pub act: Option<Cow<'a, str>>,
    /// The run.
    pub run: Option<Cow<'a, str>>,
    /// The tool.
    pub tool: Said<'a>,
    /// The tool server, by its longer name.
    pub tool_server: Said<'a>,
    /// The tool server, by its shorter name.
    pub server: Said<'a>,
    /// The approval, or several.
    pub approval: Said<'a>,
}

impl Keyed<'_> {
    /// The values that have keys, each once.
    #[must_use]
    pub fn values(&self) -> Vec<(Kind, String)> {
        let mut found = Vec::with_capacity(8);
        found.push((Kind::Type, self.kind.to_string()));
        if let Some((agent, _)) = self.act.as_deref().and_then(|act| act.strip_prefix("agent:")?.split_once('@')) {
            found.push((Kind::Agent, agent.to_owned()));
        }
        found.extend(self.run.as_deref().map(|run| (Kind::Run, run.to_owned())));
        let mut on = self.tool_server.text().or(self.server.text());
        if let Some(tool) = self.tool.text() {
            match (tool.split_once('/'), on) {
                (Some((server, _)), _) => {
                    on = Some(server);
                    found.push((Kind::Tool, tool.to_owned()));
                }
                (None, Some(server)) => found.push((Kind::Tool, format!("{server}/{tool}"))),
                (None, None) => {}
            }
        }
        found.extend(on.map(|server| (Kind::ToolServer, server.to_owned())));
        found.extend(self.approval.texts().map(|id| (Kind::Approval, id.to_owned())));
        found.sort();
        found.dedup();
        found
    }
}

#[derive(Deserialize)]
struct KeyLeaf<'a> {
    #[serde(borrow)]
    body: KeyBody<'a>,
}

#[derive(Deserialize)]
struct KeyBody<'a> {
    #[serde(borrow, default)]
    act: Said<'a>,
    #[serde(borrow, default)]
    run: Said<'a>,
    #[serde(borrow, default)]
    tool: Said<'a>,
    #[serde(borrow, default)]
    tool_server: Said<'a>,
    #[serde(borrow, default)]
    server: Said<'a>,
    #[serde(borrow, default)]
    approval: Said<'a>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
}

/// The public values of a leaf that have keys, each once.
///
/// # Errors
/// It is not a leaf.
pub fn values(leaf: &[u8]) -> Result<Vec<(Kind, String)>, serde_json::Error> {
    let KeyBody { act, run, tool, tool_server, server, approval, kind } =
        serde_json::from_slice::<KeyLeaf<'_>>(leaf)?.body;
    let (act, run) = (act.into_text(), run.into_text());
    Ok(Keyed { kind, act, run, tool, tool_server, server, approval }.values())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_has_no_key_and_a_leaf_that_says_a_thing_twice_is_none() {
        let leaf = |members: &str| format!(r#"{{"body":{{"type":"a.b",{members}}},"chain":{{}}}}"#);
        let read = |members: &str| values(leaf(members).as_bytes()).unwrap();
        let kind = (Kind::Type, "a.b".to_owned());
        for members in [
            r#""tool":null,"server":{"$c":"x"},"run":null"#,
            r#""tool":7,"approval":[],"server":-1,"run":7,"act":["agent:x@1"]"#,
            r#""tool":true,"approval":{"deep":[{"er":["x"]}]},"tool_server":[1.5,[["y"]],{}]"#,
        ] {
            assert_eq!(read(members), std::slice::from_ref(&kind), "{members}");
        }
        let named =
            r#""tool":"re\u0061d","server":"crm","approval":["b",1,null,"a",["c"],"b"],"act":"agent:x@1","run":"r""#;
        let text = |kind, text: &str| (kind, text.to_owned());
        let mut wanted = vec![
            kind.clone(),
            text(Kind::Tool, "crm/read"),
            text(Kind::ToolServer, "crm"),
            text(Kind::Approval, "a"),
            text(Kind::Approval, "b"),
            text(Kind::Agent, "x"),
            text(Kind::Run, "r"),
        ];
        wanted.sort();
        assert_eq!(read(named), wanted);
        assert_eq!(
            read(r#""tool":"crm/read","tool_server":"other""#),
            [text(Kind::Tool, "crm/read"), text(Kind::ToolServer, "crm"), kind]
        );
        let twice = r#""tool":"a","tool":"b""#;
        assert!(values(leaf(twice).as_bytes()).is_err(), "{twice}");
    }
}
