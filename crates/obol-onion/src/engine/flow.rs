//! Flow control of streams on circuits with congestion control: XOFF and XON instead of stream windows (proposal 324,
//! section 4).
//!
//! | who does not take data | who tells | here |
//! |---|---|---|
//! | our target | we send XOFF, and XON with the target's rate when it has taken everything | [`Uptake`] |
//! | the client's application | the client sends XOFF, and XON with a rate | [`Permit`] |
//!
//! Clients close circuits for an XOFF or XON that the bytes they sent do not explain (arti) or discount it (C Tor): so an
//! XOFF is sent only with more than `cc_xoff_exit` cells' worth waiting, the next one only after all of that was taken,
//! and an advice without an XOFF before it only every `cc_xon_rate` cells.

use super::congestion::FlowParameters;
use super::ids::Time;
use super::rate::Bucket;

/// Bytes of a cell in `cc_xoff_exit`: what the longest relay header leaves.
const XOFF_CELL: u64 = 488;
/// Bytes of a cell in `cc_xon_rate`.
const XON_CELL: u64 = 498;
/// More than this waits only if the target, not the circuit, is the slower one: a burst of cells.
const BURST: u64 = 32 * XON_CELL;
/// A queue must have been too long for so many microseconds: bursts pass faster.
const GRACE: u64 = 5000;
/// Rates beyond this are none.
const RATE_MAX: u64 = i32::MAX as u64;

/// How well a stream's target takes what the client sends. Rates are in kilobytes (1000) per second.
///
/// The rate is measured from one moment at which the target has taken something and left something to another: so a stall
/// does not count as slowness once it is over, and the client is not held to it.
#[derive(Debug, Default)]
pub(crate) struct Uptake {
    /// We have sent XOFF, and no XON since.
    paused: bool,
    /// Since when too much has waited.
    too_long: Option<Time>,
    /// Since when the target, which has left something, is measured.
    busy: Option<Time>,
    /// Bytes taken since then; or, while the target keeps up, since it does.
    taken: u64,
    /// Bytes taken since the last advice.
    since_advice: u64,
    /// The smoothed rate; 0: not known.
    rate: u64,
    /// The rate that the client was told; 0: none.
    told: u64,
}

impl Uptake {
    /// Bytes came for the target, and `waiting` wait for it now. True: XOFF is to be sent.
    #[inline]
    pub(crate) fn arrived(&mut self, parameters: &FlowParameters, now: Time, waiting: u64) -> bool {
        if self.paused || waiting <= u64::from(parameters.xoff) * XOFF_CELL {
            return false;
        }
        let since = *self.too_long.get_or_insert(now);
        if now.since(since) < GRACE {
            return false;
        }
        self.paused = true;
        self.too_long = None;
        // Whatever it was, it was too fast.
        self.rate = 0;
        self.busy = None;
        self.taken = 0;
        true
    }

    /// The target has taken `bytes`, and `waiting` are left. `Some`: XON is to be sent with this rate; 0: without limit.
    pub(crate) fn taken(&mut self, parameters: &FlowParameters, now: Time, bytes: u64, waiting: u64) -> Option<u32> {
        let measured = u64::from(parameters.xon_rate) * XON_CELL;
        self.taken = self.taken.saturating_add(bytes);
        self.since_advice = self.since_advice.saturating_add(bytes);
        if waiting <= u64::from(parameters.xoff) * XOFF_CELL {
            self.too_long = None;
        }
        match self.busy {
            Some(since) => {
                let enough = self.taken >= measured || self.paused && waiting == 0 && self.taken >= measured / 4;
                if enough {
                    self.measure(parameters, now.since(since));
                }
                if enough || waiting == 0 {
                    self.busy = (waiting > BURST).then_some(now);
                    self.taken = 0;
                }
            }
            None if waiting > BURST => {
                self.busy = Some(now);
                self.taken = 0;
            }
            None if self.taken >= measured => {
                // It has kept up all the time: it may well be faster than we know.
                self.rate = (2 * self.rate).min(RATE_MAX / 1000);
                self.taken = 0;
            }
            None => {}
        }
        let due = if self.paused {
            waiting == 0
        } else {
            self.told > 0 && self.since_advice >= measured && self.has_changed(parameters)
        };
        if !due {
            return None;
        }
        self.paused = false;
        self.since_advice = 0;
        self.told = self.rate;
        u32::try_from(self.rate).ok()
    }

