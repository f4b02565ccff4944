//! Many seeds, each a bad day of its own: what breaks is told as the shortest story that still breaks.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::chance::{self, LASTS};
use super::coverage::Coverage;
use super::{Options, Report, Setup, SetupError, Story, StoryError, parse, run};
use crate::domain::Policy;

/// Stories that are tried to find a shorter one.
const SHORTER_TRIES: usize = 120;
/// Seeds for which that is done; the others are told as they are.
const SHORTENED: usize = 3;

/// Which seeds are played, and with what.
#[derive(Clone)]
pub struct Search<'a> {
    /// What a story is played with, by its settings.
    pub setup: &'a (dyn Fn(&Story) -> Result<Setup, String> + Sync),
    /// The settings of every day, as lines above its story.
    pub settings: &'a [String],
    /// And of every other one.
    pub now_and_then: &'a [String],
    /// The first seed.
    pub from: u64,
    /// How many.
    pub seeds: u64,
    /// How many threads play.
    pub threads: usize,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Searched {
    /// Seeds that were played.
    pub seeds: u64,
    /// Time that was simulated, summed over the daemons.
    pub daemon_time: Duration,
    /// What came up.
    pub coverage: Coverage,
    /// What broke, by seed.
    pub found: Vec<Found>,
}

/// A seed that breaks something.
#[derive(Debug, Clone)]
pub struct Found {
    /// Which.
    pub seed: u64,
    /// The invariants that broke.
    pub broken: Vec<String>,
    /// The shortest story that was found to break the same, in the format of a replay.
    pub story: String,
}

/// A story by chance that cannot be told or played, which is a bug of the simulation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // they say it themselves
pub enum SearchError {
    #[error("seed {seed} is no story: {error}\n{text}")]
    Story { seed: u64, error: StoryError, text: String },
    #[error("seed {seed} cannot be played: {error}\n{text}")]
    Setup { seed: u64, error: SetupError, text: String },
    #[error("the settings of the days do not fit the configuration: {0}")]
    Settings(String),
}

struct Played {
    coverage: Coverage,
    found: Option<Found>,
}

impl Search<'_> {
    /// Plays them all. `told` hears of every seed that ended and of what it broke, in any order.
    ///
    /// # Errors
    /// See [`SearchError`]. What failoverd does wrong is not an error of this function but in what it returns.
    pub fn run(&self, told: &(dyn Fn(u64, &[String]) + Sync)) -> Result<Searched, SearchError> {
        let policy = self.policy()?;
        let next = AtomicU64::new(self.from);
        let end = self.from.saturating_add(self.seeds);
        let played: Mutex<BTreeMap<u64, Result<Played, SearchError>>> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= end {
                            return;
                        }
                        let came = self.play(&policy, seed);
                        let broken = came.as_ref().ok().and_then(|came| came.found.as_ref());
                        told(seed, broken.map(|found| found.broken.as_slice()).unwrap_or_default());
                        let mut played = played.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        played.insert(seed, came);
                    }
                });
            }
        });
        let mut coverage = Coverage::new();
        let mut found = Vec::new();
        for came in played.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).into_values() {
            let came = came?;
            coverage.add(&came.coverage);
            found.extend(came.found);
        }
        for found in found.iter_mut().take(SHORTENED) {
            found.story = self.shorter(&found.story, &gist(&found.broken));
        }
        let daemons = u32::try_from(policy.council.observers.len().max(1)).unwrap_or(1);
        let seeds = u32::try_from(self.seeds).unwrap_or(u32::MAX);
        Ok(Searched { seeds: self.seeds, daemon_time: LASTS * daemons * seeds, coverage, found })
    }

    /// What breaks in the day of this seed.
    #[cfg(test)]
    pub(super) fn breaks(&self, seed: u64) -> Result<Vec<String>, SearchError> {
        Ok(self.play(&self.policy()?, seed)?.found.map(|found| found.broken).unwrap_or_default())
    }

    /// The policy of every day.
    fn policy(&self) -> Result<Policy, SearchError> {
        let text = self.settings.join("\n");
        let story = parse(&text).map_err(|error| SearchError::Settings(error.to_string()))?;
        Ok((self.setup)(&story).map_err(SearchError::Settings)?.policy)
    }

    fn play(&self, policy: &Policy, seed: u64) -> Result<Played, SearchError> {
        let text = self.settings.iter().map(|setting| format!("{setting}\n")).collect::<String>();
        let text = text + &chance::story(policy, self.now_and_then, seed);
        let story = parse(&text).map_err(|error| SearchError::Story { seed, error, text: text.clone() })?;
        let setup = (self.setup)(&story).map_err(SearchError::Settings)?;
        let report = run(&story, &setup, &Options::default());
        let report = report.map_err(|error| SearchError::Setup { seed, error, text: text.clone() })?;
        let Report { coverage, broken, .. } = report;
        let found = (!broken.is_empty()).then_some(Found { seed, story: text, broken });
        Ok(Played { coverage, found })
    }

    /// Leaves lines out for as long as the same thing breaks.
    fn shorter(&self, text: &str, gist: &str) -> String {
        let lines = text.lines().filter(|line| !line.is_empty());
        let (settings, lines): (Vec<&str>, Vec<&str>) = lines.partition(|line| !line.starts_with('+'));
        // What makes everything well again stays: without it, much would not end.
        let calm = format!("+{}s ", chance::CALM_FROM);
        let (calm, mut lines): (Vec<&str>, Vec<&str>) = lines.into_iter().partition(|line| line.starts_with(&calm));
        let told = |lines: &[&str]| {
            let mut lines = [lines, &calm].concat();
            lines.sort_by_key(|line| moment(line));
            format!("{}\n\n{}\n", settings.join("\n"), lines.join("\n"))
        };
        let mut tries = 0;
        let mut size = lines.len() / 2;
        while size > 0 {
            let mut at = 0;
            while at < lines.len() && tries < SHORTER_TRIES {
                let kept: Vec<&str> = lines
                    .iter()
                    .enumerate()
                    .filter(|(n, _)| *n < at || *n >= at + size)
                    .map(|(_, line)| *line)
                    .collect();
                tries += 1;
                let breaks = parse(&told(&kept))
                    .ok()
                    .and_then(|story| run(&story, &(self.setup)(&story).ok()?, &Options::default()).ok())
                    .is_some_and(|report| !report.broken.is_empty() && self::gist(&report.broken) == gist);
                if breaks {
                    lines = kept;
                } else {
                    at += size;
                }
            }
            size /= 2;
        }
        told(&lines)
    }
}

/// When a line of a day happens, in seconds.
fn moment(line: &str) -> u64 {
    line.trim_start_matches('+').split('s').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(u64::MAX)
}

/// What broke first, without what differs from run to run.
fn gist(broken: &[String]) -> String {
    let words = broken.first().map(String::as_str).unwrap_or_default();
    let is_passing = |word: &&str| !word.contains(|c: char| c.is_ascii_digit() || c == '@' || c == '/');
    words.split_whitespace().filter(is_passing).collect::<Vec<_>>().join(" ")
}
