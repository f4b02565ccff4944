//! `failoverd check-config`: is this configuration right, what deserves a second look, does every failover fit in its
//! time, and what does it depend on. Without the network.

use std::fmt::Write as _;

use serde_json::json;

use super::args::{ConfigArgs, load};
use super::render::{Column, Ink, Palette, Symbol, Table};
use super::{Exit, Failure, Outcome, Terminal, budget};
use crate::config::{self, ConfigErrors, Loaded, Mistake};
use crate::domain::Mode;
use crate::domain::time::human;
use crate::plan;

/// Prints the summary, the warnings, the budget and the control planes; or one line per mistake, on standard error, and
/// ends with 78.
pub(super) fn run(args: &ConfigArgs, terminal: Terminal) -> Outcome {
    if args.config.is_empty() {
        return Err(Failure::because(Exit::Usage, "which configuration?")
            .hint("give --config FILE, more than once to layer files"));
    }
    if args.json {
        return json(args, terminal);
    }
    let loaded = load(&args.config)?;
    let palette = terminal.palette();
    let rows = loaded.budget();
    let dependencies = plan::dependencies(&loaded.policy, &plan::answers(&loaded.policy));
    let mut text = summary(&loaded, palette);
    text.push('\n');
    for warning in &loaded.warnings {
        let mark = palette.ink(Ink::Warning, "warning:");
        let _ = writeln!(text, "{mark} {warning}");
    }
    if !loaded.warnings.is_empty() {
        text.push('\n');
    }
    let _ = writeln!(text, "{}", budget::table(&rows, palette));
    let _ = writeln!(text, "{}", budget::deadlines(&loaded, &rows, palette));
    text.push_str(&budget::dependencies(&dependencies, palette));
    terminal.print(&text)?;
    Ok(Exit::Ok)
}

fn json(args: &ConfigArgs, terminal: Terminal) -> Outcome {
    match config::load(&args.config, &config::environment()) {
        Ok(loaded) => {
            let mut value = budget::as_json(&loaded, &loaded.budget());
            value["usable"] = json!(true);
            value["mistakes"] = json!([]);
            value["warnings"] = json!(lines(&loaded.warnings));
            value["policy_hash"] = json!(config::policy_hash(&loaded.policy));
            terminal.print_json(&value)?;
            Ok(Exit::Ok)
        }
        Err(ConfigErrors(mistakes)) => {
            terminal.print_json(&json!({ "usable": false, "mistakes": lines(&mistakes), "warnings": [] }))?;
            Ok(Exit::Configuration)
        }
    }
}

fn lines(mistakes: &[Mistake]) -> Vec<String> {
    mistakes.iter().map(ToString::to_string).collect()
}

fn summary(loaded: &Loaded, palette: Palette) -> String {
    let policy = &loaded.policy;
    let regions: Vec<String> = policy.regions.iter().map(|(region, role)| format!("{region} ({role})")).collect();
    let components: Vec<String> = policy
        .components
        .iter()
        .map(|(id, component)| match &component.row {
            Some(row) => format!("{id} ({}, after {})", component.kind, human(row.after)),
            None => format!("{id} ({})", component.kind),
        })
        .collect();
    let references: Vec<String> = policy.references.keys().map(ToString::to_string).collect();
    let mode = match policy.mode {
        Mode::Observe => "observe: records what it would do, and does nothing",
        Mode::Approve => "approve: prepares, and waits for a person",
        Mode::Automatic => "automatic: acts by itself",
    };
    let mut table = Table::new(2, vec![Column::Fixed, Column::Flexible]);
    for (name, text) in [
        ("mode", mode.to_owned()),
        ("observer", format!("{} in {}", policy.observer, policy.observer_region)),
        ("regions", regions.join(", ")),
        ("components", components.join(", ")),
        ("references", references.join(", ")),
        ("policy", config::policy_hash(policy)),
    ] {
        table.row([(Ink::Faint, name.to_owned()), (Ink::Plain, text)]);
    }
    let title = format!("{} {}: the configuration can be used", palette.symbol(Symbol::Good), policy.deployment);
    format!("{}\n{}", palette.ink(Ink::Good, &title), table.render(palette))
}
