//! TLS on the way to the brokers, as the command line asks for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use millpond_client::{Tcp, Tls, TlsConfig, Transport};

/// Whether TLS is talked to the brokers, whom they must be, and who this is to them.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "TLS")]
pub(crate) struct TlsArguments {
    /// Talk TLS to the brokers; each of the options below does so, too
    #[arg(long)]
    tls: bool,
    /// Trust the authorities in this PEM file and no others [default: those of the system]
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Expect this name in the brokers' certificates [default: of each the host that it is reached at]
    #[arg(long, value_name = "NAME")]
    tls_server_name: Option<String>,
    /// Show the certificate in this PEM file, with those that lead to its authority, to brokers that ask for one
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of that certificate, not encrypted, as a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl TlsArguments {
    fn is_wanted(&self) -> bool {
        let TlsArguments { tls, tls_ca, tls_server_name, tls_cert, tls_key: _ } = self;
        *tls || tls_ca.is_some() || tls_server_name.is_some() || tls_cert.is_some()
    }

    /// What brokers are reached with.
    pub(super) fn transport(&self) -> Result<Arc<dyn Transport>> {
        if !self.is_wanted() {
            return Ok(Arc::new(Tcp));
        }
        let mut config = match &self.tls_ca {
            Some(file) => TlsConfig::authorities(&read(file)?).map_err(|error| anyhow!("{error} (--tls-ca)"))?,
            None => TlsConfig::system().map_err(|error| anyhow!("{error}; --tls-ca FILE names others"))?,
        };
        if let Some(name) = &self.tls_server_name {
            config = config.server_name(name).map_err(|error| anyhow!("{error} (--tls-server-name)"))?;
        }
        if let (Some(chain), Some(key)) = (&self.tls_cert, &self.tls_key) {
            let shown = config.certificate(&read(chain)?, &read(key)?);
            config = shown.map_err(|error| anyhow!("{error} (--tls-cert, --tls-key)"))?;
        }
        Ok(Arc::new(Tls::new(config).map_err(|error| anyhow!("{error} (--tls-cert, --tls-key)"))?))
    }
}

#[expect(clippy::disallowed_methods, reason = "reads what a person names, which is no data directory")]
fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}
