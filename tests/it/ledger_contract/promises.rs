//! The promises, each a function that fails where it is broken.

use std::collections::BTreeMap;
use std::time::Duration;

use failoverd::decide::{Command, Frame};
use failoverd::ports::{AppendError, Candidacy, Lease, OperatorAnswer, OperatorRequest};

use super::{Daemon, Place, Site, ballot, frame, words};

/// What holds for a daemon alone, too. One after the other, each on a ledger of its own.
pub(crate) async fn to_one_daemon(place: &dyn Place) {
    frames_come_back_in_order(&*place.ledger("order").await).await;
    a_gap_is_refused(&*place.ledger("gap").await).await;
    a_lower_epoch_is_fenced(&*place.ledger("lower-epoch").await).await;
    whoever_waits_for_a_frame_hears_of_it(&*place.ledger("waits").await).await;
    the_next_run_finds_everything_and_has_a_higher_epoch(&*place.ledger("next-run").await).await;
    a_ballot_replaces_the_one_before(&*place.ledger("own-ballot").await).await;
    a_request_waits_for_its_answer(&*place.ledger("own-request").await).await;
    the_standing_says_who_leads_and_when_that_was_confirmed(&*place.ledger("standing").await).await;
}

/// What holds among several. At the same time, because most of it is waiting for leases to run out.
pub(crate) async fn to_several_daemons(place: &dyn Place, seeds: std::ops::Range<u64>) {
    let (a, b, c, d) = (
        place.ledger("candidates").await,
        place.ledger("runs-out").await,
        place.ledger("resigns").await,
        place.ledger("deposed").await,
    );
    let (e, f, g, h) = (
        place.ledger("lost-answer").await,
        place.ledger("conflict").await,
        place.ledger("ballots").await,
        place.ledger("requests").await,
    );
    let (i, j, k) =
        (place.ledger("cut-off").await, place.ledger("other-content").await, place.ledger("meanwhile").await);
    futures::join!(
        of_many_candidates_exactly_one_leads(&*a),
        a_lease_that_runs_out_ends_before_another_daemon_leads(&*b),
        whoever_resigns_is_followed_at_once(&*c),
        a_deposed_leader_cannot_record(&*d),
        an_answer_that_was_lost_is_found_by_sending_the_frame_again(&*e),
        of_two_would_be_leaders_one_records_an_index(&*f),
        ballots_are_seen_by_the_others(&*g),
        an_operators_request_reaches_the_leader_and_its_answer_the_follower(&*h),
        a_leader_that_is_cut_off_hears_it_is_not_known_and_later_that_it_leads_no_more(&*i),
        another_frame_at_a_recorded_index_is_refused(&*j),
        a_follower_reads_along(&*k),
    );
    for seed in seeds {
        let site = place.ledger(&format!("seed-{seed}")).await;
        two_leaders_in_any_order_leave_one_history(&*site, seed).await;
    }
}

async fn frames_come_back_in_order(site: &dyn Site) {
    let daemon = site.daemon("one").await;
    let lease = daemon.lead(site).await;
    let mut sent = daemon.ledger.read_from(0).await.expect("reads");
    assert_eq!(sent.len(), 1, "a new ledger has its first frame");
    for word in ["a", "b", "c", "d", "e"] {
        let next = frame(sent.len() as u64, lease.epoch, word);
        let durable = daemon.ledger.append(next.clone()).await.expect("appends");
        assert_eq!(durable.index(), next.index);
        sent.push(next);
    }
    for index in 0..=sent.len() {
        assert_eq!(daemon.ledger.read_from(index as u64).await.expect("reads"), sent[index..], "from {index}");
    }
    assert_eq!(daemon.ledger.read_from(99).await.expect("reads"), []);
}

async fn a_gap_is_refused(site: &dyn Site) {
    let daemon = site.daemon("one").await;
    let lease = daemon.lead(site).await;
    let refused = daemon.ledger.append(frame(2, lease.epoch, "beyond")).await;
    assert!(matches!(refused, Err(AppendError::Halted(_))), "{refused:?}");
    assert_eq!(daemon.heard().await, [""; 0]);
}

