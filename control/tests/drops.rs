//! `weir drops` and `weir capture` as processes: how they end, and what they refuse.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::ioctl_fionread;
use rustix::process::{Pid, Signal, kill_process};
use weir_table::counters::Direction;
use weir_table::drops::{DropRecord, Packet, RECORDS, Text, open_or_create};

/// Far more than anything here takes, and far less than for ever.
const PATIENCE: Duration = Duration::from_secs(20);

fn weir(run_dir: &Path, arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.args(arguments).arg("--run-dir").arg(run_dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Waits for something that has to come.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until SIGINT and SIGTERM do not end it any more, as /proc tells.
fn until_it_minds_signals(child: &Child) {
    const INT_AND_TERM: u64 = 1 << (2 - 1) | 1 << (15 - 1);
    until("its signal handlers", || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let mask = caught.map_or(0, |mask| u64::from_str_radix(mask.trim(), 16).unwrap());
        mask & INT_AND_TERM == INT_AND_TERM
    });
}

/// Waits until it sleeps with its pipe full: in the middle of a write.
fn until_it_is_blocked(child: &Child) {
    // A pipe holds 64 KiB; lines that do not fit into the rest of a page leave it free.
    const MOST_OF_A_PIPE: u64 = 48 << 10;
    until("a full pipe", || {
        let waiting = ioctl_fionread(child.stdout.as_ref().unwrap()).unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        // Behind the name, which may have spaces, is the state.
        let sleeps = stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S'));
        waiting > MOST_OF_A_PIPE && sleeps
    });
}

/// Waits until it ends; ends it, and fails, if it does not.
fn end(child: &mut Child, what: &str) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{what} goes on");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn record() -> DropRecord {
    DropRecord {
        monotonic_ns: 1,
        wall_ns: 1,
        generation: 1,
        ifindex: 1,
        direction: Direction::Ingress,
        worker: None,
        left_out: 0,
        frame_len: 60,
        packet: Packet::default(),
        frame: vec![1; 60],
        text: Text { reason: "policy_ingress".into(), ..Text::default() },
    }
}

#[test]
fn a_second_signal_ends_what_nobody_reads() {
    let dir = tempfile::tempdir().unwrap();
    let (mut ring, _) = open_or_create(dir.path(), RECORDS).unwrap();
    (0..RECORDS).for_each(|_| ring.push(&record().encode(), 0));
    for arguments in [
        &["drops", "--last", "100000", "-o", "json"][..],
        &["drops", "--follow", "--last", "100000", "-o", "json"],
        &["capture", "--drops", "-w", "-", "--last", "100000"],
    ] {
        let mut child = weir(dir.path(), arguments);
        // More than a pipe holds.
        until_it_is_blocked(&child);
        signal(&child, Signal::INT);
        thread::sleep(Duration::from_millis(100));
        assert!(child.try_wait().unwrap().is_none(), "the first signal lets it finish");
        signal(&child, Signal::INT);
        assert_eq!(end(&mut child, "drops").code(), Some(130), "{arguments:?}");

        // Once read on, the first is enough.
        let mut child = weir(dir.path(), arguments);
        until_it_is_blocked(&child);
        signal(&child, Signal::TERM);
        let mut out = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut out).unwrap();
        assert_eq!(end(&mut child, "drops").code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn a_flood_that_lasts_holds_up_neither_signal_nor_duration() {
    let dir = tempfile::tempdir().unwrap();
    let (mut ring, _) = open_or_create(dir.path(), RECORDS).unwrap();
    let stop = AtomicBool::new(false);
    let file = dir.path().join("drops.pcapng");
    let words = record().encode();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                ring.push(&words, 0);
            }
        });
        let file = file.to_str().unwrap();
        let mut timed =
            weir(dir.path(), &["capture", "--drops", "-w", file, "--duration", "300ms"]);
        let timed = end(&mut timed, "capture --duration").code();
        let mut follow = weir(dir.path(), &["drops", "--follow"]);
        let mut out = follow.stdout.take().unwrap();
        scope.spawn(move || std::io::copy(&mut out, &mut std::io::sink()).unwrap());
        let mut complaints = follow.stderr.take().unwrap();
        scope.spawn(move || std::io::copy(&mut complaints, &mut std::io::sink()).unwrap());
        until_it_minds_signals(&follow);
        signal(&follow, Signal::INT);
        let follow = end(&mut follow, "drops --follow").code();
        stop.store(true, Ordering::Relaxed);
        assert_eq!((timed, follow), (Some(0), Some(0)));
    });
    assert!(fs::metadata(file).unwrap().len() > 1000);
}

#[test]
fn a_reason_that_there_is_not_is_refused_with_those_that_there_are() {
    let dir = tempfile::tempdir().unwrap();
    for command in [&["drops"][..], &["capture", "--drops", "-w", "-"]] {
        let arguments = [command, &["--reason", "policy_ingres"]].concat();
        let out = weir(dir.path(), &arguments).wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(2));
        let words = String::from_utf8(out.stderr).unwrap();
        for part in ["policy_ingres", "policy_egress", "punt_rate", "l2"] {
            assert!(words.contains(part), "{part}: {words}");
        }
    }
}
