//! `failoverd budget`: how long every automatic failover may take, and what that is made of.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::args::{ConfigArgs, load};
use super::render::{Column, Ink, Palette, Table};
use super::{Exit, Outcome, Terminal};
use crate::config::{self, Key, Loaded, Place};
use crate::domain::time::human;
use crate::plan::{self, BudgetRow, Dependency, Leg};

/// Prints the table, or JSON. Whether the rows fit has been judged when the configuration was loaded.
pub(super) fn run(args: &ConfigArgs, terminal: Terminal) -> Outcome {
    let loaded = load(&args.config)?;
    let rows = loaded.budget();
    if args.json {
        terminal.print_json(&as_json(&loaded, &rows))?;
    } else {
        let palette = terminal.palette();
        terminal.print(&format!("{}\n{}", table(&rows, palette), deadlines(&loaded, &rows, palette)))?;
    }
    Ok(Exit::Ok)
}

/// The rows as a table.
pub(super) fn table(rows: &[BudgetRow], palette: Palette) -> String {
    let mut columns = vec![Column::Fixed; 8];
    columns[3] = Column::Flexible;
    let mut table = Table::new(2, columns);
    heading(
        &mut table,
        ["what fails", "detect", "wait", "longest way through the plan", "plan", "DNS", "total", "left"],
    );
    for row in rows {
        let left = match (&row.unanswered, row.left()) {
            (Some(_), _) => (Ink::Bad, "no plan".to_owned()),
            (None, Some(left)) => (Ink::Good, human(left)),
            (None, None) => (Ink::Bad, format!("{} over", human(row.total.saturating_sub(row.limit)))),
        };
        let plain = |text: String| (Ink::Plain, text);
        table.row([
            (Ink::Heading, row.name()),
            plain(human(row.detection)),
            plain(human(row.waits)),
            plain(row.unanswered.clone().unwrap_or_else(|| way(&row.path))),
            plain(human(row.execution)),
            plain(if row.ttl.is_zero() { String::new() } else { human(row.ttl) }),
            plain(human(row.total)),
            left,
        ]);
    }
    let limit = rows.first().map_or_else(|| "nothing is automatic".to_owned(), |row| human(row.limit));
    let title = format!("Budget: from the first failing probe to verified service within {limit}");
    format!("{}\n{}", palette.ink(Ink::Heading, &title), table.render(palette))
}

/// `promote_managed, publish, rollout`: the keys of the deadlines, in their order.
fn way(path: &[Leg]) -> String {
    let mut parts: Vec<&str> = vec![];
    for leg in path {
        if !leg.waiting.is_zero() {
            parts.push("confirm_for");
        }
        parts.push(leg.deadline_key);
    }
    if parts.is_empty() { "nothing to do".to_owned() } else { parts.join(", ") }
}

/// The deadlines that the rows are made of, with their sources.
pub(super) fn deadlines(loaded: &Loaded, rows: &[BudgetRow], palette: Palette) -> String {
    let mut table = Table::new(2, vec![Column::Fixed, Column::Fixed, Column::Flexible]);
    heading(&mut table, ["deadline", "at most", "why"]);
    for (key, (deadline, why)) in sources(loaded, rows) {
        table.row([(Ink::Heading, key.to_owned()), (Ink::Plain, deadline), (Ink::Plain, why)]);
    }
    let title = palette.ink(Ink::Heading, "Where these deadlines come from");
    format!("{title}\n{}", table.render(palette))
}

/// Key -> (deadline, why).
fn sources(loaded: &Loaded, rows: &[BudgetRow]) -> BTreeMap<&'static str, (String, String)> {
    let mut sources = BTreeMap::new();
    for leg in rows.iter().flat_map(|row| &row.path) {
        let why = match loaded.place_of(&Key::of(["deadlines", leg.deadline_key])) {
            Place::BuiltIn => config::reason("deadlines", leg.deadline_key).unwrap_or_default(),
            place @ (Place::Line(..) | Place::File(_) | Place::Variable(_)) => match reason_given(&place) {
                Some(reason) => format!("{reason} (set in {place})"),
                None => format!("set in {place}, without a reason"),
            },
        };
        sources.insert(leg.deadline_key, (human(leg.deadline), why));
    }
    sources
}

/// What the file that sets a deadline says about it.
fn reason_given(place: &Place) -> Option<String> {
    match place {
        Place::Line(file, line) => config::comment_above(&std::fs::read_to_string(file).ok()?, *line),
        Place::File(_) | Place::Variable(_) | Place::BuiltIn => None,
    }
}

/// The control planes that the plans call.
pub(super) fn dependencies(dependencies: &[Dependency], palette: Palette) -> String {
    let mut table = Table::new(2, vec![Column::Fixed, Column::Fixed, Column::Flexible]);
    heading(&mut table, ["service", "region", "for"]);
    for dependency in dependencies {
        let region = match dependency.lost_when_needed {
            true => (Ink::Warning, format!("{} (lost when it is needed)", dependency.region)),
            false => (Ink::Plain, dependency.region.to_string()),
        };
        let purposes = dependency.purposes.iter().copied().collect::<Vec<_>>().join(", ");
        table.row([(Ink::Heading, dependency.service.to_owned()), region, (Ink::Plain, purposes)]);
    }
    let title = palette.ink(Ink::Heading, "Control planes that a failover needs");
    format!("{title}\n{}", table.render(palette))
}

/// The same for programs.
pub(super) fn as_json(loaded: &Loaded, rows: &[BudgetRow]) -> Value {
    let deadlines: BTreeMap<_, _> = sources(loaded, rows)
        .into_iter()
        .map(|(key, (deadline, why))| (key, json!({ "deadline": deadline, "why": why })))
        .collect();
    let dependencies = plan::dependencies(&loaded.policy, &plan::answers(&loaded.policy));
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let mut value = json!(row);
            value["name"] = json!(row.name());
            value["fits"] = json!(row.fits());
            value["seconds"] = json!(row.total.as_secs_f64());
            value
        })
        .collect();
    json!({ "rows": rows, "deadlines": deadlines, "dependencies": dependencies })
}

fn heading<const N: usize>(table: &mut Table, names: [&str; N]) {
    table.row(names.map(|name| (Ink::Faint, name.to_owned())));
}
