//! `failoverd simulate`: many bad days, by chance, with this configuration.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use super::replay;
use crate::domain::RegionId;
use crate::simulation::{Search, Searched, parse};

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
    let alone = parse("").map_err(anyhow::Error::from)?;
    let mut setup = replay::setup(std::path::Path::new(""), &alone, &args.config)?;
    let council = &mut setup.policy.council;
    if council.is_alone() && !args.alone {
        // One in each region, as several daemons are meant to stand.
        let own = (setup.policy.observer.clone(), setup.policy.observer_region.clone());
        let regions = setup.policy.regions.keys().filter(|region| **region != own.1);
        let others = regions.map(|region: &RegionId| (format!("failoverd-{region}").into(), region.clone()));
        council.observers = others.chain([own.clone()]).collect();
        setup.policy_hash = crate::config::policy_hash(&setup.policy);
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let search = Search { setup, from: args.from, seeds: args.seeds, threads };
    let began = Instant::now();
    // It writes to standard error, and nothing where that is no terminal.
    let style = ProgressStyle::with_template("{wide_bar} {pos} of {len} seeds, {eta} left")?;
    let progress = ProgressBar::new(args.seeds).with_style(style);
    let searched = search.run(&|_| progress.inc(1))?;
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
