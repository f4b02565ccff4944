//! An incident: what happened, how the time goes, and its plan step by step.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::palette::{step_mark, step_word};
use super::status::guards;
use super::table::paragraph;
use super::{Column, Ink, Palette, Symbol, Table};
use crate::decide::{IncidentStatus, Outcome, StepState, StepStatus};
use crate::domain::time::human;

/// Lines of evidence shown with an incident.
const EVIDENCE_MAX: usize = 5;

/// An incident that is under way. What the headline says is not said again.
pub(super) fn open(incident: &IncidentStatus, headline: &str, palette: Palette) -> String {
    let dot = palette.dot();
    let what = match incident.purpose.is_planned() {
        true => incident.purpose.to_string(),
        false => incident.level.to_string(),
    };
    let title = format!("Incident {}{dot}{what}{dot}{}", incident.incident, way(incident, palette));
    let mut text = paragraph(palette, 0, Ink::Heading, &title);
    if incident.summary != headline {
        text.push_str(&paragraph(palette, 2, Ink::Plain, &incident.summary));
    }
    text.push_str(&clock(incident, palette));
    for line in incident.evidence.iter().take(EVIDENCE_MAX) {
        text.push_str(&paragraph(palette, 2, Ink::Faint, &format!("seen when it was declared: {line}")));
    }
    for exception in &incident.exceptions {
        text.push_str(&paragraph(
            palette,
            2,
            Ink::Warning,
            &format!("{} exception: {exception}", palette.symbol(Symbol::Warning)),
        ));
    }
    if incident.held {
        let line = format!("{} a person holds it: no further step starts", palette.symbol(Symbol::Held));
        text.push_str(&paragraph(palette, 2, Ink::Warning, &line));
    }
    text.push_str(&steps(incident, palette));
    text
}

/// One or two lines for an incident that is over.
pub(super) fn closed(incident: &IncidentStatus, palette: Palette) -> String {
    let (symbol, ink, word) = match incident.outcome {
        Some(Outcome::Recovered) => (Symbol::Good, Ink::Good, "recovered"),
        Some(Outcome::Unwound) => (Symbol::Back, Ink::Warning, "unwound"),
        Some(Outcome::Superseded) => (Symbol::Good, Ink::Good, "done by break-glass"),
        Some(Outcome::Aborted) => (Symbol::Left, Ink::Warning, "aborted"),
        None => (Symbol::Unknown, Ink::Warning, "closed"),
    };
    let at = incident.declared.strftime("%Y-%m-%d %H:%M UTC");
    let seen = match &incident.acknowledged_by {
        Some(by) => format!("acknowledged by {by}"),
        None => "not acknowledged".to_owned(),
    };
    let loss = incident.loss.map_or(String::new(), |loss| format!(", lost {}", human(loss)));
    let line = format!(
        "{} {} {at}: {}, {word} after {}{loss}; {seen}",
        palette.symbol(symbol),
        incident.incident,
        way(incident, palette),
        human(incident.elapsed),
    );
    let mut text = paragraph(palette, 2, ink, &line);
    text.push_str(&paragraph(palette, 4, Ink::Faint, &times(incident, palette)));
    text
}

fn way(incident: &IncidentStatus, palette: Palette) -> String {
    let (source, target) = (&incident.source, &incident.target);
    if source == target { format!("{source}, in place") } else { format!("{source} {} {target}", palette.arrow()) }
}

fn clock(incident: &IncidentStatus, palette: Palette) -> String {
    let total = incident.elapsed + incident.budget_left;
    let share = incident.elapsed.as_secs_f64() / total.as_secs_f64().max(f64::MIN_POSITIVE);
    let (ink, left) = if incident.budget_left.is_zero() {
        (Ink::Bad, "nothing left".to_owned())
    } else {
        let ink = if share < 0.8 { Ink::Good } else { Ink::Warning };
        (ink, format!("{} left of {}", human(incident.budget_left), human(total)))
    };
    let dot = palette.dot();
    let loss = incident.loss.map_or_else(|| "not decided".to_owned(), human);
    let mut text = String::new();
    let _ = writeln!(
        text,
        "  {} {} used, {}",
        palette.ink(ink, &palette.bar(share, 20)),
        human(incident.elapsed),
        palette.ink(ink, &left)
    );
    text.push_str(&paragraph(palette, 2, Ink::Plain, &times(incident, palette)));
    let objectives = format!("RTO {}{dot}RPO {}{dot}expected loss {loss}", human(incident.rto), human(incident.rpo));
    text.push_str(&paragraph(palette, 2, Ink::Faint, &objectives));
    text
}