async fn a_lower_epoch_is_fenced(site: &dyn Site) {
    let daemon = site.daemon("one").await;
    let lease = daemon.lead(site).await;
    daemon.say(&lease, "first").await.map(drop).expect("appends");
    let stale = daemon.ledger.append(frame(2, lease.epoch - 1, "stale")).await;
    assert!(matches!(stale, Err(AppendError::Fenced { epoch }) if epoch >= lease.epoch), "{stale:?}");
    assert_eq!(daemon.heard().await, ["first"]);
}

async fn whoever_waits_for_a_frame_hears_of_it(site: &dyn Site) {
    let daemon = site.daemon("one").await;
    let lease = daemon.lead(site).await;
    within("the first frame is there", daemon.ledger.changed(0)).await;
    let mut waiting = daemon.ledger.changed(1);
    assert!(futures::poll!(&mut waiting).is_pending(), "there is no second frame yet");
    daemon.say(&lease, "news").await.map(drop).expect("appends");
    within("the second frame is there", waiting).await;
}

async fn the_next_run_finds_everything_and_has_a_higher_epoch(site: &dyn Site) {
    let mut epoch = 0;
    let mut said = vec![];
    for word in ["a", "b", "c"] {
        let daemon = site.daemon("one").await;
        let lease = daemon.lead_in_time(site).await;
        assert!(lease.epoch > epoch, "{} after {epoch}", lease.epoch);
        epoch = lease.epoch;
        assert_eq!(daemon.lead(site).await.epoch, epoch, "campaigning again keeps the epoch");
        assert_eq!(daemon.ledger.renew(site.now()).await.expect("answers").map(|lease| lease.epoch), Some(epoch));
        assert_eq!(daemon.heard().await, said);
        daemon.say(&lease, word).await.map(drop).expect("appends");
        said.push(word.to_owned());
        daemon.ledger.resign().await;
    }
}

async fn a_ballot_replaces_the_one_before(site: &dyn Site) {
    let daemon = site.daemon("one").await;
    for sequence in 1..4 {
        daemon.ledger.publish(&ballot("one", sequence)).await.expect("publishes");
        daemon.until("the ballot", |ledger| ledger.ballots().iter().map(|ballot| ballot.sequence).eq([sequence])).await;
    }
    assert_eq!(daemon.ledger.ballots(), [ballot("one", 3)]);
}

async fn a_request_waits_for_its_answer(site: &dyn Site) {
    let daemon = site.daemon("one").await;
    let request = resume("id-1", "one");
    daemon.ledger.request(&request).await.expect("arrives");
    daemon.until("the request", |ledger| ledger.requests() == [request.clone()]).await;
    assert_eq!(daemon.ledger.answer_of("id-1"), None);
    let answer = OperatorAnswer::Refused("nothing is paused".to_owned());
    daemon.ledger.answer("id-1", &answer).await.expect("arrives");
    daemon.until("the answer", |ledger| ledger.answer_of("id-1").as_ref() == Some(&answer)).await;
    daemon.until("the request's end", |ledger| ledger.requests().is_empty()).await;
}

async fn the_standing_says_who_leads_and_when_that_was_confirmed(site: &dyn Site) {
    let daemon = site.daemon("one").await;
    let before = site.now().monotonic;
    let lease = daemon.lead(site).await;
    daemon.until("the leader", |ledger| ledger.standing().leader.is_some_and(|(_, e)| e == lease.epoch)).await;
    let standing = daemon.ledger.standing();
    assert!(standing.confirmed.is_some_and(|at| at >= before && at <= site.now().monotonic), "{standing:?}");
    assert_eq!((standing.frames, standing.trouble), (1, None));
    site.wait(Duration::from_millis(20)).await;
    let later = site.now().monotonic;
    daemon.ledger.renew(site.now()).await.expect("answers").expect("leads");
    assert!(daemon.ledger.standing().confirmed.is_some_and(|at| at >= later));
}

async fn of_many_candidates_exactly_one_leads(site: &dyn Site) {
    let daemons = [site.daemon("a").await, site.daemon("b").await, site.daemon("c").await];
    let now = site.now();
    let all = futures::future::join_all(daemons.iter().map(|daemon| daemon.ledger.campaign(now))).await;
    let leases: Vec<Lease> = all.iter().flatten().filter_map(Candidacy::lease).collect();
    assert_eq!(leases.len(), 1, "{all:?}");
    for daemon in &daemons {
        match daemon.ledger.campaign(site.now()).await.expect("answers") {
            Candidacy::Leading(lease) => assert_eq!(lease.epoch, leases[0].epoch),
            Candidacy::Following { epoch, .. } => assert_eq!(epoch, leases[0].epoch),
        }
    }
}

