//! The report as Markdown.

use std::fmt::{self, Write};

use super::Report;
use super::measures::{MEASURES, Wanted};
use super::sample::Contender;
use super::table::Row;
use crate::stats::Summary;

/// For a cell that has nothing to show.
const NOTHING: &str = "–";

impl Report {
    /// The environment as a list, the rows as a table, what was refused as a list.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        for (name, value) in &self.environment {
            writeln!(out, "- {name}: {value}")?;
        }
        let shown: Vec<Contender> = Contender::ALL
            .into_iter()
            .filter(|who| self.table.rows.iter().any(|row| row.values.contains_key(who)))
            .collect();
        let against: Vec<Contender> =
            shown.iter().copied().filter(|who| *who != Contender::Plain).collect();

        write!(out, "\n| measure |")?;
        shown.iter().try_for_each(|who| write!(out, " {} |", who.name()))?;
        against.iter().try_for_each(|who| write!(out, " {}/plain |", who.name()))?;
        writeln!(out, " wanted of weir | reached |")?;
        writeln!(out, "|---|{}---|---|", "---:|".repeat(shown.len() + against.len()))?;
        for row in &self.table.rows {
            write_row(out, row, &shown, &against)?;
        }
        writeln!(
            out,
            "\nValues are medians of the rounds. Ratios are taken within each round; median \
             (quartiles). {} values, each with proof from the node's counters.",
            self.table.samples
        )?;
        if !self.table.refused.is_empty() {
            writeln!(out, "\nRefused or failed:")?;
        }
        for refused in &self.table.refused {
            let (round, measure, who) = (refused.round, &refused.measure, refused.contender.name());
            writeln!(out, "- round {round}, {measure}, {who}: {}", refused.error)?;
        }
        Ok(())
    }
}

fn write_row(
    out: &mut String,
    row: &Row,
    shown: &[Contender],
    against: &[Contender],
) -> fmt::Result {
    write!(out, "| {} ({}) |", row.title, row.unit)?;
    for who in shown {
        match row.values.get(who) {
            Some(summary) => write!(out, " {} |", number(summary.median))?,
            None => write!(out, " {NOTHING} |")?,
        }
    }
    let is_difference = MEASURES
        .iter()
        .any(|measure| measure.id == row.id && matches!(measure.wanted, Wanted::Extra { .. }));
    for who in against {
        match row.against_plain.get(who) {
            Some(summary) if is_difference => {
                let Summary { median, q1, q3, .. } = *summary;
                write!(out, " {median:+.0} ({q1:+.0} to {q3:+.0}) |")?;
            }
            Some(Summary { median, q1, q3, .. }) => {
                write!(out, " {median:.3} ({q1:.3}–{q3:.3}) |")?;
            }
            None => write!(out, " {NOTHING} |")?,
        }
    }
    let reached = match row.reached {
        Some(true) => "yes",
        Some(false) => "**no**",
        None => NOTHING,
    };
    let doubt = if row.uncertain { ", within the spread" } else { "" };
    let wanted = if row.wanted.is_empty() { NOTHING } else { &row.wanted };
    writeln!(out, " {wanted} | {reached}{doubt} |")
}

/// Three or four digits.
fn number(value: f64) -> String {
    match value {
        value if value >= 1000.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_have_as_many_digits_as_mean_something() {
        assert_eq!(number(12_345.6), "12346");
        assert_eq!(number(123.46), "123.5");
        assert_eq!(number(1.234), "1.23");
    }
}
