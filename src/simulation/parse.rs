//! Reads a story. Every mistake names its line and what to write instead.

use std::time::Duration;

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::story::{Behaviour, Condition, Fate, Happening, LedgerBefore, Line, Order, Settings, Story, Which, Work};
use crate::domain::time::parse_duration;
use crate::domain::{InstanceId, Layer, StepId};

/// A line that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct StoryError {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong, and what to write.
    pub what: String,
}

/// What separates the story from what is expected to come of it.
pub const SEPARATOR: &str = "----";

/// Longest story that is read. A story is written by hand; this is a file of another kind.
const STORY_BYTES_MAX: usize = 1 << 20;
/// Longest time that a story may span: probes are simulated one by one.
const STORY_LASTS_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Reads a story.
///
/// # Errors
/// The first line that cannot be understood.
pub fn parse(text: &str) -> Result<Story, StoryError> {
    if text.len() > STORY_BYTES_MAX {
        return Err(StoryError { line: 1, what: format!("a story has at most {STORY_BYTES_MAX} bytes") });
    }
    let mut settings = Settings {
        config: None,
        overrides: Vec::new(),
        from: Timestamp::UNIX_EPOCH,
        ledger: LedgerBefore::Adopted,
        observers: Vec::new(),
        until: None,
        seed: None,
    };
    let mut lines: Vec<Line> = Vec::new();
    let mut told_to = text.len();
    let mut expected = None;
    let mut offset = 0;
    for (index, raw) in text.split_inclusive('\n').enumerate() {
        let start = offset;
        offset += raw.len();
        let number = index + 1;
        let at_line = |what: String| StoryError { line: number, what };
        if raw.trim() == SEPARATOR {
            told_to = start;
            expected = Some(text[offset..].to_owned());
            break;
        }
        let content = raw.split(" #").next().unwrap_or_default().trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let (first, rest) = content.split_once(char::is_whitespace).unwrap_or((content, ""));
        let rest = rest.trim();
        let is_time = first.starts_with('+') || first.starts_with(|c: char| c.is_ascii_digit());
        if is_time {
            let previous = lines.last().map_or(Duration::ZERO, |line| line.at);
            let at = moment(first, settings.from, previous).map_err(at_line)?;
            if at < previous {
                return Err(at_line("this happens before the line above; write the lines in order".to_owned()));
            }
            if at > STORY_LASTS_MAX {
                return Err(at_line("a story lasts at most seven days".to_owned()));
            }
            let happening = happening(rest).map_err(at_line)?;
            lines.push(Line { number, at, happening, text: rest.to_owned() });
        } else if lines.is_empty() {
            setting(&mut settings, first, rest).map_err(at_line)?;
        } else {
            return Err(at_line(format!(
                "`{first}` is no time; begin the line with one (`+2m30s` after the start, or `15:31:07`). Settings \
                 stand above the first line with a time"
            )));
        }
    }
    Ok(Story { settings, lines, expected, told: text[..told_to].to_owned() })
}

fn setting(settings: &mut Settings, name: &str, value: &str) -> Result<(), String> {
    match name {
        "config" if !value.is_empty() => settings.config = Some(value.to_owned()),
        "mode" if !value.is_empty() => settings.overrides.push(("deployment.mode".to_owned(), value.to_owned())),
        "set" => {
            let (key, value) = value
                .split_once(char::is_whitespace)
                .ok_or("write `set KEY VALUE`, such as `set guards.cooldown 30m`")?;
            settings.overrides.push((key.to_owned(), value.trim().to_owned()));
        }
        "from" => {
            settings.from = value
                .parse()
                .map_err(|_| format!("`{value}` is no time; write it as in `from 2018-10-21T22:52:00Z`"))?;
        }
        "until" => settings.until = Some(offset(value).ok_or_else(|| not_an_offset(value))?),
        "seed" => {
            let seed = value.parse().map_err(|_| format!("`{value}` is no seed; write a number, as in `seed 42`"))?;
            settings.seed = Some(seed);
        }
        "ledger" => {
            settings.ledger = match value {
                "adopted" => LedgerBefore::Adopted,
                "empty" => LedgerBefore::Empty,
                other => return Err(format!("`{other}` is no ledger; write `ledger adopted` or `ledger empty`")),
            };
        }
        "observers" if !value.is_empty() => {
            for observer in value.split_whitespace() {
                let (name, region) =
                    observer.split_once('@').ok_or_else(|| format!("`{observer}`: write NAME@REGION"))?;
                settings.observers.push((name.into(), region.into()));
            }
        }
        other => {
            return Err(format!(
                "`{other}` is no setting; there are config, mode, set, from, until, seed, ledger and observers. Something \
                 that happens begins with a time, such as `+30s`"
            ));
        }
    }
    Ok(())
}

