//! Every metric: its name, its unit, its meaning, and the calls that move it.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::domain::{ComponentId, Finding, Kind, Observation, Policy};
use crate::plan::Action;

pub(super) const BUILD_INFO: &str = "failoverd_build_info";
const PROBES: &str = "failoverd_probes_total";
const PROBE_DURATION: &str = "failoverd_probe_duration_seconds";
pub(super) const PROBE_STARTS_SKIPPED: &str = "failoverd_probe_starts_skipped_total";
pub(super) const PROBE_STALLS: &str = "failoverd_probe_stalls_total";
pub(super) const PROBE_PANICS: &str = "failoverd_probe_panics_total";
pub(super) const VERDICT: &str = "failoverd_instance_verdict";
pub(super) const ACTIVE: &str = "failoverd_instance_active";
pub(super) const FAILING: &str = "failoverd_instance_failing_seconds";
pub(super) const TRIGGER: &str = "failoverd_instance_trigger_seconds";
pub(super) const LATENCY: &str = "failoverd_instance_latency_seconds";
pub(super) const STANDBY_READY: &str = "failoverd_standby_ready";
pub(super) const STANDBY_LOSS: &str = "failoverd_standby_expected_loss_seconds";
pub(super) const REFERENCE: &str = "failoverd_reference_answers";
pub(super) const PENDING: &str = "failoverd_pending_failovers";
pub(super) const GUARDS: &str = "failoverd_guards_holding";
pub(super) const INCIDENTS_OPEN: &str = "failoverd_incidents_open";
pub(super) const INCIDENTS: &str = "failoverd_incidents_total";
pub(super) const INCIDENTS_CLOSED: &str = "failoverd_incidents_closed_total";
pub(super) const INCIDENT_ELAPSED: &str = "failoverd_incident_elapsed_seconds";
pub(super) const INCIDENT_RTO: &str = "failoverd_incident_rto_used_ratio";
pub(super) const INCIDENT_RPO: &str = "failoverd_incident_rpo_used_ratio";
pub(super) const INCIDENT_BUDGET: &str = "failoverd_incident_budget_left_seconds";
pub(super) const INCIDENT_STEPS: &str = "failoverd_incident_steps";
pub(super) const RECOVERY_PHASE: &str = "failoverd_last_recovery_phase_seconds";
const STEP_DURATION: &str = "failoverd_step_duration_seconds";
const STEPS: &str = "failoverd_steps_total";
pub(super) const FALSE_POSITIVES: &str = "failoverd_false_positives_total";
const COMMANDS: &str = "failoverd_commands_total";
const UNAUTHORIZED: &str = "failoverd_api_unauthorized_total";
const REQUESTS: &str = "failoverd_api_requests_total";
pub(super) const ALARMS: &str = "failoverd_alarms_on";
pub(super) const HALTED: &str = "failoverd_halted";
pub(super) const PAUSED: &str = "failoverd_paused";
pub(super) const STOP_FILE: &str = "failoverd_stop_file_present";
pub(super) const OWED_FENCES: &str = "failoverd_owed_fences";
pub(super) const CHECK: &str = "failoverd_check_holds";
pub(super) const LOST_ROWS: &str = "failoverd_lost_rows";
pub(super) const LOST_BYTES: &str = "failoverd_lost_log_bytes";
pub(super) const PLANNED: &str = "failoverd_planned_moves_open";
pub(super) const MODE: &str = "failoverd_mode";
pub(super) const EPOCH: &str = "failoverd_epoch";
const APPEND_DURATION: &str = "failoverd_ledger_append_duration_seconds";
pub(super) const LEDGER_FRAMES: &str = "failoverd_ledger_frames";
pub(super) const ABLE: &str = "failoverd_able_to_act";
pub(super) const LEDGER_HEALTHY: &str = "failoverd_ledger_healthy";
const LOOP_LAG: &str = "failoverd_event_loop_lag_seconds";
pub(super) const LOOP_IDLE: &str = "failoverd_event_loop_silent_seconds";
const DECISION: &str = "failoverd_decision_to_effect_seconds";
const PANICS: &str = "failoverd_panics_total";
const RESTARTS: &str = "failoverd_task_restarts_total";
const HEARTBEATS: &str = "failoverd_heartbeats_total";
const RELOADS: &str = "failoverd_configuration_reloads_total";
pub(super) const LOG_DROPPED: &str = "failoverd_log_lines_dropped_total";
const NOTICES_DROPPED: &str = "failoverd_notices_dropped_total";

