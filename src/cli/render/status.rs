//! The status on one screen: what is going on, why, and what to type next.

use std::fmt::Write as _;

use super::incident::{closed, open};
use super::instances::instances;
use super::next::next;
use super::observers::observers;
use super::table::{columns_of, paragraph};
use super::{Column, Ink, Palette, Symbol, Table};
use crate::decide::{Guard, LossStatus, PendingStatus, Severity, Status, lsn};
use crate::domain::Mode;
use crate::domain::time::human;
use crate::plan::Part;

/// Closed incidents that are shown; the ledger has them all.
const CLOSED_MAX: usize = 3;

/// Everything at a glance.
pub fn status(status: &Status, palette: Palette) -> String {
    let mut text = heading(status, palette);
    if let Some(why) = &status.halted {
        text.push_str(&paragraph(palette, 0, Ink::Bad, &format!("HALTED: {why}")));
    }
    // Above everything that may not fit on the screen.
    let commands = next(status);
    if !commands.is_empty() {
        section(&mut text, palette, "What to type next");
        text.push_str(&commands.render(palette));
    }
    for incident in status.incidents.iter().filter(|incident| incident.closed.is_none()) {
        text.push('\n');
        text.push_str(&open(incident, &status.headline, palette));
    }
    if !status.pending.is_empty() {
        section(&mut text, palette, "Running or held back");
        for pending in &status.pending {
            text.push_str(&pending_lines(pending, palette));
        }
    }
    section(&mut text, palette, "Instances");
    text.push_str(&instances(status, palette));
    text.push_str(&references(status, palette));
    if !status.observers.is_empty() {
        section(&mut text, palette, "Observers");
        text.push_str(&observers(status, palette));
    }
    if !status.checks.is_empty() {
        section(&mut text, palette, "Checks of what took over");
        text.push_str(&checks(status, palette));
    }
    if !status.losses.is_empty() {
        section(&mut text, palette, "What was lost");
        for loss in &status.losses {
            text.push_str(&hanging(palette, Ink::Plain, &format!("{}  ", loss.promoted), &lost(loss)));
        }
    }
    if !status.owed_fences.is_empty() {
        let (failed, quiet): (Vec<_>, Vec<_>) =
            status.owed_fences.iter().partition(|database| status.owed_fence_failures.contains_key(database));
        for (databases, what, ink) in [
            (quiet, "fence owed as soon as it can be reached", Ink::Warning),
            (failed, "NOT FENCED, although it can be reached", Ink::Bad),
        ] {
            if !databases.is_empty() {
                let names: Vec<String> = databases.into_iter().map(ToString::to_string).collect();
                let line = format!("{} {what}: {}", palette.symbol(Symbol::Held), names.join(", "));
                text.push_str(&paragraph(palette, 2, ink, &line));
            }
        }
    }
    if !status.alarms.is_empty() {
        section(&mut text, palette, "Alarms");
        for alarm in &status.alarms {
            let (word, ink) = match alarm.severity {
                Severity::Page => ("PAGE     ", Ink::Bad),
                Severity::Warning => ("warning  ", Ink::Warning),
            };
            text.push_str(&hanging(palette, ink, word, &format!("{} ({})", alarm.text, alarm.key)));
        }
    }
    let closed_incidents: Vec<_> = status.incidents.iter().filter(|incident| incident.closed.is_some()).collect();
    if !closed_incidents.is_empty() {
        section(&mut text, palette, "Closed");
        for incident in closed_incidents.iter().take(CLOSED_MAX) {
            text.push_str(&closed(incident, palette));
        }
    }
    text
}

/// What a promotion lost, as far as it is known.
fn lost(loss: &LossStatus) -> String {
    if loss.lossless {
        return format!("nothing: it had everything that {} wrote", loss.database);
    }
    let position = |position: Option<u64>| position.map_or_else(|| "an unknown position".to_owned(), lsn);
    let up_to = format!("has what {} wrote up to {}", loss.database, position(loss.from_position));
    let last = loss.last_transaction.map(|at| format!(" (last commit {})", at.strftime("%Y-%m-%d %H:%M:%S.%3f UTC")));
    let up_to = format!("{up_to}{}", last.unwrap_or_default());
    let bytes = loss.bytes.map_or_else(
        || "how much was written after that is not known".to_owned(),
        |bytes| format!("{bytes} bytes of its log are not here"),
    );
    match &loss.rows {
        None => format!("{up_to}; {bytes}, as far as it was seen; which rows is known when it is back"),
        Some(rows) if rows.is_empty() => format!("{up_to}; {bytes} (to {})", position(loss.to_position)),
        Some(rows) => {
            let rows: Vec<String> = rows.iter().map(|(table, rows)| format!("{rows} rows of {table}")).collect();
            format!("{up_to}; lost: {}; {bytes} (to {})", rows.join(", "), position(loss.to_position))
        }
    }
}

