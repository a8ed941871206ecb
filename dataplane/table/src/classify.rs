//! The one evaluation function.
//!
//! Workers, `weir eval` and `weir explain` all ask [`Classifier::evaluate`], so
//! that what is explained is what is enforced. It joins the two halves of a
//! generation: the sealed [`PolicyTable`] and the live [`AddressMap`].
//!
//! A connection has to be allowed twice: by the egress program of its source and
//! by the ingress program of its destination. An end that no policy selects has
//! the program that allows everything.
//!
//! A Service's address is no end of anything: a translation will put a backend's in
//! its place. So a connection to one is judged by what the source's policies say of
//! the backends, see [`Reach`].

use crate::{
    addr::Address,
    addrmap::AddressMap,
    mem::Words,
    policy::{ClassId, PolicyTable, ProgramId, Service, Verdict},
};

/// A connection as its initiator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Connection {
    /// Who opened it.
    pub src: Address,
    /// To whom.
    pub dst: Address,
    /// IANA protocol number.
    pub protocol: u8,
    /// Destination port in host order; 0 for ICMP and protocols without ports.
    pub dport: u16,
}

/// What both ends' policies say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The source's policies.
    pub egress: Verdict,
    /// The destination's policies.
    pub ingress: Verdict,
}

impl Judgement {
    /// No policy is concerned.
    pub const UNRESTRICTED: Judgement =
        Judgement { egress: Verdict::ALLOW_UNRESTRICTED, ingress: Verdict::ALLOW_UNRESTRICTED };
    /// A class that the generation does not know.
    pub const BAD_CLASS: Judgement =
        Judgement { egress: Verdict::DENY_BAD_CLASS, ingress: Verdict::DENY_BAD_CLASS };

    /// Whether the connection may be: both ends must allow it.
    #[inline]
    pub const fn is_allowed(self) -> bool {
        self.egress.is_allow() && self.ingress.is_allow()
    }
}

/// What becomes of a connection to a Service at the hook where it leaves its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It may be, whichever backend it gets.
    Allow,
    /// It may not be: the source may reach no backend, or some that it may not could be on
    /// another node, where nobody of this node sees which one the connection got.
    Deny,
    /// The hook of the backend decides: each that the source may not reach, or perhaps may not,
    /// is on this node.
    Later,
}

/// What the source's policies say of a Service's backends, in kinds: backends of one class at
/// one port have one verdict.
///
/// - A Service without backends is denied: there is nothing that a policy could allow.
/// - A pod always reaches itself. Where its own class, on this node, is denied, one of those
///   backends may be the source, which its own hook will know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Kinds of backends that the source may reach.
    pub allowed: usize,
    /// Kinds that it may not, all of whose backends are on this node.
    pub denied_here: usize,
    /// Kinds that it may not, of which some are or may be elsewhere.
    pub denied_elsewhere: usize,
    /// What follows.
    pub ruling: Ruling,
    /// The same as a verdict: for [`Ruling::Deny`] one that denies, else one that allows. It
    /// names the rule of the first kind that has such a verdict.
    pub verdict: Verdict,
}

/// What a cluster says of a connection, whoever has to say it: to a Service, its backends too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// Both ends' policies. Of a Service the ingress half is that of the first kind of backends
    /// that both ends allow, else of the first that the source may reach, else of the first.
    pub judgement: Judgement,
    /// Whose ingress policies those are.
    pub receiver: ClassId,
    /// Set if the connection goes to a Service: what its source's policies say.
    pub reach: Option<Reach>,
    /// How many kinds of its backends both ends allow.
    pub reached: usize,
}

/// The two halves do not belong together.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the policy table is generation {table} but the address map is generation {addresses}; \
     both must be published together"
)]
pub struct GenerationMismatch {
    /// The table's generation.
    pub table: u64,
    /// The address map's generation.
    pub addresses: u64,
}

/// One generation, ready to judge; generic over where its memory lives.
#[derive(Debug)]
pub struct Classifier<B, W> {
    table: PolicyTable<B>,
    addresses: AddressMap<W>,
}

/// A classifier on mapped memory, as the dataplane holds it.
#[cfg(not(loom))]
pub type MappedClassifier = Classifier<crate::mem::Mapping, crate::mem::SharedWords>;

