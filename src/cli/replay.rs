//! `failoverd replay FILE`: what would it have done?

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::config;
use crate::simulation::{self, Detail, Options, Report, Setup, Story};

/// How a replay is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Lines for people, with the plans in full.
    Plans,
    /// Lines for people, as a story expects them.
    Story,
    /// Everything, as one JSON document.
    Json,
}

/// Plays the story in `path` with the configuration of `configs`, or else with the one that the story names, and
/// prints what came of it. Returns false where the story says what to expect and something else came, or where an
/// invariant broke, which is a bug of failoverd.
///
/// # Errors
/// The story or the configuration cannot be read, or do not fit each other.
pub fn replay(path: &Path, configs: &[PathBuf], shown: Shown, out: &mut dyn Write) -> anyhow::Result<bool> {
    let story = read(path)?;
    let setup = setup(path, &story, configs)?;
    let report = simulation::run(&story, &setup, &Options::default())
        .with_context(|| format!("{} cannot be played", path.display()))?;
    match shown {
        Shown::Plans => write!(out, "{}", report.render(Detail::Plans))?,
        Shown::Story => write!(out, "{}", report.render(Detail::Story))?,
        Shown::Json => writeln!(out, "{}", serde_json::to_string_pretty(&report).context("cannot write JSON")?)?,
    }
    let as_expected = is_as_expected(&story, &report);
    if !as_expected && shown != Shown::Json {
        writeln!(out, "This is not what the story expects. Replace what follows `----` if this is right")?;
    }
    Ok(as_expected && report.broken.is_empty())
}

/// Reads a story.
///
/// # Errors
/// There is no such file, or a line of it cannot be understood.
pub fn read(path: &Path) -> anyhow::Result<Story> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the story {}", path.display()))?;
    simulation::parse(&text).with_context(|| path.display().to_string())
}

/// The policy that a story is played with: `configs`, or the one that it names relative to itself, with its settings.
///
/// # Errors
/// No configuration is named, or it has mistakes.
pub fn setup(path: &Path, story: &Story, configs: &[PathBuf]) -> anyhow::Result<Setup> {
    let named = story.settings.config.as_ref().map(|name| path.parent().unwrap_or(Path::new("")).join(name));
    let configs: Vec<PathBuf> = if configs.is_empty() { named.into_iter().collect() } else { configs.to_vec() };
    if configs.is_empty() {
        bail!("which configuration? Give --config FILE, or write `config FILE` above the first line of the story");
    }
    let settings: BTreeMap<String, String> =
        story.settings.overrides.iter().map(|(key, value)| (variable(key), value.clone())).collect();
    let loaded = config::load(&configs, &settings).context("the configuration (with the settings of the story)")?;
    let mut policy = loaded.policy;
    if !story.settings.observers.is_empty() {
        let own = (policy.observer.clone(), policy.observer_region.clone());
        policy.council.observers = story.settings.observers.iter().cloned().chain([own]).collect();
    }
    // Nothing is read from there, and what is printed should not depend on where the files lie.
    for manifest in policy.components.values_mut().flat_map(|component| &mut component.manifests) {
        let folder = configs.iter().filter_map(|config| config.parent()).find(|f| Path::new(&*manifest).starts_with(f));
        if let Some(rest) = folder.and_then(|folder| Path::new(&*manifest).strip_prefix(folder).ok()) {
            *manifest = rest.display().to_string();
        }
    }
    Ok(Setup {
        policy_hash: config::policy_hash(&policy),
        policy,
        permit: loaded.config.ledger.permit,
        lease: loaded.config.ledger.lease(),
        ballot_every: loaded.config.council.ballot_every,
        bugs: Default::default(),
    })
}

/// Whether the report is what the story expects; true where it expects nothing.
pub fn is_as_expected(story: &Story, report: &Report) -> bool {
    story.expected.as_ref().is_none_or(|expected| expected.trim() == report.render(Detail::Story).trim())
}

/// `guards.cooldown` as the environment variable that sets it.
fn variable(key: &str) -> String {
    format!("FAILOVERD__{}", key.replace('.', "__").replace('-', "_").to_uppercase())
}
