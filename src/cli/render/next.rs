//! What a person can type now, most urgent first.

use super::table::wrap;
use super::{Ink, Palette};
use crate::decide::{GuardKind, IncidentStatus, Status, StepState};
use crate::domain::time::human;

/// More than this is not read at four in the morning.
const COMMANDS_MAX: usize = 8;

/// Commands, each with what it does.
#[derive(Debug, Default)]
pub(super) struct Commands(Vec<(String, String)>);

impl Commands {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn render(&self, palette: Palette) -> String {
        let mut text = String::new();
        for (command, why) in self.0.iter().take(COMMANDS_MAX) {
            // Never wrapped: it is there to be copied.
            text.push_str(&format!("  {}\n", palette.ink(Ink::Active, command)));
            for line in wrap(why, palette.width().saturating_sub(6)) {
                text.push_str(&format!("      {}\n", palette.ink(Ink::Faint, &line)));
            }
        }
        text
    }

    fn add(&mut self, command: impl Into<String>, why: impl Into<String>) {
        let command = command.into();
        if !self.0.iter().any(|(known, _)| *known == command) {
            self.0.push((command, why.into()));
        }
    }
}

pub(super) fn next(status: &Status) -> Commands {
    let mut commands = Commands::default();
    if status.halted.is_some() {
        commands.add(
            "failoverd ledger verify --config FILE",
            "find out what broke; nothing is performed until the daemon is restarted",
        );
    }
    if status.placement.is_empty() {
        commands.add("failoverd adopt", "say that what the probes see is right, so that failoverd may act on it");
    }
    for incident in status.incidents.iter().filter(|incident| incident.closed.is_none()) {
        for_open(&mut commands, incident);
    }
    for pending in &status.pending {
        let drift = pending.guards.iter().find(|guard| guard.kind == GuardKind::Drift);
        if drift.is_some_and(|drift| drift.lifted_by.contains("ledger merge")) {
            commands
                .add("failoverd ledger merge FILE", "tell the daemons what break-glass did, and let them act again");
        } else if drift.is_some() && !status.placement.is_empty() {
            commands.add("failoverd adopt", "say that the world as the probes see it is right, and the ledger is not");
        }
    }
    if status.paused_until.is_some() {
        commands.add("failoverd resume", "end the pause");
    }
    if !status.pending.is_empty() {
        commands.add("failoverd explain", "why, why not, and what would change it");
    }
    let unseen = status.incidents.iter().find(|i| i.closed.is_some() && i.acknowledged_by.is_none());
    if let Some(incident) = unseen {
        commands.add(
            format!("failoverd ack {} --note TEXT", incident.incident),
            "say that it was seen, which also ends its cooldown; with --false-positive if it should not have happened",
        );
    }
    commands
}

fn for_open(commands: &mut Commands, incident: &IncidentStatus) {
    let name = &incident.incident;
    for step in incident.steps.iter().filter(|step| step.state == StepState::Failed) {
        commands.add(format!("failoverd retry {name} {}", step.step), format!("try again to {}", step.what));
        commands
            .add(format!("failoverd skip {name} {}", step.step), "go on without it: only after it was done by hand");
    }
    let guards: Vec<_> = incident.steps.iter().flat_map(|step| &step.guards).collect();
    let held_by = |kind: GuardKind| guards.iter().any(|guard| guard.kind == kind);
    if held_by(GuardKind::Mode) || held_by(GuardKind::Unfenced) || held_by(GuardKind::DataLoss) {
        let mut command = format!("failoverd approve {name} --plan-hash {}", incident.plan_hash);
        let mut why = "approve the plan as it is shown".to_owned();
        if held_by(GuardKind::Unfenced) {
            command.push_str(" --accept-unfenced");
            why.push_str(", although the old primary may still take writes");
        }
        if held_by(GuardKind::DataLoss) {
            let loss = incident.loss.unwrap_or(incident.rpo);
            command.push_str(&format!(" --accept-loss {}s", loss.as_secs() + 1));
            why.push_str(&format!(", accepting a loss of up to {}", human(loss)));
        }
        commands.add(command, why);
    }
    if incident.held {
        commands.add("failoverd resume", "let the plan go on");
    } else {
        commands.add(format!("failoverd hold {name}"), "nothing more of it is sent, until `failoverd resume`");
    }
    let committed = incident.times.decide.is_some();
    if !committed {
        commands.add(
            format!("failoverd abort {name}"),
            "undo what was done and end the incident: possible until the first commit point",
        );
    }
}
