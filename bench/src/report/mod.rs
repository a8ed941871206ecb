//! The report of `bench/fastpath`: samples in, a table out.
//!
//! | Module | Job |
//! |---|---|
//! | [`sample`] | the format of the samples |
//! | [`measures`] | what is measured and what is wanted |
//! | [`proof`] | whether a contender was at work while it was measured |
//! | [`table`] | medians, ratios, verdicts |
//! | [`markdown`] | the table for people |

pub mod markdown;
pub mod measures;
pub mod proof;
pub mod sample;
pub mod table;

use std::io::BufRead;

use anyhow::{Context, Result};
use serde::Serialize;

use sample::{Environment, Line};
use table::Table;

/// A whole report.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where and how it was measured.
    pub environment: Environment,
    /// What came out.
    #[serde(flatten)]
    pub table: Table,
}

impl Report {
    /// Reads samples, a JSON object a line.
    ///
    /// # Errors
    /// Names the line that is none.
    pub fn read(input: impl BufRead) -> Result<Self> {
        let mut environment = Environment::new();
        let (mut samples, mut failures) = (Vec::new(), Vec::new());
        for (number, line) in input.lines().enumerate() {
            let line = line?;
            let line = serde_json::from_str(&line)
                .with_context(|| format!("line {} is no sample: {line}", number + 1))?;
            match line {
                Line::Environment(values) => environment = values,
                Line::Sample(sample) => samples.push(sample),
                Line::Failure(failure) => failures.push(failure),
            }
        }
        Ok(Self { environment, table: Table::of(&samples, &failures) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"
{"environment":[["machine","EPYC"],["kernel","6.18"]]}
{"sample":{"round":1,"measure":"tcp-stream","contender":"plain","value":20.5,"packets":9,"before":{"conntrack":0},"after":{"conntrack":0}}}
{"sample":{"round":1,"measure":"tcp-stream","contender":"nft","value":18.45,"packets":9,"flows":1,"before":{"conntrack":0,"nft":{"accepted_by_set":0,"dropped":0}},"after":{"conntrack":1,"nft":{"accepted_by_set":1,"dropped":0}}}}
{"failure":{"round":1,"measure":"connect","contender":"weir-off","error":"a connection hangs"}}
"#;

    #[test]
    fn samples_become_a_table() {
        let report = Report::read(LINES.trim_start().as_bytes()).unwrap();
        let text = report.markdown();
        assert!(text.contains("- kernel: 6.18\n"), "{text}");
        assert!(text.contains("| iperf3 TCP, 1 stream (Gbit/s) | 20.5 |"), "{text}");
        assert!(text.contains("| 0.900 (0.900–0.900) |"), "{text}");
        assert!(text.contains("round 1, connect, weir-off: a connection hangs"), "{text}");
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let error = Report::read("{}\n".as_bytes()).unwrap_err();
        assert!(error.to_string().starts_with("line 1 is no sample"), "{error}");
    }
}