impl<B: AsRef<[u8]>, W: Words> Classifier<B, W> {
    /// Joins a table with its address map.
    ///
    /// # Errors
    /// [`GenerationMismatch`]: class numbers mean one generation only.
    pub fn new(
        table: PolicyTable<B>,
        addresses: AddressMap<W>,
    ) -> Result<Classifier<B, W>, GenerationMismatch> {
        if table.generation() == addresses.generation() {
            Ok(Classifier { table, addresses })
        } else {
            Err(GenerationMismatch { table: table.generation(), addresses: addresses.generation() })
        }
    }

    /// The policy table.
    pub fn table(&self) -> &PolicyTable<B> {
        &self.table
    }

    /// The address map.
    pub fn addresses(&self) -> &AddressMap<W> {
        &self.addresses
    }

    /// The generation.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.table.generation()
    }

    /// A value that differs after every change of policy or of an address: the
    /// generation's lower 32 bits above, a counter of changes below. The counter
    /// begins at a random value, so that a generation number that is used again
    /// after a restart does not revive old verdicts.
    ///
    /// Load it *before* the evaluation that it is to stamp: then a change that
    /// happens in between leaves the stamp stale, never the verdict.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // the lower halves are meant
    pub fn stamp(&self) -> u64 {
        let changes = self.addresses.epoch().wrapping_add(self.addresses.seed()) as u32;
        self.generation() << 32 | u64::from(changes)
    }

    /// The class of any address: a pod's by the map, any other's by its prefix.
    #[inline]
    pub fn class_of(&self, address: Address) -> ClassId {
        match self.addresses.lookup(address) {
            Some(class) => class,
            None => self.table.class_of_prefix(address),
        }
    }

    /// Whether the address belongs to a pod of the cluster.
    #[inline]
    pub fn is_pod(&self, address: Address) -> bool {
        self.addresses.lookup(address).is_some()
    }

    /// Judges a connection by both ends' policies.
    ///
    /// A pod always reaches itself (Kubernetes API, NetworkPolicySpec: traffic
    /// within a pod is outside of policy). A class that the table does not know
    /// denies in both directions, see [`Judgement::BAD_CLASS`]. To a Service the
    /// egress half is [`Reach::verdict`]; the ingress half, which is the backend's to
    /// say, is that of the address, as if nobody had it.
    #[inline]
    pub fn evaluate(&self, connection: &Connection) -> Judgement {
        self.evaluate_to(connection, connection.dst)
    }

    /// [`Classifier::evaluate`] for a destination that is an address of this node, if there is a
    /// Service: under that address, or behind a port of every address of the node.
    pub fn evaluate_to_node(&self, connection: &Connection) -> Option<Judgement> {
        let &Connection { dst, protocol, dport, .. } = connection;
        let offered = [dst, any_of_node(dst)];
        let is_offered = |at: &&Address| self.table.service(**at, protocol, dport).is_some();
        Some(self.evaluate_to(connection, *offered.iter().find(is_offered)?))
    }

    /// Judges a connection; if it goes to a Service, then to the one that is known under the
    /// address `offered`.
    #[inline]
    fn evaluate_to(&self, connection: &Connection, offered: Address) -> Judgement {
        let &Connection { src, dst, protocol, dport } = connection;
        if src == dst {
            return Judgement::UNRESTRICTED;
        }
        let owner = self.addresses.lookup(dst);
        let from = self.class_of(src);
        let to = owner.unwrap_or_else(|| self.table.class_of_prefix(dst));
        match (self.table.programs(from), self.table.programs(to)) {
            (Some((_, egress)), Some((ingress, _))) => Judgement {
                egress: match owner {
                    None if egress != ProgramId::UNRESTRICTED && self.table.has_services() => {
                        self.egress_to(egress, (from, to), offered, (protocol, dport))
                    }
                    _ => self.table.judge(egress, to, protocol, dport),
                },
                ingress: self.table.judge(ingress, from, protocol, dport),
            },
            _ => Judgement::BAD_CLASS,
        }
    }

    /// The egress half to an address of no pod, which may be a Service's.
    #[cold]
    #[inline(never)]
    fn egress_to(
        &self,
        program: ProgramId,
        (from, to): (ClassId, ClassId),
        offered: Address,
        (protocol, dport): (u8, u16),
    ) -> Verdict {
        match self.table.service(offered, protocol, dport) {
            Some(service) => reach(&self.table, (program, from), protocol, service).verdict,
            None => self.table.judge(program, to, protocol, dport),
        }
    }

    /// What the source's policies say of the backends, if the connection goes to a Service
    /// that the table knows. `None` as well if a class is unknown.
    ///
    /// Also where no policy restricts the source, so that whoever explains a verdict can name
    /// the backends.
    pub fn reach(&self, connection: &Connection) -> Option<Reach> {
        let service = self.service_of(connection)?;
        let from = self.class_of(connection.src);
        let (_, egress) = self.table.programs(from)?;
        Some(reach(&self.table, (egress, from), connection.protocol, service))
    }

    /// Judges a connection as [`Classifier::evaluate`] does; to a Service also what the policies of
    /// its backends say, which their own hooks will ask. For people, not for packets.
    pub fn outlook(&self, connection: &Connection) -> Outlook {
        let &Connection { src, dst, protocol, .. } = connection;
        let judgement = self.evaluate(connection);
        let mut outlook =
            Outlook { judgement, receiver: self.class_of(dst), reach: None, reached: 0 };
        if !self.table.has_services() {
            return outlook;
        }
        let from = self.class_of(src);
        let (Some(service), Some((_, egress))) =
            (self.service_of(connection), self.table.programs(from))
        else {
            return outlook;
        };
        outlook.reach = Some(reach(&self.table, (egress, from), protocol, service));
        let mut best = 0;
        for backend in self.table.backends(service) {
            let Some((ingress, _)) = self.table.programs(backend.class) else { continue };
            let ingress = self.table.judge(ingress, from, protocol, backend.port);
            let egress = self.table.judge(egress, backend.class, protocol, backend.port);
            let both = egress.is_allow() && ingress.is_allow();
            outlook.reached += usize::from(both);
            let rank = 1 + u8::from(egress.is_allow()) + u8::from(both);
            if rank > best {
                best = rank;
                (outlook.judgement.ingress, outlook.receiver) = (ingress, backend.class);
            }
        }
        outlook
    }

    /// The Service that a connection goes to. A pod's address is the pod's, whoever claims it.
    pub fn service_of(&self, connection: &Connection) -> Option<Service> {
        let &Connection { src, dst, protocol, dport } = connection;
        if src == dst || self.is_pod(dst) {
            return None;
        }
        self.table.service(dst, protocol, dport)
    }
}

