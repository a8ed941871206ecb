//! Putting the two hooks on a pod's host-side veth and taking them off again.
//!
//! Two ways, the same program: tcx links (Linux 6.6 and newer), pinned so that they
//! outlive the daemon, ordered first; or clsact filters with an explicit priority and
//! handle, which outlive it by nature. A new daemon replaces the program behind an
//! existing link or filter in one step, so there is no instant without it.

use std::fs;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
    qdisc_detach_program,
};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;

use super::{SteerError, Steering, chain};

/// The tc priority of Weir's clsact filters: before anything that the kernel numbers
/// by itself (49152 and down), after nothing.
pub const TC_PRIORITY: u16 = 1;
/// The handle of Weir's clsact filters, "we" in ASCII.
const TC_HANDLE: u32 = 0x7765;

/// How hooks are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum AttachMode {
    /// tcx where the kernel has it (6.6 and newer), else clsact.
    Auto,
    /// tcx links.
    Tcx,
    /// clsact qdisc with a filter in each direction.
    Clsact,
}

impl AttachMode {
    /// The mode in force on this kernel.
    pub fn resolve(self) -> Self {
        match self {
            Self::Auto => match KernelVersion::current() {
                Ok(version) if version >= KernelVersion::new(6, 6, 0) => Self::Tcx,
                _ => Self::Clsact,
            },
            chosen => chosen,
        }
    }
}

/// The two hooks of a pod's device, and the one of weir0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// What the pod sends: tc ingress of the host side.
    FromPod,
    /// What the pod receives: tc egress of the host side.
    ToPod,
    /// What workers accepted: tc ingress of weir0.
    Return,
}

impl Hook {
    const fn program(self) -> &'static str {
        match self {
            Self::FromPod => "weir_from_pod",
            Self::ToPod => "weir_to_pod",
            Self::Return => "weir_return",
        }
    }

    const fn attach_type(self) -> TcAttachType {
        match self {
            Self::FromPod | Self::Return => TcAttachType::Ingress,
            Self::ToPod => TcAttachType::Egress,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::FromPod => "from_pod",
            Self::ToPod => "to_pod",
            Self::Return => "return",
        }
    }
}

/// Names may not contain a dot on bpffs, and interface names may: the index is used.
fn link_pin(pin_dir: &Path, ifindex: u32, hook: Hook) -> PathBuf {
    pin_dir.join("links").join(format!("{ifindex}_{}", hook.name()))
}

impl Steering {
    /// Puts `hook` on a device, first in order; replaces Weir's own earlier one.
    ///
    /// # Errors
    /// [`SteerError::Attach`] names program, device and the kernel's answer.
    pub fn attach(
        &mut self,
        hook: Hook,
        device: &str,
        ifindex: u32,
        mode: AttachMode,
    ) -> Result<(), SteerError> {
        let pin = link_pin(&self.pin_dir, ifindex, hook);
        let program = loaded(&mut self.ebpf, hook).map_err(|e| fail(hook, device, e))?;
        match mode.resolve() {
            AttachMode::Clsact => {
                let queue = queue_of(device);
                let added = add_clsact(device).map_err(|reason| fail(hook, device, reason))?;
                if added {
                    self.clsact.add(ifindex, queue, device);
                }
                attach_clsact(program, hook, device)
            }
            _ => attach_tcx(program, hook, device, Some(&pin)).map(drop),
        }
        .map_err(|reason| fail(hook, device, reason))?;
        // What an earlier daemon attached the other way would go on asking for workers
        // that are gone. It leaves after the new one came: no instant without a hook.
        match mode.resolve() {
            AttachMode::Clsact => drop(fs::remove_file(&pin)),
            _ => drop(qdisc_detach_program(device, hook.attach_type(), hook.program())),
        }
        warn_if_not_first(hook, device, mode);
        Ok(())
    }

    /// Puts the return hook on weir0. It is not pinned: weir0 goes when the daemon goes.
    ///
    /// # Errors
    /// As [`Steering::attach`].
    pub fn attach_return(&mut self, device: &str, mode: AttachMode) -> Result<(), SteerError> {
        let hook = Hook::Return;
        let program = loaded(&mut self.ebpf, hook).map_err(|e| fail(hook, device, e))?;
        match mode.resolve() {
            AttachMode::Clsact => {
                add_clsact(device).and_then(|_| attach_clsact(program, hook, device))
            }
            _ => attach_tcx(program, hook, device, None).map(|link| self.return_link = link),
        }
        .map_err(|reason| fail(hook, device, reason))
    }

    /// Forgets what was put on a device that is gone.
    pub fn forget(&mut self, ifindex: u32) {
        for hook in [Hook::FromPod, Hook::ToPod] {
            let _ = fs::remove_file(link_pin(&self.pin_dir, ifindex, hook));
        }
        self.clsact.forget(ifindex);
    }
}

