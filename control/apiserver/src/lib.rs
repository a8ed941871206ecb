//! A stand-in for the Kubernetes API server, for tests: real HTTP, the kinds that Weir reads, and
//! everything that can go wrong with them.
//!
//! ```text
//!            test                                             client under test
//!   apply, delete, cut, fault, …                           list, watch, create (HTTP or HTTPS)
//!              │                                                      │
//!        ┌─────▼─────┐   orders   ┌────────┐    ┌────────┐ path, query, access ┌──────────┐
//!        │ ApiServer │──────────► │ serve  │──► │ answer │────────────────────►│ write    │
//!        └─────┬─────┘            └────────┘    └───┬────┘                     └────┬─────┘
//!              │                                    │ body: lists, watches          │
//!        ┌─────▼────────────────────────────────────▼───────────────────────────────▼─────┐
//!        │ state, behind one lock:  store (objects, history)   hub (open watches)          │
//!        │                          access   faults   journal (what was asked)             │
//!        └─────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! # What it does
//!
//! - Kinds: Namespace, Node, Pod, Service, EndpointSlice, NetworkPolicy, ClusterNetworkPolicy, Event
//!   ([`Kind`]). Paths, discovery, answers and `Status` objects are those of the real server.
//! - Lists in pages of one version, also while objects change; `resourceVersion` and its match as
//!   documented; 410 with a token to go on with; label selectors, and the field selectors that the
//!   real server has for the kind.
//! - Watches: from now, from a version, from nothing; bookmarks; timeouts; 410 as an event or as a
//!   status; 504 for versions of the future; what a selector selects no more is deleted.
//! - Writes: create, update, merge patch, delete, `status` apart; conflicts, dry runs, terminating
//!   Pods; Events are validated as the real server does it.
//! - HTTPS with an authority of its own; tokens that expire; the rules of a ClusterRole are enforced.
//!
//! It is **strict**: what the real server overlooks (an unknown parameter) and what a least-privileged
//! client must not do (a verb that its role does not allow) is refused and is a complaint, and a test
//! whose server has complaints that it did not ask for fails when it drops the server.
//!
//! # What a test does with it
//!
//! ```
//! use serde_json::json;
//! use weir_apiserver::{Action, ApiServer, Cut, Fault, Kind, Settings};
//!
//! let server = ApiServer::start(Settings::default()).unwrap();
//! let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}});
//! let version = server.apply(pod).unwrap();
//! let kubeconfig = server.kubeconfig(None);
//! // … a client that is given this file lists and watches …
//! server.cut(Kind::Pod, Cut::MidLine);
//! server.fault(Fault::once(Action::Refuse { code: 429, retry_after: Some(1) }).on_verb("watch"));
//! server.compact();
//! assert_eq!(server.asked("list", Kind::Pod), 0);
//! assert!(server.sent_at(version).is_none() && kubeconfig.contains(&server.url()));
//! ```
//!
//! | to have | call |
//! |---|---|
//! | objects | `apply`, `apply_yaml`, `patch`, `delete`, `terminate`; [`World`] for very many |
//! | watches disturbed | `cut` and `cut_all` (end, broken, mid-line, 410), `hold` and `release` (reversed, doubled, dropped), `repeat`, `say` any line, `bookmark` |
//! | history | `compact`, `restore`, [`Manners::history`], [`Manners::gone_as_status`] |
//! | requests that go wrong | `fault` with an [`Action`]: refuse, hang, close, truncate, delay, slow, raw |
//! | the server away | `down` and `up` (same port), `close_connections`, `freeze` and `thaw` |
//! | credentials | `add_token`, `remove_token`, `rotate_ca`, `kubeconfig`, `write_service_account` |
//! | to know | `requests`, `asked`, `watches`, `sent_at`, `take_complaints`; waiting: `wait_until_asked`, `wait_for_watches`, `wait` |
//!
//! The binary `weir-apiserver` is the same for tests in network namespaces: it is told these things
//! by lines of JSON ([`command`]). With it kubectl can be used by hand:
//!
//! ```text
//! cargo run -p weir-apiserver -- --stay --kubeconfig /tmp/kubeconfig -f objects.yaml
//! kubectl --kubeconfig /tmp/kubeconfig get pods -A -w
//! ```
//!
//! # Invariants
//!
//! - The text of an object is kept once, whatever refers to it: history, lists, watches. See
//!   [`object`]. 150,000 pods of 4 KB take about 700 MB.
//! - A change is stored and put into the queues of watches in one critical section, so no bookmark
//!   and no list is ahead of what a watch will be told.
//! - Nothing waits for a clock that a test has not set.
//!
//! # What it does not do
//!
//! Streaming lists (`sendInitialEvents` is refused as by a server without that feature), protobuf,
//! tables, server-side apply, strategic merge, JSON patch, `deletecollection`, finalizers, defaults
//! and validation of `spec`, quotas, client certificates, Roles bound in one namespace. Nothing
//! outside tests may depend on it.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod access;
mod answer;
mod body;
pub mod command;
mod control;
mod event;
pub mod fault;
pub mod hub;
pub mod journal;
pub mod kind;
pub mod object;
mod path;
mod query;
mod read;
pub mod select;
mod serve;
mod server;
mod stamp;
pub mod state;
pub mod status;
pub mod store;
mod submit;
mod tls;
pub mod world;
pub mod write;

pub use access::{Holder, Rule, rules_of};
pub use fault::{Action, Fault};
pub use hub::{Cut, Release};
pub use journal::Asked;
pub use kind::Kind;
pub use object::{Key, Object};
pub use server::{ApiServer, Binder, Settings};
pub use state::{Manners, monotonic_ns};
pub use status::Refusal;
pub use world::World;
