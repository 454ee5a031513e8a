//! A client's request that the controller is to carry out goes there as it came, whatever broker it came to.

use std::net::SocketAddr;

use bytes::Bytes;

use super::messages::{self, Forwarded, KAFKA};
use crate::controller::Controller;

/// The controller's response to a request, its length in front. `None` when there was no controller in time, or it did
/// not answer: this broker's own answer says so then.
pub(crate) async fn forward(controller: &Controller, client: SocketAddr, frame: Bytes) -> Option<Bytes> {
    let request = messages::write(&Forwarded { client: client.to_string(), frame });
    match controller.ask_controller(KAFKA, request).await {
        Ok(response) => Some(response),
        Err(error) => {
            tracing::debug!("a request for the controller was not carried out: {error}");
            None
        }
    }
}
