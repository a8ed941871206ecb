//! Certificates that the server makes for itself: an authority, and its own signed by it.
//!
//! [`Tls::rotate`] makes a new authority, as when a cluster's is replaced: connections that are open
//! go on, new ones need the new [`Tls::ca_pem`].

use std::io;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// The server's certificates.
pub struct Tls {
    names: Vec<String>,
    ca_pem: String,
    acceptor: TlsAcceptor,
}

impl Tls {
    /// Certificates for these names and addresses.
    ///
    /// # Errors
    /// A name cannot stand in a certificate.
    pub fn new(names: &[String]) -> io::Result<Tls> {
        let (ca_pem, acceptor) = make(names).map_err(io::Error::other)?;
        Ok(Tls { names: names.to_vec(), ca_pem, acceptor })
    }

    /// Replaces authority and certificate.
    ///
    /// # Errors
    /// As [`Tls::new`].
    pub fn rotate(&mut self) -> io::Result<()> {
        *self = Tls::new(&self.names)?;
        Ok(())
    }

    /// The authority's certificate.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// What accepts connections.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn make(names: &[String]) -> Result<(String, TlsAcceptor), Failure> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(names.to_vec())?.signed_by(&key, &issuer)?;
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((ca_certificate.pem(), TlsAcceptor::from(Arc::new(config))))
}
