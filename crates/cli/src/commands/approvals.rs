//! `cogward approval`.

use cogward_api::{Approval, ApprovalQuery, ApprovalState, Reason, paths};

use super::Session;
use crate::{
    args::{self, ApprovalWord},
    exit::{Exit, Failure},
};

pub fn run(command: args::Approval, session: &mut Session<'_>) -> Result<Exit, Failure> {
    let client = session.client()?;
    match command {
        args::Approval::List { state, run, tenant, limit } => {
            let query = ApprovalQuery { run, state: state.map(word), ..ApprovalQuery::default() };
            let all: Vec<Approval> = client.list(&paths::approvals(&tenant.tenant), &query, limit.count())?;
            session.output.list(&all)?;
        }
        args::Approval::Show { approval, tenant } => {
            let shown: Approval = client.get(&paths::approval(&tenant.tenant, approval))?;
            session.output.one(&shown)?;
        }
        args::Approval::Approve { approval, tenant, reason } => {
            let path = paths::approval_answer(&tenant.tenant, approval, true);
            let answered: Approval = client.post(&path, &Reason { reason: reason.reason })?;
            session.output.one(&answered)?;
        }
        args::Approval::Deny { approval, tenant, reason } => {
            let path = paths::approval_answer(&tenant.tenant, approval, false);
            let answered: Approval = client.post(&path, &Reason { reason: reason.reason })?;
            session.output.one(&answered)?;
        }
    }
    Ok(Exit::Done)
}

fn word(word: ApprovalWord) -> ApprovalState {
    match word {
        ApprovalWord::Pending => ApprovalState::Pending,
        ApprovalWord::Approved => ApprovalState::Approved,
        ApprovalWord::Denied => ApprovalState::Denied,
        ApprovalWord::Expired => ApprovalState::Expired,
        ApprovalWord::Consumed => ApprovalState::Consumed,
    }
}