/// The checks of the end state, as they were when they were run last.
fn checks(status: &Status, palette: Palette) -> String {
    let mut table = Table::new(2, vec![Column::Fixed, Column::Fixed, Column::Fixed, Column::Fixed, Column::Flexible]);
    for check in &status.checks {
        let (symbol, ink, word) = match check.holds {
            Some(true) => (Symbol::Good, Ink::Good, "holds"),
            Some(false) => (Symbol::Bad, Ink::Bad, "FAILS"),
            None => (Symbol::Unknown, Ink::Faint, "not run yet"),
        };
        let ago = check.ago.map(|ago| format!("{} ago", human(ago))).unwrap_or_default();
        table.row([
            (Ink::Plain, check.check.clone()),
            (ink, format!("{} {word}", palette.symbol(symbol))),
            (Ink::Faint, check.region.to_string()),
            (Ink::Faint, ago),
            (Ink::Plain, check.seen.clone().unwrap_or_else(|| check.expects.clone())),
        ]);
    }
    table.render(palette)
}

fn heading(status: &Status, palette: Palette) -> String {
    let dot = palette.dot();
    let at = status.at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    let left = format!("{}{dot}{}{dot}{}{dot}epoch {}", status.deployment, status.mode, status.observer, status.epoch);
    let room = palette.width().saturating_sub(columns_of(&left) + columns_of(&at)).max(1);
    let mut text =
        format!("{}{}{}\n", palette.ink(Ink::Heading, &left), " ".repeat(room), palette.ink(Ink::Faint, &at));
    let trouble = status.halted.is_some() || status.incidents.iter().any(|incident| incident.closed.is_none());
    let held = status.paused_until.is_some()
        || status.placement.is_empty()
        || !status.pending.is_empty()
        || !status.alarms.is_empty();
    let (symbol, ink) = match (trouble, held) {
        (true, _) => (Symbol::Running, Ink::Bad),
        (false, true) => (Symbol::Warning, Ink::Warning),
        (false, false) => (Symbol::Good, Ink::Good),
    };
    text.push_str(&paragraph(palette, 0, ink, &format!("{} {}", palette.symbol(symbol), status.headline)));
    if let Some(until) = status.paused_until {
        let until = until.strftime("%H:%M:%S UTC");
        let line = format!("{} paused until {until}: nothing starts", palette.symbol(Symbol::Held));
        text.push_str(&paragraph(palette, 0, Ink::Warning, &line));
    }
    if status.mode == Mode::Observe {
        text.push_str(&paragraph(
            palette,
            0,
            Ink::Faint,
            "mode observe: what would be done is recorded, nothing is done",
        ));
    }
    text
}

fn pending_lines(pending: &PendingStatus, palette: Palette) -> String {
    let part = match &pending.part {
        Part::Component(component) => format!("{component} in {}", pending.source),
        Part::Region => format!("the whole region {}", pending.source),
        Part::Reroute => format!("a share of the clients of {}", pending.source),
        Part::Healing { .. } | Part::Zone { .. } | Part::Rejoin { .. } => {
            format!("{} in {}", pending.part, pending.source)
        }
    };
    let word = if pending.part.moves() { "failing" } else { "degraded" };
    let clock = match pending.after.checked_sub(pending.failing_for) {
        Some(left) if !left.is_zero() => {
            format!("{word} for {} of {}, {} left", human(pending.failing_for), human(pending.after), human(left))
        }
        Some(_) | None => {
            format!("{word} for {}, over the threshold of {}", human(pending.failing_for), human(pending.after))
        }
    };
    let share = pending.failing_for.as_secs_f64() / pending.after.as_secs_f64().max(f64::MIN_POSITIVE);
    let mut text =
        format!("  {} {}\n", palette.ink(Ink::Warning, &palette.bar(share, 20)), palette.ink(Ink::Heading, &part));
    text.push_str(&paragraph(palette, 4, Ink::Plain, &format!("{clock}: {}", pending.what)));
    text.push_str(&guards(&pending.guards, palette, 4));
    text
}

/// What holds something back, each with what would lift it.
pub(super) fn guards(guards: &[Guard], palette: Palette, indent: usize) -> String {
    let mut text = String::new();
    for guard in guards {
        let line = format!("{} held by {}: {}", palette.symbol(Symbol::Held), guard.kind, guard.evidence);
        text.push_str(&paragraph(palette, indent, Ink::Warning, &line));
        text.push_str(&paragraph(palette, indent + 2, Ink::Plain, &format!("lifted by: {}", guard.lifted_by)));
    }
    text
}

fn references(status: &Status, palette: Palette) -> String {
    if status.references.is_empty() {
        return paragraph(
            palette,
            2,
            Ink::Faint,
            "no reference points: failoverd cannot tell its own network from the region's",
        );
    }
    let answering = status.references.iter().filter(|reference| reference.answers).count();
    let silent: Vec<&str> =
        status.references.iter().filter(|reference| !reference.answers).map(|r| r.reference.as_str()).collect();
    let line = format!("reference points: {answering} of {} answer", status.references.len());
    if silent.is_empty() {
        return paragraph(palette, 2, Ink::Faint, &line);
    }
    paragraph(palette, 2, Ink::Warning, &format!("{line}; silent: {}", silent.join(", ")))
}

fn section(text: &mut String, palette: Palette, title: &str) {
    let _ = writeln!(text, "\n{}", palette.ink(Ink::Heading, title));
}

/// `label` and then `body`, wrapped under itself.
fn hanging(palette: Palette, ink: Ink, label: &str, body: &str) -> String {
    let body = paragraph(palette, 2 + columns_of(label), Ink::Plain, body);
    format!("  {}{}", palette.ink(ink, label), body.trim_start())
}
