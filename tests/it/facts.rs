//! One of every fact, for the golden ledger and for everything that has to hold for all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use failoverd::decide::{Fact, Frame, Guard, GuardKind, Outcome, Sample};
use failoverd::domain::{IncidentId, InstanceId, Level, Mode, Now, PlanId};
use failoverd::plan::{Action, Confirm, Part, Purpose, Step};
use jiff::Timestamp;

pub(crate) fn now(seconds: i64) -> Now {
    let start: Timestamp = "2018-10-21T22:52:00Z".parse().expect("a timestamp");
    Now {
        monotonic: Duration::from_secs(seconds.unsigned_abs()),
        wall: start + jiff::SignedDuration::from_secs(seconds),
    }
}

/// Three frames a little like a real ledger: created, taken over, adopted.
pub(crate) fn small_ledger() -> Vec<Frame> {
    let facts = every_fact();
    frames(facts.into_iter().take(3).map(|fact| vec![fact]).collect())
}

/// A frame per entry, the first of epoch 0 and the rest of epoch 1.
pub(crate) fn frames(facts: Vec<Vec<Fact>>) -> Vec<Frame> {
    (0u64..)
        .zip(facts)
        .map(|(index, facts)| Frame { index, epoch: index.min(1), at: now(index as i64), facts })
        .collect()
}

