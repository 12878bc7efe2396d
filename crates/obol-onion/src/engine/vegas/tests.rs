//! The reference's expectations, simulated paths under a clock that jumps, and bounds whatever comes.

use proptest::prelude::*;

use super::*;

const DEFAULTS: fn() -> VegasParameters = VegasParameters::default;

/// One step of C Tor's test_congestion_control.c: sent, confirmed, blocked, in flight, and what is then expected: smoothed
/// round trip, least round trip, window, slow start, full.
type Step = (u64, u64, bool, u32, u64, u64, u32, bool, bool);

fn follow(steps: &[Step]) {
    let parameters = DEFAULTS();
    let mut vegas = Vegas::new(31, &parameters);
    for step in steps {
        let (sent, confirmed, blocked, inflight, smoothed, least, window, slow_start, full) = *step;
        vegas.inflight = inflight;
        // The reference sets the flag by hand, so that it sees no change.
        vegas.blocked = blocked;
        vegas.learn(&parameters, confirmed - sent, blocked);
        let got = (vegas.smoothed, vegas.least, vegas.window, vegas.slow_start, vegas.full);
        assert_eq!(got, (smoothed, least, window, slow_start, full), "after {step:?}");
    }
}

#[test]
fn windows_follow_the_reference_through_slow_start_and_all_thresholds() {
    follow(&[
        (100_000, 200_000, false, 124, 100_000, 100_000, 155, true, false),
        (200_000, 300_000, false, 155, 100_000, 100_000, 186, true, true),
        (350_000, 500_000, false, 186, 133_333, 100_000, 217, true, true),
        (500_000, 550_000, false, 217, 77_777, 77_777, 248, true, true),
        (600_000, 700_000, false, 248, 92_592, 77_777, 279, true, true),
        (700_000, 750_000, false, 279, 64_197, 64_197, 310, true, false),
        (750_000, 875_000, false, 310, 104_732, 64_197, 341, true, true),
        (875_000, 900_000, false, 341, 51_577, 51_577, 372, true, true),
        (900_000, 950_000, false, 279, 50_525, 50_525, 403, true, true),
        (950_000, 1_000_000, false, 279, 50_175, 50_175, 434, true, true),
        (1_000_000, 1_050_000, false, 279, 50_058, 50_058, 465, true, true),
        (1_050_000, 1_100_000, false, 279, 50_019, 50_019, 496, true, true),
        (1_100_000, 1_150_000, false, 279, 50_006, 50_006, 527, true, true),
        (1_150_000, 1_200_000, false, 279, 50_002, 50_002, 558, true, true),
        (1_200_000, 1_250_000, false, 550, 50_000, 50_000, 589, true, true),
        (1_250_000, 1_300_000, false, 550, 50_000, 50_000, 620, true, false),
        (1_300_000, 1_350_000, false, 550, 50_000, 50_000, 635, true, true),
        (1_350_000, 1_400_000, false, 550, 50_000, 50_000, 650, true, true),
        (1_400_000, 1_450_000, false, 150, 50_000, 50_000, 650, true, false),
        (1_450_000, 1_500_000, false, 150, 50_000, 50_000, 650, true, false),
        (1_500_000, 1_550_000, false, 550, 50_000, 50_000, 664, true, true),
        (1_500_000, 1_600_000, false, 550, 83_333, 50_000, 584, false, true),
        (1_600_000, 1_650_000, false, 550, 61_111, 50_000, 585, false, true),
        (1_650_000, 1_700_000, false, 550, 53_703, 50_000, 586, false, true),
        (1_700_000, 1_750_000, false, 100, 51_234, 50_000, 586, false, false),
        (1_750_000, 1_900_000, false, 100, 117_078, 50_000, 559, false, false),
        (1_900_000, 2_000_000, false, 100, 105_692, 50_000, 558, false, false),
        (2_000_000, 2_075_000, false, 500, 85_230, 50_000, 558, false, true),
        (2_075_000, 2_125_000, true, 500, 61_743, 50_000, 557, false, true),
        (2_125_000, 2_150_000, false, 500, 37_247, 37_247, 558, false, true),
        (2_150_000, 2_350_000, false, 500, 145_749, 37_247, 451, false, true),
    ]);
}

#[test]
fn a_full_queue_of_our_own_ends_slow_start_as_in_the_reference() {
    follow(&[
        (100_000, 200_000, false, 124, 100_000, 100_000, 155, true, false),
        (200_000, 300_000, false, 155, 100_000, 100_000, 186, true, true),
        (350_000, 500_000, false, 186, 133_333, 100_000, 217, true, true),
        (500_000, 550_000, true, 217, 77_777, 77_777, 403, false, true),
        (600_000, 700_000, false, 248, 92_592, 77_777, 404, false, true),
        (700_000, 750_000, true, 404, 64_197, 64_197, 403, false, false),
        (750_000, 875_000, false, 403, 104_732, 64_197, 404, false, true),
    ]);
}

