//! Colours and symbols, with what is shown where there are none.

use owo_colors::{OwoColorize, Style};

use crate::decide::{StepState, VerdictKind};

/// What a piece of text means; never what it looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// As it is.
    Plain,
    /// As it should be.
    Good,
    /// Look at it.
    Warning,
    /// Wake someone.
    Bad,
    /// Under way.
    Active,
    /// Background.
    Faint,
    /// A heading.
    Heading,
}

/// A mark in front of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Symbol {
    /// Done, alive.
    Good,
    /// Failed, failing.
    Bad,
    /// Under way.
    Running,
    /// Its turn has not come.
    Waiting,
    /// Held back.
    Held,
    /// Worth a look.
    Warning,
    /// Nothing can be said.
    Unknown,
    /// Being undone, undone.
    Back,
    /// Left out.
    Left,
    /// A commit point.
    Commit,
}

/// What the reader's terminal can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Palette {
    styled: bool,
    unicode: bool,
    width: u16,
}

impl Palette {
    /// Colours, symbols beyond ASCII, columns.
    pub fn new(styled: bool, unicode: bool, width: u16) -> Self {
        Self { styled, unicode, width }
    }

    /// How many columns there are.
    pub fn width(self) -> usize {
        usize::from(self.width)
    }

    /// `text` in the colour of its meaning, or as it is.
    pub fn ink(self, ink: Ink, text: &str) -> String {
        if !self.styled || text.is_empty() {
            return text.to_owned();
        }
        let style = match ink {
            Ink::Plain => return text.to_owned(),
            Ink::Good => Style::new().green(),
            Ink::Warning => Style::new().yellow(),
            Ink::Bad => Style::new().red().bold(),
            Ink::Active => Style::new().cyan().bold(),
            Ink::Faint => Style::new().dimmed(),
            Ink::Heading => Style::new().bold(),
        };
        text.style(style).to_string()
    }

    /// The mark, one column wide.
    pub fn symbol(self, symbol: Symbol) -> &'static str {
        let (unicode, ascii) = match symbol {
            Symbol::Good => ("✓", "+"),
            Symbol::Bad => ("✗", "x"),
            Symbol::Running => ("▶", ">"),
            Symbol::Waiting => ("…", "."),
            Symbol::Held => ("⏸", "="),
            Symbol::Warning => ("!", "!"),
            Symbol::Unknown => ("?", "?"),
            Symbol::Back => ("↶", "<"),
            Symbol::Left => ("–", "-"),
            Symbol::Commit => ("◆", "*"),
        };
        if self.unicode { unicode } else { ascii }
    }

    /// From here to there.
    pub fn arrow(self) -> &'static str {
        if self.unicode { "→" } else { "->" }
    }

    /// Between things on one line.
    pub fn dot(self) -> &'static str {
        if self.unicode { " · " } else { " | " }
    }

    /// `width` columns of which `share` (0 to 1) are filled.
    pub fn bar(self, share: f64, width: usize) -> String {
        let filled = ((share.clamp(0.0, 1.0) * width as f64).round() as usize).min(width);
        let (full, empty) = if self.unicode { ("█", "░") } else { ("#", ".") };
        format!("{}{}", full.repeat(filled), empty.repeat(width - filled))
    }
}

/// How a step's state is marked, and what it means.
pub(super) fn step_mark(state: StepState) -> (Symbol, Ink) {
    match state {
        StepState::Waiting => (Symbol::Waiting, Ink::Faint),
        StepState::Held => (Symbol::Held, Ink::Warning),
        StepState::Running => (Symbol::Running, Ink::Active),
        StepState::Done => (Symbol::Good, Ink::Good),
        StepState::Failed => (Symbol::Bad, Ink::Bad),
        StepState::Owed => (Symbol::Held, Ink::Warning),
        StepState::Skipped | StepState::Cancelled => (Symbol::Left, Ink::Faint),
        StepState::Undoing => (Symbol::Back, Ink::Active),
        StepState::Undone => (Symbol::Back, Ink::Faint),
    }
}

/// The word for a step's state.
pub(super) fn step_word(state: StepState) -> &'static str {
    match state {
        StepState::Waiting => "waiting",
        StepState::Held => "held",
        StepState::Running => "running",
        StepState::Done => "done",
        StepState::Failed => "FAILED",
        StepState::Owed => "owed",
        StepState::Skipped => "skipped",
        StepState::Undoing => "undoing",
        StepState::Undone => "undone",
        StepState::Cancelled => "cancelled",
    }
}

/// How a verdict is marked, and what it means for an instance that serves or waits.
pub(super) fn verdict_mark(verdict: VerdictKind) -> (Symbol, Ink) {
    match verdict {
        VerdictKind::Unknown => (Symbol::Unknown, Ink::Warning),
        VerdictKind::Alive => (Symbol::Good, Ink::Good),
        VerdictKind::Degraded => (Symbol::Warning, Ink::Warning),
        VerdictKind::Suspect => (Symbol::Warning, Ink::Warning),
        VerdictKind::Failing => (Symbol::Bad, Ink::Bad),
        VerdictKind::Recovering => (Symbol::Running, Ink::Active),
    }
}
