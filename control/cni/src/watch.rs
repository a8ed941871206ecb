//! Keeps the entry in the chain: other plugins' installers write their configuration anew when
//! they start, without it.
//!
//! The directory is watched with inotify; besides, it is looked at every few seconds, which also
//! finds what a symbolic link leads to. What stands in the way (no configuration yet, one that
//! is half written) is said once and looked at again. Between an installer's write and the
//! entry's return pods can be made without Weir: the dataplane finds these by itself.

use std::{
    io::{self, Read},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify,
    io::Errno,
};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::{
    PLUGIN,
    install::{self, InstallError, Options},
};

/// How often it is looked at without a reason.
const LOOK: Duration = Duration::from_secs(5);
/// How often when something stands in the way.
const RETRY: Duration = Duration::from_millis(500);
/// After an event, so that a file that is being written is whole.
const SETTLE: Duration = Duration::from_millis(10);

/// Installs, and keeps installed until a signal ends it. `say` is given a line for each change
/// and each new obstacle.
///
/// # Errors
/// When the program cannot be put in its place, or the system gives no inotify or signals.
pub fn watch(options: &Options, mut say: impl FnMut(&str)) -> Result<(), InstallError> {
    let failed =
        |step| move |source| InstallError::Io { path: options.conf_dir.clone(), step, source };
    let (mut stopped, stop) = UnixStream::pair().map_err(failed("signals"))?;
    stopped.set_nonblocking(true).map_err(failed("signals"))?;
    for signal in [SIGTERM, SIGINT] {
        let stop = stop.try_clone().map_err(failed("signals"))?;
        signal_hook::low_level::pipe::register(signal, stop).map_err(failed("signals"))?;
    }
    if let Some(line) = install::install_program(&options.bin_dir)? {
        say(&line);
    }
    let mut told = String::new();
    let _only = loop {
        match install::only_watcher(&options.bin_dir).map_err(failed("lock"))? {
            Some(lock) => break lock,
            None => tell(
                &mut told,
                "another weir-cni install --watch runs; waiting for it to end",
                &mut say,
            ),
        }
        if wait(None, &mut stopped, RETRY).map_err(failed("wait"))? {
            return Ok(());
        }
    };
    // Watched before looked at, so that nothing is missed between.
    let mut watched = None;
    loop {
        if watched.is_none() {
            watched = watch_directory(&options.conf_dir).ok();
        }
        // An entry without its program would fail every pod of the node.
        if !options.bin_dir.join(PLUGIN).exists()
            && let Some(line) = install::install_program(&options.bin_dir)?
        {
            say(&line);
        }
        let pause = match install::chain(options) {
            Ok(changed) => {
                if let Some(line) = changed {
                    say(&line);
                }
                told.clear();
                LOOK
            }
            Err(error) => {
                tell(&mut told, &error.to_string(), &mut say);
                RETRY
            }
        };
        if wait(watched.as_ref(), &mut stopped, pause).map_err(failed("wait"))? {
            return Ok(());
        }
        if watched.as_ref().is_some_and(|events| !drain(events)) {
            // The directory itself went; another may come in its place.
            watched = None;
        }
    }
}

fn tell(told: &mut String, line: &str, say: &mut impl FnMut(&str)) {
    if told != line {
        say(line);
        line.clone_into(told);
    }
}

fn watch_directory(directory: &Path) -> io::Result<OwnedFd> {
    use inotify::WatchFlags;
    let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let flags = WatchFlags::CLOSE_WRITE
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR;
    inotify::add_watch(&events, directory, flags)?;
    Ok(events)
}

/// Reads all events away. False: the directory is not there any more.
fn drain(events: &OwnedFd) -> bool {
    use inotify::ReadFlags;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(events, &mut buffer);
    loop {
        match reader.next() {
            Ok(event) => {
                let gone = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED;
                if event.events().intersects(gone) {
                    return false;
                }
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return true,
            Err(_) => return false,
        }
    }
}

/// Waits for an event or a while. True: a signal has come.
fn wait(events: Option<&OwnedFd>, stopped: &mut UnixStream, pause: Duration) -> io::Result<bool> {
    let timeout = Timespec {
        tv_sec: i64::try_from(pause.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(pause.subsec_nanos()),
    };
    let mut polled = vec![PollFd::from_borrowed_fd(stopped.as_fd(), PollFlags::IN)];
    polled.extend(events.map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)));
    let happened = match poll(&mut polled, Some(&timeout)) {
        Ok(count) => count > 0,
        Err(Errno::INTR) => false,
        Err(error) => return Err(error.into()),
    };
    drop(polled);
    let mut byte = [0];
    match stopped.read(&mut byte) {
        Ok(_) => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    if happened {
        thread::sleep(SETTLE);
    }
    Ok(false)
}
