//! Network namespaces as places: where a socket is made, and what a device there counts.
//!
//! A socket belongs for ever to the namespace of the thread that made it. So both ends
//! of a measurement live in one process: a thread steps into a place and makes a socket
//! there, and no server has to be started, awaited and ended from outside.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, anyhow};
use rustix::thread::{
    CpuSet, LinkNameSpaceType, gettid, move_into_link_name_space, sched_setaffinity,
};

/// A network namespace.
#[derive(Debug)]
pub struct Place {
    /// `None`: where this process is.
    namespace: Option<(PathBuf, File)>,
}

impl Place {
    /// Opens the namespace that is mounted at `path`, e.g. `/run/netns/client`; without
    /// a path, the one in which this process is, which needs no privilege.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        let open = |path: &Path| {
            let file = File::open(path)
                .with_context(|| format!("cannot open the network namespace {}", path.display()))?;
            Ok::<_, anyhow::Error>((path.to_owned(), file))
        };
        Ok(Self { namespace: path.map(open).transpose()? })
    }

    /// Moves the calling thread here, for the rest of its life.
    ///
    /// # Errors
    /// When `path` is no network namespace, or without `CAP_SYS_ADMIN`.
    pub fn enter(&self) -> Result<()> {
        let Some((path, file)) = &self.namespace else { return Ok(()) };
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter {} (needs root)", path.display()))
    }

    /// Runs `job` here, on a thread of its own, and gives its result.
    ///
    /// # Errors
    /// Those of [`Self::enter`] and of `job`.
    pub fn within<T: Send>(&self, job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                job()
            });
            thread.join().map_err(|_| anyhow!("a thread panicked"))?
        })
    }

    /// The port to bind where `wanted` is wished for: `wanted` in a namespace made for the
    /// measurement; where this process is, other programs may hold it, so any that is free.
    #[must_use]
    pub fn port(&self, wanted: u16) -> u16 {
        if self.namespace.is_some() { wanted } else { 0 }
    }

    /// A UDP socket bound here.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn udp(&self, own: SocketAddr) -> Result<UdpSocket> {
        self.within(|| UdpSocket::bind(own).with_context(|| format!("cannot bind {own}")))
    }

    /// The counters of a device here.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn device(&self, name: &str) -> Result<Device> {
        // The file shows the namespace in which it was opened, whoever reads it.
        let file = self.within(|| Ok(File::open("/proc/thread-self/net/dev")?))?;
        let mut device = Device { name: name.to_owned(), file };
        device.received()?;
        Ok(device)
    }
}

/// A network device's packet counters.
#[derive(Debug)]
pub struct Device {
    name: String,
    file: File,
}

impl Device {
    /// Packets that the device has received so far.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn received(&mut self) -> Result<u64> {
        let mut text = String::new();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.read_to_string(&mut text)?;
        received_of(&text, &self.name).with_context(|| format!("no device {}", self.name))
    }
}

/// Picks a device's received packets out of `/proc/net/dev`: `NAME: bytes packets ...`.
fn received_of(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(device, _)| device.trim() == name)
        .and_then(|(_, numbers)| numbers.split_whitespace().nth(1)?.parse().ok())
}

/// Keeps the calling thread on one processor.
///
/// # Errors
/// When there is no such processor.
pub fn pin(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    anyhow::ensure!(cpu < CpuSet::MAX_CPU, "processor {cpu} is out of range");
    cpus.set(cpu);
    sched_setaffinity(Some(gettid()), &cpus)
        .with_context(|| format!("cannot run on processor {cpu}"))
}

/// How many processors this process may use.
pub fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEV: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets
    lo:  100       2    0    0    0     0          0         0      100       2
  eth0: 6400     101    0    0    0     0          0         0       42       7
veth0:77 3 0 0 0 0 0 0 0 0
";

    #[test]
    fn a_device_is_found_by_its_whole_name() {
        assert_eq!(received_of(DEV, "eth0"), Some(101));
        assert_eq!(received_of(DEV, "veth0"), Some(3), "no space after the colon");
        assert_eq!(received_of(DEV, "eth"), None);
        assert_eq!(received_of(DEV, "eth1"), None);
    }

    #[test]
    fn a_file_that_is_no_namespace_is_refused() {
        let place = Place::open(Some(Path::new("/proc/self/status"))).unwrap();
        assert!(place.enter().is_err());
        assert!(Place::open(Some(Path::new("/nowhere"))).is_err());
    }

    #[test]
    fn devices_here_count() {
        let place = Place::open(None).unwrap();
        let mut loopback = place.device("lo").unwrap();
        let before = loopback.received().unwrap();
        let socket = place.udp("127.0.0.1:0".parse().unwrap()).unwrap();
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        assert!(loopback.received().unwrap() > before);
        assert!(place.device("no-such-device").is_err());
    }
}
