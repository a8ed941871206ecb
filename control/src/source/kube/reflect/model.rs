//! The reflector against a model of a server that loses, repeats and reorders what it says.
//!
//! The server is a map and a log. The client does what the driver does, without a network: it asks
//! for what [`Reflector::request`] says and tells it the answer, as the faults have it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
struct Event {
    meta: Meta,
    gone: bool,
}

/// What a cluster does: (uid, version) by name, and every change in order.
#[derive(Debug, Default)]
struct Server {
    objects: BTreeMap<String, (u128, u64)>,
    log: Vec<Event>,
    version: u64,
    uids: u128,
    /// The snapshot that continue tokens refer to, and its version.
    snapshot: (u64, BTreeMap<String, (u128, u64)>),
}

impl Server {
    fn say(&mut self, name: &str, uid: u128, gone: bool) {
        self.version += 1;
        let version = self.version;
        let meta = Meta { namespace: String::new(), name: name.to_owned(), uid, version };
        self.log.push(Event { meta, gone });
    }

    fn change(&mut self, name: u8, change: Change) {
        let name = format!("o{name}");
        let known = self.objects.get(&name).map(|(uid, _)| *uid);
        if let Some(uid) = known.filter(|_| change != Change::Write) {
            self.say(&name, uid, true);
            self.objects.remove(&name);
        }
        if change != Change::Delete {
            let uid = known.filter(|_| change == Change::Write).unwrap_or_else(|| {
                self.uids += 1;
                self.uids
            });
            self.say(&name, uid, false);
            self.objects.insert(name, (uid, self.version));
        }
    }

    fn lives(&self, uid: u128) -> bool {
        self.objects.values().any(|(living, _)| *living == uid)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// Creates or modifies.
    Write,
    Delete,
    /// Deletes, and creates another of the same name.
    Replace,
}

/// One turn of the world.
#[derive(Debug, Clone)]
enum Turn {
    Change(u8, Change),
    /// The server answers the next request in full, for a watch with so many events.
    Answer(usize),
    /// A watch brings so many events in another order, some twice, and some from before.
    Muddle {
        count: usize,
        order: Vec<usize>,
        before: usize,
    },
    /// A watch passes over an event without a word.
    Lose(usize),
    /// A bookmark.
    Bookmark,
    End(End),
}

fn turns(faults: bool) -> impl Strategy<Value = Vec<Turn>> {
    let change =
        prop::sample::select(vec![Change::Write, Change::Write, Change::Delete, Change::Replace]);
    let closed = |fruitful| End::Closed { lasted: SHORT, fruitful };
    let ends = vec![
        closed(true),
        closed(false),
        End::Gone,
        End::TooLarge,
        End::Unreadable,
        End::Failed(None),
    ];
    let turn = prop_oneof![
        6 => (0u8..8, change).prop_map(|(name, change)| Turn::Change(name, change)),
        5 => (0usize..5).prop_map(Turn::Answer),
        3 => (1usize..6, prop::collection::vec(0usize..64, 0..10), 0usize..4)
            .prop_map(|(count, order, before)| Turn::Muddle { count, order, before }),
        1 => Just(Turn::Bookmark),
        2 => prop::sample::select(ends).prop_map(Turn::End),
        u32::from(faults) => (0usize..4).prop_map(Turn::Lose),
    ];
    prop::collection::vec(turn, 0..120)
}

/// The reflector and what its steps make of an index.
struct Client {
    reflector: Reflector,
    view: BTreeMap<String, (u128, u64)>,
    now: Duration,
}

impl Client {
    fn step(&mut self, server: &Server, step: Step, meta: &Meta, listed: bool) {
        let known = self.view.get(&meta.name).copied();
        match step {
            Step::Nothing => {}
            Step::Apply | Step::Replace => {
                let (uid, version) = known.unwrap_or_default();
                // Only what differs, and from a watch nothing older.
                assert_ne!(known, Some((meta.uid, meta.version)));
                assert!(listed || version < meta.version, "{meta:?} after {version}");
                assert_eq!(step == Step::Replace, known.is_some() && uid != meta.uid, "{meta:?}");
                assert!(step == Step::Apply || !server.lives(uid), "{meta:?} in place of {uid}");
                self.view.insert(meta.name.clone(), (meta.uid, meta.version));
            }
            Step::Delete => {
                let (uid, _) = known.expect("the end of something unknown");
                // Whatever the server says: what is there is not withdrawn.
                assert!(!server.lives(uid), "{meta:?}");
                self.view.remove(&meta.name);
            }
        }
    }

    fn event(&mut self, server: &Server, event: &Event) {
        let version = event.meta.version.to_string();
        let step = self.reflector.event(&event.meta, &version, event.gone);
        self.step(server, step, &event.meta, false);
    }

