//! `failoverd probe`: one round against everything, now, from here.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use serde::Serialize;

use super::render::{Column, Ink, Palette, Symbol, Table};
use super::{Exit, Failure, Outcome, Terminal};
use crate::adapters::world;
use crate::config::Loaded;
use crate::daemon::clock::SystemClock;
use crate::daemon::prober::observe_once;
use crate::domain::time::friendly;
use crate::domain::{Finding, HOLDINGS, Observation, ReferenceId, Serving};
use crate::ports::Clock;

/// Asks everything once, all at the same time, and shows what was found. `No` unless everything is alive and some
/// reference point answers.
pub async fn run(loaded: Loaded, json: bool, terminal: Terminal) -> Outcome {
    let round = Round::make(loaded).await?;
    if json {
        terminal.print_json(&round)?;
    } else {
        terminal.print(&render(&round, terminal.palette()))?;
    }
    Ok(if round.is_well() { Exit::Ok } else { Exit::No })
}

/// Everything that one round found.
#[derive(Debug, Serialize)]
struct Round {
    instances: Vec<Observation>,
    references: Vec<Answer>,
    /// What the tertiary region is supposed to hold.
    holdings: Vec<Observation>,
}

/// What a reference point said.
#[derive(Debug, Serialize)]
struct Answer {
    reference: ReferenceId,
    answered: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(with = "friendly")]
    took: Duration,
}

enum Found {
    Instance(Box<Observation>),
    Reference(Answer),
}

impl Round {
    async fn make(loaded: Loaded) -> Result<Self, Failure> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let config = Arc::new(loaded.config);
        let adapters =
            world::build(&config, &loaded.policy, &clock).map_err(|error| Failure::new(Exit::Configuration, error))?;
        let mut pending: FuturesUnordered<BoxFuture<'static, Found>> = FuturesUnordered::new();
        for (instance, probing, probe) in adapters.probes {
            let clock = clock.clone();
            pending.push(Box::pin(async move {
                Found::Instance(Box::new(observe_once(&instance, probing, &*probe, &*clock).await))
            }));
        }
        for (reference, probing, probe) in adapters.references {
            let clock = clock.clone();
            pending.push(Box::pin(async move {
                let began = clock.now().monotonic;
                let answer = tokio::time::timeout(probing.timeout, probe.ask()).await;
                let took = clock.now().monotonic.saturating_sub(began);
                let answer = answer.unwrap_or_else(|_late| Err(format!("no answer within {:?}", probing.timeout)));
                Found::Reference(Answer { reference, answered: answer.is_ok(), why: answer.err(), took })
            }));
        }
        let mut round = Self { instances: Vec::new(), references: Vec::new(), holdings: Vec::new() };
        let mut progress = Progress::new(pending.len());
        while let Some(found) = pending.next().await {
            progress.one_more();
            match found {
                Found::Instance(observation) => {
                    let holds = observation.instance.component.as_str() == HOLDINGS;
                    if holds { &mut round.holdings } else { &mut round.instances }.push(*observation);
                }
                Found::Reference(answer) => round.references.push(answer),
            }
        }
        progress.done();
        round.instances.sort_by(|a, b| a.instance.cmp(&b.instance));
        round.holdings.sort_by(|a, b| a.instance.cmp(&b.instance));
        round.references.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(round)
    }

    fn is_well(&self) -> bool {
        let mut all = self.instances.iter().chain(&self.holdings);
        let references_answer = self.references.is_empty() || self.references.iter().any(|answer| answer.answered);
        all.all(|observation| observation.finding == Finding::Alive) && references_answer
    }
}

/// A line on standard error that says how far it got, where somebody watches.
struct Progress {
    all: usize,
    done: usize,
    shown: bool,
}

impl Progress {
    fn new(all: usize) -> Self {
        let progress = Self { all, done: 0, shown: std::io::stderr().is_terminal() };
        progress.show();
        progress
    }

    fn one_more(&mut self) {
        self.done += 1;
        self.show();
    }

    fn show(&self) {
        if self.shown {
            // Nobody reads it any more if it cannot be written.
            let _ = write!(std::io::stderr(), "\rprobing: {} of {} answered", self.done, self.all);
        }
    }

