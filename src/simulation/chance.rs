//! Bad days by chance: a seed becomes a story in the words that a person would tell it in.
//!
//! Troubles come in episodes, because what breaks together is what hurts. After them everything is well again, a person does
//! what failoverd asks for, and all of it has to settle.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use super::dice::Dice;
use super::story::Work;
use crate::domain::{ComponentId, InstanceId, Kind, Policy, RegionId, Role};

/// Troubles begin within this.
const TROUBLES_UNTIL: u64 = 75 * 60;
/// By then everything is well again.
pub(super) const CALM_FROM: u64 = 90 * 60;
/// A story lasts two hours.
pub(super) const LASTS: Duration = Duration::from_secs(2 * 3600);
/// One day of so many is a simple one: what is judged only where all else is well would hardly ever be.
const SIMPLE_EVERY: u64 = 16;
/// Which of them.
const SIMPLE_AT: u64 = 2;
/// What tells the die of [`Teller::break_a_check`] from that of the rest of the day.
const CHECK_BREAKS: u64 = 0xc4ec;
/// And that of [`Teller::move_by_plan`].
const MOVES: u64 = 0x510e;
/// And that of [`Teller::bring_back`].
const REJOINS: u64 = 0x4e10;
/// And that of [`Teller::fail_back`].
const FAILBACKS: u64 = 0xfa11;
/// Another ledger, as a copy of this machine would have it.
const ANOTHER_LEDGER: &str = "0190ffff-0000-7000-8000-000000000bad";

/// Of so many days one has a fence around managed databases in any case.
const FENCED_EVERY: u64 = 4;
const FENCED_AT: u64 = 3;

/// A day has no time for stages of half an hour.
const SHORT_STAGES: [&str; 3] =
    ["set failback.stable_for 60s", "set failback.stage_for 150s", "set failback.interval 60s"];

/// The story of a seed. Half of them have the settings `now_and_then` on top.
pub(super) fn story(policy: &Policy, now_and_then: &[String], seed: u64) -> String {
    let is_simple = seed % SIMPLE_EVERY == SIMPLE_AT;
    let dice = Dice::new(seed);
    let mut teller = Teller {
        policy,
        seed,
        dice,
        mode: None,
        is_new: false,
        is_simple,
        is_moved: false,
        is_brought_back: false,
        is_failed_back: false,
        lines: Vec::new(),
    };
    teller.tell();
    let mut text = String::new();
    let on_top = if teller.dice.below(2) == 0 { now_and_then } else { &[] };
    for setting in teller.settings().iter().chain(on_top) {
        let _ = writeln!(text, "{setting}");
    }
    let _ = writeln!(text, "seed {seed}\nuntil +{}s\n", LASTS.as_secs());
    teller.lines.sort_by_key(|(at, _)| *at);
    for (at, line) in &teller.lines {
        let _ = writeln!(text, "+{at}s {line}");
    }
    text
}

struct Teller<'a> {
    policy: &'a Policy,
    seed: u64,
    dice: Dice,
    /// Where it is not automatic.
    mode: Option<&'static str>,
    /// Nobody has told the ledger yet what is served where.
    is_new: bool,
    /// One database fails, and all else is well.
    is_simple: bool,
    /// Something is moved by plan.
    is_moved: bool,
    /// An old primary is to become a standby.
    is_brought_back: bool,
    /// The work is to go back by stages.
    is_failed_back: bool,
    /// Seconds after the beginning, and what happens.
    lines: Vec<(u64, String)>,
}

