//! One row per component, one column per region, and below it what is wrong with whom.

use std::collections::BTreeMap;

use super::palette::verdict_mark;
use super::table::paragraph;
use super::{Column, Ink, Palette, Symbol, Table};
use crate::decide::{InstanceStatus, Status, VerdictKind};
use crate::domain::time::human;
use crate::domain::{ComponentId, RegionId};

/// Sentences below the table; the rest is in `status --json`.
const REMARKS_MAX: usize = 12;

pub(super) fn instances(status: &Status, palette: Palette) -> String {
    let mut count: BTreeMap<&RegionId, usize> = BTreeMap::new();
    for instance in &status.instances {
        *count.entry(&instance.instance.region).or_default() += 1;
    }
    // The regions that matter most have the most instances, and a column stays where it is when things move.
    let mut regions: Vec<&RegionId> = count.keys().copied().collect();
    regions.sort_by_key(|region| std::cmp::Reverse(count[region]));
    let mut rows: BTreeMap<&ComponentId, BTreeMap<&RegionId, &InstanceStatus>> = BTreeMap::new();
    for instance in &status.instances {
        rows.entry(&instance.instance.component).or_default().insert(&instance.instance.region, instance);
    }
    let mut columns = vec![Column::Fixed];
    columns.extend(regions.iter().map(|_| Column::Flexible));
    let mut table = Table::new(2, columns);
    let mut header = vec![vec![(Ink::Faint, String::new())]];
    header.extend(regions.iter().map(|region| vec![(Ink::Faint, region.to_string())]));
    table.tall_row(header);
    for (component, by_region) in &rows {
        let mut cells = vec![vec![(Ink::Plain, component.to_string())]];
        for region in &regions {
            cells.push(match by_region.get(region) {
                Some(instance) => cell(instance, palette),
                None => vec![(Ink::Faint, palette.symbol(Symbol::Left).to_owned())],
            });
        }
        table.tall_row(cells);
    }
    let mut text = table.render(palette);
    let remarks: Vec<(Ink, String)> = status.instances.iter().flat_map(remarks).collect();
    for (ink, line) in remarks.iter().take(REMARKS_MAX) {
        text.push_str(&paragraph(palette, 2, *ink, line));
    }
    if remarks.len() > REMARKS_MAX {
        let more = format!("and {} more: failoverd status --json", remarks.len() - REMARKS_MAX);
        text.push_str(&paragraph(palette, 2, Ink::Faint, &more));
    }
    text
}

/// What stands in the table: the verdict, what it serves, and the countdown.
fn cell(instance: &InstanceStatus, palette: Palette) -> Vec<(Ink, String)> {
    let (symbol, ink) = verdict_mark(instance.verdict);
    let mark = palette.symbol(symbol);
    let serving = if instance.active { ", serves" } else { "" };
    match instance.verdict {
        VerdictKind::Alive | VerdictKind::Degraded | VerdictKind::Recovering => {
            let word = word(instance.verdict);
            if instance.active || instance.verdict == VerdictKind::Recovering {
                return vec![(ink, format!("{mark} {word}{serving}{}", latency(instance)))];
            }
            if instance.ready {
                return vec![(ink, format!("{mark} {word}, ready{}", loss(instance)))];
            }
            vec![(Ink::Warning, format!("{} {word}, NOT READY", palette.symbol(Symbol::Warning)))]
        }
        VerdictKind::Unknown => vec![(ink, format!("{mark} unknown{serving}"))],
        VerdictKind::Suspect | VerdictKind::Failing => {
            let lasting = instance.failing_for.map_or(String::new(), |lasting| format!(" for {}", human(lasting)));
            let mut lines = vec![(ink, format!("{mark} {}{lasting}{serving}", word(instance.verdict)))];
            if let (Some(lasting), Some(after)) = (instance.failing_for, instance.trigger_after) {
                lines.push(match after.checked_sub(lasting) {
                    Some(left) if !left.is_zero() => (Ink::Warning, format!("  triggers in {}", human(left))),
                    Some(_) | None => (Ink::Bad, format!("  triggered at {}", human(after))),
                });
            }
            lines
        }
    }
}

pub(super) fn word(verdict: VerdictKind) -> &'static str {
    match verdict {
        VerdictKind::Unknown => "unknown",
        VerdictKind::Alive => "alive",
        VerdictKind::Degraded => "degraded",
        VerdictKind::Suspect => "suspect",
        VerdictKind::Failing => "FAILING",
        VerdictKind::Recovering => "recovering",
    }
}

fn latency(instance: &InstanceStatus) -> String {
    instance.latency.map_or(String::new(), |latency| {
        if latency.as_millis() < 1000 {
            format!(", {} ms", latency.as_millis().max(1))
        } else {
            format!(", {}", human(latency))
        }
    })
}

fn loss(instance: &InstanceStatus) -> String {
    instance.expected_loss.map_or(String::new(), |loss| format!(", would lose {}", human(loss)))
}

/// What does not fit into a cell: why it fails, why it is not ready, what to look at tomorrow.
fn remarks(instance: &InstanceStatus) -> Vec<(Ink, String)> {
    let mut remarks = vec![];
    let name = &instance.instance;
    // A standby that is down cannot take over because it is down: said once.
    let is_said_below = !instance.active && instance.not_ready.contains(&instance.why);
    match instance.verdict {
        VerdictKind::Failing if !is_said_below => remarks.push((Ink::Bad, format!("{name}: {}", instance.why))),
        VerdictKind::Unknown | VerdictKind::Degraded | VerdictKind::Suspect if !is_said_below => {
            remarks.push((Ink::Warning, format!("{name}: {}", instance.why)));
        }
        VerdictKind::Failing
        | VerdictKind::Unknown
        | VerdictKind::Degraded
        | VerdictKind::Suspect
        | VerdictKind::Alive
        | VerdictKind::Recovering => {}
    }
    if !instance.active {
        remarks
            .extend(instance.not_ready.iter().map(|why| (Ink::Warning, format!("{name} could not take over: {why}"))));
    }
    remarks.extend(instance.warnings.iter().map(|warning| (Ink::Warning, format!("{name}: {warning}"))));
    remarks
}
