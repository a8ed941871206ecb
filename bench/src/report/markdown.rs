//! The report as Markdown: figures and ratios first, absolute values after them.

use std::fmt::{self, Write};

use super::Report;
use super::measures::{self, Measure};
use crate::run::contender::Contender;
use crate::run::scenario::Scenario;
use crate::stats::{CONFIDENCE, Summary};

/// What stands in a table: `None` for a contender that has no place in it, `Some(None)` for
/// one that has nothing to show there.
type Cell<'a> = dyn Fn(Scenario, &str, Contender) -> Option<Option<String>> + 'a;

/// For a cell that has nothing to show.
const NOTHING: &str = "–";

impl Report {
    /// The whole text; `pictures` are titles and paths.
    pub fn markdown(&self, pictures: &[(String, String)]) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text, pictures);
        text
    }

    fn write(&self, out: &mut String, pictures: &[(String, String)]) -> fmt::Result {
        writeln!(
            out,
            "# Results\n\nWritten by `weir-bench report`; what is compared and how: \
             [README](README.md).\n"
        )?;
        self.figures(out)?;
        self.ratios(out)?;
        if !pictures.is_empty() {
            writeln!(out, "\n## Plots\n")?;
            for (title, path) in pictures {
                writeln!(out, "![{title}]({path})\n")?;
            }
        }
        self.absolute(out)?;
        self.in_process(out)?;
        self.missing(out)?;
        writeln!(out, "\n## Where and how\n")?;
        for (name, value) in &self.environment {
            writeln!(out, "- {name}: {value}")?;
        }
        let confidence = CONFIDENCE * 100.0;
        writeln!(
            out,
            "- intervals: rank based (order statistics), at least {confidence} % where there are \
             five rounds or more; fewer give their whole range; uncertain: fewer than five, or the \
             bound lies within the interval\n\
             - rates: highest rate that was seen to pass, by the bounded search that \
             [README](README.md) describes; a trial passes when it was sent at its rate and its \
             loss is 0 (NDR) or at most 0.1 % (PDR)\n\
             - values that entered: {}, each with proof from the node's counters",
            self.samples
        )
    }

    fn figures(&self, out: &mut String) -> fmt::Result {
        writeln!(
            out,
            "## Figures to reach\n\n| figure | load | wanted | found | rounds | reached |"
        )?;
        writeln!(out, "|---|---|---|---|---:|---|")?;
        for figure in &self.figures {
            let found = figure.found.map_or_else(|| "not measured".to_owned(), interval);
            let reached = match figure.reached {
                Some(true) => "yes",
                Some(false) => "**no**",
                None if !figure.is_as_wanted() => "**missing**",
                None => NOTHING,
            };
            let doubt = if figure.uncertain { ", uncertain" } else { "" };
            let rounds = figure.rounds.map_or_else(|| NOTHING.to_owned(), |n| n.to_string());
            let (title, load, wanted) = (&figure.title, &figure.load, &figure.wanted);
            writeln!(
                out,
                "| {title} | {load} | {wanted} | {found} | {rounds} | {reached}{doubt} |"
            )?;
        }
        Ok(())
    }

    fn ratios(&self, out: &mut String) -> fmt::Result {
        writeln!(
            out,
            "\n## Ratios to plain routing\n\nTaken within each round; median, and in brackets its \
             confidence interval. Below 1 is better for CPU and latency, above 1 for rates. \
             Latencies are at parts of the contender's own rate."
        )?;
        self.tables(out, &|scenario, measure, who| {
            (who != Contender::Plain).then(|| self.by_plain(scenario, measure, who).map(interval))
        })
    }

    fn absolute(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "\n## Values\n\nMedians of the rounds.")?;
        self.tables(out, &|scenario, measure, who| {
            Some(self.values.summary(scenario, measure, who).map(|it| number(it.median)))
        })
    }

    /// A table for each scenario, a row for each measure, a column for each contender for
    /// which `cell` gives something.
    fn tables(&self, out: &mut String, cell: &Cell<'_>) -> fmt::Result {
        for scenario in self.values.scenarios() {
            let measured = |measure: &Measure, who| {
                measure.main && !self.values.get(scenario, &measure.id, who).is_empty()
            };
            let measures: Vec<Measure> = measures::all()
                .into_iter()
                .filter(|measure| Contender::ALL.iter().any(|who| measured(measure, *who)))
                .collect();
            let shown: Vec<Contender> = Contender::ALL
                .into_iter()
                .filter(|who| measures.iter().any(|measure| measured(measure, *who)))
                .filter(|who| measures.iter().any(|it| cell(scenario, &it.id, *who).is_some()))
                .collect();
            if shown.is_empty() {
                continue;
            }
            write!(out, "\n### {scenario}\n\n| measure |")?;
            shown.iter().try_for_each(|who| write!(out, " {} |", who.name()))?;
            writeln!(out, "\n|---|{}", "---:|".repeat(shown.len()))?;
            for Measure { id, title, unit, .. } in &measures {
                write!(out, "| {title} ({unit}) |")?;
                for who in &shown {
                    let text = cell(scenario, id, *who).flatten();
                    write!(out, " {} |", text.as_deref().unwrap_or(NOTHING))?;
                }
                writeln!(out)?;
            }
        }
        Ok(())
    }

    fn in_process(&self, out: &mut String) -> fmt::Result {
        let Some(file) = &self.inprocess else { return Ok(()) };
        writeln!(
            out,
            "\n## In process\n\nBy `bench/in-process` at the same commit, without a network in \
             between; median and interval (criterion's of 95 %, else the extremes of the rounds).\
             \n\n| benchmark | contender | found | unit |\n|---|---|---:|---|"
        )?;
        for it in &file.figures {
            let found = interval(it.summary());
            writeln!(out, "| {} | {} | {found} | {} |", it.name, it.contender, it.unit)?;
        }
        if !file.not_run.is_empty() {
            writeln!(out)?;
        }
        for it in &file.not_run {
            let who = it.contender.as_ref().map(|who| format!(", {who}")).unwrap_or_default();
            writeln!(out, "- not run: {}{who}: {}", it.name, it.reason)?;
        }
        Ok(())
    }

    fn missing(&self, out: &mut String) -> fmt::Result {
        if !self.unable.is_empty() {
            writeln!(out, "\n## Could not run here\n")?;
            for unable in &self.unable {
                let (who, scenario) = (unable.contender.name(), unable.scenario);
                writeln!(out, "- {who}: {} ({scenario})", unable.reason)?;
            }
        }
        if !self.notes.is_empty() {
            writeln!(out, "\n## Notes\n")?;
            self.notes.iter().try_for_each(|note| writeln!(out, "- {note}"))?;
        }
        if !self.refused.is_empty() {
            writeln!(out, "\n## Refused or failed\n")?;
            for refused in &self.refused {
                let (round, scenario, measure) =
                    (refused.round, refused.scenario, &refused.measure);
                let who = refused.contender.name();
                writeln!(out, "- round {round}, {scenario}, {measure}, {who}: {}", refused.error)?;
            }
        }
        Ok(())
    }
}

/// A median and its interval.
fn interval(summary: Summary) -> String {
    let Summary { median, low, high, .. } = summary;
    if median.abs() >= 20.0 {
        return format!("{} ({}–{})", number(median), number(low), number(high));
    }
    format!("{median:.3} ({low:.3}–{high:.3})")
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