/// The address under which a table has what every address of this node offers.
const fn any_of_node(address: Address) -> Address {
    if address.is_v4() { Address::v4([0; 4]) } else { Address::v6([0; 16]) }
}

/// What an egress program, of a source of class `from`, says of a Service's backends.
pub(crate) fn reach<B: AsRef<[u8]>>(
    table: &PolicyTable<B>,
    (program, from): (ProgramId, ClassId),
    protocol: u8,
    service: Service,
) -> Reach {
    let (mut allowed, mut denied_here, mut denied_elsewhere) = (0, 0, 0);
    let (mut allows, mut denies) = (None, Verdict::DENY_ISOLATED);
    let mut is_perhaps_itself = false;
    for backend in table.backends(service) {
        let verdict = table.judge(program, backend.class, protocol, backend.port);
        if verdict.is_allow() {
            allowed += 1;
            allows = allows.or(Some(verdict));
            continue;
        }
        if denied_here + denied_elsewhere == 0 {
            denies = verdict;
        }
        if backend.elsewhere {
            denied_elsewhere += 1;
        } else {
            denied_here += 1;
            is_perhaps_itself |= backend.class == from;
        }
    }
    let (ruling, verdict) = match (allows, denied_here + denied_elsewhere) {
        (Some(verdict), 0) => (Ruling::Allow, verdict),
        _ if denied_elsewhere > 0 => (Ruling::Deny, denies),
        (Some(verdict), _) => (Ruling::Later, verdict),
        (None, _) if is_perhaps_itself => (Ruling::Later, Verdict::ALLOW_UNRESTRICTED),
        (None, _) => (Ruling::Deny, denies),
    };
    Reach { allowed, denied_here, denied_elsewhere, ruling, verdict }
}

/// The generation (its lower 32 bits) of a stamp of [`Classifier::stamp`].
#[inline]
#[allow(clippy::cast_possible_truncation)] // the upper half fits by its shift
pub const fn stamp_generation(stamp: u64) -> u32 {
    (stamp >> 32) as u32
}

#[cfg(all(test, not(loom)))]
mod tests;
