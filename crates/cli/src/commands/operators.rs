//! `cogward operator`.

use cogward_api::{
    NewOperator, Operator, OperatorAdd, OperatorRoles, OperatorRotate, PageQuery, ReasonQuery, RotatedOperator, WhoAmI,
    paths,
};

use super::Session;
use crate::{
    args,
    exit::{Exit, Failure},
    output::{Cell, Format, Show},
};

pub fn run(command: args::Operator, session: &mut Session<'_>) -> Result<Exit, Failure> {
    let client = session.client()?;
    match command {
        args::Operator::List { limit } => {
            let operators: Vec<Operator> = client.list(paths::OPERATORS, &PageQuery::default(), limit.count())?;
            session.output.list(&operators)?;
        }
        args::Operator::Add { name, roles, auditor, reason } => {
            let add = OperatorAdd { name, auditor, roles, reason: Some(reason.reason) };
            let made: NewOperator = client.post(paths::OPERATORS, &add)?;
            match session.output.format {
                Format::Json | Format::Jsonl => session.output.one(&made)?,
                Format::Name | Format::Table => session.output.line(made.credential.expose())?,
            }
            session.output.say(&format!(
                "The credential of `{}` ({}) is shown this once; `cogward login` keeps it.",
                made.operator.name, made.operator.id
            ));
        }
        args::Operator::Roles { operator, roles, reason } => {
            let operator = match operator {
                Some(operator) => operator,
                None => client.get::<WhoAmI>(paths::WHOAMI)?.operator,
            };
            let put = OperatorRoles { roles, reason: Some(reason.reason) };
            let operator: Operator = client.put(&paths::operator_roles(operator), &put)?;
            session.output.one(&operator)?;
        }
        args::Operator::Revoke { operator, reason } => {
            let query = ReasonQuery { reason: reason.reason };
            let path = paths::with_query(&paths::operator(operator), &query)
                .map_err(|error| Failure::local("cannot make the request", error))?;
            client.delete(&path)?;
            session.output.say(&format!("Operator {operator} is revoked; its credential is dead."));
        }
        args::Operator::Rotate { operator, overlap, reason } => {
            let operator = match operator {
                Some(operator) => operator,
                None => client.get::<WhoAmI>(paths::WHOAMI)?.operator,
            };
            let rotate = OperatorRotate { overlap_seconds: Some(overlap), reason: Some(reason.reason) };
            let rotated: RotatedOperator = client.post(&paths::operator_rotate(operator), &rotate)?;
            match session.output.format {
                Format::Json | Format::Jsonl => session.output.one(&rotated)?,
                Format::Name | Format::Table => session.output.line(rotated.credential.expose())?,
            }
            let old = match rotated.operator.previous_until {
                Some(until) => format!("the old one is valid until {until}"),
                None => "the old one is dead".to_owned(),
            };
            session.output.say(&format!(
                "The new credential of operator `{}` is shown this once; {old}. `cogward login` keeps the new one.",
                rotated.operator.name
            ));
        }
    }
    Ok(Exit::Done)
}

impl Show for RotatedOperator {
    const PLURAL: &'static str = "credentials";
    const HEAD: &'static [&'static str] = &["OPERATOR", "NAME"];
    fn row(&self) -> Vec<Cell> {
        vec![self.operator.id.into(), Cell::from(&self.operator.name)]
    }
    fn name(&self) -> String {
        self.operator.id.to_string()
    }
}

impl Show for Operator {
    const PLURAL: &'static str = "operators";
    const HEAD: &'static [&'static str] =
        &["OPERATOR", "NAME", "ROLE", "ROLES", "CREATED", "ROTATED", "OLD ONE UNTIL", "REVOKED"];
    fn row(&self) -> Vec<Cell> {
        let time =
            |at: Option<cogward_model::Timestamp>| -> Cell { at.map(|t| t.to_string()).unwrap_or_default().into() };
        vec![
            self.id.into(),
            Cell::from(&self.name),
            Cell::from(&self.role),
            self.roles.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ").into(),
            time(Some(self.created)),
            time(self.rotated),
            time(self.previous_until),
            time(self.revoked),
        ]
    }
    fn name(&self) -> String {
        self.id.to_string()
    }
}
