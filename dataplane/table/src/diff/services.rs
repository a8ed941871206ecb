//! Services of which some endpoint of this node gets another verdict.
//!
//! What is compared is what the classifier would say: a pod's address is the pod's, whatever
//! Service claims it; a Service that is not in a table is an address like others there.

use std::collections::BTreeSet;

use super::{
    Moment,
    pairs::{Pair, Pod},
    verdicts::Budget,
};
use crate::{
    addr::Address,
    classify,
    policy::{ClassId, ProgramId},
};

/// The addresses of Services, ascending, for which the verdict of an endpoint of this node differs
/// between two moments. `None` once the budget is exceeded.
pub(super) fn changed<B: AsRef<[u8]>, B2: AsRef<[u8]>>(
    (old, new): (Moment<'_, B>, Moment<'_, B2>),
    pairs: &[Pair],
    pods: &[Pod],
    budget: &mut Budget,
) -> Option<BTreeSet<Address>> {
    let mut named = BTreeSet::new();
    if !old.table.has_services() && !new.table.has_services() {
        return Some(named);
    }
    // Endpoints of one pair have the same verdicts; those that nothing restricts have no others.
    let local: BTreeSet<usize> = pods.iter().filter(|pod| pod.local).map(|pod| pod.pair).collect();
    let sources: Vec<(ClassId, ClassId)> = local
        .into_iter()
        .filter_map(|pair| pairs.get(pair))
        .map(|pair| (pair.old, pair.new))
        .filter(|&(before, after)| {
            egress(&old, before) != Some(ProgramId::UNRESTRICTED)
                || egress(&new, after) != Some(ProgramId::UNRESTRICTED)
        })
        .collect();
    let of_old = old.table.services().map(|(address, protocol, port, _)| (address, protocol, port));
    let of_new = new.table.services().map(|(address, protocol, port, _)| (address, protocol, port));
    let places: BTreeSet<(Address, u8, u16)> = of_old.chain(of_new).collect();
    for (address, protocol, port) in places {
        // A pod's address is compared as such.
        let is_pods = old.addresses.contains(address) && new.addresses.contains(address);
        if is_pods || named.contains(&address) || sources.is_empty() {
            continue;
        }
        let services = (
            old.table.service(address, protocol, port),
            new.table.service(address, protocol, port),
        );
        let kinds = services.0.map_or(0, |service| old.table.backends(service).len())
            + services.1.map_or(0, |service| new.table.backends(service).len());
        if !budget.spend(sources.len() * (kinds + 2) * 8) {
            return None;
        }
        let comes_or_goes = services.0.is_some() != services.1.is_some();
        let differs = |&(before, after): &(ClassId, ClassId)| {
            allows(&old, before, (address, protocol, port))
                != allows(&new, after, (address, protocol, port))
        };
        if (address.is_unspecified() && comes_or_goes) || sources.iter().any(differs) {
            named.insert(address);
        }
    }
    Some(named)
}

fn egress<B: AsRef<[u8]>>(moment: &Moment<'_, B>, class: ClassId) -> Option<ProgramId> {
    moment.table.programs(class).map(|(_, egress)| egress)
}

/// The egress half of a connection of an endpoint of class `from`.
fn allows<B: AsRef<[u8]>>(
    moment: &Moment<'_, B>,
    from: ClassId,
    (address, protocol, port): (Address, u8, u16),
) -> bool {
    let Some(program) = egress(moment, from) else { return false };
    if program == ProgramId::UNRESTRICTED {
        return true;
    }
    let owner = moment.addresses.class_of(address);
    match (owner, moment.table.service(address, protocol, port)) {
        (None, Some(service)) => {
            let verdict = classify::reach(moment.table, (program, from), protocol, service).verdict;
            verdict.is_allow()
        }
        (owner, _) => {
            let to = owner.unwrap_or_else(|| moment.table.class_of_prefix(address));
            moment.table.judge(program, to, protocol, port).is_allow()
        }
    }
}
