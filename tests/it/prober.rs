//! The schedules, with probes that hang, panic and block.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use failoverd::daemon::clock::SystemClock;
use failoverd::daemon::prober::{Prober, Probes, Sighting};
use failoverd::domain::{Evidence, Finding, InstanceId, Layer, Observation, Probing};
use failoverd::ports::{Probe, ReferenceProbe};
use tokio::sync::mpsc;

const FAST: Probing = Probing { interval: Duration::from_millis(100), timeout: Duration::from_millis(200) };

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_hangs_or_panics_delays_nobody_and_goes_on_itself() {
    let seen = watch(vec![instance("good", Does::Answer), instance("stuck", Does::Hang), instance("bad", Does::Panic)])
        .for_a(Duration::from_secs(3))
        .await;
    assert!(seen["good"].len() >= 20, "{}", seen["good"].len());
    assert!(seen["good"].iter().all(|found| *found == Finding::Alive));
    assert!(seen["stuck"].len() >= 3, "{}", seen["stuck"].len());
    assert!(seen["stuck"].iter().all(|found| matches!(found, Finding::Failing { layer: Layer::Query, .. })));
    assert!(seen["bad"].len() >= 20, "{}", seen["bad"].len());
    let says_so = |found: &Finding| matches!(found, Finding::Unknown { why } if why.contains("boom"));
    assert!(seen["bad"].iter().all(says_so), "{:?}", seen["bad"][0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_has_at_most_one_probe_in_flight() {
    let overlaps = Arc::new(Overlaps::default());
    let slow = (InstanceId::new("slow", "east"), FAST, Box::new(Slow(overlaps.clone())) as Box<dyn Probe>);
    watch(vec![slow]).for_a(Duration::from_secs(2)).await;
    assert_eq!(overlaps.most.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_channel_holds_probes_back_and_loses_none() {
    let (out, mut sightings) = mpsc::channel(1);
    let prober = Prober::start(vec![instance("good", Does::Answer)], vec![], 0.0, Arc::new(SystemClock), out);
    let counters = prober.counters();
    // One is in the channel and one waits to get in; the schedule rests.
    tokio::time::sleep(Duration::from_millis(1000)).await;
    let rested = counters.probes.load(Ordering::Relaxed);
    assert_eq!(rested, 2);
    for _ in 0..5 {
        assert!(sightings.recv().await.is_some());
    }
    assert!(counters.starts_skipped.load(Ordering::Relaxed) >= 3);
    prober.stop().await;
    while sightings.recv().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn reference_points_are_asked_on_their_own_schedule() {
    let (out, mut sightings) = mpsc::channel(16);
    let silent = ("silent".into(), FAST, Box::new(Silent) as Box<dyn ReferenceProbe>);
    let _prober = Prober::start(vec![], vec![silent], 0.1, Arc::new(SystemClock), out);
    match sightings.recv().await {
        Some(Sighting::Reference(seen)) => assert!(seen.answer.is_err_and(|why| why.contains("no answer within"))),
        other => panic!("{other:?}"),
    }
}

/// A thread that is blocked for longer than timeout and slack is how a stopped process looks from inside.
#[tokio::test(flavor = "current_thread")]
async fn what_was_in_flight_while_we_were_stopped_is_unknown() {
    let seen =
        watch(vec![instance("stuck", Does::Hang), instance("stop", Does::Block)]).for_a(Duration::from_secs(3)).await;
    let unknown =
        seen["stuck"].iter().filter(|found| matches!(found, Finding::Unknown { why } if why.contains("stalled")));
    assert!(unknown.count() >= 1, "{:?}", seen["stuck"]);
}

#[derive(Clone, Copy)]
enum Does {
    Answer,
    Hang,
    Panic,
    Block,
}

struct Scripted {
    instance: InstanceId,
    does: Does,
}

#[async_trait]
impl Probe for Scripted {
    async fn observe(&self, began: Duration) -> Observation {
        match self.does {
            Does::Answer => {}
            Does::Hang => std::future::pending().await,
            Does::Panic => panic!("boom"),
            Does::Block => std::thread::sleep(Duration::from_millis(1200)),
        }
        alive(&self.instance, began)
    }
}

#[derive(Default)]
struct Overlaps {
    running: AtomicUsize,
    most: AtomicUsize,
}

/// Takes longer than its interval and shorter than its timeout.
struct Slow(Arc<Overlaps>);

#[async_trait]
impl Probe for Slow {
    async fn observe(&self, began: Duration) -> Observation {
        let running = self.0.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most.fetch_max(running, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(150)).await;
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        alive(&InstanceId::new("slow", "east"), began)
    }
}

struct Silent;

#[async_trait]
impl ReferenceProbe for Silent {
    async fn ask(&self) -> Result<(), String> {
        std::future::pending().await
    }
}

fn alive(instance: &InstanceId, began: Duration) -> Observation {
    let evidence = Evidence::default();
    Observation { instance: instance.clone(), began, ended: began, finding: Finding::Alive, evidence }
}

fn instance(name: &str, does: Does) -> (InstanceId, Probing, Box<dyn Probe>) {
    let instance = InstanceId::new(name, "east");
    (instance.clone(), FAST, Box::new(Scripted { instance, does }))
}

struct Watch(Probes);

fn watch(probes: Probes) -> Watch {
    Watch(probes)
}

impl Watch {
    /// What was found, by component.
    async fn for_a(self, time: Duration) -> BTreeMap<String, Vec<Finding>> {
        let (out, mut sightings) = mpsc::channel(64);
        let prober = Prober::start(self.0, vec![], 0.1, Arc::new(SystemClock), out);
        let mut seen: BTreeMap<String, Vec<Finding>> = BTreeMap::new();
        let end = tokio::time::Instant::now() + time;
        while let Ok(Some(sighting)) = tokio::time::timeout_at(end, sightings.recv()).await {
            match sighting {
                Sighting::Instance(observation) => {
                    seen.entry(observation.instance.component.to_string()).or_default().push(observation.finding);
                }
                Sighting::Reference(_) => {}
            }
        }
        prober.stop().await;
        seen
    }
}
