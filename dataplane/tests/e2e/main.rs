//! End to end: the built daemons on a node made for the test, with pods wired by
//! real CNI plugins, judged by what clients see and by what Weir counts.
//!
//! Needs root and what `scripts/setup` installs. Without root the tests say
//! "SKIPPED: needs root" and pass; with `WEIR_REQUIRE_E2E=1`, as `scripts/test`
//! runs them, that is a failure. They run one at a time: they measure, and the
//! workers they start poll a core each.
//!
//! | Module | What it shows |
//! |---|---|
//! | [`matrix`] | the verdicts, on {bridge, ptp} × {tcx, clsact} × {1, 2 workers} × {IPv4, IPv6} |
//! | [`reload`] | a change acts on open flows within 50 ms; 100 reloads lose nothing |
//! | [`lifecycle`] | pods come and go |
//! | [`liveness`] | a worker that hangs, a daemon that dies: closed for pods, open for the node |
//! | [`offload`] | which packets reach a worker, by the counters; forged ones meet no flow; order |
//! | [`validity`] | another label or another owner of an address cuts exactly its flows |
//! | [`crash`] | both daemons killed under 10,000 flows: what is open goes on, what is new does not |
//! | [`claims`] | what a pod adds to its addresses is nobody else's loss, and lends no identity |
//! | [`cni`] | a pod is enforced when its CNI plugin is answered, and open to nobody before |
//! | [`changes`] | 1,000 changes of policy under load: nothing lost, nothing let through |
//! | [`verdicts`] | hooks open and deny by what was said of others; a flood of new flows |
//! | [`drops`] | dropped packets one by one: reason, policy, pods; a capture that tshark reads |
//! | [`seeds`] | connections from before Weir keep the direction in which they were opened |
//! | [`services`] | Services by iptables and by nft, judged on who is behind them and in front |
//! | [`unfinished`] | no checksum is written over what was judged |
//! | [`vectors`] | cases of a public suite with real packets, TCP, UDP and SCTP |
//! | [`tap`] | jumbo frames and uncut bulk by a TAP device |
//! | [`layer2`] | what a pod may not send on its link; groups; fragments in any order |
//! | [`fragments`] | datagrams larger than the MTU, between real stacks |
//! | [`attacks`] | a table flooded full, a flood of denied packets, forged ICMP errors |
//! | [`pmtu`] | path-MTU discovery of a pod that nobody may reach |
//! | [`bad_input`] | broken manifests are named, isolate, and harm nothing else |
//! | [`metrics`] | `/metrics`, `/healthz`, `/readyz` and JSON logs say what the node does |
//! | [`doctor`] | what is wrong with a node is said with the remedy |
//! | [`uninstall`] | afterwards the node is as it was before |
//! | [`faults`] | missing rights and file systems are told in a sentence; garbage frames are counted |
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod attacks;
mod bad_input;
mod changes;
mod claims;
mod clock;
mod cni;
mod crash;
#[path = "../support/dice.rs"]
mod dice;
mod doctor;
mod drops;
mod faults;
mod fragments;
mod lab;
mod layer2;
mod lifecycle;
mod liveness;
mod matrix;
mod mesh;
mod metrics;
mod node;
mod numbered;
mod offload;
mod pmtu;
mod probe;
mod ready;
mod reload;
#[path = "../support/root.rs"]
mod root;
mod seeds;
mod services;
mod sizes;
mod stream;
mod tap;
mod unfinished;
mod uninstall;
mod validity;
mod vectors;
mod verdicts;
mod weir;
mod wire;

use root::turn;
