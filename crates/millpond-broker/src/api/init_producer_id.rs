//! InitProducerId (KIP-98, KIP-360) for idempotent producers: a new id with epoch 0, each time.

use millpond_wire::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use millpond_wire::{ApiKey, ErrorCode};

use crate::dispatch::{Api, Call, Step};
use crate::errors;

pub(crate) const API: Api =
    Api { key: ApiKey::INIT_PRODUCER_ID, advertised: (0, 5), served_from: 0, handle, pipelined: false };

fn handle(mut call: Call) -> Step {
    let request: InitProducerIdRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    if let Err(code) = check(&request) {
        return Step::Reply(call.answer(&failed(code)));
    }
    Step::Stage(Box::pin(async move {
        let response = match call.shared.producer_ids.next().await {
            Ok(id) => InitProducerIdResponse { producer_id: id.0, producer_epoch: 0, ..Default::default() },
            Err(error) => failed(errors::producer_ids(&error)),
        };
        Step::Reply(call.answer(&response))
    }))
}

fn failed(code: ErrorCode) -> InitProducerIdResponse {
    InitProducerIdResponse { error_code: code.0, producer_id: -1, producer_epoch: -1, ..Default::default() }
}

/// An idempotent producer may name the id and epoch that it had (it gets a new id all the same), but not one of them.
fn check(request: &InitProducerIdRequest) -> Result<(), ErrorCode> {
    let has_id = request.producer_id != -1;
    let has_epoch = request.producer_epoch != -1;
    match request.transactional_id.as_deref() {
        Some("") => Err(ErrorCode::INVALID_REQUEST),
        _ if has_id != has_epoch => Err(ErrorCode::INVALID_REQUEST),
        Some(_) => Err(errors::TRANSACTIONS_NOT_SERVED),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_without_epoch_an_epoch_without_id_and_an_empty_transactional_id_are_invalid() {
        let request = |id: Option<&'static str>, producer_id, producer_epoch| InitProducerIdRequest {
            transactional_id: id.map(Into::into),
            producer_id,
            producer_epoch,
            ..Default::default()
        };
        assert_eq!(check(&request(None, -1, -1)), Ok(()));
        assert_eq!(check(&request(None, 7, 0)), Ok(()));
        for bad in [request(None, 5, -1), request(None, -1, 3), request(Some(""), -1, -1)] {
            assert_eq!(check(&bad), Err(ErrorCode::INVALID_REQUEST), "{bad:?}");
        }
        assert_eq!(check(&request(Some("t"), -1, -1)), Err(errors::TRANSACTIONS_NOT_SERVED));
    }
}
