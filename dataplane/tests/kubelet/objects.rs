//! Where the Pod objects are that a kubelet is given and reports to: in a folder of manifests that
//! stands for the API server, or in the API server of the tests, over whose connections
//! weir-control hears of them.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use weir_apiserver::{ApiServer, Key, Kind};

/// A Pod object.
#[derive(Clone, Debug)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// `key=value`
    pub labels: Vec<String>,
    /// Ports of the node that lead to ports of the pod, by TCP.
    pub host_ports: Vec<(u16, u16)>,
}

impl Pod {
    fn key(&self) -> Key {
        Key::new(&self.namespace, &self.name)
    }

    fn file(&self) -> String {
        format!("kubelet-{}-{}.json", self.namespace, self.name)
    }

    fn object(&self, phase: &str, addresses: &[IpAddr]) -> Value {
        let label = |label: &String| {
            let (key, value) = label.split_once('=').unwrap();
            (key.to_owned(), value.into())
        };
        let labels: Map<String, Value> = self.labels.iter().map(label).collect();
        let mut object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": self.namespace, "name": self.name, "uid": self.uid,
                         "labels": labels},
            "spec": {"nodeName": "lab", "containers": [{"name": "main", "image": "lab"}]},
            "status": {"phase": phase},
        });
        if let Some(first) = addresses.first() {
            let ips: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
            object["status"]["podIP"] = json!(first);
            object["status"]["podIPs"] = ips.into();
        }
        object
    }
}

/// Where they are.
pub enum Objects<'a> {
    /// A file each.
    Folder(PathBuf),
    /// With whoever follows it.
    Api(&'a ApiServer),
}

impl Objects<'_> {
    /// Makes or renews one.
    pub fn put(&self, pod: &Pod, phase: &str, addresses: &[IpAddr]) {
        self.place(pod, pod.object(phase, addresses));
    }

    /// Somebody wants it gone; it has these addresses.
    pub fn terminate(&self, pod: &Pod, addresses: &[IpAddr]) {
        match self {
            Objects::Folder(_) => {
                let mut object = pod.object("Running", addresses);
                object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
                object["metadata"]["deletionGracePeriodSeconds"] = 30.into();
                self.place(pod, object);
            }
            Objects::Api(api) => _ = api.terminate(&pod.key()).unwrap(),
        }
    }

    /// It is gone.
    pub fn remove(&self, pod: &Pod) {
        match self {
            Objects::Folder(folder) => fs::remove_file(folder.join(pod.file())).unwrap(),
            Objects::Api(api) => _ = api.delete(Kind::Pod, &pod.key()).unwrap(),
        }
    }

    fn place(&self, pod: &Pod, object: Value) {
        match self {
            Objects::Folder(folder) => {
                // Several threads write, each its own pods.
                let aside = folder.join(format!(".{}", pod.file()));
                fs::write(&aside, object.to_string()).unwrap();
                fs::rename(aside, folder.join(pod.file())).unwrap();
            }
            Objects::Api(api) => _ = api.apply(object).unwrap(),
        }
    }
}
