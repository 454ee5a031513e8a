//! Rows for people and for scripts: aligned columns on a terminal, separated by tabs anywhere else.

use std::io::{self, IsTerminal};

use crate::output::{Output, printable};

/// Rows under a line of headings.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headings: &[&str]) -> Table {
        Table { rows: vec![headings.iter().map(|&heading| heading.to_owned()).collect()] }
    }

    /// Adds a row; an empty cell is shown as `-`, so that a column is never missing, and what a cell has of control
    /// characters, which would break columns and terminals, as their numbers.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let shown = |cell: String| if cell.is_empty() { "-".to_owned() } else { printable(&cell) };
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    pub(crate) fn print(&self, out: &mut Output) -> io::Result<()> {
        let lines = if io::stdout().is_terminal() { self.aligned() } else { self.with_tabs() };
        lines.iter().try_for_each(|line| out.line(line))
    }

    fn with_tabs(&self) -> Vec<String> {
        self.rows.iter().map(|row| row.join("\t")).collect()
    }

    fn aligned(&self) -> Vec<String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_for_people_and_cut_by_tabs_for_scripts() {
        let mut table = Table::new(&["BROKER", "RACK"]);
        table.row(["1".to_owned(), String::new()]);
        table.row(["1000000".to_owned(), "é".to_owned()]);
        assert_eq!(table.aligned(), ["BROKER   RACK", "1        -", "1000000  é"]);
        assert_eq!(table.with_tabs(), ["BROKER\tRACK", "1\t-", "1000000\té"]);
    }
}
