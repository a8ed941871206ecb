//! How frames get from weir0 to the workers: sockets behind an XDP program, or the queues of
//! a TAP device behind a socket filter.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::{DevMap, XskMap};
use aya::programs::{ProgramError, SocketFilter, Xdp, XdpMode};

use super::{SteerError, Steering, chain};

impl Steering {
    /// Puts the delivery program on weir1 in native mode. Must run on a thread inside
    /// that device's network namespace.
    ///
    /// # Errors
    /// [`SteerError::Attach`]; a device MTU too large for native XDP is named.
    pub fn attach_delivery(&mut self, device: &str) -> Result<(), SteerError> {
        let program: &mut Xdp = self
            .ebpf
            .program_mut("weir_deliver")
            .ok_or(SteerError::Missing("weir_deliver"))?
            .try_into()
            .map_err(|_| SteerError::Missing("weir_deliver"))?;
        let fail = |e: &ProgramError| SteerError::Attach {
            program: "weir_deliver",
            device: device.to_owned(),
            reason: format!(
                "{}; native XDP on a veth needs Linux 4.19 or newer and an MTU of at most about \
                 3500; try --io tap",
                chain(e)
            ),
        };
        if program.fd().is_err() {
            program.load().map_err(|e| fail(&e))?;
        }
        program.attach(device, XdpMode::Driver).map_err(|e| fail(&e))?;
        Ok(())
    }

    /// Registers a worker's socket as the receiver of its queue.
    ///
    /// # Errors
    /// [`SteerError::Map`] when the kernel refuses the socket.
    pub fn set_socket(&mut self, queue: u32, fd: i32) -> Result<(), SteerError> {
        let map = self.ebpf.map_mut("weir_xsks").ok_or(SteerError::Missing("weir_xsks"))?;
        let error = |source| SteerError::Map { name: "weir_xsks", source };
        XskMap::try_from(map).map_err(error)?.set(queue, fd, 0).map_err(error)
    }

    /// Loads the program that picks the queue of a TAP device; the descriptor is valid as
    /// long as this is.
    ///
    /// # Errors
    /// [`SteerError::Attach`] with the kernel's answer.
    pub fn queue_chooser(&mut self) -> Result<BorrowedFd<'_>, SteerError> {
        const NAME: &str = "weir_queue";
        let program: &mut SocketFilter = self
            .ebpf
            .program_mut(NAME)
            .ok_or(SteerError::Missing(NAME))?
            .try_into()
            .map_err(|_| SteerError::Missing(NAME))?;
        let fail = |e: &ProgramError| SteerError::Attach {
            program: NAME,
            device: "the TAP device".to_owned(),
            reason: chain(e),
        };
        if program.fd().is_err() {
            program.load().map_err(|e| fail(&e))?;
        }
        program.fd().map(AsFd::as_fd).map_err(|e| fail(&e))
    }

    /// Tells the hooks of the TAP device; the kernel takes it off the map when it is gone.
    ///
    /// # Errors
    /// [`SteerError::Map`] when the kernel refuses the device.
    pub fn set_tap(&mut self, ifindex: u32) -> Result<(), SteerError> {
        const NAME: &str = "weir_taps";
        let map = self.ebpf.map_mut(NAME).ok_or(SteerError::Missing(NAME))?;
        let error = |source| SteerError::Map { name: NAME, source };
        let mut map = DevMap::try_from(map).map_err(error)?;
        map.set(0, ifindex, None, 0)
            .map_err(|e| error(aya::maps::MapError::IoError(io::Error::other(chain(&e)))))
    }
}