async fn a_lease_that_runs_out_ends_before_another_daemon_leads(site: &dyn Site) {
    let (old, new) = (site.daemon("old").await, site.daemon("new").await);
    let first = old.lead(site).await;
    old.say(&first, "old").await.map(drop).expect("appends");
    let following = new.ledger.campaign(site.now()).await.expect("answers");
    assert_eq!(following, Candidacy::Following { leader: "old".into(), epoch: first.epoch });
    // As long as it is renewed, it stays.
    let mut lease = first;
    for _ in 0..6 {
        site.wait(site.lasting() / 3).await;
        lease = old.ledger.renew(site.now()).await.expect("answers").expect("is still ours");
        assert!(matches!(new.ledger.campaign(site.now()).await, Ok(Candidacy::Following { .. })));
    }
    assert!(lease.until > first.until && lease.epoch == first.epoch);
    let second = new.lead_in_time(site).await;
    assert!(site.now().monotonic > lease.until, "two daemons led at the same time");
    assert!(second.epoch > first.epoch);
    assert_eq!(new.heard().await, ["old"]);
    assert_eq!(old.ledger.renew(site.now()).await, Ok(None));
}

async fn whoever_resigns_is_followed_at_once(site: &dyn Site) {
    let (old, new) = (site.daemon("old").await, site.daemon("new").await);
    let first = old.lead(site).await;
    assert!(matches!(new.ledger.campaign(site.now()).await, Ok(Candidacy::Following { .. })));
    old.ledger.resign().await;
    new.until("that nobody leads", |ledger| ledger.standing().leader.is_none()).await;
    let second = new.lead(site).await;
    assert!(second.epoch > first.epoch && site.now().monotonic < first.until, "it did not have to run out");
    let late = old.ledger.append(frame(1, first.epoch, "late")).await;
    assert!(matches!(late, Err(AppendError::Fenced { .. })), "{late:?}");
    assert_eq!(new.heard().await, [""; 0]);
    assert_eq!(old.ledger.renew(site.now()).await, Ok(None));
}

async fn a_deposed_leader_cannot_record(site: &dyn Site) {
    let (old, new) = (site.daemon("old").await, site.daemon("new").await);
    let first = old.lead(site).await;
    old.say(&first, "old").await.map(drop).expect("appends");
    let second = new.lead_in_time(site).await;
    // Before the new leader has recorded anything, and after.
    let late = old.ledger.append(frame(2, first.epoch, "late")).await;
    assert!(matches!(late, Err(AppendError::Fenced { epoch }) if epoch > first.epoch), "{late:?}");
    new.ledger.append(frame(2, second.epoch, "new")).await.map(drop).expect("appends");
    for index in [2, 3] {
        let late = old.ledger.append(frame(index, first.epoch, "late")).await;
        assert!(matches!(late, Err(AppendError::Fenced { .. })), "{late:?}");
    }
    assert_eq!(new.heard().await, ["old", "new"]);
    assert_eq!(old.heard().await, ["old", "new"]);
}

async fn an_answer_that_was_lost_is_found_by_sending_the_frame_again(site: &dyn Site) {
    let daemon = site.daemon("one").await;
    let lease = daemon.lead(site).await;
    daemon.say(&lease, "first").await.map(drop).expect("appends");
    let lost = frame(2, lease.epoch, "lost");
    daemon.link.lose_answers();
    let unknown = daemon.ledger.append(lost.clone()).await;
    assert!(matches!(unknown, Err(AppendError::Unknown(_))), "{unknown:?}");
    daemon.link.heal();
    let conclusive = loop {
        match again(&daemon, &lost).await {
            Err(AppendError::Unknown(_)) => site.wait(Duration::from_millis(50)).await,
            conclusive => break conclusive,
        }
    };
    match conclusive {
        // It is ours however often it is sent.
        Ok(index) => assert_eq!((index, again(&daemon, &lost).await), (2, Ok(2))),
        // On a machine that is slow enough the lease has run out meanwhile.
        Err(error) => assert!(matches!(error, AppendError::Fenced { .. }), "{error}"),
    }
    assert_eq!(daemon.heard().await, ["first", "lost"], "once, and not lost");
    let lease = daemon.lead_in_time(site).await;
    daemon.say(&lease, "next").await.map(drop).expect("goes on");
    assert_eq!(daemon.heard().await, ["first", "lost", "next"]);
}

