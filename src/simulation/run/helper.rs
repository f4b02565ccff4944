//! A person who does what failoverd asks for: once a minute, one thing at a time, as the page says it.

use super::*;
use crate::decide::{IncidentStatus, Status, StepState, StepStatus};

/// From one look to the next.
const HELP_EVERY: Duration = Duration::from_secs(60);
/// What a person accepts who wants it to go on.
const ACCEPTED: Duration = Duration::from_secs(24 * 3600);

/// What failed so often is not tried again where a person can make sure of it.
const ENOUGH_ATTEMPTS: u32 = 3;

impl Simulation<'_> {
    pub(super) fn help(&mut self) {
        self.checks.expect_an_end();
        self.schedule(self.now + HELP_EVERY, Event::Help);
        // Whoever is halted is started anew.
        for n in 0..self.nodes.len() {
            if self.daemon(n).is_some_and(|daemon| daemon.controller.has_broken()) {
                self.die(n, Duration::from_secs(1));
            }
        }
        let Some(n) = self.leader() else { return };
        let now = self.clock(n);
        let Some(status) = self.daemon(n).map(|daemon| daemon.controller.status(now)) else { return };
        for command in asked_for(&status) {
            self.note(What::Happens { text: format!("operator: {}", words(&command)) });
            self.command(n, command);
        }
    }
}

/// The orders that the status asks for.
fn asked_for(status: &Status) -> Vec<Command> {
    let by = || "helper".to_owned();
    let is_to_adopt = status.halted.is_some()
        || status.alarms.iter().any(|alarm| alarm.text.contains("failoverd adopt"))
        || status.pending.iter().flat_map(|pending| &pending.guards).any(|guard| guard.lifted_by.contains("adopt"));
    if is_to_adopt {
        // Who is in charge is the question, and not where anything is served.
        let is_moving = status.incidents.iter().any(|incident| incident.closed.is_none());
        let placement = if is_moving { Default::default() } else { status.placement.clone() };
        return vec![Command::Adopt { by: by(), placement }];
    }
    if status.paused_until.is_some()
        || status.incidents.iter().any(|incident| incident.closed.is_none() && incident.held)
    {
        return vec![Command::Resume { by: by() }];
    }
    let open = status.incidents.iter().filter(|incident| incident.closed.is_none());
    open.flat_map(|incident| of_incident(incident, by())).collect()
}

fn of_incident(incident: &IncidentStatus, by: String) -> Vec<Command> {
    let id = || incident.incident.clone();
    let asks = |words: &str| {
        let guards = incident.steps.iter().flat_map(|step| &step.guards);
        guards.into_iter().any(|guard| guard.lifted_by.contains(words))
    };
    if asks("failoverd adopt") {
        return vec![Command::Adopt { by, placement: Default::default() }];
    }
    if asks("failoverd approve") {
        return vec![Command::Approve {
            by,
            incident: id(),
            hash: None,
            accept_unfenced: true,
            accept_loss: Some(ACCEPTED),
        }];
    }
    if asks("which sends them again") {
        return vec![Command::Continue { by, incident: id() }];
    }
    if asks("a recovery unwinds the plan") {
        return vec![Command::Abort { by, incident: id(), standby_lost: false }];
    }
    let is_stuck = incident.summary.contains("STUCK");
    let failed = incident
        .steps
        .iter()
        .filter(|step| step.state == StepState::Failed || (is_stuck && step.state == StepState::Undoing));
    failed
        .map(|step| match step.attempts >= ENOUGH_ATTEMPTS && step.state == StepState::Failed && is_a_check(step) {
            // It was made by hand meanwhile.
            true => Command::Skip { by: by.clone(), incident: id(), step: step.step.clone() },
            false => Command::Retry { by: by.clone(), incident: id(), step: step.step.clone() },
        })
        .collect()
}

/// It changes nothing: whether it is so can be seen by hand.
fn is_a_check(step: &StepStatus) -> bool {
    step.step.as_str().starts_with("verify-")
}

fn words(command: &Command) -> String {
    match command {
        Command::Adopt { .. } => "adopt".to_owned(),
        Command::Abort { .. } => "abort".to_owned(),
        Command::Continue { .. } => "continue".to_owned(),
        Command::Resume { .. } => "resume".to_owned(),
        Command::Approve { .. } => "approve accept-unfenced accept-loss 24h".to_owned(),
        Command::Retry { step, .. } => format!("retry {step}"),
        Command::Skip { step, .. } => format!("skip {step}"),
        Command::Failover { .. }
        | Command::Switchover { .. }
        | Command::Rejoin { .. }
        | Command::Failback { .. }
        | Command::Hold { .. }
        | Command::Pause { .. }
        | Command::Ack { .. }
        | Command::Merge { .. }
        | Command::BreakGlass(_) => format!("{command:?}"),
    }
}
