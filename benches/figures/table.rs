//! What was measured, beside what was promised.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// One figure.
pub(crate) struct Figure {
    /// To be found again by, in the record.
    pub(crate) name: String,
    /// For people.
    pub(crate) what: String,
    /// How much.
    pub(crate) value: f64,
    /// Of what.
    pub(crate) unit: &'static str,
    /// What was promised, if anything was.
    pub(crate) goal: Option<Goal>,
    /// What else there is to say.
    pub(crate) note: String,
}

/// A promise.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    /// Less is better.
    Below(f64),
    /// More is better.
    AtLeast(f64),
}

/// How a figure stands to its goal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing was promised.
    Reported,
    /// Kept.
    Met,
    /// Not kept, by less than a factor of two: noise, or a warning.
    Missed,
    /// Worse than twice the goal.
    Failed,
}

impl Figure {
    /// Beside its goal.
    pub(crate) fn verdict(&self) -> Verdict {
        // A value that is not a number is no success.
        let worse = match self.goal {
            None => return Verdict::Reported,
            Some(Goal::Below(goal)) => self.value / goal,
            Some(Goal::AtLeast(goal)) => goal / self.value,
        };
        if worse <= 1.0 {
            Verdict::Met
        } else if worse <= 2.0 {
            Verdict::Missed
        } else {
            Verdict::Failed
        }
    }

    fn goal(&self) -> String {
        match self.goal {
            None => String::new(),
            Some(Goal::Below(goal)) => format!("< {}", number(goal)),
            Some(Goal::AtLeast(goal)) => format!("≥ {}", number(goal)),
        }
    }
}

/// All figures, for people.
pub(crate) fn render(figures: &[Figure]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["figure", "measured", "goal", "verdict", ""]);
    for figure in figures {
        let verdict = match figure.verdict() {
            Verdict::Reported => "",
            Verdict::Met => "met",
            Verdict::Missed => "MISSED",
            Verdict::Failed => "FAILED",
        };
        let measured = format!("{} {}", number(figure.value), figure.unit);
        table.add_row([figure.what.clone(), measured, figure.goal(), verdict.to_owned(), figure.note.clone()]);
    }
    for column in [1, 2] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

/// As many digits as mean something.
fn number(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