    fn done(&self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
    }
}

fn render(round: &Round, palette: Palette) -> String {
    let mut text = String::new();
    section(&mut text, palette, "instances", &round.instances);
    if !round.references.is_empty() {
        heading(&mut text, palette, "reference points");
        let mut table = Table::new(2, vec![Column::Fixed, Column::Fixed, Column::Fixed, Column::Flexible]);
        for answer in &round.references {
            let (symbol, ink, word) = match answer.answered {
                true => (Symbol::Good, Ink::Good, "answers"),
                false => (Symbol::Bad, Ink::Bad, "silent"),
            };
            table.row([
                (Ink::Plain, answer.reference.to_string()),
                (ink, format!("{} {word}", palette.symbol(symbol))),
                (Ink::Faint, milliseconds(answer.took)),
                (Ink::Plain, answer.why.clone().unwrap_or_default()),
            ]);
        }
        text.push_str(&table.render(palette));
    }
    if !round.holdings.is_empty() {
        section(&mut text, palette, "holdings for a rebuild", &round.holdings);
    }
    text.push_str(&verdict(round, palette));
    text
}

fn heading(text: &mut String, palette: Palette, title: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(&palette.ink(Ink::Heading, title));
    text.push('\n');
}

fn section(text: &mut String, palette: Palette, title: &str, observations: &[Observation]) {
    heading(text, palette, title);
    let mut table = Table::new(2, vec![Column::Fixed, Column::Fixed, Column::Fixed, Column::Fixed, Column::Flexible]);
    for observation in observations {
        let (symbol, ink, word) = state(observation);
        let latency = observation.evidence.latency.map(milliseconds).unwrap_or_default();
        table.tall_row(vec![
            vec![(Ink::Plain, observation.instance.to_string())],
            vec![(ink, format!("{} {word}", palette.symbol(symbol)))],
            vec![(Ink::Faint, latency)],
            vec![(Ink::Plain, serving(observation))],
            remarks(observation),
        ]);
    }
    text.push_str(&table.render(palette));
}

fn state(observation: &Observation) -> (Symbol, Ink, String) {
    let evidence = &observation.evidence;
    match &observation.finding {
        Finding::Alive if evidence.credential_refused => {
            (Symbol::Warning, Ink::Warning, "alive, refuses us".to_owned())
        }
        Finding::Alive if evidence.degraded.is_some() => (Symbol::Warning, Ink::Warning, "degraded".to_owned()),
        Finding::Alive if !evidence.not_ready.is_empty() => {
            (Symbol::Warning, Ink::Warning, "alive, not ready".to_owned())
        }
        Finding::Alive => (Symbol::Good, Ink::Good, "alive".to_owned()),
        Finding::Failing { layer, .. } => (Symbol::Bad, Ink::Bad, format!("failing at {layer}")),
        Finding::Unknown { .. } => (Symbol::Unknown, Ink::Warning, "unknown".to_owned()),
    }
}

fn serving(observation: &Observation) -> String {
    let role = match observation.evidence.serving {
        Some(Serving::Writable) => "writable",
        Some(Serving::Replica) => "replica",
        None => return String::new(),
    };
    match observation.evidence.position {
        // As PostgreSQL writes it.
        Some(position) => format!("{role} {:X}/{:X}", position >> 32, position & 0xFFFF_FFFF),
        None => role.to_owned(),
    }
}

/// Why, what is in the way, what is worth a look, and the rest on one faint line.
fn remarks(observation: &Observation) -> Vec<(Ink, String)> {
    let evidence = &observation.evidence;
    let mut lines = Vec::new();
    match &observation.finding {
        Finding::Failing { why, .. } => lines.push((Ink::Bad, why.clone())),
        Finding::Unknown { why } => lines.push((Ink::Warning, why.clone())),
        Finding::Alive => {}
    }
    lines.extend(evidence.degraded.iter().map(|why| (Ink::Warning, why.clone())));
    lines.extend(evidence.not_ready.iter().map(|why| (Ink::Warning, format!("could not take over: {why}"))));
    lines.extend(evidence.warnings.iter().map(|warning| (Ink::Warning, warning.clone())));
    if !evidence.details.is_empty() {
        lines.push((Ink::Faint, evidence.details.join(" ")));
    }
    lines
}

