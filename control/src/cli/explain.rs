//! `weir explain`: why, in words.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use weir_table::Address;
use weir_table::classify::{Classifier, Connection};
use weir_table::mem::Words;
use weir_table::names::NamesFile;

use super::{FINDING, OK, Output, read_manifests};
use crate::eval::Offline;
use crate::eval::probe::{End, pair, pairs, resolve, traffic};
use crate::explain::{Explanation, explain};
use crate::index::Index;
use crate::live::{self, EndpointRecord, Places};
use crate::model::ObjectKey;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
FROM and TO are namespace/pod or an address. Without -f the table that this node enforces is \
asked; pods' names are then those that weir-control last wrote, and network namespaces of this \
node's pods are names too.\n\
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
        let mut names = NamesFile::new(&args.places.run_dir);
        let end = |text: &str, names: &mut NamesFile| resolve_live(&endpoints, names, text);
        let ends = (end(&args.from, &mut names)?, end(&args.to, &mut names)?);
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
    let first = pair(*from, *to).map_err(anyhow::Error::msg)?;
    let (name, port) = match args.traffic.split_once('/') {
        Some((name, port)) => (name, port.parse().ok()),
        None => (args.traffic.as_str(), None),
    };
    let over = |(src, dst): (Address, Address)| -> Result<Explanation> {
        let (protocol, dport) =
            traffic(Some(name), port, src.is_v4()).map_err(anyhow::Error::msg)?;
        let connection = Connection { src, dst, protocol, dport };
        Ok(explain(classifier, index, (&args.from, &args.to), &connection))
    };
    let explanation = over(first)?;
    Ok(match pairs(*from, *to).nth(1) {
        Some(second) => explanation.beside(&over(second)?),
        None => explanation,
    })
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

/// The running node's table knows addresses, its endpoints the names of network namespaces;
/// control leaves a list of pods' names beside them.
fn resolve_live(endpoints: &[EndpointRecord], names: &mut NamesFile, text: &str) -> Result<End> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(End::of(&[address.to_canonical()]));
    }
    if let Some(endpoint) = endpoints.iter().find(|endpoint| endpoint.netns == text) {
        return Ok(End::of(&endpoint.addresses));
    }
    let addresses: Vec<IpAddr> =
        names.current().addresses(text).into_iter().map(|address| address.to_ip()).collect();
    if addresses.is_empty() {
        bail!(
            "`{text}` is neither an address, nor a pod that weir-control has named here, nor a \
             network namespace of this node; give an address, or manifests with -f PATH"
        );
    }
    Ok(End::of(&addresses))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without manifests a pod's name is looked up in the list that control leaves.
    #[test]
    fn pods_of_the_running_node_are_found_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = EndpointRecord {
            ifindex: 7,
            device: "veth1".into(),
            netns: "cni-1".into(),
            addresses: vec!["10.0.0.9".parse().unwrap()],
            ignored: vec![],
            quarantined: false,
            attached: true,
            pod: None,
            placed: false,
            held: false,
        };
        let mut names = NamesFile::new(dir.path());
        let mut find = |text| resolve_live(std::slice::from_ref(&endpoint), &mut names, text);
        assert!(find("shop/web").unwrap_err().to_string().contains("-f PATH"));
        let list = "weir-names 1\nfd00::1 shop/web\n10.0.0.1 shop/web\n10.0.0.2 shop/db\n";
        weir_table::names::save(dir.path(), list).unwrap();
        let of = |addresses: [&str; 2]| End::of(&addresses.map(|text| text.parse().unwrap()));
        assert_eq!(find("shop/web").unwrap(), of(["10.0.0.1", "fd00::1"]));
        assert_eq!(find("cni-1").unwrap(), End::of(&["10.0.0.9".parse().unwrap()]));
        assert_eq!(find("192.0.2.1").unwrap(), End::of(&["192.0.2.1".parse().unwrap()]));
        assert!(find("shop/we").is_err());
    }
}
