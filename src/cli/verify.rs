//! `failoverd verify`: the checks of the end state, now, from here.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use serde::Serialize;
use tokio::time::Instant;

use super::args::{DaemonArgs, load};
use super::client::Daemon;
use super::render::{Column, Ink, Palette, Symbol, Table};
use super::{Exit, Failure, Outcome, Terminal};
use crate::adapters::world;
use crate::config::Loaded;
use crate::daemon::clock::SystemClock;
use crate::decide::Status;
use crate::domain::time::{friendly, human, parse_duration};
use crate::domain::{CheckPolicy, ComponentId, RegionId};
use crate::plan::Action;
use crate::ports::{Actuator, Clock, Setback};

/// What does not hold yet is looked at again after this long, where somebody waits for it.
const AGAIN: Duration = Duration::from_secs(1);
/// In the place of a plan's step: a check changes nothing, so nothing is told apart by it.
const KEY: &str = "verify";

type Placement = BTreeMap<ComponentId, RegionId>;

/// `verify`.
#[derive(Debug, Clone, clap::Args)]
pub struct VerifyArgs {
    /// Only these checks [default: all of them]
    #[arg(value_name = "CHECK")]
    pub checks: Vec<String>,
    /// The region that has to satisfy them [default: the one that serves what each is about]
    #[arg(long, value_name = "REGION")]
    pub region: Option<RegionId>,
    /// Try again what does not hold yet, for this long
    #[arg(long, default_value = "0s", value_parser = parse_duration, value_name = "TIME")]
    pub wait: Duration,
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
    /// The configuration, and the daemon.
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

/// Runs the checks, all at the same time, and shows what was found. `No` unless every one of them holds.
pub(super) async fn run(args: &VerifyArgs, terminal: Terminal) -> Outcome {
    let loaded = load(&args.daemon.config)?;
    let wanted = wanted(&loaded, &args.checks)?;
    let placement = match args.region {
        Some(_) => Placement::new(),
        None => ask_placement(&args.daemon).await?,
    };
    let mut checks = Vec::new();
    for check in wanted {
        let region = match &args.region {
            Some(region) => known_region(&loaded, region)?,
            None => region_of(check, &placement)?,
        };
        checks.push((check.clone(), region));
    }
    let suite = Suite::run(&loaded, checks, args.wait).await?;
    if args.json {
        terminal.print_json(&suite)?;
    } else {
        terminal.print(&render(&suite, terminal.palette()))?;
    }
    Ok(if suite.holds() { Exit::Ok } else { Exit::No })
}

/// The checks that are asked for; all of them where none is named.
fn wanted<'a>(loaded: &'a Loaded, names: &[String]) -> Result<Vec<&'a CheckPolicy>, Failure> {
    let all = &loaded.policy.checks;
    if all.is_empty() {
        let why = anyhow!("the configuration has no checks, so nothing would be proven");
        return Err(Failure::new(Exit::Configuration, why).hint("add [checks.NAME], see docs/verification.md"));
    }
    if let Some(unknown) = names.iter().find(|name| !all.iter().any(|check| check.name == **name)) {
        let known: Vec<&str> = all.iter().map(|check| check.name.as_str()).collect();
        return Err(Failure::new(
            Exit::Usage,
            anyhow!("there is no check `{unknown}`; there are {}", known.join(", ")),
        ));
    }
    Ok(all.iter().filter(|check| names.is_empty() || names.contains(&check.name)).collect())
}

/// Where everything is served now: the daemon knows.
async fn ask_placement(args: &DaemonArgs) -> Result<Placement, Failure> {
    let unknown = "which region serves is not known";
    let hint = "name it with --region";
    let status = Daemon::find(args)?.get("/v1/status").await.map_err(|failure| failure.context(unknown).hint(hint))?;
    let status: Status = serde_json::from_value(status).context("the daemon's status cannot be read")?;
    if status.placement.is_empty() {
        return Err(
            Failure::new(Exit::Unavailable, anyhow!("{unknown}: the daemon has not adopted anything")).hint(hint)
        );
    }
    Ok(status.placement)
}

fn known_region(loaded: &Loaded, region: &RegionId) -> Result<RegionId, Failure> {
    if loaded.config.regions.contains_key(region) {
        return Ok(region.clone());
    }
    let known: Vec<&str> = loaded.config.regions.keys().map(RegionId::as_str).collect();
    Err(Failure::new(Exit::Usage, anyhow!("there is no region `{region}`; there are {}", known.join(" and "))))
}

/// The region that has to satisfy a check.
fn region_of(check: &CheckPolicy, placement: &Placement) -> Result<RegionId, Failure> {
    check.region_in(placement).cloned().ok_or_else(|| {
        let serving: BTreeSet<&str> = placement.values().map(RegionId::as_str).collect();
        let serving = Vec::from_iter(serving).join(" and ");
        let why = anyhow!("{} is about no component, and {serving} serve something", check.name);
        Failure::new(Exit::Usage, why).hint("name the region with --region")
    })
}

/// What came of all the checks.
#[derive(Debug, Serialize)]
struct Suite {
    holds: bool,
    checks: Vec<Checked>,
}

/// What came of one.
#[derive(Debug, Serialize)]
struct Checked {
    check: String,
    region: RegionId,
    expects: String,
    holds: bool,
    /// What was seen, or what is wrong.
    seen: String,
    /// It cannot be run at all: a mistake in the configuration.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    refused: bool,
    #[serde(with = "friendly")]
    took: Duration,
}

