//! The naive half: a list of flows searched from the front, and a matrix of bits.

use weir_dataplane::shim::Direction;
use weir_table::addr::Address;
use weir_table::counters::Reason;

use super::support::frames::{ACK, FIN, RST, SYN};
use super::support::{self, Matrix, ONE, Service, TWO};

pub type End = (Address, u16);

/// What a packet is, for the model.
#[derive(Debug, Clone, Copy)]
pub struct Packet {
    pub src: End,
    pub dst: End,
    pub protocol: u8,
    pub tcp_flags: u8,
}

#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    any: bool,
    fin: bool,
    rst: bool,
    ack: bool,
}

/// A flow in the model, from the view of who opened it.
#[derive(Debug)]
struct Known {
    client: End,
    server: End,
    protocol: u8,
    /// Devices for which it was judged; 0 = that end is not on this node.
    client_device: u32,
    server_device: u32,
    from_client: Heard,
    from_server: Heard,
    last: u64,
    cut: bool,
    generation: u64,
}

impl Known {
    fn is(&self, p: &Packet) -> bool {
        let ends = (self.client, self.server);
        self.protocol == p.protocol && (ends == (p.src, p.dst) || ends == (p.dst, p.src))
    }

    fn lifetime(&self) -> u64 {
        let handshake = matches!(self.protocol, 6 | 132);
        let answered = self.from_server.any && (!handshake || self.from_client.ack);
        let either = |bit: fn(&Heard) -> bool| bit(&self.from_client) || bit(&self.from_server);
        match self.protocol {
            6 if self.cut => 3600,
            132 if self.cut => 210,
            6 | 132 if either(|h| h.rst) => 10,
            6 | 132 if either(|h| h.fin) => 30,
            6 if answered => 3600,
            6 => 20,
            1 | 58 => 10,
            132 if answered => 210,
            _ if answered || self.cut => 120,
            _ => 30,
        }
    }

    fn hear(&mut self, p: &Packet, now: u64) {
        let heard =
            if p.src == self.client { &mut self.from_client } else { &mut self.from_server };
        heard.any = true;
        heard.rst = p.tcp_flags & RST != 0;
        heard.fin |= p.tcp_flags & FIN != 0;
        heard.ack |= p.tcp_flags & ACK != 0;
        self.last = now;
    }
}

/// The whole of conntrack, policy and endpoints, the naive way.
pub struct Model {
    flows: Vec<Known>,
    pub matrix: Matrix,
    pub generation: u64,
    pub now: u64,
    /// Device and quarantine of pods ONE and TWO; device 0: not on this node.
    pub one: (u32, bool),
    pub two: (u32, bool),
}

pub type Expected = Result<bool, Reason>;

impl Model {
    /// No flows, no policy, pods ONE and TWO behind devices 11 and 12.
    pub fn new() -> Self {
        Self {
            flows: vec![],
            matrix: Matrix::OPEN,
            generation: 1,
            now: 1000,
            one: (11, false),
            two: (12, false),
        }
    }

    pub fn pod(&self, address: Address) -> Option<(u32, bool)> {
        match support::actor_of(address) {
            ONE => Some(self.one),
            TWO => Some(self.two).filter(|&(device, _)| device != 0),
            _ => None,
        }
    }

    fn device(&self, address: Address) -> Result<u32, Reason> {
        match self.pod(address) {
            Some((_, true)) => Err(Reason::Quarantined),
            Some((device, false)) => Ok(device),
            None => Ok(0),
        }
    }

    fn policy(
        &self,
        client: Address,
        server: End,
        protocol: u8,
        egress: bool,
        ingress: bool,
    ) -> Result<(), Reason> {
        let (from, to) = (support::actor_of(client), support::actor_of(server.0));
        let service = Service::of(protocol, server.1);
        if client == server.0 {
            Ok(())
        } else if egress && !self.matrix.may_send(from, to, service) {
            Err(Reason::PolicyEgress)
        } else if ingress && !self.matrix.may_receive(to, from, service) {
            Err(Reason::PolicyIngress)
        } else {
            Ok(())
        }
    }

    /// What every hook checks before it looks at flows.
    fn admit(&self, device: u32, direction: Direction, p: &Packet) -> Result<(), Reason> {
        let pod = [ONE, TWO]
            .into_iter()
            .find(|&pod| self.pod(support::address(pod, false)).is_some_and(|(d, _)| d == device))
            .ok_or(Reason::UnknownInterface)?;
        if self.pod(support::address(pod, false)).unwrap().1 {
            return Err(Reason::Quarantined);
        }
        match direction {
            Direction::FromPod if support::actor_of(p.src.0) != pod => Err(Reason::SpoofedSource),
            Direction::ToPod if support::actor_of(p.dst.0) != pod && !p.dst.0.is_multicast() => {
                Err(Reason::NotEndpoint)
            }
            _ => Ok(()),
        }
    }

