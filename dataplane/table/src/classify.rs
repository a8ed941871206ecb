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
mod tests {
    use super::*;
    use crate::{
        addrmap::AddressMapWriter,
        mem::SharedWords,
        policy::{
            Backend, ClassInfo, PolicyImage, PolicyInfo, PolicyKind, Program, ProgramId, RuleId,
            RuleInfo, ServiceInfo, Span, encode,
        },
    };

    type Heap = std::sync::Arc<SharedWords>;

    const OUTSIDE: u32 = 0;
    const WEB: u32 = 1;
    const CLIENT: u32 = 2;
    const LOCKED: u32 = 3;

    /// Web takes TCP 80 from clients; Locked may send nowhere but by UDP 53.
    fn image() -> PolicyImage {
        let spans = |row| vec![Span { first: 0, row }];
        let uniform = |row| Program {
            isolating: vec![],
            tcp: spans(row),
            udp: spans(row),
            sctp: spans(row),
            icmp: row,
            other: row,
        };
        let deny = Verdict::DENY_ISOLATED;
        let path = |p: &str| p.to_owned();
        let policy = |name: &str| PolicyInfo { kind: PolicyKind::NetworkPolicy, name: name.into() };
        PolicyImage {
            generation: 4,
            policies: vec![policy("shop/web"), policy("shop/locked")],
            rules: vec![
                RuleInfo { policy: 0, path: path("spec.ingress[0].from[0]") },
                RuleInfo { policy: 1, path: path("spec.egress[0]") },
            ],
            classes: vec![
                ClassInfo::UNRESTRICTED,
                ClassInfo { ingress: ProgramId(1), egress: ProgramId::UNRESTRICTED },
                ClassInfo::UNRESTRICTED,
                ClassInfo { ingress: ProgramId::UNRESTRICTED, egress: ProgramId(2) },
            ],
            prefixes: vec![
                ("0.0.0.0/0".parse().unwrap(), OUTSIDE),
                ("::/0".parse().unwrap(), OUTSIDE),
            ],
            programs: vec![
                uniform(0),
                Program {
                    isolating: vec![0],
                    tcp: vec![
                        Span { first: 0, row: 1 },
                        Span { first: 80, row: 2 },
                        Span { first: 81, row: 1 },
                    ],
                    icmp: 2,
                    ..uniform(1)
                },
                Program {
                    isolating: vec![1],
                    udp: vec![
                        Span { first: 0, row: 1 },
                        Span { first: 53, row: 3 },
                        Span { first: 54, row: 1 },
                    ],
                    icmp: 3,
                    ..uniform(1)
                },
            ],
            rows: vec![
                vec![Verdict::ALLOW_UNRESTRICTED; 4],
                vec![deny; 4],
                vec![deny, deny, Verdict::allow(RuleId(0)), deny],
                vec![Verdict::allow(RuleId(1)); 4],
            ],
            services: Vec::new(),
        }
    }

    fn ip(text: &str) -> Address {
        text.parse().unwrap()
    }

    fn classifier() -> (Classifier<Vec<u8>, Heap>, AddressMapWriter<Heap>) {
        let table = PolicyTable::from_bytes(encode(&image()).unwrap()).unwrap();
        let words = std::sync::Arc::new(SharedWords::heap(8 + 64 * 4));
        let mut writer = AddressMapWriter::in_words(words.clone(), 4).unwrap();
        for (address, class) in
            [("10.0.0.1", WEB), ("10.0.0.2", CLIENT), ("10.0.0.3", LOCKED), ("fd00::2", CLIENT)]
        {
            writer.insert(ip(address), ClassId(class)).unwrap();
        }
        (Classifier::new(table, AddressMap::open(words).unwrap()).unwrap(), writer)
    }

    #[test]
    fn both_ends_must_allow() {
        let (classifier, _) = classifier();
        let (web, client, locked, out) =
            (ip("10.0.0.1"), ip("10.0.0.2"), ip("10.0.0.3"), ip("192.0.2.1"));
        for (src, dst, protocol, dport, egress, ingress, why) in [
            (client, web, 6, 80, true, true, "the rule"),
            (client, web, 6, 81, true, false, "another port"),
            (client, web, 17, 80, true, false, "another protocol"),
            (client, web, 1, 0, true, true, "ICMP follows any rule for the peer"),
            (client, web, 136, 80, true, false, "UDP-Lite is not UDP"),
            (out, web, 6, 80, true, false, "an outsider"),
            (ip("fd00::2"), web, 6, 80, true, true, "identity, not address family"),
            (web, client, 6, 80, true, true, "nobody selects the client"),
            (web, out, 6, 443, true, true, "no egress policy on web"),
            (web, web, 6, 9999, true, true, "a pod reaches itself"),
            (locked, locked, 6, 9999, true, true, "a pod reaches itself"),
            (locked, client, 6, 53, false, true, "TCP is not allowed out"),
            (locked, client, 17, 53, true, true, "UDP 53 is"),
            (locked, web, 17, 53, true, false, "allowed out, not in"),
            (locked, web, 6, 80, false, false, "denied at both ends"),
        ] {
            let judgement = classifier.evaluate(&Connection { src, dst, protocol, dport });
            assert_eq!(judgement.egress.is_allow(), egress, "{why}: egress");
            assert_eq!(judgement.ingress.is_allow(), ingress, "{why}: ingress");
            assert_eq!(judgement.is_allowed(), egress && ingress, "{why}");
        }
        let by_rule =
            classifier.evaluate(&Connection { src: client, dst: web, protocol: 6, dport: 80 });
        assert_eq!(by_rule.egress, Verdict::ALLOW_UNRESTRICTED);
        assert_eq!(by_rule.ingress.rule(), Some(RuleId(0)));
        assert!(classifier.is_pod(web) && !classifier.is_pod(out));
    }