    /// What the server says to the request that is due; `None` for a watch.
    fn page(&mut self, server: &mut Server) -> Option<()> {
        let Request::List { limit, token } = self.reflector.request(0.5) else { return None };
        let after = match &token {
            Some(token) => token.clone(),
            None => {
                server.snapshot = (server.version, server.objects.clone());
                String::new()
            }
        };
        let (version, objects) = server.snapshot.clone();
        let mut rest = objects.iter().filter(|(name, _)| **name > after);
        let mut last = None;
        for (name, (uid, version)) in rest.by_ref().take(limit as usize) {
            let meta =
                Meta { namespace: String::new(), name: name.clone(), uid: *uid, version: *version };
            let step = self.reflector.listed(&meta);
            self.step(server, step, &meta, true);
            last = Some(name.clone());
        }
        let token = last.filter(|_| rest.next().is_some());
        for name in
            self.reflector.page(&version.to_string(), token.as_deref()).into_iter().flatten()
        {
            let name = name.name.into_string();
            let meta = Meta { namespace: String::new(), name, uid: 0, version: 0 };
            self.step(server, Step::Delete, &meta, true);
        }
        Some(())
    }

    /// The events that a watch from here still has to bring.
    fn due(&self, server: &Server) -> Vec<Event> {
        let Request::Watch { version, .. } = self.reflector.request(0.5) else { return vec![] };
        let version: u64 = version.parse().unwrap();
        server.log.iter().filter(|event| event.meta.version > version).cloned().collect()
    }

    fn end(&mut self, end: End) {
        let next = self.reflector.ended(end, self.now, 0.5);
        assert!(next.wait < Duration::from_secs(31));
        self.now += next.wait + Duration::from_millis(10);
    }

    fn turn(&mut self, server: &mut Server, turn: &Turn) {
        match turn {
            Turn::Change(name, change) => server.change(*name, *change),
            Turn::Answer(count) => {
                if self.page(server).is_none() {
                    for event in self.due(server).iter().take(*count) {
                        self.event(server, event);
                    }
                }
            }
            Turn::Muddle { count, order, before } => {
                if !matches!(self.reflector.request(0.5), Request::Watch { .. }) {
                    return;
                }
                let mut events: Vec<Event> = self.due(server).into_iter().take(*count).collect();
                let seen = server.log.len() - self.due(server).len();
                let again = server.log[seen - (*before).min(seen)..seen].to_vec();
                events.extend(again);
                if events.is_empty() {
                    return;
                }
                let twice: Vec<Event> =
                    order.iter().map(|i| events[i % events.len()].clone()).collect();
                events.extend(twice);
                for i in 0..events.len() {
                    let other = order.get(i).map_or(i, |other| other % events.len());
                    events.swap(i, other);
                }
                for event in &events {
                    self.event(server, event);
                }
            }
            Turn::Lose(at) => {
                let events = self.due(server);
                // Told of the next one, the watch goes on after it.
                for event in events.iter().skip(at + 1).take(1) {
                    self.event(server, event);
                }
            }
            Turn::Bookmark => {
                if self.due(server).is_empty()
                    && matches!(self.reflector.request(0.5), Request::Watch { .. })
                {
                    self.reflector.bookmark(&server.version.to_string());
                }
            }
            Turn::End(end) => self.end(*end),
        }
    }

    /// Answers everything that is asked until the client has seen it all.
    fn settle(&mut self, server: &mut Server) {
        for _ in 0..100 {
            if self.page(server).is_some() {
                continue;
            }
            for event in self.due(server) {
                self.event(server, &event);
            }
            return;
        }
        panic!("the list never ends");
    }
}

fn client() -> Client {
    Client { reflector: Reflector::new(3), view: BTreeMap::new(), now: Duration::from_secs(1000) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Repeated and reordered events, cuts, refusals and lists that are given up: what is known is
    /// in the end what the server has, without another list.
    #[test]
    fn what_is_said_at_all_is_known_in_the_end(turns in turns(false)) {
        let (mut server, mut client) = (Server::default(), client());
        for turn in &turns {
            client.turn(&mut server, turn);
        }
        client.settle(&mut server);
        prop_assert_eq!(&client.view, &server.objects);
        prop_assert_eq!(client.reflector.len(), server.objects.len());
    }

    /// What was never said is known after the next list, and nothing that lives was withdrawn
    /// before.
    #[test]
    fn what_was_lost_is_known_after_the_next_list(turns in turns(true)) {
        let (mut server, mut client) = (Server::default(), client());
        for turn in &turns {
            client.turn(&mut server, turn);
        }
        client.end(End::Gone);
        client.settle(&mut server);
        prop_assert_eq!(&client.view, &server.objects);
    }

    /// A list of what is known changes nothing.
    #[test]
    fn a_list_of_what_is_known_changes_nothing(turns in turns(false)) {
        let (mut server, mut client) = (Server::default(), client());
        for turn in &turns {
            client.turn(&mut server, turn);
        }
        client.settle(&mut server);
        client.end(End::Gone);
        let before = client.view.clone();
        let mut steps = 0;
        while let Request::List { .. } = client.reflector.request(0.5) {
            // `step` asserts that whatever is applied differs from what is known.
            client.page(&mut server);
            steps += 1;
            prop_assert!(steps < 100);
        }
        prop_assert_eq!(before, client.view);
    }
}