/// Seconds, from a fast probe to the longest step.
const FAST: [f64; 11] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];
const PROBE: [f64; 9] = [0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
const LONG: [f64; 12] = [0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0];

/// Installs the recorder, once for the whole process, and describes every metric. The handle renders them.
pub fn install() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let recorder = buckets(PrometheusBuilder::new()).build_recorder();
            let handle = recorder.handle();
            // Refused only where somebody else's recorder is there already; then ours stays empty.
            let _ = metrics::set_global_recorder(recorder);
            describe();
            gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
            handle
        })
        .clone()
}

fn buckets(builder: PrometheusBuilder) -> PrometheusBuilder {
    let sets: [(&str, &[f64]); 5] = [
        (PROBE_DURATION, &PROBE),
        (STEP_DURATION, &LONG),
        (APPEND_DURATION, &FAST),
        (LOOP_LAG, &FAST),
        (DECISION, &FAST),
    ];
    sets.into_iter().fold(builder, |builder, (name, values)| {
        // Refuses nothing but an empty list.
        builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), values).unwrap_or_default()
    })
}

fn describe() {
    describe_gauge!(BUILD_INFO, Unit::Count, "The running version; always 1.");
    describe_counter!(PROBES, Unit::Count, "Probes that ended, by kind of component and by what they found.");
    describe_histogram!(PROBE_DURATION, Unit::Seconds, "From the beginning of a probe to its end.");
    describe_counter!(
        PROBE_STARTS_SKIPPED,
        Unit::Count,
        "Probes not started because the one before was still running."
    );
    describe_counter!(PROBE_STALLS, Unit::Count, "Probes thrown away because this process was stalled.");
    describe_counter!(PROBE_PANICS, Unit::Count, "Probes that panicked.");
    describe_gauge!(VERDICT, Unit::Count, "1 for the verdict that an instance has.");
    describe_gauge!(ACTIVE, Unit::Count, "1 where the component is served.");
    describe_gauge!(FAILING, Unit::Seconds, "For how long the instance has been failing; 0 where it is not.");
    describe_gauge!(TRIGGER, Unit::Seconds, "Failing for this long starts a failover, where the instance serves.");
    describe_gauge!(LATENCY, Unit::Seconds, "Latency of the last answer.");
    describe_gauge!(STANDBY_READY, Unit::Count, "1 where a standby could take over now.");
    describe_gauge!(STANDBY_LOSS, Unit::Seconds, "Expected loss if this standby were promoted now; NaN where unknown.");
    describe_gauge!(REFERENCE, Unit::Count, "1 where a reference point answered the last time it was asked.");
    describe_gauge!(PENDING, Unit::Count, "Failovers that are counting down or held back.");
    describe_gauge!(GUARDS, Unit::Count, "Pending failovers and steps that a guard holds back, by guard.");
    describe_gauge!(INCIDENTS_OPEN, Unit::Count, "Open incidents by level.");
    describe_counter!(INCIDENTS, Unit::Count, "Incidents declared by this process, by level.");
    describe_counter!(INCIDENTS_CLOSED, Unit::Count, "Incidents closed by this process, by how they ended.");
    describe_gauge!(
        INCIDENT_ELAPSED,
        Unit::Seconds,
        "Since the first failing probe of the open incident, by source region."
    );
    describe_gauge!(
        INCIDENT_RTO,
        Unit::Count,
        "Share of the RTO that the open incident has used; above 1 it is missed."
    );
    describe_gauge!(
        INCIDENT_RPO,
        Unit::Count,
        "Expected loss as a share of the RPO; above 1 it is missed; NaN where unknown."
    );
    describe_gauge!(
        INCIDENT_BUDGET,
        Unit::Seconds,
        "What is left of the time for a failover; NaN without an open incident."
    );
    describe_gauge!(INCIDENT_STEPS, Unit::Count, "Steps of open incidents by state.");
    describe_gauge!(RECOVERY_PHASE, Unit::Seconds, "Where the time of the last recovery went.");
    describe_histogram!(
        STEP_DURATION,
        Unit::Seconds,
        "From the start of an attempt at a step to its end, by action and outcome."
    );
    describe_counter!(STEPS, Unit::Count, "Attempts at steps that ended, by action and outcome.");
    describe_counter!(FALSE_POSITIVES, Unit::Count, "Incidents acknowledged as false positives, ever.");
    describe_counter!(COMMANDS, Unit::Count, "Operators' commands by outcome.");
    describe_counter!(UNAUTHORIZED, Unit::Count, "Requests without a token that is needed, or with a wrong one.");
    describe_counter!(REQUESTS, Unit::Count, "Answered requests by route and status class.");
    describe_gauge!(ALARMS, Unit::Count, "Alarms that are on, by severity.");
    describe_gauge!(HALTED, Unit::Count, "1 while nothing is performed because something broke here.");
    describe_gauge!(PAUSED, Unit::Count, "1 while a person has paused automatic action.");
    describe_gauge!(STOP_FILE, Unit::Count, "1 while the stop file is there.");
    describe_gauge!(
        CHECK,
        Unit::Count,
        "1 where a check of the end state held when it was run last, after a failover; NaN where it is not run."
    );
    describe_gauge!(OWED_FENCES, Unit::Count, "Old primaries that still have to be fenced.");
    describe_gauge!(PLANNED, Unit::Count, "Planned moves that are under way.");
    describe_gauge!(
        LOST_ROWS,
        Unit::Count,
        "Rows that only an old primary holds, by table with a watermark, once it is back."
    );
    describe_gauge!(
        LOST_BYTES,
        Unit::Bytes,
        "Bytes of an old primary's log that did not come over: as far as it was seen, exact once it is back."
    );
    describe_gauge!(MODE, Unit::Count, "1 for the mode that is configured.");
    describe_gauge!(EPOCH, Unit::Count, "The epoch that this daemon acts in.");
    describe_histogram!(APPEND_DURATION, Unit::Seconds, "From handing a frame to the ledger to its being durable.");
    describe_gauge!(LEDGER_FRAMES, Unit::Count, "Frames in the ledger.");
    describe_gauge!(
        ABLE,
        Unit::Count,
        "0 while nobody could act as far as is seen from here; the page says what is missing."
    );
    describe_gauge!(LEDGER_HEALTHY, Unit::Count, "1 while the ledger takes frames.");
    describe_histogram!(LOOP_LAG, Unit::Seconds, "How late the event loop noticed a deadline.");
    describe_gauge!(
        LOOP_IDLE,
        Unit::Seconds,
        "Since the event loop's last turn; a loop that works turns every second."
    );
    describe_histogram!(DECISION, Unit::Seconds, "From an input that led to a decision to the start of its effects.");
    describe_counter!(PANICS, Unit::Count, "Panics by task.");
    describe_counter!(RESTARTS, Unit::Count, "Tasks that were started again after they ended unexpectedly.");
    describe_counter!(HEARTBEATS, Unit::Count, "Pings to the dead-man switch by outcome.");
    describe_counter!(RELOADS, Unit::Count, "Reloads of the configuration by outcome.");
    describe_counter!(LOG_DROPPED, Unit::Count, "Log lines dropped because the reader was too slow.");
    describe_counter!(NOTICES_DROPPED, Unit::Count, "Notices to people that a channel did not take in time.");
}

