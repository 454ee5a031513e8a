//! Where another broker listens, as an operator writes it.

use std::fmt;
use std::str::FromStr;

/// A host name or IP address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// Name or address, without brackets.
    pub host: String,
    /// 0 to 65535.
    pub port: u16,
}

/// A text that is not `HOST:PORT`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an address is HOST:PORT, with an IPv6 address in brackets")]
pub struct InvalidHostPort;

impl FromStr for HostPort {
    type Err = InvalidHostPort;

    /// Parses `HOST:PORT`; an IPv6 address is written in brackets.
    fn from_str(text: &str) -> Result<HostPort, InvalidHostPort> {
        let (host, port) = text.rsplit_once(':').ok_or(InvalidHostPort)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let name = bracketed.unwrap_or(host);
        let sane = !name.is_empty() && name.len() <= 255 && name.chars().all(|c| c.is_ascii_graphic());
        if !sane || (bracketed.is_none() && name.contains(':')) {
            return Err(InvalidHostPort);
        }
        Ok(HostPort { host: name.to_owned(), port: port.parse().map_err(|_| InvalidHostPort)? })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HostPort { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_as_it_is_written() {
        for text in ["localhost:9092", "10.0.0.1:0", "[::1]:9093", "broker-1.example:65535"] {
            assert_eq!(text.parse::<HostPort>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "localhost", ":9092", "::1:9092", "a:b", "a:65536", "a b:1", "[]:1", "a:-1"] {
            assert_eq!(text.parse::<HostPort>(), Err(InvalidHostPort), "{text:?}");
        }
    }
}
