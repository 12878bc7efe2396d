//! Which escrows may be used here: those that were opened at this attachment to a network ([`crate::place`]).

use std::collections::HashMap;

use obol_cell::EscrowId;
use obol_store::StoreError;
use tracing::debug;

use super::Wallet;
use crate::cashier::Note;
use crate::place::{LOOK_EVERY, Mark};

/// The journal's secrets: for each escrow, a mark of the place where it was opened. One without may be used everywhere.
pub(super) const PLACES: &str = "place";

impl Wallet {
    /// What the journal has of places; marks of escrows that are gone go, too.
    pub(super) async fn restore_places(&self, is_there: impl Fn(&EscrowId) -> bool) -> Result<(), StoreError> {
        let mut marks = HashMap::new();
        for (id, mark) in self.inner.journal.secrets(PLACES).await? {
            let escrow = <[u8; 32]>::try_from(id.as_slice()).map(EscrowId);
            match (escrow, Mark::from_bytes(&mark)) {
                (Ok(escrow), Some(mark)) if is_there(&escrow) => {
                    marks.insert(escrow, mark);
                }
                _ => self.inner.journal.forget_secret(PLACES, &id).await?,
            }
        }
        self.state().marks = marks;
        Ok(())
    }

    /// Durable before anybody is offered the escrow.
    pub(super) async fn mark_place(&self, escrow: EscrowId) -> Result<(), StoreError> {
        let Some(place) = self.inner.whereabouts.as_ref().map(|ask| ask()) else {
            return Ok(());
        };
        if !place.is_somewhere() {
            return Ok(());
        }
        let mark = place.mark(&escrow);
        self.inner
            .journal
            .keep_secret(PLACES, &escrow.0, &mark.to_bytes())
            .await?;
        self.state().marks.insert(escrow, mark);
        Ok(())
    }

    /// The escrows that were opened elsewhere, in their order; `None`: nobody asks, or this machine is nowhere just now.
    pub(crate) fn away(&self) -> Option<Vec<EscrowId>> {
        let place = self.inner.whereabouts.as_ref()?();
        if !place.is_somewhere() {
            return None;
        }
        let state = self.state();
        let elsewhere = state.marks.iter().filter(|(id, mark)| mark.is_elsewhere(id, &place));
        let mut away: Vec<EscrowId> = elsewhere.map(|(id, _)| *id).collect();
        away.sort_unstable();
        Some(away)
    }

    /// Tells the payer whenever the place changes.
    pub(super) fn watch_places(&self) {
        if self.inner.whereabouts.is_none() {
            return;
        }
        let wallet = self.clone();
        // Whoever makes the payer tells it this.
        let mut told = self.away().unwrap_or_default();
        self.spawn(async move {
            loop {
                if let Some(away) = wallet.away()
                    && away != told
                {
                    debug!(away = away.len(), "escrows of other places are not used here");
                    told.clone_from(&away);
                    wallet.tell(Note::Away { escrows: away });
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
    }
}
