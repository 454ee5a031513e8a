//! Text as it lies in a frame.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

use bytes::Bytes;

/// Immutable UTF-8 text over [`Bytes`]: a clone is cheap, and a decoded one shares the memory of its frame.
///
/// What outlives the request should be [`detached`](Str::detached), or it keeps the whole frame alive.
#[derive(Clone, Default)]
pub struct Str(Bytes);

impl Str {
    /// The empty text.
    pub const EMPTY: Str = Str(Bytes::new());

    /// Text that needs no memory of its own.
    pub const fn from_static(text: &'static str) -> Str {
        Str(Bytes::from_static(text.as_bytes()))
    }

    /// Takes the bytes as text when they are valid UTF-8, without copying; otherwise gives them back.
    pub fn from_utf8(bytes: Bytes) -> Result<Str, Bytes> {
        match std::str::from_utf8(&bytes) {
            Ok(_) => Ok(Str(bytes)),
            Err(_) => Err(bytes),
        }
    }

    pub fn as_str(&self) -> &str {
        // SAFETY: every constructor takes a `str` or has validated the bytes, and they are immutable.
        unsafe { std::str::from_utf8_unchecked(&self.0) }
    }

    /// The UTF-8 bytes, sharing this text's memory.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// A copy in memory of its own.
    pub fn detached(&self) -> Str {
        Str(Bytes::copy_from_slice(&self.0))
    }
}

impl Deref for Str {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Str {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for Str {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for Str {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Str {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

impl PartialEq for Str {
    fn eq(&self, other: &Str) -> bool {
        self.0 == other.0
    }
}

impl Eq for Str {}

impl PartialEq<str> for Str {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Str {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialOrd for Str {
    fn partial_cmp(&self, other: &Str) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Str {
    fn cmp(&self, other: &Str) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

/// As `str`'s, so that a map keyed by `Str` is asked with a `&str`.
impl Hash for Str {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl From<&str> for Str {
    fn from(text: &str) -> Str {
        Str(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<String> for Str {
    fn from(text: String) -> Str {
        Str(Bytes::from(text.into_bytes()))
    }
}

impl From<Str> for String {
    fn from(text: Str) -> String {
        text.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_map_keyed_by_str_is_asked_with_borrowed_text() {
        let map = BTreeMap::from([(Str::from("orders"), 1), (Str::from_static("payments"), 2)]);
        assert_eq!(map.get("payments"), Some(&2));
        assert_eq!(map.get("refunds"), None);
    }

    #[test]
    fn a_decoded_text_shares_memory_until_it_is_detached() {
        let frame = Bytes::from(b"topic-name".to_vec());
        let shared = Str::from_utf8(frame.slice(0..5)).expect("ASCII");
        assert_eq!(shared.as_ptr(), frame.as_ptr());
        assert_ne!(shared.detached().as_ptr(), frame.as_ptr());
        assert_eq!(shared.detached(), shared);
    }

    #[test]
    fn bytes_that_are_not_utf8_are_handed_back() {
        let bytes = Bytes::from_static(b"\xc3\x28");
        assert_eq!(Str::from_utf8(bytes.clone()), Err(bytes));
    }
}
