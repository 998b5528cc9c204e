//! `cogward tool`.

use cogward_api::{
    DiffLine, Known, LineChange, PageQuery, Reason, Tool, ToolApprove, ToolDetail, ToolDiff, ToolLabelsPut,
    ToolListQuery, ToolQuery, ToolServer, paths,
};
use cogward_model::pin::{PinState, Suspicion};

use super::Session;
use crate::{
    args,
    exit::{Exit, Failure},
    output::{Cell, Format, Show, Tone},
};

pub fn run(command: args::Tool, session: &mut Session<'_>) -> Result<Exit, Failure> {
    let client = session.client()?;
    match command {
        args::Tool::List { server, relist, tenant, limit } => {
            let query = ToolListQuery { relist, ..ToolListQuery::default() };
            let servers = match server {
                Some(server) => vec![server],
                None => {
                    let path = paths::tool_servers(&tenant.tenant);
                    let all: Vec<ToolServer> = client.list(&path, &PageQuery::default(), None)?;
                    all.into_iter().map(|server| server.name).collect()
                }
            };
            let mut tools: Vec<Tool> = Vec::new();
            for server in &servers {
                let left = limit.count().map(|most| most.saturating_sub(tools.len()));
                if left == Some(0) {
                    break;
                }
                tools.extend(client.list::<Tool>(&paths::tools(&tenant.tenant, server), &query, left)?);
            }
            session.output.list(&tools)?;
        }
        args::Tool::Show { server, tool, relist, tenant } => {
            let path = asking(&paths::tool(&tenant.tenant, &server, &tool), relist)?;
            let detail: ToolDetail = client.get(&path)?;
            session.output.one(&detail)?;
            say_age(&detail.known, session);
            if session.output.format == Format::Table {
                for line in &detail.shown {
                    session.output.line(line)?;
                }
                warn(&detail.tool.suspicions, session);
            }
        }
        args::Tool::Diff { server, tool, tenant } => {
            let path = asking(&paths::tool_diff(&tenant.tenant, &server, &tool), true)?;
            let diff: ToolDiff = client.get(&path)?;
            show_diff(&diff, session)?;
        }
        args::Tool::Approve { server, tool, digest, tenant, reason } => {
            let digest = match digest {
                Some(digest) => digest,
                None => {
                    let path = asking(&paths::tool_diff(&tenant.tenant, &server, &tool), true)?;
                    let diff: ToolDiff = client.get(&path)?;
                    if session.output.format == Format::Table {
                        show_diff(&diff, session)?;
                    }
                    diff.after
                }
            };
            let approve = ToolApprove { digest, reason: Some(reason.reason) };
            let tool: Tool = client.post(&paths::tool_approve(&tenant.tenant, &server, &tool), &approve)?;
            session.output.one(&tool)?;
        }
        args::Tool::Block { server, tool, tenant, reason } => {
            let reason = Reason { reason: reason.reason };
            let tool: Tool = client.post(&paths::tool_block(&tenant.tenant, &server, &tool), &reason)?;
            session.output.one(&tool)?;
        }
        args::Tool::Label { server, tool, labels, idempotent, tenant, reason } => {
            let put = ToolLabelsPut { labels: labels.into_iter().collect(), idempotent, reason: reason.reason };
            let tool: Tool = client.put(&paths::tool_labels(&tenant.tenant, &server, &tool), &put)?;
            session.output.one(&tool)?;
        }
    }
    Ok(Exit::Done)
}

/// The path, and whether the server is asked again.
fn asking(path: &str, relist: bool) -> Result<String, Failure> {
    crate::client::with_query(path, &ToolQuery { relist })
}

/// Says how old what is shown is, where that is not now.
fn say_age(known: &Known, session: &mut Session<'_>) {
    let Some(why) = &known.unanswered else { return };
    let since = match known.listed {
        Some(at) => format!("what is shown was offered at {at}"),
        None => "what is shown was offered before the plane was started".to_owned(),
    };
    session.output.say(&format!("warning: {}; {since}", cogward_model::visible::visible(why)));
}

