//! Who watches, and who sees what: the matrix of observers and instances.

use super::table::paragraph;
use super::{Column, Ink, Palette, Symbol, Table};
use crate::decide::{Sighting, Status, VerdictKind, disagreements};
use crate::domain::time::human;

/// Rows of the matrix; the rest is in `status --json`.
const ROWS_MAX: usize = 20;

/// Nothing, where one observer is alone.
pub(super) fn observers(status: &Status, palette: Palette) -> String {
    let mut table = Table::new(2, vec![Column::Fixed, Column::Fixed, Column::Flexible]);
    for observer in &status.observers {
        let (symbol, ink, state) = match (&observer.without_voice, observer.leads, observer.doubts.is_empty()) {
            (Some(why), _, _) => (Symbol::Warning, Ink::Warning, why.clone()),
            (None, _, false) => {
                let regions: Vec<&str> = observer.doubts.keys().map(|region| region.as_str()).collect();
                (Symbol::Warning, Ink::Warning, format!("says nothing about {}: in doubt itself", regions.join(", ")))
            }
            (None, true, true) => (Symbol::Good, Ink::Good, "leads".to_owned()),
            (None, false, true) => (Symbol::Good, Ink::Plain, "follows".to_owned()),
        };
        table.row([
            (Ink::Plain, format!("{} {}", palette.symbol(symbol), observer.observer)),
            (Ink::Faint, observer.region.to_string()),
            (ink, state),
        ]);
    }
    let mut text = table.render(palette);
    for line in disagreements(status) {
        text.push_str(&paragraph(palette, 2, Ink::Warning, &line));
    }
    text.push_str(&matrix(status, palette));
    text
}

/// Only what somebody sees otherwise than well.
fn matrix(status: &Status, palette: Palette) -> String {
    let is_well = |sighting: &Sighting| sighting.verdict == VerdictKind::Alive;
    let odd: Vec<_> = status.instances.iter().filter(|instance| !instance.seen_by.values().all(is_well)).collect();
    if odd.is_empty() {
        return String::new();
    }
    let mut columns = vec![Column::Fixed];
    columns.extend(status.observers.iter().map(|_| Column::Flexible));
    let mut table = Table::new(2, columns);
    let mut header = vec![vec![(Ink::Faint, "seen from".to_owned())]];
    header.extend(status.observers.iter().map(|observer| vec![(Ink::Faint, observer.region.to_string())]));
    table.tall_row(header);
    for instance in odd.iter().take(ROWS_MAX) {
        let mut cells = vec![vec![(Ink::Plain, instance.instance.to_string())]];
        for observer in &status.observers {
            let cell = match instance.seen_by.get(&observer.observer) {
                Some(sighting) => cell(sighting, palette),
                None => (Ink::Faint, palette.symbol(Symbol::Left).to_owned()),
            };
            cells.push(vec![cell]);
        }
        table.tall_row(cells);
    }
    let mut text = table.render(palette);
    if odd.len() > ROWS_MAX {
        let more = format!("and {} more: failoverd status --json", odd.len() - ROWS_MAX);
        text.push_str(&paragraph(palette, 2, Ink::Faint, &more));
    }
    text
}

fn cell(sighting: &Sighting, palette: Palette) -> (Ink, String) {
    let (symbol, ink) = super::palette::verdict_mark(sighting.verdict);
    let word = super::instances::word(sighting.verdict);
    let lasting = sighting.failing_for.map_or(String::new(), |lasting| format!(" {}", human(lasting)));
    (ink, format!("{} {word}{lasting}", palette.symbol(symbol)))
}
