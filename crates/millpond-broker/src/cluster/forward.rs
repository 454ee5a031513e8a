//! A client's request that the controller is to carry out goes there as it came, whatever broker it came to.

use std::net::SocketAddr;

use bytes::Bytes;

use super::messages::{self, Forwarded, KAFKA};
use crate::controller::Controller;
use crate::errors::ControllerError;

/// What came of a request that was passed on.
pub(crate) enum Passed {
    /// The controller's response, its length in front.
    Answered(Bytes),
    /// Nobody has carried it out: there was no controller in time, or it refused.
    NotDone,
    /// The controller was asked and did not answer: it may have carried it out.
    Unknown,
}

/// Has the controller carry a request out.
pub(crate) async fn forward(controller: &Controller, client: SocketAddr, frame: Bytes) -> Passed {
    let request = messages::write(&Forwarded { client: client.to_string(), frame });
    match controller.ask_controller(KAFKA, request).await {
        Ok(response) => Passed::Answered(response),
        Err(error) => {
            tracing::debug!("a request for the controller has no answer: {error}");
            if matches!(error, ControllerError::NoAnswer) { Passed::Unknown } else { Passed::NotDone }
        }
    }
}
