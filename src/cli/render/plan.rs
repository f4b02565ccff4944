//! A plan that has not been carried out: what, in which order, how it is done, how long it may take.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use super::table::paragraph;
use super::{Column, Ink, Palette, Symbol, Table};
use crate::decide::{DryRun, Scope};
use crate::domain::StepId;
use crate::domain::time::human;
use crate::plan::{self, Action, Reversal, Step};

/// The plan for a loss.
pub fn plan(dry_run: &DryRun, loss: &Scope, palette: Palette) -> String {
    let waves = plan::waves(&dry_run.steps);
    let (source, arrow, target) = (&dry_run.source, palette.arrow(), &dry_run.target);
    let title = match loss {
        Scope::Component(component) => format!("If {component} in {source} were lost: {source} {arrow} {target}"),
        Scope::Switchover { component: Some(component), .. } => {
            format!("Switchover of {component}, without loss: {source} {arrow} {target}")
        }
        Scope::Switchover { component: None, .. } => format!("Switchover, without loss: {source} {arrow} {target}"),
        Scope::Region(_) => format!("If {source} were lost: {source} {arrow} {target}"),
        Scope::Degradation(_) => {
            format!("If the clients of {source} were only partly served: a share of them {arrow} {target}")
        }
        Scope::Zone { zone, .. } => format!("If zone {zone} of {source} were down: everything in the other zones"),
        Scope::Failback => format!("Failback by stages, without loss: {source} {arrow} {target}"),
        Scope::Rejoin(database) => format!("{database} as a standby: what it holds is overwritten"),
        Scope::Workload(workload) => format!("If {workload} in {source} lacked replicas: healed in place"),
    };
    let mut text = paragraph(palette, 0, Ink::Heading, &title);
    let dot = palette.dot();
    let size = format!("plan {}{dot}{} steps in {} waves", dry_run.hash, dry_run.steps.len(), waves.len());
    let longest = human(longest(&waves));
    let line = format!("{size}{dot}at most {longest} if every step uses its whole deadline");
    text.push_str(&paragraph(palette, 0, Ink::Plain, &line));
    text.push('\n');
    let mut table = Table::new(0, vec![Column::Fixed, Column::Fixed, Column::Flexible, Column::Fixed, Column::Fixed]);
    let head = |text: &str| (Ink::Faint, text.to_owned());
    table.row([head("wave"), head(""), head("step"), head("at most"), head("undo")]);
    for (n, wave) in waves.iter().enumerate() {
        for (m, step) in wave.iter().enumerate() {
            let number = if m == 0 { (n + 1).to_string() } else { String::new() };
            table.tall_row(vec![
                vec![(Ink::Heading, format!("{number:>3}"))],
                vec![(Ink::Warning, mark(step, palette).to_owned())],
                lines(step),
                vec![(Ink::Plain, human(step.deadline))],
                vec![(Ink::Plain, undo(step).to_owned())],
            ]);
        }
    }
    text.push_str(&table.render(palette));
    text.push_str(&how(&dry_run.steps, palette));
    let legend = format!(
        "{} commit point: guards, verdicts and the world are judged once more before it; {} best effort: needs the \
         region that is lost, and nothing waits for it",
        palette.symbol(Symbol::Commit),
        palette.symbol(Symbol::Held)
    );
    text.push('\n');
    text.push_str(&paragraph(palette, 0, Ink::Faint, &legend));
    for warning in &dry_run.warnings {
        let line = format!("{} warning: {warning}", palette.symbol(Symbol::Warning));
        text.push_str(&paragraph(palette, 0, Ink::Warning, &line));
    }
    if !dry_run.guards.is_empty() {
        let _ = writeln!(text, "\n{}", palette.ink(Ink::Heading, "What would hold it back right now"));
        text.push_str(&super::status::guards(&dry_run.guards, palette, 2));
    }
    text
}

fn mark(step: &Step, palette: Palette) -> &'static str {
    match (step.commit_point, step.best_effort) {
        (true, _) => palette.symbol(Symbol::Commit),
        (false, true) => palette.symbol(Symbol::Held),
        (false, false) => "",
    }
}

fn undo(step: &Step) -> &'static str {
    match step.action.reversal() {
        Reversal::Impossible if step.is_idle_restart() => "-",
        Reversal::Impossible => "never",
        Reversal::Undo if step.undoable => "yes",
        Reversal::Undo | Reversal::Nothing => "-",
    }
}

