//! From the moment a trigger's window is full to the first effect sent, while a thousand instances are probed once a
//! second: the real daemon, its event loop, its ledger on a disk that has to sync, and its clients.
//!
//! Buckets fail one after the other, each in a window of its own that is full at a known moment: the start of the first
//! failed probe, as the ledger has it, and the trigger's `after`. The first effect of the plan is the declaration in the
//! clusters; what is measured is when its first request *arrives* at the API server, which is another process.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use failoverd::decide::{Fact, Frame};
use serde_json::Value;

use crate::daemon::Daemon;
use crate::probing::{add_services, buckets};
use crate::servers::Servers;
use crate::table::{Figure, Goal};

/// Triggers; those whose window is full while another incident is still under way are left out.
const BUCKETS: usize = 150;
/// With two instances each, and two clusters, these make 1,000.
const SERVICES: usize = 349;
const SAMPLES_MIN: usize = 100;
const AFTER: Duration = Duration::from_secs(4);
/// Between two failures; not a divisor of the interval, so that they do not fall into step with the probes.
const APART: Duration = Duration::from_millis(670);
/// The goal's percentile.
const TAIL: f64 = 0.99;

/// One trigger.
struct Sample {
    /// Full to decided.
    decided: f64,
    /// Full to the first request, in milliseconds.
    sent: f64,
    /// Full to the first request that changes something.
    changed: f64,
}

/// In milliseconds.
pub(crate) fn measure(folder: &Path) -> Result<Vec<Figure>> {
    let servers = Servers::start(folder)?;
    let daemon = Daemon::start(&folder.join("latency"), "automatic", &config(&servers, folder))?;
    daemon.all_alive(Duration::from_secs(60))?;
    daemon.adopt()?;
    std::thread::sleep(Duration::from_secs(3));
    for n in 0..BUCKETS {
        servers.tell(&format!("fail/bucket-{n}-east"))?;
        std::thread::sleep(APART);
    }
    std::thread::sleep(AFTER + Duration::from_secs(4));
    let frames = failoverd::ledger::read(&daemon.ledger, 0)?.frames;
    let log: Vec<Value> = serde_json::from_str(&servers.tell("log")?)?;
    let samples = samples(&frames, &log)?;
    ensure!(samples.len() >= SAMPLES_MIN, "only {} triggers could be measured", samples.len());
    let sorted = |of: fn(&Sample) -> f64| {
        let mut values: Vec<f64> = samples.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let (sent, decided, changed) = (sorted(|s| s.sent), sorted(|s| s.decided), sorted(|s| s.changed));
    let note = format!(
        "{} triggers: median {:.1}, longest {:.1}; decided after {:.1} (median); first change {:.1} (99 %)",
        samples.len(),
        percentile(&sent, 0.5),
        percentile(&sent, 1.0),
        percentile(&decided, 0.5),
        percentile(&changed, TAIL),
    );
    Ok(vec![Figure {
        name: "latency".to_owned(),
        what: "window full to first effect at its server, 99 % of the triggers, 1,000 instances probed".to_owned(),
        value: percentile(&sent, TAIL),
        unit: "ms",
        goal: Some(Goal::Below(50.0)),
        note,
    }])
}

/// The smallest value that so many are not above: of 100, the 99th.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn samples(frames: &[Frame], log: &[Value]) -> Result<Vec<Sample>> {
    let nanoseconds = |time: jiff::Timestamp| time.as_nanosecond() as f64;
    let after = AFTER.as_nanos() as f64;
    let mut open = BTreeSet::new();
    let mut free_since = 0.0;
    let mut samples = Vec::new();
    for frame in frames {
        for fact in &frame.facts {
            if let Fact::IncidentDeclared { incident, first_failing, .. } = fact {
                let full = nanoseconds(*first_failing) + after;
                // While another plan was under way, its requests could be taken for this one's.
                if open.is_empty() && full > free_since {
                    let first = |changes: bool| {
                        log.iter()
                            .filter(|request| request["path"].as_str().is_some_and(|path| path.ends_with("/dr-mode")))
                            .filter(|request| !changes || request["method"] != "GET")
                            .filter_map(|request| request["at"].as_f64())
                            .find(|at| *at >= full)
                            .context("no effect was seen")
                    };
                    samples.push(Sample {
                        decided: (nanoseconds(frame.at.wall) - full) / 1e6,
                        sent: (first(false)? - full) / 1e6,
                        changed: (first(true)? - full) / 1e6,
                    });
                }
                open.insert(incident.clone());
            }
            if let Fact::IncidentClosed { incident, .. } = fact {
                open.remove(incident);
                free_since = nanoseconds(frame.at.wall);
            }
        }
    }
    Ok(samples)
}

fn config(servers: &Servers, folder: &Path) -> String {
    let trigger = format!("trigger = {{ after = \"{}s\" }}", AFTER.as_secs());
    let mut text = buckets(servers, folder, BUCKETS, &trigger);
    text.push_str("[guards]\nincidents_per_day = 100000\n[clusters.kubernetes]\nnamespace = \"bench\"\n");
    for (region, host) in [("east", "127.0.0.1"), ("west", "127.0.0.2")] {
        let _ = writeln!(text, "[clusters.kubernetes.regions.{region}]\nserver = \"https://{host}:{}\"", servers.https);
        let _ = writeln!(text, "token = \"bench\"");
    }
    add_services(&mut text, servers, "http", false, SERVICES);
    // A second kind of evidence, without which `automatic` is refused.
    text.replacen("[http.service-0]\n", "[http.service-0]\nclient_path = true\n", 1)
}
