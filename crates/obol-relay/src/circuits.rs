//! The public-key work of circuits: the engine's handshake jobs and the signatures of onion services.

use std::time::Instant;

use obol_onion::engine::{CircuitId, Engine, HandshakeAnswer, HandshakeJob, HandshakeKind, IntroductionProof, Time};
use obol_onion::handshake::{RelayOnionKeys, fast, ntor, ntor_v3};
use rand::Rng as _;
use tracing::debug;

/// What a worker has to do.
#[derive(Debug)]
pub(crate) enum Job {
    Handshake(HandshakeJob),
    Introduction(IntroductionProof),
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Done {
    /// With the microseconds that it took.
    Handshake(CircuitId, Option<HandshakeAnswer>, u64),
    Introduction(CircuitId, bool),
}

impl Job {
    /// Its turn has come: whether it has to be done at all.
    pub(crate) fn take_up(&self, engine: &mut Engine, now: Time) -> bool {
        match self {
            Job::Handshake(job) => engine.take_up(now, job),
            Job::Introduction(_) => true,
        }
    }

    /// Does it. Takes some hundred microseconds.
    pub(crate) fn done(&self, keys: &RelayOnionKeys) -> Done {
        match self {
            Job::Handshake(job) => {
                let start = Instant::now();
                let answer = answer(keys, job);
                let took = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
                Done::Handshake(job.circuit, answer, took)
            }
            Job::Introduction(proof) => Done::Introduction(proof.circuit, proof.holds()),
        }
    }
}

impl Done {
    /// Lets the engine know.
    pub(crate) fn tell(self, engine: &mut Engine, now: Time) {
        match self {
            Done::Handshake(circuit, answer, took) => {
                engine.handshake_took(took);
                engine.created(now, circuit, answer);
            }
            Done::Introduction(circuit, holds) => engine.introduced(now, circuit, holds),
        }
    }
}

/// Answers a handshake; `None`: it is refused.
fn answer(keys: &RelayOnionKeys, job: &HandshakeJob) -> Option<HandshakeAnswer> {
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
