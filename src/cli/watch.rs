//! `failoverd status --watch`: the same screen, drawn again when it changes.

use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;

use super::client::Daemon;
use super::terminal::size;
use super::{Exit, Failure, Outcome, Terminal, render};
use crate::decide::Status;

/// Countdowns move at this pace.
const REFRESH: Duration = Duration::from_secs(1);

/// Longest wait for a fact in one request.
const FACT_WAIT: Duration = Duration::from_secs(20);

/// Watches until Ctrl-C. A daemon that goes away is said and waited for: people watch while they restart it.
pub(super) async fn watch(daemon: &Daemon, terminal: Terminal) -> Outcome {
    // The first question fails like any other command: a wrong address or token is not something to wait for.
    let mut shown = fetch(daemon).await?;
    let mut trouble: Option<String> = None;
    let screen = Screen::open(terminal)?;
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let mut fact = std::pin::pin!(next_fact(daemon));
    loop {
        screen.draw(&shown, trouble.as_deref())?;
        let next = Instant::now() + REFRESH;
        tokio::select! {
            _ = &mut interrupted => return Ok(Exit::Ok),
            () = tokio::time::sleep_until(next) => {}
            () = &mut fact => fact.set(next_fact(daemon)),
        }
        tokio::select! {
            _ = &mut interrupted => return Ok(Exit::Ok),
            answer = fetch(daemon) => match answer {
                Ok(status) => {
                    shown = status;
                    trouble = None;
                }
                Err(failure) if failure.exit() == Exit::Permission => return Err(failure),
                Err(failure) => trouble = Some(failure.report()),
            },
        }
    }
}

async fn fetch(daemon: &Daemon) -> Result<Status, Failure> {
    let body = daemon.get("/v1/status").await?;
    Ok(serde_json::from_value(body).context("cannot understand the daemon's status")?)
}

/// Returns when something was recorded; where the daemon cannot say, after a while.
async fn next_fact(daemon: &Daemon) {
    let path = format!("/v1/facts?wait={}s", FACT_WAIT.as_secs());
    if daemon.get_within(&path, FACT_WAIT + REFRESH).await.is_err() {
        tokio::time::sleep(REFRESH).await;
    }
}

/// The terminal's second screen, given back when dropped. Into a pipe, the status is printed when it changes.
struct Screen {
    terminal: Terminal,
    last: std::cell::RefCell<String>,
}

impl Screen {
    fn open(terminal: Terminal) -> std::io::Result<Self> {
        if terminal.is_interactive() {
            terminal.print("\x1b[?1049h\x1b[?25l")?;
        }
        Ok(Self { terminal, last: Default::default() })
    }

    fn draw(&self, status: &Status, trouble: Option<&str>) -> std::io::Result<()> {
        let palette = self.terminal.palette_now();
        let mut text = String::new();
        if let Some(trouble) = trouble {
            let line = format!(
                "NO ANSWER, and what follows is old ({}). {}",
                status.at.strftime("%H:%M:%S UTC"),
                trouble.trim_end()
            );
            for line in line.lines() {
                text.push_str(&palette.ink(render::Ink::Bad, line));
                text.push('\n');
            }
        }
        text.push_str(&render::status(status, palette));
        if *self.last.borrow() == text {
            return Ok(());
        }
        if self.terminal.is_interactive() {
            self.terminal.print(&frame(&text, size().map_or(24, |(_, rows)| rows)))?;
        } else {
            self.terminal.print(&format!("{text}\n"))?;
        }
        self.last.replace(text);
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.terminal.is_interactive() {
            // If this fails there is no terminal any more.
            let _ = self.terminal.print("\x1b[?25h\x1b[?1049l");
        }
    }
}

/// One update of the whole screen, without clearing it first (that is what flickers) and without scrolling.
fn frame(text: &str, rows: u16) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let rows = usize::from(rows.max(2));
    let mut frame = String::from("\x1b[?2026h\x1b[H");
    let (visible, hidden) = if lines.len() <= rows { (lines.len(), 0) } else { (rows - 1, lines.len() - rows + 1) };
    for (n, line) in lines[..visible].iter().enumerate() {
        if n > 0 {
            frame.push_str("\r\n");
        }
        frame.push_str(line);
        frame.push_str("\x1b[K");
    }
    if hidden > 0 {
        frame.push_str(&format!("\r\n{hidden} more lines: make the window higher, or failoverd status | less\x1b[K"));
    }
    frame.push_str("\x1b[J\x1b[?2026l");
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_never_scrolls_and_says_what_it_hides() {
        let frame = frame("1\n2\n3\n4\n5\n", 4);
        assert_eq!(frame.matches("\r\n").count(), 3, "four lines");
        assert!(frame.contains("2 more lines"), "{frame:?}");
        assert!(!frame.contains("\x1b[2J"), "clearing flickers");
    }
}