async fn another_frame_at_a_recorded_index_is_refused(site: &dyn Site) {
    let daemon = site.daemon("one").await;
    let lease = daemon.lead(site).await;
    daemon.say(&lease, "first").await.map(drop).expect("appends");
    let other = daemon.ledger.append(frame(1, lease.epoch, "other")).await;
    assert!(matches!(other, Err(AppendError::Halted(_))), "{other:?}");
    assert_eq!(daemon.heard().await, ["first"]);
}

async fn of_two_would_be_leaders_one_records_an_index(site: &dyn Site) {
    let (old, new) = (site.daemon("old").await, site.daemon("new").await);
    let first = old.lead(site).await;
    let second = new.lead_in_time(site).await;
    for index in 1..6 {
        let ours = frame(index, first.epoch, &format!("old {index}"));
        let theirs = frame(index, second.epoch, &format!("new {index}"));
        let (ours, theirs) = futures::join!(old.ledger.append(ours), new.ledger.append(theirs));
        assert!(ours.is_err(), "a deposed leader recorded");
        theirs.map(drop).expect("the leader records");
    }
    assert_eq!(old.heard().await, ["new 1", "new 2", "new 3", "new 4", "new 5"]);
}

async fn ballots_are_seen_by_the_others(site: &dyn Site) {
    let (a, b) = (site.daemon("a").await, site.daemon("b").await);
    for sequence in 1..4 {
        a.ledger.publish(&ballot("a", sequence)).await.expect("publishes");
        b.ledger.publish(&ballot("b", sequence + 10)).await.expect("publishes");
        for daemon in [&a, &b] {
            let expected = [ballot("a", sequence), ballot("b", sequence + 10)];
            daemon.until("both ballots", |ledger| ledger.ballots() == expected).await;
        }
    }
    let late = site.daemon("late").await;
    late.until("the ballots cast before", |ledger| ledger.ballots() == [ballot("a", 3), ballot("b", 13)]).await;
}

async fn an_operators_request_reaches_the_leader_and_its_answer_the_follower(site: &dyn Site) {
    let (leader, follower) = (site.daemon("leader").await, site.daemon("follower").await);
    leader.lead(site).await;
    for id in ["0001-a", "0002-b"] {
        let request = resume(id, "follower");
        follower.ledger.request(&request).await.expect("arrives");
        leader.until("the request", |ledger| ledger.requests() == [request.clone()]).await;
        let answer = OperatorAnswer::InEffect(format!("{id} is in effect"));
        leader.ledger.answer(id, &answer).await.expect("arrives");
        follower.until("the answer", |ledger| ledger.answer_of(id).as_ref() == Some(&answer)).await;
        leader.until("the request's end", |ledger| ledger.requests().is_empty()).await;
    }
}

async fn a_leader_that_is_cut_off_hears_it_is_not_known_and_later_that_it_leads_no_more(site: &dyn Site) {
    let (old, new) = (site.daemon("old").await, site.daemon("new").await);
    let first = old.lead(site).await;
    old.link.cut();
    let sent = frame(1, first.epoch, "unknown");
    let (unknown, renewed) = futures::join!(old.ledger.append(sent.clone()), old.ledger.renew(site.now()));
    assert!(matches!(unknown, Err(AppendError::Unknown(_))), "{unknown:?}");
    assert!(renewed.is_err(), "{renewed:?}");
    assert!(old.ledger.read_from(0).await.is_err(), "what may be old is not shown as what is");
    let second = new.lead_in_time(site).await;
    assert!(site.now().monotonic > first.until);
    new.say(&second, "new").await.map(drop).expect("appends");
    old.link.heal();
    let again = loop {
        match again(&old, &sent).await {
            Err(AppendError::Unknown(_)) => site.wait(Duration::from_millis(50)).await,
            conclusive => break conclusive,
        }
    };
    assert!(matches!(again, Err(AppendError::Fenced { epoch }) if epoch > first.epoch), "{again:?}");
    assert_eq!(old.heard().await, ["new"]);
}

