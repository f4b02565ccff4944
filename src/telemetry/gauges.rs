//! Gauges that are made from the status when somebody asks for them: nothing is computed between two scrapes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use metrics::{counter, gauge};

use super::metrics as names;
use crate::daemon::prober::ProberCounters;
use crate::decide::{GuardKind, IncidentStatus, InstanceStatus, Severity, Status, StepState, VerdictKind};
use crate::domain::{InstanceId, Level, Mode, RegionId};

/// Alarms that say that nobody could act: no ledger, too few voices, another one in charge, halted, our own network.
const UNABLE: [&str; 8] =
    ["daemon/ledger", "daemon/leader", "daemon/voices", "voices", "drift", "halted", "daemon/halted", "unvouched"];

/// What the status does not know.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// Since the event loop's last turn.
    pub silent: Duration,
    /// Frames in the ledger.
    pub frames: u64,
    /// The ledger takes frames.
    pub ledger_healthy: bool,
    /// The stop file is there.
    pub stopped: bool,
}

/// Remembers which series it has shown, so that a value that ended is taken back.
#[derive(Debug, Default)]
pub struct Gauges {
    verdicts: BTreeMap<InstanceId, VerdictKind>,
    sources: BTreeMap<RegionId, bool>,
    checks: BTreeSet<(String, RegionId)>,
}

impl Gauges {
    /// Shows what is known without asking anybody.
    pub fn machine(&self, machine: Machine, prober: &ProberCounters) {
        gauge!(names::STOP_FILE).set(flag(machine.stopped));
        gauge!(names::LEDGER_FRAMES).set(float(machine.frames));
        gauge!(names::LEDGER_HEALTHY).set(flag(machine.ledger_healthy));
        gauge!(names::LOOP_IDLE).set(machine.silent.as_secs_f64());
        counter!(names::LOG_DROPPED).absolute(names::log_dropped_so_far());
        counter!(names::PROBE_STARTS_SKIPPED).absolute(prober.starts_skipped.load(Ordering::Relaxed));
        counter!(names::PROBE_STALLS).absolute(prober.stalls.load(Ordering::Relaxed));
        counter!(names::PROBE_PANICS).absolute(prober.panics.load(Ordering::Relaxed));
    }

    /// Shows `status`.
    pub fn show(&mut self, status: &Status) {
        for instance in &status.instances {
            self.instance(instance);
        }
        for reference in &status.references {
            gauge!(names::REFERENCE, "reference" => reference.reference.clone()).set(flag(reference.answers));
        }
        self.incidents(status);
        self.checks(status);
        losses(status);
        guards(status);
        for severity in [Severity::Warning, Severity::Page] {
            let on = status.alarms.iter().filter(|alarm| alarm.severity == severity).count();
            let label = match severity {
                Severity::Warning => "warning",
                Severity::Page => "page",
            };
            gauge!(names::ALARMS, "severity" => label).set(count(on));
        }
        for mode in [Mode::Observe, Mode::Approve, Mode::Automatic] {
            gauge!(names::MODE, "mode" => mode.to_string()).set(flag(mode == status.mode));
        }
        let is_unable = status.alarms.iter().any(|alarm| UNABLE.contains(&alarm.key.as_str()));
        gauge!(names::ABLE).set(flag(!is_unable));
        gauge!(names::HALTED).set(flag(status.halted.is_some()));
        gauge!(names::PAUSED).set(flag(status.paused_until.is_some()));
        gauge!(names::OWED_FENCES).set(count(status.owed_fences.len()));
        gauge!(names::EPOCH).set(float(status.epoch));
        counter!(names::FALSE_POSITIVES).absolute(status.false_positives);
    }

    fn instance(&mut self, status: &InstanceStatus) {
        let component = status.instance.component.to_string();
        let region = status.instance.region.to_string();
        let labels = [("component", component.clone()), ("region", region.clone())];
        let verdict = |kind: VerdictKind, value: f64| {
            gauge!(
                names::VERDICT,
                "component" => component.clone(), "region" => region.clone(), "verdict" => verdict_label(kind)
            )
            .set(value);
        };
        if let Some(former) = self.verdicts.insert(status.instance.clone(), status.verdict)
            && former != status.verdict
        {
            verdict(former, 0.0);
        }
        verdict(status.verdict, 1.0);
        gauge!(names::ACTIVE, &labels).set(flag(status.active));
        gauge!(names::FAILING, &labels).set(status.failing_for.unwrap_or_default().as_secs_f64());
        if let Some(after) = status.trigger_after {
            gauge!(names::TRIGGER, &labels).set(after.as_secs_f64());
        }
        if let Some(latency) = status.latency {
            gauge!(names::LATENCY, &labels).set(latency.as_secs_f64());
        }
        if !status.active {
            gauge!(names::STANDBY_READY, &labels).set(flag(status.ready));
            if let Some(loss) = status.expected_loss {
                gauge!(names::STANDBY_LOSS, &labels).set(loss.as_secs_f64());
            }
        }
    }

    fn checks(&mut self, status: &Status) {
        let show = |(check, region): &(String, RegionId), value: f64| {
            gauge!(names::CHECK, "check" => check.clone(), "region" => region.to_string()).set(value);
        };
        let run = status.checks.iter().filter_map(|check| {
            let key = (check.check.clone(), check.region.clone());
            Some((key, flag(check.holds?)))
        });
        let run: BTreeMap<(String, RegionId), f64> = run.collect();
        self.checks.iter().filter(|key| !run.contains_key(*key)).for_each(|key| show(key, f64::NAN));
        run.iter().for_each(|(key, value)| show(key, *value));
        self.checks = run.into_keys().collect();
    }

