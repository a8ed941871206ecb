//! The admin side of the daemon: taking policy tables from control, following pods, and
//! resuming from what an earlier daemon left. Nothing here is on the packet path.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::{FutureExt, StreamExt};
use rtnetlink::MulticastGroup;
use rtnetlink::sys::AsyncSocket;
use weir_table::addrmap::AddressMap;
use weir_table::classify::{Classifier, MappedClassifier};
use weir_table::mem::Mapping;
use weir_table::policy::PolicyTable;
use weir_table::seal;

use crate::daemon::lock;
use crate::discover::Discovery;
use crate::node::Node;
use crate::pods::Pods;
use crate::state;

/// Events come in bursts (a new pod is a dozen of them); one scan serves them all.
const SETTLE: Duration = Duration::from_millis(2);
/// First pause before another look at an interface that has no address yet.
const SOON: Duration = Duration::from_millis(10);
/// Longest such pause.
const LATER: Duration = Duration::from_secs(1);
/// A look without any event: the backstop against a missed one.
const SELDOM: Duration = Duration::from_secs(30);

/// Follows pods as they come and go, for ever.
///
/// # Errors
/// When netlink fails for good or a worker hangs.
pub async fn watch_pods(mut discovery: Discovery, pods: Arc<Mutex<Pods>>) -> Result<()> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (mut connection, _handle, mut events) =
        rtnetlink::new_multicast_connection(&groups).context("cannot follow network events")?;
    // A pod's addresses are given inside its namespace.
    if let Err(error) = connection.socket_mut().socket_mut().set_listen_all_namespaces(true) {
        tracing::warn!(%error, "cannot follow events of pods' namespaces; new pods take up to 1 s");
    }
    tokio::spawn(connection);
    let mut pause = SOON;
    loop {
        let wait = if lock(&pods).incomplete() { pause } else { SELDOM };
        tokio::select! {
            event = events.next() => {
                event.context("the kernel closed the stream of network events")?;
                pause = SOON;
                tokio::time::sleep(SETTLE).await;
                while let Some(Some(_)) = events.next().now_or_never() {}
            }
            () = tokio::time::sleep(wait) => pause = (pause * 2).min(LATER),
        }
        let scan = discovery.scan().await?;
        lock(&pods).apply(scan)?;
    }
}

/// Completes when any worker's thread has ended.
pub async fn watch_workers(workers: &[thread::JoinHandle<Result<()>>]) {
    while !workers.iter().any(thread::JoinHandle::is_finished) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Enforces what an earlier daemon enforced last, until control publishes anew.
pub fn resume(run_dir: &Path, node: &Node, pods: &Mutex<Pods>) {
    let resumed = match state::last_generation(run_dir) {
        Ok(None) => return,
        Ok(Some((table, addresses))) => rebuild(&table, &addresses),
        Err(error) => Err(error.into()),
    };
    match resumed.and_then(|c| Ok(node.enforce(Arc::new(c))?)) {
        Ok(enforced) => {
            lock(pods).start_enforcing();
            tracing::info!(generation = enforced.generation, "resumed the last policy table");
        }
        Err(error) => tracing::warn!(
            %error,
            "cannot resume the last policy table; waiting for weir-control to publish one"
        ),
    }
}

/// A classifier from bytes on disk; they are copied and sealed first, so that they are
/// as immutable as what control sends.
fn rebuild(table: &[u8], addresses: &[u8]) -> Result<MappedClassifier> {
    let table = seal::sealed_copy("weir-policy-table", table)?;
    let table = PolicyTable::from_bytes(Mapping::of_sealed(table.as_fd(), "policy table")?)?;
    let addresses = seal::sealed_copy("weir-address-map", addresses)?;
    Ok(Classifier::new(table, AddressMap::from_fd(addresses.as_fd())?)?)
}
