//! `ledger`: its commands, and which ledger is meant.

use std::path::PathBuf;

use clap::Subcommand;

use super::{OrderArgs, load};
use crate::cli::{Exit, Failure};
use crate::config::Loaded;

/// `ledger`.
#[derive(Debug, Subcommand)]
pub enum LedgerCommand {
    /// Print every fact with its time, oldest first
    #[command(after_help = "Examples:
  failoverd ledger show --config /etc/failoverd/failoverd.toml
  failoverd ledger show /var/lib/failoverd/ledger --from 120
  failoverd ledger show --json | jq -c '.facts[]'")]
    Show {
        /// Which.
        #[command(flatten)]
        place: LedgerArgs,
        /// Begin with this frame
        #[arg(long, default_value_t = 0, value_name = "FRAME")]
        from: u64,
        /// Print one frame of JSON per line, for programs
        #[arg(long)]
        json: bool,
    },
    /// Check every frame and the chain of hashes; exits with 1 where it is damaged
    #[command(after_help = "Examples:
  failoverd ledger verify --config /etc/failoverd/failoverd.toml
  failoverd ledger verify /var/lib/failoverd/ledger && echo intact")]
    Verify {
        /// Which.
        #[command(flatten)]
        place: LedgerArgs,
    },
    /// Tell the daemons what break-glass did, once their ledger is back: they know where everything is, and act again
    #[command(
        after_help = "FILE is the record that `failoverd failover --break-glass` has written; it is checked and not changed. Merging twice
does no harm. Whichever daemon is asked passes it on to the one that leads.

Examples:
  failoverd ledger merge /var/lib/failoverd/break-glass/20261020T031201Z/ledger --config /etc/failoverd/failoverd.toml
  failoverd ledger merge record-of-alice --url http://10.9.0.5:8780 --as alice"
    )]
    Merge {
        /// The record of break-glass
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Although its plan has not ended: what is left of it is done by hand
        #[arg(long)]
        unfinished: bool,
        /// Order.
        #[command(flatten)]
        order: OrderArgs,
    },
}

/// Where the ledger is.
#[derive(Debug, Clone, clap::Args)]
pub struct LedgerArgs {
    /// The ledger's file [default: the ledger of --config]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The daemon's configuration
    #[arg(short, long, env = "FAILOVERD_CONFIG", value_delimiter = ',', value_name = "FILE")]
    pub config: Vec<PathBuf>,
}

/// Where a ledger is.
#[derive(Debug)]
pub enum LedgerPlace {
    /// In this file.
    File(PathBuf),
    /// Where the configuration says.
    Configured(Box<Loaded>),
}

impl LedgerArgs {
    /// The ledger that is meant.
    ///
    /// # Errors
    /// Neither was given, or the configuration has mistakes.
    pub fn find(&self) -> Result<LedgerPlace, Failure> {
        if let Some(file) = &self.file {
            return Ok(LedgerPlace::File(file.clone()));
        }
        if self.config.is_empty() {
            return Err(Failure::because(Exit::Usage, "which ledger?")
                .hint("give its file, or --config with the daemon's file"));
        }
        Ok(LedgerPlace::Configured(Box::new(load(&self.config)?)))
    }
}
