//! The consensus' parameters of congestion control and of the streams' flow control (proposal 324, section 6.5).
//!
//! Every value is clamped to what C Tor accepts: a mistaken or hostile vote makes circuits slow at worst.
//!
//! C Tor and arti know three sets of Vegas' thresholds, by where a circuit leads: exits, onion services, bandwidth
//! measurements. Only clients and services can tell; a relay, which is always the far end, uses the first.

macro_rules! parameters {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$d:meta])* $field:ident = $parameter:literal $default:literal in $min:literal to $max:literal,)+
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name {
            $($(#[$d])* #[doc = concat!(" (`", $parameter, "`).")] pub $field: u32,)+
        }

        impl $name {
            fn read(parameter: &impl Fn(&str) -> Option<i32>) -> Self {
                $name { $($field: parameter($parameter).unwrap_or($default).clamp($min, $max) as u32,)+ }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $default,)+ }
            }
        }
    };
}

parameters! {
    /// What Vegas goes by. Windows and queues in cells.
    VegasParameters {
        /// The window to begin with
        initial = "cc_cwnd_init" 124 in 31 to 10_000,
        /// The least window
        min = "cc_cwnd_min" 124 in 31 to 1000,
        /// The largest window
        max = "cc_cwnd_max" 2_147_483_647 in 500 to 2_147_483_647,
        /// How much the window changes at once in steady state
        step = "cc_cwnd_inc" 1 in 1 to 1000,
        /// How often it may change, in increments of a SENDME for each window
        step_rate = "cc_cwnd_inc_rate" 31 in 1 to 250,
        /// Slow start: growth for each SENDME, in hundredths of its increment
        slow_start_percent = "cc_cwnd_inc_pct_ss" 100 in 1 to 500,
        /// Slow start ends at this window
        slow_start_max = "cc_ss_max" 5000 in 500 to 2_147_483_647,
        /// Slow start grows more slowly from this window on
        slow_start_cap = "cc_sscap_exit" 600 in 100 to 2_147_483_647,
        /// A queue below this: the window grows
        alpha = "cc_vegas_alpha_exit" 186 in 0 to 1000,
        /// A queue above this: the window shrinks
        beta = "cc_vegas_beta_exit" 248 in 0 to 1000,
        /// A queue of this length ends slow start
        gamma = "cc_vegas_gamma_exit" 186 in 0 to 1000,
        /// A queue above this: the window is cut back to it at once
        delta = "cc_vegas_delta_exit" 310 in 0 to 1000,
        /// A window counts as full while at most so many SENDME increments are missing
        full_gap = "cc_cwnd_full_gap" 4 in 0 to 32_767,
        /// It is no longer full once less than this percentage is in use
        full_min_percent = "cc_cwnd_full_minpct" 25 in 0 to 100,
        /// Whether it has to become full again once a window (1), or once an update (0)
        full_per_window = "cc_cwnd_full_per_cwnd" 1 in 0 to 1,
        /// Smoothing of the round trip: N, as a percentage of the SENDMEs between updates
        smooth_percent = "cc_ewma_cwnd_pct" 50 in 1 to 255,
        /// Smoothing of the round trip: the largest N
        smooth_max = "cc_ewma_max" 10 in 2 to 2_147_483_647,
        /// Smoothing of the round trip in slow start: N
        smooth_slow_start = "cc_ewma_ss" 2 in 2 to 2_147_483_647,
        /// At the least window, how far the least round trip moves to the present one, percent
        reset_percent = "cc_rtt_reset_pct" 100 in 0 to 100,
    }
}

parameters! {
    /// When an exit tells a client to pause a stream, and at which rate to go on. In cells.
    FlowParameters {
        /// A stream is paused when its target has not taken so many cells
        xoff = "cc_xoff_exit" 500 in 1 to 10_000,
        /// So many cells make a measurement of the target's rate, and separate two advices
        xon_rate = "cc_xon_rate" 500 in 1 to 5000,
        /// The rate must have changed by this percentage to be told again
        xon_change_percent = "cc_xon_change_pct" 25 in 1 to 99,
        /// Smoothing of the rate: N
        xon_smooth = "cc_xon_ewma_cnt" 2 in 2 to 100,
    }
}

/// Congestion control as the consensus wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Congestion {
    /// Whether clients that ask for it get it (`cc_alg` is 2). Circuits that have it keep it.
    pub enabled: bool,
    /// DATA cells per SENDME of new circuits (`cc_sendme_inc`). Clients refuse what differs by more than one from theirs.
    pub increment: u8,
    /// The window.
    pub vegas: VegasParameters,
    /// The streams.
    pub flow: FlowParameters,
}

impl Congestion {
    /// Reads the parameters of a consensus, which `parameter` looks up by name.
    pub fn from_consensus(parameter: impl Fn(&str) -> Option<i32>) -> Congestion {
        Congestion {
            enabled: parameter("cc_alg").unwrap_or(2) == 2,
            increment: parameter("cc_sendme_inc").unwrap_or(31).clamp(1, 254) as u8,
            vegas: VegasParameters::read(&parameter),
            flow: FlowParameters::read(&parameter),
        }
    }

    /// Fixed windows only: what a relay without a consensus does.
    pub fn disabled() -> Congestion {
        Congestion {
            enabled: false,
            ..Congestion::from_consensus(|_| None)
        }
    }

    /// What a new circuit is offered: the SENDME increment.
    pub(crate) fn offer(&self) -> Option<u8> {
        self.enabled.then_some(self.increment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consensus_that_says_nothing_means_c_tors_defaults() {
        let silent = Congestion::from_consensus(|_| None);
        assert!(silent.enabled);
        assert_eq!(silent.increment, 31);
        assert_eq!(silent.vegas, VegasParameters::default());
        assert_eq!(silent.flow, FlowParameters::default());
        assert_eq!(Congestion::disabled().offer(), None);
    }

    #[test]
    fn only_algorithm_two_is_congestion_control() {
        for (algorithm, enabled) in [(0, false), (1, false), (2, true), (3, false), (-1, false)] {
            let read = Congestion::from_consensus(|name| (name == "cc_alg").then_some(algorithm));
            assert_eq!(read.enabled, enabled, "{algorithm}");
        }
    }

    #[test]
    fn absurd_votes_are_clamped() {
        let low = Congestion::from_consensus(|_| Some(i32::MIN));
        let high = Congestion::from_consensus(|_| Some(i32::MAX));
        assert_eq!((low.increment, high.increment), (1, 254));
        assert_eq!((low.vegas.min, high.vegas.min), (31, 1000));
        assert_eq!((low.vegas.max, high.vegas.max), (500, 2_147_483_647));
        assert_eq!((low.vegas.initial, high.vegas.initial), (31, 10_000));
        assert_eq!((low.flow.xoff, high.flow.xoff), (1, 10_000));
        assert_eq!((low.flow.xon_smooth, high.flow.xon_smooth), (2, 100));
    }
}