fn moment(text: &str, from: Timestamp, previous: Duration) -> Result<Duration, String> {
    if !text.contains(':') {
        return offset(text).ok_or_else(|| not_an_offset(text));
    }
    let time: Time = text.parse().map_err(|_| format!("`{text}` is no time of day; write it as 15:31 or 15:31:07"))?;
    let start = from.to_zoned(TimeZone::UTC);
    let mut at = start.with().time(time).build().map_err(|error| error.to_string())?.timestamp();
    // The story goes on past midnight.
    let mut after = Duration::try_from(at.duration_since(from)).ok();
    while after.is_none_or(|after| after < previous) {
        at += jiff::SignedDuration::from_hours(24);
        after = Duration::try_from(at.duration_since(from)).ok();
    }
    Ok(after.unwrap_or_default())
}

fn offset(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('+')?;
    if text == "0" { Some(Duration::ZERO) } else { parse_duration(text).ok() }
}

fn not_an_offset(text: &str) -> String {
    format!("`{text}` is no time; write `+0`, `+30s`, `+2m30s` after the start of the story, or a time of day")
}

/// Words one after the other, with errors that say what was expected.
struct Words<'a> {
    rest: &'a str,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest.trim_start();
        if rest.is_empty() {
            return None;
        }
        let (word, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        self.rest = rest;
        Some(word)
    }

    fn expect(&mut self, what: &str) -> Result<&'a str, String> {
        self.next().ok_or_else(|| format!("{what} is missing"))
    }

    fn duration(&mut self, example: &str) -> Result<Duration, String> {
        let word = self.expect(&format!("a duration (`{example}`)"))?;
        parse_duration(word).map_err(|error| error.to_string())
    }

    /// Everything that is left, as one text; a default where there is nothing.
    fn text(&mut self, default: &str) -> String {
        let text = self.rest.trim();
        let text = if text.is_empty() { default } else { text };
        self.rest = "";
        text.to_owned()
    }

    fn end<T>(mut self, value: T) -> Result<T, String> {
        match self.next() {
            None => Ok(value),
            Some(word) => Err(format!("`{word}` is too much here")),
        }
    }
}

