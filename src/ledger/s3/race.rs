//! Races for a bucket by chance: daemons that lead one after the other, and frames that arrive long after they were sent.
//!
//! Whoever keeps to the rules never writes behind a higher fence, because the place would be taken. One of a hand here does
//! not: it writes to wherever the end is by then, as a proxy that sends a request again might. No reader may count that.

use std::collections::BTreeSet;

use super::log::{Fence, Log};
use crate::decide::{Fact, Frame};
use crate::domain::{Bug, Bugs, Now};
use crate::ledger::codec;
use crate::simulation::Dice;

/// Steps of one race.
const STEPS: u32 = 60;
/// Races that are run.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=200;

#[test]
fn what_a_leader_was_told_is_durable_counts_for_every_reader_and_nothing_counts_behind_a_higher_fence() {
    let broken: Vec<(u64, String)> = SEEDS.filter_map(|seed| Some((seed, Race::run(seed, None)?))).collect();
    assert!(broken.is_empty(), "{broken:?}");
}

/// Which race catches a reader that applies what a lower epoch wrote, and what breaks in it.
pub(crate) fn caught(bug: Bug) -> Option<(u64, String)> {
    SEEDS.into_iter().find_map(|seed| Some((seed, Race::run(seed, Some(bug))?)))
}

struct Race {
    dice: Dice,
    bug: Option<Bug>,
    objects: Vec<Vec<u8>>,
    daemons: [Daemon; 3],
    last_epoch: u64,
    /// Frames whose writer was told that they are durable.
    told: Vec<Frame>,
    words: u64,
}

struct Daemon {
    log: Log,
    /// It has set its fence, and leads as far as it knows.
    epoch: Option<u64>,
    /// A frame that was sent and has not arrived: where to, and as which line.
    sent: Option<(u64, Frame, Vec<u8>)>,
}

impl Race {
    /// What breaks in the race of this seed.
    fn run(seed: u64, bug: Option<Bug>) -> Option<String> {
        let reader = || Daemon { log: Log::with(Bugs::only(bug)), epoch: None, sent: None };
        let daemons = [reader(), reader(), reader()];
        let (dice, objects, told) = (Dice::new(seed), vec![], vec![]);
        let mut race = Self { dice, bug, objects, daemons, last_epoch: 0, told, words: 0 };
        for _ in 0..STEPS {
            let one = usize::try_from(race.dice.below(3)).unwrap_or(0);
            let done = match race.dice.below(10) {
                0 => race.leads(one),
                1..=4 => race.records(one),
                5..=7 => race.arrives(one),
                8 => race.arrives_at_the_end(one),
                _ => race.read(one),
            };
            if let Err(broken) = done.and_then(|()| race.check()) {
                return Some(broken);
            }
        }
        None
    }

    fn read(&mut self, one: usize) -> Result<(), String> {
        let log = &mut self.daemons[one].log;
        for object in &self.objects[usize::try_from(log.slot).unwrap_or(0)..] {
            log.take(object)?;
        }
        let fence = log.fence;
        let epoch = &mut self.daemons[one].epoch;
        *epoch = epoch.filter(|epoch| *epoch >= fence);
        Ok(())
    }

    fn put(&mut self, slot: u64, object: &[u8]) -> bool {
        let is_free = slot == self.objects.len() as u64;
        if is_free {
            self.objects.push(object.to_vec());
        }
        is_free
    }

    fn leads(&mut self, one: usize) -> Result<(), String> {
        self.last_epoch += 1;
        let epoch = self.last_epoch;
        self.read(one)?;
        let fence = Fence { epoch, observer: "a".into(), run: one.to_string() }.body();
        let slot = self.daemons[one].log.slot;
        self.put(slot, &fence);
        self.daemons[one].epoch = Some(epoch);
        self.read(one)
    }

    fn records(&mut self, one: usize) -> Result<(), String> {
        let daemon = &mut self.daemons[one];
        let (Some(epoch), None) = (daemon.epoch, &daemon.sent) else { return Ok(()) };
        self.words += 1;
        let at = Now { monotonic: std::time::Duration::ZERO, wall: jiff::Timestamp::UNIX_EPOCH };
        let facts = match daemon.log.chain.next {
            0 => vec![Fact::LedgerCreated { ledger: "ledger".into() }],
            _ => vec![Fact::Resumed { by: format!("{one}: {}", self.words) }],
        };
        let frame = Frame { index: daemon.log.chain.next, epoch, at, facts };
        let (mut line, _) = codec::encode(daemon.log.chain.head, &frame).map_err(|error| error.to_string())?;
        line.pop();
        daemon.sent = Some((daemon.log.slot, frame, line));
        Ok(())
    }

    fn arrives(&mut self, one: usize) -> Result<(), String> {
        let Some((slot, frame, line)) = self.daemons[one].sent.take() else { return Ok(()) };
        if self.put(slot, &line) {
            self.told.push(frame);
        }
        self.read(one)
    }

    /// Not by the rules: nobody is told that it is durable.
    fn arrives_at_the_end(&mut self, one: usize) -> Result<(), String> {
        let is_late = self.daemons[one].sent.as_ref().is_some_and(|(_, frame, _)| frame.epoch < self.last_epoch);
        let Some((_, _, line)) = self.daemons[one].sent.take_if(|_| is_late) else { return Ok(()) };
        self.objects.push(line);
        self.read(one)
    }

    /// As whoever begins to read now has it.
    fn check(&self) -> Result<(), String> {
        let mut log = Log::with(Bugs::only(self.bug));
        let (mut fence, mut counted) = (0, vec![]);
        for object in &self.objects {
            let frame = log.take(object)?;
            let text = String::from_utf8_lossy(object);
            if let Some(set) = text.strip_prefix("fence ") {
                let set: Fence = serde_json::from_str(set).map_err(|error| error.to_string())?;
                fence = fence.max(set.epoch);
            }
            if let Some(frame) = frame {
                if frame.epoch < fence {
                    return Err(format!("a frame of epoch {} counts behind the fence of epoch {fence}", frame.epoch));
                }
                counted.push(frame);
            }
        }
        let places: BTreeSet<u64> = counted.iter().map(|frame| frame.index).collect();
        if places.len() != counted.len() {
            return Err("two frames count at one index".to_owned());
        }
        match self.told.iter().find(|told| !counted.contains(told)) {
            Some(lost) => Err(format!("frame {} of epoch {} was durable, and does not count", lost.index, lost.epoch)),
            None => Ok(()),
        }
    }
}
