//! What Weir asks of rtnetlink: the links and addresses of a namespace, and making the
//! punt pair. A thin layer over the `rtnetlink` crate, so that the rest of the daemon
//! sees plain values.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use futures_util::TryStreamExt;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressScope};
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use rtnetlink::{Handle, LinkUnspec, LinkVeth};

use crate::netns::NetNs;

/// One interface of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index in that namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its hardware address, if it has one of the Ethernet kind.
    pub mac: Option<[u8; 6]>,
    /// True for a veth.
    pub veth: bool,
    /// True for a TUN or TAP device.
    pub tun: bool,
    /// True if it is a port of a bridge, a bond or the like.
    pub master: bool,
    /// True for the loopback device.
    pub loopback: bool,
    /// Index of the veth's other end, in the other end's namespace.
    pub peer: Option<u32>,
    /// Where the other end is, as this namespace numbers namespaces; `None` = here.
    pub peer_netns: Option<i32>,
}

/// An address on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkAddress {
    /// Index of the interface.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// True if it is valid beyond its link (not link-local, not of the host only).
    pub global: bool,
}

/// Whether there is a device of that index in the calling thread's namespace. If in doubt there is.
///
/// A dump of many devices comes in pieces, and kernels before 6.9 may leave one out when another is
/// removed between two of them. So what a dump lacks is asked for by itself before it counts as gone.
pub fn has_device(index: u32) -> bool {
    use rustix::io::Errno;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
    let flags = SocketFlags::CLOEXEC;
    let Ok(socket) = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None) else {
        return true;
    };
    !matches!(netdevice::index_to_name_inlined(&socket, index), Err(Errno::NODEV | Errno::NXIO))
}

/// An rtnetlink connection in the namespace in which it was opened.
pub struct Netlink {
    handle: Handle,
}

fn error(what: &str, e: &rtnetlink::Error) -> io::Error {
    match e {
        rtnetlink::Error::NetlinkError(m) => {
            let cause = m.to_io();
            io::Error::new(cause.kind(), format!("{what}: {cause}"))
        }
        other => io::Error::other(format!("{what}: {other}")),
    }
}