fn times(incident: &IncidentStatus, palette: Palette) -> String {
    let times = &incident.times;
    [("detect", times.detect), ("decide", times.decide), ("execute", times.execute), ("verify", times.verify)]
        .map(|(name, time)| format!("{name} {}", time.map_or_else(|| "-".to_owned(), human)))
        .join(palette.dot())
}

fn steps(incident: &IncidentStatus, palette: Palette) -> String {
    let done = incident.steps.iter().filter(|step| matches!(step.state, StepState::Done | StepState::Skipped)).count();
    let mut text = String::new();
    let title = format!("Plan {}: {done} of {} steps done", incident.plan, incident.steps.len());
    let legend = format!("{} commit point", palette.symbol(Symbol::Commit));
    let _ = writeln!(text, "  {}   {}", palette.ink(Ink::Heading, &title), palette.ink(Ink::Faint, &legend));
    let mut table = Table::new(2, vec![Column::Fixed, Column::Fixed, Column::Flexible, Column::Fixed]);
    // A lost region owes many steps for one reason: they are told together, below.
    let mut owed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for step in &incident.steps {
        if step.state == StepState::Owed {
            owed.entry(&step.note).or_default().push(step.step.as_str());
            continue;
        }
        let (symbol, ink) = step_mark(step.state);
        let commit = if step.commit_point { palette.symbol(Symbol::Commit) } else { "" };
        let mut what = vec![(if ink == Ink::Good { Ink::Plain } else { ink }, step.what.clone())];
        if let Some(note) = note(step) {
            what.push((if ink == Ink::Bad { ink } else { Ink::Faint }, note));
        }
        table.tall_row(vec![
            vec![(ink, palette.symbol(symbol).to_owned())],
            vec![(Ink::Warning, commit.to_owned())],
            what,
            vec![(Ink::Faint, duration(step))],
        ]);
    }
    text.push_str(&table.render(palette));
    for (why, steps) in owed {
        let line = format!("{} owed, and nothing waits for it: {why}", palette.symbol(Symbol::Held));
        text.push_str(&paragraph(palette, 2, Ink::Warning, &line));
        text.push_str(&paragraph(palette, 4, Ink::Faint, &steps.join(", ")));
    }
    for step in incident.steps.iter().filter(|step| !step.guards.is_empty()) {
        text.push_str(&paragraph(palette, 2, Ink::Heading, &format!("Why not {}?", step.what)));
        text.push_str(&guards(&step.guards, palette, 4));
    }
    text
}

fn duration(step: &StepStatus) -> String {
    match (step.took, step.state) {
        (Some(took), StepState::Running | StepState::Undoing) => format!("{} of {}", human(took), human(step.deadline)),
        (Some(took), _) => human(took),
        (None, _) => format!("max {}", human(step.deadline)),
    }
}

/// What there is to say about a step whose symbol does not say it all.
fn note(step: &StepStatus) -> Option<String> {
    match step.state {
        StepState::Done | StepState::Waiting | StepState::Undone | StepState::Cancelled => None,
        StepState::Held
        | StepState::Running
        | StepState::Failed
        | StepState::Owed
        | StepState::Skipped
        | StepState::Undoing => {
            let attempt = if step.attempts > 1 { format!(", attempt {}", step.attempts) } else { String::new() };
            let colon = if step.note.is_empty() { "" } else { ": " };
            Some(format!("{}{attempt}{colon}{}", step_word(step.state), step.note))
        }
    }
}
