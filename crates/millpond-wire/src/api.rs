//! API keys and what is known of each API.

use std::fmt;

use crate::API_TABLE;
use crate::message::Request;

/// The number of an API; the constants are the ones that this crate has messages for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiKey(pub i16);

/// One row of [`API_TABLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiSpec {
    pub key: ApiKey,
    /// Kafka's name, as `Produce`.
    pub name: &'static str,
    /// The versions that Kafka's specification has; what a broker advertises may differ.
    pub min: i16,
    pub max: i16,
    /// The first version with compact lengths and tagged fields.
    pub first_flexible: Option<i16>,
    /// A version that Kafka has not made final, and does not advertise.
    pub unstable: Option<i16>,
}

impl ApiKey {
    /// The key, when this crate has messages for it.
    pub fn from_i16(key: i16) -> Option<ApiKey> {
        ApiKey(key).spec().map(|spec| spec.key)
    }

    pub fn spec(self) -> Option<&'static ApiSpec> {
        API_TABLE.binary_search_by_key(&self, |spec| spec.key).ok().map(|at| &API_TABLE[at])
    }

    /// Kafka's name, as `Produce`.
    pub fn name(self) -> Option<&'static str> {
        self.spec().map(|spec| spec.name)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({self})")
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "API {}", self.0),
        }
    }
}

/// Something to do with the request type of an API that is known only as a number.
pub trait RequestVisitor {
    type Output;
    fn visit<R: Request>(self) -> Self::Output;
}
