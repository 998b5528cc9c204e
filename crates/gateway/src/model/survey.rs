//! What a request contains whose cost its length does not bound, or that would act outside the gate.
//!
//! The worst case of a call is computed from the length of its body. That is sound for text. It is
//! not for what the body only refers to (a URL that the provider fetches, a stored file, an earlier
//! conversation), so such references are refused; and what a provider would do by itself (search the
//! web, call a remote MCP server) is an effect that no gate has seen, so it is refused as well.

use std::{borrow::Cow, fmt};

use cogward_model::{
    action::ModelWire,
    decision::{Refusal, RefusalCode},
};
use serde::{
    Deserialize,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// Types of content parts whose tokens have nothing to do with the length of the request.
const REFERENCES: &[&str] = &[
    "url",
    "file",
    "input_file",
    "document",
    "container_upload",
    "item_reference",
    "input_audio",
    "audio",
    "input_video",
    "video_url",
];
/// Members that name something stored elsewhere.
const REFERENCE_KEYS: &[&str] = &["file_id", "file_url"];
/// Images, whose tokens depend on their size in pixels.
const IMAGES: &[&str] = &["image", "image_url", "input_image"];

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    /// Images that are in the request itself.
    pub images: u64,
    /// Whether anything is marked to be cached, which costs more than plain input.
    pub cache_marks: bool,
    /// Whether tools are offered.
    pub tools: bool,
    /// What stands against the request.
    pub objection: Option<Refusal>,
}

impl Survey {
    /// Looks through the members of a request, which is strict JSON already.
    pub(super) fn of(wire: ModelWire, members: &[(Cow<'_, str>, &RawValue)]) -> Self {
        let mut survey = Self::default();
        for (key, value) in members {
            let place = match key.as_ref() {
                "messages" | "input" | "system" | "instructions" => Place::Conversation,
                _ => Place::Outside,
            };
            let mut reader = serde_json::Deserializer::from_str(value.get());
            // Strict JSON was checked, so this fails on nothing; if it did, nothing would be certain.
            if (Look { survey: &mut survey, place }).deserialize(&mut reader).is_err() {
                survey.object(content("it cannot be read"));
            }
            survey.member(wire, key, value.get().trim());
        }
        survey
    }

    fn object(&mut self, refusal: Refusal) {
        self.objection.get_or_insert(refusal);
    }

    fn member(&mut self, wire: ModelWire, key: &str, value: &str) {
        let empty = matches!(value, "null" | "false" | "[]" | "{}");
        match (wire, key) {
            (_, "tools" | "functions") if !empty => {
                self.tools = true;
                match serde_json::from_str::<Vec<OfferedTool>>(value) {
                    Ok(tools) if tools.iter().all(|tool| tool.runs_at_the_agent(wire)) => {}
                    Ok(_) => self.object(hosted("a tool that the provider itself would run")),
                    Err(_) => self.object(invalid("`tools` must be a list of tools, each with a `type` that is text")),
                }
            }
            (ModelWire::OpenAiChat, "web_search_options")
            | (ModelWire::AnthropicMessages, "mcp_servers" | "container")
                if !empty =>
            {
                self.object(hosted(&format!("`{key}`")));
            }
            (ModelWire::OpenAiResponses, "previous_response_id" | "conversation" | "prompt") if !empty => {
                self.object(content(&format!("`{key}` refers to text that the provider keeps")));
            }
            (ModelWire::OpenAiResponses, "background") if !empty => {
                self.object(invalid("an answer in the background cannot be metered"));
            }
            (ModelWire::OpenAiChat, "prediction" | "audio") if !empty => {
                self.object(content(&format!("`{key}` is billed beyond the output limit")));
            }
            (_, "service_tier") if matches!(value, "\"priority\"" | "\"fast\"") => self.object(price(key)),
            (ModelWire::AnthropicMessages, "speed") if !empty && value != "\"standard\"" => self.object(price(key)),
            _ => {}
        }
    }
}

#[derive(Deserialize)]
struct OfferedTool<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
}

impl OfferedTool<'_> {
    fn runs_at_the_agent(&self, wire: ModelWire) -> bool {
        let Some(kind) = self.kind.as_deref() else { return wire != ModelWire::OpenAiResponses };
        match wire {
            ModelWire::OpenAiChat => matches!(kind, "function" | "custom"),
            ModelWire::OpenAiResponses => matches!(kind, "function" | "custom" | "local_shell" | "apply_patch"),
            ModelWire::AnthropicMessages => {
                kind == "custom"
                    || ["bash_", "text_editor_", "computer_", "memory_"].iter().any(|own| kind.starts_with(own))
            }
        }
    }
}

fn invalid(detail: &str) -> Refusal {
    Refusal::new(RefusalCode::InvalidRequest, "models.request", detail, "Send a request of the documented shape")
}

fn content(detail: &str) -> Refusal {
    Refusal::new(
        RefusalCode::InvalidRequest,
        "models.content",
        format!("the cost of this request cannot be limited: {detail}"),
        "Send the whole conversation as text, and images as data in the request",
    )
}

fn price(key: &str) -> Refusal {
    Refusal::new(
        RefusalCode::NotDeclared,
        "models.price",
        format!("`{key}` asks for service at another price than the declared one"),
        "Leave it out",
    )
}

fn hosted(what: &str) -> Refusal {
    Refusal::new(
        RefusalCode::NotDeclared,
        "models.hostedTools",
        format!("the request offers {what}, which no gate would see"),
        "Use tools of a registered tool server instead",
    )
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Not what the model is told.
    Outside,
    /// Within the conversation.
    Conversation,
    /// The value of `type` in it.
    Type,
    /// The address of an image.
    ImageUrl,
    /// What names a stored thing.
    Reference,
}

struct Look<'s> {
    survey: &'s mut Survey,
    place: Place,
}

impl<'de> DeserializeSeed<'de> for Look<'_> {
    type Value = ();
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Look<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        match self.place {
            Place::Type if IMAGES.contains(&text) => self.survey.images += 1,
            Place::Type if REFERENCES.contains(&text) => {
                self.survey.object(content(&format!("content of type `{text}`")));
            }
            Place::ImageUrl if !text.starts_with("data:") => self.survey.object(content("an image by its address")),
            Place::Reference => self.survey.object(content("a stored file")),
            _ => {}
        }
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let place = self.place;
        while list.next_element_seed(Look { survey: &mut *self.survey, place })?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            let place = match (self.place, key.as_ref()) {
                (_, "cache_control") => {
                    self.survey.cache_marks = true;
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
                (Place::Outside, _) => Place::Outside,
                (Place::ImageUrl, "url") | (_, "image_url") => Place::ImageUrl,
                // Arguments of tool calls are the agent's own data, whatever their members are called.
                (Place::ImageUrl, _) | (_, "input" | "arguments") => Place::Outside,
                (_, "type") => Place::Type,
                (_, key) if REFERENCE_KEYS.contains(&key) => Place::Reference,
                _ => Place::Conversation,
            };
            map.next_value_seed(Look { survey: &mut *self.survey, place })?;
        }
        Ok(())
    }
}
