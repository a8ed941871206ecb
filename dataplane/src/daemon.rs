//! Putting the daemon together: checks, steering, punt pair, workers, admin threads.
//!
//! Order matters. The workers serve before the first hook is attached, and the first
//! hook is attached only once a policy table is in force, so at no point does a packet
//! of a running pod meet a hook that nobody answers.

mod workers;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use weir_table::cni::{CNI_SOCKET_FILE, Server};
use weir_table::counters::{CounterBlock, Counters};
use weir_table::flow::{FlowTable, HashKey, LEAST_SHARE_SHIFT, Quota, Tick, VerdictCache};
use weir_table::publish::Listener;
use weir_table::saved;
use weir_table::stamps::Stamps;

use crate::cni::Plugins;
use crate::discover::Discovery;
use crate::drops;
use crate::netlink::{Link, Netlink};
use crate::node::Node;
use crate::origins::HostConntrack;
use crate::pipeline::Pipeline;
use crate::placements::Bells;
use crate::pods::{Plugin, Pods};
use crate::punt::veth::PuntPair;
use crate::punt::{self, Backend, IoMode};
use crate::shim::SHIM_LEN;
use crate::steer::abi::{Config, Fixed, HashKeyWords, Mark, PUNT_TAP_UDP, PuntLimit};
use crate::steer::attach::AttachMode;
use crate::steer::{Sizes, Steering};
use crate::worker::{Tables, Worker};
use crate::{admin, clock, metrics, privileges};
use workers::{Served, serve_by_af_xdp, serve_by_tap, spawn_recorder};

/// What this program calls itself to publishers.
const SOFTWARE: &str = concat!("weir-dataplane ", env!("CARGO_PKG_VERSION"));
/// A worker that shows no sign of life for this long counts as dead. Longer than its
/// longest sleep by far: on a crowded node the scheduler may keep it waiting.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(3);
/// The MTU that pods have unless their devices say otherwise.
const ETHERNET_MTU: u32 = 1500;
/// Fragments of up to this many bytes wait for their first; there is room for a worker's 256
/// of the size that the pods' MTU gives.
const LARGEST_HELD: u32 = 9216;

/// What the command line says, resolved.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where control publishes.
    pub socket: PathBuf,
    /// Where tmpfs state goes.
    pub run_dir: PathBuf,
    /// Where maps and links are pinned.
    pub pin_dir: PathBuf,
    /// Where network namespaces are found.
    pub netns_dir: PathBuf,
    /// Name of the punt pair without its digit.
    pub device_prefix: String,
    /// How many workers.
    pub workers: u32,
    /// Flows that the table holds at the intended load.
    pub flows: u32,
    /// Most of them to the account of one pod; `None`: a quarter.
    pub flows_per_pod: Option<u32>,
    /// How hooks are attached.
    pub attach: AttachMode,
    /// The bits of `skb->mark` that are Weir's.
    pub mark: Mark,
    /// Whether undecided packets pass while no worker serves.
    pub fail_open: bool,
    /// Whether decided flows stay in the kernel.
    pub offload: bool,
    /// How packets reach user space.
    pub io: IoMode,
    /// Whether every interface that comes needs the CNI plugin's word.
    pub cni_required: bool,
    /// Where `/metrics` and its like are served; `None`: nowhere.
    pub metrics: Option<String>,
}

impl Settings {
    /// # Errors
    /// Values that do not go together.
    fn check(&self) -> Result<()> {
        let least = self.flows >> LEAST_SHARE_SHIFT;
        match self.flows_per_pod {
            Some(most) if most < least => bail!(
                "--flows-per-pod {most} is too few for --flows {}: a pod at its limit would not \
                 find a flow of its own to give up; allow {least} at least, or make the table \
                 smaller",
                self.flows
            ),
            _ => Ok(()),
        }
    }
}

/// A daemon that serves.
pub struct Daemon {
    settings: Settings,
    node: Arc<Node>,
    pods: Arc<Mutex<Pods>>,
    stop: Arc<AtomicBool>,
    workers: Vec<thread::JoinHandle<Result<()>>>,
    recorder: Option<thread::JoinHandle<Result<()>>>,
    metrics: Option<thread::JoinHandle<Result<()>>>,
    listener: Listener,
    plugins: Server,
    bells: Arc<Bells>,
    _pair: Option<PuntPair>,
}

