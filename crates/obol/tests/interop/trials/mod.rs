//! What is asserted, in the order in which it is tried.

mod aftermath;
mod consensus;
mod disturbances;
mod exit;
mod hostile;
mod onion;
mod payments;
mod positions;
mod renewal;

use crate::Case;

/// All trials. Those that disturb the network come after those that do not.
pub fn all() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(consensus::in_the_beginning());
    all.extend(positions::all());
    all.extend(exit::all());
    all.extend(payments::all());
    all.extend(onion::all());
    all.extend(disturbances::all());
    all.extend(hostile::all());
    all.extend(renewal::all());
    all.extend(aftermath::all());
    all
}