impl Netlink {
    /// Opens a connection in the calling thread's namespace; needs a tokio runtime.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Every interface.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub async fn links(&self) -> io::Result<Vec<Link>> {
        let messages: Vec<LinkMessage> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|e| error("cannot list interfaces", &e))?;
        Ok(messages.iter().map(link_of).collect())
    }

    /// The index of an interface by name; `None` if there is none.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub async fn index_of(&self, name: &str) -> io::Result<Option<u32>> {
        Ok(self.links().await?.into_iter().find(|l| l.name == name).map(|l| l.index))
    }

    /// Every address but IPv4-mapped IPv6 ones: those name IPv4 hosts to programs (RFC 4291,
    /// 2.5.5.2) and stand in no packet that a hook or a worker accepts, so to take one for an
    /// address of an interface would give it the IPv4 host's.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub async fn addresses(&self) -> io::Result<Vec<LinkAddress>> {
        let messages: Vec<_> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|e| error("cannot list addresses", &e))?;
        Ok(messages
            .iter()
            .filter_map(|m| {
                let global = m.header.scope == AddressScope::Universe;
                // IFA_LOCAL is the interface's own address where both are present
                // (IFA_ADDRESS then names the far end of a point-to-point link).
                let find = |local: bool| {
                    m.attributes.iter().find_map(|a| match a {
                        AddressAttribute::Local(ip) if local => Some(*ip),
                        AddressAttribute::Address(ip) if !local => Some(*ip),
                        _ => None,
                    })
                };
                let address = find(true).or_else(|| find(false))?;
                if matches!(address, IpAddr::V6(six) if six.to_ipv4_mapped().is_some()) {
                    return None;
                }
                Some(LinkAddress { index: m.header.index, address, global })
            })
            .collect())
    }

    /// The number by which this namespace knows another; `None` if it has none.
    ///
    /// # Errors
    /// When the kernel refuses the question.
    pub async fn netns_id(&mut self, netns: &NetNs) -> io::Result<Option<i32>> {
        let mut question = NsidMessage::default();
        let fd = u32::try_from(netns.as_fd().as_raw_fd()).unwrap_or(u32::MAX);
        question.attributes.push(NsidAttribute::Fd(fd));
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(question));
        message.header.flags = NLM_F_REQUEST;
        let mut answers = self
            .handle
            .request(message)
            .map_err(|e| error("cannot ask for a namespace's number", &e))?;
        use futures_util::StreamExt;
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(m)) => {
                    return Ok(m.attributes.iter().find_map(|a| match a {
                        NsidAttribute::Id(id) if *id >= 0 => Some(*id),
                        _ => None,
                    }));
                }
                NetlinkPayload::Error(e) if e.code.is_some() => return Err(e.to_io()),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Makes a veth pair with `queues` queues at each end; the second end goes into
    /// `netns` at once.
    ///
    /// # Errors
    /// `EEXIST` when the name is taken, `EPERM` without CAP_NET_ADMIN.
    pub async fn add_veth(
        &self,
        name: &str,
        peer: &str,
        netns: &NetNs,
        mtu: u32,
        queues: u32,
    ) -> io::Result<()> {
        let queue_attributes = || {
            [
                LinkAttribute::NumTxQueues(queues),
                LinkAttribute::NumRxQueues(queues),
                LinkAttribute::Mtu(mtu),
            ]
        };
        let mut far = rtnetlink::LinkMessageBuilder::<LinkUnspec>::new()
            .name(peer)
            .setns_by_fd(netns.as_fd().as_raw_fd());
        let mut near = LinkVeth::new(name, peer);
        for attribute in queue_attributes() {
            far = far.append_extra_attribute(attribute.clone());
            near = near.append_extra_attribute(attribute);
        }
        let near = near.set_info_data(InfoData::Veth(InfoVeth::Peer(far.build()))).build();
        self.handle
            .link()
            .add(near)
            .execute()
            .await
            .map_err(|e| error(&format!("cannot make the veth pair {name}/{peer}"), &e))
    }

    /// Sets an interface's MTU, in bytes, and the length of its transmit queues, in frames.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn set_size(&self, index: u32, mtu: u32, queue_length: u32) -> io::Result<()> {
        let message = LinkUnspec::new_with_index(index)
            .mtu(mtu)
            .append_extra_attribute(LinkAttribute::TxQueueLen(queue_length))
            .build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(|e| error("cannot set the punt device's MTU and queue length", &e))
    }

    /// Takes an interface's queueing discipline away, as a veth has none: a frame goes straight
    /// into the driver's ring. (The node's default would queue and drop by rules of its own,
    /// and its drops do not show in the device's statistics.)
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn set_no_queue(&self, index: u32) -> io::Result<()> {
        let mut qdisc = TcMessage::with_index(index.cast_signed());
        qdisc.header.parent = TcHandle::ROOT;
        qdisc.attributes.push(TcAttribute::Kind("noqueue".to_owned()));
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(qdisc));
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let what = "cannot take the punt device's queueing discipline away";
        let mut answers = self.handle.clone().request(message).map_err(|e| error(what, &e))?;
        use futures_util::StreamExt;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(e) = answer.payload
                && e.code.is_some()
            {
                let e = e.to_io();
                return Err(io::Error::new(e.kind(), format!("{what}: {e}")));
            }
        }
        Ok(())
    }

    /// Brings an interface up, without ARP: nothing speaks to it by address.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn set_up_without_arp(&self, index: u32) -> io::Result<()> {
        let message = LinkUnspec::new_with_index(index).arp(false).up().build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(|e| error("cannot bring the punt device up", &e))
    }

    /// Removes an interface (both ends of a veth).
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn delete(&self, index: u32) -> io::Result<()> {
        self.handle
            .link()
            .del(index)
            .execute()
            .await
            .map_err(|e| error("cannot remove the old punt device", &e))
    }
}

fn link_of(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        mac: None,
        veth: false,
        tun: false,
        master: false,
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        peer: None,
        peer_netns: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
            LinkAttribute::Link(peer) => link.peer = Some(*peer),
            LinkAttribute::LinkNetNsId(id) => link.peer_netns = Some(*id),
            LinkAttribute::Controller(_) => link.master = true,
            LinkAttribute::LinkInfo(infos) => {
                link.veth |= infos.iter().any(|i| matches!(i, LinkInfo::Kind(InfoKind::Veth)));
                link.tun |= infos.iter().any(|i| matches!(i, LinkInfo::Kind(InfoKind::Tun)));
            }
            _ => {}
        }
    }
    link
}
