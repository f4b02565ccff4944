//! The command line: arguments -> command -> exit code. One file per command, definitions in [`args`].
//!
//! Deliberately thin: a command asks the daemon or a part of the library and shows the answer.

pub mod args;
mod break_glass;
mod budget;
mod check_config;
mod client;
mod exit;
mod explain;
pub(crate) mod failback;
pub mod ledger;
mod order;
mod plan;
pub mod probe;
pub(crate) mod rejoin;
pub mod render;
pub mod replay;
pub mod run;
pub mod simulate;
mod status;
pub(crate) mod switchover;
mod terminal;
pub(crate) mod verify;
mod watch;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command, DaemonCommand, LedgerCommand};
pub use exit::{Exit, Failure, Outcome};
pub use terminal::{Colour, Terminal};

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        // Help and version are no errors and go to standard output; clap knows which is which.
        Err(error) => {
            let _ = error.print();
            let is_error = error.use_stderr();
            return if is_error { Exit::Usage.into() } else { Exit::Ok.into() };
        }
    };
    report_panics();
    // Before any client exists: rustls has no built-in provider here, and must not guess one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let terminal = Terminal::detect(args.color);
    match dispatch(args.command, terminal) {
        Ok(code) => code,
        // `failoverd status | head`: whoever read has seen enough.
        Err(failure) if failure.is_broken_pipe() => Exit::Ok.into(),
        Err(failure) => {
            let _ = std::io::stderr().write_all(failure.report().as_bytes());
            failure.exit().into()
        }
    }
}

fn dispatch(command: Command, terminal: Terminal) -> Result<ExitCode, Failure> {
    let exit = match command {
        // It has exit codes of its own.
        Command::Run(args) => return Ok(run::run(args)),
        Command::Guardian(args) => return Ok(run::guard(args)),
        Command::CheckConfig(args) => check_config::run(&args, terminal),
        Command::Probe(args) => client_runtime()?.block_on(probe::run(args.load()?, args.json, terminal)),
        Command::Verify(args) => client_runtime()?.block_on(verify::run(&args, terminal)),
        Command::Budget(args) => budget::run(&args, terminal),
        Command::Ledger { what: LedgerCommand::Merge { file, unfinished, order } } => {
            client_runtime()?.block_on(ledger::merge(&file, unfinished, &order, terminal))
        }
        Command::Ledger { what } => read_ledger(&what),
        Command::Replay(args) => play(&args),
        Command::Simulate(args) => {
            let is_sound = simulate::simulate(&args, &mut std::io::stdout().lock())?;
            Ok(if is_sound { Exit::Ok } else { Exit::No })
        }
        Command::Plan(args) => client_runtime()?.block_on(plan::plan(&args, terminal)),
        Command::Daemon(DaemonCommand::Failover(args)) if args.glass.break_glass => break_glass::run(&args, terminal),
        Command::Daemon(question) => client_runtime()?.block_on(ask(question, terminal)),
    };
    exit.map(ExitCode::from)
}

fn play(args: &args::ReplayArgs) -> Outcome {
    let shown = match (args.json, args.brief) {
        (true, _) => replay::Shown::Json,
        (false, true) => replay::Shown::Story,
        (false, false) => replay::Shown::Plans,
    };
    let as_expected = replay::replay(&args.story, &args.config, shown, &mut std::io::stdout().lock())?;
    Ok(if as_expected { Exit::Ok } else { Exit::No })
}

fn read_ledger(command: &LedgerCommand) -> Outcome {
    let out = &mut std::io::stdout().lock();
    let (LedgerCommand::Show { place, .. } | LedgerCommand::Verify { place }) = command else { return Ok(Exit::Usage) };
    let path = match place.find()? {
        args::LedgerPlace::File(path) => path,
        args::LedgerPlace::Configured(loaded) => match client_runtime()?.block_on(ledger::shared(&loaded))? {
            Some((name, contents)) => {
                match command {
                    LedgerCommand::Show { from, json, .. } => ledger::show_contents(&contents, *from, *json, out)?,
                    LedgerCommand::Verify { .. } => ledger::verify_contents(&name, &contents, out)?,
                    LedgerCommand::Merge { .. } => {}
                }
                return Ok(Exit::Ok);
            }
            None => loaded.config.ledger.path.clone(),
        },
    };
    match command {
        LedgerCommand::Show { from, json, .. } => ledger::show(&path, *from, *json, out)?,
        LedgerCommand::Verify { .. } => ledger::verify(&path, out)?,
        LedgerCommand::Merge { .. } => {}
    }
    Ok(Exit::Ok)
}

/// Commands that talk to the daemon.
async fn ask(command: DaemonCommand, terminal: Terminal) -> Outcome {
    use crate::decide::Command as Order;
    match command {
        DaemonCommand::Status(args) => status::status(&args, terminal).await,
        DaemonCommand::Explain(args) => explain::explain(&args, terminal).await,
        DaemonCommand::Failover(args) => order::failover(args, terminal).await,
        DaemonCommand::Switchover(args) => switchover::run(args, terminal).await,
        DaemonCommand::Failback(args) => failback::run(args, terminal).await,
        DaemonCommand::Continue(args) => failback::go_on(args, terminal).await,
        DaemonCommand::Rejoin(args) => rejoin::run(args, terminal).await,
        DaemonCommand::Approve(args) => {
            let order = Order::Approve {
                by: order::by(&args.order),
                incident: args.incident,
                hash: args.plan_hash,
                accept_unfenced: args.accept_unfenced,
                accept_loss: args.accept_loss,
            };
            order::order(&args.order, order, terminal).await
        }
        DaemonCommand::Hold(args) => {
            let order = Order::Hold { by: order::by(&args.order), incident: args.incident };
            order::order(&args.order, order, terminal).await
        }
        DaemonCommand::Pause(args) => {
            let until = order::end_of(&args)?;
            let order = Order::Pause { by: order::by(&args.order), until, reason: args.reason };
            order::order(&args.order, order, terminal).await
        }
        DaemonCommand::Resume(args) => {
            let order = Order::Resume { by: order::by(&args) };
            order::order(&args, order, terminal).await
        }
        DaemonCommand::Ack(args) => {
            let order = Order::Ack {
                by: order::by(&args.order),
                incident: args.incident,
                false_positive: args.false_positive,
                note: args.note,
            };
            order::order(&args.order, order, terminal).await
        }
        DaemonCommand::Retry(args) => {
            let order = Order::Retry { by: order::by(&args.order), incident: args.incident, step: args.step };
            order::order(&args.order, order, terminal).await
        }
        DaemonCommand::Skip(args) => {
            let order = Order::Skip { by: order::by(&args.order), incident: args.incident, step: args.step };
            order::order(&args.order, order, terminal).await
        }
        DaemonCommand::Abort(args) => {
            let (by, standby_lost) = (order::by(&args.order), args.standby_lost);
            let order = Order::Abort { by, incident: args.incident, standby_lost };
            order::order(&args.order, order, terminal).await
        }
        DaemonCommand::Adopt(args) => {
            let order = Order::Adopt { by: order::by(&args.order), placement: args.placement.into_iter().collect() };
            order::order(&args.order, order, terminal).await
        }
    }
}

/// One thread is enough to ask a question.
fn client_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// A panic is a bug of ours: said in one line, in the log as well, and with what to do about it.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        let what = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(panic = what, at, "panicked");
        let line =
            format!("failoverd: panicked at {at}: {what}\nhint: this is a bug; please report it with these lines\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
    }));
}
