//! The way to the API server: where it is, who we are, and the client that knows both.
//!
//! kube reads the configuration and makes the layers of the client; they are put together here, for
//! what kube's own stack has otherwise: it logs every failure as an error, and it knows nothing of
//! a connection whose other end has vanished without a word. A watch is silent for minutes; so TCP
//! asks whether anybody is there, and the connection ends within [`SILENT`] and
//! [`PROBES`] × [`BETWEEN`] if nobody is.
//!
//! Credentials rotate while the process runs. kube reads a token file again once a minute, and the
//! CA of a service account as well; not the token and the certificates of a kubeconfig, nor where
//! the server is. So after [`DOUBTS`] requests in succession that failed for such a reason
//! everything is read anew and the client is replaced, at growing intervals while that does not
//! help. If it cannot be read (a file is being written), the client stays, and the next failures
//! try again.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http::HeaderValue;
use http::header::USER_AGENT;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::Notify;
use tower::{BoxError, ServiceBuilder};
use tracing::{debug, info, warn};

/// So many failures in succession, and the client is made anew.
const DOUBTS: u32 = 3;
/// At most so often at first: the kinds fail together.
const PAUSE: Duration = Duration::from_secs(5);
/// And so often when it has not helped for long: what makes a token may be a program.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// For a TCP connection. Its TLS handshake is part of what an answer may take (`http`).
const CONNECT: Duration = Duration::from_secs(5);
/// A connection on which nothing comes for so long is probed,
const SILENT: Duration = Duration::from_secs(15);
/// again after so long,
const BETWEEN: Duration = Duration::from_secs(5);
/// and given up after so many probes without an answer.
const PROBES: u32 = 3;

/// Where the client's configuration is.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// A kubeconfig; if there is none, as kubectl finds one, and the pod's service account last.
    pub kubeconfig: Option<PathBuf>,
    /// A context of it instead of the current one.
    pub context: Option<String>,
}

impl Place {
    async fn config(&self) -> Result<Config> {
        let mut config = match self {
            Self { kubeconfig: None, context: None } => match found().await {
                Ok(config) => config,
                Err(error) => Config::incluster().with_context(|| {
                    format!(
                        "no API server is known: no kubeconfig (KUBECONFIG, ~/.kube/config: {error}), and this is no pod with a service account; give --kubeconfig PATH"
                    )
                })?,
            },
            Self { kubeconfig: Some(path), context } => {
                let read = Kubeconfig::read_from(path);
                let read = read.with_context(|| format!("--kubeconfig {}", path.display()))?;
                chosen(read, context.clone())
                    .await
                    .with_context(|| format!("--kubeconfig {}", path.display()))?
            }
            Self { kubeconfig: None, context } => {
                let read = Kubeconfig::read().context("no kubeconfig for --context")?;
                chosen(read, context.clone()).await.context("the kubeconfig")?
            }
        };
        let agent = HeaderValue::from_static(concat!("weir-control/", env!("CARGO_PKG_VERSION")));
        config.headers.push((USER_AGENT, agent));
        Ok(config)
    }
}

/// What kubectl would use.
async fn found() -> Result<Config> {
    chosen(Kubeconfig::read()?, None).await
}

async fn chosen(read: Kubeconfig, context: Option<String>) -> Result<Config> {
    let has_proxy = has_proxy(&read, context.as_deref());
    let options = KubeConfigOptions { context, ..Default::default() };
    let mut config = Config::from_custom_kubeconfig(read, &options).await?;
    if config.proxy_url.is_some() && has_proxy {
        bail!("a proxy on the way to the API server (proxy-url) is not supported");
    }
    // Without one of its own, kube takes the environment's, which is for the way out of the
    // network, and not within it.
    config.proxy_url = None;
    Ok(config)
}

/// Whether the cluster of that context, or else of the current one, is behind a proxy.
fn has_proxy(read: &Kubeconfig, context: Option<&str>) -> bool {
    let chosen = context.or(read.current_context.as_deref());
    let of_context = read.contexts.iter().filter(|named| Some(&*named.name) == chosen);
    let named: Vec<&str> =
        of_context.filter_map(|named| Some(&*named.context.as_ref()?.cluster)).collect();
    let clusters = read.clusters.iter().filter(|cluster| named.contains(&&*cluster.name));
    clusters.filter_map(|named| named.cluster.as_ref()).any(|cluster| cluster.proxy_url.is_some())
}

/// Puts the client together; nothing is sent yet, and a program that makes tokens is run.
fn client(config: Config) -> Result<Client> {
    let mut tcp = HttpConnector::new();
    // TLS is the outer connector's.
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(SILENT));
    tcp.set_keepalive_interval(Some(BETWEEN));
    tcp.set_keepalive_retries(Some(PROBES));
    // Of a request that is never acknowledged, probes say nothing.
    tcp.set_tcp_user_timeout(Some(SILENT + BETWEEN * PROBES));
    let https = config.rustls_https_connector_with_connector(tcp)?;
    let http = HttpClient::builder(TokioExecutor::new()).build(https);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}

/// The client in use, and whether it still can be.
pub struct Access {
    place: Place,
    server: String,
    state: Mutex<State>,
    back: Notify,
}