    /// The target took `self.taken` bytes in so many microseconds, with more to be taken all the time.
    fn measure(&mut self, parameters: &FlowParameters, micros: u64) {
        let rate = (self.taken.saturating_mul(1000) / micros.max(1)).clamp(1, RATE_MAX / 1000);
        let n = u64::from(parameters.xon_smooth);
        self.rate = match self.rate {
            0 => rate,
            before => (2 * rate + (n - 1) * before) / (n + 1),
        };
    }

    fn has_changed(&self, parameters: &FlowParameters) -> bool {
        let percent = u64::from(parameters.xon_change_percent);
        let rate = self.rate * 100;
        rate > self.told * (100 + percent) || rate < self.told * (100 - percent)
    }
}

/// What the client lets us send on a stream.
#[derive(Debug, Default)]
pub(crate) struct Permit {
    /// The client has sent XOFF, and no XON since.
    paused: bool,
    /// The rate of its last XON.
    rate: Option<Bucket>,
}

impl Permit {
    /// XOFF came. False: it was in force already.
    pub(crate) fn pause(&mut self) -> bool {
        !core::mem::replace(&mut self.paused, true)
    }

    /// XON came with a rate in kilobytes (1000) per second; 0: without limit.
    pub(crate) fn resume(&mut self, now: Time, kilobytes: u32) {
        self.paused = false;
        let rate = u64::from(kilobytes) * 1000;
        self.rate = (rate > 0 && rate <= RATE_MAX).then(|| {
            let mut bucket = Bucket::new(rate);
            // The time before is no reason for a burst now.
            bucket.available(now);
            bucket
        });
    }

    /// Bytes that may be sent now.
    #[inline]
    pub(crate) fn bytes(&mut self, now: Time) -> usize {
        match &mut self.rate {
            _ if self.paused => 0,
            None => usize::MAX,
            Some(bucket) => usize::try_from(bucket.available(now)).unwrap_or(usize::MAX),
        }
    }

    /// Bytes were sent.
    #[inline]
    pub(crate) fn sent(&mut self, bytes: usize) {
        if let Some(bucket) = &mut self.rate {
            bucket.spend(bytes as u64);
        }
    }

