//! Columns that line up: plain text first, colour after measuring, long cells wrapped at spaces.

use super::{Ink, Palette};

/// Blank columns between two columns.
const GAP: usize = 2;

/// No column is squeezed below this.
const WIDTH_MIN: usize = 8;

/// How a column behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// As wide as its widest cell.
    Fixed,
    /// Shares what is left, and wraps.
    Flexible,
}

/// Cells, each a list of paragraphs in one ink.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Vec<(Ink, String)>>>,
    indent: usize,
}

impl Table {
    /// A table with these columns, `indent` columns from the left.
    pub fn new(indent: usize, columns: Vec<Column>) -> Self {
        Self { columns, rows: vec![], indent }
    }

    /// A row of one-paragraph cells. Missing cells are empty.
    pub fn row<const N: usize>(&mut self, cells: [(Ink, String); N]) {
        self.rows.push(cells.into_iter().map(|cell| vec![cell]).collect());
    }

    /// A row whose cells have several paragraphs.
    pub fn tall_row(&mut self, cells: Vec<Vec<(Ink, String)>>) {
        self.rows.push(cells);
    }

    /// The table as text, each line ended.
    pub fn render(&self, palette: Palette) -> String {
        let widths = self.widths(palette.width());
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<Vec<(Ink, String)>> = widths
                .iter()
                .enumerate()
                .map(|(n, width)| {
                    let cell = row.get(n).map_or(&[][..], Vec::as_slice);
                    cell.iter()
                        .flat_map(|(ink, text)| wrap(text, *width).into_iter().map(|line| (*ink, line)))
                        .collect()
                })
                .collect();
            let height = cells.iter().map(Vec::len).max().unwrap_or(0);
            for line in 0..height {
                let mut pending = self.indent;
                for (cell, width) in cells.iter().zip(&widths) {
                    let (ink, part) = cell.get(line).map_or((Ink::Plain, ""), |(ink, part)| (*ink, part.as_str()));
                    if part.is_empty() {
                        pending += width + GAP;
                        continue;
                    }
                    text.push_str(&" ".repeat(pending));
                    text.push_str(&palette.ink(ink, part));
                    pending = (width + GAP).saturating_sub(columns_of(part));
                }
                text.push('\n');
            }
        }
        text
    }

    fn widths(&self, total: usize) -> Vec<usize> {
        let natural: Vec<usize> = (0..self.columns.len())
            .map(|n| {
                let cells = self.rows.iter().filter_map(|row| row.get(n)).flatten();
                cells.map(|(_, text)| columns_of(text)).max().unwrap_or(0)
            })
            .collect();
        let gaps = self.indent + GAP * self.columns.len().saturating_sub(1);
        let fixed: usize = self.of(Column::Fixed).map(|n| natural[n]).sum();
        let mut left = total.saturating_sub(gaps + fixed);
        let mut widths = natural.clone();
        // The narrowest first, so that what a short column does not need goes to the long ones.
        let mut flexible: Vec<usize> = self.of(Column::Flexible).collect();
        flexible.sort_by_key(|n| natural[*n]);
        for (done, n) in flexible.iter().enumerate() {
            let share = left / (flexible.len() - done);
            widths[*n] = natural[*n].min(share.max(WIDTH_MIN));
            left = left.saturating_sub(widths[*n]);
        }
        widths
    }

    fn of(&self, kind: Column) -> impl Iterator<Item = usize> + '_ {
        self.columns.iter().enumerate().filter(move |(_, column)| **column == kind).map(|(n, _)| n)
    }
}

/// Columns on the screen. Names and messages here are text without wide characters; a wide one costs alignment only.
pub(super) fn columns_of(text: &str) -> usize {
    text.chars().count()
}

/// `text` in lines of at most `width` columns, broken at spaces where there are any. Control characters, which a
/// server's message may contain, become spaces: they must not reach the terminal.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut lines = vec![];
    let mut line = String::new();
    for word in clean.split(' ') {
        let needed = columns_of(&line) + usize::from(!line.is_empty()) + columns_of(word);
        if !line.is_empty() && needed > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        while columns_of(&line) > width {
            let rest: String = line.chars().skip(width).collect();
            lines.push(line.chars().take(width).collect());
            line = rest;
        }
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

/// `text` wrapped into the palette's width, each line after `indent` columns and ended.
pub fn paragraph(palette: Palette, indent: usize, ink: Ink, text: &str) -> String {
    wrap(text, palette.width().saturating_sub(indent).max(WIDTH_MIN))
        .iter()
        .map(|line| format!("{}{}\n", " ".repeat(indent), palette.ink(ink, line)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_cells_wrap_at_spaces_and_short_ones_keep_their_width() {
        let mut table = Table::new(2, vec![Column::Fixed, Column::Flexible]);
        table.row([
            (Ink::Plain, "a".into()),
            (Ink::Plain, "one two three four five six seven eight nine ten eleven".into()),
        ]);
        table.row([(Ink::Plain, "bcd".into()), (Ink::Plain, "short".into())]);
        let text = table.render(Palette::new(false, false, 40));
        assert_eq!(text, "  a    one two three four five six seven\n       eight nine ten eleven\n  bcd  short\n");
    }

    #[test]
    fn what_a_server_says_cannot_move_the_cursor() {
        assert_eq!(wrap("bad\x1b[2J\nnews", 80), ["bad [2J news"]);
    }

    #[test]
    fn a_word_longer_than_the_column_is_cut_into_pieces() {
        assert_eq!(wrap("abcdefghij", 4), ["abcd", "efgh", "ij"]);
    }
}