impl Suite {
    async fn run(loaded: &Loaded, checks: Vec<(CheckPolicy, RegionId)>, wait: Duration) -> Result<Self, Failure> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let config = Arc::new(loaded.config.clone());
        let adapters =
            world::build(&config, &loaded.policy, &clock).map_err(|error| Failure::new(Exit::Configuration, error))?;
        let limit = config.deadlines.verify;
        let mut pending: FuturesUnordered<_> = checks
            .into_iter()
            .map(|(CheckPolicy { name: check, expects, .. }, region)| {
                let action =
                    Action::Verified { check: check.clone(), expects: expects.clone(), region: region.clone() };
                let actuator = adapters.actuator.clone();
                async move {
                    let began = Instant::now();
                    let (seen, refused) = match until_it_holds(&*actuator, &action, limit, wait).await {
                        Ok(seen) => (Ok(seen), false),
                        Err(Setback::Refused(why)) => (Err(why), true),
                        Err(Setback::NotYet(why) | Setback::Transient(why)) => (Err(why), false),
                    };
                    let (holds, took) = (seen.is_ok(), began.elapsed());
                    let (Ok(seen) | Err(seen)) = seen;
                    Checked { check, region, expects, holds, seen, refused, took }
                }
            })
            .collect();
        let (all, is_watched) = (pending.len(), std::io::stderr().is_terminal());
        let mut checks = Vec::new();
        while let Some(checked) = pending.next().await {
            checks.push(checked);
            if is_watched {
                // Nobody reads it any more if it cannot be written.
                let _ = write!(std::io::stderr(), "\rverifying: {} of {all} checks ended", checks.len());
            }
        }
        if is_watched {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
        checks.sort_by(|a, b| a.check.cmp(&b.check));
        Ok(Self { holds: checks.iter().all(|checked| checked.holds), checks })
    }

    fn holds(&self) -> bool {
        self.holds
    }
}

/// One attempt after the other for as long as somebody waits, each of them no longer than `limit`.
async fn until_it_holds(
    actuator: &dyn Actuator,
    action: &Action,
    limit: Duration,
    wait: Duration,
) -> Result<String, Setback> {
    let until = Instant::now() + wait;
    loop {
        let attempt = tokio::time::timeout(limit, actuator.verify(KEY, action)).await;
        let came = attempt.unwrap_or_else(|_| Err(Setback::Transient(format!("no answer within {}", human(limit)))));
        match came {
            Err(Setback::NotYet(_) | Setback::Transient(_)) if Instant::now() + AGAIN <= until => {
                tokio::time::sleep(AGAIN).await;
            }
            came => return came,
        }
    }
}

fn render(suite: &Suite, palette: Palette) -> String {
    let mut table = Table::new(0, vec![Column::Fixed, Column::Fixed, Column::Fixed, Column::Fixed, Column::Flexible]);
    for checked in &suite.checks {
        let (symbol, ink, word) = match (checked.holds, checked.refused) {
            (true, _) => (Symbol::Good, Ink::Good, "holds"),
            (false, true) => (Symbol::Unknown, Ink::Warning, "cannot be run"),
            (false, false) => (Symbol::Bad, Ink::Bad, "FAILS"),
        };
        let mut told = vec![(if checked.holds { Ink::Plain } else { ink }, checked.seen.clone())];
        if !checked.holds {
            told.push((Ink::Faint, format!("expected: {}", checked.expects)));
        }
        table.tall_row(vec![
            vec![(Ink::Plain, checked.check.clone())],
            vec![(ink, format!("{} {word}", palette.symbol(symbol)))],
            vec![(Ink::Faint, checked.region.to_string())],
            vec![(Ink::Faint, format!("{} ms", checked.took.as_millis()))],
            told,
        ]);
    }
    let failing = suite.checks.iter().filter(|checked| !checked.holds).count();
    let all = suite.checks.len();
    let verdict = match failing {
        0 => palette.ink(Ink::Good, &format!("all {all} checks hold")),
        failing => palette.ink(Ink::Bad, &format!("{failing} of {all} checks do not hold")),
    };
    format!("{}\n{verdict}\n", table.render(palette))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(check: &str, seen: Result<&str, &str>, refused: bool) -> Checked {
        let (Ok(text) | Err(text)) = seen;
        Checked {
            check: check.to_owned(),
            region: "west".into(),
            expects: "GET https://api.example.com/health answers 200".to_owned(),
            holds: seen.is_ok(),
            seen: text.to_owned(),
            refused,
            took: Duration::from_millis(12),
        }
    }

    #[test]
    fn a_suite_reads_as_a_table_and_says_what_was_expected_where_it_fails() {
        let checks = vec![
            checked("health", Ok("GET https://api.example.com/health answered 200"), false),
            checked("login", Err("GET https://api.example.com/login answered 500, expected 200"), false),
            checked("script", Err("cannot start `verify.sh`: No such file or directory"), true),
        ];
        let suite = Suite { holds: false, checks };
        insta::assert_snapshot!(render(&suite, Palette::new(false, true, 100)), @"
        health  ✓ holds          west  12 ms  GET https://api.example.com/health answered 200
        login   ✗ FAILS          west  12 ms  GET https://api.example.com/login answered 500, expected 200
                                              expected: GET https://api.example.com/health answers 200
        script  ? cannot be run  west  12 ms  cannot start `verify.sh`: No such file or directory
                                              expected: GET https://api.example.com/health answers 200

        2 of 3 checks do not hold
        ");
    }

    #[test]
    fn where_two_regions_serve_a_person_says_which_is_meant() {
        let placement = Placement::from([("database".into(), "west".into()), ("kubernetes".into(), "east".into())]);
        let check = CheckPolicy { name: "it".to_owned(), expects: String::new(), after: BTreeSet::new(), about: None };
        let unclear = region_of(&check, &placement).expect_err("two regions serve").report();
        assert!(unclear.contains("east and west") && unclear.contains("--region"), "{unclear}");
    }
}
