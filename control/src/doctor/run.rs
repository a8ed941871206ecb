//! Whether Weir runs on this node, and enforces what it should.

use super::{Finding, Rights, Run};
use crate::live::control::State;
use crate::record::SourceRecord;

pub(super) fn check(run: &Run) -> Vec<Finding> {
    let mut findings = directories(run);
    findings.push(daemon(run));
    findings.extend(workers(run));
    findings.push(table(run));
    findings.extend(control(run));
    findings
}

fn directories(run: &Run) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (run_dir, pin_dir) = (run.run_dir.display(), run.pin_dir.display());
    match run.run_rights {
        Some(Rights { uid: 0, mode: 0o700 }) => {}
        Some(Rights { uid, mode }) => findings.push(Finding::fail(
            "rights",
            format!(
                "{run_dir} is of user {uid} with mode {mode:o}: others may meddle with sockets"
            ),
            format!("chown root {run_dir}; chmod 700 {run_dir}, with both daemons stopped"),
        )),
        None => {}
    }
    match run.pin_rights {
        Some(Rights { uid: 0, mode }) if mode & 0o022 == 0 => {}
        Some(Rights { uid, mode }) => findings.push(Finding::fail(
            "rights",
            format!("{pin_dir} is of user {uid} with mode {mode:o}: others may take hooks off"),
            format!("chown root {pin_dir}; chmod 755 {pin_dir}"),
        )),
        None => {}
    }
    if findings.is_empty() && (run.run_rights.is_some() || run.pin_rights.is_some()) {
        findings.push(Finding::ok("rights", format!("{run_dir} and {pin_dir} are root's alone")));
    }
    findings
}

fn daemon(run: &Run) -> Finding {
    let dir = run.run_dir.display();
    if run.daemon {
        return Finding::ok("dataplane", format!("weir-dataplane runs (it holds {dir})"));
    }
    match run.workers {
        Ok(_) => Finding::fail(
            "dataplane",
            "weir-dataplane does not run: what it left goes on being enforced, new connections \
             are not decided",
            "start it again; its log says why it ended. To be rid of it: weir uninstall",
        ),
        Err(_) => Finding::fail(
            "dataplane",
            format!("no weir-dataplane runs here, and none has left anything (nobody holds {dir})"),
            "start it; if it runs elsewhere: --run-dir and --pin-dir",
        ),
    }
}

fn workers(run: &Run) -> Vec<Finding> {
    match &run.workers {
        Err(error) if run.daemon => vec![Finding::fail(
            "workers",
            format!("the workers cannot be looked at: {error}"),
            "run weir doctor as root, with the dataplane's --pin-dir and its version",
        )],
        // Said by the check before.
        Err(_) => Vec::new(),
        Ok(_) if !run.daemon => Vec::new(),
        Ok(workers) => {
            let dead: Vec<String> = workers
                .iter()
                .enumerate()
                .filter(|(_, (_, alive))| !alive)
                .map(|(id, (silent, _))| format!("worker {id} ({} s)", silent / 1000))
                .collect();
            vec![if dead.is_empty() {
                Finding::ok("workers", format!("{} of {0} workers are alive", workers.len()))
            } else {
                Finding::fail(
                    "workers",
                    format!(
                        "no sign of life from {}: their new connections are not decided",
                        dead.join(", ")
                    ),
                    "restart weir-dataplane; established flows go on meanwhile",
                )
            }]
        }
    }
}

fn table(run: &Run) -> Finding {
    match run.generation {
        0 => Finding::fail(
            "table",
            "no policy table is enforced: pods are unrestricted, or cut off if hooks were left",
            "see control: it has to publish one",
        ),
        n => Finding::ok("table", format!("generation {n} is enforced by all workers")),
    }
}

fn control(run: &Run) -> Vec<Finding> {
    let status = match &run.control {
        Ok(status) => status,
        Err(error) => {
            return vec![Finding::note(
                "control",
                format!("weir-control's record cannot be read: {error}"),
                "run weir doctor as root, of the same version as weir-control",
            )];
        }
    };
    let Some(record) = &status.record else {
        return vec![Finding::fail(
            "control",
            "no weir-control has left a record here: nobody publishes policies",
            "start it with --socket (or --run-dir) of this dataplane",
        )];
    };
    let source = &record.source;
    if status.state != State::Running {
        return vec![Finding::fail(
            "control",
            format!("weir-control does not run: changes of {source} are not enforced"),
            "start it again; its log says why it ended",
        )];
    }
    let mut findings = Vec::new();
    if record.connected {
        findings.push(Finding::ok("control", format!("weir-control follows {source}")));
    } else {
        findings.push(Finding::fail(
            "control",
            "weir-control is not connected to the dataplane: changes are not enforced",
            "its log says why; versions that differ refuse each other in words",
        ));
    }
    findings.extend(record.source_health.as_ref().map(heard));
    let ours = concat!("weir-control ", env!("CARGO_PKG_VERSION"));
    if record.software != ours {
        findings.push(Finding::note(
            "version",
            format!("{} runs, and this is weir {}", record.software, env!("CARGO_PKG_VERSION")),
            "use the programs of one version",
        ));
    }
    let remedy = "weir status names them";
    if record.not_enforced > 0 {
        let what = format!("{} objects or files are NOT ENFORCED", record.not_enforced);
        findings.push(Finding::fail("policies", what, remedy));
    }
    if record.unsupported_rules > 0 {
        let what = format!(
            "{} rules or policies cannot be honoured: they isolate and allow nothing",
            record.unsupported_rules
        );
        findings.push(Finding::note("policies", what, remedy));
    }
    findings
}

