//! A stream of numbered messages from one pod to another that no change may touch: nothing
//! of it is lost or comes twice, and hardly anything is overtaken.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr};

use serde_json::Value;

use crate::lab::{Family, Lab, text};
use crate::node::{count, settled};
use crate::weir::{Weir, bench};

/// Messages of 2,000 a second that a machine which stalls may have to make up for in a burst.
const IN_ONE_GO: u64 = 32;

/// The stream, which flows from its making on until [`Numbered::end`].
pub struct Numbered {
    generator: Child,
    sink: Child,
    sink_words: BufReader<ChildStderr>,
    /// `steering.stale` when it began.
    stale: u64,
}

impl Numbered {
    /// Messages from `curl` to `web`, 2,000 a second.
    pub fn start(lab: &Lab, weir: &Weir<'_>, family: Family) -> Self {
        let to = SocketAddr::from((lab.address("web", family), 9200)).to_string();
        let mut sink = bench(lab, "web", &["sink", "--listen", &to, "--idle", "2"]);
        let mut sink_words = BufReader::new(sink.stderr.take().unwrap());
        // A message before the sink has its socket would be lost for another reason.
        let mut line = String::new();
        sink_words.read_line(&mut line).unwrap();
        assert!(line.contains("listening on"), "{line}");
        let stale = count(&weir.status(), "steering.stale");
        let arguments = ["stream", "--to", &to, "--rate", "2000", "--duration", "600"];
        Self { generator: bench(lab, "curl", &arguments), sink, sink_words, stale }
    }

    /// Ends it. Of more than `least` messages up to the last one that came, none may be
    /// missing.
    ///
    /// Some may be overtaken each time that the flow has gone from a worker to the kernel: what
    /// a worker returned in one go may still be on its way from the hook to the pod when the
    /// next may pass (FLOW.md, "Order"), and on a crowded machine that way can take
    /// milliseconds. How rare it is, [`crate::offload`] tests: here are too few hand-overs.
    pub fn end(mut self, weir: &Weir<'_>, least: usize) {
        assert!(self.generator.try_wait().unwrap().is_none(), "the generator gave up");
        self.generator.kill().unwrap();
        self.generator.wait().unwrap();
        let out = self.sink.wait_with_output().unwrap();
        let mut words = String::new();
        self.sink_words.read_to_string(&mut words).unwrap();
        assert!(out.status.success(), "{words}{}", text(&out.stdout));
        let seen: Value = serde_json::from_slice(&out.stdout).unwrap();
        eprintln!("{seen}");
        assert!(seen["expected"].as_u64().unwrap() > least as u64, "{seen}");
        let hand_overs = 1 + count(&settled(weir), "steering.stale") - self.stale;
        let at_most = |finding, most: u64| {
            let found = seen[finding].as_u64().unwrap();
            assert!(
                found <= most,
                "{}\n{seen}\n{found} {finding}, of {most} at most",
                weir.words()
            );
        };
        at_most("lost", 0);
        at_most("duplicated", 0);
        at_most("reordered", IN_ONE_GO * hand_overs);
    }
}
