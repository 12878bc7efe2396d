//! C Tor's defences against floods, where the operator knows better than the consensus: its torrc options `DoS*`, and
//! `MaxOnionQueueDelay`.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{ConfigError, Span, invalid};

/// What is absent is as the consensus says, and else as C Tor's defaults are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Defence {
    /// Whether an address may have only so many client links, and open them only so fast (`DoSConnectionEnabled`).
    pub connections: Option<bool>,
    /// Client links of an address at once (`DoSConnectionMaxConcurrentCount`).
    pub connection_count: Option<u32>,
    /// New client links of an address a second (`DoSConnectionConnectRate`).
    pub connection_rate: Option<u32>,
    /// New client links of an address at once (`DoSConnectionConnectBurst`).
    pub connection_burst: Option<u32>,
    /// How long an address that was faster is turned away (`DoSConnectionConnectDefenseTimePeriod`).
    pub connection_penalty: Option<Span>,
    /// Whether an address with several links may open circuits only so fast (`DoSCircuitCreationEnabled`).
    pub circuits: Option<bool>,
    /// Links of an address from which on its circuits are counted (`DoSCircuitCreationMinConnections`).
    pub circuit_links: Option<u32>,
    /// New circuits of an address a second (`DoSCircuitCreationRate`).
    pub circuit_rate: Option<u32>,
    /// New circuits of an address at once (`DoSCircuitCreationBurst`).
    pub circuit_burst: Option<u32>,
    /// How long an address that was faster is refused circuits (`DoSCircuitCreationDefenseTimePeriod`).
    pub circuit_penalty: Option<Span>,
    /// How long a new circuit may have to wait until its handshake is computed (`MaxOnionQueueDelay`).
    pub circuit_wait: Option<Span>,
    /// Whether a circuit may open streams only so fast (`DoSStreamCreationEnabled`).
    pub streams: Option<bool>,
    /// New streams of a circuit a second (`DoSStreamCreationRate`).
    pub stream_rate: Option<u32>,
    /// New streams of a circuit at once (`DoSStreamCreationBurst`).
    pub stream_burst: Option<u32>,
    /// Whether clients without a circuit are refused as a rendezvous point (`DoSRefuseSingleHopClientRendezvous`).
    pub refuse_single_hop_rendezvous: Option<bool>,
}

impl Defence {
    /// By the consensus' names.
    pub fn overrides(&self) -> HashMap<&'static str, i32> {
        let flag = |value: Option<bool>| value.map(i32::from);
        let number = |value: Option<u32>| value.map(|n| i32::try_from(n).unwrap_or(i32::MAX));
        let span = |value: Option<Span>| value.map(|span| i32::try_from(span.as_secs()).unwrap_or(i32::MAX));
        let millis = |value: Option<Span>| value.map(|span| i32::try_from(span.0.as_millis()).unwrap_or(i32::MAX));
        let all = [
            ("DoSConnectionEnabled", flag(self.connections)),
            ("DoSConnectionMaxConcurrentCount", number(self.connection_count)),
            ("DoSConnectionConnectRate", number(self.connection_rate)),
            ("DoSConnectionConnectBurst", number(self.connection_burst)),
            ("DoSConnectionConnectDefenseTimePeriod", span(self.connection_penalty)),
            ("DoSCircuitCreationEnabled", flag(self.circuits)),
            ("DoSCircuitCreationMinConnections", number(self.circuit_links)),
            ("DoSCircuitCreationRate", number(self.circuit_rate)),
            ("DoSCircuitCreationBurst", number(self.circuit_burst)),
            ("DoSCircuitCreationDefenseTimePeriod", span(self.circuit_penalty)),
            ("MaxOnionQueueDelay", millis(self.circuit_wait)),
            ("DoSStreamCreationEnabled", flag(self.streams)),
            ("DoSStreamCreationRate", number(self.stream_rate)),
            ("DoSStreamCreationBurst", number(self.stream_burst)),
            (
                "DoSRefuseSingleHopClientRendezvous",
                flag(self.refuse_single_hop_rendezvous),
            ),
        ];
        all.into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let counts = [
            ("defence.connection_count", self.connection_count),
            ("defence.connection_rate", self.connection_rate),
            ("defence.connection_burst", self.connection_burst),
            ("defence.circuit_links", self.circuit_links),
            ("defence.circuit_rate", self.circuit_rate),
            ("defence.circuit_burst", self.circuit_burst),
            ("defence.stream_rate", self.stream_rate),
            ("defence.stream_burst", self.stream_burst),
        ];
        for (key, value) in counts {
            if value == Some(0) {
                return Err(invalid(key, "is 0", "allow at least 1, or remove the key"));
            }
        }
        let spans = [
            ("defence.connection_penalty", self.connection_penalty),
            ("defence.circuit_penalty", self.circuit_penalty),
        ];
        for (key, value) in spans {
            if let Some(span) = value
                && span < Span::seconds(10)
            {
                return Err(invalid(
                    key,
                    format!("is {span}"),
                    "give at least \"10s\", or remove the key",
                ));
            }
        }
        if self.circuit_wait.is_some_and(|span| span.0.as_millis() == 0) {
            return Err(invalid(
                "defence.circuit_wait",
                "is less than a millisecond",
                "give at least \"1ms\", or remove the key",
            ));
        }
        Ok(())
    }
}
