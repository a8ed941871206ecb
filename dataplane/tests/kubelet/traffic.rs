//! Who sends before it has an address, and who counts what arrives: by sender, and by when it was
//! sent. In a cluster no process of a pod runs before its ADD has returned; here they do, and so
//! what they send is told apart by that moment.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::clock::now_ns;
use crate::lab::Lab;

/// Between two datagrams.
const PAUSE: Duration = Duration::from_micros(500);
/// How long a receiver waits at once, to look whether it is to end.
const LOOK: Duration = Duration::from_millis(20);
/// Where receivers listen.
pub const PORT: u16 = 9000;

/// A process of a pod that sends from the first instant on, whether or not it can.
pub struct Sender {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Sender {
    /// Sends datagrams that carry `tag` and their time to all the addresses, again and again. The sockets are
    /// made here and now: before the place has any interface but `lo`, if it has none.
    pub fn start(lab: &Lab, place: &str, to: &[IpAddr], tag: u64) -> Sender {
        let sockets =
            lab.within(place, || ["0.0.0.0:0", "[::]:0"].map(|any| UdpSocket::bind(any).unwrap()));
        let to: Vec<_> = to.iter().map(|&address| SocketAddr::from((address, PORT))).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut sent = 0;
            while !stopped.load(Ordering::Relaxed) {
                for to in &to {
                    let socket = &sockets[usize::from(to.is_ipv6())];
                    let datagram = [tag.to_be_bytes(), now_ns().to_be_bytes()].concat();
                    // No address, no route, no neighbour yet: that is what the test is about.
                    sent += u64::from(socket.send_to(&datagram, to).is_ok());
                    thread::sleep(PAUSE);
                }
            }
            sent
        });
        Sender { stop, thread: Some(thread) }
    }

    /// Ends it; says how many datagrams its stack has taken.
    pub fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// When what has arrived was sent, by the sender's tag and address.
pub type Arrived = BTreeMap<(u64, IpAddr), Vec<u64>>;

/// A process of a pod that counts what comes.
pub struct Receiver {
    stop: Arc<AtomicBool>,
    arrived: Arc<Mutex<Arrived>>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Listens in a place, whatever addresses it has or will have.
    pub fn start(lab: &Lab, place: &str) -> Receiver {
        let socket = lab.within(place, || UdpSocket::bind(("::", PORT)).unwrap());
        socket.set_read_timeout(Some(LOOK)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let arrived: Arc<Mutex<Arrived>> = Arc::default();
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&arrived));
        let thread = thread::spawn(move || {
            let mut buffer = [0; 64];
            let mut end: Option<Instant> = None;
            // What had come before it was told to end is counted; what goes on coming is not.
            while end.is_none_or(|end| Instant::now() < end) {
                if stopped.load(Ordering::Relaxed) {
                    end.get_or_insert(Instant::now() + 2 * LOOK);
                }
                match socket.recv_from(&mut buffer) {
                    Ok((length, from)) => {
                        let Ok(datagram) = <[u8; 16]>::try_from(&buffer[..length]) else {
                            continue;
                        };
                        let (tag, sent) = datagram.split_at(8);
                        let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
                        let key = (number(tag), from.ip().to_canonical());
                        counted.lock().unwrap().entry(key).or_default().push(number(sent));
                    }
                    Err(_) if end.is_some() => return,
                    Err(_) => {}
                }
            }
        });
        Receiver { stop, arrived, thread: Some(thread) }
    }

    /// What has arrived so far.
    pub fn so_far(&self) -> Arrived {
        self.arrived.lock().unwrap().clone()
    }

    /// How many of one sender have arrived so far, of each family.
    pub fn of(&self, tag: u64) -> [u64; 2] {
        self.since(tag, 0)
    }

    /// How many of these were sent after a moment: the nanoseconds of [`now_ns`].
    pub fn since(&self, tag: u64, moment: u64) -> [u64; 2] {
        let arrived = self.arrived.lock().unwrap();
        [true, false].map(|is_v4| {
            let of_family = arrived
                .iter()
                .filter(|((other, from), _)| *other == tag && from.is_ipv4() == is_v4);
            let later = |sent: &&u64| **sent > moment;
            of_family.map(|(_, sent)| sent.iter().filter(later).count() as u64).sum()
        })
    }

    /// Takes what has come by now, and ends it: what it has counted does not change any more.
    pub fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
