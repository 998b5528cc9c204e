//! `cogward floor`.

use cogward_api::{Floor, FloorPut, PageQuery, Shortfall, ShortfallQuery, paths};
use cogward_model::{TenantName, manifest::Tier};

use super::Session;
use crate::{
    args,
    exit::{Exit, Failure},
    output::{Cell, Format, Show, Tone},
};

pub fn run(command: args::Floor, session: &mut Session<'_>) -> Result<Exit, Failure> {
    match command {
        args::Floor::List { tenant } => {
            let floors: Vec<Floor> =
                session.client()?.list(&paths::floors(tenant.as_ref()), &PageQuery::default(), None)?;
            session.output.list(&floors)?;
        }
        args::Floor::Set { tier, profile, tenant, reason } => {
            let put = FloorPut { profile: Some(profile.profile()), reason: Some(reason.reason) };
            set(tenant, tier.tier(), &put, session)?;
        }
        args::Floor::Clear { tier, tenant, reason } => {
            let put = FloorPut { profile: None, reason: Some(reason.reason) };
            set(tenant, tier.tier(), &put, session)?;
        }
        args::Floor::Shortfalls { tenant, limit } => {
            let query = ShortfallQuery { tenant, ..ShortfallQuery::default() };
            let found: Vec<Shortfall> = session.client()?.list(paths::SHORTFALLS, &query, limit.count())?;
            session.output.list(&found)?;
        }
    }
    Ok(Exit::Done)
}

fn set(tenant: Option<TenantName>, tier: Tier, put: &FloorPut, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client()?;
    let floor: Floor = client.put(&paths::floor(tenant.as_ref(), tier), put)?;
    session.output.one(&floor)?;
    let query = ShortfallQuery { tenant, ..ShortfallQuery::default() };
    let below: Vec<Shortfall> = client.list(paths::SHORTFALLS, &query, None)?;
    let below = below.iter().filter(|s| s.tier == tier).collect::<Vec<_>>();
    if !below.is_empty() && session.output.format == Format::Table {
        let live: usize = below.iter().map(|s| s.live_runs.len()).sum();
        session.output.say(&format!(
            "{} registered versions are below it and do not start any more; {live} live runs of them go on: \
             `cogward floor shortfalls` lists them.",
            below.len()
        ));
    }
    Ok(())
}

impl Show for Floor {
    const PLURAL: &'static str = "floors";
    const HEAD: &'static [&'static str] = &["TIER", "WEAKEST", "FROM", "SET BY", "REASON"];
    fn row(&self) -> Vec<Cell> {
        vec![
            self.tier.as_str().into(),
            self.profile.as_str().into(),
            self.source.as_str().into(),
            self.set_by.clone().unwrap_or_default().into(),
            self.reason.clone().unwrap_or_default().into(),
        ]
    }
    fn name(&self) -> String {
        format!("{}={}", self.tier.as_str(), self.profile.as_str())
    }
}

impl Show for Shortfall {
    const PLURAL: &'static str = "shortfalls";
    const HEAD: &'static [&'static str] = &["AGENT", "VERSION", "TENANT", "TIER", "PROFILE", "FLOOR", "LIVE RUNS"];
    fn row(&self) -> Vec<Cell> {
        let live = self.live_runs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        vec![
            Cell::from(&self.agent),
            Cell::from(&self.version),
            Cell::from(&self.tenant),
            self.tier.as_str().into(),
            self.profile.as_str().into(),
            self.floor.as_str().into(),
            if live.is_empty() { "".into() } else { Cell::toned(&live, Tone::Warn) },
        ]
    }
    fn name(&self) -> String {
        format!("{}@{}", self.agent, self.version)
    }
}
