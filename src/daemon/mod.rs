//! The shell: what keeps the core informed and carries out what it asks for. No policy.
//!
//! In reading order: [`run`], `boot` (from files to a recovered controller), [`event_loop`] (the one owner of the
//! controller), [`executor`] and `ensure` (what becomes of effects), [`gate`] (what every mutating call passes),
//! [`prober`], [`handle`] (how others ask the loop), [`pulse`] (signs of life); [`break_glass`] is the same for one plan of
//! a person's, beside a ledger that is gone.

mod boot;
pub mod break_glass;
pub mod clock;
mod ensure;
pub mod event_loop;
pub mod executor;
mod exit;
pub mod failsafe;
pub mod gate;
pub mod guardian;
pub mod handle;
pub mod keepsake;
mod memory;
pub mod notices;
pub mod prober;
pub mod pulse;
mod reload;
pub mod seat;
mod supervise;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::ports::Clock;
use crate::telemetry::{self, Gauges, LogFormat, Meters};
use crate::web::{self, Access, Api, Limits, Record};
use boot::{Boot, Refusal};
use event_loop::{BeyondHelp, Council, EventLoop};
use executor::{Executor, World};
pub use exit::End;
use gate::{Gate, Permits};
use guardian::Keeper;
use handle::{Board, Handle};
use notices::{LogNotifier, Notices};
use prober::{Prober, Sighting};
use pulse::{Herald, Pulse, Switch, Word};
use reload::Reloader;
use seat::Seat;
use supervise::supervise;

/// What `failoverd run` was told.
#[derive(Debug, Clone, Default)]
pub struct RunArgs {
    /// The configuration's files, each on top of the ones before.
    pub config: Vec<PathBuf>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which of them, as `RUST_LOG` has it.
    pub log_filter: Option<String>,
}

/// Observations that wait for the event loop: four seconds' worth of a thousand instances.
const OBSERVATIONS_MAX: usize = 4096;
/// Ends of steps and looks that wait.
const OUTCOMES_MAX: usize = 1024;
/// After the longest mutating call, this is left for everything else when the daemon ends.
const GRACE: Duration = Duration::from_secs(15);
/// A guardian leaves once what its daemon said last is fresh for nobody (`council.ballot_fresh`), and the ledger was asked
/// once more.
const GUARDIAN_LEAVES: Duration = Duration::from_secs(5);
/// And this for a loop that does not end.
const GIVE_UP_AFTER: Duration = Duration::from_secs(5);
/// A socket of systemd that is full may hold the end up for so long.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
/// The ledger is asked this often within `api.self_fence_after`.
const ASKS_PER_ROLE: u32 = 3;
/// Operators, a scraper or two, and those who follow the facts.
const API_LIMITS: Limits = Limits { connections: 64, header_within: Duration::from_secs(10) };
/// Load balancers and applications.
const ROLE_LIMITS: Limits = Limits { connections: 512, header_within: Duration::from_secs(10) };

/// Runs the daemon until it is asked to end.
pub fn run(args: RunArgs) -> ExitCode {
    let _flush = telemetry::init_logs(args.log_format, args.log_filter.as_deref());
    // Refused only where a provider is there already, which then is the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let workers = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    let end = match runtime {
        Ok(runtime) => {
            let end = runtime.block_on(begin(args));
            // Blocking calls that hang (a dead resolver, a dead disk) must not hold up the end.
            runtime.shutdown_timeout(Duration::from_secs(1));
            end
        }
        Err(error) => {
            error!("cannot start threads: {error}");
            End::System
        }
    };
    match end {
        End::Asked => info!("ended"),
        End::Unavailable | End::Bug | End::System | End::Ledger | End::Locked | End::Configuration => {
            error!(exit = end.number(), "ended");
        }
    }
    end.into()
}

async fn begin(args: RunArgs) -> End {
    let clock: Arc<dyn Clock> = Arc::new(clock::SystemClock);
    let started = match boot::boot(&args.config, &clock).await {
        Ok(boot) => Daemon::start(boot, args.config, clock),
        Err(refusal) => Err(refusal),
    };
    match started {
        Ok(daemon) => daemon.serve().await,
        Err(refusal) => {
            for line in &refusal.lines {
                error!("{line}");
            }
            refusal.end
        }
    }
}

