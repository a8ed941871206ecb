//! What a large cluster costs the stand-in, in a process of its own.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "api/support.rs"]
mod support;

use support::{get, server};
use weir_apiserver::{Kind, World};

/// A line of /proc/self/status, in KiB.
fn status(name: &str) -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The text of each pod is kept once, and a list of all of them in one body is no copy of them.
#[test]
fn texts_are_kept_once() {
    let server = server();
    let world = World { pods: 10_000, ..World::default() };
    let before = status("VmRSS");
    world.load(&server).unwrap();
    let text = world.pod_rest(0).len() * 10_000 / 1024;
    let loaded = status("VmRSS") - before;
    assert!(loaded < text + text / 2, "{loaded} KiB for {text} KiB of text");
    let peak = status("VmHWM");
    let mut list = get(&server, "/api/v1/pods?resourceVersion=0");
    let mut bytes = 0;
    while let Some(chunk) = list.chunk().unwrap() {
        bytes += chunk.len();
    }
    assert!(bytes / 1024 > text, "{bytes}");
    let more = status("VmHWM") - peak;
    assert!(more < text / 4, "{more} KiB more for a list of {} KiB", bytes / 1024);
    assert_eq!(server.asked("list", Kind::Pod), 1);
}
