//! Kafka's error codes.

use std::fmt;

/// An error code as responses carry it. The constants come from `errors.tsv`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ErrorCode(pub i16);

/// One row of [`ERROR_TABLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorSpec {
    pub code: ErrorCode,
    /// Kafka's name, as `NOT_LEADER_OR_FOLLOWER`.
    pub name: &'static str,
    /// Whether a client tries again.
    pub retriable: bool,
    /// Whether a client asks for the metadata before it tries again.
    pub refresh: bool,
}

include!(concat!(env!("OUT_DIR"), "/errors.rs"));

impl ErrorCode {
    pub fn spec(self) -> Option<&'static ErrorSpec> {
        ERROR_TABLE.binary_search_by_key(&self, |spec| spec.code).ok().map(|at| &ERROR_TABLE[at])
    }

    /// Kafka's name; `UNKNOWN_SERVER_ERROR` for a code that it does not have, as its clients read it.
    pub fn name(self) -> &'static str {
        self.spec().map_or("UNKNOWN_SERVER_ERROR", |spec| spec.name)
    }

    pub fn is_none(self) -> bool {
        self == ErrorCode::NONE
    }

    /// Whether a client tries again.
    pub fn is_retriable(self) -> bool {
        self.spec().is_some_and(|spec| spec.retriable)
    }

    /// Whether a client asks for the metadata before it tries again.
    pub fn refreshes_metadata(self) -> bool {
        self.spec().is_some_and(|spec| spec.refresh)
    }
}

impl From<ErrorCode> for i16 {
    fn from(code: ErrorCode) -> i16 {
        code.0
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ErrorCode({} {})", self.0, self.name())
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_knows_its_name_and_how_clients_treat_it() {
        assert_eq!(ErrorCode::NOT_LEADER_OR_FOLLOWER.0, 6);
        assert_eq!(ErrorCode(6).name(), "NOT_LEADER_OR_FOLLOWER");
        assert!(ErrorCode(6).is_retriable() && ErrorCode(6).refreshes_metadata());
        assert!(ErrorCode::REQUEST_TIMED_OUT.is_retriable() && !ErrorCode::REQUEST_TIMED_OUT.refreshes_metadata());
        assert!(!ErrorCode::MESSAGE_TOO_LARGE.is_retriable());
        assert_eq!(ErrorCode(-1), ErrorCode::UNKNOWN_SERVER_ERROR);
        assert_eq!(ErrorCode(9999).name(), "UNKNOWN_SERVER_ERROR");
        assert_eq!(ErrorCode::default(), ErrorCode::NONE);
    }
}
