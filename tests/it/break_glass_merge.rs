//! What break-glass did comes into the shared ledger: what is older, what it only had heard of, and what somebody else does
//! does not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::time::Duration;

use failoverd::decide::{BreakGlassRecord, Command, Decision, Effect, Fact, Input, Outcome};
use failoverd::domain::{ComponentId, RegionId};
use failoverd::ports::{Claim, Term};
use jiff::Timestamp;

use crate::break_glass::{BESIDE, SHARED, World, answer, everything, now, record, term};

const ANOTHER: &str = "0190cccc-0000-7000-8000-000000000003";

#[test]
fn an_older_break_glass_is_not_merged_over_a_newer_one_and_what_serves_is_never_fenced() {
    let mut world = World::adopted("us-east-1");
    world.survey(&[]);
    // One moved the database and got stuck; another one, begun later, moved it back.
    let mut stuck = of_the_database(BESIDE, 1100, "us-west-2");
    stuck.incidents[0].outcome = None;
    let back = of_the_database(ANOTHER, 1200, "us-east-1");
    world.at += Duration::from_secs(600);
    assert!(world.merge(&back, false).is_ok());
    world.survey(&[]);
    let refused = world.merge(&stuck, true).expect_err("it is older");
    assert!(refused.contains(ANOTHER) && refused.contains("database is served in us-east-1"), "{refused}");
    assert!(refused.contains("failoverd adopt --placement"), "{refused}");
    assert_eq!(world.placement("database"), "us-east-1");
    assert_eq!(world.controller.status(world.now()).owed_fences, [], "it serves");

    // In the order in which they were begun both are known, and nothing that serves owes a fence.
    let mut world = World::adopted("us-east-1");
    world.survey(&[]);
    world.at += Duration::from_secs(600);
    assert!(world.merge(&stuck, true).is_ok());
    assert_eq!(world.placement("database"), "us-west-2");
    world.survey(&[]);
    let mut back = back;
    back.owed = ["database@us-east-1", "database@us-west-2"].map(|id| id.parse().unwrap()).into();
    let merged = world.send_merge(&back, false);
    assert!(answer(&merged).is_ok(), "{:?}", answer(&merged));
    let owed: Vec<String> = merged_record(&merged).owed.iter().map(ToString::to_string).collect();
    assert_eq!(owed, ["database@us-west-2"]);
}

#[test]
fn one_that_went_on_after_a_newer_one_had_begun_is_merged_by_nobody_but_a_person() {
    let mut world = World::adopted("us-east-1");
    world.survey(&[]);
    let mut first = of_the_database(BESIDE, 1100, "us-west-2");
    first.moved = Some(BTreeMap::from([("database".into(), now(Duration::from_secs(1500)).wall)]));
    world.at += Duration::from_secs(600);
    assert!(world.merge(&first, false).is_ok());
    // It went on, and is merged again: its own work is nobody else's.
    world.survey(&[]);
    first.frames += 10;
    assert!(world.merge(&first, false).is_ok_and(|told| told.contains("in charge")));
    world.survey(&[]);
    let refused = world.merge(&of_the_database(ANOTHER, 1200, "us-east-1"), false).expect_err("nobody can tell");
    assert!(refused.contains(BESIDE) && refused.contains("us-west-2"), "{refused}");
}

#[test]
fn what_was_adopted_since_is_not_taken_back() {
    let mut world = World::adopted("us-east-1");
    world.survey(&[]);
    let moved = of_the_database(BESIDE, 1100, "us-west-2");
    world.at += Duration::from_secs(600);
    let adopt = Command::Adopt { by: "carol".into(), placement: everything("us-east-1") };
    assert!(answer(&world.command(adopt)).is_ok());
    world.survey(&[]);
    let mut owing = moved.clone();
    owing.owed = ["cache@us-east-1", "database@us-west-2"].map(|id| id.parse().unwrap()).into();
    let refused = world.merge(&owing, false).expect_err("a person said otherwise since");
    assert!(refused.contains("this ledger knows since") && refused.contains("failoverd adopt"), "{refused}");
    assert!(refused.contains("left database@us-west-2 without a fence"), "{refused}");
    assert_eq!(world.placement("database"), "us-east-1");
}

