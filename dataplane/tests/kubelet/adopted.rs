//! Pods that are older than Weir, and pods that are made once it is out of the chain again.

use std::fs;

use crate::kubelet::Kubelet;
use crate::lab::Cni;
use crate::probe::By::{Tcp, Udp};
use crate::probe::{denied, differences, reaches, settle};
use crate::site::{SOME, end, leases, links, node, run, start, whole};
use crate::turn;
use crate::weir::Weir;

#[test]
fn pods_that_run_already_are_adopted() {
    let Some(_turn) = turn() else { return };
    for cni in [Cni::Bridge, Cni::Ptp] {
        let (lab, folder) = node(cni);
        let kubelet = Kubelet::new(&lab, &folder, &whole(cni));
        let list = fs::read(kubelet.list()).unwrap();
        let before = (links(&lab), leases(&lab));
        // By the chain without Weir, as all pods of a node before Weir is installed.
        let old = run(&lab, &kubelet, "some", SOME);
        kubelet.report(&old);
        let mut weir: Weir<'_> = start(&lab, &folder, &kubelet);
        let enforced = |place: &'static str| {
            [
                reaches(place, "web", Tcp),
                denied(place, "kurl", Udp),
                reaches("curl", place, Tcp),
                denied("kurl", place, Tcp),
            ]
        };
        settle(&mut weir, &lab, "adopted", &enforced("some"));
        // Beside one that Weir has seen from its first instant.
        let new = run(&lab, &kubelet, "new", SOME);
        let found = differences(&lab, &enforced("new"));
        assert!(found.is_empty(), "{cni:?}: {found:#?}\n{}", weir.words());
        settle(&mut weir, &lab, "both", &enforced("some"));
        kubelet.check(&new).unwrap_or_else(|e| panic!("{e:?}\n{}", weir.words()));

        // Their ends: of the old one through a chain that it was not made by, of the new one
        // through one that it was not made by either.
        end(&kubelet, old);
        kubelet.weir_cni("uninstall", &[]);
        assert_eq!(fs::read(kubelet.list()).unwrap(), list, "as it was, to the byte");
        end(&kubelet, new);
        assert_eq!((links(&lab), leases(&lab)), before);
        weir.wait("only the three pods from before", |weir| {
            weir.status()["endpoints"].as_array().is_some_and(|all| all.len() == 3)
        });
    }
}
