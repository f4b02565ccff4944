//! `failoverd simulate`: many bad days, by chance, with this configuration.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use super::replay;
use crate::domain::{Kind, Policy, RegionId};
use crate::simulation::{Search, Searched, Setup, Story, parse};

/// Where there is no bar, a line says how far it is after so many seeds: every few minutes.
const TOLD_EVERY: u64 = 1000;

/// `simulate`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Outages, partitions, crashes, lost answers and people, in two virtual hours a seed; the same seed
gives the same day. Exits with 1 where an invariant broke, and tells it as a story for `replay`.

Examples:
  failoverd simulate --seeds 1000 --config /etc/failoverd/failoverd.toml
  failoverd simulate --seeds 1 --from 4711 --config config/omnimesh.toml"
)]
pub struct SimulateArgs {
    /// How many days
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    pub from: u64,
    /// Configuration files, each on top of the ones before
    #[arg(short, long, required = true, env = "FAILOVERD_CONFIG", value_delimiter = ',', value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// One daemon, where the configuration names no others; else one in each region is assumed
    #[arg(long)]
    pub alone: bool,
    /// Exit with 1 also where something that there is never came up
    #[arg(long)]
    pub complete: bool,
}

/// Plays the seeds and prints what came up, and what broke. Returns false where something did.
///
/// # Errors
/// The configuration cannot be used.
pub(super) fn simulate(args: &SimulateArgs, out: &mut dyn Write) -> anyhow::Result<bool> {
    let days = Days::new(&args.config, args.alone)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let setup = |story: &Story| days.setup(story);
    let search = days.search(&setup, args.from, args.seeds, threads);
    let began = Instant::now();
    // It writes to standard error, and nothing where that is no terminal.
    let style = ProgressStyle::with_template("{wide_bar} {pos} of {len} seeds, {eta} left")?;
    let progress = ProgressBar::new(args.seeds).with_style(style);
    let searched = search.run(&|seed, broken| {
        // Whoever waits for a night's run is told at once; the shortest story comes at its end.
        if let Some(first) = broken.first() {
            progress.suspend(|| eprintln!("seed {seed}: {first}"));
        }
        progress.inc(1);
        let ended = progress.position();
        if progress.is_hidden() && ended.is_multiple_of(TOLD_EVERY) {
            eprintln!("{ended} of {} seeds, {:.0} s", args.seeds, began.elapsed().as_secs_f64());
        }
    })?;
    progress.finish_and_clear();
    let took = began.elapsed();
    show(&searched, args, out)?;
    let hours = searched.daemon_time.as_secs_f64() / 3600.0;
    eprintln!(
        "{hours:.0} daemon-hours in {:.1} s: {:.0} daemon-hours a second, on {threads} threads",
        took.as_secs_f64(),
        hours / took.as_secs_f64().max(f64::EPSILON)
    );
    Ok(searched.found.is_empty() && (!args.complete || searched.coverage.never().is_empty()))
}

/// Several daemons without roles would be half of it. A check every five seconds fits where little time is left.
const ROLES: [&str; 2] = ["set api.role_listen 127.0.0.1:8781", "set api.role_check_period 5s"];

/// What the days are played with.
pub(crate) struct Days {
    config: Vec<PathBuf>,
    settings: Vec<String>,
    now_and_then: Vec<String>,
    /// By the settings of a story: reading a configuration takes its time.
    setups: Mutex<BTreeMap<Vec<(String, String)>, Setup>>,
}

impl Days {
    /// With the configuration; where it names no other daemons, and `alone` does not say so, with one in each of its regions,
    /// roles, and, in every other day, guardians.
    pub(crate) fn new(config: &[PathBuf], alone: bool) -> anyhow::Result<Self> {
        let (settings, now_and_then, setups) = (Vec::new(), Vec::new(), Mutex::default());
        let mut days = Self { config: config.to_vec(), settings, now_and_then, setups };
        let policy = days.policy(&[])?;
        if alone || !policy.council.is_alone() {
            return Ok(days);
        }
        let others = policy.regions.keys().filter(|region| **region != policy.observer_region);
        let others: Vec<String> = others.map(|region: &RegionId| format!("failoverd-{region}@{region}")).collect();
        days.settings.push(format!("observers {}", others.join(" ")));
        let roles = ROLES.map(str::to_owned);
        if policy.roles.is_none() && days.policy(&roles).is_ok() {
            days.settings.extend(roles);
        }
        let guarded =
            policy.of_kind(Kind::Database).filter(|(_, of)| of.demotion.is_none()).flat_map(|(database, _)| {
                ["deadline 1s", "command [\"true\"]", "restore [\"true\"]"]
                    .map(|what| format!("set databases.{database}.demote.{what}"))
            });
        let guarded: Vec<String> = guarded.collect();
        if days.policy(&guarded).is_ok() {
            days.now_and_then = guarded;
        }
        Ok(days)
    }

    /// The policy with the settings of every day and `more`.
    fn policy(&self, more: &[String]) -> anyhow::Result<Policy> {
        let lines: Vec<&str> = self.settings.iter().chain(more).map(String::as_str).collect();
        let story = parse(&lines.join("\n"))?;
        Ok(replay::setup(Path::new(""), &story, &self.config)?.policy)
    }

    /// What a story is played with.
    pub(crate) fn setup(&self, story: &Story) -> Result<Setup, String> {
        let mut setups = self.setups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(setup) = setups.get(&story.settings.overrides) {
            return Ok(setup.clone());
        }
        let setup = replay::setup(Path::new(""), story, &self.config).map_err(|error| format!("{error:#}"))?;
        setups.insert(story.settings.overrides.clone(), setup.clone());
        Ok(setup)
    }

    pub(crate) fn search<'a>(
        &'a self,
        setup: &'a (dyn Fn(&Story) -> Result<Setup, String> + Sync),
        from: u64,
        seeds: u64,
        threads: usize,
    ) -> Search<'a> {
        Search { setup, settings: &self.settings, now_and_then: &self.now_and_then, from, seeds, threads }
    }
}

fn show(searched: &Searched, args: &SimulateArgs, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "What came up in {} seeds from {} on:", searched.seeds, args.from)?;
    write!(out, "{}", searched.coverage)?;
    let never = searched.coverage.never();
    if never.is_empty() {
        writeln!(out, "Everything came up.")?;
    } else {
        writeln!(out, "Never came up: {}.", never.join(", "))?;
    }
    for found in &searched.found {
        writeln!(out, "\nSEED {} BREAKS:", found.seed)?;
        for broken in &found.broken {
            writeln!(out, "  {broken}")?;
        }
        writeln!(out, "The shortest story found (failoverd replay FILE --config …):\n\n{}", found.story)?;
    }
    if searched.found.is_empty() {
        writeln!(out, "Nothing broke.")
    } else {
        writeln!(
            out,
            "{} of {} seeds broke something, which is a bug of failoverd.",
            searched.found.len(),
            searched.seeds
        )
    }
}
