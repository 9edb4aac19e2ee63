//! The table that is printed.

use std::fmt;

/// Rows of: what, figure, goal, met or not.
#[derive(Default)]
pub(crate) struct Table(Vec<[String; 4]>);

impl Table {
    /// A figure that stands beside others.
    pub(crate) fn told(&mut self, what: impl Into<String>, figure: impl Into<String>) {
        self.0.push([what.into(), figure.into(), String::new(), String::new()]);
    }

    /// A figure with a goal.
    pub(crate) fn judged(&mut self, what: impl Into<String>, figure: String, goal: impl Into<String>, is_met: bool) {
        let verdict = if is_met { "met" } else { "NOT MET" };
        self.0.push([what.into(), figure, goal.into(), verdict.to_owned()]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heading = ["what", "figure", "goal", "verdict"].map(str::to_owned);
        let rows = || std::iter::once(&heading).chain(&self.0);
        let width = |column: usize| rows().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2)];
        for [what, figure, goal, verdict] in rows() {
            let line = format!("{what:0$}  {figure:>1$}  {goal:2$}  {verdict}", widths[0], widths[1], widths[2]);
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