fn happening(text: &str) -> Result<Happening, String> {
    let mut words = Words { rest: text };
    let subject = words.expect("what happens")?;
    if let Some((component, region)) = subject.split_once('@') {
        let which = if component == "everything" {
            Which::Region(region.into())
        } else {
            Which::Instance(subject.parse::<InstanceId>().map_err(|error| error.to_string())?)
        };
        let condition = condition(&mut words)?;
        return words.end(Happening::Instances { which, condition });
    }
    match subject {
        "references" => {
            let answers = answers(words.expect("`fail` or `answer`")?)?;
            words.end(Happening::References { which: None, answers })
        }
        "reference" => {
            let which = Some(words.expect("the name of a reference point")?.into());
            let answers = answers(words.expect("`fails` or `answers`")?)?;
            words.end(Happening::References { which, answers })
        }
        "link" => {
            let first = words.expect("`cut` or `restored`, or two regions")?;
            if let Some(cut) = is_cut(first) {
                return words.end(Happening::Link { cut });
            }
            let mut second = words.expect("`to`, or a second region")?;
            let one_way = second == "to";
            if one_way {
                second = words.expect("the region that cannot be reached")?;
            }
            let state = words.expect("`cut` or `restored`")?;
            let cut = is_cut(state).ok_or_else(|| format!("a link is `cut` or `restored`, not `{state}`"))?;
            words.end(Happening::Partition { between: (first.into(), second.into()), one_way, cut })
        }
        "ledger" => {
            let first = words.expect("`fails`, `answers` or a region")?;
            if let Ok(answers) = answers(first) {
                return words.end(Happening::Ledger { member: None, answers });
            }
            let answers = answers(words.expect("`fails` or `answers`")?)?;
            words.end(Happening::Ledger { member: Some(first.into()), answers })
        }
        "observer" => {
            let observer = words.expect("the name of an observer")?.into();
            let fate = fate(&mut words)?;
            words.end(Happening::Observer { observer, fate })
        }
        "pause" => {
            let lasting = words.duration("pause 6m")?;
            words.end(Happening::Pause(lasting))
        }
        "restart" => {
            let lasting = if words.rest.trim().is_empty() { Duration::from_secs(1) } else { words.duration("5s")? };
            words.end(Happening::Restart(lasting))
        }
        "operator" => {
            let order = order(&mut words)?;
            words.end(Happening::Operator(order))
        }
        "claim" => {
            let region = words.expect("a region")?.into();
            let ledger = words.expect("the id of another ledger")?.into();
            words.end(Happening::Claimed { region, ledger })
        }
        "step" => {
            let step = StepId::from(words.expect("the name of a step")?);
            let behaviour = behaviour(&mut words)?;
            words.end(Happening::Works { work: Work::Step(step), behaviour })
        }
        other => match Work::NAMED.into_iter().find(|(name, _)| *name == other) {
            Some((_, work)) => {
                let behaviour = behaviour(&mut words)?;
                words.end(Happening::Works { work, behaviour })
            }
            None => Err(format!(
                "`{other}` is nothing that something can happen to; write an instance (database@us-east-1, \
                 everything@us-east-1), references, reference NAME, link, ledger, observer NAME, pause, restart, operator, claim, \
                 step NAME, \
                 or a kind of work ({})",
                Work::NAMED.map(|(name, _)| name).join(", ")
            )),
        },
    }
}

fn fate(words: &mut Words<'_>) -> Result<Fate, String> {
    Ok(match words.expect("what happens to it")? {
        "falls-silent" => Fate::FallsSilent,
        "is-back" => Fate::IsBack,
        "halts" => Fate::Halts,
        "stops" => Fate::Stops(words.duration("stops 30s")?),
        "pauses" => Fate::Pauses(words.duration("pauses 6m")?),
        "is-suspended" => Fate::IsSuspended(words.duration("is-suspended 6m")?),
        "link" => match words.next().and_then(is_cut) {
            Some(cut) => Fate::LinkCut(cut),
            None => return Err("the link of an observer is `cut` or `restored`".to_owned()),
        },
        "clock" => {
            let word = words.expect("by how much (`+5m`, `-30s`)")?;
            let by = word.strip_prefix(['+', '-']).and_then(|by| parse_duration(by).ok());
            let by = by.and_then(|by| SignedDuration::try_from(by).ok());
            let by = by.ok_or_else(|| format!("`{word}`: a clock steps by `+5m` or `-30s`"))?;
            Fate::ClockSteps(if word.starts_with('-') { -by } else { by })
        }
        other => {
            return Err(format!(
                "an observer does not `{other}`; there are falls-silent, is-back, halts, stops D, pauses D, is-suspended \
                 D, link cut, link restored and clock +D or -D"
            ));
        }
    })
}

fn is_cut(word: &str) -> Option<bool> {
    match word {
        "cut" => Some(true),
        "restored" => Some(false),
        _ => None,
    }
}

