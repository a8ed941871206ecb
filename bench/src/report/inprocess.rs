//! In-process benchmarks: what criterion left in its folder, if they ran.
//!
//! Criterion writes `FOLDER/GROUP/.../new/benchmark.json` (names, throughput) and
//! `estimates.json` (nanoseconds of one iteration) side by side. An iteration may handle
//! several elements; the time shown is that of one.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use crate::stats::Summary;

/// One benchmark.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InProcess {
    /// As criterion names it, in lower case.
    pub name: String,
    /// Median nanoseconds for an element.
    pub ns: f64,
    /// Confidence interval of that median.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// Confidence of the interval, 0 to 1.
    pub confidence: f64,
}

impl InProcess {
    /// As a median with its interval. Criterion's is a bootstrap of many iterations.
    pub fn summary(&self) -> Summary {
        let Self { ns, low, high, confidence, .. } = *self;
        Summary { count: 1, median: ns, low, high, confidence }
    }
}

/// All benchmarks below `folder`, by name; none if there is no such folder.
///
/// # Errors
/// When a file there is not what criterion writes.
pub fn read(folder: &Path) -> Result<Vec<InProcess>> {
    let mut found = Vec::new();
    collect(folder, 0, &mut found)?;
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Names have at most a handful of parts, each a folder.
const DEPTH: u32 = 6;

fn collect(folder: &Path, depth: u32, found: &mut Vec<InProcess>) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if !path.is_dir() || depth >= DEPTH {
            continue;
        }
        if path.file_name().is_some_and(|name| name == "new") {
            found.extend(one(&path).with_context(|| format!("cannot read {}", path.display()))?);
        } else {
            collect(&path, depth + 1, found)?;
        }
    }
    Ok(())
}

fn one(folder: &Path) -> Result<Option<InProcess>> {
    let json = |name: &str| -> Result<Value> {
        Ok(serde_json::from_str(&fs::read_to_string(folder.join(name))?)?)
    };
    if !folder.join("benchmark.json").exists() {
        return Ok(None);
    }
    let (benchmark, estimates) = (json("benchmark.json")?, json("estimates.json")?);
    let name = benchmark["full_id"].as_str().context("no full_id")?.to_lowercase();
    let elements = benchmark["throughput"]["Elements"].as_f64().filter(|n| *n > 0.0).unwrap_or(1.0);
    let median = &estimates["median"];
    let interval = &median["confidence_interval"];
    let ns =
        |value: &Value| Ok::<_, anyhow::Error>(value.as_f64().context("no number")? / elements);
    Ok(Some(InProcess {
        name,
        ns: ns(&median["point_estimate"])?,
        low: ns(&interval["lower_bound"])?,
        high: ns(&interval["upper_bound"])?,
        confidence: interval["confidence_level"].as_f64().unwrap_or(0.95),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_criterion_left_is_read_for_one_element() {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("pipeline").join("established_10k").join("new");
        fs::create_dir_all(&new).unwrap();
        let benchmark = r#"{"group_id":"pipeline","full_id":"pipeline/established/10k","throughput":{"Elements":64}}"#;
        fs::write(new.join("benchmark.json"), benchmark).unwrap();
        let estimates = r#"{"median":{"confidence_interval":{"confidence_level":0.95,"lower_bound":1280.0,"upper_bound":1920.0},"point_estimate":1600.0,"standard_error":1.0}}"#;
        fs::write(new.join("estimates.json"), estimates).unwrap();
        let found = read(folder.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "pipeline/established/10k");
        assert_eq!((found[0].ns, found[0].low, found[0].high), (25.0, 20.0, 30.0));
        fs::write(new.join("estimates.json"), "{}").unwrap();
        assert!(read(folder.path()).is_err(), "a broken file is not passed over");
        assert!(read(Path::new("/no/such/folder")).unwrap().is_empty());
    }
}