#[test]
fn a_window_that_is_not_used_up_does_not_grow_as_in_the_reference() {
    follow(&[
        (18_258_527, 19_002_938, false, 83, 744_411, 744_411, 155, true, false),
        (18_258_580, 19_254_257, false, 52, 911_921, 744_411, 186, true, true),
        (20_003_224, 20_645_298, false, 164, 732_023, 732_023, 217, true, true),
        (20_003_367, 21_021_444, false, 133, 922_725, 732_023, 248, true, true),
        (20_003_845, 21_265_508, false, 102, 1_148_683, 732_023, 279, true, true),
        (20_003_975, 21_429_157, false, 71, 1_333_015, 732_023, 310, true, false),
        (20_004_309, 21_707_677, false, 40, 1_579_917, 732_023, 310, true, false),
    ]);
}

#[test]
fn a_queue_on_the_path_ends_slow_start_as_in_the_reference() {
    follow(&[
        (358_297_091, 358_854_163, false, 83, 557_072, 557_072, 155, true, false),
        (358_297_649, 359_123_845, false, 52, 736_488, 557_072, 186, true, true),
        (359_492_879, 359_995_330, false, 186, 580_463, 557_072, 217, true, true),
        (359_493_043, 360_489_243, false, 217, 857_621, 557_072, 248, true, true),
        (359_493_232, 360_489_673, false, 248, 950_167, 557_072, 279, true, true),
        (359_493_795, 360_489_971, false, 279, 980_839, 557_072, 310, true, false),
        (359_493_918, 360_490_248, false, 310, 991_166, 557_072, 341, true, true),
        (
            359_494_029,
            360_716_465,
            false,
            341,
            1_145_346,
            557_072,
            372,
            true,
            true,
        ),
        (
            359_996_888,
            360_948_867,
            false,
            372,
            1_016_434,
            557_072,
            403,
            true,
            true,
        ),
        (359_996_979, 360_949_330, false, 403, 973_712, 557_072, 434, true, true),
        (360_489_528, 361_113_615, false, 434, 740_628, 557_072, 465, true, true),
        (360_489_656, 361_281_604, false, 465, 774_841, 557_072, 496, true, true),
        (360_489_837, 361_500_461, false, 496, 932_029, 557_072, 482, false, true),
        (360_489_963, 361_500_631, false, 482, 984_455, 557_072, 482, false, true),
        (
            360_490_117,
            361_842_481,
            false,
            482,
            1_229_727,
            557_072,
            481,
            false,
            true,
        ),
    ]);
}

#[test]
fn the_least_round_trip_moves_up_only_at_the_least_window_as_in_the_reference() {
    let parameters = DEFAULTS();
    let mut vegas = Vegas::new(31, &parameters);
    for (took, window, slow_start, smoothed, least) in [
        (100_000, 124, true, 100_000, 100_000),
        (100_000, 124, true, 100_000, 100_000),
        (150_000, 124, true, 133_333, 100_000),
        (50_000, 124, true, 77_777, 77_777),
        (100_000, 124, true, 92_592, 77_777),
        (50_000, 124, true, 64_197, 64_197),
        (125_000, 124, false, 104_732, 104_732),
        (25_000, 124, false, 51_577, 104_732),
        (50_000, 200, false, 50_525, 50_525),
    ] {
        (vegas.window, vegas.slow_start) = (window, slow_start);
        assert!(vegas.measure(&parameters, took));
        assert_eq!((vegas.smoothed, vegas.least), (smoothed, least));
    }
}

#[test]
fn round_trips_that_a_clock_made_up_are_ignored() {
    let parameters = DEFAULTS();
    let mut vegas = Vegas::new(31, &parameters);
    assert!(!vegas.measure(&parameters, 0));
    assert!(vegas.measure(&parameters, 1000));
    vegas.slow_start = false;
    vegas.window = 500;
    assert!(!vegas.measure(&parameters, 5_000_001), "the clock has jumped");
    assert_eq!((vegas.smoothed, vegas.least), (1000, 1000));
    assert!(vegas.measure(&parameters, 5_000_000));
}

/// Cells per second of 100 Mbit/s.
const FAST: u64 = 24_300;

/// A greedy sender, one bottleneck, and a receiver that confirms at once.
struct Path {
    vegas: Vegas,
    now: Time,
    /// When the bottleneck has sent all that it was given.
    free: Time,
    /// When SENDMEs will arrive.
    coming: VecDeque<Time>,
    since: u32,
    rate: u64,
    delay: u64,
}

/// What a path did over some time.
#[derive(Debug)]
struct Seen {
    /// Cells per second.
    rate: u64,
    /// Most cells in the bottleneck's queue.
    queue: u64,
}