    /// A Service at 10.96.0.1, UDP; Locked may send to any port 53 and nowhere else.
    fn serving(backends: &[(u32, u16, bool)]) -> Classifier<Vec<u8>, Heap> {
        let kind = |&(class, port, elsewhere)| Backend { class: ClassId(class), port, elsewhere };
        let service = |address: &str, port, protocol| ServiceInfo {
            address: ip(address),
            protocol,
            port,
            backends: backends.iter().map(kind).collect(),
        };
        let services = vec![
            service("10.96.0.1", 9, 17),
            service("0.0.0.0", 30_009, 17),
            // Somebody's externalIP; the pod's it stays.
            service("10.0.0.2", 53, 17),
            service("10.0.0.2", 9, 17),
        ];
        let image = PolicyImage { services, ..image() };
        let (_, writer) = classifier();
        let addresses = writer.into_reader().unwrap();
        Classifier::new(PolicyTable::from_bytes(encode(&image).unwrap()).unwrap(), addresses)
            .unwrap()
    }

    #[test]
    fn a_service_is_judged_on_its_backends() {
        use Ruling::{Allow, Deny, Later};
        let (locked, client) = (ip("10.0.0.3"), ip("10.0.0.2"));
        let to = |src, dst: &str, dport| Connection { src, dst: ip(dst), protocol: 17, dport };
        for (backends, ruling, counts, why) in [
            (&[(CLIENT, 53, true), (OUTSIDE, 53, true)][..], Allow, (2, 0, 0), "all allowed"),
            (&[(CLIENT, 54, false), (WEB, 80, false)], Deny, (0, 2, 0), "none is"),
            (&[(CLIENT, 54, true), (WEB, 80, true)], Deny, (0, 0, 2), "none is"),
            (&[], Deny, (0, 0, 0), "there is none"),
            (&[(CLIENT, 53, true), (WEB, 80, false)], Later, (1, 1, 0), "denied is one here"),
            (&[(CLIENT, 53, false), (WEB, 80, true)], Deny, (1, 0, 1), "denied is one elsewhere"),
            (&[(CLIENT, 53, true), (WEB, 80, false), (WEB, 81, true)], Deny, (1, 1, 1), "both"),
            (&[(LOCKED, 80, false)], Later, (0, 1, 0), "it may be itself"),
            (&[(LOCKED, 80, true)], Deny, (0, 0, 1), "or another elsewhere"),
            (&[(WEB, 80, true), (LOCKED, 80, false)], Deny, (0, 1, 1), "or another elsewhere"),
        ] {
            let sorted: std::collections::BTreeSet<_> = backends.iter().copied().collect();
            let classifier = serving(&sorted.into_iter().collect::<Vec<_>>());
            let connection = to(locked, "10.96.0.1", 9);
            let reach = classifier.reach(&connection).unwrap();
            assert_eq!(reach.ruling, ruling, "{why}");
            let Reach { allowed, denied_here, denied_elsewhere, .. } = reach;
            assert_eq!((allowed, denied_here, denied_elsewhere), counts, "{why}");
            let judgement = classifier.evaluate(&connection);
            assert_eq!(judgement.egress.is_allow(), ruling != Deny, "{why}");
            assert_eq!(judgement.egress, reach.verdict, "{why}");
            assert!(judgement.ingress.is_allow(), "the backend's to say: {why}");
            // The node's own port, and what is not asked of a Service.
            let port = to(locked, "192.0.2.9", 30_009);
            let judged = classifier.evaluate_to_node(&port).map(|j| j.egress.is_allow());
            assert_eq!(judged, Some(ruling != Deny), "{why}");
            assert_eq!(classifier.evaluate_to_node(&to(locked, "192.0.2.9", 9)), None, "{why}");
            assert!(!classifier.evaluate(&port).egress.is_allow(), "another's: an address");
            assert!(!classifier.evaluate(&to(locked, "10.96.0.1", 8)).egress.is_allow(), "{why}");
            assert!(classifier.evaluate(&to(locked, "10.96.0.1", 53)).egress.is_allow(), "{why}");
            assert!(classifier.evaluate(&to(client, "10.96.0.1", 9)).is_allowed(), "free: {why}");
            assert!(classifier.evaluate(&to(locked, "10.0.0.2", 53)).egress.is_allow(), "{why}");
            assert!(!classifier.evaluate(&to(locked, "10.0.0.2", 9)).egress.is_allow(), "{why}");
        }
        // The exact address of a node goes before any of its addresses.
        let classifier = serving(&[(CLIENT, 53, true)]);
        let exact = classifier.evaluate_to_node(&to(locked, "10.96.0.1", 9));
        assert!(exact.unwrap().egress.is_allow());
        let reach = classifier.reach(&to(client, "10.96.0.1", 9)).unwrap();
        assert_eq!((reach.ruling, reach.verdict), (Allow, Verdict::ALLOW_UNRESTRICTED));
        // Web lets nobody in over UDP; all others let in everybody.
        for (backends, kinds, receiver, ingress, reached, why) in [
            (&[(CLIENT, 9, true)][..], 1, CLIENT, true, 1, "let in"),
            (&[(WEB, 9, true)], 1, WEB, false, 0, "not let in"),
            (&[(WEB, 9, true), (CLIENT, 9, true)], 2, CLIENT, true, 1, "by some"),
            (&[], 0, OUTSIDE, true, 0, "there is none"),
        ] {
            let sorted: std::collections::BTreeSet<_> = backends.iter().copied().collect();
            let classifier = serving(&sorted.into_iter().collect::<Vec<_>>());
            let outlook = classifier.outlook(&to(client, "10.96.0.1", 9));
            assert_eq!(outlook.receiver, ClassId(receiver), "{why}");
            assert_eq!(outlook.judgement.ingress.is_allow(), ingress, "{why}");
            assert_eq!(outlook.reached, reached, "{why}");
            let reach = outlook.reach.unwrap();
            assert_eq!(reach.allowed + reach.denied_here + reach.denied_elsewhere, kinds, "{why}");
        }
        let plain = to(client, "10.0.0.1", 9);
        let outlook = classifier.outlook(&plain);
        assert_eq!(outlook.judgement, classifier.evaluate(&plain));
        assert_eq!((outlook.reach, outlook.receiver), (None, ClassId(WEB)));
        assert_eq!(classifier.reach(&to(client, "10.96.0.1", 53)), None);
        let tcp = Connection { protocol: 6, ..to(client, "10.96.0.1", 9) };
        assert_eq!(classifier.reach(&tcp), None);
    }