    /// Forgets the packet's flow if its time is over; then, for the devices of today,
    /// whether it is this flow at all.
    fn find(&mut self, p: &Packet, src_device: u32, dst_device: u32) -> Option<usize> {
        let at = self.flows.iter().position(|flow| flow.is(p))?;
        let flow = &self.flows[at];
        let (client, server) = if flow.client == p.src && flow.server == p.dst {
            (src_device, dst_device)
        } else {
            (dst_device, src_device)
        };
        // An address that has left its device is another owner's, here or elsewhere.
        let other_pod = |was: u32, is: u32| was != 0 && was != is;
        let foreign = other_pod(flow.client_device, client)
            || other_pod(flow.server_device, server)
            || self.now - flow.last > flow.lifetime();
        (!foreign).then_some(at)
    }

    /// Judges a known flow again if anything changed since; true if it may pass.
    fn bring_up_to_date(&mut self, at: usize, p: &Packet, src: u32, dst: u32) -> bool {
        let flow = &self.flows[at];
        let forward = flow.client == p.src && flow.server == p.dst;
        let (client_device, server_device) = if forward { (src, dst) } else { (dst, src) };
        let devices = (client_device, server_device);
        if flow.generation != self.generation || (flow.client_device, flow.server_device) != devices
        {
            let verdict = self.policy(
                flow.client.0,
                flow.server,
                flow.protocol,
                client_device != 0,
                server_device != 0,
            );
            let generation = self.generation;
            let flow = &mut self.flows[at];
            flow.cut = verdict.is_err();
            flow.generation = generation;
            (flow.client_device, flow.server_device) = devices;
        }
        !self.flows[at].cut
    }

    pub fn cross(&mut self, device: u32, direction: Direction, p: &Packet) -> Expected {
        self.admit(device, direction, p)?;
        if p.dst.0.is_multicast() {
            let six = !p.dst.0.is_v4();
            let leaving = direction == Direction::FromPod;
            let pod = if self.one.0 == device { ONE } else { TWO };
            let receiver = if leaving { p.dst.0 } else { support::address(pod, six) };
            let end = (receiver, p.dst.1);
            return self.policy(p.src.0, end, p.protocol, leaving, !leaving).map(|()| false);
        }
        let (src, dst) = (self.device(p.src.0)?, self.device(p.dst.0)?);
        let covers = direction == Direction::FromPod && src != 0 && dst != 0;
        let syn = matches!(p.protocol, 6 | 132) && p.tcp_flags & (SYN | ACK) == SYN;
        let known = self.find(p, src, dst).filter(|&at| {
            let flow = &self.flows[at];
            let over = [&flow.from_client, &flow.from_server].iter().any(|h| h.fin || h.rst);
            !(syn && (over || flow.client != p.src))
        });
        if let Some(at) = known {
            let allowed = self.bring_up_to_date(at, p, src, dst);
            let now = self.now;
            self.flows[at].hear(p, now);
            return if allowed { Ok(covers) } else { Err(Reason::FlowCut) };
        }
        if self.find(p, src, dst).is_none() {
            self.flows.retain(|flow| !flow.is(p));
        }
        self.policy(p.src.0, p.dst, p.protocol, src != 0, dst != 0)?;
        if p.tcp_flags & RST == 0 {
            self.flows.retain(|flow| !flow.is(p));
            let mut flow = Known {
                client: p.src,
                server: p.dst,
                protocol: p.protocol,
                client_device: src,
                server_device: dst,
                from_client: Heard::default(),
                from_server: Heard::default(),
                last: self.now,
                cut: false,
                generation: self.generation,
            };
            flow.hear(p, self.now);
            self.flows.push(flow);
        }
        Ok(covers)
    }

    /// An ICMP error from `router` about the packet `about`.
    pub fn cross_error(
        &mut self,
        device: u32,
        direction: Direction,
        router: Address,
        about: &Packet,
    ) -> Expected {
        let outer = Packet { src: (router, 0), dst: (about.src.0, 0), protocol: 0, tcp_flags: 0 };
        self.admit(device, direction, &outer)?;
        if direction == Direction::FromPod
            && support::actor_of(about.dst.0) != support::actor_of(router)
        {
            return Err(Reason::IcmpUnrelated);
        }
        let back = Packet { src: about.dst, dst: about.src, ..*about };
        let (src, dst) = (self.device(back.src.0)?, self.device(back.dst.0)?);
        let at = self.find(&back, src, dst).ok_or(Reason::IcmpUnrelated)?;
        let flow = &self.flows[at];
        let sent = if flow.client == about.src { flow.from_client } else { flow.from_server };
        if !sent.any {
            return Err(Reason::IcmpUnrelated);
        }
        if !self.bring_up_to_date(at, &back, src, dst) {
            return Err(Reason::IcmpUnrelated);
        }
        Ok(direction == Direction::FromPod && src != 0 && dst != 0)
    }
}