pub(crate) fn every_fact() -> Vec<Fact> {
    let wall = now(0).wall;
    let database = InstanceId::new("database", "us-east-1");
    let guard = Guard {
        kind: GuardKind::DataLoss,
        evidence: "2 min 10 s would be lost, the RPO is 1 min".to_owned(),
        lifted_by: "the standby catches up, or an approval that accepts the loss".to_owned(),
    };
    let step = Step {
        id: "promote-database".into(),
        action: Action::DatabasePromoted {
            database: InstanceId::new("database", "us-west-2"),
            from: database.clone(),
            lossless: false,
        },
        part: Part::Component("database".into()),
        after: BTreeSet::from(["fence-database".into()]),
        commit_point: true,
        undoable: false,
        best_effort: false,
        places: BTreeMap::from([("database".into(), "us-west-2".into())]),
        confirm: Some(Confirm { instance: database.clone(), lasting: Duration::from_secs(90) }),
        deadline: Duration::from_secs(300),
        stage: None,
    };
    let plan = PlanId::from("incident-1.plan");
    let incident = IncidentId::from("incident-1");
    vec![
        Fact::LedgerCreated { ledger: "0190a1b2-0000-7000-8000-000000000001".into() },
        Fact::EpochStarted {
            observer: "bastion".into(),
            policy: "9f86d081884c7d65".to_owned(),
            mode: Mode::Automatic,
            epoch: None,
        },
        Fact::PlacementAdopted {
            placement: BTreeMap::from([("database".into(), "us-east-1".into()), ("cache".into(), "us-east-1".into())]),
            by: "ada".to_owned(),
        },
        Fact::SeenAlive { instance: database.clone(), fingerprint: "5feceb66ffc86f38".to_owned() },
        Fact::SuspicionRaised {
            instance: database.clone(),
            since: wall,
            why: "tcp: connection timed out".to_owned(),
            positions: vec![Sample { at: wall, position: 16_777_216 }],
        },
        Fact::SuspicionCleared { instance: database.clone() },
        Fact::Withheld {
            source: "us-east-1".into(),
            part: Part::Component("database".into()),
            guards: vec![guard.clone()],
        },
        Fact::IncidentDeclared {
            incident: incident.clone(),
            level: Level::ComponentFailure,
            source: "us-east-1".into(),
            target: "us-west-2".into(),
            first_failing: wall,
            detected_after: Duration::from_secs(300),
            evidence: vec!["database@us-east-1 failing for 5 min: tcp: connection timed out".to_owned()],
            ordered_by: None,
            forced: false,
            purpose: Purpose::Failover,
        },
        Fact::IncidentEscalated {
            incident: incident.clone(),
            level: Level::RegionalOutage,
            evidence: vec!["cache@us-east-1 failing for 2 min".to_owned()],
        },
        Fact::PlanMade {
            incident: incident.clone(),
            plan: plan.clone(),
            part: Part::Component("database".into()),
            steps: vec![step.clone()],
        },
        Fact::PlanGrown {
            plan: plan.clone(),
            part: Part::Region,
            steps: vec![Step { id: "promote-other".into(), part: Part::Region, ..step }],
            shares: BTreeMap::from([("promote-database".into(), BTreeSet::from(["declare@us-west-2".into()]))]),
            ordered_by: None,
            forced: false,
        },
        Fact::ApprovalRequested {
            plan: plan.clone(),
            hash: "e3b0c44298fc1c14".to_owned(),
            guards: vec![guard],
            loss: Some(Duration::from_secs(130)),
        },
        Fact::Approved {
            plan: plan.clone(),
            hash: "e3b0c44298fc1c14".to_owned(),
            by: "ada".to_owned(),
            until: now(1800).wall,
            accept_unfenced: true,
            accept_loss: Some(Duration::from_secs(180)),
        },
        Fact::CommitPointPassed {
            plan: plan.clone(),
            step: "promote-database".into(),
            loss: Some(Duration::from_millis(2500)),
            lossless: false,
            exceptions: vec!["unfenced promotion allowed by the configuration".to_owned()],
        },
        Fact::StepStarted {
            plan: plan.clone(),
            step: "promote-database".into(),
            attempt: 2,
            previous: serde_json::json!({"replicas": 2}),
        },
        Fact::StepDone {
            plan: plan.clone(),
            step: "promote-database".into(),
            note: "available, a write was read back".to_owned(),
            acted: true,
        },
        Fact::StepFailed { plan: plan.clone(), step: "traffic".into(), why: "refused: AccessDenied".to_owned() },
        Fact::StepOwed { plan: plan.clone(), step: "fence-database".into(), why: "it cannot be reached".to_owned() },
        Fact::StepSkipped { plan: plan.clone(), step: "traffic".into(), by: "ada".to_owned() },
        Fact::StepCancelled { plan: plan.clone(), step: "scale-api".into() },
        Fact::PlacementChanged { component: "database".into(), region: "us-west-2".into() },
        Fact::UnwindingStarted {
            plan: plan.clone(),
            part: Part::Component("kubernetes".into()),
            why: "the source recovered".to_owned(),
            aborted: false,
        },
        Fact::UndoStarted { plan: plan.clone(), step: "scale-api".into(), attempt: 1 },
        Fact::StepUndone { plan: plan.clone(), step: "scale-api".into(), note: "2 replicas again".to_owned() },
        Fact::UndoFailed { plan: plan.clone(), step: "scale-api".into(), why: "no answer".to_owned() },
        Fact::PartUnwound { plan: plan.clone(), part: Part::Component("kubernetes".into()) },
        Fact::PlanStuck { plan: plan.clone(), steps: vec!["traffic".into()] },
        Fact::IncidentClosed { incident: incident.clone(), outcome: Outcome::Recovered },
        Fact::OwedFenceStarted { database: database.clone(), attempt: 1 },
        Fact::OwedFenceSettled { database, note: "a write is refused on a new connection".to_owned() },
        Fact::Paused { until: now(3600).wall, by: "ada".to_owned(), reason: "network maintenance".to_owned() },
        Fact::Resumed { by: "failoverd".to_owned() },
        Fact::Held { incident: incident.clone(), by: "ada".to_owned() },
        Fact::Released { incident: incident.clone(), by: "ada".to_owned() },
        Fact::Acknowledged {
            incident,
            by: "ada".to_owned(),
            false_positive: true,
            note: "our own firewall".to_owned(),
        },
        Fact::RetryOrdered { plan, step: "traffic".into(), by: "ada".to_owned() },
        Fact::Halted { why: "two writable databases".to_owned() },
    ]
}
