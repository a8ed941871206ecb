//! Pods that come and go while Weir runs.

use crate::lab::Cni;
use crate::node::{example, node};
use crate::probe::By::{Icmp, Tcp};
use crate::probe::{denied, reaches, serve, settle};
use crate::turn;
use crate::weir::Weir;

#[test]
fn pods_come_and_go() {
    let Some(_turn) = turn() else { return };
    let (lab, folder) = node(Cni::Ptp);
    let mut weir = Weir::start(&lab, folder, &["--workers", "1"]);

    let come = |weir: &Weir<'_>, pod: &str| {
        lab.pod(pod);
        weir.place(
            &format!("pod-{pod}.json"),
            &lab.manifest("default/late", pod, &["run=testweb"]),
        );
        serve(&lab, pod);
    };
    come(&weir, "late");
    settle(&mut weir, &lab, "a new pod", &[reaches("curl", "late", Tcp)]);
    weir.apply("deny.yaml", &example("deny-all-for-testweb"));
    let cut =
        [denied("curl", "late", Tcp), denied("curl", "web", Tcp), reaches("node", "late", Tcp)];
    settle(&mut weir, &lab, "a policy selects it", &cut);

    lab.unpod("late");
    weir.remove("pod-late.json");
    settle(
        &mut weir,
        &lab,
        "it is gone",
        &[denied("curl", "web", Tcp), reaches("curl", "kurl", Icmp)],
    );

    // Its successor under the same name, with a new interface and address.
    come(&weir, "later");
    let cut = [denied("curl", "later", Tcp), reaches("node", "later", Tcp)];
    settle(&mut weir, &lab, "a successor, selected from the start", &cut);
    weir.withdraw("deny.yaml");
    let open = [reaches("curl", "later", Tcp), reaches("curl", "web", Tcp)];
    settle(&mut weir, &lab, "the policy is gone", &open);
}
