//! What a person is shown before, while and after the glass is broken.

use std::path::Path;

use jiff::Timestamp;

use super::asking::{Answer, Asked};
use super::{Seen, Source};
use crate::cli::render::{self, Ink, Palette, paragraph};
use crate::daemon::break_glass::Told;
use crate::decide::{BreakGlassIncident, BreakGlassRecord, IncidentStatus, Outcome, Scope, Status};
use crate::domain::Policy;
use crate::domain::time::human;

/// Everything that is known before.
pub(super) struct Shown<'a> {
    pub(super) by: &'a str,
    pub(super) reason: &'a str,
    pub(super) asked: &'a [Asked],
    pub(super) known: &'a Source,
    pub(super) seen: &'a Seen,
    pub(super) ledger: &'a Path,
}

impl Shown<'_> {
    pub(super) fn render(&self, policy: &Policy, unproven: &[String], palette: Palette) -> String {
        let (deployment, plan) = (&policy.deployment, &self.seen.plan);
        let title = format!(
            "BREAK-GLASS for {deployment}: {} {} {}, by {}: {}",
            plan.source,
            palette.arrow(),
            plan.target,
            self.by,
            self.reason
        );
        let mut text = paragraph(palette, 0, Ink::Bad, &title);
        text.push_str(&asked(self.asked, palette));
        heading(&mut text, palette, "Where everything is served");
        let at = self.known.at.map_or_else(String::new, |at| format!(", as of {}", clock(at)));
        text.push_str(&paragraph(palette, 2, Ink::Faint, &format!("from {}{at}", self.known.told)));
        let placed = self.seen.placement.iter().map(|(component, region)| format!("{component} in {region}"));
        text.push_str(&paragraph(palette, 2, Ink::Plain, &placed.collect::<Vec<_>>().join(", ")));
        text.push('\n');
        text.push_str(&render::plan(plan, &Scope::Region(plan.source.clone()), palette));
        let promotions: Vec<_> = self.seen.promotions().collect();
        if !promotions.is_empty() {
            heading(&mut text, palette, "Expected loss");
        }
        for (database, from) in promotions {
            let loss = self.seen.instance(database).and_then(|seen| seen.expected_loss);
            let line = match loss {
                Some(loss) => format!("{database}: up to {} of what {from} has acknowledged", human(loss)),
                None => format!("{database}: NOT KNOWN; nobody here has seen how far {from} had come"),
            };
            text.push_str(&paragraph(palette, 2, Ink::Warning, &line));
        }
        let not_ready = plan.steps.iter().filter_map(|step| step.action.acts_at());
        let mut not_ready: Vec<_> = not_ready.filter(|id| id.region == plan.target).collect();
        not_ready.sort();
        not_ready.dedup();
        for instance in not_ready.into_iter().filter_map(|id| self.seen.instance(id)).filter(|seen| !seen.ready) {
            let why = if instance.not_ready.is_empty() { instance.why.clone() } else { instance.not_ready.join("; ") };
            let line = format!("{} is not ready to take over: {why}", instance.instance);
            text.push_str(&paragraph(palette, 2, Ink::Bad, &line));
        }
        heading(&mut text, palette, "What cannot be proven");
        for line in unproven {
            text.push_str(&paragraph(palette, 2, Ink::Warning, &format!("- {line}")));
        }
        heading(&mut text, palette, "What is left behind");
        let line = format!(
            "the record, in {}; and a claim in every cluster that answers, which halts every daemon until \
                            the record is merged",
            self.ledger.display()
        );
        text.push_str(&paragraph(palette, 2, Ink::Plain, &line));
        text.push('\n');
        text
    }
}

/// What was left before its end, and goes on.
pub(super) fn continued(
    record: &BreakGlassRecord,
    open: &BreakGlassIncident,
    everybody: &[Asked],
    palette: Palette,
) -> String {
    let title = format!(
        "BREAK-GLASS goes on: {} {} {}, begun by {} at {}: {}",
        open.source,
        palette.arrow(),
        open.target,
        record.by,
        clock(record.began),
        record.reason
    );
    let mut text = paragraph(palette, 0, Ink::Bad, &title);
    text.push_str(&asked(everybody, palette));
    text.push('\n');
    text
}

fn asked(everybody: &[Asked], palette: Palette) -> String {
    let mut text = String::new();
    heading(&mut text, palette, "Who was asked");
    for Asked { whom, answer } in everybody {
        let (ink, line) = match answer {
            Answer::Is(said, _) => (Ink::Bad, format!("{whom}: {said}")),
            Answer::Silent(why) => (Ink::Plain, format!("{whom}: no answer ({why})")),
            Answer::NotAsked(why) => (Ink::Warning, format!("{whom}: NOT ASKED, {why}")),
        };
        text.push_str(&paragraph(palette, 2, ink, &line));
    }
    text
}

/// One line, as it happens.
pub(super) fn told(told: &Told) -> String {
    let (at, line) = match told {
        Told::Fact { at, fact } => (at.strftime("%H:%M:%S").to_string(), fact.to_string()),
        Told::Standing(headline) => ("--------".to_owned(), headline.clone()),
    };
    // A terminal is not to be commanded by what a server said.
    let line: String = line.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect();
    format!("{at}  {line}\n")
}

/// What to do next.
pub(super) fn ended(incident: &IncidentStatus, status: &Status, ledger: &Path, palette: Palette) -> String {
    let (ink, word) = match incident.outcome {
        Some(Outcome::Recovered) => (Ink::Good, "DONE"),
        Some(Outcome::Unwound | Outcome::Aborted | Outcome::Superseded) | None => (Ink::Bad, "NOT DONE"),
    };
    let mut text = String::from("\n");
    text.push_str(&paragraph(palette, 0, ink, &format!("{word}: {}", incident.summary)));
    for database in &status.owed_fences {
        let line = format!(
            "{database} is NOT fenced: keep applications away from it. The daemons fence it when it answers, after the merge"
        );
        text.push_str(&paragraph(palette, 2, Ink::Bad, &line));
    }
    let line = "Every daemon that sees the claim stands still. Once the ledger is back, on any machine:";
    text.push_str(&paragraph(palette, 0, Ink::Plain, line));
    text.push_str(&format!("  failoverd ledger merge {} --config …\n", ledger.display()));
    text
}

fn heading(text: &mut String, palette: Palette, title: &str) {
    text.push('\n');
    text.push_str(&palette.ink(Ink::Heading, title));
    text.push('\n');
}

fn clock(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}
