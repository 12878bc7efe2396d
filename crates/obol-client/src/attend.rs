//! One task for each tunnel: it holds the tunnel's conversations and reports its traffic.

use std::sync::Arc;
use std::time::Duration;

use obol_toll::payer::CloseReason;
use tokio::sync::mpsc;
use tracing::debug;

use crate::cashier::Note;
use crate::talk::{Order, Talker};
use crate::tunnels::Tunnel;

/// Traffic is reported at most this often: a fast tunnel would otherwise wake the payer for every read.
const TRAFFIC_INTERVAL: Duration = Duration::from_millis(5);

/// Attends to a tunnel until it closes. Orders that come after that are dropped.
pub(crate) async fn attend(
    tunnel: Arc<Tunnel>,
    mut orders: mpsc::UnboundedReceiver<Order>,
    notes: mpsc::UnboundedSender<Note>,
) {
    let id = tunnel.id();
    let mut talker = Talker::new(id, notes.clone());
    let mut reported = (0, 0);
    if let Some(circuit) = tunnel.circuit() {
        let closed = circuit.wait_for_close();
        drop(circuit);
        let mut closed = std::pin::pin!(closed);
        loop {
            let traffic = async {
                tunnel.meter().beyond(reported.0 + reported.1).await;
                tokio::time::sleep(TRAFFIC_INTERVAL).await;
            };
            tokio::select! {
                () = &mut closed => break,
                order = orders.recv() => {
                    // Without a circuit, or after the client's end, there is nothing left to carry out.
                    let (Some(order), Some(circuit)) = (order, tunnel.circuit()) else { break };
                    if let Err(error) = talker.carry_out(&circuit, order).await {
                        debug!(tunnel = id.0, %error, "the tunnel is given up");
                        drop(circuit);
                        closed.await;
                        break;
                    }
                }
                () = traffic => {
                    let cells = tunnel.meter().cells();
                    let (up, down) = (cells.0 - reported.0, cells.1 - reported.1);
                    reported = cells;
                    if notes.send(Note::Traffic { tunnel: id, up, down }).is_err() {
                        break;
                    }
                }
            }
        }
    }
    let why = if tunnel.broke() {
        CloseReason::Broke
    } else {
        CloseReason::Unused
    };
    // Nobody listens any more at the client's end.
    let _ = notes.send(Note::Closed { tunnel: id, why });
}
