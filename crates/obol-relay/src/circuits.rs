//! The public-key work of new circuits: the engine's handshake jobs, answered.

use obol_onion::engine::{HandshakeAnswer, HandshakeJob, HandshakeKind};
use obol_onion::handshake::{RelayOnionKeys, fast, ntor, ntor_v3};
use rand::Rng as _;
use tracing::debug;

/// Answers a handshake; `None`: it is refused. Takes some hundred microseconds.
pub(crate) fn answer(keys: &RelayOnionKeys, job: &HandshakeJob) -> Option<HandshakeAnswer> {
    let mut random = [0; 32];
    rand::rng().fill_bytes(&mut random);
    let offer = ntor_v3::Offer {
        congestion_control: job.congestion_control,
    };
    let answered = match job.kind {
        HandshakeKind::Fast => {
            let mut y = [0; 20];
            y.copy_from_slice(&random[..20]);
            fast::respond(&job.onionskin, &y).map(|(reply, keys)| (reply.to_vec(), keys, None))
        }
        HandshakeKind::Ntor => {
            ntor::respond(keys, &job.onionskin, random).map(|(reply, keys)| (reply.to_vec(), keys, None))
        }
        HandshakeKind::NtorV3 => ntor_v3::respond(keys, &job.onionskin, random, offer)
            .map(|(reply, keys, agreed)| (reply, keys, agreed.congestion_control)),
    };
    match answered {
        Ok((reply, keys, congestion_control)) => Some(HandshakeAnswer {
            reply,
            keys,
            congestion_control,
        }),
        Err(error) => {
            debug!(%error, "a circuit handshake is refused");
            None
        }
    }
}
