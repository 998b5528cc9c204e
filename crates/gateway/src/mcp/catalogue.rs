//! What a tool server offers: its tool definitions, kept as the bytes that it sent.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use aws_lc_rs::digest::{Context, SHA256, digest};
use cogward_model::{Digest, ToolName};
use cogward_policy::Shape;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    mirror::{Mirrored, mirrored},
    schema::ToolSchema,
};
use crate::pins::canonical;

/// Most tools that one server may offer.
const TOOLS_MAX: usize = 5_000;
/// Longest definition of a tool, in bytes.
const DEFINITION_BYTES_MAX: usize = 1024 * 1024;
/// Most bytes of all definitions of a server.
const CATALOGUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// All tools of one tool server at one time.
#[derive(Debug)]
pub struct ToolCatalogue {
    tools: BTreeMap<ToolName, Arc<ToolDefinition>>,
    digest: Digest,
}

/// One tool as its server defines it.
#[derive(Debug)]
pub struct ToolDefinition {
    /// Its name.
    pub name: ToolName,
    /// The definition, as it came.
    pub raw: Box<RawValue>,
    /// Its pin: SHA-256 of its canonical form (RFC 8785).
    pub digest: Digest,
    pub(super) mirrored: Vec<Mirrored>,
    members: Vec<(String, Box<RawValue>)>,
    schema: OnceLock<ToolSchema>,
    shape: OnceLock<Arc<Shape>>,
}

impl ToolCatalogue {
    /// The tools in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ToolDefinition>> {
        self.tools.values()
    }

    /// One tool.
    #[must_use]
    pub fn get(&self, name: &ToolName) -> Option<&Arc<ToolDefinition>> {
        self.tools.get(name)
    }

    /// The definitions of one server that were approved, whatever it offers now.
    pub(crate) fn of(tools: Vec<ToolDefinition>) -> Self {
        let tools = tools.into_iter().map(|tool| (tool.name.clone(), Arc::new(tool)));
        CatalogueBuilder { tools: tools.collect(), ..CatalogueBuilder::default() }.finish()
    }

    /// Over all definitions: the same exactly when all of them are the same.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl ToolDefinition {
    /// Reads a definition from the plane's own store. None when it is one that cannot be offered.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        Self::read(serde_json::from_str(text).map_err(|_| "a tool is not JSON".to_owned())?).map(Result::ok)
    }

    /// A definition, or why it cannot be offered.
    fn read(raw: &RawValue) -> Result<Result<Self, String>, String> {
        if raw.get().len() > DEFINITION_BYTES_MAX {
            return Err(format!("a tool definition is longer than {DEFINITION_BYTES_MAX} bytes"));
        }
        let Members(members) = serde_json::from_str(raw.get()).map_err(|_| "a tool is not an object".to_owned())?;
        let name = members.iter().find(|(key, _)| key == "name").map(|(_, value)| value.get());
        let name: String =
            name.and_then(|name| serde_json::from_str(name).ok()).ok_or_else(|| "a tool has no name".to_owned())?;
        // A name outside the alphabet cannot be declared by any manifest, so nobody misses it.
        let Ok(name) = name.parse::<ToolName>() else {
            return Ok(Err("its name is none that a manifest can declare".to_owned()));
        };
        let schema = members.iter().find(|(key, _)| key == "inputSchema").map_or("null", |(_, value)| value.get());
        let mirrored = match mirrored(schema) {
            Ok(mirrored) => mirrored,
            Err(why) => return Ok(Err(format!("`{name}`: {why}"))),
        };
        let canonical = match canonical::definition(raw.get()) {
            Ok(canonical) => canonical,
            Err(why) => return Ok(Err(format!("`{name}`: {why}"))),
        };
        Ok(Ok(Self {
            name,
            mirrored,
            digest: sha256(canonical.as_bytes()),
            raw: raw.to_owned(),
            members,
            schema: OnceLock::new(),
            shape: OnceLock::new(),
        }))
    }

    /// Its arguments as policies see them, made when first asked for.
    #[must_use]
    pub fn shape(&self) -> &Arc<Shape> {
        self.shape.get_or_init(|| {
            let raw =
                self.members.iter().find(|(key, _)| key == "inputSchema").map_or("null", |(_, value)| value.get());
            // What cannot be read has no arguments that a policy could name, and a call of it is refused anyway.
            Arc::new(Shape::of(&serde_json::from_str(raw).unwrap_or_default()))
        })
    }

    /// Its input schema, compiled when first asked for.
    pub fn schema(&self) -> &ToolSchema {
        self.schema.get_or_init(|| {
            let raw = self.members.iter().find(|(key, _)| key == "inputSchema").map(|(_, value)| value.get());
            ToolSchema::compile(raw.unwrap_or("null"))
        })
    }

    /// The definition under another name, everything else byte for byte.
    #[must_use]
    pub fn renamed(&self, name: &str) -> String {
        let mut text = String::with_capacity(self.raw.get().len() + name.len());
        for (place, (key, value)) in self.members.iter().enumerate() {
            text.push(if place == 0 { '{' } else { ',' });
            text.push_str(&serde_json::Value::from(key.as_str()).to_string());
            text.push(':');
            if key == "name" {
                text.push_str(&serde_json::Value::from(name).to_string());
            } else {
                text.push_str(value.get());
            }
        }
        text.push('}');
        text
    }
}

/// Collects the pages of a `tools/list`.
#[derive(Debug, Default)]
pub(super) struct CatalogueBuilder {
    tools: BTreeMap<ToolName, Arc<ToolDefinition>>,
    bytes: usize,
    /// Tools of the list, with those that were left out.
    listed: usize,
    /// How many were left out, and why the first of them.
    left_out: Option<(usize, String)>,
}