    /// When `bytes` may be sent, if time alone brings that.
    pub(crate) fn ready_at(&self, bytes: usize) -> Option<Time> {
        match &self.rate {
            Some(bucket) if !self.paused => Some(bucket.ready_at(bytes as u64)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: u64 = 500 * 488;

    fn defaults() -> FlowParameters {
        FlowParameters::default()
    }

    #[test]
    fn a_burst_that_the_target_takes_within_the_grace_pauses_nothing() {
        let mut uptake = Uptake::default();
        assert!(!uptake.arrived(&defaults(), Time(0), LIMIT + 1));
        assert!(!uptake.arrived(&defaults(), Time(GRACE - 1), LIMIT + 500));
        assert_eq!(uptake.taken(&defaults(), Time(GRACE - 1), LIMIT, 500), None);
        assert!(!uptake.arrived(&defaults(), Time(GRACE + 1), LIMIT + 1), "a new one");
    }

    #[test]
    fn a_target_that_stalls_pauses_its_stream_once_and_resumes_it_when_all_is_taken_with_its_rate() {
        let mut uptake = Uptake::default();
        assert!(!uptake.arrived(&defaults(), Time(0), LIMIT));
        assert!(!uptake.arrived(&defaults(), Time(1), LIMIT + 1));
        assert!(uptake.arrived(&defaults(), Time(1 + GRACE), LIMIT + 2));
        assert!(!uptake.arrived(&defaults(), Time(2 + GRACE), 2 * LIMIT), "once");
        // A stall, then 100 kB/s.
        assert_eq!(
            uptake.taken(&defaults(), Time(60_000_000), 20_000, LIMIT - 20_000),
            None
        );
        assert_eq!(
            uptake.taken(&defaults(), Time(61_000_000), 100_000, LIMIT - 120_000),
            None
        );
        let rate = uptake.taken(&defaults(), Time(62_240_000), LIMIT - 120_000, 0);
        assert_eq!(rate, Some(100));
        assert_eq!(uptake.taken(&defaults(), Time(62_240_000), 0, 0), None, "once");
    }

    #[test]
    fn a_target_that_takes_all_at_once_after_a_stall_is_not_limited() {
        let mut uptake = Uptake::default();
        uptake.arrived(&defaults(), Time(0), LIMIT + 1);
        assert!(uptake.arrived(&defaults(), Time(GRACE), LIMIT + 1));
        assert_eq!(uptake.taken(&defaults(), Time(60_000_000), LIMIT + 1, 0), Some(0));
        for n in 1..100 {
            uptake.arrived(&defaults(), Time(60_000_000 + n), 50_000);
            assert_eq!(
                uptake.taken(&defaults(), Time(60_000_000 + n), 50_000, 0),
                None,
                "no advice"
            );
        }
    }

    #[test]
    fn a_rate_that_was_told_is_raised_while_the_target_keeps_up() {
        let mut uptake = Uptake::default();
        uptake.arrived(&defaults(), Time(0), LIMIT + 1);
        assert!(uptake.arrived(&defaults(), Time(GRACE), LIMIT + 1));
        assert_eq!(uptake.taken(&defaults(), Time(1_000_000), 1, LIMIT), None);
        assert_eq!(uptake.taken(&defaults(), Time(2_000_000), LIMIT, 0), Some(244));
        let measured = 500 * 498;
        let mut rates = Vec::new();
        for n in 1..=30u64 {
            uptake.arrived(&defaults(), Time(2_000_000 + n), 498);
            rates.extend(uptake.taken(&defaults(), Time(2_000_000 + n), measured / 10, 0));
        }
        assert_eq!(rates, [488, 976, 1952]);
    }

    #[test]
    fn a_paused_stream_sends_nothing_and_a_rate_is_kept() {
        let mut permit = Permit::default();
        assert_eq!(permit.bytes(Time(5)), usize::MAX);
        assert!(permit.pause());
        assert!(!permit.pause());
        assert_eq!((permit.bytes(Time(5)), permit.ready_at(1)), (0, None));
        permit.resume(Time(5), 1000);
        let (mut sent, mut now) = (0, Time(5));
        while now < Time(10_000_005) {
            let bytes = permit.bytes(now);
            permit.sent(bytes);
            sent += bytes;
            now = permit.ready_at(498).unwrap();
        }
        assert!((9_900_000..10_100_000).contains(&sent), "{sent}");
        for unlimited in [0, u32::MAX, 2_147_484] {
            permit.resume(now, unlimited);
            assert_eq!((permit.bytes(now), permit.ready_at(1)), (usize::MAX, None));
        }
        permit.resume(now, 2_147_483);
        assert!(permit.bytes(now) < usize::MAX);
    }

    proptest! {
        /// What arti closes circuits for, with its own (more tolerant) thresholds halved away: each XOFF and each advice
        /// must be explained by what the client has sent.
        #[test]
        fn no_client_has_reason_to_complain(
            xoff in 1..2000u32,
            xon_rate in 1..2000u32,
            moves in proptest::collection::vec((0..2_000_000u64, 0..300_000u64, 0..400_000u64), 1..300),
        ) {
            let parameters = FlowParameters { xoff, xon_rate, ..defaults() };
            let (mut uptake, mut now, mut waiting, mut sent) = (Uptake::default(), Time(0), 0u64, 0u64);
            let (mut xoffs, mut advices, mut paused) = (0u64, 0u64, false);
            for (micros, come, take) in moves {
                for cell in 0..come.div_ceil(498) {
                    let bytes = 498.min(come - cell * 498);
                    sent += bytes;
                    waiting += bytes;
                    if uptake.arrived(&parameters, now, waiting) {
                        prop_assert!(!paused, "two XOFFs in a row");
                        (paused, xoffs) = (true, xoffs + 1);
                        prop_assert!(xoffs * u64::from(xoff) * 488 <= sent, "too many XOFFs");
                    }
                    now = now.plus(micros / 1000);
                }
                now = now.plus(micros);
                let take = take.min(waiting);
                waiting -= take;
                if take > 0 && uptake.taken(&parameters, now, take, waiting).is_some() {
                    if !paused {
                        advices += 1;
                        prop_assert!(xoffs > 0 && advices * u64::from(xon_rate) * 498 <= sent, "too many advices");
                    }
                    paused = false;
                }
                prop_assert!(!paused || waiting > 0, "paused for ever");
            }
        }
    }
}
