//! The plugin's side: ask, and wait for the answer with bounded patience.

use std::{
    io,
    os::fd::BorrowedFd,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::io::Errno;

use super::{
    CniError,
    message::{
        Answer, Header, PROTOCOL_VERSION, Refusal, Request, VALID_A_MESSAGE, read_answer,
        write_request,
    },
    socket::{Connection, connect_to},
};

/// Pause between two attempts to reach the dataplane.
const PAUSE: Duration = Duration::from_millis(20);
/// Pause when it has as much to do as it takes on at once.
const PAUSE_BUSY: Duration = Duration::from_millis(100);
/// What a dataplane is left for its answer to arrive: it is told to answer so much before the
/// client's own deadline, or half of a shorter wait.
const MARGIN: Duration = Duration::from_millis(250);

/// How long a client waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For the answer, all attempts together.
    pub total: Duration,
    /// For a dataplane that cannot be reached: one that restarts is back before that.
    pub absent: Duration,
}

/// Where to ask, and as whom.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// The dataplane's socket.
    pub path: &'a Path,
    /// What this program calls itself: name and version.
    pub software: &'a str,
    /// How long it waits.
    pub patience: Patience,
}

impl Client<'_> {
    /// Asks, and gives the final answer. `netns` is the pod's namespace, for the requests that
    /// bring one ([`Request::has_namespace`]).
    ///
    /// A dataplane that goes away before it has answered, or is [`Refusal::Busy`], is asked
    /// again.
    ///
    /// # Errors
    /// [`CniError`]: `Unreachable` when nobody listened for [`Patience::absent`] or until the
    /// end; `Timeout` when somebody does and no answer came; `Version`, also as the
    /// dataplane's own refusal; `Peer` when the socket is someone else's; `Message` when the
    /// request breaks a limit or the answer is none to it; `Io`.
    pub fn ask(
        &self,
        request: &Request,
        netns: Option<BorrowedFd<'_>>,
    ) -> Result<Answer, CniError> {
        let deadline = Instant::now() + self.patience.total;
        let timeout = || CniError::Timeout { milliseconds: self.patience.total.as_millis() };
        let mut heard = Instant::now();
        // What it said when it was busy; nothing better may come before the end.
        let mut busy = None;
        loop {
            let mut pause = PAUSE;
            let outcome = match connect_to(self.path) {
                Ok(socket) => match self.attempt(socket, request, netns, deadline) {
                    // It is there, or was until now.
                    Err(CniError::Closed) => {
                        heard = Instant::now();
                        Err(CniError::Closed)
                    }
                    Ok(answer @ Answer::Refused { code: Refusal::Busy, .. }) => {
                        (heard, pause) = (Instant::now(), PAUSE_BUSY);
                        busy = Some(answer.clone());
                        Ok(answer)
                    }
                    Err(CniError::Timeout { .. }) => return busy.ok_or_else(timeout),
                    other => return other,
                },
                // It is there, but has more to do than fits into its backlog.
                Err(Errno::AGAIN) => {
                    heard = Instant::now();
                    Err(timeout())
                }
                Err(error @ (Errno::NOENT | Errno::CONNREFUSED)) => {
                    let source = io::Error::from(error);
                    let error = CniError::Unreachable { path: self.path.to_owned(), source };
                    if heard.elapsed() >= self.patience.absent {
                        return Err(error);
                    }
                    Err(error)
                }
                Err(error) => {
                    let source = io::Error::from(error);
                    return Err(CniError::Unreachable { path: self.path.to_owned(), source });
                }
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return outcome;
            }
            thread::sleep(pause.min(left));
        }
    }

    fn attempt(
        &self,
        socket: std::os::fd::OwnedFd,
        request: &Request,
        netns: Option<BorrowedFd<'_>>,
        deadline: Instant,
    ) -> Result<Answer, CniError> {
        let connection = Connection::new(socket)?;
        for part in parts(request) {
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = left.saturating_sub(MARGIN).max(left / 2);
            let header = Header {
                protocol: PROTOCOL_VERSION,
                software: self.software.to_owned(),
                wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            };
            match connection.send(&write_request(&header, &part)?, netns, Some(deadline)) {
                // Closed at once: the reason may be there to be read.
                Ok(()) | Err(CniError::Closed) => {}
                Err(error) => return Err(error),
            }
        }
        let answer = read_answer(&connection.receive(deadline)?.text)?;
        if !answer.fits(request) {
            let problem = format!("out of turn: {answer:?}");
            return Err(CniError::Message { problem });
        }
        Ok(answer)
    }
}

/// The datagrams of a request: one, but for a long list of attachments.
fn parts(request: &Request) -> Vec<Request> {
    match request {
        Request::Gc { network, valid, .. } if valid.len() > VALID_A_MESSAGE => {
            let last = valid.len().div_ceil(VALID_A_MESSAGE) - 1;
            let part = |(index, valid): (usize, &[(String, String)])| Request::Gc {
                network: network.clone(),
                valid: valid.to_vec(),
                more: index < last,
            };
            valid.chunks(VALID_A_MESSAGE).enumerate().map(part).collect()
        }
        other => vec![other.clone()],
    }
}