/// Everything that runs.
struct Daemon {
    handle: Handle,
    gate: Arc<Gate>,
    herald: Herald,
    reloader: Reloader,
    event_loop: JoinHandle<Result<(), BeyondHelp>>,
    give_up: CancellationToken,
    stop: CancellationToken,
    grace: Duration,
    signals: Signals,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Refusal> {
        let listen = |kind| {
            signal(kind).map_err(|error| Refusal::of(End::System, format!("cannot listen for signals: {error}")))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }
}

impl Daemon {
    fn start(boot: Boot, paths: Vec<PathBuf>, clock: Arc<dyn Clock>) -> Result<Self, Refusal> {
        // Before anything is announced, so that no signal is lost.
        let signals = Signals::listen()?;
        let Boot { config, policy, adapters, controller, ledger, is_shared, frames, alarms, halted, listeners, holder } =
            boot;
        let metrics = telemetry::install();
        let (stop, give_up) = (CancellationToken::new(), CancellationToken::new());
        let gate = Arc::new(Gate::new(config.ledger.stop_file.clone(), clock.clone()));
        let next_index = frames.len() as u64;
        telemetry::booting(&policy.deployment, policy.mode, next_index);
        let board = Arc::new(Board::new(clock.clone(), frames));
        let (handle, requests) = Handle::channel(board.clone());
        let (permits, renewals) = Permits::channel();
        let (sightings, observations) = mpsc::channel::<Sighting>(OBSERVATIONS_MAX);
        let (outcomes_in, outcomes) = mpsc::channel(OUTCOMES_MAX);
        let guarded_in = outcomes_in.clone();
        let world = World { actuator: adapters.actuator, claims: adapters.claims, losses: adapters.losses };
        let executor = Executor::new(
            world,
            executor::Parts {
                gate: gate.clone(),
                permits,
                clock: clock.clone(),
                call_timeout: config.ledger.call_timeout,
                holder,
                outcomes: outcomes_in,
            },
        );
        let (draining, inputs) = (gate.draining().clone(), guarded_in);
        let keeper = Keeper::start(paths.clone(), config.clone(), handle.clone(), inputs, draining, &stop);
        let notices = Notices::start(vec![Arc::new(LogNotifier)], &stop);
        let herald = Herald::start();
        let switch = config.heartbeat.url.clone().map(|url| Switch { url, every: config.heartbeat.every });
        let pulse = Pulse::start(herald.clone(), switch, &gate, &stop);
        let council = ledger.as_ref().filter(|_| is_shared).map(|(ledger, _)| {
            // A role has to be confirmed a few times before it ends.
            let ask_every = config.api.role_listen.map(|_| config.api.self_fence_after / ASKS_PER_ROLE);
            let seat = Seat::take(ledger.clone(), clock.clone(), next_index, ask_every, &stop);
            Council::new(seat, config.council.ballot_every, clock.now().wall)
        });
        let shared = ledger.as_ref().filter(|_| is_shared).map(|(ledger, _)| ledger.clone());
        let event_loop = EventLoop::new(event_loop::Parts {
            controller,
            ledger,
            council,
            next_index,
            permit: config.ledger.permit,
            clock: clock.clone(),
            executor,
            gate: gate.clone(),
            board: board.clone(),
            observations,
            outcomes,
            requests,
            renewals,
            notices,
            pulse,
            released: keeper.released(),
            meters: Meters::new(&policy),
            keepsake: is_shared.then(|| keepsake::place(&config)),
            diary: Some(memory::place(&config, &policy.observer)),
            alarms,
        });
        let event_loop = match halted {
            Some(why) => event_loop.halted(why),
            None => event_loop,
        };
        let event_loop = tokio::spawn(event_loop.run(give_up.clone()));
        let prober =
            Prober::start(adapters.probes, adapters.references, config.probes.jitter, clock.clone(), sightings.clone());
        let counters = Arc::new(ArcSwap::new(prober.counters()));
        let api = Api {
            observer: policy.observer.clone(),
            handle: handle.clone(),
            access: Access::new(config.api.token.clone(), listeners.api_address),
            body_max: config.api.body_max,
            ledger: shared.map_or_else(|| Record::File(config.ledger.path.clone()), Record::Shared),
            metrics,
            prober: counters.clone(),
            gauges: Arc::new(std::sync::Mutex::new(Gauges::default())),
        };
        let (listener, router) = (Arc::new(listeners.api), web::router(api));
        let server = {
            let stop = stop.clone();
            move || web::serve(listener.clone(), router.clone(), API_LIMITS, stop.clone())
        };
        tokio::spawn(supervise("api", stop.clone(), server));
        if let Some(listener) = listeners.role {
            let keep = {
                let (config, observer, board) = (config.clone(), policy.observer.clone(), board.clone());
                let clock = clock.clone();
                move || failsafe::keep_roles(config.clone(), observer.clone(), board.clone(), clock.clone())
            };
            tokio::spawn(supervise("failsafe", stop.clone(), keep));
            let (listener, router) = (Arc::new(listener), web::role_router(board, config.api.self_fence_after));
            let server = {
                let stop = stop.clone();
                move || web::serve(listener.clone(), router.clone(), ROLE_LIMITS, stop.clone())
            };
            tokio::spawn(supervise("role", stop.clone(), server));
        }
        info!(api = %listeners.api_address, role = listeners.role_address.map(|a| a.to_string()), "listening");
        herald.say(Word::Ready);
        let grace = config.ledger.call_timeout + GRACE.max(config.council.ballot_fresh + GUARDIAN_LEAVES);
        let reloader = Reloader {
            paths,
            config,
            policy,
            clock,
            handle: handle.clone(),
            sightings,
            prober: Some(prober),
            keeper,
            counters,
        };
        Ok(Self { handle, gate, herald, reloader, event_loop, give_up, stop, grace, signals })
    }

