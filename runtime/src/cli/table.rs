//! Aligned columns for eyes.

/// A table of text cells. Numbers are aligned to the right.
pub(crate) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(headings: &[&'static str]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new() }
    }

    /// Adds a row, one cell per heading.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<_> = cells.into_iter().map(|cell| one_line(&cell)).collect();
        assert_eq!(cells.len(), self.headings.len(), "a row has one cell per heading");
        self.rows.push(cells);
    }

    /// The table as lines; `heading` may colour the headings.
    pub(crate) fn render(&self, heading: impl Fn(&str) -> String) -> String {
        let widths: Vec<_> = (0..self.headings.len()).map(|i| self.width(i)).collect();
        let numeric: Vec<_> = (0..self.headings.len()).map(|i| self.is_numeric(i)).collect();
        let line = |cells: &[String]| {
            let padded = cells.iter().enumerate().map(|(i, cell)| {
                let gap = " ".repeat(widths[i] - cell.chars().count());
                if numeric[i] { format!("{gap}{cell}") } else { format!("{cell}{gap}") }
            });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let headings: Vec<_> = self.headings.iter().map(|h| h.to_uppercase()).collect();
        let mut text = heading(&line(&headings)) + "\n";
        for row in &self.rows {
            text.push_str(&line(row));
            text.push('\n');
        }
        text
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| row[column].chars().count());
        cells.chain([self.headings[column].chars().count()]).max().unwrap_or(0)
    }

    fn is_numeric(&self, column: usize) -> bool {
        let number = |cell: &String| cell.is_empty() || cell == "-" || cell.parse::<f64>().is_ok();
        !self.rows.is_empty() && self.rows.iter().all(|row| number(&row[column]))
    }
}

/// A cell as one line that a terminal shows and does not obey.
fn one_line(cell: &str) -> String {
    cell.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_numbers_to_the_right() {
        let mut table = Table::new(&["type", "ready", "state"]);
        table.row(["a".into(), "7".into(), "up".into()]);
        table.row(["longer\x1b[2J".into(), "1234".into(), String::new()]);
        assert_eq!(
            table.render(str::to_owned),
            "TYPE        READY  STATE\na               7  up\nlonger\u{fffd}[2J   1234\n"
        );
    }
}