/// Whether control still hears from its source.
fn heard(health: &SourceRecord) -> Finding {
    let remedy = "see that the API server answers from this node; after HTTP 401 or 403, that the \
                  ServiceAccount and its ClusterRole are as in deploy/";
    match health.state.as_str() {
        "live" => Finding::ok("source", "the API server is heard"),
        "stale" => Finding::fail("source", format!("source {}", health.in_words()), remedy),
        _ => Finding::note(
            "source",
            format!("source {}", health.in_words()),
            "wait until everything is listed; if that lasts, the log of weir-control says why",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use crate::live::control::ControlStatus;
    use crate::record::Record;

    fn record() -> Record {
        Record {
            source: "dir:/m".to_owned(),
            software: concat!("weir-control ", env!("CARGO_PKG_VERSION")).to_owned(),
            connected: true,
            ..Record::default()
        }
    }

    fn source(state: &str) -> SourceRecord {
        SourceRecord {
            state: state.to_owned(),
            stale_since: (state == "stale").then_some(60),
            words: "refused".to_owned(),
            missing: Vec::new(),
        }
    }

    fn good() -> Run {
        Run {
            run_dir: "/run/weir".into(),
            run_rights: Some(Rights { uid: 0, mode: 0o700 }),
            pin_dir: "/sys/fs/bpf/weir".into(),
            pin_rights: Some(Rights { uid: 0, mode: 0o755 }),
            daemon: true,
            workers: Ok(vec![(3, true), (4, true)]),
            generation: 12,
            control: Ok(ControlStatus { state: State::Running, record: Some(record()) }),
        }
    }

    fn wrong(run: &Run) -> Vec<(&'static str, Level, String)> {
        let findings = check(run).into_iter().filter(|finding| finding.level != Level::Ok);
        findings
            .map(|f| (f.check, f.level, format!("{} — {}", f.what, f.remedy.unwrap())))
            .collect()
    }

    #[test]
    fn a_node_that_enforces_is_well() {
        assert_eq!(wrong(&good()), []);
        let said: Vec<_> = check(&good()).into_iter().map(|finding| finding.what).collect();
        assert!(said.contains(&"2 of 2 workers are alive".to_owned()), "{said:?}");
    }

    #[test]
    fn each_fault_has_its_line() {
        let with = |change: fn(&mut Record)| {
            let mut record = record();
            change(&mut record);
            Ok(ControlStatus { state: State::Running, record: Some(record) })
        };
        let cases = [
            (
                Run { run_rights: Some(Rights { uid: 0, mode: 0o755 }), ..good() },
                "rights",
                "mode 755",
            ),
            (
                Run { pin_rights: Some(Rights { uid: 9, mode: 0o700 }), ..good() },
                "rights",
                "user 9",
            ),
            (Run { pin_rights: Some(Rights { uid: 0, mode: 0o777 }), ..good() }, "rights", "777"),
            (Run { daemon: false, ..good() }, "dataplane", "what it left goes on"),
            (
                Run { workers: Ok(vec![(3, true), (9000, false)]), ..good() },
                "workers",
                "from worker 1 (9 s)",
            ),
            (Run { workers: Err("ABI 3".to_owned()), ..good() }, "workers", "ABI 3"),
            (Run { generation: 0, ..good() }, "table", "no policy table"),
            (Run { control: Err("EOF".to_owned()), ..good() }, "control", "EOF"),
            (
                Run { control: Ok(ControlStatus { state: State::Absent, record: None }), ..good() },
                "control",
                "nobody publishes",
            ),
            (
                Run {
                    control: Ok(ControlStatus { state: State::Dead, record: Some(record()) }),
                    ..good()
                },
                "control",
                "changes of dir:/m are not enforced",
            ),
            (Run { control: with(|r| r.connected = false), ..good() }, "control", "not connected"),
            (
                Run { control: with(|r| r.software = "weir-control 0.0.1".into()), ..good() },
                "version",
                "0.0.1",
            ),
            (
                Run { control: with(|r| r.source_health = Some(source("stale"))), ..good() },
                "source",
                "source STALE since 1970-01-01T00:01:00Z: refused; what was known",
            ),
            (
                Run { control: with(|r| r.source_health = Some(source("syncing"))), ..good() },
                "source",
                "source syncing",
            ),
            (Run { control: with(|r| r.not_enforced = 2), ..good() }, "policies", "2 objects"),
            (Run { control: with(|r| r.unsupported_rules = 3), ..good() }, "policies", "3 rules"),
        ];
        for (run, name, words) in cases {
            let found = wrong(&run);
            let [(check, _, text)] = found.as_slice() else { panic!("{words}: {found:?}") };
            assert!(*check == name && text.contains(words), "{check}: {text}");
        }
    }

    #[test]
    fn where_nothing_was_ever_there_it_is_said_once() {
        let run = Run { run_dir: "/run/weir".into(), ..Run::default() };
        let found: Vec<_> = wrong(&run).into_iter().map(|(check, ..)| check).collect();
        assert_eq!(found, ["dataplane", "table", "control"]);
    }
}
