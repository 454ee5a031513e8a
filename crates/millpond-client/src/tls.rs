//! TLS over another transport: Kafka's `security.protocol=SSL`.
//!
//! The protocol itself is rustls, with ring; TLS 1.2 and 1.3, and none of what Kafka's clients can be told to do
//! without: the certificate must lead to an authority that is trusted, and must be for the host that was asked for.

use std::fmt;
use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{CertificateError, ClientConfig, Error as TlsError, RootCertStore};

use crate::address::Address;
use crate::error::{Error, Result};
use crate::transport::{Duplex, Tcp, Transport};

/// Whom a client trusts, and who it says that it is.
///
/// ```no_run
/// # async fn run(authorities: &[u8]) -> Result<(), millpond_client::Error> {
/// use std::sync::Arc;
/// use millpond_client::{Admin, ClientConfig, Cluster, Tls, TlsConfig};
///
/// let tls = Tls::new(TlsConfig::authorities(authorities)?)?;
/// let cluster = Cluster::connect_with(ClientConfig::new("broker-1.example:9093")?, Arc::new(tls)).await?;
/// let admin = Admin::from(cluster);
/// # drop(admin);
/// # Ok(())
/// # }
/// ```
pub struct TlsConfig {
    authorities: RootCertStore,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    server_name: Option<ServerName<'static>>,
}

/// The key is nobody's to see.
impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = f.debug_struct("TlsConfig");
        told.field("authorities", &self.authorities.len()).field("has_certificate", &self.identity.is_some());
        told.field("server_name", &self.server_name).finish()
    }
}

impl TlsConfig {
    /// Trusts the authorities that the system trusts.
    ///
    /// # Errors
    /// [`Error::Tls`] when the system has none.
    pub fn system() -> Result<TlsConfig> {
        let found = rustls_native_certs::load_native_certs();
        let mut authorities = RootCertStore::empty();
        // Some of what systems have is of no use; what is left out is not trusted.
        let (added, _) = authorities.add_parsable_certificates(found.certs);
        if added == 0 {
            let reason = found.errors.first().map_or_else(|| "it has none".to_owned(), ToString::to_string);
            return Err(unusable(format!("the system's authorities cannot be had: {reason}")));
        }
        Ok(TlsConfig { authorities, identity: None, server_name: None })
    }

    /// Trusts these authorities and nobody else: the certificates of a PEM file, as Kafka's `ssl.truststore.location`
    /// with `ssl.truststore.type=PEM`.
    ///
    /// # Errors
    /// [`Error::Tls`] when there is none in it, or one that is none.
    pub fn authorities(pem: &[u8]) -> Result<TlsConfig> {
        let mut authorities = RootCertStore::empty();
        for certificate in certificates(pem, "of the authorities")? {
            authorities.add(certificate).map_err(|error| unusable(format!("an authority is refused: {error}")))?;
        }
        Ok(TlsConfig { authorities, identity: None, server_name: None })
    }

    /// Says who it is to brokers that ask (`ssl.client.auth`): the certificate, followed by those that lead to its
    /// authority, and its private key (PKCS #8, PKCS #1 or SEC 1, not encrypted), both as PEM. Default: nothing.
    ///
    /// # Errors
    /// [`Error::Tls`] when one of the two is not there or cannot be read.
    pub fn certificate(mut self, chain_pem: &[u8], key_pem: &[u8]) -> Result<TlsConfig> {
        let chain = certificates(chain_pem, "of the client")?;
        let key = PrivateKeyDer::from_pem_slice(key_pem);
        let key = key.map_err(|error| unusable(format!("there is no private key in the PEM: {error}")))?;
        self.identity = Some((chain, key));
        Ok(self)
    }

    /// The name that the certificates of all brokers must be for. Default: of each the host that it is reached at.
    ///
    /// # Errors
    /// [`Error::Tls`] for what is neither a name of the DNS nor an IP address.
    pub fn server_name(mut self, name: &str) -> Result<TlsConfig> {
        self.server_name = Some(host_name(name).map_err(unusable)?);
        Ok(self)
    }
}

fn certificates(pem: &[u8], whose: &str) -> Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| unusable(format!("the certificates {whose} cannot be read: {error}")))?;
    match found.is_empty() {
        true => Err(unusable(format!("there is no certificate {whose} in the PEM"))),
        false => Ok(found),
    }
}

fn unusable(reason: String) -> Error {
    Error::Tls { reason }
}

fn host_name(name: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(name.to_owned()).map_err(|_| format!("'{name}' is neither a host's name nor an IP address"))
}

/// TLS over another transport. A broker that is not trusted is [`Error::Untrusted`], and not asked again.
#[derive(Clone)]
pub struct Tls<T = Tcp> {
    inner: T,
    connector: TlsConnector,
    server_name: Option<ServerName<'static>>,
}

impl Tls {
    /// TLS over TCP.
    ///
    /// # Errors
    /// [`Error::Tls`] when the private key is not that of the certificate.
    pub fn new(config: TlsConfig) -> Result<Tls> {
        Tls::over(Tcp, config)
    }
}

impl<T: Transport> Tls<T> {
    /// TLS over this transport.
    ///
    /// # Errors
    /// As of [`new`](Tls::new).
    pub fn over(inner: T, config: TlsConfig) -> Result<Tls<T>> {
        // Named, not taken from the process: another crate may have set another provider.
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| unusable(error.to_string()))?;
        let builder = builder.with_root_certificates(config.authorities);
        let client = match config.identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key),
            None => Ok(builder.with_no_client_auth()),
        };
        let client = client.map_err(|error| unusable(format!("the client's certificate is of no use: {error}")))?;
        let connector = TlsConnector::from(Arc::new(client));
        Ok(Tls { inner, connector, server_name: config.server_name })
    }
}

impl<T: Transport> Transport for Tls<T> {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Duplex>>> {
        Box::pin(async move {
            let name = match &self.server_name {
                Some(name) => name.clone(),
                None => {
                    host_name(&address.host).map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason))?
                }
            };
            let stream = self.inner.connect(address).await?;
            let secured = self.connector.connect(name.clone(), stream).await;
            Ok(Box::new(secured.map_err(|error| explained(error, &name))?) as Box<dyn Duplex>)
        })
    }

    fn spawn(&self, work: BoxFuture<'static, ()>) {
        self.inner.spawn(work);
    }

    fn random_u64(&self) -> u64 {
        self.inner.random_u64()
    }

    fn wall_clock_ms(&self) -> i64 {
        self.inner.wall_clock_ms()
    }
}

/// Why there is no trust, with the way out. A connection that ends is tried again: the broker may be going away.
fn explained(error: io::Error, name: &ServerName<'_>) -> io::Error {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    let reason = match tls {
        None if matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof) => {
            let reason = "it ends the connection while TLS is set up; its port may be one for plain text";
            return io::Error::new(error.kind(), reason);
        }
        None => return error,
        // A bad signature is one of another authority that has the same name.
        Some(TlsError::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            "its certificate leads to no authority that is trusted here; the one that signed it must be among them"
                .to_owned()
        }
        Some(TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => format!(
            "its certificate is not for '{}'; where that is right, the server's name to expect must be set",
            name.to_str()
        ),
        Some(TlsError::InvalidMessage(_)) => "it does not answer as TLS; its port may be one for plain text".to_owned(),
        Some(other) => other.to_string(),
    };
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
