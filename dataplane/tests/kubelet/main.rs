//! A pod's life as the kubelet has it: the real CNI plugins with `weir-cni` behind them, the built
//! daemons, and pods that send from before they have an address.
//!
//! Needs root and what `scripts/setup` installs. Without root the tests say "SKIPPED: needs root"
//! and pass; with `WEIR_REQUIRE_E2E=1`, as `scripts/test` runs them, that is a failure. They run
//! one at a time. `WEIR_KUBE_PODS=500` makes the storms as large,
//! `WEIR_KUBE_AT_ONCE=1` lets their pods come one by one.
//!
//! | Module | What it shows |
//! |---|---|
//! | [`life`] | a pod is enforced when ADD returns; CHECK and DEL; {bridge, ptp}, dual stack |
//! | [`reuse`] | an address, a name, a sandbox that goes to the next within milliseconds |
//! | [`steps`] | daemons that are absent, die or come back at each step of a pod's life |
//! | [`storm`] | a hundred pods at once: not one packet that is denied gets through |
//! | [`api`] | with an API server: weir-control follows it, also when it is away or cut off |
//! | [`adopted`] | pods that are older than Weir; out of the chain again |
//!
//! [`kubelet`] is the runtime, [`objects`] where its Pods are, [`site`] the node, [`cluster`] the API
//! server on it, [`traffic`] who sends and who counts; the rest is shared with the end-to-end tests.
//!
//! But for [`api`], the objects are files of a folder that weir-control watches.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod adopted;
mod api;
#[allow(dead_code)]
#[path = "../e2e/clock.rs"]
mod clock;
mod cluster;
mod kubelet;
#[allow(dead_code)]
#[path = "../e2e/lab.rs"]
mod lab;
mod life;
#[allow(dead_code)]
#[path = "../e2e/node.rs"]
mod node;
mod objects;
#[allow(dead_code)]
#[path = "../e2e/probe.rs"]
mod probe;
mod reuse;
#[path = "../support/root.rs"]
mod root;
mod site;
mod steps;
mod storm;
mod traffic;
#[allow(dead_code)]
#[path = "../e2e/weir.rs"]
mod weir;

use root::turn;