    /// Until a signal ends it, or a bug.
    async fn serve(mut self) -> End {
        loop {
            tokio::select! {
                _ = self.signals.terminate.recv() => break,
                _ = self.signals.interrupt.recv() => break,
                _ = self.signals.hang_up.recv() => {
                    self.herald.say(Word::Reloading);
                    self.reloader.reload().await;
                    self.herald.say(Word::Ready);
                }
                ended = &mut self.event_loop => return self.event_loop_ended(ended),
            }
        }
        self.drain().await
    }

    /// No new effects; running calls finish; what is left is in the ledger.
    async fn drain(mut self) -> End {
        info!("ending: what runs may finish, nothing new is started");
        let told = self.herald.say_and_tell(Word::Stopping);
        self.reloader.stop_probing().await;
        self.gate.drain();
        let ended = tokio::select! {
            ended = &mut self.event_loop => Some(ended),
            () = tokio::time::sleep(self.grace) => None,
            _ = self.signals.terminate.recv() => None,
            _ = self.signals.interrupt.recv() => None,
        };
        let ended = match ended {
            Some(ended) => Some(ended),
            None => {
                warn!("not everything ended in time; it is taken up again after the next start");
                self.give_up.cancel();
                tokio::time::timeout(GIVE_UP_AFTER, &mut self.event_loop).await.ok()
            }
        };
        self.stop.cancel();
        drop(self.handle);
        // systemd would take the end for a failure if it came before the word; but nobody waits for it for long.
        let _ = tokio::time::timeout(TOLD_WITHIN, told).await;
        match ended {
            Some(Ok(_)) => End::Asked,
            Some(Err(_)) => End::Bug,
            None => {
                error!("the event loop did not end");
                End::Bug
            }
        }
    }

    /// It never ends by itself: systemd starts a new one, which recovers from the ledger.
    fn event_loop_ended(&self, ended: Result<Result<(), BeyondHelp>, tokio::task::JoinError>) -> End {
        self.gate.drain();
        self.stop.cancel();
        match ended {
            Ok(Ok(())) => error!("the event loop ended, which is a bug"),
            Ok(Err(beyond_help)) => error!("{beyond_help}"),
            Err(panic) => {
                telemetry::panicked("event_loop");
                error!("the event loop panicked, which is a bug: {panic}");
            }
        }
        End::Bug
    }
}
