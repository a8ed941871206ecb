//! Services: addresses at which a translation puts a backend's in place of the destination's.
//!
//! A packet to a Service's address is judged where it leaves its pod, before anybody knows which
//! backend it will get. So the table lists for each address, protocol and port what backends there
//! are. Only their *kinds* are listed: backends of one class at one port have one verdict, and pods
//! that come and go behind a Service change nothing here.
//!
//! Invariants, checked once when a table is read:
//! - Services ascend by address, then protocol and port, so that a lookup is a binary search;
//! - protocols are TCP, UDP and SCTP; no port is 0; every class exists;
//! - kinds ascend by class, then port; lists follow one another without a gap, a Service
//!   may share another's, and the empty list is written in one way.

use rustc_hash::FxHashMap;

use super::{
    decode::{Checker, DecodeError},
    encode::{EncodeError, Sections, index, known},
    image::{Backend, ClassId, PolicyImage},
    layout::{Section, u32_at, u128_at},
    table::{PolicyTable, SCTP, TCP, UDP, last_at_most},
};
use crate::addr::Address;

/// In a backend's second word: [`Backend::elsewhere`].
const ELSEWHERE: u32 = 1 << 16;

/// A Service of a table: where its backends stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    first: u32,
    count: u32,
}

fn key(protocol: u8, port: u16) -> u32 {
    u32::from(protocol) << 16 | u32::from(port)
}

fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | SCTP)
}

pub(super) fn encode(image: &PolicyImage, out: &mut Sections) -> Result<(), EncodeError> {
    let mut services: Vec<_> = image.services.iter().collect();
    services.sort_by_key(|s| (s.address.bits(), key(s.protocol, s.port)));
    let mut lists: FxHashMap<&[Backend], u32> = FxHashMap::default();
    for (i, service) in services.iter().enumerate() {
        let &&super::ServiceInfo { address, protocol, port, ref backends } = service;
        let error = |problem| EncodeError::Service { address, protocol, port, problem };
        let same = |other: &super::ServiceInfo| {
            (other.address, other.protocol, other.port) == (address, protocol, port)
        };
        if i > 0 && same(services[i - 1]) {
            return Err(error("is there twice"));
        }
        if !has_ports(protocol) || port == 0 {
            return Err(error("has no ports, or port 0"));
        }
        let place = |b: &Backend| (b.class, b.port);
        if backends.windows(2).any(|pair| place(&pair[0]) >= place(&pair[1])) {
            return Err(error("has kinds of backends that do not ascend"));
        }
        if backends.iter().any(|backend| backend.port == 0) {
            return Err(error("has backends at port 0"));
        }
        let next = index("backends", out.count(Section::Backends))?;
        let first = match lists.get(&backends[..]) {
            _ if backends.is_empty() => 0,
            Some(&first) => first,
            None => {
                for backend in backends {
                    known("Service", "class", backend.class.0, image.classes.len())?;
                    let elsewhere = if backend.elsewhere { ELSEWHERE } else { 0 };
                    let word = elsewhere | u32::from(backend.port);
                    out.u32s(Section::Backends, &[backend.class.0, word]);
                }
                lists.insert(backends, next);
                next
            }
        };
        out.raw(Section::Services, &address.bits().to_ne_bytes());
        let count = index("backends", backends.len())?;
        out.u32s(Section::Services, &[key(protocol, port), first, count]);
    }
    Ok(())
}

