//! What the other end of standard output is, and how things are written to it.

use std::io::{self, IsTerminal, Write};

use super::render::Palette;

/// Columns assumed where nobody says how wide the terminal is.
const COLUMNS: u16 = 100;

/// Narrower than this the tables cannot be read, whatever the terminal says.
const COLUMNS_MIN: u16 = 60;

/// When output is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Colour {
    /// On a terminal that is not `dumb`, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Even into a pipe.
    Always,
    /// Not at all.
    Never,
}

/// Standard output: its properties, and the only place that writes to it.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    palette: Palette,
    colour: Colour,
    interactive: bool,
}

impl Terminal {
    /// Looks at standard output and at the environment.
    pub fn detect(colour: Colour) -> Self {
        let interactive = io::stdout().is_terminal();
        let env = |name: &str| std::env::var(name).ok();
        let width = if interactive { size().map(|(columns, _)| columns) } else { None }
            .or_else(|| env("COLUMNS")?.parse().ok())
            .unwrap_or(COLUMNS)
            .max(COLUMNS_MIN);
        let palette = Palette::new(is_styled(colour, interactive, &env), is_unicode(&env), width);
        Self { palette, colour, interactive }
    }

    /// How to render for it.
    pub fn palette(&self) -> Palette {
        self.palette
    }

    /// The same, measured again: people resize windows while they watch.
    pub fn palette_now(&self) -> Palette {
        Self::detect(self.colour).palette
    }

    /// Somebody sits in front of it.
    pub fn is_interactive(&self) -> bool {
        self.interactive
    }

    /// Writes text; a reader that went away is an error of kind `BrokenPipe`.
    pub fn print(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// Writes a value as indented JSON and a line break.
    pub fn print_json(&self, value: &impl serde::Serialize) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(value)?;
        text.push('\n');
        self.print(&text)
    }
}

/// Columns and rows of the terminal that standard output is, if it is one and says so.
pub(super) fn size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// <https://no-color.org> and <https://bixense.com/clicolors>: an explicit wish, then NO_COLOR, then what it is.
fn is_styled(colour: Colour, interactive: bool, env: &dyn Fn(&str) -> Option<String>) -> bool {
    let is_set = |name: &str| env(name).is_some_and(|value| !value.is_empty());
    match colour {
        Colour::Always => true,
        Colour::Never => false,
        Colour::Auto if is_set("NO_COLOR") => false,
        Colour::Auto if env("CLICOLOR_FORCE").is_some_and(|value| !value.is_empty() && value != "0") => true,
        Colour::Auto => interactive && env("TERM").is_some_and(|term| term != "dumb"),
    }
}

/// The locale says UTF-8, and the terminal is not the kernel's console, whose font lacks the symbols.
fn is_unicode(env: &dyn Fn(&str) -> Option<String>) -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(env).find(|value| !value.is_empty());
    let locale = locale.unwrap_or_default().to_ascii_lowercase();
    (locale.ends_with("utf-8") || locale.ends_with("utf8")) && env("TERM").is_none_or(|term| term != "linux")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn colour_needs_a_terminal_that_can_and_nobody_who_minds() {
        let xterm = [("TERM", "xterm")];
        assert!(is_styled(Colour::Auto, true, &env(&xterm)));
        assert!(!is_styled(Colour::Auto, false, &env(&xterm)), "a pipe");
        assert!(!is_styled(Colour::Auto, true, &env(&[("TERM", "dumb")])));
        assert!(!is_styled(Colour::Auto, true, &env(&[("TERM", "xterm"), ("NO_COLOR", "1")])));
        assert!(is_styled(Colour::Auto, true, &env(&[("TERM", "xterm"), ("NO_COLOR", "")])), "empty is not set");
        assert!(is_styled(Colour::Auto, false, &env(&[("CLICOLOR_FORCE", "1")])));
        assert!(is_styled(Colour::Always, false, &env(&[("NO_COLOR", "1")])), "the command line wins");
        assert!(!is_styled(Colour::Never, true, &env(&xterm)));
    }

    #[test]
    fn symbols_need_a_utf_8_locale_and_more_than_the_kernels_console() {
        assert!(is_unicode(&env(&[("LANG", "de_DE.UTF-8")])));
        assert!(is_unicode(&env(&[("LC_ALL", ""), ("LANG", "C.utf8")])));
        assert!(!is_unicode(&env(&[("LC_ALL", "C"), ("LANG", "de_DE.UTF-8")])), "LC_ALL wins");
        assert!(!is_unicode(&env(&[])));
        assert!(!is_unicode(&env(&[("LANG", "de_DE.UTF-8"), ("TERM", "linux")])));
    }
}
