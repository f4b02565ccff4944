//! `failoverd plan`: what would be done, without doing it.

use std::collections::BTreeMap;

use anyhow::Context;

use super::args::{DaemonArgs, PlanArgs, load};
use super::client::Daemon;
use super::{Exit, Failure, Outcome, Terminal, render};
use crate::config::{Loaded, policy_hash};
use crate::daemon::clock::SystemClock;
use crate::decide::{Controller, DryRun, Fact, Frame, Scope, Status, initial_placement};
use crate::domain::{ComponentId, InstanceId, RegionId};
use crate::ports::Clock;

/// The losses that are not a component.
const REGIONAL_OUTAGE: &str = "regional-outage";
const DEGRADATION: &str = "degradation";
const SWITCHOVER: &str = "switchover";
const FAILBACK: &str = "failback";
const REJOIN: &str = "rejoin:";
const WORKLOAD: &str = "workload:";
const ZONE: &str = "zone:";

/// Shows the plan for a loss.
pub(super) async fn plan(args: &PlanArgs, terminal: Terminal) -> Outcome {
    let loss = Loss::named(&args.loss, args.from.clone());
    let is_offline = !args.read.daemon.config.is_empty() && args.read.daemon.url.is_none();
    let dry_run =
        if is_offline { offline(&args.read.daemon, &loss)? } else { online(&args.read.daemon, &loss).await? };
    if args.read.json {
        terminal.print_json(&dry_run)?;
    } else {
        terminal.print(&render::plan(&dry_run, &loss.of(&dry_run.source), terminal.palette()))?;
    }
    Ok(Exit::Ok)
}

/// What is lost, and where.
pub(super) struct Loss {
    what: What,
    from: Option<RegionId>,
}

enum What {
    Component(ComponentId),
    Region,
    Degradation,
    /// Nothing is lost.
    Switchover(Option<ComponentId>),
    /// Nothing is lost, and nothing moves.
    Rejoin(InstanceId),
    Failback,
    Workload(String),
    Zone(String),
}

impl Loss {
    fn named(text: &str, from: Option<RegionId>) -> Self {
        let what = match text {
            REGIONAL_OUTAGE => What::Region,
            DEGRADATION => What::Degradation,
            SWITCHOVER => What::Switchover(None),
            FAILBACK => What::Failback,
            other if other.starts_with(REJOIN) => match other[REJOIN.len()..].parse() {
                Ok(database) => What::Rejoin(database),
                Err(_) => What::Component(other.into()),
            },
            other => match (other.strip_prefix(WORKLOAD), other.strip_prefix(ZONE)) {
                (Some(workload), _) => What::Workload(workload.to_owned()),
                (None, Some(zone)) => What::Zone(zone.to_owned()),
                (None, None) => What::Component(other.into()),
            },
        };
        Self { what, from }
    }

    /// The loss that an ordered failover pretends.
    pub(super) fn ordered(component: Option<ComponentId>, from: RegionId) -> Self {
        Self { what: component.map_or(What::Region, What::Component), from: Some(from) }
    }

    /// No loss at all: a planned move.
    pub(super) fn planned(component: Option<ComponentId>, from: RegionId) -> Self {
        Self { what: What::Switchover(component), from: Some(from) }
    }

    /// Nor here: everything goes back.
    pub(super) fn failed_back() -> Self {
        Self { what: What::Failback, from: None }
    }

    /// No loss either: an old primary becomes a standby.
    pub(super) fn rejoined(database: InstanceId) -> Self {
        Self { what: What::Rejoin(database), from: None }
    }

    /// The loss, where the region that it is about is known.
    pub(super) fn of(&self, region: &RegionId) -> Scope {
        match &self.what {
            What::Component(component) => Scope::Component(component.clone()),
            What::Region => Scope::Region(region.clone()),
            What::Degradation => Scope::Degradation(region.clone()),
            What::Switchover(component) => Scope::Switchover { region: region.clone(), component: component.clone() },
            What::Rejoin(database) => Scope::Rejoin(database.clone()),
            What::Failback => Scope::Failback,
            What::Workload(workload) => Scope::Workload(workload.clone()),
            What::Zone(zone) => Scope::Zone { region: region.clone(), zone: zone.clone() },
        }
    }
}

/// From the configuration alone, as if everything were served where `--from` says, or else in the primary region.
fn offline(daemon: &DaemonArgs, loss: &Loss) -> Result<DryRun, Failure> {
    let loaded = load(&daemon.config)?;
    let placement = placement(&loaded, loss.from.as_ref())?;
    let scope = match &loss.what {
        What::Component(component) => Scope::Component(component.clone()),
        What::Workload(workload) => Scope::Workload(workload.clone()),
        What::Rejoin(database) => Scope::Rejoin(database.clone()),
        What::Failback => Scope::Failback,
        What::Region | What::Switchover(_) | What::Degradation | What::Zone(_) => {
            loss.of(&lost_region(&placement, loss.from.as_ref())?)
        }
    };
    let now = SystemClock.now();
    let adopted = Fact::PlacementAdopted { placement, by: "a dry run".to_owned() };
    let frame = Frame { index: 0, epoch: 0, at: now, facts: vec![adopted] };
    let hash = policy_hash(&loaded.policy);
    let known: Vec<String> = loaded.policy.components.keys().map(ToString::to_string).collect();
    let controller = Controller::recover(loaded.policy, hash, [frame]).context("cannot make up a ledger")?;
    let mut dry_run = controller.plan_if(now, &scope).map_err(|why| {
        Failure::because(Exit::No, why).hint(format!(
            "--if takes {REGIONAL_OUTAGE}, {SWITCHOVER}, {FAILBACK}, {DEGRADATION}, {WORKLOAD}NAME, {ZONE}NAME, {REJOIN}DATABASE@REGION or a component: {}",
            known.join(", ")
        ))
    })?;
    // Nothing was probed here, so the guards that hold would say nothing about the daemon's.
    dry_run.guards.clear();
    Ok(dry_run)
}