impl CatalogueBuilder {
    /// Adds a page and gives the cursor of the next one.
    pub(super) fn page(&mut self, result: &[u8]) -> Result<Option<String>, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Page<'a> {
            #[serde(borrow)]
            tools: Vec<&'a RawValue>,
            #[serde(default)]
            next_cursor: Option<String>,
        }
        let page: Page<'_> = serde_json::from_slice(result)
            .map_err(|_| "its answer to `tools/list` is not a list of tools".to_owned())?;
        for raw in page.tools {
            self.bytes = self.bytes.saturating_add(raw.get().len());
            // What is left out counts as well: it has to be read, and a server could list nothing else.
            self.listed += 1;
            if self.listed > TOOLS_MAX || self.bytes > CATALOGUE_BYTES_MAX {
                return Err("its list of tools is too long".to_owned());
            }
            let tool = match ToolDefinition::read(raw)? {
                Ok(tool) => tool,
                Err(why) => {
                    self.left_out.get_or_insert((0, why)).0 += 1;
                    continue;
                }
            };
            if let Some(first) = self.tools.insert(tool.name.clone(), Arc::new(tool)) {
                return Err(format!("it lists the tool `{}` twice", first.name));
            }
        }
        Ok(page.next_cursor.filter(|cursor| !cursor.is_empty()))
    }

    pub(super) fn finish(self) -> ToolCatalogue {
        // One line for a list, however many there are.
        if let Some((tools, why)) = &self.left_out {
            tracing::warn!(tools, first = %why, "tools are left out that cannot be offered");
        }
        let mut all = Context::new(&SHA256);
        for tool in self.tools.values() {
            all.update(tool.digest.as_bytes());
        }
        ToolCatalogue { digest: to_digest(all.finish().as_ref()), tools: self.tools }
    }
}

/// SHA-256 of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    to_digest(digest(&SHA256, bytes).as_ref())
}

fn to_digest(bytes: &[u8]) -> Digest {
    let mut all = [0; 32];
    for (to, from) in all.iter_mut().zip(bytes) {
        *to = *from;
    }
    Digest::from_bytes(all)
}

/// The members of an object in their order, values untouched.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(page: &str) -> Result<ToolCatalogue, String> {
        let mut builder = CatalogueBuilder::default();
        builder.page(page.as_bytes())?;
        Ok(builder.finish())
    }

    #[test]
    fn a_definition_keeps_its_bytes_under_another_name() {
        let page = r#"{"tools":[{"title":"T", "name":"a", "inputSchema":{"type":"object","x-unknown":1.50}, "_meta":{"k\u0041":[1 ,2]}}]}"#;
        let catalogue = built(page).unwrap();
        let tool = catalogue.iter().next().unwrap();
        let other =
            r#"{"title":"T","name":"s_a","inputSchema":{"type":"object","x-unknown":1.50},"_meta":{"k\u0041":[1 ,2]}}"#;
        assert_eq!(tool.renamed("s_a"), other);
        let canonical =
            r#"{"_meta":{"kA":[1,2]},"inputSchema":{"type":"object","x-unknown":1.5},"name":"a","title":"T"}"#;
        assert_eq!(tool.digest, sha256(canonical.as_bytes()));
    }

    #[test]
    fn the_digest_changes_with_any_definition() {
        let one = built(r#"{"tools":[{"name":"a","description":"x"}]}"#).unwrap();
        let two = built(r#"{"tools":[{"name":"a","description":"y"}]}"#).unwrap();
        assert_ne!(one.digest(), two.digest());
    }

    #[test]
    fn look_alike_names_are_left_out_and_doubles_refused() {
        let catalogue = built(r#"{"tools":[{"name":"read\u200bfile"},{"name":"rеad"},{"name":"read"}]}"#).unwrap();
        assert_eq!(catalogue.iter().count(), 1);
        assert!(built(r#"{"tools":[{"name":"a"},{"name":"\u0061"}]}"#).is_err());
        // A definition that two readers read differently is no definition.
        let catalogue = built(r#"{"tools":[{"name":"a","description":"x","description":"y"},{"name":"b"}]}"#).unwrap();
        assert_eq!(catalogue.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["b"]);
        assert!(built(r#"{"tools":[7]}"#).is_err());
        assert!(built(r#"{"tools":{}}"#).is_err());
    }

    #[test]
    fn a_list_of_nothing_but_left_out_tools_ends_and_is_told_of_once() {
        let page = |tools: usize| {
            let names: Vec<String> = (0..tools).map(|n| format!(r#"{{"name":"no name {n}"}}"#)).collect();
            format!(r#"{{"tools":[{}]}}"#, names.join(","))
        };
        let mut builder = CatalogueBuilder::default();
        builder.page(page(TOOLS_MAX).as_bytes()).unwrap();
        let (tools, why) = builder.left_out.clone().unwrap();
        assert!(tools == TOOLS_MAX && why.contains("name"), "{tools} {why}");
        // The next page of the same, and one that is long in bytes.
        assert!(builder.page(page(1).as_bytes()).is_err());
        assert!(built(&page(TOOLS_MAX + 1)).is_err());
        let long = format!(r#"{{"tools":[{{"name":"no name","description":"{}"}}]}}"#, "x".repeat(100_000));
        let mut builder = CatalogueBuilder::default();
        let pages = CATALOGUE_BYTES_MAX / long.len() + 1;
        assert!((0..pages).any(|_| builder.page(long.as_bytes()).is_err()));
    }
}