impl Daemon {
    /// Sets everything up; returns once the workers serve. Nothing is attached to any
    /// pod yet, unless an earlier daemon left its hooks there.
    ///
    /// # Errors
    /// One sentence that names what is missing and the remedy.
    pub async fn start(settings: Settings) -> Result<Self> {
        settings.check()?;
        privileges::require()?;
        let metrics = settings.metrics.as_deref().map(metrics::bind).transpose()?;
        // Before anything is touched: this takes the run directory for this process.
        let saved = saved::load(&settings.run_dir).ok().flatten();
        let generation = saved.map_or(0, |classifier| classifier.generation());
        let listener =
            Listener::bind_at(&settings.run_dir, &settings.socket, SOFTWARE, generation)?;
        // In the run directory, which is this process' alone from here on. Who asks now waits.
        let plugins = Server::bind(&settings.run_dir.join(CNI_SOCKET_FILE), SOFTWARE)?;
        let bells = Arc::new(Bells::new().context("no eventfd")?);
        let sizes = flow_sizes(settings.flows);
        let near = format!("{}0", settings.device_prefix);
        let largest_mtu = largest_mtu(&near).await?;
        let (backend, why) = punt::choose(settings.io, largest_mtu, punt::kernel_has_af_xdp());
        let mut steering = Steering::load(&settings.pin_dir, sizes, backend)?;
        steering.note_in(&settings.run_dir);
        tracing::info!(io = backend.as_str(), why, "how packets reach user space");
        let maps = steering.shared_maps(sizes)?;
        let config = Arc::new(Config::new(maps.config));
        let inherited = config.abi_version() != 0;
        clock::resume_flows(config.tick());
        config.set_tick(Tick::from_nanos(clock::flow_ns()));
        config.init(
            random_key()?,
            &Fixed {
                mark: settings.mark,
                fail_open: settings.fail_open,
                heartbeat_timeout: HEARTBEAT_TIMEOUT,
                offload: settings.offload,
                punt_limit: settings.offload.then_some(PuntLimit::DEFAULT),
                flows: sizes,
            },
        );
        let counter_words = Arc::new(maps.counters);
        let counters = Counters::init(Arc::clone(&counter_words), settings.workers as usize)?;
        let key = HashKey::from_words(config.hash_key());
        let flows = FlowTable::new(maps.flows4, maps.flows6, key.clone())?;
        let most = u64::from(settings.flows_per_pod.unwrap_or(settings.flows / 4));
        let quota = Quota::shared(maps.quota, most, settings.flows.into());
        let flows = Arc::new(flows.with_quota(quota));
        let verdicts = VerdictCache::new(maps.verdicts4, maps.verdicts6, key.clone())?;
        let stamps = Arc::new(Stamps::new(maps.stamps, key)?);
        // Nobody writes now: hooks that an earlier daemon left enter flows only while one of
        // its sockets is open. A new table is not looked through: that alone would take many
        // seconds for the largest.
        if inherited {
            let unfinished = flows.sweep() + verdicts.sweep();
            flows.recount();
            if unfinished > 0 {
                tracing::warn!(
                    unfinished,
                    "freed flow entries that a dead daemon left half written"
                );
            }
        }
        let tables = Tables {
            flows: Arc::clone(&flows),
            stamps: Arc::clone(&stamps),
            verdicts: settings.offload.then(|| Arc::new(verdicts)),
        };
        let node = Node::new(settings.workers as usize, counters, flows, stamps)
            .telling_node_ports_to(steering.node_ports()?)
            .asking_for_origins(origins(HostConntrack::open_unlimited()));
        let node = Arc::new(node);
        let stop = Arc::new(AtomicBool::new(false));
        let queues: Vec<_> = (0..settings.workers).map(|_| drops::queue()).collect();
        let worker = |id: u32| -> Result<(Worker, Pipeline)> {
            let worker = Worker {
                id,
                node: Arc::clone(&node),
                config: Arc::clone(&config),
                tables: tables.clone(),
                counters: CounterBlock::new(Arc::clone(&counter_words), id as usize)?,
                origins: origins(HostConntrack::open()),
                stop: Arc::clone(&stop),
            };
            let pipeline = Pipeline::new(id as usize, settings.workers as usize)
                .holding_frames_of(largest_mtu.min(LARGEST_HELD) as usize)
                .telling_drops_to(Arc::clone(&queues[id as usize]));
            Ok((worker, pipeline))
        };
        let served = match backend {
            Backend::AfXdp => serve_by_af_xdp(&settings, &mut steering, worker).await?,
            Backend::Tap => serve_by_tap(&settings, &near, &mut steering, worker).await?,
        };
        let Served { near_index, flags, mtu, workers, pair } = served;
        tracing::info!(
            near, io = backend.as_str(), mtu, workers = settings.workers,
            attach = ?settings.attach.resolve(), mark = %settings.mark,
            offload = settings.offload, udp_uncut = flags & PUNT_TAP_UDP != 0,
            "the punt device is up"
        );
        steering.attach_return(&near, settings.attach)?;
        config.serve(near_index, settings.workers, flags);
        let sources = drops::Sources { hooks: steering.take_drops()?, workers: queues };
        let recorder = spawn_recorder(&settings.run_dir, sources, &node, &tables.flows, &stop)?;
        let shim = u32::try_from(SHIM_LEN).unwrap_or(16);
        let pods = Arc::new(Mutex::new(Pods::new(
            steering,
            Arc::clone(&config),
            Arc::clone(&node),
            (settings.attach, settings.offload),
            (
                &settings.run_dir,
                Plugin { required: settings.cni_required, bells: Arc::clone(&bells) },
            ),
            mtu - shim,
        )));
        let hooks = metrics::HookCounters::open(&settings.pin_dir)
            .inspect_err(|error| tracing::warn!(%error, "metrics will lack the hooks' counters"));
        let books = metrics::Books {
            node: Arc::clone(&node),
            config,
            flows: tables.flows,
            capacity: settings.flows,
            pods: Arc::clone(&pods),
            hooks: hooks.ok(),
            punt_device: near,
        };
        let metrics = metrics.map(|socket| metrics::spawn(socket, books, &stop)).transpose()?;
        Ok(Self {
            settings,
            node,
            pods,
            stop,
            workers,
            recorder,
            metrics,
            listener,
            plugins,
            bells,
            _pair: pair,
        })
    }