    fn incidents(&mut self, status: &Status) {
        let open: Vec<&IncidentStatus> = status.incidents.iter().filter(|incident| incident.closed.is_none()).collect();
        let (planned, open): (Vec<_>, Vec<_>) = open.into_iter().partition(|incident| incident.purpose.is_planned());
        gauge!(names::PLANNED).set(count(planned.len()));
        for level in Level::ALL {
            let of_level = open.iter().filter(|incident| incident.level == level).count();
            gauge!(names::INCIDENTS_OPEN, "level" => level.number().to_string()).set(count(of_level));
        }
        for state in STATES {
            let steps = open.iter().flat_map(|incident| &incident.steps).filter(|step| step.state == state).count();
            gauge!(names::INCIDENT_STEPS, "state" => state_label(state)).set(count(steps));
        }
        for shown in self.sources.values_mut() {
            *shown = false;
        }
        for incident in &open {
            self.sources.insert(incident.source.clone(), true);
            progress(incident);
        }
        for (source, shown) in &self.sources {
            if !shown {
                let source = source.to_string();
                gauge!(names::INCIDENT_ELAPSED, "source" => source.clone()).set(0.0);
                gauge!(names::INCIDENT_RTO, "source" => source.clone()).set(0.0);
                gauge!(names::INCIDENT_RPO, "source" => source.clone()).set(0.0);
                gauge!(names::INCIDENT_BUDGET, "source" => source).set(f64::NAN);
            }
        }
        self.sources.retain(|_, shown| *shown);
        if let Some(last) =
            status.incidents.iter().filter(|incident| incident.closed.is_some()).max_by_key(|i| i.closed)
        {
            let times = last.times;
            let phases = [
                ("detect", times.detect),
                ("decide", times.decide),
                ("execute", times.execute),
                ("verify", times.verify),
            ];
            for (phase, took) in phases {
                gauge!(names::RECOVERY_PHASE, "phase" => phase).set(took.map_or(f64::NAN, |took| took.as_secs_f64()));
            }
        }
    }
}

fn progress(incident: &IncidentStatus) {
    let source = incident.source.to_string();
    let share = |part: Duration, whole: Duration| {
        if whole.is_zero() { f64::NAN } else { part.as_secs_f64() / whole.as_secs_f64() }
    };
    gauge!(names::INCIDENT_ELAPSED, "source" => source.clone()).set(incident.elapsed.as_secs_f64());
    gauge!(names::INCIDENT_RTO, "source" => source.clone()).set(share(incident.elapsed, incident.rto));
    let rpo = incident.loss.map_or(f64::NAN, |loss| share(loss, incident.rpo));
    gauge!(names::INCIDENT_RPO, "source" => source.clone()).set(rpo);
    gauge!(names::INCIDENT_BUDGET, "source" => source).set(incident.budget_left.as_secs_f64());
}

/// What failovers lost, as far as it is known.
fn losses(status: &Status) {
    for loss in &status.losses {
        let database = loss.database.to_string();
        if let Some(bytes) = loss.bytes {
            gauge!(names::LOST_BYTES, "database" => database.clone()).set(float(bytes));
        }
        for (table, rows) in loss.rows.iter().flatten() {
            gauge!(names::LOST_ROWS, "database" => database.clone(), "table" => table.clone()).set(float(*rows));
        }
    }
}

fn guards(status: &Status) {
    gauge!(names::PENDING).set(count(status.pending.len()));
    let steps = status.incidents.iter().filter(|incident| incident.closed.is_none()).flat_map(|i| &i.steps);
    let holding: Vec<GuardKind> = status
        .pending
        .iter()
        .flat_map(|pending| &pending.guards)
        .chain(steps.flat_map(|step| &step.guards))
        .map(|guard| guard.kind)
        .collect();
    for kind in GuardKind::ALL {
        let held = holding.iter().filter(|guard| **guard == kind).count();
        gauge!(names::GUARDS, "guard" => kind.label()).set(count(held));
    }
}

const STATES: [StepState; 10] = [
    StepState::Waiting,
    StepState::Held,
    StepState::Running,
    StepState::Done,
    StepState::Failed,
    StepState::Owed,
    StepState::Skipped,
    StepState::Undoing,
    StepState::Undone,
    StepState::Cancelled,
];

fn state_label(state: StepState) -> &'static str {
    match state {
        StepState::Waiting => "waiting",
        StepState::Held => "held",
        StepState::Running => "running",
        StepState::Done => "done",
        StepState::Failed => "failed",
        StepState::Owed => "owed",
        StepState::Skipped => "skipped",
        StepState::Undoing => "undoing",
        StepState::Undone => "undone",
        StepState::Cancelled => "cancelled",
    }
}

fn verdict_label(verdict: VerdictKind) -> &'static str {
    match verdict {
        VerdictKind::Unknown => "unknown",
        VerdictKind::Alive => "alive",
        VerdictKind::Degraded => "degraded",
        VerdictKind::Suspect => "suspect",
        VerdictKind::Failing => "failing",
        VerdictKind::Recovering => "recovering",
    }
}

fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

#[allow(clippy::cast_precision_loss)] // counts of things stay far below 2^53
fn count(n: usize) -> f64 {
    n as f64
}

#[allow(clippy::cast_precision_loss)] // as above
fn float(n: u64) -> f64 {
    n as f64
}
