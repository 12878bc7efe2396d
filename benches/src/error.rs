//! Why nothing was measured.

use std::io;

use crate::ctor::CTorError;
use crate::lane::LaneError;
use crate::ours::OursError;
use crate::path::PathError;

/// See the [module](self).
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Our relays.
    #[error("our relays")]
    Ours(#[from] OursError),
    /// C Tor.
    #[error("C Tor")]
    CTor(#[from] CTorError),
    /// A download.
    #[error("over {whose}")]
    Lane {
        /// Whose relays.
        whose: &'static str,
        /// Why.
        #[source]
        error: LaneError,
    },
    /// The floor programs.
    #[error("the floor programs")]
    Floor(#[source] io::Error),
    /// The long path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A process or a file.
    #[error("{what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// The harness.
    #[error("the load driver's thread panicked")]
    Panicked,
}
