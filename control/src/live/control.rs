//! weir-control as its record shows it: whether it lives, and what it cannot honour.

use std::io::{self, Write};

use serde::Serialize;

use super::{LiveError, Places};
use crate::record::{self, RECORD_FILE, Record};

/// How many complaints are shown to people; JSON has all.
const SHOWN: usize = 20;

/// Whether somebody follows the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The writer of the record lives.
    Running,
    /// It does not: the record is what it knew last.
    Dead,
    /// No weir-control has left a record here.
    Absent,
}

/// What `weir status` says of weir-control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ControlStatus {
    /// Whether it lives.
    pub state: State,
    /// The last record.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub record: Option<Record>,
}

/// Reads the record.
///
/// # Errors
/// [`LiveError::File`] if it is there but cannot be read.
pub fn control(places: &Places) -> Result<ControlStatus, LiveError> {
    let read = record::read(&places.run_dir).map_err(|error| LiveError::File {
        path: places.run_dir.join(RECORD_FILE),
        reason: error.to_string(),
    })?;
    Ok(match read {
        None => ControlStatus { state: State::Absent, record: None },
        Some((mut record, lives)) => {
            // A dead process cannot have taken this back itself.
            record.connected &= lives;
            let state = if lives { State::Running } else { State::Dead };
            ControlStatus { state, record: Some(record) }
        }
    })
}

impl ControlStatus {
    /// Prints it for people.
    ///
    /// # Errors
    /// Writing failed.
    pub fn print(&self, mut out: impl Write) -> io::Result<()> {
        let Some(record) = &self.record else {
            return writeln!(out, "control     none has left a record here");
        };
        let Record { pid, source, policies, pods, namespaces, unsupported_rules, .. } = record;
        let Record { not_enforced, connected, .. } = record;
        match self.state {
            State::Running => writeln!(out, "control     running (process {pid}), from {source}")?,
            _ => writeln!(
                out,
                "control     NOT RUNNING: nobody follows {source}; what follows is from before it ended"
            )?,
        }
        if self.state == State::Running
            && let Some(health) = &record.source_health
        {
            writeln!(out, "  source    {}", health.in_words())?;
        }
        if self.state == State::Running && !connected {
            writeln!(out, "  dataplane NOT CONNECTED: it enforces what it was told before")?;
        }
        writeln!(out, "  read      {policies} policies, {pods} pods, {namespaces} namespaces")?;
        let rules = match unsupported_rules {
            0 => "all rules are honoured".to_owned(),
            1 => "1 rule or policy CANNOT BE HONOURED: it isolates and allows nothing".to_owned(),
            n => {
                format!("{n} rules or policies CANNOT BE HONOURED: they isolate and allow nothing")
            }
        };
        writeln!(out, "  rules     {rules}")?;
        if *not_enforced > 0 {
            let objects = if *not_enforced == 1 { "object or file" } else { "objects or files" };
            writeln!(
                out,
                "  error     {not_enforced} {objects} NOT ENFORCED: what they would isolate may be open"
            )?;
        }
        for complaint in record.complaints.iter().take(SHOWN) {
            writeln!(out, "  {:<8}  {}", complaint.severity, complaint.text())?;
        }
        if record.complaints.len() > SHOWN {
            writeln!(out, "  and {} more; -o json has all", record.complaints.len() - SHOWN)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::load;
    use crate::record::{ComplaintRecord, SourceRecord, Unsupported};

    fn printed(status: &ControlStatus) -> String {
        let mut text = Vec::new();
        status.print(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn it_says_what_is_refused_and_whether_anybody_follows() {
        const BAD: &str = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, \
            metadata: {name: p}, spec: {podSelector: {}, ingress: [{ports: [{port: 0}]}]}}";
        let complaints = load("p.yaml", BAD.as_bytes()).unwrap().complaints;
        let record = Record {
            pid: 7,
            source: "dir:/m".to_owned(),
            policies: 1,
            unsupported_rules: Unsupported::of(&complaints).rules,
            not_enforced: 2,
            complaints: vec![ComplaintRecord::from(&complaints[0]); SHOWN + 3],
            ..Record::default()
        };
        let mut status = ControlStatus { state: State::Running, record: Some(record) };
        let text = printed(&status);
        for part in [
            "running (process 7), from dir:/m",
            "1 rule or policy CANNOT BE HONOURED",
            "  error     2 objects or files NOT ENFORCED",
            "NOT CONNECTED",
            "  refused   p.yaml:1: NetworkPolicy default/p: spec.ingress[0].ports[0].port: 0 is no port",
            "and 3 more",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["state"], "running");
        assert_eq!(json["unsupported_rules"], 1);
        assert_eq!(json["complaints"].as_array().unwrap().len(), SHOWN + 3);
        assert_eq!(json["complaints"][0]["field"], "spec.ingress[0].ports[0].port");
        if let Some(record) = &mut status.record {
            record.source_health = Some(SourceRecord {
                state: "stale".to_owned(),
                stale_since: Some(86_400),
                words: "pods: HTTP 503".to_owned(),
                ..SourceRecord::default()
            });
        }
        let text = printed(&status);
        let line = "  source    STALE since 1970-01-02T00:00:00Z: pods: HTTP 503";
        assert!(text.contains(line), "{text}");
        status.state = State::Dead;
        assert!(printed(&status).contains("NOT RUNNING: nobody follows dir:/m"));
        let absent = ControlStatus { state: State::Absent, record: None };
        assert!(printed(&absent).contains("none has left a record"));
        assert_eq!(serde_json::to_string(&absent).unwrap(), r#"{"state":"absent"}"#);
    }
}