fn placement(loaded: &Loaded, from: Option<&RegionId>) -> Result<BTreeMap<ComponentId, RegionId>, Failure> {
    let mut placement = initial_placement(&loaded.policy);
    if let Some(from) = from {
        if !loaded.policy.regions.contains_key(from) {
            let known: Vec<&str> = loaded.policy.regions.keys().map(RegionId::as_str).collect();
            return Err(Failure::because(Exit::No, format!("there is no region {from}"))
                .hint(format!("the configuration has {}", known.join(", "))));
        }
        for (component, region) in &mut placement {
            if loaded.policy.components.get(component).is_some_and(|policy| policy.regions.contains(from)) {
                *region = from.clone();
            }
        }
    }
    Ok(placement)
}

/// The region that is meant: the one that was named, or the only one that serves.
fn lost_region(placement: &BTreeMap<ComponentId, RegionId>, from: Option<&RegionId>) -> Result<RegionId, Failure> {
    if let Some(from) = from {
        return Ok(from.clone());
    }
    let mut serving: Vec<&RegionId> = placement.values().collect();
    serving.sort();
    serving.dedup();
    match serving.as_slice() {
        [only] => Ok((*only).clone()),
        [] => Err(Failure::because(Exit::No, "nothing is known to be served anywhere").hint("--from REGION")),
        [_, ..] => {
            let names: Vec<&str> = serving.iter().map(|region| region.as_str()).collect();
            Err(Failure::because(Exit::Usage, format!("several regions serve: {}", names.join(", ")))
                .hint("say which with --from REGION"))
        }
    }
}

/// From the daemon, which knows the placement and the guards that hold.
async fn online(daemon: &DaemonArgs, loss: &Loss) -> Result<DryRun, Failure> {
    ask(&Daemon::find(daemon)?, loss).await
}

/// Shows what an order would do, before a person is asked whether it shall.
pub(super) async fn show(daemon: &Daemon, loss: &Loss, terminal: Terminal) -> Result<DryRun, Failure> {
    let dry_run = ask(daemon, loss).await?;
    terminal.print(&format!("{}\n", render::plan(&dry_run, &loss.of(&dry_run.source), terminal.palette())))?;
    Ok(dry_run)
}

/// The same from a daemon that was found before.
async fn ask(daemon: &Daemon, loss: &Loss) -> Result<DryRun, Failure> {
    let path = match &loss.what {
        What::Component(component) => format!("/v1/plan?if=component:{}", escape(component.as_str())),
        What::Workload(workload) => format!("/v1/plan?if=workload:{}", escape(workload)),
        What::Rejoin(database) => format!("/v1/plan?if=rejoin:{}", escape(&database.to_string())),
        What::Failback => "/v1/plan?if=failback".to_owned(),
        What::Region | What::Switchover(_) | What::Degradation | What::Zone(_) => {
            let body = daemon.get("/v1/status").await?;
            let status: Status = serde_json::from_value(body).context("cannot understand the daemon's status")?;
            let region = lost_region(&status.placement, loss.from.as_ref())?;
            let region = escape(region.as_str());
            match &loss.what {
                What::Zone(zone) => format!("/v1/plan?if=zone:{region}/{}", escape(zone)),
                What::Degradation => format!("/v1/plan?if=degradation:{region}"),
                What::Switchover(None) => format!("/v1/plan?if=switchover:{region}"),
                What::Switchover(Some(component)) => {
                    format!("/v1/plan?if=switchover:{region}/{}", escape(component.as_str()))
                }
                What::Region | What::Component(_) | What::Rejoin(_) | What::Failback | What::Workload(_) => {
                    format!("/v1/plan?if=region:{region}")
                }
            }
        }
    };
    let body = daemon.get(&path).await?;
    Ok(serde_json::from_value(body).context("cannot understand the daemon's plan")?)
}

/// For a query string. Names are mostly letters, digits and dashes, but nothing forces them to be.
fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_add_to_the_question() {
        assert_eq!(escape("us-east-1"), "us-east-1");
        assert_eq!(escape("a&b=c d/é"), "a%26b%3Dc%20d%2F%C3%A9");
    }

    #[test]
    fn without_a_region_the_only_one_that_serves_is_meant() {
        let placement = |pairs: &[(&str, &str)]| -> BTreeMap<ComponentId, RegionId> {
            pairs.iter().map(|(component, region)| ((*component).into(), (*region).into())).collect()
        };
        let one = placement(&[("database", "east"), ("cache", "east")]);
        assert_eq!(lost_region(&one, None).expect("one"), RegionId::from("east"));
        let two = placement(&[("database", "east"), ("cache", "west")]);
        assert_eq!(lost_region(&two, None).expect_err("two").exit(), Exit::Usage);
        assert_eq!(lost_region(&two, Some(&"west".into())).expect("named"), RegionId::from("west"));
    }
}