impl Path {
    fn new(rate: u64, delay: u64) -> Path {
        Path {
            vegas: Vegas::new(31, &DEFAULTS()),
            now: Time(1_000_000),
            free: Time(0),
            coming: VecDeque::new(),
            since: 0,
            rate,
            delay,
        }
    }

    fn run(&mut self, micros: u64) -> Seen {
        let (start, mut sent, mut queue) = (self.now, 0, 0);
        while self.now < start.plus(micros) {
            for _ in 0..self.vegas.room() {
                self.vegas.queued(self.now, 1);
                // In billionths, so that rates are exact enough.
                self.free = self.free.max(self.now).plus(1_000_000 / self.rate);
                self.since += 1;
                sent += 1;
                if self.since == 31 {
                    self.since = 0;
                    self.coming.push_back(self.free.plus(self.delay));
                }
            }
            queue = queue.max(self.free.since(self.now) * self.rate / 1_000_000);
            let next = self
                .coming
                .pop_front()
                .expect("a full window holds what will be confirmed");
            self.now = self.now.max(next);
            self.vegas.confirmed(&DEFAULTS(), self.now, false);
        }
        Seen {
            rate: sent * 1_000_000 / self.now.since(start),
            queue,
        }
    }
}

#[test]
fn a_long_fat_path_is_filled_without_filling_its_queue() {
    let mut path = Path::new(FAST, 100_000);
    path.run(30_000_000);
    let seen = path.run(10_000_000);
    assert!(seen.rate * 100 >= FAST * 95, "{seen:?} {:?}", path.vegas);
    assert!(seen.queue <= 400, "{seen:?}");
    assert!(!path.vegas.slow_start);
}

#[test]
fn slow_paths_are_filled_at_once_and_their_queues_stay_short() {
    for (rate, delay) in [
        (500, 50_000),
        (500, 500_000),
        (2000, 20_000),
        (2000, 300_000),
        (10_000, 10_000),
    ] {
        let mut path = Path::new(rate, delay);
        path.run(5_000_000);
        let seen = path.run(5_000_000);
        assert!(seen.rate * 100 >= rate * 95, "{rate} {delay}: {seen:?}");
        assert!(seen.queue <= 400, "{rate} {delay}: {seen:?} {:?}", path.vegas);
    }
}

#[test]
fn a_path_that_becomes_slower_and_fast_again_is_followed() {
    let mut path = Path::new(8000, 100_000);
    path.run(20_000_000);
    path.rate = 1000;
    path.run(20_000_000);
    let slow = path.run(5_000_000);
    assert!(slow.rate >= 950 && slow.queue <= 400, "{slow:?}");
    path.rate = 8000;
    path.run(120_000_000);
    let fast = path.run(5_000_000);
    assert!(fast.rate >= 7600 && fast.queue <= 400, "{fast:?} {:?}", path.vegas);
}

#[test]
fn a_path_that_becomes_longer_is_learnt() {
    let mut path = Path::new(2000, 20_000);
    path.run(10_000_000);
    path.delay = 120_000;
    path.run(60_000_000);
    let seen = path.run(10_000_000);
    assert!(seen.rate >= 1000, "{seen:?} {:?}", path.vegas);
    assert!(seen.queue <= 400, "{seen:?}");
}

proptest! {
    #[test]
    fn windows_stay_within_bounds_and_cells_in_flight_are_never_negative(
        low in any::<bool>(),
        increment in 1..=254u8,
        moves in proptest::collection::vec((any::<u32>(), any::<bool>(), 0..600u32), 1..300),
    ) {
        let wild = |name: &str| Some(match (low, name.len() % 3) {
            (_, 0) => i32::MAX,
            (true, _) => i32::MIN,
            (false, _) => 7,
        });
        let parameters = super::super::congestion::Congestion::from_consensus(wild).vegas;
        let mut vegas = Vegas::new(increment, &parameters);
        let (mut now, mut sent, mut confirmed) = (Time(0), 0u64, 0u64);
        for (micros, blocked, cells) in moves {
            now = now.plus(u64::from(micros) * u64::from(micros % 1000));
            let cells = cells.min(vegas.room());
            vegas.queued(now, cells);
            sent += u64::from(cells);
            prop_assert!(vegas.inflight <= vegas.window || confirmed > 0);
            if sent - confirmed >= u64::from(increment) {
                vegas.confirmed(&parameters, now, blocked);
                confirmed += u64::from(increment);
            }
            prop_assert_eq!(u64::from(vegas.inflight), sent - confirmed);
            prop_assert_eq!(vegas.times.len() as u64, sent / u64::from(increment) - confirmed / u64::from(increment));
            let most = parameters.max.max(parameters.min);
            prop_assert!((parameters.min.min(parameters.initial)..=most.max(parameters.initial)).contains(&vegas.window));
        }
    }
}
