//! The recipes of kubernetes-network-policy-recipes do what they say.
//!
//! For each file, by its number, the pods of its story are built, and who reaches whom is compared
//! with what the story tells. Recipe 14 is judged by its YAML, which denies foo → web although its
//! text says otherwise.
//!
//! The files are looked for as `conformance` does; without them the test says that it was skipped.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::json;
use weir_control::eval::Offline;
use weir_control::index::Index;
use weir_control::model::{Loaded, Protocol, load};
use weir_control::oracle::{self, Traffic};
use weir_table::Address;
use weir_table::classify::Connection;

/// The namespaces of all stories.
const NAMESPACES: [(&str, &[(&str, &str)]); 6] = [
    ("default", &[]),
    ("other", &[]),
    ("dev", &[("purpose", "testing")]),
    ("prod", &[("purpose", "production")]),
    ("ops", &[("team", "operations")]),
    ("kube-system", &[]),
];

/// The pods of all stories: each recipe selects some of them.
const PODS: [(&str, &[(&str, &str)]); 17] = [
    ("default/web", &[("app", "web")]),
    ("default/foo", &[("app", "foo")]),
    ("default/client", &[("run", "client")]),
    ("default/api", &[("app", "bookstore"), ("role", "api")]),
    ("default/frontend", &[("app", "bookstore"), ("role", "frontend")]),
    ("default/search", &[("app", "bookstore"), ("role", "search")]),
    ("default/db", &[("app", "bookstore"), ("role", "db")]),
    ("default/inventory", &[("app", "inventory"), ("role", "web")]),
    ("default/apiserver", &[("app", "apiserver")]),
    ("default/monitor", &[("role", "monitoring"), ("type", "monitoring")]),
    ("other/client", &[("run", "client")]),
    ("other/bookstore", &[("app", "bookstore"), ("role", "api")]),
    ("dev/client", &[("type", "monitoring")]),
    ("prod/client", &[("run", "client")]),
    ("ops/client", &[("run", "client")]),
    ("ops/monitor", &[("type", "monitoring")]),
    ("kube-system/dns", &[("k8s-app", "kube-dns")]),
];

/// An address that no pod has.
const INTERNET: &str = "203.0.113.9";

/// Who reaches whom in a recipe: sources that reach, sources that do not, destination, traffic.
/// `*` stands for every pod that is not named in the other list.
type Claim = (&'static [&'static str], &'static [&'static str], &'static str, &'static str);

const EVERYBODY: &[&str] = &["*", INTERNET];
const NOBODY: &[&str] = &[];

