//! `failoverd run`: the daemon.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::daemon;
use crate::telemetry::LogFormat;

/// `run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  failoverd run --config /etc/failoverd/failoverd.toml
  failoverd run --config base.toml --config site.toml --log-format json

Signals: TERM and INT end it (what runs may finish), HUP reads the configuration again.
Exit codes: 0 ended as asked, 69 an address is in use, 70 a bug, 71 no threads or signals, 74 the
ledger cannot be opened, 75 another failoverd holds the ledger, 78 mistakes in the configuration.")]
pub struct RunArgs {
    /// Configuration files, each on top of the ones before
    #[arg(short, long, required = true, env = "FAILOVERD_CONFIG", value_delimiter = ',', value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Look of the log on standard error: auto (text on a terminal, else JSON), text or json
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT", hide_possible_values = true)]
    pub log_format: Format,
    /// Which log lines, such as `info` or `failoverd=debug`
    #[arg(long, value_name = "FILTER", env = "RUST_LOG")]
    pub log: Option<String>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum Format {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One line of text per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// Runs until it is asked to end.
pub(super) fn run(args: RunArgs) -> std::process::ExitCode {
    let log_format = match args.log_format {
        Format::Auto => LogFormat::Auto,
        Format::Text => LogFormat::Text,
        Format::Json => LogFormat::Json,
    };
    daemon::run(daemon::RunArgs { config: args.config, log_format, log_filter: args.log })
}

/// `guardian`.
#[derive(Debug, clap::Args)]
pub struct GuardianArgs {
    /// Configuration files, each on top of the ones before
    #[arg(short, long, required = true, value_name = "FILE")]
    pub config: Vec<PathBuf>,
}

/// Guards until nobody relies on it.
pub(super) fn guard(args: GuardianArgs) -> std::process::ExitCode {
    daemon::guardian::run(&daemon::guardian::GuardArgs { config: args.config })
}