    #[test]
    fn an_unknown_class_denies_both_ways() {
        let (classifier, mut writer) = classifier();
        writer.insert(ip("10.0.0.9"), ClassId(4)).unwrap();
        for (src, dst) in [("10.0.0.9", "10.0.0.2"), ("10.0.0.2", "10.0.0.9")] {
            let connection = Connection { src: ip(src), dst: ip(dst), protocol: 6, dport: 80 };
            assert_eq!(classifier.evaluate(&connection), Judgement::BAD_CLASS);
        }
    }

    #[test]
    fn a_change_of_an_address_changes_verdict_and_stamp() {
        let (classifier, mut writer) = classifier();
        let connection =
            Connection { src: ip("10.0.0.7"), dst: ip("10.0.0.1"), protocol: 6, dport: 80 };
        assert!(!classifier.evaluate(&connection).is_allowed());
        let mut stamps = vec![classifier.stamp()];
        writer.insert(ip("10.0.0.7"), ClassId(CLIENT)).unwrap();
        assert!(classifier.evaluate(&connection).is_allowed());
        stamps.push(classifier.stamp());
        writer.remove(ip("10.0.0.7"));
        assert!(!classifier.evaluate(&connection).is_allowed());
        stamps.push(classifier.stamp());
        assert!(stamps[0] != stamps[1] && stamps[1] != stamps[2] && stamps[0] != stamps[2]);
        assert!(stamps.iter().all(|&s| stamp_generation(s) == 4));
    }

    #[test]
    fn the_same_generation_number_again_has_another_stamp() {
        // Random 32 bits: a chance of 1 in 4 billion to fail wrongly.
        assert_ne!(classifier().0.stamp(), classifier().0.stamp());
    }

    #[test]
    fn halves_of_two_generations_are_refused() {
        let table = PolicyTable::from_bytes(encode(&image()).unwrap()).unwrap();
        let map = AddressMapWriter::private(5, 1).unwrap().into_reader().unwrap();
        let error = Classifier::new(table, map).unwrap_err();
        assert_eq!(error, GenerationMismatch { table: 4, addresses: 5 });
    }
}
