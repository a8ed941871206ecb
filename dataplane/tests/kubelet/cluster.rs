//! An API server on the node, with what the folder of manifests has, and Weir's daemons that follow
//! it as a DaemonSet's would: over HTTPS, with a token that may do no more than it must.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use weir_apiserver::{ApiServer, Binder, Holder, Kind, Settings, rules_of};

use crate::kubelet::Kubelet;
use crate::lab::Lab;
use crate::weir::Weir;

/// How long the daemons may take for anything: a machine that makes pods is busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same port again after it was away: of a node that has nobody else.
const ADDRESS: &str = "127.0.0.1:6443";
const TOKEN: &str = "control";
/// What weir-control may do, as it is installed. Whatever else it asks for is refused, and fails
/// the test.
const RIGHTS: &str = include_str!("../../../deploy/kustomize/base/rbac.yaml");

fn kubeconfig(lab: &Lab) -> PathBuf {
    lab.dir().join("kubeconfig")
}

/// Starts it. It must outlive those who follow it: whoever asks what no correct client asks
/// fails the test.
pub fn serve(lab: &Lab, folder: &Path) -> ApiServer {
    let door = lab.door("node");
    let binder: Binder = Box::new(move || door.within(|| TcpListener::bind(ADDRESS)));
    let (binder, tls) = (Some(binder), Some(Vec::new()));
    let api = ApiServer::start(Settings { binder, tls, ..Settings::default() }).unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        api.apply_yaml(&fs::read_to_string(entry.unwrap().path()).unwrap()).unwrap();
    }
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "lab"}});
    api.apply(node).unwrap();
    let user = "system:serviceaccount:weir-system:weir";
    api.add_token(TOKEN, Holder::with_rules(user, rules_of(RIGHTS).unwrap()));
    fs::write(kubeconfig(lab), api.kubeconfig(Some(TOKEN))).unwrap();
    api
}

/// Starts the daemons and puts Weir into the chain, as [`crate::site::start`] does.
pub fn start<'a>(lab: &'a Lab, folder: &Path, kubelet: &Kubelet<'_>) -> Weir<'a> {
    let path = kubeconfig(lab).display().to_string();
    let source = ["--source", "kube", "--node", "lab", "--kubeconfig", &path];
    let source = source.map(str::to_owned).to_vec();
    let options = ["--workers", "1"];
    let weir = Weir::start_following(PATIENCE, lab, (folder.to_owned(), source), &options);
    kubelet.weir_cni("install", &["--timeout-ms", "60000"]);
    weir
}

/// The Events on an object: reason and note of each.
pub fn events_on(api: &ApiServer, object: &Value) -> Vec<(String, String)> {
    let metadata = &object["metadata"];
    let is_on = |event: &&Value| {
        let regarding = &event["regarding"];
        regarding["kind"] == object["kind"]
            && ["namespace", "name", "uid"].iter().all(|key| regarding[*key] == metadata[*key])
    };
    let text = |event: &Value, key: &str| event[key].as_str().unwrap().to_owned();
    let events = api.list(Kind::Event);
    events.iter().filter(is_on).map(|event| (text(event, "reason"), text(event, "note"))).collect()
}
