//! An error that a tool server answers with, as the agent gets it.
//!
//! One kind of error is a question: the user has to go to a web page first (2025-11-25). It is decided and recorded like
//! any other question of a tool server, and an agent whose client cannot be asked so does not see it.

use std::sync::Arc;

use bytes::Bytes;
use cogward_model::UpstreamName;
use serde_json::value::RawValue;

use super::{
    answer::{Answer, MISSING_CAPABILITY, Shape, URL_NEEDED},
    members::Members,
    question::Question,
    rpc,
    upstream::exchange::{AskMethod, ClientCan},
};
use crate::{Inner, gate::First, run::RunContext};

/// Pages of one error.
const PAGES_MAX: usize = 16;

/// What a tool server said instead of an answer.
pub(super) struct Rejection {
    pub(super) code: i64,
    pub(super) message: String,
    pub(super) data: Option<Bytes>,
}

impl Rejection {
    /// One whose words the agent may not see, because policy takes parts out of what the server says.
    pub(super) fn withheld(code: i64) -> Self {
        Self { code, message: "policy withholds what it says".to_owned(), data: None }
    }

    /// The same, with questions to the user only if each of them may be asked.
    pub(super) async fn allowed(
        self,
        inner: &Inner,
        run: &Arc<RunContext>,
        server: &UpstreamName,
        call: First,
        can: ClientCan,
    ) -> Self {
        if self.code != URL_NEEDED {
            return self;
        }
        let asked = |why: &str| {
            let message = format!("it asks the user to go to a web page first, which {why}");
            Self { code: URL_NEEDED, message, data: None }
        };
        let Some(pages) = self.data.as_deref().and_then(pages) else { return asked("is not said as MCP has it") };
        for page in &pages {
            match page.allow(inner, run, server, call, can).await {
                Ok(allowed) => allowed.pass_on(),
                Err(_) => return asked("was not allowed"),
            }
        }
        let all: Vec<_> = pages.iter().map(|page| String::from_utf8_lossy(&page.params)).collect();
        let data = format!(r#"{{"elicitations":[{}]}}"#, all.join(","));
        Self { data: Some(data.into()), ..self }
    }

    /// What the agent gets. For a model it is a result, but for what its client has to be told.
    pub(super) fn answer(self, shape: Shape) -> Answer {
        let Self { code, message, data } = self;
        let for_client = matches!(code, MISSING_CAPABILITY | URL_NEEDED) && data.is_some();
        if shape == Shape::Tool && !for_client {
            return Answer::failed(&format!("The tool server answered with error {code}: {message}"));
        }
        // Without its questions it is no error of this kind.
        let code = if code == URL_NEEDED && data.is_none() { rpc::INTERNAL_ERROR } else { code };
        Answer::Error { code, message, data }
    }
}

/// The pages that the user is to go to.
fn pages(data: &[u8]) -> Option<Vec<Question>> {
    let members = Members::read(data)?;
    let all: Vec<&RawValue> = serde_json::from_str(members.get("elicitations")?).ok()?;
    let page = |raw: &RawValue| {
        let is_page = Members::read(raw.get().as_bytes())?.text("mode")? == "url";
        let params = Bytes::copy_from_slice(raw.get().as_bytes());
        is_page.then_some(Question { method: AskMethod::Elicit, params })
    };
    if all.is_empty() || all.len() > PAGES_MAX {
        return None;
    }
    all.into_iter().map(page).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_are_read_as_questions_and_all_of_them_have_to_be() {
        let page = r#"{"mode":"url","url":"https://bank.example/","elicitationId":"1","message":"Log in"}"#;
        let read = |text: &str| pages(text.as_bytes()).map(|pages| pages.len());
        assert_eq!(read(&format!(r#"{{"elicitations":[{page},{page}],"more":"x"}}"#)), Some(2));
        let form = r#"{"mode":"form","message":"Your PIN?"}"#;
        for other in [
            "{}".to_owned(),
            "7".to_owned(),
            r#"{"elicitations":[]}"#.to_owned(),
            r#"{"elicitations":{}}"#.to_owned(),
            format!(r#"{{"elicitations":[{page},{form}]}}"#),
            format!(r#"{{"elicitations":[{page},7]}}"#),
            format!(r#"{{"elicitations":[{}]}}"#, vec![page; PAGES_MAX + 1].join(",")),
        ] {
            assert_eq!(read(&other), None, "{other}");
        }
    }

    #[test]
    fn without_its_questions_the_error_is_no_question() {
        for shape in [Shape::Tool, Shape::Plain] {
            let answer = Rejection::withheld(URL_NEEDED).answer(shape);
            assert!(!matches!(answer, Answer::Error { code: URL_NEEDED, .. }), "{answer:?}");
        }
        let told = Rejection { code: URL_NEEDED, message: "m".into(), data: Some(Bytes::from_static(b"{}")) };
        assert!(matches!(told.answer(Shape::Tool), Answer::Error { code: URL_NEEDED, data: Some(_), .. }));
    }
}
