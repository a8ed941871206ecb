//! When a program that was just started can be used: /proc tells which sockets and signal
//! handlers it has. What is sent to it before is lost, or ends it.

use std::fs;
use std::process::Child;
use std::time::Duration;

use crate::clock::until;

/// A program may take this long to start, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(10);
/// State of a listening TCP socket (include/net/tcp_states.h).
const LISTEN: &str = "0A";
/// SIGINT and SIGTERM in the masks of /proc/PID/status.
const INT_AND_TERM: u64 = 1 << (2 - 1) | 1 << (15 - 1);

/// What a program has once it is ready.
#[derive(Clone, Copy, Debug)]
pub enum Has {
    /// A packet(7) socket that is bound to a device.
    PacketSocket,
    /// A UDP socket on this port.
    UdpPort(u16),
    /// A TCP socket that listens on this port.
    TcpPort(u16),
    /// Handlers of SIGINT and SIGTERM, and sleeps: it waits for what is to come.
    Handlers,
}

/// Waits until a program has something.
pub fn wait_until(program: &mut Child, has: Has) {
    let pid = program.id();
    let ready = until(PATIENCE, || {
        assert!(program.try_wait().unwrap().is_none(), "it ended before it had its {has:?}");
        match has {
            Has::PacketSocket => has_socket(pid, "packet", 8, |line| line[4] != "0"),
            Has::UdpPort(port) => {
                has_socket(pid, "udp", 9, |line| is_port(line, port))
                    || has_socket(pid, "udp6", 9, |line| is_port(line, port))
            }
            Has::TcpPort(port) => ["tcp", "tcp6"].into_iter().any(|table| {
                has_socket(pid, table, 9, |line| is_port(line, port) && line[3] == LISTEN)
            }),
            Has::Handlers => mask(pid, "SigCgt:") & INT_AND_TERM == INT_AND_TERM && sleeps(pid),
        }
    });
    assert!(ready, "it never had its {has:?}");
}

/// Whether it has taken and dealt with every datagram that was sent to a port of its: it
/// sleeps, and nothing waits.
pub fn is_done_with(program: &Child, port: u16) -> bool {
    let pid = program.id();
    // In this order: with nothing left to take, it sleeps only after what it took last.
    has_socket(pid, "udp", 9, |line| is_port(line, port) && line[4].ends_with(":00000000"))
        && sleeps(pid)
}

fn sleeps(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may have spaces, is the state.
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S'))
}

/// Whether one of its own sockets is in a table of /proc/PID/net; `inode` is the column that
/// tells it from those of others.
fn has_socket(pid: u32, table: &str, inode: usize, fits: impl Fn(&[&str]) -> bool) -> bool {
    let Ok(sockets) = fs::read_to_string(format!("/proc/{pid}/net/{table}")) else { return false };
    let own = own_sockets(pid);
    sockets.lines().skip(1).any(|line| {
        let line: Vec<&str> = line.split_whitespace().collect();
        line.get(inode).is_some_and(|inode| own.iter().any(|own| own == inode)) && fits(&line)
    })
}

/// The inodes of its sockets.
fn own_sockets(pid: u32) -> Vec<String> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    let inode = |link: &str| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned());
    links.filter_map(|link| inode(link.to_str()?)).collect()
}

fn is_port(line: &[&str], port: u16) -> bool {
    line[1].rsplit(':').next() == Some(&format!("{port:04X}"))
}

fn mask(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
    u64::from_str_radix(line.trim(), 16).unwrap_or(0)
}