/// What became of the tools of a server that was just added.
pub fn after_adding(tools: &[Tool], approve: bool, session: &mut Session<'_>) {
    let approved: Vec<&Tool> = tools.iter().filter(|tool| tool.state == PinState::Approved).collect();
    let others = tools.len() - approved.len();
    // Most servers define nothing else.
    let only_tools = tools.iter().all(|tool| tool.name.tool().is_some());
    let what = if only_tools { "tools" } else { "tools, resources and prompts" };
    if approve {
        session.output.say(&format!("{} {what} are approved as they are:", approved.len()));
        for tool in &approved {
            let digest = tool.approved_digest.map(|digest| digest.to_string()).unwrap_or_default();
            session.output.say(&format!("  {}  {digest}", tool.name));
        }
    }
    if others > 0 {
        session.output.say(&format!(
            "{others} {what} are not approved, and no agent can use them: `cogward tool list` shows them, `cogward tool \
             diff` what they are, `cogward tool approve` lets agents use one."
        ));
    }
    for tool in tools {
        for suspicion in &tool.suspicions {
            session.output.say(&format!("warning: {}/{}: {}", tool.server, tool.name, sentence(suspicion)));
        }
    }
}

fn sentence(suspicion: &Suspicion) -> String {
    format!("{} at {}: {}", suspicion.kind.as_str(), suspicion.at, suspicion.detail)
}

fn warn(suspicions: &[Suspicion], session: &mut Session<'_>) {
    for suspicion in suspicions {
        session.output.say(&format!("warning: {}", sentence(suspicion)));
    }
}

fn show_diff(diff: &ToolDiff, session: &mut Session<'_>) -> Result<(), Failure> {
    match session.output.format {
        Format::Json => return session.output.json(diff),
        Format::Jsonl => return session.output.json_line(diff),
        Format::Name => return session.output.line(&diff.after.to_string()),
        Format::Table => {}
    }
    let before = diff.before.map_or_else(|| "nothing was approved yet".to_owned(), |digest| digest.to_string());
    session.output.line(&format!("--- approved: {before}"))?;
    session.output.line(&format!("+++ offered:  {}", diff.after))?;
    for DiffLine { change, text } in &diff.lines {
        let mark = match change {
            LineChange::Same => ' ',
            LineChange::Removed => '-',
            LineChange::Added => '+',
        };
        session.output.line(&format!("{mark}{text}"))?;
    }
    warn(&diff.suspicions, session);
    say_age(&diff.known, session);
    Ok(())
}

fn state(tool: &Tool) -> Cell {
    match tool.state {
        PinState::Approved if !tool.offered => Cell::toned("approved, gone", Tone::Warn),
        PinState::Approved => Cell::toned("approved", Tone::Good),
        PinState::Quarantined | PinState::Blocked => {
            let cause = tool.cause.map(|cause| format!(" ({})", cause.as_str())).unwrap_or_default();
            let tone = if tool.state == PinState::Blocked { Tone::Bad } else { Tone::Warn };
            Cell::toned(format!("{}{cause}", tool.state.as_str()), tone)
        }
    }
}

impl Show for Tool {
    const PLURAL: &'static str = "tools";
    const HEAD: &'static [&'static str] = &["TOOL", "SERVER", "STATE", "DIGEST", "LABELS", "LOOK AT"];
    fn row(&self) -> Vec<Cell> {
        let labels = self.labels.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let mut kinds: Vec<&str> = self.suspicions.iter().map(|s| s.kind.as_str()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        vec![
            Cell::from(&self.name),
            Cell::from(&self.server),
            state(self),
            self.digest.into(),
            labels.into(),
            Cell::toned(kinds.join(" "), Tone::Warn),
        ]
    }
    fn name(&self) -> String {
        format!("{}/{}", self.server, self.name)
    }
    fn details(&self) -> Vec<(&'static str, Cell)> {
        let mut all: Vec<_> = Self::HEAD.iter().copied().zip(self.row()).collect();
        let approved = self.approved_digest.filter(|digest| *digest != self.digest);
        all.push(("APPROVED DIGEST", approved.map(|digest| digest.to_string()).unwrap_or_default().into()));
        all.push(("APPROVED BY", self.approved_by.clone().unwrap_or_default().into()));
        all.push(("REASON", self.reason.clone().unwrap_or_default().into()));
        all.push(("IDEMPOTENT", if self.idempotent { "yes" } else { "" }.into()));
        all
    }
}

impl Show for ToolDetail {
    const PLURAL: &'static str = "tools";
    const HEAD: &'static [&'static str] = Tool::HEAD;
    fn row(&self) -> Vec<Cell> {
        self.tool.row()
    }
    fn name(&self) -> String {
        self.tool.name()
    }
    fn details(&self) -> Vec<(&'static str, Cell)> {
        self.tool.details()
    }
}