/// Recipe, claims.
const STORIES: [(&str, &[Claim]); 15] = [
    (
        "01-deny-all-traffic-to-an-application",
        &[
            (NOBODY, EVERYBODY, "default/web", "TCP/80"),
            (NOBODY, EVERYBODY, "default/web", "ICMP"),
            (EVERYBODY, NOBODY, "default/foo", "TCP/80"),
        ],
    ),
    (
        "02-limit-traffic-to-an-application",
        &[
            (
                &["default/frontend", "default/search", "default/db"],
                &["*", "other/bookstore", INTERNET],
                "default/api",
                "TCP/80",
            ),
            (EVERYBODY, NOBODY, "default/frontend", "TCP/80"),
        ],
    ),
    (
        "02a-allow-all-traffic-to-an-application",
        &[
            (EVERYBODY, NOBODY, "default/web", "TCP/80"),
            (EVERYBODY, NOBODY, "default/web", "SCTP/1"),
        ],
    ),
    (
        "03-deny-all-non-whitelisted-traffic-in-the-namespace",
        &[
            (NOBODY, EVERYBODY, "default/web", "TCP/80"),
            (NOBODY, EVERYBODY, "default/foo", "UDP/53"),
            (EVERYBODY, NOBODY, "other/client", "TCP/80"),
        ],
    ),
    (
        "04-deny-traffic-from-other-namespaces",
        &[
            (
                &["*"],
                &[
                    "other/client",
                    "other/bookstore",
                    "dev/client",
                    "prod/client",
                    "ops/client",
                    "ops/monitor",
                    "kube-system/dns",
                    INTERNET,
                ],
                "default/web",
                "TCP/80",
            ),
            (EVERYBODY, NOBODY, "other/client", "TCP/80"),
        ],
    ),
    ("05-allow-traffic-from-all-namespaces", &[(&["*"], &[INTERNET], "default/web", "TCP/80")]),
    (
        "06-allow-traffic-from-a-namespace",
        &[
            (&["prod/client"], &["*", "dev/client", INTERNET], "default/web", "TCP/80"),
            (EVERYBODY, NOBODY, "default/foo", "TCP/80"),
        ],
    ),
    (
        "07-allow-traffic-from-some-pods-in-another-namespace",
        &[(
            &["ops/monitor"],
            &["*", "ops/client", "dev/client", "default/monitor", INTERNET],
            "default/web",
            "TCP/80",
        )],
    ),
    ("08-allow-external-traffic", &[(EVERYBODY, NOBODY, "default/web", "TCP/80")]),
    (
        "09-allow-traffic-only-to-a-port",
        &[
            (
                &["default/monitor"],
                &["*", "ops/monitor", INTERNET],
                "default/apiserver",
                "TCP/5000",
            ),
            (NOBODY, EVERYBODY, "default/apiserver", "TCP/8000"),
            (NOBODY, EVERYBODY, "default/apiserver", "UDP/5000"),
        ],
    ),
    (
        "10-allowing-traffic-with-multiple-selectors",
        &[(
            &["default/search", "default/api", "default/inventory"],
            &["*", "default/frontend", "other/bookstore", INTERNET],
            "default/db",
            "TCP/6379",
        )],
    ),
    (
        "11-deny-egress-traffic-from-an-application-2",
        &[
            (&["*", INTERNET], &["default/foo"], "default/web", "TCP/80"),
            (EVERYBODY, NOBODY, "kube-system/dns", "UDP/53"),
            (EVERYBODY, NOBODY, "kube-system/dns", "TCP/53"),
            (&["*", INTERNET], &["default/foo"], "kube-system/dns", "TCP/80"),
            (&["*"], &["default/foo"], INTERNET, "UDP/53"),
        ],
    ),
    (
        "11-deny-egress-traffic-from-an-application",
        &[
            (&["*", INTERNET], &["default/foo"], "default/web", "TCP/80"),
            (&["*", INTERNET], &["default/foo"], "kube-system/dns", "UDP/53"),
            (&["*"], &["default/foo"], INTERNET, "TCP/80"),
            (EVERYBODY, NOBODY, "default/foo", "TCP/80"),
        ],
    ),
    (
        "12-deny-all-non-whitelisted-traffic-from-the-namespace",
        &[
            (
                &[
                    "other/client",
                    "other/bookstore",
                    "dev/client",
                    "prod/client",
                    "ops/client",
                    "ops/monitor",
                    "kube-system/dns",
                    INTERNET,
                ],
                &["*"],
                "default/web",
                "TCP/80",
            ),
            (&["other/client"], &["default/web", "default/foo"], INTERNET, "TCP/443"),
        ],
    ),
    (
        "14-deny-external-egress-traffic",
        &[
            (EVERYBODY, NOBODY, "kube-system/dns", "UDP/53"),
            (&["*"], &["default/foo"], INTERNET, "TCP/80"),
            (&["*", INTERNET], &["default/foo"], "default/web", "TCP/80"),
        ],
    ),
];

fn recipes() -> Option<PathBuf> {
    let given = std::env::var_os("WEIR_VECTORS").map(PathBuf::from);
    let path = given
        .clone()
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors"));
    let path = path.join("recipes");
    if path.is_dir() {
        return Some(path);
    }
    assert!(given.is_none(), "WEIR_VECTORS is set, but {} is no directory", path.display());
    // Past the capture of the test harness: a test that did not run must not look like one that did.
    let _ =
        writeln!(std::io::stderr(), "SKIPPED: no recipes at {} (set WEIR_VECTORS)", path.display());
    None
}