fn verdict(round: &Round, palette: Palette) -> String {
    let count = |test: fn(&Finding) -> bool| {
        round.instances.iter().chain(&round.holdings).filter(|observation| test(&observation.finding)).count()
    };
    let all = round.instances.len() + round.holdings.len();
    let failing = count(|finding| matches!(finding, Finding::Failing { .. }));
    let unknown = count(|finding| matches!(finding, Finding::Unknown { .. }));
    let mut text = format!("\n{} of {all} alive", all - failing - unknown);
    if failing > 0 {
        text.push_str(&format!(", {}", palette.ink(Ink::Bad, &format!("{failing} failing"))));
    }
    if unknown > 0 {
        text.push_str(&format!(", {}", palette.ink(Ink::Warning, &format!("{unknown} unknown"))));
    }
    if !round.references.is_empty() && round.references.iter().all(|answer| !answer.answered) {
        let doubt = "no reference point answers: the trouble may be here";
        text.push_str(&format!("; {}", palette.ink(Ink::Bad, doubt)));
    }
    text.push('\n');
    text
}

fn milliseconds(duration: Duration) -> String {
    match duration.as_millis() {
        0..10 => format!("{:.1} ms", duration.as_secs_f64() * 1000.0),
        all => format!("{all} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Evidence, InstanceId, Layer};

    fn observation(instance: &str, finding: Finding, evidence: Evidence) -> Observation {
        let instance: InstanceId = instance.parse().unwrap();
        Observation { instance, began: Duration::ZERO, ended: Duration::ZERO, finding, evidence }
    }

    fn round() -> Round {
        let latency = |ms| Some(Duration::from_millis(ms));
        let primary = Evidence {
            latency: latency(12),
            serving: Some(Serving::Writable),
            position: Some(0x0001_6B37_4D58),
            ..Evidence::default()
        };
        let cluster = Evidence {
            latency: latency(3),
            not_ready: vec!["deployment core: 1 of 2 standby replicas ready".into()],
            details: vec!["version=v1.20.2".into(), "core=1/2".into()],
            ..Evidence::default()
        };
        let refused = Finding::Failing { layer: Layer::Tcp, why: "127.0.0.1:5432: Connection refused".into() };
        Round {
            instances: vec![
                observation("database@east", Finding::Alive, primary),
                observation("database@west", refused, Evidence::default()),
                observation("kubernetes@west", Finding::Alive, cluster),
                observation("web@east", Finding::Unknown { why: "no route".into() }, Evidence::default()),
            ],
            references: vec![
                Answer { reference: "dns".into(), answered: true, why: None, took: Duration::from_micros(800) },
                Answer {
                    reference: "status".into(),
                    answered: false,
                    why: Some("no connection within 3.0 s".into()),
                    took: Duration::from_secs(3),
                },
            ],
            holdings: vec![],
        }
    }

    #[test]
    fn a_round_reads_as_a_table_without_colours_where_there_are_none() {
        let text = render(&round(), Palette::new(false, true, 100));
        insta::assert_snapshot!(text, @"
        instances
          database@east    ✓ alive             12 ms   writable 1/6B374D58
          database@west    ✗ failing at tcp                                 127.0.0.1:5432: Connection
                                                                            refused
          kubernetes@west  ! alive, not ready  3.0 ms                       could not take over: deployment
                                                                            core: 1 of 2 standby replicas
                                                                            ready
                                                                            version=v1.20.2 core=1/2
          web@east         ? unknown                                        no route

        reference points
          dns     ✓ answers  0.8 ms
          status  ✗ silent   3000 ms  no connection within 3.0 s

        2 of 4 alive, 1 failing, 1 unknown
        ");
    }

    #[test]
    fn one_failing_instance_is_enough_for_a_no() {
        let mut round = round();
        assert!(!round.is_well());
        round.instances.retain(|observation| observation.finding == Finding::Alive);
        assert!(round.is_well());
        for answer in &mut round.references {
            answer.answered = false;
        }
        assert!(!round.is_well(), "no reference point answers");
    }
}