fn answers(word: &str) -> Result<bool, String> {
    match word {
        "answer" | "answers" => Ok(true),
        "fail" | "fails" => Ok(false),
        other => Err(format!("a reference point `fails` or `answers`, it does not `{other}`")),
    }
}

fn condition(words: &mut Words<'_>) -> Result<Condition, String> {
    match words.expect("what happens to it")? {
        "answers" => Ok(Condition::Answers),
        "fails" => {
            let layer = layer(words.next().unwrap_or("tcp"))?;
            let mut percent = 100;
            let rest = words.rest.trim_start();
            if let Some((number, rest)) = rest.split_once('%')
                && let Ok(share) = number.parse::<u8>()
                && share <= 100
            {
                percent = share;
                words.rest = rest;
            }
            let why = words.text("");
            Ok(Condition::Fails { layer, percent, why: (!why.is_empty()).then_some(why) })
        }
        "flaps" => {
            let help = "write `flaps every 20s for 10s`";
            if words.next() != Some("every") {
                return Err(help.to_owned());
            }
            let every = words.duration("every 20s")?;
            if words.next() != Some("for") {
                return Err(help.to_owned());
            }
            let lasting = words.duration("for 10s")?;
            if every.is_zero() || lasting > every {
                return Err("what flaps fails for a part of each round; `every` is longer than `for`".to_owned());
            }
            Ok(Condition::Flaps { every, lasting })
        }
        "unknown" => Ok(Condition::Unknown(words.text("our resolver does not answer"))),
        "refuses-credential" => Ok(Condition::RefusesCredential),
        "degraded" => Ok(Condition::Degraded(words.text("slow answers"))),
        "not-ready" => Ok(Condition::NotReady(words.text("it could not take over"))),
        "backing-up" => Ok(Condition::NotReady(
            "the instance is backing-up, and a replica that is being backed up cannot be promoted".to_owned(),
        )),
        "lags" => Ok(Condition::Lags(words.duration("lags 20m")?)),
        "runs" => {
            let (ready, workload) = (count(words)?, words.expect("the name of a workload")?.to_owned());
            let until_restarted = match words.next() {
                None => false,
                Some("until-restarted") => true,
                Some(other) => {
                    return Err(format!("write `runs 3 web` or `runs 3 web until-restarted`, not `{other}`"));
                }
            };
            Ok(Condition::Runs { ready, workload, until_restarted })
        }
        "loses-zone" => Ok(Condition::LosesZone(words.expect("the name of a zone")?.to_owned())),
        "reschedules" => Ok(Condition::Reschedules),
        "is-scaled-to" => {
            let (replicas, workload) = (count(words)?, words.expect("the name of a workload")?.to_owned());
            Ok(Condition::Scaled { replicas, workload })
        }
        other => Err(format!(
            "nothing can `{other}`; there are answers, fails LAYER [40%] [WHY], flaps every D for D, unknown [WHY], \
             refuses-credential, degraded [WHY], not-ready WHY, backing-up, lags D, runs N WORKLOAD [until-restarted] and \
             is-scaled-to N WORKLOAD, loses-zone ZONE, reschedules"
        )),
    }
}

fn count(words: &mut Words<'_>) -> Result<u32, String> {
    let word = words.expect("a number of replicas")?;
    word.parse().map_err(|_| format!("`{word}` is no number of replicas"))
}

fn layer(word: &str) -> Result<Layer, String> {
    [Layer::Dns, Layer::Tcp, Layer::Tls, Layer::Greeting, Layer::Query, Layer::Role, Layer::Write]
        .into_iter()
        .find(|layer| layer.to_string() == word)
        .ok_or_else(|| format!("`{word}` is no layer; there are dns, tcp, tls, greeting, query, role and write"))
}

