//! What the story says happens, and the orders in it.

use super::*;
use crate::decide::BreakGlassRecord;
use crate::ports::Term;

/// An order stands in the shared ledger for so long, if nobody answers it.
const REQUEST_LIFE: Duration = Duration::from_secs(60);

impl Simulation<'_> {
    pub(super) fn tell(&mut self, n: usize) -> Result<(), SetupError> {
        let line = &self.story.lines[n];
        self.stirred = self.now;
        self.note(What::Happens { text: line.text.clone() });
        let at_line = |what: String| SetupError::Line { line: line.number, what };
        self.coverage.count("happens", &line.happening);
        match &line.happening {
            Happening::Instances { which, condition } => {
                self.coverage.count("instance", condition);
                if let Condition::Flaps { every, lasting } = condition {
                    // The world has to be looked at when it changes by itself.
                    self.schedule(self.now + (*every).min(*lasting), Event::World);
                }
                self.world.befall(self.now, which, condition).map_err(at_line)?;
            }
            Happening::References { which, answers } => {
                self.world.set_references(self.now, which.as_ref(), *answers).map_err(at_line)?;
            }
            Happening::Link { cut } => self.befall_own(Fate::LinkCut(*cut)).map_err(at_line)?,
            Happening::Partition { between: (one, other), one_way, cut } => {
                self.world.network.part(self.now, one, other, *cut).map_err(at_line)?;
                if !one_way {
                    self.world.network.part(self.now, other, one, *cut).map_err(at_line)?;
                }
            }
            Happening::Ledger { member, answers } => {
                self.world.network.set_members(member.as_ref(), *answers).map_err(at_line)?;
            }
            Happening::Observer { observer, fate } => self.befall(observer, *fate).map_err(at_line)?,
            Happening::Pause(lasting) => self.befall_own(Fate::Pauses(*lasting)).map_err(at_line)?,
            Happening::Restart(lasting) => self.befall_own(Fate::Stops(*lasting)).map_err(at_line)?,
            Happening::Works { work, behaviour } => {
                self.coverage.count("work", behaviour);
                self.world.set_behaviour(self.now, work, behaviour);
                if let Some(next) = self.world.next() {
                    self.schedule(next, Event::World);
                }
            }
            Happening::Claimed { region, ledger } => self.world.claim_as_another(region, ledger),
            Happening::Operator(order) => self.order(order.clone()).map_err(at_line)?,
        }
        self.let_the_world_go_on();
        Ok(())
    }

    /// What happens to the daemon of the configuration.
    pub(super) fn befall_own(&mut self, fate: Fate) -> Result<(), String> {
        let own = self.nodes[0].observer.clone();
        self.befall(&own, fate)
    }

    pub(super) fn order(&mut self, order: Order) -> Result<(), String> {
        self.coverage.count("order", &order);
        if order == Order::Help {
            self.schedule(self.now, Event::Help);
            return Ok(());
        }
        let leader = self.leader().filter(|leader| self.is_alone() || self.reaches_ledger(*leader));
        let Some((n, daemon)) = leader.and_then(|n| Some((n, self.daemon(n)?))) else {
            self.coverage.count("refusal", Refusal::NobodyLeads);
            let why = if self.is_alone() { "failoverd is not running" } else { "no daemon leads at present" };
            self.note(What::Answer { answer: Err(why.to_owned()) });
            return Ok(());
        };
        let now = self.clock(n);
        let latest = daemon.controller.status(now).incidents.first().map(|incident| incident.incident.clone());
        let is_about_one = !matches!(
            order,
            Order::Pause { .. }
                | Order::Resume
                | Order::Failover { .. }
                | Order::Switchover { .. }
                | Order::Rejoin { .. }
                | Order::Failback
                | Order::Adopt(_)
                | Order::Merge { .. }
                | Order::Help
        );
        if latest.is_none() && is_about_one {
            let why = "there is no incident that an operator could mean".to_owned();
            // Whoever tells a story means something by it.
            if !self.is_rough {
                return Err(why);
            }
            self.note(What::Answer { answer: Err(why) });
            return Ok(());
        }
        let incident = || latest.clone().unwrap_or_else(|| "none".into());
        let by = "operator".to_owned();
        let command = match order {
            Order::Approve { accept_unfenced, accept_loss } => {
                Command::Approve { by, incident: incident(), hash: None, accept_unfenced, accept_loss }
            }
            Order::Hold => Command::Hold { by, incident: incident() },
            Order::Pause { lasting, reason } => {
                let until = now.wall.checked_add(lasting).unwrap_or(now.wall);
                Command::Pause { by, until, reason }
            }
            Order::Resume => Command::Resume { by },
            Order::Failover { from, component, force } => {
                Command::Failover { by, reason: "the story says so".to_owned(), from, component, force }
            }
            Order::Switchover { from, component } => {
                Command::Switchover { by, reason: "the story says so".to_owned(), from, component }
            }
            Order::Rejoin { database, discard } => {
                Command::Rejoin { by, reason: "the story says so".to_owned(), database, discard }
            }
            Order::Failback => Command::Failback { by, reason: "the story says so".to_owned() },
            Order::Continue => Command::Continue { by, incident: incident() },
            Order::Ack { false_positive } => {
                Command::Ack { by, incident: incident(), false_positive, note: String::new() }
            }
            Order::Retry(step) => Command::Retry { by, incident: incident(), step },
            Order::Skip(step) => Command::Skip { by, incident: incident(), step },
            Order::Abort { standby_lost } => Command::Abort { by, incident: incident(), standby_lost },
            Order::Adopt(placement) => Command::Adopt { by, placement: placement.into_iter().collect() },
            Order::Merge { ledger, placement, owed } => {
                let moved = placement.iter().map(|(component, _)| (component.clone(), now.wall)).collect();
                let record = BreakGlassRecord {
                    ledger,
                    term: Term { epoch: 1, since: now.wall },
                    frames: 9,
                    head: "of the story".to_owned(),
                    departs_from: None,
                    by: "alice".to_owned(),
                    reason: "the story says so".to_owned(),
                    began: now.wall,
                    placement: placement.into_iter().collect(),
                    moved: Some(moved),
                    owed: owed.into_iter().collect(),
                    fenced: BTreeSet::new(),
                    incidents: Vec::new(),
                };
                Command::Merge { by, record: Box::new(record), unfinished: false }
            }
            Order::Help => return Ok(()),
        };
        self.command(n, command);
        Ok(())
    }

    /// A daemon is given an order.
    pub(super) fn command(&mut self, n: usize, command: Command) {
        let id = self.next_command;
        self.next_command += 1;
        if self.is_alone() {
            return self.hand_over_order(n, id, None, command);
        }
        // Where several daemons share a ledger, an order stands there until it is answered.
        self.requests.insert(id, (self.now, command.clone()));
        self.hand_over_order(n, id, Some(id), command);
    }

    /// Orders that are not answered, to whoever leads from now on.
    pub(super) fn hand_over_orders(&mut self, n: usize) {
        let now = self.now;
        self.requests.retain(|_, (given, _)| now.saturating_sub(*given) < REQUEST_LIFE);
        for (id, (_, command)) in self.requests.clone() {
            self.hand_over_order(n, id, Some(id), command);
        }
    }

    fn hand_over_order(&mut self, n: usize, id: u64, request: Option<u64>, command: Command) {
        let request = request.map(|request| format!("order-{request:06}"));
        let input = Input::Commanded { id, request, command };
        self.for_daemon(n, Duration::ZERO, ForDaemon::Deliver(Box::new(input)));
    }
}
