//! SIGHUP: the configuration is read again, and taken over as a whole or not at all.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tracing::{error, info};

use super::boot;
use super::executor::World;
use super::guardian::Keeper;
use super::handle::{Handle, Reload};
use super::prober::{Prober, ProberCounters, Sighting};
use crate::adapters::failure::describe;
use crate::adapters::world::{self, Adapters};
use crate::config::{Config, policy_hash};
use crate::domain::Policy;
use crate::ports::Clock;
use crate::telemetry;

/// Owns what a new configuration replaces.
pub(super) struct Reloader {
    pub(super) paths: Vec<PathBuf>,
    pub(super) config: Arc<Config>,
    pub(super) policy: Policy,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) handle: Handle,
    pub(super) sightings: mpsc::Sender<Sighting>,
    pub(super) prober: Option<Prober>,
    pub(super) keeper: Keeper,
    pub(super) counters: Arc<ArcSwap<ProberCounters>>,
}

const ALARM: &str = "reload";

impl Reloader {
    /// Takes the new configuration over, or keeps the old one and says why.
    pub(super) async fn reload(&mut self) {
        match self.take_over().await {
            Ok(()) => {
                telemetry::reloaded("taken_over");
                info!("the configuration was read again and is in force");
                self.handle.warn(ALARM, None).await;
            }
            Err(lines) => {
                telemetry::reloaded("kept_old");
                for line in &lines {
                    error!("{line}");
                }
                let text = format!("the new configuration is NOT in force, the old one is: {}", lines.join("; "));
                self.handle.warn(ALARM, Some(text)).await;
            }
        }
    }

    /// For the end of the daemon.
    pub(super) async fn stop_probing(&mut self) {
        if let Some(prober) = self.prober.take() {
            prober.stop().await;
        }
    }

    async fn take_over(&mut self) -> Result<(), Vec<String>> {
        let (config, policy) = boot::read(&self.paths)?;
        let fixed = needs_restart(&self.config, &config);
        if !fixed.is_empty() {
            return Err(vec![format!("a change of {} needs a restart", fixed.join(", "))]);
        }
        let adapters = self.build(&config, &policy)?;
        // The old probes end first: what they see must not count for the new settings.
        self.stop_probing().await;
        let Adapters { probes, references, actuator, claims, losses } = adapters;
        let world = World { actuator, claims, losses };
        let reload = Reload { policy_hash: policy_hash(&policy), policy: policy.clone(), world };
        match self.handle.reload(reload).await {
            Ok(()) => {
                self.keeper.renew(config.clone());
                self.config = config;
                self.policy = policy;
                self.probe(probes, references);
                Ok(())
            }
            Err(why) => {
                // Never without probes: what worked before works again.
                let Adapters { probes, references, .. } = self.build(&self.config, &self.policy)?;
                self.probe(probes, references);
                Err(vec![why])
            }
        }
    }

    fn build(&self, config: &Arc<Config>, policy: &Policy) -> Result<Adapters, Vec<String>> {
        world::build(config, policy, &self.clock).map_err(|error| vec![describe(&error)])
    }

    fn probe(&mut self, probes: super::prober::Probes, references: super::prober::References) {
        let (clock, out) = (self.clock.clone(), self.sightings.clone());
        let prober = Prober::start(probes, references, self.config.probes.jitter, clock, out);
        self.counters.store(prober.counters());
        self.prober = Some(prober);
    }
}

/// What cannot change while the daemon runs, because it is bound, locked or handed out already.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let pairs = [
        ("api", format!("{:?}", old.api), format!("{:?}", new.api)),
        ("ledger", format!("{:?}", old.ledger), format!("{:?}", new.ledger)),
        ("heartbeat", format!("{:?}", old.heartbeat), format!("{:?}", new.heartbeat)),
        // Whoever answers for roles asks all of them: one set for as long as it runs.
        ("council.observers", format!("{:?}", old.council.observers), format!("{:?}", new.council.observers)),
        ("observer", format!("{:?}", old.observer), format!("{:?}", new.observer)),
    ];
    pairs.into_iter().filter(|(_, old, new)| old != new).map(|(name, _, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn configured(more: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let text = include_str!("../../tests/it/config_cases/sound.toml").to_owned()
            + "\n[ledger.s3]\nbucket = \"ledger\"\nregion = \"eu-west-1\"\n[council.observers]\n\
               observer.region = \"office\"\neast.region = \"us-east-1\"\nwest.region = \"us-west-2\"\n"
            + more;
        let path = folder.path().join("failoverd.toml");
        std::fs::write(&path, text).unwrap();
        crate::config::load(&[path], &BTreeMap::new()).unwrap().config
    }

    #[test]
    fn whom_everybody_asks_does_not_change_while_the_daemon_runs() {
        let old = configured("");
        assert_eq!(needs_restart(&old, &configured("")), [""; 0]);
        let asked_elsewhere = configured("east.api = \"10.1.0.5:8781\"\n");
        assert_eq!(needs_restart(&old, &asked_elsewhere), ["council.observers"]);
        assert_eq!(needs_restart(&old, &configured("one_more.region = \"office\"\n")), ["council.observers"]);
    }
}