fn labels(pairs: &[(&str, &str)]) -> serde_json::Value {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect()
}

/// The namespaces and pods of the stories and each pod's address.
fn world() -> (Loaded, BTreeMap<&'static str, IpAddr>) {
    let namespaces = NAMESPACES.map(|(name, pairs)| {
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels(pairs)}})
    });
    let mut addresses = BTreeMap::from([(INTERNET, INTERNET.parse().unwrap())]);
    let mut items = namespaces.to_vec();
    for (number, (key, pairs)) in (1u8..).zip(PODS) {
        let (namespace, name) = key.split_once('/').unwrap();
        let address = IpAddr::from([10, 0, 0, number]);
        addresses.insert(key, address);
        items.push(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "labels": labels(pairs)},
            "status": {"phase": "Running", "podIP": address.to_string()},
        }));
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    let loaded = load("world", list.to_string().as_bytes()).unwrap();
    assert!(loaded.complaints.is_empty(), "{:?}", loaded.complaints);
    (loaded, addresses)
}

/// Every source of a claim and whether it is to reach the destination.
fn expand(claim: &Claim) -> Vec<(&'static str, bool)> {
    let (reach, fail, to, _) = *claim;
    let star = [reach, fail].map(|list| list.contains(&"*"));
    assert!(star != [true, true], "{claim:?} says two things of the others");
    let named: Vec<&str> = [reach, fail].concat().into_iter().filter(|name| *name != "*").collect();
    let mut all: Vec<(&str, bool)> =
        named.iter().map(|name| (*name, reach.contains(name))).collect();
    if star != [false, false] {
        let others = PODS.iter().map(|(key, _)| *key);
        all.extend(others.filter(|key| !named.contains(key)).map(|key| (key, star[0])));
    }
    // A pod reaches itself whatever policies say.
    all.retain(|(from, _)| *from != to);
    all
}

#[test]
fn every_recipe_does_what_it_says() {
    let Some(folder) = recipes() else { return };
    let mut files: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    files.sort();
    let told: Vec<&str> = STORIES.iter().map(|(name, _)| *name).collect();
    let mut expected = told.clone();
    expected.sort_unstable();
    assert_eq!(files, expected, "each recipe has its story here, and each story its recipe");
    let mut asked = 0;
    for (name, claims) in STORIES {
        let path = folder.join(format!("{name}.yaml"));
        let (mut all, addresses) = world();
        let recipe = load(name, &fs::read(&path).unwrap()).unwrap();
        assert!(recipe.complaints.is_empty(), "{name}: {:?}", recipe.complaints);
        assert!(recipe.skipped.is_empty(), "{name}: {:?}", recipe.skipped);
        assert_eq!(recipe.objects.len(), 1, "{name}");
        all.merge(recipe);
        let offline = Offline::of(Index::of(all.objects)).unwrap();
        for claim in claims {
            let (_, _, to, text) = claim;
            let traffic = match text.split_once('/') {
                Some((protocol, port)) => {
                    Traffic::Port(Protocol::from_api(protocol).unwrap(), port.parse().unwrap())
                }
                None => Traffic::Icmp,
            };
            let (protocol, dport) = match traffic {
                Traffic::Port(protocol, port) => (protocol.number(), port),
                _ => (1, 0),
            };
            let sources = expand(claim);
            assert!(!sources.is_empty(), "{name}: {claim:?}");
            for (from, expect) in sources {
                let (src, dst) = (addresses[from], addresses[to]);
                let connection = Connection {
                    src: Address::from(src),
                    dst: Address::from(dst),
                    protocol,
                    dport,
                };
                let what = format!("{name}: {from} → {to} {text}");
                let judgement = offline.classifier.evaluate(&connection);
                assert_eq!(judgement.is_allowed(), expect, "table: {what}");
                let (egress, ingress) = oracle::judge(&offline.index, src, dst, traffic);
                assert_eq!(egress.is_allowed() && ingress.is_allowed(), expect, "oracle: {what}");
                asked += 1;
            }
        }
    }
    println!("{} recipes, {asked} connections", STORIES.len());
}
