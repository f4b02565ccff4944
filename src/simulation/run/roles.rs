//! Roles as each daemon answers for them, the clients that act by the answers, and the guardian beside a database: what
//! `daemon::event_loop`, `daemon::failsafe` and `daemon::guardian` do, in virtual time.

use super::*;
use crate::decide::Confirmed;
use crate::domain::{Mode, RegionId, RolePolicy};
use crate::simulation::coverage::RoleMatter;

/// A guardian is a process of its own: it goes on while its daemon is stopped or dead.
pub(super) struct Guardian {
    database: InstanceId,
    /// Until when the role is confirmed, on the machine's own clock; none where it never was.
    until: Option<Duration>,
    /// Both clocks when that was said.
    said: Option<Now>,
    is_demoted: bool,
    /// When it has made the database refuse writes.
    demotes_at: Option<Duration>,
    /// When it is looked at next.
    wakes_at: Duration,
    /// What the daemon was told last.
    is_armed: bool,
}

impl Guardian {
    fn left(&self, now: Now) -> Duration {
        let is_steady = self.said.is_none_or(|said| now.jumped_since(said).is_none());
        self.until.filter(|_| is_steady).unwrap_or_default().saturating_sub(now.monotonic)
    }
}

impl Simulation<'_> {
    /// The guardian of a node, where a database of its region has one.
    pub(super) fn guardian_of(&self, region: &RegionId) -> Option<Guardian> {
        let policy = &self.setup.policy;
        let guarded = policy.components.iter().find(|(_, of)| of.demotion.is_some() && of.regions.contains(region));
        let (component, _) = guarded.filter(|_| policy.mode != Mode::Observe)?;
        let database = InstanceId { component: component.clone(), region: region.clone() };
        let (until, said, demotes_at) = (None, None, None);
        Some(Guardian {
            database,
            until,
            said,
            is_demoted: false,
            demotes_at,
            wakes_at: Duration::MAX,
            is_armed: false,
        })
    }

    /// What the ledger says of the roles; at a beat that reached it, that is certain once more.
    pub(super) fn confirm_roles(&mut self, n: usize, has_reached: bool) {
        if self.setup.policy.roles.is_none() {
            return;
        }
        let now = self.clock(n);
        let (recorded, policy) = (self.disk.recorded(), self.setup.policy_hash.clone());
        let Some(daemon) = self.daemon_mut(n) else { return };
        let is_certain = has_reached && recorded == daemon.next_index && !daemon.controller.has_broken();
        daemon.is_in_charge = daemon.controller.is_in_charge().or(daemon.is_in_charge);
        let by_ledger = (is_certain && daemon.is_in_charge == Some(true)).then_some(now.monotonic);
        let is_news = daemon.roles_at.replace(daemon.next_index) != Some(daemon.next_index);
        let roles = if is_news { daemon.controller.roles() } else { std::mem::take(&mut daemon.confirmed.roles) };
        let next = Confirmed { by_ledger, roles, policy, ..Confirmed::default() };
        daemon.confirmed.confirm(next, now);
    }

    /// The ledger is silent: a role is kept where every other daemon knows of the same ones.
    pub(super) fn ask_the_others(&mut self, n: usize) {
        let Some(RolePolicy { self_fence_after, .. }) = self.setup.policy.roles else { return };
        let now = self.clock(n);
        let Some(daemon) = self.daemon(n) else { return };
        if daemon.confirmed.is_to_be_promised(self_fence_after, now).is_none() {
            return;
        }
        let own = daemon.confirmed.known(&self.nodes[n].observer);
        let others: Vec<usize> = (0..self.nodes.len()).filter(|other| *other != n).collect();
        let agrees = |other: &usize| {
            let node = &self.nodes[*other];
            let is_stopped = node.paused.is_some_and(|until| until > self.now);
            self.hear_each_other(n, *other)
                && !is_stopped
                && node
                    .daemon
                    .as_ref()
                    .is_some_and(|daemon| own.agrees(&daemon.confirmed.known(&node.observer)).is_ok())
        };
        if !others.is_empty()
            && others.iter().all(agrees)
            && let Some(daemon) = self.daemon_mut(n)
        {
            daemon.confirmed.promised(now, now);
            self.coverage.count("role", RoleMatter::Promised);
        }
    }

    fn hear_each_other(&self, one: usize, other: usize) -> bool {
        let (here, there) = (self.vantage(one), self.vantage(other));
        let is_cut_off = here.is_cut_off || there.is_cut_off;
        !is_cut_off
            && (here.region == there.region || self.world.network.parted_since(&here.region, &there.region).is_none())
    }

    /// The guardian is told whether the role is its own, and the daemon how the guardian stands.
    pub(super) fn tell_the_guardian(&mut self, n: usize) {
        let Some(RolePolicy { self_fence_after, .. }) = self.setup.policy.roles else { return };
        let now = self.clock(n);
        let Some(mut guardian) = self.nodes[n].guardian.take() else { return };
        if let Some(daemon) = self.daemon(n)
            && let Some(at) = daemon.confirmed.at
        {
            let database = &guardian.database;
            let regions = daemon.confirmed.roles.get(&database.component);
            let has_role = regions.is_some_and(|regions| regions.contains(&database.region));
            guardian.until = match (has_role, guardian.until) {
                (true, former) => former.max(Some(at + self_fence_after)),
                (false, Some(_)) => Some(Duration::ZERO),
                (false, None) => None,
            };
            guardian.said = Some(now);
        }
        let is_in_reach = self.world.is_well(self.now, &guardian.database);
        let is_armed = !guardian.left(now).is_zero() && !guardian.is_demoted && is_in_reach;
        let is_news = std::mem::replace(&mut guardian.is_armed, is_armed) != is_armed;
        let is_first = self.daemon_mut(n).is_some_and(|daemon| !std::mem::replace(&mut daemon.has_guardian, true));
        let database = guardian.database.clone();
        self.nodes[n].guardian = Some(guardian);
        self.guard(n);
        if is_news || is_first {
            let armed = is_armed.then_some(database).into_iter().collect();
            self.step(n, Input::Guarded(armed));
        }
    }

    /// A guardian does what its time has come for.
    pub(super) fn guard(&mut self, n: usize) {
        if self.nodes[n].suspended.is_some_and(|until| until > self.now) {
            // A guardian that does not run guards nothing, and nobody can know.
            if let Some(guardian) = &self.nodes[n].guardian {
                self.checks.except(&guardian.database.component);
            }
            return;
        }
        let now = self.clock(n);
        let Some(mut guardian) = self.nodes[n].guardian.take() else { return };
        if guardian.until.is_some() {
            self.keep_guard(n, &mut guardian, now);
        }
        let next = guardian.demotes_at.unwrap_or_else(|| self.now + self.takes(n, guardian.left(now)));
        if guardian.until.is_some()
            && !guardian.is_demoted
            && (guardian.wakes_at <= self.now || next < guardian.wakes_at)
        {
            guardian.wakes_at = next.max(self.now + Duration::from_millis(1));
            self.schedule(guardian.wakes_at, Event::World);
        }
        self.nodes[n].guardian = Some(guardian);
    }

    fn keep_guard(&mut self, n: usize, guardian: &mut Guardian, now: Now) {
        let deadline = self.setup.policy.components.get(&guardian.database.component).and_then(|of| of.demotion);
        if !guardian.left(now).is_zero() {
            guardian.demotes_at = None;
            if guardian.is_demoted && self.world.is_well(self.now, &guardian.database) {
                guardian.is_demoted = false;
                self.coverage.count("role", RoleMatter::Restored);
                self.world.set_demoted(self.now, &guardian.database, false);
            }
            return;
        }
        if guardian.is_demoted {
            return;
        }
        let takes = deadline.unwrap_or_default();
        let takes = if self.is_rough { self.spread(takes) } else { LATENCY.min(takes) };
        let demotes_at = *guardian.demotes_at.get_or_insert(self.now + self.takes(n, takes));
        if demotes_at > self.now {
            return;
        }
        if self.world.is_well(self.now, &guardian.database) {
            guardian.demotes_at = None;
            guardian.is_demoted = true;
            self.coverage.count("role", RoleMatter::Demoted);
            self.world.set_demoted(self.now, &guardian.database, true);
        } else {
            // Nobody writes to what does not answer. It is tried again and again.
            guardian.demotes_at = Some(self.now + Duration::from_millis(250));
        }
    }

    /// Who acts by a role now, as far as the answers go that were given a moment ago.
    pub(super) fn watch_roles(&mut self) {
        let Some(RolePolicy { self_fence_after, .. }) = self.setup.policy.roles else { return };
        for n in 0..self.nodes.len() {
            self.guard(n);
            let is_stopped = self.nodes[n].paused.is_some_and(|until| until > self.now);
            let now = self.clock(n);
            let Some(daemon) = self.nodes[n].daemon.as_ref().filter(|_| !is_stopped) else { continue };
            if daemon.confirmed.is_fresh(self_fence_after, now) {
                self.checks.hear_of_roles(self.now, &daemon.confirmed.roles);
            }
        }
    }
}