async fn a_follower_reads_along(site: &dyn Site) {
    let (leader, follower) = (site.daemon("leader").await, site.daemon("follower").await);
    let lease = leader.lead(site).await;
    for (index, word) in (1..).zip(["a", "b", "c"]) {
        let waiting = follower.ledger.changed(index);
        leader.say(&lease, word).await.map(drop).expect("appends");
        within("the follower hears of the frame", waiting).await;
        assert_eq!(words(&follower.ledger.read_from(index).await.expect("reads")), [word]);
    }
    follower.until("the leader", |ledger| ledger.standing().leader == Some(("leader".into(), lease.epoch))).await;
}

/// Two daemons lead, lose their leases, are cut off and send again, in an order that the seed decides; at every moment
/// what was acknowledged is there, where it was acknowledged, and no index was acknowledged twice.
async fn two_leaders_in_any_order_leave_one_history(site: &dyn Site, seed: u64) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1);
    let daemons = [site.daemon("a").await, site.daemon("b").await];
    let mut leases: [Option<Lease>; 2] = [None, None];
    let mut pending: [Option<Frame>; 2] = [None, None];
    let mut acknowledged: BTreeMap<u64, Frame> = BTreeMap::new();
    let mut story = vec![];
    for turn in 0..24 {
        let who = dice.below(2) as usize;
        let daemon = &daemons[who];
        let what = dice.below(10);
        story.push(format!("{turn}: {who} does {what}"));
        match what {
            0..=2 => {
                if let Ok(Candidacy::Leading(lease)) = daemon.ledger.campaign(site.now()).await {
                    let other = leases[1 - who].filter(|other| other.until > site.now().monotonic);
                    assert!(other.is_none(), "both lead: {story:#?}");
                    if leases[who].is_none_or(|old| old.epoch != lease.epoch) {
                        pending[who] = None;
                    }
                    leases[who] = Some(lease);
                }
            }
            3..=6 => {
                let Some(lease) = leases[who] else { continue };
                let Ok(frames) = daemon.ledger.read_from(0).await else { continue };
                let next = frames.len() as u64;
                let next = pending[who].clone().unwrap_or_else(|| frame(next, lease.epoch, &format!("{who} {turn}")));
                match daemon.ledger.append(next.clone()).await {
                    Ok(durable) => {
                        assert_eq!(durable.index(), next.index);
                        let twice = acknowledged.insert(next.index, next.clone()).filter(|before| *before != next);
                        assert!(twice.is_none(), "one index was acknowledged twice: {story:#?}");
                        pending[who] = None;
                    }
                    Err(AppendError::Unknown(_)) => pending[who] = Some(next),
                    Err(AppendError::Fenced { epoch }) => {
                        assert!(epoch > lease.epoch, "{story:#?}");
                        (leases[who], pending[who]) = (None, None);
                    }
                    Err(AppendError::Halted(why)) => panic!("{why}: {story:#?}"),
                }
            }
            7 => daemon.link.lose_answers(),
            8 => {
                daemons.iter().for_each(|daemon| daemon.link.heal());
                if dice.below(2) == 0 && pending[who].is_none() {
                    daemon.ledger.resign().await;
                    leases[who] = None;
                }
            }
            _ => site.wait(site.lasting() * 2 / 3).await,
        }
    }
    daemons.iter().for_each(|daemon| daemon.link.heal());
    let reader = site.daemon("reader").await;
    let frames = reader.ledger.read_from(0).await.expect("reads");
    for (index, frame) in frames.iter().enumerate() {
        assert_eq!(frame.index, index as u64, "{story:#?}");
        assert!(index == 0 || frames[index - 1].epoch <= frame.epoch, "{story:#?}");
    }
    for (index, frame) in &acknowledged {
        assert_eq!(frames.get(*index as usize), Some(frame), "acknowledged, and not there: {story:#?}");
    }
    assert_eq!(daemons[0].ledger.read_from(0).await.expect("reads"), frames);
}

/// Sends it again; the index, once it is known to be recorded.
async fn again(daemon: &Daemon, frame: &Frame) -> Result<u64, AppendError> {
    daemon.ledger.append(frame.clone()).await.map(|durable| durable.index())
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.unwrap_or_else(|_| panic!("{what}: not within 20 s"))
}

fn resume(id: &str, from: &str) -> OperatorRequest {
    OperatorRequest { id: id.to_owned(), command: Command::Resume { by: "ada".to_owned() }, from: from.into() }
}

/// Chance that can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}