impl Checker<'_> {
    /// Each Service and each backend by itself, and the order of Services.
    pub(super) fn services(&self) -> Result<(), DecodeError> {
        for record in 0..self.directory.count(Section::Backends) {
            let require = |holds, problem| self.require(holds, Section::Backends, record, problem);
            let class = self.field(Section::Backends, record, 0);
            require(self.names_one(Section::Classes, class), "unknown class")?;
            let word = self.field(Section::Backends, record, 1);
            require(word & 0xffff != 0 && word < 2 * ELSEWHERE, "no port of a backend")?;
        }
        let mut before = None;
        for record in 0..self.directory.count(Section::Services) {
            let require = |holds, problem| self.require(holds, Section::Services, record, problem);
            let address = u128_at(self.bytes, self.directory.at(Section::Services, record, 0));
            let [key, first, count] =
                [4, 5, 6].map(|field| self.field(Section::Services, record, field));
            let [_, protocol, high, low] = key.to_be_bytes();
            require(key >> 24 == 0 && has_ports(protocol), "a protocol without ports")?;
            require([high, low] != [0, 0], "port 0")?;
            require(before < Some((address, key)), "does not ascend")?;
            before = Some((address, key));
            let holds = self.names_range(Section::Backends, first, count as usize);
            require(holds, "backends out of range")?;
            require(count > 0 || first == 0, "names backends and has none")?;
            for backend in (first as usize + 1)..(first as usize + count as usize) {
                let place = |record| {
                    let field = |field| self.field(Section::Backends, record, field);
                    (field(0), field(1) & 0xffff)
                };
                require(place(backend - 1) < place(backend), "backends that do not ascend")?;
            }
        }
        Ok(())
    }

    /// Lists of backends, each behind the one before or, as a whole, one of those before.
    pub(super) fn backend_runs(&self) -> Result<(), DecodeError> {
        let mut end = 0;
        // Where each begins and ends, ascending.
        let mut lists: Vec<(usize, usize)> = Vec::new();
        for record in 0..self.directory.count(Section::Services) {
            let [first, count] =
                [5, 6].map(|field| self.field(Section::Services, record, field) as usize);
            if count == 0 {
                continue;
            }
            let list = (first, first + count);
            if first == end {
                lists.push(list);
                end = list.1;
            }
            let is_whole = lists.binary_search(&list).is_ok();
            self.require(is_whole, Section::Services, record, "its backends are no list")?;
        }
        let all = end == self.directory.count(Section::Backends);
        self.require(all, Section::Backends, end, "a record that nothing names")
    }
}

impl<B: AsRef<[u8]>> PolicyTable<B> {
    /// Whether the table has any Service.
    #[inline]
    pub fn has_services(&self) -> bool {
        self.directory().count(Section::Services) != 0
    }

    /// The Service at an address and port; `None` if there is none, or none that this table
    /// has to know. The unspecified address asks for what every address of the node stands for.
    pub fn service(&self, address: Address, protocol: u8, port: u16) -> Option<Service> {
        let count = self.directory().count(Section::Services);
        if count == 0 {
            return None;
        }
        let wanted = (address.bits(), key(protocol, port));
        let at = last_at_most(count, |i| self.service_place(i) <= wanted);
        (self.service_place(at) == wanted).then(|| self.service_at(at))
    }

    /// Every Service: address, protocol, port; ascending.
    pub fn services(&self) -> impl ExactSizeIterator<Item = (Address, u8, u16, Service)> {
        (0..self.directory().count(Section::Services)).map(|i| {
            let (bits, key) = self.service_place(i);
            let [_, protocol, high, low] = key.to_be_bytes();
            let port = u16::from_be_bytes([high, low]);
            (Address::from_bits(bits), protocol, port, self.service_at(i))
        })
    }

    /// The kinds of backends of a Service of this table, ascending by class, then port. Of a
    /// Service of another table: some kinds, or none.
    pub fn backends(&self, service: Service) -> impl ExactSizeIterator<Item = Backend> {
        let Service { first, count } = service;
        let bytes = self.as_bytes();
        (0..count).map(move |i| {
            let backend = first as usize + i as usize;
            let field = |field| {
                let there = backend < self.directory().count(Section::Backends);
                let at = self.directory().at(Section::Backends, backend, field);
                if there { u32_at(bytes, at) } else { 0 }
            };
            let [_, _, high, low] = field(1).to_be_bytes();
            Backend {
                class: ClassId(field(0)),
                port: u16::from_be_bytes([high, low]),
                elsewhere: field(1) & ELSEWHERE != 0,
            }
        })
    }

    fn service_place(&self, service: usize) -> (u128, u32) {
        let at = |field| self.directory().at(Section::Services, service, field);
        (u128_at(self.as_bytes(), at(0)), u32_at(self.as_bytes(), at(4)))
    }

    fn service_at(&self, service: usize) -> Service {
        let field =
            |field| u32_at(self.as_bytes(), self.directory().at(Section::Services, service, field));
        Service { first: field(5), count: field(6) }
    }
}