struct State {
    client: Client,
    /// Counts clients.
    number: u64,
    doubts: u32,
    /// When it was made, or could not be.
    made: Instant,
    /// Until it is made anew.
    pause: Duration,
    /// Clients made in vain since the last answer, and why there is none, as it was said.
    in_vain: u32,
    said: Option<String>,
}

impl Access {
    /// Reads the configuration and makes the first client; nothing is sent yet.
    ///
    /// # Errors
    /// There is no configuration, or no client for it.
    pub async fn open(place: Place) -> Result<Self> {
        let config = place.config().await?;
        let server = config.cluster_url.to_string();
        let client = client(config).context("no client for the API server")?;
        let state = State {
            client,
            number: 0,
            doubts: 0,
            made: Instant::now(),
            pause: PAUSE,
            in_vain: 0,
            said: None,
        };
        Ok(Self { place, server, state: Mutex::new(state), back: Notify::new() })
    }

    /// The server's address when the process began.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The client to use for the next request, and its number.
    pub fn client(&self) -> (u64, Client) {
        let state = self.state();
        (state.number, state.client.clone())
    }

    /// Who could not be answered is answered again: those who wait for their next attempt need not
    /// wait any longer.
    pub fn is_back(&self) {
        self.back.notify_waiters();
    }

    /// Waits until somebody who could not be answered is answered again.
    pub async fn until_back(&self) {
        self.back.notified().await;
    }

    /// A request of that client was answered as it should be.
    pub fn trust(&self, number: u64) {
        let mut state = self.state();
        if state.number == number {
            state.doubts = 0;
            state.pause = PAUSE;
            state.in_vain = 0;
            state.said = None;
        }
    }

    /// A request of that client failed in a way in which wrong credentials, a wrong CA or a wrong
    /// address do.
    pub async fn doubt(&self, number: u64) {
        {
            let mut state = self.state();
            if state.number != number {
                return;
            }
            state.doubts += 1;
            if state.doubts < DOUBTS || state.made.elapsed() < state.pause {
                return;
            }
            // Only one of those who fail now makes a new one.
            state.doubts = 0;
            state.made = Instant::now();
            state.pause = (state.pause * 2).min(LONGEST_PAUSE);
        }
        let made = self.place.config().await.and_then(client);
        let mut state = self.state();
        match made {
            Ok(client) => {
                state.client = client;
                state.number += 1;
                // An API that is away for hours is not news each time.
                match state.in_vain {
                    0 => info!("the client configuration was read again"),
                    times => debug!(times, "the client configuration was read again"),
                }
                state.in_vain += 1;
            }
            Err(error) => {
                let words = format!("{error:#}");
                if state.said.as_ref() != Some(&words) {
                    warn!("the client configuration cannot be read again: {words}");
                    state.said = Some(words);
                }
            }
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Every change is complete in itself, so a panic under the lock spoils nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("server", &self.server).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubeconfig(token: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
             clusters: [{{name: c, cluster: {{server: \"http://192.0.2.1:8080\"}}}}]\n\
             users: [{{name: u, user: {{token: {token}}}}}]\n\
             contexts: [{{name: a, context: {{cluster: c, user: u}}}}, {{name: b, context: {{cluster: none, user: u}}}}]\n"
        )
    }

    #[tokio::test]
    async fn a_client_is_replaced_after_doubts_and_kept_if_nothing_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let place = |context: Option<&str>| Place {
            kubeconfig: Some(path.clone()),
            context: context.map(str::to_owned),
        };
        let error = format!("{:#}", Access::open(place(None)).await.unwrap_err());
        assert!(error.contains("--kubeconfig") && error.contains("config"), "{error}");
        std::fs::write(&path, kubeconfig("one")).unwrap();
        let error = format!("{:#}", Access::open(place(Some("b"))).await.unwrap_err());
        assert!(error.contains("none") || error.contains("cluster"), "{error}");

        let access = Access::open(place(Some("a"))).await.unwrap();
        assert_eq!(access.server(), "http://192.0.2.1:8080/");
        let long_ago = || {
            let mut state = access.state.lock().unwrap();
            state.made = Instant::now().checked_sub(LONGEST_PAUSE).unwrap();
        };
        long_ago();
        access.doubt(0).await;
        access.doubt(0).await;
        // Somebody else was answered.
        access.trust(0);
        access.doubt(0).await;
        access.doubt(0).await;
        assert_eq!(access.client().0, 0);
        access.doubt(0).await;
        assert_eq!(access.client().0, 1);
        // Failures of the client that was replaced say nothing of this one, nor do many at once.
        for number in [0, 0, 0, 0, 1, 1, 1, 1] {
            access.doubt(number).await;
        }
        assert_eq!(access.client().0, 1);
        std::fs::remove_file(&path).unwrap();
        long_ago();
        access.doubt(1).await;
        assert_eq!(access.client().0, 1);
        std::fs::write(&path, kubeconfig("two")).unwrap();
        long_ago();
        for _ in 0..DOUBTS {
            access.doubt(1).await;
        }
        assert_eq!(access.client().0, 2);
    }
}
