//! `failoverd ledger show|verify`: what is in a ledger, without a lock and without changing anything.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::args::OrderArgs;
use super::{Exit, Failure, Outcome, Terminal, order};
use crate::config::Loaded;
use crate::daemon::clock::SystemClock;
use crate::decide::{BreakGlassRecord, Command, Controller, Frame};
use crate::ledger::{self, Contents, EtcdLedger, S3Ledger, Torn};

/// The ledger that several daemons share, whole, with a name for it; none where the configuration names a file.
///
/// # Errors
/// It cannot be read, is damaged, or is not there.
pub async fn shared(loaded: &Loaded) -> anyhow::Result<Option<(String, Contents)>> {
    let (settings, deployment) = (&loaded.config.ledger, &loaded.policy.deployment);
    if let Some(etcd) = &settings.etcd {
        let reader = EtcdLedger::open(etcd, deployment, loaded.policy.observer.clone(), Arc::new(SystemClock))?;
        return Ok(Some((format!("{deployment} in etcd"), reader.contents().await?)));
    }
    if let Some(bucket) = &settings.s3 {
        let contents = S3Ledger::contents(bucket, deployment, &loaded.config.probes.nameservers).await?;
        return Ok(Some((format!("{deployment} in s3://{}", bucket.bucket), contents)));
    }
    Ok(None)
}

/// `ledger merge`: what break-glass recorded in `file`, to the daemons.
///
/// # Errors
/// It is no record of break-glass, is in use or damaged, or the daemon refuses it.
pub(super) async fn merge(file: &Path, unfinished: bool, args: &OrderArgs, terminal: Terminal) -> Outcome {
    let record = record(file)?;
    let command = Command::Merge { by: order::by(args), record: Box::new(record), unfinished };
    order::order(args, command, terminal).await
}

/// What there is to merge in `file`.
///
/// # Errors
/// As [`merge`].
pub(super) fn record(file: &Path) -> Result<BreakGlassRecord, Failure> {
    if let Some(holder) = ledger::in_use(file).map_err(anyhow::Error::new)? {
        let text = format!("break-glass still goes on there ({holder})");
        return Err(Failure::because(Exit::NotInEffect, text).hint("let it end first, or end it with Ctrl-C"));
    }
    let Contents { frames, count, head, .. } = ledger::read(file, 0).map_err(anyhow::Error::new)?;
    let record = Controller::recorded_by_break_glass(frames, count, head)
        .map_err(|corrupt| anyhow::anyhow!("{}: {corrupt}", file.display()))?;
    record.ok_or_else(|| {
        let text = format!("{} is no record of break-glass", file.display());
        Failure::because(Exit::No, text).hint("`failoverd failover --break-glass` prints where its record is")
    })
}

/// Prints the ledger from frame `from` on: a line per fact for people, or with `json` the frames as they stand there.
///
/// # Errors
/// The ledger cannot be read or is damaged. What comes before the damage is not shown, because a ledger that is wrong
/// somewhere is no evidence for anything.
pub fn show(path: &Path, from: u64, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    show_contents(&ledger::read(path, from)?, from, json, out)
}

/// The same for a ledger that was read already.
///
/// # Errors
/// It cannot be printed.
pub fn show_contents(contents: &Contents, from: u64, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let frames = || contents.frames.iter().filter(|frame| frame.index >= from);
    if json {
        for frame in frames() {
            writeln!(out, "{}", serde_json::to_string(frame).context("cannot write a frame as JSON")?)?;
        }
        return Ok(());
    }
    writeln!(out, "{:>6}  {:<20}  {:>5}  fact", "frame", "time (UTC)", "epoch")?;
    for frame in frames() {
        show_frame(frame, out)?;
    }
    if let Some(torn) = contents.torn {
        writeln!(out, "{}", torn_text(torn))?;
    }
    Ok(())
}

fn show_frame(frame: &Frame, out: &mut dyn Write) -> anyhow::Result<()> {
    let time = clock_text(frame.at.wall);
    for (n, fact) in frame.facts.iter().enumerate() {
        // A line is a fact, and a terminal is not to be commanded by one, whoever wrote it.
        let fact: String = fact.to_string().chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect();
        if n == 0 {
            writeln!(out, "{:>6}  {time:<20}  {:>5}  {fact}", frame.index, frame.epoch)?;
        } else {
            writeln!(out, "{:>6}  {:<20}  {:>5}  {fact}", "", "", "")?;
        }
    }
    Ok(())
}

fn clock_text(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Checks every frame of the ledger and prints the count and the hash over everything. An incomplete last line is
/// reported and is no damage: the daemon may be writing it at this moment, or a crash cut it short.
///
/// # Errors
/// The ledger cannot be read or is damaged; the error names the frame and what is wrong with it.
pub fn verify(path: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    verify_contents(&path.display().to_string(), &ledger::read(path, 0)?, out)
}

/// The same for a ledger that was read, and with that checked, already.
///
/// # Errors
/// It cannot be printed.
pub fn verify_contents(place: &str, contents: &Contents, out: &mut dyn Write) -> anyhow::Result<()> {
    let facts: usize = contents.frames.iter().map(|frame| frame.facts.len()).sum();
    let epoch = contents.frames.last().map_or(0, |frame| frame.epoch);
    writeln!(out, "{place}: intact")?;
    writeln!(out, "frames  {}", contents.count)?;
    writeln!(out, "facts   {facts}")?;
    writeln!(out, "epoch   {epoch}")?;
    if let (Some(first), Some(last)) = (contents.frames.first(), contents.frames.last()) {
        writeln!(out, "from    {}", clock_text(first.at.wall))?;
        writeln!(out, "to      {}", clock_text(last.at.wall))?;
    }
    writeln!(out, "head    {}", contents.head)?;
    if let Some(torn) = contents.torn {
        writeln!(out, "{}", torn_text(torn))?;
    }
    Ok(())
}

fn torn_text(torn: Torn) -> String {
    format!(
        "the last line (frame {}, {} bytes at byte {}) is not complete: it is being written at this moment, or a crash \
         cut it short and the next start removes it. Nothing was done about it",
        torn.frame, torn.bytes, torn.offset
    )
}