/// Meters of the probes, one per kind: looked up once, because they move a thousand times a second.
#[derive(Debug)]
pub struct Meters {
    kinds: BTreeMap<ComponentId, Kind>,
    probes: BTreeMap<Kind, ProbeMeters>,
    references: [Counter; 2],
}

#[derive(Debug)]
struct ProbeMeters {
    alive: Counter,
    failing: Counter,
    unknown: Counter,
    duration: Histogram,
}

impl Meters {
    /// Meters for the components of `policy`.
    pub fn new(policy: &Policy) -> Self {
        let kinds: BTreeMap<_, _> =
            policy.components.iter().map(|(id, component)| (id.clone(), component.kind)).collect();
        let probes = kinds.values().map(|kind| (*kind, ProbeMeters::of(&kind.to_string()))).collect();
        let reference = |finding: &'static str| counter!(PROBES, "kind" => "reference", "finding" => finding);
        Self { kinds, probes, references: [reference("failing"), reference("alive")] }
    }

    /// A probe ended.
    pub fn observed(&self, observation: &Observation) {
        let kind = self.kinds.get(&observation.instance.component);
        let Some(meters) = kind.and_then(|kind| self.probes.get(kind)) else { return };
        match observation.finding {
            Finding::Alive => meters.alive.increment(1),
            Finding::Failing { .. } => meters.failing.increment(1),
            Finding::Unknown { .. } => meters.unknown.increment(1),
        }
        meters.duration.record(observation.ended.saturating_sub(observation.began));
    }

