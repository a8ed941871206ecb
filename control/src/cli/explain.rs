//! `weir explain`: why, in words.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use weir_table::classify::{Classifier, Connection};
use weir_table::mem::Words;

use super::{FINDING, OK, Output, read_manifests};
use crate::eval::Offline;
use crate::eval::probe::{End, pair, resolve, traffic};
use crate::explain::{Explanation, explain};
use crate::index::Index;
use crate::live::{self, EndpointRecord, Places};
use crate::model::ObjectKey;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
FROM and TO are namespace/pod or an address. Without -f the table that this node enforces is \
asked, which knows addresses and the network namespaces of its pods.\n\
Exit code: 0 allowed, 1 denied or an object was refused, 2 wrong usage.")]
pub(super) struct Args {
    /// Who opens the connection
    from: String,
    /// To whom
    to: String,
    /// TCP/80, UDP/53, SCTP/9, ICMP
    #[arg(value_name = "PROTO/PORT")]
    traffic: String,
    /// Manifests: a file, a folder, or - for standard input; may be repeated
    #[arg(short = 'f', long = "file", value_name = "PATH")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    places: Places,
    /// Output format
    #[arg(short = 'o', long, value_enum, default_value = "table")]
    output: Output,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    super::eval::parse_traffic(&args.traffic)?;
    let (explanation, refused) = if args.files.is_empty() {
        let classifier = live::generation(&args.places)?.context(format!(
            "no policy table in {}: no dataplane has enforced one here; give manifests with -f",
            args.places.run_dir.display()
        ))?;
        let endpoints = live::endpoints(&args.places)?;
        let ends = (resolve_live(&endpoints, &args.from)?, resolve_live(&endpoints, &args.to)?);
        (explain_with(args, &classifier, None, &ends)?, false)
    } else {
        let input = read_manifests(&args.files)?;
        let offline = Offline::of(input.index)?;
        let end = |text: &str| resolve(&offline.index, text).map_err(anyhow::Error::msg);
        let ends = (end(&args.from)?, end(&args.to)?);
        if pair(ends.0, ends.1).is_err() {
            bail!(
                "{} and {}: no connection is possible between them",
                families(&offline.index, &args.from),
                families(&offline.index, &args.to)
            );
        }
        let explanation = explain_with(args, &offline.classifier, Some(&offline.index), &ends)?;
        (explanation, input.refused)
    };
    match args.output {
        Output::Table => println!("{explanation}"),
        Output::Json => println!("{}", serde_json::to_string(&explanation)?),
    }
    Ok(if explanation.verdict == "allow" && !refused { OK } else { FINDING })
}

fn explain_with<B: AsRef<[u8]>, W: Words>(
    args: &Args,
    classifier: &Classifier<B, W>,
    index: Option<&Index>,
    (from, to): &(End, End),
) -> Result<Explanation> {
    let (src, dst) = pair(*from, *to).map_err(anyhow::Error::msg)?;
    let (name, port) = match args.traffic.split_once('/') {
        Some((name, port)) => (name, port.parse().ok()),
        None => (args.traffic.as_str(), None),
    };
    let (protocol, dport) = traffic(Some(name), port, src.is_v4()).map_err(anyhow::Error::msg)?;
    let connection = Connection { src, dst, protocol, dport };
    Ok(explain(classifier, index, (&args.from, &args.to), &connection))
}

/// `shop/web has only IPv4 addresses`.
fn families(index: &Index, text: &str) -> String {
    let family = |address: &IpAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
    if let Ok(address) = text.parse::<IpAddr>() {
        return format!("{address} is an {} address", family(&address.to_canonical()));
    }
    let key = text.split_once('/').map(|(namespace, name)| ObjectKey::new(namespace, name));
    let pod = key.and_then(|key| index.pod(&key));
    let first = pod.and_then(|pod| pod.addresses.first());
    format!("{text} has only {} addresses", first.map_or("no", family))
}

/// The running node's table knows addresses, its endpoints the names of network namespaces.
fn resolve_live(endpoints: &[EndpointRecord], text: &str) -> Result<End> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(End::of(&[address.to_canonical()]));
    }
    match endpoints.iter().find(|endpoint| endpoint.netns == text) {
        Some(endpoint) => Ok(End::of(&endpoint.addresses)),
        None => bail!(
            "`{text}` is neither an address nor a network namespace of this node; \
             pods' names are known with -f PATH"
        ),
    }
}
