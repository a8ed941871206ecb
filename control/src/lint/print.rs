//! Findings on paper: a table for people, JSON for scripts.

use std::io::{self, Write};

use super::{Finding, Severity};

/// One JSON object a line.
///
/// # Errors
/// Writing failed.
pub fn print_json(findings: &[Finding], mut out: impl Write) -> io::Result<()> {
    for finding in findings {
        serde_json::to_writer(&mut out, finding)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Grouped by object, which the findings must already be; a count at the end.
///
/// # Errors
/// Writing failed.
pub fn print_table(findings: &[Finding], mut out: impl Write) -> io::Result<()> {
    for group in findings.chunk_by(|a, b| a.object == b.object) {
        let object = group.first().map_or("", |finding| finding.object.as_str());
        writeln!(out, "{}", if object.is_empty() { "(input)" } else { object })?;
        for finding in group {
            let Finding { severity, code, field, origin, message, remedy, .. } = finding;
            let field = if field.is_empty() { String::new() } else { format!(" {field}") };
            writeln!(out, "  {:<8}{origin}{field} [{code}]", severity.as_str())?;
            writeln!(out, "          {message}")?;
            writeln!(out, "          instead: {remedy}")?;
        }
        writeln!(out)?;
    }
    writeln!(out, "{}", summary(findings))
}

/// `2 errors, 1 warning, 0 infos`; `no findings`.
fn summary(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "no findings".to_owned();
    }
    let count = |severity| {
        let number = findings.iter().filter(|finding| finding.severity == severity).count();
        super::world::counted(number, severity.as_str())
    };
    let parts: Vec<String> =
        [Severity::Error, Severity::Warning, Severity::Info].into_iter().map(count).collect();
    parts.join(", ")
}