impl Teller<'_> {
    /// What is different from the configuration in this story.
    fn settings(&self) -> Vec<String> {
        let mut settings = Vec::new();
        if let Some(mode) = self.mode {
            settings.push(format!("mode {mode}"));
        }
        if self.is_new {
            settings.push("ledger empty".to_owned());
        }
        // Fenced by roles alone, a managed database could not be moved without loss. A quarter of the days has no such move, and
        // failovers that wait for a fenced primary.
        let managed = self.policy.of_kind(Kind::Database).filter(|(_, policy)| policy.fence && !policy.fences_ahead);
        for (database, _) in managed.filter(|_| self.is_moved || self.seed % FENCED_EVERY == FENCED_AT) {
            settings.push(format!("set databases.{database}.fence.security_group sg-0fence"));
        }
        for (database, _) in self.policy.of_kind(Kind::Database).filter(|_| self.is_brought_back) {
            settings.push(format!("set databases.{database}.rejoin.command [\"rejoin\"]"));
        }
        if self.is_failed_back {
            settings.extend(SHORT_STAGES.map(str::to_owned));
        }
        settings
    }

    fn tell(&mut self) {
        self.mode = match self.dice.below(20) {
            0 => Some("observe"),
            1..=4 => Some("approve"),
            _ => None,
        };
        self.is_new = self.dice.below(16) == 0;
        if self.is_new {
            // It was just installed; somebody looks around, and says where everything is.
            let at = 20 + self.dice.below(600);
            self.lines.push((at, "operator adopt".to_owned()));
        }
        let episodes = 2 + self.dice.below(3);
        for _ in 0..episodes {
            let at = 30 + self.dice.below(TROUBLES_UNTIL - 30);
            if self.is_simple {
                self.lose_a_database(at);
                break;
            }
            self.episode(at);
        }
        self.calm();
        self.break_a_check();
        self.move_by_plan();
        self.bring_back();
        self.fail_back();
    }

    /// On some of the days on which an old primary is brought back the work goes back by stages, which are short; and now and then
    /// a share of the clients is not well served, somebody is in a hurry or gives it up, or a region is lost. By a die of its
    /// own.
    fn fail_back(&mut self) {
        let mut dice = Dice::new(self.seed ^ FAILBACKS);
        let (Some(primary), Some(secondary)) = (self.region_with(Role::Primary), self.region_with(Role::Secondary))
        else {
            return;
        };
        self.is_failed_back = self.is_brought_back && dice.below(2) == 0;
        if !self.is_failed_back {
            return;
        }
        let at = if dice.below(2) == 0 { 600 + dice.below(TROUBLES_UNTIL - 600) } else { CALM_FROM + 720 };
        if at > CALM_FROM {
            // The day would be over before it is.
            self.lines.retain(|(when, line)| *when <= CALM_FROM || !line.starts_with("verify "));
        }
        self.lines.push((at, "operator failback".to_owned()));
        let during = at + 30 + dice.below(600);
        let services: Vec<ComponentId> = self.policy.of_kind(Kind::Http).map(|(id, _)| id.clone()).collect();
        match dice.below(8) {
            0 | 1 => self.lines.push((during, "operator continue".to_owned())),
            2 => self.lines.push((during, "operator abort".to_owned())),
            3 | 4 if during + 90 < CALM_FROM => {
                for service in &services {
                    self.lines.push((during, format!("{service}@{primary} fails query")));
                    self.lines.push((during + 90, format!("{service}@{primary} answers")));
                }
                self.lines.push((during + 200, "operator continue".to_owned()));
            }
            5 if during + 300 < CALM_FROM => {
                self.lines.push((during, format!("everything@{secondary} fails tcp")));
                self.lines.push((during + 300, format!("everything@{secondary} answers")));
            }
            _ => {}
        }
    }

    /// Somebody makes an old primary a standby, in the middle of the troubles or after them, now and then whatever it holds; and
    /// takes the work back. By a die of its own.
    fn bring_back(&mut self) {
        let mut dice = Dice::new(self.seed ^ REJOINS);
        let database = self.policy.of_kind(Kind::Database).next().map(|(database, _)| database.clone());
        let (Some(primary), Some(secondary), Some(database)) =
            (self.region_with(Role::Primary), self.region_with(Role::Secondary), database)
        else {
            return;
        };
        self.is_brought_back = dice.below(3) == 0;
        if !self.is_brought_back {
            return;
        }
        let at =
            if dice.below(2) == 0 { 30 + dice.below(TROUBLES_UNTIL - 30) } else { CALM_FROM + 400 + dice.below(200) };
        let discard = if dice.below(2) == 0 { " discard" } else { "" };
        self.lines.push((at, format!("operator rejoin {database}@{primary}{discard}")));
        if dice.below(2) == 0 {
            self.lines.push((at + 120 + dice.below(240), format!("operator switchover {secondary}")));
        }
    }

    /// Somebody moves the work by plan, on some days while all is well and on others in the middle of the troubles, and on some
    /// of those the region is lost meanwhile. By a die of its own.
    fn move_by_plan(&mut self) {
        let mut dice = Dice::new(self.seed ^ MOVES);
        let Some(primary) = self.region_with(Role::Primary) else { return };
        let kind = dice.below(8);
        self.is_moved = kind < 3;
        match kind {
            0 => self.lines.push((CALM_FROM + 200 + dice.below(200), format!("operator switchover {primary}"))),
            1 => {
                let at = 30 + dice.below(TROUBLES_UNTIL - 30);
                self.lines.push((at, format!("operator switchover {primary}")));
                let lost_at = at + 2 + dice.below(90);
                if dice.below(2) == 0 {
                    self.lines.push((lost_at, format!("everything@{primary} fails tcp")));
                    self.lines.push((lost_at + 20 + dice.below(600), format!("everything@{primary} answers")));
                }
            }
            2 => {
                let databases: Vec<ComponentId> =
                    self.policy.of_kind(Kind::Database).map(|(id, _)| id.clone()).collect();
                if let Some(database) = databases.first() {
                    let at = 30 + dice.below(TROUBLES_UNTIL - 30);
                    self.lines.push((at, format!("operator switchover {primary} {database}")));
                }
            }
            _ => {}
        }
    }

    /// Long after a failover, what took over stops to satisfy its checks for a while. By a die of its own: it is told after
    /// everything else.
    fn break_a_check(&mut self) {
        let mut dice = Dice::new(self.seed ^ CHECK_BREAKS);
        if dice.below(4) == 0 {
            let at = CALM_FROM + 600 + dice.below(120);
            self.lines.push((at, "verify refuses 503".to_owned()));
            self.lines.push((at + 340 + dice.below(60), "verify works".to_owned()));
        }
    }

    /// One trouble, and what comes along with it.
    fn episode(&mut self, at: u64) {
        match self.dice.below(11) {
            0..=3 => self.lose(self.region_with(Role::Primary), at),
            4 => self.lose(self.region_with(Role::Secondary), at),
            5 | 6 => self.cut_off(self.region_with(Role::Primary), at),
            7 => self.starve(self.region_with(Role::Primary), at),
            _ => self.trouble(at),
        }
        for _ in 0..self.dice.below(5) {
            let along = at.saturating_sub(60) + self.dice.below(8 * 60);
            self.trouble(along.min(TROUBLES_UNTIL));
        }
    }

    fn region_with(&self, role: Role) -> Option<RegionId> {
        self.policy.region_with(role).cloned()
    }

    /// Something happens, and is over after a while.
    fn for_a_while(&mut self, at: u64, text: String, over: String) {
        let lasts = match self.dice.below(4) {
            0 => 5 + self.dice.below(55),
            1 => 60 + self.dice.below(240),
            _ => 300 + self.dice.below(1200),
        };
        self.lines.push((at, text));
        self.lines.push(((at + lasts).min(CALM_FROM), over));
    }

    fn lose(&mut self, region: Option<RegionId>, at: u64) {
        let Some(region) = region else { return };
        let layer = self.pick(&["tcp", "tcp", "dns", "query"]);
        self.for_a_while(at, format!("everything@{region} fails {layer}"), format!("everything@{region} answers"));
        self.halts_along(at);
        // Somebody hears of it, and looks.
        if self.mode == Some("approve") && self.dice.below(2) == 0 {
            let at = at + 45 + self.dice.below(300);
            self.lines.push((at, "operator approve accept-unfenced accept-loss 1h".to_owned()));
        }
        // Its observer is often lost with it.
        if self.dice.below(2) == 0
            && let Some(observer) = self.observer_in(&region)
        {
            let lasts = 60 + self.dice.below(1200);
            self.lines.push((at, format!("observer {observer} stops {lasts}s")));
        }
    }

    /// A database of the primary region, and nothing else: its row has to answer it, within what that may lose.
    fn lose_a_database(&mut self, at: u64) {
        let primary = self.region_with(Role::Primary);
        let all: Vec<InstanceId> = self.policy.instances().filter(|id| self.kind(id) == Some(Kind::Database)).collect();
        let here: Vec<InstanceId> = all.into_iter().filter(|id| Some(&id.region) == primary.as_ref()).collect();
        let Some(database) = self.choose(&here) else { return };
        let layer = self.pick(&["tcp", "dns", "query"]);
        self.for_a_while(at, format!("{database} fails {layer}"), format!("{database} answers"));
    }

    /// Something breaks in a daemon while a plan is under way.
    fn halts_along(&mut self, at: u64) {
        if self.dice.below(8) == 0 {
            let name = self.observer();
            let at = at + 60 + self.dice.below(360);
            self.lines.push((at, format!("observer {name} halts")));
        }
    }

    /// Every daemon is stopped for minutes at once (their machines are moved), and the region fails for a moment before and
    /// after that. Nobody knows of the time between, in which all was well.
    fn starve(&mut self, region: Option<RegionId>, at: u64) {
        let Some(region) = region else { return };
        let lasts = 60 + self.dice.below(600);
        self.lines.push((at, format!("everything@{region} fails tcp")));
        let observers: Vec<String> = self.policy.council.observers.keys().map(ToString::to_string).collect();
        for observer in observers {
            let at = at + 15 + self.dice.below(10);
            self.lines.push((at, format!("observer {observer} pauses {lasts}s")));
        }
        self.lines.push((at + 26, format!("everything@{region} answers")));
        self.lines.push((at + lasts, format!("everything@{region} fails tcp")));
        self.lines.push((at + lasts + 28 + self.dice.below(15), format!("everything@{region} answers")));
    }

    /// Nobody outside reaches it, and it reaches nobody outside.
    fn cut_off(&mut self, region: Option<RegionId>, at: u64) {
        let Some(region) = region else { return };
        let lasts = 60 + self.dice.below(1200);
        let one_way = self.dice.below(4) == 0;
        for other in self.places().into_iter().filter(|other| *other != region) {
            let to = if one_way { "to " } else { "" };
            self.lines.push((at, format!("link {other} {to}{region} cut")));
            self.lines.push(((at + lasts).min(CALM_FROM), format!("link {other} {region} restored")));
        }
    }

    fn trouble(&mut self, at: u64) {
        match self.dice.below(100) {
            0..=34 => self.trouble_of_an_instance(at),
            35..=44 => self.trouble_of_a_workload(at),
            45..=59 => self.trouble_of_the_network(at),
            60..=76 => self.trouble_of_a_daemon(at),
            77..=90 => self.trouble_of_the_work(at),
            _ => self.order(at),
        }
    }

    fn trouble_of_an_instance(&mut self, at: u64) {
        let Some(id) = self.instance(|_| true) else { return };
        let text = match self.dice.below(16) {
            0..=4 => format!("{id} fails {}", self.pick(&["dns", "tcp", "tcp", "tls", "greeting", "query", "role"])),
            5 => format!("{id} fails query {}% too many connections", 20 + self.dice.below(80)),
            6 | 7 => {
                let every = 20 + self.dice.below(100);
                format!("{id} flaps every {every}s for {}s", 5 + self.dice.below(every - 5))
            }
            8 => format!("{id} unknown our resolver does not answer"),
            9 => format!("{id} refuses-credential"),
            10 | 11 => format!("{id} degraded slow answers"),
            12 => format!("{id} not-ready it rebuilds an index"),
            13 => format!("{id} backing-up"),
            _ => match self.instance(|kind| kind == Kind::Database) {
                Some(database) => format!("{database} lags {}s", 1 + self.dice.below(900)),
                None => return,
            },
        };
        let subject = text.split(' ').next().unwrap_or_default().to_owned();
        self.for_a_while(at, text, format!("{subject} answers"));
    }

    fn trouble_of_a_workload(&mut self, at: u64) {
        let Some(id) = self.instance(|kind| kind == Kind::Kubernetes) else { return };
        let workloads = self.policy.components.get(&id.component).map(|c| c.workloads.clone()).unwrap_or_default();
        let names: Vec<&str> = workloads.iter().map(|workload| workload.name.as_str()).collect();
        if names.is_empty() {
            return;
        }
        let workload = self.pick(&names);
        match self.dice.below(6) {
            0 | 1 => {
                let until = self.pick(&["", " until-restarted"]);
                let text = format!("{id} runs {} {workload}{until}", self.dice.below(3));
                self.for_a_while(at, text, format!("{id} answers"));
            }
            2 => self.lines.push((at, format!("{id} is-scaled-to {} {workload}", 1 + self.dice.below(20)))),
            _ => {
                let zone = self.pick(&["a", "b", "c"]);
                self.lines.push((at, format!("{id} loses-zone {}{zone}", id.region)));
                self.lines.push(((at + 30 + self.dice.below(400)).min(CALM_FROM), format!("{id} reschedules")));
            }
        }
    }

    fn trouble_of_the_network(&mut self, at: u64) {
        let places = self.places();
        match self.dice.below(13) {
            0..=4 if places.len() > 1 => {
                let one = self.dice.below(places.len() as u64);
                let other = (one + 1 + self.dice.below(places.len() as u64 - 1)) % places.len() as u64;
                let at_index = |index: u64| places.get(usize::try_from(index).unwrap_or(0)).cloned();
                let (Some(one), Some(other)) = (at_index(one), at_index(other)) else { return };
                let to = self.pick(&["", "", "to "]);
                let (text, over) = (format!("link {one} {to}{other} cut"), format!("link {one} {to}{other} restored"));
                self.for_a_while(at, text, over);
            }
            5 | 6 => self.for_a_while(at, "references fail".to_owned(), "references answer".to_owned()),
            7 => {
                let names: Vec<&str> = self.policy.references.keys().map(|reference| reference.as_str()).collect();
                if !names.is_empty() {
                    let name = self.pick(&names);
                    self.for_a_while(at, format!("reference {name} fails"), format!("reference {name} answers"));
                }
            }
            8 if !self.policy.council.is_alone() => {
                self.for_a_while(at, "ledger fails".to_owned(), "ledger answers".to_owned());
            }
            11 => self.for_a_while(at, "link cut".to_owned(), "link restored".to_owned()),
            9 | 10 if !self.policy.council.is_alone() => {
                let regions: Vec<&str> = self.policy.council.regions().into_iter().map(RegionId::as_str).collect();
                let region = self.pick(&regions);
                self.for_a_while(at, format!("ledger {region} fails"), format!("ledger {region} answers"));
            }
            _ => {
                let name = self.observer();
                self.for_a_while(at, format!("observer {name} link cut"), format!("observer {name} link restored"));
            }
        }
    }

    fn trouble_of_a_daemon(&mut self, at: u64) {
        let name = self.observer();
        let text = match self.dice.below(15) {
            0..=3 => format!("observer {name} stops {}s", 1 + self.dice.below(300)),
            4..=6 => format!("observer {name} pauses {}s", 5 + self.dice.below(400)),
            7 => {
                let sign = self.pick(&["+", "-"]);
                format!("observer {name} clock {sign}{}s", 1 + self.dice.below(3 * 3600))
            }
            8 => format!("observer {name} halts"),
            9 => format!("observer {name} is-suspended {}s", 2 + self.dice.below(300)),
            10 => format!("pause {}s", 5 + self.dice.below(400)),
            11 => format!("restart {}s", 1 + self.dice.below(300)),
            _ => {
                let (text, over) = (format!("observer {name} falls-silent"), format!("observer {name} is-back"));
                return self.for_a_while(at, text, over);
            }
        };
        self.lines.push((at, text));
    }

    fn trouble_of_the_work(&mut self, at: u64) {
        let names = Work::NAMED.map(|(name, _)| name);
        let name = self.pick(&names);
        let how = match self.dice.below(8) {
            0..=2 => format!("takes {}s", 10 + self.dice.below(500)),
            3 => "refuses AccessDenied".to_owned(),
            4 => "hangs".to_owned(),
            _ => "unreachable".to_owned(),
        };
        self.for_a_while(at, format!("{name} {how}"), format!("{name} works"));
    }

    fn order(&mut self, at: u64) {
        let Some(primary) = self.region_with(Role::Primary) else { return };
        let text = match self.dice.below(18) {
            0 | 1 => format!("operator failover {primary}"),
            2 => match self.movable() {
                Some(component) => format!("operator failover {primary} {component}"),
                None => return,
            },
            3 => format!("operator failover {primary} force"),
            4 => "operator hold".to_owned(),
            5 => format!("operator pause {}s moving house", 60 + self.dice.below(1200)),
            6 | 7 => "operator resume".to_owned(),
            8 => "operator ack".to_owned(),
            9 => "operator ack false-positive".to_owned(),
            10 | 11 => "operator abort".to_owned(),
            12 => "operator approve".to_owned(),
            13 => "operator approve accept-loss 1h".to_owned(),
            14 => match self.instance(|kind| kind == Kind::Database) {
                Some(database) => {
                    let verb = self.pick(&["retry", "skip"]);
                    format!("operator {verb} promote-{database}")
                }
                None => return,
            },
            15 => "operator adopt".to_owned(),
            // Nobody waits for a check that was already made by hand.
            16 => format!("operator skip {}", self.pick(&["verify-health", "verify-metrics", "verify-pods"])),
            _ => format!("claim {primary} {ANOTHER_LEDGER}"),
        };
        self.lines.push((at, text));
    }

    /// Everything is well again, and somebody looks after what is left.
    fn calm(&mut self) {
        let policy = self.policy;
        let mut over = Vec::new();
        // Somebody has scaled it, and takes that back.
        let scaled: BTreeSet<(String, String)> = self
            .lines
            .iter()
            .filter_map(|(_, line)| {
                let mut words = line.split(' ');
                let cluster = words.next()?.to_owned();
                (words.next()? == "is-scaled-to").then_some((cluster, words.nth(1)?.to_owned()))
            })
            .collect();
        for (cluster, workload) in scaled {
            let all = policy.components.values().flat_map(|component| &component.workloads);
            let active = all.filter(|of| of.name == workload).map(|of| of.active).max();
            over.extend(active.map(|active| format!("{cluster} is-scaled-to {active} {workload}")));
        }
        let serves = |region: &RegionId| policy.instances().any(|id| id.region == *region);
        over.extend(policy.regions.keys().filter(|region| serves(region)).map(|r| format!("everything@{r} answers")));
        let records = policy.instances().filter(|id| self.kind(id) == Some(Kind::Traffic));
        over.extend(records.map(|record| format!("{record} answers")));
        let places = self.places();
        for (n, one) in places.iter().enumerate() {
            over.extend(places[n + 1..].iter().map(|other| format!("link {one} {other} restored")));
        }
        over.push("link restored".to_owned());
        if !policy.council.is_alone() {
            over.push("ledger answers".to_owned());
        }
        for observer in policy.council.observers.keys() {
            over.push(format!("observer {observer} is-back"));
            over.push(format!("observer {observer} link restored"));
        }
        over.push("references answer".to_owned());
        over.extend(Work::NAMED.map(|(name, _)| format!("{name} works")));
        over.push("operator helps".to_owned());
        self.lines.extend(over.into_iter().map(|text| (CALM_FROM, text)));
    }

    fn kind(&self, id: &InstanceId) -> Option<Kind> {
        self.policy.components.get(&id.component).map(|component| component.kind)
    }

    fn instance(&mut self, of: impl Fn(Kind) -> bool) -> Option<InstanceId> {
        let all: Vec<InstanceId> = self.policy.instances().filter(|id| self.kind(id).is_some_and(&of)).collect();
        self.choose(&all)
    }

    fn movable(&mut self) -> Option<ComponentId> {
        let rows = self.policy.components.iter().filter(|(_, component)| component.row.is_some());
        let all: Vec<ComponentId> = rows.map(|(component, _)| component.clone()).collect();
        self.choose(&all)
    }

    /// Where something stands that a link could be cut to.
    fn places(&self) -> Vec<RegionId> {
        let serving = self.policy.regions.iter().filter(|(_, role)| **role != Role::Tertiary).map(|(region, _)| region);
        let mut places: Vec<RegionId> = serving.chain(self.policy.council.regions()).cloned().collect();
        places.sort();
        places.dedup();
        places
    }

    fn observer(&mut self) -> String {
        let all: Vec<String> = self.policy.council.observers.keys().map(ToString::to_string).collect();
        self.choose(&all).unwrap_or_else(|| self.policy.observer.to_string())
    }

    fn observer_in(&self, region: &RegionId) -> Option<String> {
        let mut observers = self.policy.council.observers.iter();
        observers.find(|(_, place)| *place == region).map(|(observer, _)| observer.to_string())
    }

    fn pick<'w>(&mut self, words: &[&'w str]) -> &'w str {
        let n = usize::try_from(self.dice.below(words.len() as u64)).unwrap_or(0);
        words.get(n).copied().unwrap_or_default()
    }

    fn choose<T: Clone>(&mut self, all: &[T]) -> Option<T> {
        let n = usize::try_from(self.dice.below(all.len() as u64)).unwrap_or(0);
        all.get(n).cloned()
    }
}
