//! Time stamps for a site without a network: the request goes out as a file, and the answer comes back as one.

use axum::{Json as Answer, extract::State};
use base64::{Engine, engine::general_purpose::STANDARD};
use cogward_api::{EvidenceStatus, ProblemCode, TimestampAnswer, TimestampRequest};
use cogward_evidence::StampError;
use cogward_model::{TenantName, event::EventType};

use super::logs;
use crate::{
    events::by_operator,
    extract::{Caller, Json},
    failure::Failure,
    plane::App,
    stamping,
};

/// What stands for the authority in the evidence: who it was, the answer itself says.
const BY_FILE: &str = "file";

fn refused(error: StampError) -> Failure {
    match error {
        StampError::Answer(_) | StampError::Unasked | StampError::Note(_) | StampError::OtherLog(_) => {
            Failure::invalid(error.to_string())
        }
        StampError::Enough(_) => Failure::invalid(error.to_string()),
        StampError::Empty | StampError::Log(_) | StampError::Io(_) | StampError::Read(_) => {
            Failure::new(ProblemCode::EvidenceUnavailable, error.to_string())
        }
    }
}

pub(crate) async fn request(State(app): State<App>) -> Result<Answer<TimestampRequest>, Failure> {
    let ask = app.evidence.timestamp_ask_by_file().await.map_err(refused)?;
    Ok(Answer(TimestampRequest {
        size: ask.checkpoint.size,
        checkpoint: ask.checkpoint.note.clone(),
        request: STANDARD.encode(ask.to_der()),
    }))
}

pub(crate) async fn add(
    State(app): State<App>,
    caller: Caller,
    body: Json<TimestampAnswer>,
) -> Result<Answer<EvidenceStatus>, Failure> {
    let answer = STANDARD.decode(&body.value.answer).map_err(|_| Failure::invalid("the answer is not base64"))?;
    let taken = app.evidence.import_timestamp(answer).await.map_err(refused)?;
    let event = by_operator(EventType::TimeAnchored, TenantName::default_tenant(), &caller.0, None);
    app.record(stamping::anchored(event, &taken, BY_FILE)).await?;
    stamping::tell_offset(&app.evidence, &app.journal, &taken, BY_FILE);
    logs::state(&app).map(Answer)
}
