//! Columns as wide as they need to be.

use std::fmt;

/// Rows of text under a head; numbers to the right.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// Names of the columns; one that begins with '>' holds numbers and is set to the right.
    #[must_use]
    pub fn new(head: &[&str]) -> Self {
        let names = head.iter().map(|name| name.trim_start_matches('>').to_owned()).collect();
        Self { rows: vec![names], right: head.iter().map(|name| name.starts_with('>')).collect() }
    }
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, &width), &right) in row.iter().zip(&widths).zip(&self.right) {
                line.push_str("  ");
                line.push_str(&if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") });
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn numbers_to_the_right() {
        let mut table = Table::new(&["name", ">n"]);
        table.row(["a".into(), "100".into()]);
        table.row(["long".into(), "7".into()]);
        assert_eq!(table.to_string(), "  name    n\n  a     100\n  long    7\n");
    }
}