    /// Finds pods and takes policy tables until `shutdown` completes. Hooks and pins
    /// stay behind, so that enforcement outlives the daemon.
    ///
    /// # Errors
    /// When an admin thread fails for good.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let mut discovery = Discovery::new(&self.settings.netns_dir)?;
        let first = discovery.scan(&HashSet::new()).await?;
        lock(&self.pods).apply(first)?;
        admin::resume(&self.settings.run_dir, &self.node, &self.pods);
        let (netns_dir, shared) =
            (self.settings.netns_dir, (Arc::clone(&self.pods), Arc::clone(&self.node)));
        let (server, bells, stop) = (self.plugins, Arc::clone(&self.bells), Arc::clone(&self.stop));
        let plugins = move || {
            Plugins::new(server, || Discovery::new(&netns_dir), shared, bells, stop)?.serve()
        };
        let plugins = thread::Builder::new().name("weir-cni".into()).spawn(plugins)?;
        let publications = admin::Publications {
            listener: self.listener,
            node: Arc::clone(&self.node),
            pods: Arc::clone(&self.pods),
            run_dir: self.settings.run_dir,
            stop: Arc::clone(&self.stop),
            saved: 0,
            save_fails: false,
            bells: self.bells,
            told: admin::Told::default(),
            unplaced: Vec::new(),
        };
        let publications =
            thread::Builder::new().name("weir-publish".into()).spawn(|| publications.serve())?;
        tracing::info!(socket = %self.settings.socket.display(), "ready for policy tables");
        let threads: Vec<_> = self
            .workers
            .iter()
            .chain(&self.recorder)
            .chain(&self.metrics)
            .chain([&publications, &plugins])
            .collect();
        tokio::select! {
            result = admin::watch_pods(discovery, Arc::clone(&self.pods)) => result?,
            () = admin::watch_threads(&threads) => {}
            never = admin::share_flows_out(&self.node) => match never {},
            () = shutdown => {}
        }
        tracing::info!("stopping; hooks and flow table stay, `weir uninstall` removes them");
        self.stop.store(true, Ordering::Relaxed);
        let threads = self.workers.into_iter().chain(self.recorder).chain(self.metrics);
        for thread in threads.chain([publications, plugins]) {
            let name = thread.thread().name().unwrap_or("thread").to_owned();
            match thread.join() {
                Ok(result) => result?,
                Err(_) => bail!("{name} panicked"),
            }
        }
        Ok(())
    }
}

/// Who opened what the host has translated, if that can be found out.
fn origins(opened: Result<HostConntrack, String>) -> Option<HostConntrack> {
    opened
        .inspect_err(|error| {
            tracing::warn!(
                error,
                "connections that the host masquerades are judged as the node's address"
            );
        })
        .ok()
}

/// Locks the pods; a panic while they were locked does not make them unusable.
pub(crate) fn lock(pods: &Mutex<Pods>) -> std::sync::MutexGuard<'_, Pods> {
    pods.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sizes of the flow table for a number of flows: twice as many IPv4 entries, rounded up
/// to a power of two, because two-choice buckets fill evenly to about half; the same
/// memory once more for IPv6, whose entries are twice as large.
fn flow_sizes(flows: u32) -> Sizes {
    let flows6 = flows.next_power_of_two();
    Sizes { flows4: flows6 * 2, flows6 }
}

/// The largest MTU of any device through which pods' packets go, in bytes: a bridge or an
/// uplink tells of it before there are pods.
async fn largest_mtu(near: &str) -> Result<u32> {
    let links = Netlink::open()?.links().await?;
    let counts = |l: &&Link| !l.loopback && l.name != near;
    let mtus = links.iter().filter(counts).map(|l| l.mtu);
    Ok(mtus.chain([ETHERNET_MTU]).max().unwrap_or(ETHERNET_MTU))
}

/// The secret of this boot.
fn random_key() -> Result<HashKeyWords> {
    let mut bytes = [0u8; size_of::<HashKeyWords>()];
    let mut filled = 0;
    while filled < bytes.len() {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
                .context("the kernel gives no random numbers")?;
    }
    Ok(std::array::from_fn(|i| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[i * 8..i * 8 + 8]);
        u64::from_ne_bytes(word) | u64::from(i == 0)
    }))
}
