//! Operations and their receipts.

use axum::{Json as Answer, extract::State};
use cogward_api::{Operation, OperationState, Problem, ProblemCode, Receipt};
use cogward_engine as engine;
use cogward_model::{TenantName, id::OperationId, run::Verb};
use cogward_store::{OperationRow, OperationState as Stored};

use crate::{
    extract::Params,
    failure::Failure,
    plane::{App, Plane},
};

pub(crate) async fn show(
    State(app): State<App>,
    Params(operation): Params<OperationId>,
) -> Result<Answer<Operation>, Failure> {
    Ok(Answer(read(&app, operation).await?))
}

/// An operation as the store has it.
pub(crate) async fn read(plane: &Plane, id: OperationId) -> Result<Operation, Failure> {
    let row = plane.store.operation(id).await?.ok_or_else(|| Failure::missing("operation", id))?;
    let run = plane.store.run(row.run).await?.ok_or_else(|| Failure::missing("run", row.run))?;
    Ok(view(row, run.tenant))
}

fn view(row: OperationRow, tenant: TenantName) -> Operation {
    let verb = Verb::ALL.into_iter().find(|v| v.as_str() == row.verb).unwrap_or(Verb::Launched);
    let receipt = row.receipt_json.as_deref().and_then(|text| serde_json::from_str::<engine::Receipt>(text).ok());
    let problem = (row.state == Stored::Failed).then(|| {
        Problem::new(ProblemCode::Internal, "the command holds, but its effect could not be made; it is tried again")
            .next_step("look at the run with `cogward run show`")
    });
    Operation {
        id: row.id,
        verb,
        run: row.run,
        tenant,
        state: match row.state {
            Stored::Pending => OperationState::Pending,
            Stored::Done => OperationState::Done,
            Stored::Failed => OperationState::Failed,
        },
        requested_by: row.actor,
        reason: row.reason.unwrap_or_default(),
        requested: row.created,
        receipt: receipt.map(receipt_view),
        problem,
    }
}

fn receipt_view(receipt: engine::Receipt) -> Receipt {
    let last = receipt.steps.last().map_or(0, |step| step.at_us);
    let fenced = receipt.steps.iter().find(|step| step.step == "fenced").map_or(last, |step| step.at_us);
    Receipt {
        operation: receipt.operation,
        state: receipt.state,
        requested: receipt.requested,
        fenced_us: fenced,
        effective_us: last,
        processes: receipt.processes.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
        calls_cut: receipt.calls_cut.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
        evidence: receipt.evidence.map(|e| cogward_api::EvidenceRef { tenant: e.tenant, seq: e.seq, id: e.id }),
    }
}