fn lines(step: &Step) -> Vec<(Ink, String)> {
    let mut lines = vec![(Ink::Plain, step.action.to_string())];
    if let Some(confirm) = &step.confirm {
        let line = format!("not before {} has failed for {}", confirm.instance, human(confirm.lasting));
        lines.push((Ink::Warning, line));
    }
    if let Some(stage) = step.stage {
        lines.push((Ink::Warning, format!("then watched for {}, and taken back if it does not do well", human(stage))));
    }
    lines
}

/// How each kind of step that occurs is done, in the order in which they occur.
fn how(steps: &[Step], palette: Palette) -> String {
    let mut text = format!("\n{}\n", palette.ink(Ink::Heading, "How"));
    let columns = vec![Column::Fixed, Column::Flexible, Column::Flexible, Column::Flexible];
    let mut table = Table::new(2, columns);
    let head = |text: &str| (Ink::Faint, text.to_owned());
    table.row([head(""), head("looks at"), head("then, if needed"), head("done when")]);
    let mut seen = BTreeSet::new();
    for step in steps {
        let Work { goal, look, act, verify } = work(&step.action);
        if seen.insert((goal, act)) {
            table.row([goal, look, act, verify].map(|part| (Ink::Faint, part.to_owned())));
        }
    }
    text.push_str(&table.render(palette));
    text
}

/// How an action is brought about.
struct Work {
    goal: &'static str,
    look: &'static str,
    act: &'static str,
    verify: &'static str,
}

fn work(action: &Action) -> Work {
    let (goal, look, act, verify) = match action {
        Action::IncidentDeclared { .. } => ("declare", "the dr-mode config map", "applies it", "it reads back"),
        Action::Replicas { .. } => ("scale", "replicas wanted and ready", "sets the scale", "as many are ready"),
        Action::Fenced { .. } => (
            "fence",
            "whether the application can write there",
            "locks its roles out and ends their sessions",
            "its write is refused on a new connection",
        ),
        Action::DatabasePromoted { lossless: true, .. } => (
            "promote",
            "role and source of the standby",
            "waits for everything that was written, then promotes",
            "the source is gone and a real write succeeds",
        ),
        Action::DatabasePromoted { lossless: false, .. } => {
            ("promote", "role and source of the standby", "promotes", "the source is gone and a real write succeeds")
        }
        Action::CaughtUp { .. } => ("catch up", "both positions", "waits", "it has replayed everything"),
        Action::Rejoined { .. } => {
            ("rejoin", "whose standby it is", "begins to make it one", "it streams from what serves")
        }
        Action::Protected { .. } => (
            "protect",
            "backups and zones",
            "modifies the instance",
            "RDS has accepted it; other settings are compared",
        ),
        Action::Published { .. } => ("publish", "the key's value", "patches that key", "it reads back"),
        Action::RolledOut { .. } => {
            ("restart", "whether it was restarted for this plan", "restarts the rollout", "new pods are ready")
        }
        Action::CacheActive { .. } => ("activate", "role and nodes", "promotes or grows it", "a real write succeeds"),
        Action::StorageReachable { holds_all_of: None, .. } => ("check", "the bucket", "does nothing", "it lists"),
        Action::StorageReachable { .. } => ("compare", "both buckets", "waits", "every object has arrived"),
        Action::Traffic { .. } => {
            ("traffic", "the records there are", "changes them in one batch", "the name resolves as it should")
        }
        Action::Manifests { .. } => ("apply", "the objects there are", "applies them", "they are present"),
        Action::Restored { .. } => ("restore", "whether a former value is kept", "patches that key", "it reads back"),
        Action::ManifestsRemoved { .. } => ("remove", "the objects there are", "deletes them", "they are gone"),
        Action::IncidentEnded { .. } => ("declare", "the config map", "applies it", "it reads back"),
        Action::Verified { .. } => ("verify", "nothing", "runs the check", "it holds"),
    };
    Work { goal, look, act, verify }
}

/// The longest chain of deadlines.
fn longest(waves: &[Vec<&Step>]) -> Duration {
    let mut ends: BTreeMap<&StepId, Duration> = BTreeMap::new();
    for step in waves.iter().flatten() {
        let begins = step.after.iter().filter_map(|id| ends.get(id)).max().copied().unwrap_or_default();
        ends.insert(&step.id, begins + step.deadline);
    }
    ends.values().max().copied().unwrap_or_default()
}