fn fail(hook: Hook, device: &str, reason: impl Into<String>) -> SteerError {
    SteerError::Attach { program: hook.program(), device: device.to_owned(), reason: reason.into() }
}

impl Steering {
    /// Has the kernel verify the hooks' programs, so that none has to wait for it later.
    pub(super) fn load_hooks(ebpf: &mut Ebpf) -> Result<(), SteerError> {
        for hook in [Hook::FromPod, Hook::ToPod, Hook::Return] {
            loaded(ebpf, hook).map_err(SteerError::Load)?;
        }
        Ok(())
    }
}

fn loaded(ebpf: &mut Ebpf, hook: Hook) -> Result<&mut SchedClassifier, String> {
    let program: &mut SchedClassifier = ebpf
        .program_mut(hook.program())
        .ok_or("not in the steering object")?
        .try_into()
        .map_err(|e| chain(&e))?;
    if program.fd().is_err() {
        program.load().map_err(|e| chain(&e))?;
    }
    Ok(program)
}

/// Attaches through a link: pinned, or given to the caller to hold.
fn attach_tcx(
    program: &mut SchedClassifier,
    hook: Hook,
    device: &str,
    pin: Option<&Path>,
) -> Result<Option<SchedClassifierLink>, String> {
    if let Some(pin) = pin
        && let Ok(old) = PinnedLink::from_pin(pin)
    {
        // A link whose device went away stays pinned, defunct; the index may belong
        // to another device by now. Then the update fails and a new link is made.
        let updated = SchedClassifierLink::try_from(FdLink::from(old))
            .map_err(|e| chain(&e))
            .and_then(|link| program.attach_to_link(link).map_err(|e| chain(&e)))
            .and_then(|id| program.take_link(id).map_err(|e| chain(&e)));
        match updated {
            // The pin holds the link; closing this descriptor detaches nothing.
            Ok(_link) => return Ok(None),
            Err(reason) => {
                tracing::debug!(device, hook = hook.name(), reason, "stale link replaced");
                fs::remove_file(pin).map_err(|e| format!("{}: {e}", pin.display()))?;
            }
        }
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(device, hook.attach_type(), options).map_err(|e| {
        format!("{}; without tcx (Linux before 6.6) use --attach clsact", chain(&e))
    })?;
    let link = program.take_link(id).map_err(|e| chain(&e))?;
    let Some(pin) = pin else { return Ok(Some(link)) };
    let link: FdLink = link.try_into().map_err(|_| "the kernel gave no link".to_owned())?;
    link.pin(pin).map_err(|e| chain(&e))?;
    Ok(None)
}

/// Length of a device's transmit queue, in packets; if it does not show, what most have.
fn queue_of(device: &str) -> u32 {
    let length = fs::read_to_string(format!("/sys/class/net/{device}/tx_queue_len"));
    length.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1000)
}

/// Gives a device the qdisc in which filters live. False: it has one already.
fn add_clsact(device: &str) -> Result<bool, String> {
    match qdisc_add_clsact(device) {
        Ok(()) => Ok(true),
        Err(TcError::AlreadyAttached) => Ok(false),
        // Kernels say EEXIST when the qdisc is there already, ours or another's.
        Err(TcError::NetlinkError(e)) if e.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(e) => Err(format!("clsact qdisc: {}", chain(&e))),
    }
}

fn attach_clsact(program: &mut SchedClassifier, hook: Hook, device: &str) -> Result<(), String> {
    let handle = TcHandle::from(TC_HANDLE);
    let ours = SchedClassifierLink::attached(device, hook.attach_type(), TC_PRIORITY, handle, None)
        .map_err(|e| e.to_string())?;
    let id = match program.attach_to_link(ours) {
        Ok(id) => id,
        Err(_) => {
            let options = NlOptions { priority: TC_PRIORITY, handle, ..NlOptions::default() };
            program
                .attach_with_options(device, hook.attach_type(), TcAttachOptions::Netlink(options))
                .map_err(|e| chain(&e))?
        }
    };
    // Dropping the link would remove the filter.
    std::mem::forget(program.take_link(id).map_err(|e| chain(&e))?);
    Ok(())
}

/// Another program in front of ours could redirect packets past it.
fn warn_if_not_first(hook: Hook, device: &str, mode: AttachMode) {
    if mode.resolve() != AttachMode::Tcx {
        return;
    }
    if let Ok((_, programs)) = SchedClassifier::query_tcx(device, hook.attach_type()) {
        let first = programs.first().and_then(|p| p.name_as_str().map(str::to_owned));
        // The kernel keeps 15 bytes of a program's name.
        if let Some(first) = first.filter(|f| !hook.program().starts_with(f.as_str())) {
            tracing::warn!(
                device,
                hook = hook.name(),
                first,
                "another tcx program runs before Weir and may redirect packets past it; \
                 attach that one after weir_from_pod/weir_to_pod"
            );
        }
    }
}
