//! Where a broker is reached.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// The longest host name of the DNS, in bytes.
const MAX_HOST_BYTES: usize = 253;

/// `HOST:PORT`; an IPv6 address stands in brackets, as `[::1]:9092`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

impl Address {
    /// The address that a broker tells of itself or of another; `None` for one that nobody can connect to.
    pub(crate) fn told(host: &str, port: i32) -> Option<Address> {
        let port = u16::try_from(port).ok().filter(|port| *port != 0)?;
        let good = !host.is_empty() && host.len() <= MAX_HOST_BYTES;
        good.then(|| Address { host: host.to_owned(), port })
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Address, Error> {
        let refused = || Error::Address { text: text.chars().take(MAX_HOST_BYTES).collect() };
        let (host, port) = text.trim().rsplit_once(':').ok_or_else(refused)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if host.contains(|letter: char| letter.is_whitespace() || letter == ',' || letter == '/')
            || (bare.is_none() && host.contains(':'))
        {
            return Err(refused());
        }
        let port: u16 = port.parse().map_err(|_| refused())?;
        Address::told(bare.unwrap_or(host), i32::from(port)).ok_or_else(refused)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_as_it_is_written() {
        for text in ["127.0.0.1:9092", "broker-1.example:1", "[::1]:65535"] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.to_string(), text);
        }
        assert_eq!("[::1]:9092".parse::<Address>().expect("IPv6").host, "::1");
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_text() {
        for text in ["", "host", "host:", ":9092", "host:0", "host:70000", "::1:9092", "a b:1", "http://x:1"] {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert_eq!(error, format!("'{text}' is no address; it must have the form HOST:PORT"));
        }
        assert_eq!(Address::told("host", -1), None);
        assert_eq!(Address::told("", 9092), None);
        assert_eq!(Address::told(&"x".repeat(300), 9092), None);
    }
}