#[test]
fn only_what_break_glass_moved_itself_is_merged() {
    let mut world = World::adopted("us-east-1");
    world.survey(&[]);
    // It believed everything to be in us-west-2, and moved the database.
    let mut record = of_the_database(BESIDE, 1100, "us-west-2");
    record.placement = everything("us-west-2");
    let merged = world.send_merge(&record, false);
    assert!(answer(&merged).is_ok(), "{:?}", answer(&merged));
    let fact = merged_record(&merged);
    assert_eq!(fact.placement, BTreeMap::from([("database".into(), "us-west-2".into())]), "it says what came of it");
    assert_eq!(world.placement("database"), "us-west-2");
    assert_eq!(world.placement("cache"), "us-east-1");

    // A ledger that knows nothing takes what there is.
    let mut world = World::with(SHARED, &[]);
    world.survey(&[]);
    assert!(world.merge(&record, false).is_ok());
    assert_eq!(world.placement("cache"), "us-west-2");
}

#[test]
fn a_record_that_does_not_say_what_moved_is_read_and_merged_whole() {
    let written = serde_json::to_value(record()).unwrap();
    assert_eq!(written.get("moved"), None);
    let read: BreakGlassRecord = serde_json::from_value(written).unwrap();
    assert_eq!(read, record());
    let mut world = World::adopted("us-east-1");
    world.survey(&[]);
    assert!(world.merge(&read, false).is_ok());
    assert_eq!(world.placement("cache"), "us-west-2");
}

#[test]
fn a_claim_that_the_record_does_not_explain_is_not_replaced_wherever_it_stands() {
    let mut world = World::adopted("us-east-1");
    let record = record();
    let unread = world.send_merge(&record, false);
    assert!(answer(&unread).is_err_and(|why| why.contains("have not been read yet")), "{:?}", answer(&unread));
    assert_eq!(unread.record, []);

    let ours = claim(BESIDE, term());
    world.survey(&[("us-east-1", ours.clone()), ("us-west-2", claim(ANOTHER, term()))]);
    let refused = world.merge(&record, false).expect_err("somebody else is at work");
    assert!(refused.contains("us-west-2 is claimed by yet another") && refused.contains(ANOTHER), "{refused}");

    // Whoever went on with the record wrote more than is in it.
    let later = Term { epoch: 2, since: Timestamp::now() };
    world.survey(&[("us-east-1", ours.clone()), ("us-west-2", claim(BESIDE, later))]);
    let refused = world.merge(&record, false).expect_err("it is not all of it");
    assert!(refused.contains("went on after this record"), "{refused}");

    world.survey(&[("us-east-1", ours.clone()), ("us-west-2", ours)]);
    assert!(world.merge(&record, false).is_ok());
}

#[test]
fn a_survey_is_asked_for_where_none_has_come() {
    let mut world = World::adopted("us-east-1");
    world.at += Duration::from_secs(600);
    let unread = world.send_merge(&record(), false);
    assert!(unread.perform.contains(&Effect::Survey), "{:?}", unread.perform);
}

fn of_the_database(ledger: &str, began: u64, to: &str) -> BreakGlassRecord {
    let began = now(Duration::from_secs(began)).wall;
    let mut of = record();
    (of.ledger, of.began, of.owed) = (ledger.into(), began, Default::default());
    of.placement = BTreeMap::from([("database".into(), to.into())]);
    of.moved = Some(BTreeMap::from([("database".into(), began + Duration::from_secs(5))]));
    of.incidents[0].outcome = Some(Outcome::Recovered);
    of
}

fn claim(ledger: &str, term: Term) -> Claim {
    Claim { ledger: ledger.into(), term: Some(term), holder: format!("{}alice, bastion", Claim::BREAK_GLASS) }
}

fn merged_record(decision: &Decision) -> &BreakGlassRecord {
    let mut facts = decision.record.iter();
    facts.find_map(|fact| if let Fact::BreakGlassMerged { record, .. } = fact { Some(record) } else { None }).unwrap()
}

impl World {
    fn adopted(region: &str) -> Self {
        Self::with(SHARED, &[Fact::PlacementAdopted { placement: everything(region), by: "test".into() }])
    }

    /// The claims are read.
    fn survey(&mut self, claims: &[(&str, Claim)]) {
        self.at += Duration::from_secs(1);
        let claims = claims.iter().map(|(region, claim)| (RegionId::from(*region), Some(claim.clone()))).collect();
        let asked = self.at;
        let _ = self.step(Input::Surveyed { asked, claims });
    }

    fn send_merge(&mut self, record: &BreakGlassRecord, unfinished: bool) -> Decision {
        self.command(Command::Merge { by: "bob".into(), record: Box::new(record.clone()), unfinished })
    }

    fn placement(&self, component: &str) -> String {
        self.controller.status(self.now()).placement[&ComponentId::from(component)].to_string()
    }
}
