//! The handle by which tests hold the server: how it is started and reached, and whether it is
//! there. What is done with it then is in [`control`](crate::control).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};

use crate::serve::Runner;
use crate::state::{Manners, Shared};
use crate::tls::Tls;

/// Makes the listener, and again after the server was down.
pub type Binder = Box<dyn Fn() -> io::Result<TcpListener> + Send + Sync>;

/// How a server is started.
pub struct Settings {
    /// `127.0.0.1:0`: the kernel chooses the port, which the server then keeps also while it is
    /// down.
    pub listen: SocketAddr,
    /// Makes the listener instead; for one in another network namespace.
    pub binder: Option<Binder>,
    /// Serve HTTPS, with a certificate for `listen`'s address, `localhost`,
    /// `kubernetes.default.svc` and these names.
    pub tls: Option<Vec<String>>,
    /// How it behaves.
    pub manners: Manners,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            binder: None,
            tls: None,
            manners: Manners::default(),
        }
    }
}

/// A running API server; it stops when dropped.
///
/// # Panics
/// Dropping it panics if a client did what no correct client does and the test has not called
/// [`ApiServer::take_complaints`]: an unknown parameter, a wrong content type, a verb that its
/// ClusterRole does not allow.
pub struct ApiServer {
    pub(crate) shared: Arc<Shared>,
    tls: Arc<Mutex<Option<Tls>>>,
    runner: Runner,
    address: SocketAddr,
    binder: Binder,
    /// Holds the port while the server is down; never listens.
    _port: Option<OwnedFd>,
}

/// A socket with the address, so that the kernel gives its port to nobody while nothing listens.
fn reserve(address: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let held = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_reuseaddr(&held, true)?;
    bind(&held, &address)?;
    let address = SocketAddr::try_from(getsockname(&held)?)?;
    Ok((held, address))
}

impl ApiServer {
    /// Starts a server without objects that listens.
    ///
    /// # Errors
    /// The address cannot be had, or a name is none for a certificate.
    pub fn start(settings: Settings) -> io::Result<ApiServer> {
        let (port, binder, listener): (_, Binder, _) = match settings.binder {
            Some(binder) => {
                let listener = binder()?;
                (None, binder, listener)
            }
            None => {
                let (port, address) = reserve(settings.listen)?;
                let binder: Binder = Box::new(move || TcpListener::bind(address));
                let listener = binder()?;
                (Some(port), binder, listener)
            }
        };
        let address = listener.local_addr()?;
        let tls = match settings.tls {
            None => None,
            Some(mut names) => {
                names.push(address.ip().to_string());
                names.extend(["localhost", "kubernetes.default.svc"].map(str::to_owned));
                Some(Tls::new(&names)?)
            }
        };
        let shared = Arc::new(Shared::new(settings.manners));
        let tls = Arc::new(Mutex::new(tls));
        let runner = Runner::start(Arc::clone(&shared), Arc::clone(&tls), &address.to_string())?;
        runner.listen(listener)?;
        Ok(ApiServer { shared, tls, runner, address, binder, _port: port })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// `https://127.0.0.1:40123`
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.ca_pem().is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The authority's certificate, if it serves HTTPS.
    #[must_use]
    pub fn ca_pem(&self) -> Option<String> {
        let tls = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        tls.as_ref().map(|tls| tls.ca_pem().to_owned())
    }

    /// Replaces authority and certificate; open connections go on.
    ///
    /// # Errors
    /// There can be no keys.
    pub fn rotate_ca(&self) -> io::Result<()> {
        let mut tls = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        tls.as_mut().map_or(Ok(()), Tls::rotate)
    }

    /// A kubeconfig for this server: without a token, or with this one.
    #[must_use]
    pub fn kubeconfig(&self, token: Option<&str>) -> String {
        let mut cluster = serde_json::json!({"server": self.url()});
        if let Some(pem) = self.ca_pem() {
            cluster["certificate-authority-data"] = base64(pem.as_bytes()).into();
        }
        let user = token.map_or_else(|| serde_json::json!({}), |t| serde_json::json!({"token": t}));
        let context = serde_json::json!({"cluster": "test", "user": "test"});
        // JSON is YAML.
        serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": context}],
        })
        .to_string()
    }

    /// Writes `token`, `ca.crt` and `namespace` as a kubelet puts them into
    /// `/var/run/secrets/kubernetes.io/serviceaccount`. Each is replaced at once.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn write_service_account(&self, dir: &Path, token: &str) -> io::Result<()> {
        let ca = self.ca_pem().unwrap_or_default();
        for (name, text) in [("token", token), ("ca.crt", ca.as_str()), ("namespace", "weir")] {
            let aside = dir.join(format!(".{name}.new"));
            std::fs::write(&aside, text)?;
            std::fs::rename(&aside, dir.join(name))?;
        }
        Ok(())
    }

    /// Answers nothing and sends nothing, but accepts connections.
    pub fn freeze(&self) {
        self.shared.frozen.send_replace(true);
    }

    /// Goes on.
    pub fn thaw(&self) {
        self.shared.frozen.send_replace(false);
    }

    /// Closes every connection, and has when it returns; new ones are accepted.
    ///
    /// # Errors
    /// The server's thread is over.
    pub fn close_connections(&self) -> io::Result<()> {
        self.runner.close()
    }

    /// Closes the listener and every connection, as when the process is killed; objects stay.
    ///
    /// # Errors
    /// The server's thread is over.
    pub fn down(&self) -> io::Result<()> {
        self.runner.down()
    }

    /// Listens again, on the same port.
    ///
    /// # Errors
    /// The port cannot be had.
    pub fn up(&self) -> io::Result<()> {
        self.runner.down()?;
        self.runner.listen((self.binder)()?)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shared.frozen.send_replace(false);
        let complaints = self.take_complaints();
        assert!(
            complaints.is_empty() || std::thread::panicking(),
            "clients asked what no correct one asks:\n{}",
            complaints.join("\n")
        );
    }
}

/// Standard base64, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut word = [0_u8; 4];
        word[1..=chunk.len()].copy_from_slice(chunk);
        let word = u32::from_be_bytes(word);
        for digit in 0..4 {
            let index = (word >> (18 - 6 * digit)) & 63;
            out.push(if digit > chunk.len() { '=' } else { char::from(DIGITS[index as usize]) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_rfc_4648_has_it() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    /// A port that nothing listens to refuses, and is still ours.
    #[test]
    fn port_is_kept_while_down() {
        let server = ApiServer::start(Settings::default()).unwrap();
        let connects = || std::net::TcpStream::connect(server.address()).is_ok();
        assert!(connects());
        for _ in 0..3 {
            server.down().unwrap();
            assert!(!connects());
            server.up().unwrap();
            assert!(connects());
        }
    }
}
