//! The heads of messages.

/// What is to be done.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CallHead {
    #[prost(uint32, tag = "1")]
    pub(super) service: u32,
}

/// What came of it.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CallAnswerHead {
    /// Why it was not done.
    #[prost(string, optional, tag = "1")]
    pub(super) refused: Option<String>,
}