fn behaviour(words: &mut Words<'_>) -> Result<Behaviour, String> {
    match words.expect("how it goes")? {
        "works" | "answers" => Ok(Behaviour::Works),
        "takes" => Ok(Behaviour::Takes(words.duration("takes 3m")?)),
        "refuses" => Ok(Behaviour::Refuses(words.text("AccessDenied"))),
        "hangs" => Ok(Behaviour::Hangs),
        "unreachable" => Ok(Behaviour::Unreachable),
        other => {
            Err(format!("work does not go `{other}`; there are works, takes D, refuses WHY, hangs and unreachable"))
        }
    }
}

fn order(words: &mut Words<'_>) -> Result<Order, String> {
    Ok(match words.expect("an order")? {
        "approve" => {
            let (mut accept_unfenced, mut accept_loss) = (false, None);
            while let Some(word) = words.next() {
                match word {
                    "accept-unfenced" => accept_unfenced = true,
                    "accept-loss" => accept_loss = Some(words.duration("accept-loss 20m")?),
                    other => return Err(format!("approve takes accept-unfenced and accept-loss D, not `{other}`")),
                }
            }
            Order::Approve { accept_unfenced, accept_loss }
        }
        "hold" => Order::Hold,
        "pause" => Order::Pause { lasting: words.duration("pause 30m")?, reason: words.text("") },
        "resume" => Order::Resume,
        "failover" => {
            let from = words.expect("the region that is left")?.into();
            let (mut component, mut force) = (None, false);
            while let Some(word) = words.next() {
                if word == "force" {
                    force = true;
                } else {
                    component = Some(word.into());
                }
            }
            Order::Failover { from, component, force }
        }
        "switchover" => {
            let from = words.expect("the region that is left")?.into();
            Order::Switchover { from, component: words.next().map(Into::into) }
        }
        "failback" => Order::Failback,
        "continue" => Order::Continue,
        "rejoin" => {
            let database = words.expect("the old primary, as database@region")?;
            let database = database.parse().map_err(|_| format!("`{database}` is no database@region"))?;
            match words.next() {
                None => Order::Rejoin { database, discard: false },
                Some("discard") => Order::Rejoin { database, discard: true },
                Some(other) => return Err(format!("rejoin takes `discard` or nothing, not `{other}`")),
            }
        }
        "ack" => match words.next() {
            None => Order::Ack { false_positive: false },
            Some("false-positive") => Order::Ack { false_positive: true },
            Some(other) => return Err(format!("ack takes `false-positive` or nothing, not `{other}`")),
        },
        "retry" => Order::Retry(words.expect("the name of a step")?.into()),
        "skip" => Order::Skip(words.expect("the name of a step")?.into()),
        "abort" => match words.next() {
            None => Order::Abort { standby_lost: false },
            Some("standby-lost") => Order::Abort { standby_lost: true },
            Some(other) => return Err(format!("abort takes `standby-lost` or nothing, not `{other}`")),
        },
        "helps" => Order::Help,
        "adopt" => {
            let mut placement = Vec::new();
            while let Some(word) = words.next() {
                let (component, region) =
                    word.split_once('=').ok_or_else(|| format!("`{word}`: write adopt database=us-west-2"))?;
                placement.push((component.into(), region.into()));
            }
            Order::Adopt(placement)
        }
        "merge" => {
            let ledger = words.expect("the id of break-glass's ledger")?.into();
            let (mut placement, mut owed) = (Vec::new(), Vec::new());
            while let Some(word) = words.next() {
                match word.split_once('=') {
                    Some(("owes", database)) => owed.push(database.parse().map_err(|_| format!("`{database}`?"))?),
                    Some((component, region)) => placement.push((component.into(), region.into())),
                    None => {
                        return Err(format!("`{word}`: write merge LEDGER database=us-west-2 owes=database@us-east-1"));
                    }
                }
            }
            Order::Merge { ledger, placement, owed }
        }
        other => {
            return Err(format!(
                "an operator cannot `{other}`; there are approve, hold, pause, resume, failover, switchover, rejoin, failback, continue, ack, retry, skip, \
                 abort, adopt, merge and helps"
            ));
        }
    })
}