    /// A reference point was asked.
    pub fn reference(&self, answered: bool) {
        self.references[usize::from(answered)].increment(1);
    }
}

impl ProbeMeters {
    fn of(kind: &str) -> Self {
        let probes = |finding: &'static str| counter!(PROBES, "kind" => kind.to_owned(), "finding" => finding);
        Self {
            alive: probes("alive"),
            failing: probes("failing"),
            unknown: probes("unknown"),
            duration: histogram!(PROBE_DURATION, "kind" => kind.to_owned()),
        }
    }
}

/// An attempt at a step ended.
pub fn step_ended(action: &Action, outcome: &'static str, took: Duration) {
    let action = action_label(action);
    counter!(STEPS, "action" => action, "outcome" => outcome).increment(1);
    histogram!(STEP_DURATION, "action" => action, "outcome" => outcome).record(took);
}

/// A frame is durable.
pub fn append_took(took: Duration) {
    histogram!(APPEND_DURATION).record(took);
}

/// The event loop came to a deadline this late.
pub fn deadline_late(late: Duration) {
    histogram!(LOOP_LAG).record(late);
}

/// From an input to the start of the effects it led to.
pub fn decision_took(took: Duration) {
    histogram!(DECISION).record(took);
}

/// A command was answered: `in_effect`, `refused`, `unknown`.
pub fn command_ended(command: &'static str, outcome: &'static str) {
    counter!(COMMANDS, "command" => command, "outcome" => outcome).increment(1);
}

/// Somebody asked without the right token.
pub fn unauthorized() {
    counter!(UNAUTHORIZED).increment(1);
}

/// A request was answered. `route` is one of ours, never what the client sent.
pub fn api_request(route: &'static str, status: u16) {
    let class = match status {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    };
    counter!(REQUESTS, "route" => route, "status" => class).increment(1);
}

/// A task panicked.
pub fn panicked(task: &'static str) {
    counter!(PANICS, "task" => task).increment(1);
}

/// A task was started again.
pub fn restarted(task: &'static str) {
    counter!(RESTARTS, "task" => task).increment(1);
}

/// The dead-man switch was pinged, or not.
pub fn heartbeat_sent(sent: bool) {
    counter!(HEARTBEATS, "outcome" => if sent { "sent" } else { "failed" }).increment(1);
}

/// The configuration was read again.
pub fn reloaded(outcome: &'static str) {
    counter!(RELOADS, "outcome" => outcome).increment(1);
}

/// A channel to people did not take a notice.
pub fn notice_dropped(channel: &'static str) {
    counter!(NOTICES_DROPPED, "channel" => channel).increment(1);
}

/// Counted here rather than in the recorder, because the log is there before the recorder is.
static DROPPED_LINES: AtomicU64 = AtomicU64::new(0);

/// A log line was dropped.
pub fn log_dropped() {
    DROPPED_LINES.fetch_add(1, Ordering::Relaxed);
}

pub(super) fn log_dropped_so_far() -> u64 {
    DROPPED_LINES.load(Ordering::Relaxed)
}

fn action_label(action: &Action) -> &'static str {
    match action {
        Action::IncidentDeclared { .. } => "incident_declared",
        Action::Replicas { .. } => "replicas",
        Action::Fenced { .. } => "fenced",
        Action::DatabasePromoted { .. } => "database_promoted",
        Action::CaughtUp { .. } => "caught_up",
        Action::Rejoined { .. } => "rejoined",
        Action::Protected { .. } => "protected",
        Action::Published { .. } => "published",
        Action::RolledOut { .. } => "rolled_out",
        Action::CacheActive { .. } => "cache_active",
        Action::StorageReachable { .. } => "storage_reachable",
        Action::Traffic { .. } => "traffic",
        Action::Manifests { .. } => "manifests",
        Action::Restored { .. } => "restored",
        Action::ManifestsRemoved { .. } => "manifests_removed",
        Action::IncidentEnded { .. } => "incident_ended",
        Action::Verified { .. } => "verified",
    }
}
